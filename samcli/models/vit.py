"""SAM's encoders ViT-B, L and H: plain ViT, windowed attention, four global blocks (SAM, appendix A)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import Linear, by_rows, has_onednn, linear
from samcli.models.mask_decoder import LayerNorm2d
from samcli.models.sam import ImageFeatures

BIAS_ELEMENTS = 1 << 24  # the most attention bias held at once: 64 MiB in fp32, one head of a global block
CPU_ROWS = 16  # of tokens that go through an MLP together on a CPU: 1024 by 3072 activations are 12 MiB
CPU_QUERY_ROWS = 4  # of queries that attend globally together on a CPU: 256 by 4096 logits are 4 MiB


class ImageEncoderViT(nn.Module):
    """(B, 3, S, S) normalised images to (B, out_chans, S / patch_size, S / patch_size)."""

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_attn_indexes: Collection[int],
        img_size: int = 1024,
        patch_size: int = 16,
        window_size: int = 14,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, None if i in global_attn_indexes else window_size, grid)
            for i in range(depth)
        )
        self.neck = neck(embed_dim, out_chans)

    def forward(self, images: Tensor) -> ImageFeatures:
        """images: (B, 3, S, S) from `Sam.preprocess`."""
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return ImageFeatures(self.neck(x.permute(0, 3, 1, 2)))


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, h, w, C)."""
        patches: Tensor = self.proj(images)
        return patches.permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block; `window` None attends over the whole grid.

    All but global attention is local to a row of windows.
    """

    def __init__(self, dim: int, num_heads: int, window: int | None, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C)."""
        if self.window is None:
            x = x + self.attn(self.norm1(x))
        return by_rows(self._local, x, self.window or CPU_ROWS)

    def _local(self, x: Tensor) -> Tensor:
        """What goes on within a row of windows: (B, rows, w, C) in and out."""
        if self.window is not None:
            x = x + self.attn(self.norm1(x), self.window)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Self-attention with decomposed relative positions (MViTv2, section 4.1).

    The logit of a query and a key dy rows and dx columns away is q . k / sqrt(d) + q . Rh[dy] + q . Rw[dx].
    """

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """x: (B, h, w, C), any h and w. With `window` only within windows of that side.

        The last windows are filled up with zeros, whose queries, keys and values are the bias; they are
        attended to like tokens.
        """
        if window is None:
            qkv = self.qkv(x)
        else:
            qkv = split_windows(linear(x, self.qkv.weight), window) + self.qkv.bias
        h, w = qkv.shape[1:3]
        q, k, v = qkv.reshape(len(qkv), h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (h, w))
        rows = relative_positions(grid, self.rel_pos_h, 2)
        columns = relative_positions(grid, self.rel_pos_w, 3)
        attend = _attend_in_cache if window is None and has_onednn(q) else _attend
        y = attend(q, k, v, rows, columns).transpose(1, 2).reshape(len(qkv), h, w, -1)
        if window is not None:
            y = join_windows(y, window, (x.shape[1], x.shape[2]))
        projected: Tensor = self.proj(y)
        return projected


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """q, k, v: (B, heads, h * w, d); rows: (B, heads, h, w, h) and columns: (B, heads, h, w, w), the logits'
    positional parts. Returns (B, heads, h * w, d). The bias is made for a few heads at a time.
    """
    step = max(1, BIAS_ELEMENTS // (len(q) * q.shape[2] ** 2))
    out = []
    for i in range(0, q.shape[1], step):
        some = slice(i, i + step)
        bias = rows[:, some, :, :, :, None] + columns[:, some, :, :, None, :]
        bias = bias.reshape(len(q), -1, q.shape[2], q.shape[2])
        out.append(F.scaled_dot_product_attention(q[:, some], k[:, some], v[:, some], attn_mask=bias))
    return torch.cat(out, 1)


def _attend_in_cache(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same for a CPU, where SDPA would have the whole bias made in memory: logits of a few rows of
    queries at a time.
    """
    h, w = rows.shape[2:4]
    out = torch.empty_like(v)
    scaled = q * q.shape[-1] ** -0.5
    for one in np.ndindex(*q.shape[:2]):
        keys, values = k[one].contiguous(), v[one].T.contiguous()
        for y in range(0, h, CPU_QUERY_ROWS):
            some = slice(y * w, (y + CPU_QUERY_ROWS) * w)
            logits = linear(scaled[one][some], keys)
            grid = logits.view(-1, w, h, w)
            grid += rows[one][y : y + CPU_QUERY_ROWS, :, :, None]
            grid += columns[one][y : y + CPU_QUERY_ROWS, :, None]
            out[one][some] = linear(logits.softmax(-1), values)
    return out


class MLPBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = Linear(dim, hidden)
        self.lin2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(self.lin1(x, "gelu"))
        return out


def neck(dim: int, out_chans: int) -> nn.Sequential:
    """SAM's neck, (B, dim, h, w) to (B, out_chans, h, w): 1x1 and 3x3 convolutions, each normalised."""
    return nn.Sequential(
        nn.Conv2d(dim, out_chans, 1, bias=False),
        LayerNorm2d(out_chans),
        nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
        LayerNorm2d(out_chans),
    )


def relative_positions(q: Tensor, table: Tensor, axis: int) -> Tensor:
    """The products of queries with the positions, relative to them, of all keys along an axis.

    q: (B, heads, h, w, d). table: (L, d), a row per distance, resized to 2 * size - 1, size being h for axis
    2 and w for axis 3. Returns (B, heads, h, w, size).
    """
    size = q.shape[axis]
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    products = linear(q, table.flip(0)).contiguous()  # with every distance key - query, from 1 - size on
    strides = list(products.stride())
    strides[axis] -= 1  # one query further on, the same key is one distance nearer
    return products.as_strided((*q.shape[:4], size), strides, size - 1)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, h, w, C) to (B * windows, window, window, C), zeros filled in right and at the bottom."""
    batch, h, w, channels = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    x = x.reshape(batch, x.shape[1] // window, window, x.shape[2] // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels)


def join_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `split_windows`: (B * windows, window, window, C) to (B, *size, C)."""
    h, w = size
    rows, columns = -(-h // window), -(-w // window)
    x = x.reshape(-1, rows, columns, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, x.shape[-1])[:, :h, :w]
