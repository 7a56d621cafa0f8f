"""SAM's encoders ViT-B, L and H: plain ViT, windowed attention, four global blocks (SAM, appendix A)."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.mask_decoder import LayerNorm2d
from samcli.models.sam import ImageFeatures

BIAS_ELEMENTS = 1 << 24  # the most attention bias held at once: 64 MiB in fp32, one head of a global block


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
    """Pre-norm transformer block; `window` None attends over the whole grid."""

    def __init__(self, dim: int, num_heads: int, window: int | None, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). The last windows are filled up with zeros after norm1, attended to like tokens."""
        h, w = x.shape[1:3]
        y = self.norm1(x)
        if self.window is None:
            y = self.attn(y)
        else:
            y = join_windows(self.attn(split_windows(y, self.window)), self.window, (h, w))
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Self-attention with decomposed relative positions (MViTv2, section 4.1).

    The logit of a query and a key dy rows and dx columns away is q . k / sqrt(d) + q . Rh[dy] + q . Rw[dx].
    """

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C), any h and w. The bias is made for a few heads at a time."""
        batch, h, w, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (h, w))  # (B, heads, h, w, d)
        rows = torch.einsum("bnhwd,hkd->bnhwk", grid, relative_positions(self.rel_pos_h, h))
        columns = torch.einsum("bnhwd,wkd->bnhwk", grid, relative_positions(self.rel_pos_w, w))
        step = max(1, BIAS_ELEMENTS // (batch * (h * w) ** 2))
        out = []
        for i in range(0, self.num_heads, step):
            some = slice(i, i + step)
            bias = rows[:, some, :, :, :, None] + columns[:, some, :, :, None, :]
            bias = bias.reshape(batch, -1, h * w, h * w)
            out.append(F.scaled_dot_product_attention(q[:, some], k[:, some], v[:, some], attn_mask=bias))
        projected: Tensor = self.proj(torch.cat(out, 1).transpose(1, 2).reshape(batch, h, w, -1))
        return projected


class MLPBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return out


def neck(dim: int, out_chans: int) -> nn.Sequential:
    """SAM's neck, (B, dim, h, w) to (B, out_chans, h, w): 1x1 and 3x3 convolutions, each normalised."""
    return nn.Sequential(
        nn.Conv2d(dim, out_chans, 1, bias=False),
        LayerNorm2d(out_chans),
        nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
        LayerNorm2d(out_chans),
    )


def relative_positions(table: Tensor, size: int) -> Tensor:
    """table: (L, d), a row per distance, resized to 2 * size - 1. Returns (size, size, d), [query, key]."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    at = torch.arange(size, device=table.device)
    return table[at[:, None] - at + size - 1]


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
