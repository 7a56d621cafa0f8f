"""MobileSAM's image encoder: TinyViT-5M at 1024 px, its last merging without stride, with SAM's neck.

Sources: TinyViT (Wu et al. 2022, section 3 and table A), MobileSAM (Zhang et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import ConvBN, Linear, by_rows, has_onednn, linear
from samcli.models.sam import ImageFeatures
from samcli.models.vit import join_windows, neck, split_windows

# Rows of cells that go through a layer together on a CPU: whole windows, and at most 8 MiB of activations.
CPU_ROWS = 28


class TinyViT(nn.Module):
    """(B, 3, S, S) normalised images to (B, out_chans, S / 16, S / 16).

    `norm_head` and `head` are the classifier the encoder came from: in the published file, used by nothing.
    """

    def __init__(
        self,
        *,
        img_size: int = 1024,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        window_sizes: Sequence[int] = (7, 7, 14, 7),
        num_classes: int = 1000,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(embed_dims[0])
        strides = (2, 2, 1)  # of the mergings between the stages: 256 -> 128 -> 64 -> 64 cells at 1024 px
        self.layers = nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            blocks = [
                MBConv(dim, 4 * dim) if i == 0 else Block(dim, num_heads[i], window_sizes[i])
                for _ in range(depths[i])
            ]
            merging = PatchMerging(dim, embed_dims[i + 1], strides[i]) if i < len(strides) else None
            self.layers.append(Stage(blocks, merging))
        self.norm_head = nn.LayerNorm(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.neck = neck(embed_dims[-1], out_chans)

    def forward(self, images: Tensor) -> ImageFeatures:
        """images: (B, 3, S, S) from `Sam.preprocess`."""
        x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))  # a sixth faster on a CPU
        for stage in self.layers:
            x = stage(x)
        return ImageFeatures(self.neck(x))


conv_bn = partial(ConvBN, names=("c", "bn"))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        between = nn.Identity()  # the number of the GELU in the published file's names
        self.seq = nn.Sequential(
            conv_bn(3, dim // 2, 3, 2, activation="gelu"), between, conv_bn(dim // 2, dim, 3, 2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, dim, S / 4, S / 4)."""
        x: Tensor = self.seq(images)
        return x


class Stage(nn.Module):
    """Blocks at one resolution, then the merging into the next: (B, C, h, w) in and out."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class MBConv(nn.Module):
    """Inverted bottleneck with a residual, GELU after the sum. (B, C, h, w) in and out."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(dim, hidden, activation="gelu")
        self.conv2 = conv_bn(hidden, hidden, 3, groups=hidden, activation="gelu")
        self.conv3 = conv_bn(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return in_bands(self._forward, x) if has_onednn(x) and not self.training else self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(self.conv2(self.conv1(x))))


def in_bands(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), a few rows at a time, so that what f makes on the way stays in a CPU's cache.

    x: (B, C, h, w). f: keeps the size; a row of its output depends on that row and its neighbours.
    """
    bands = []
    for y in range(0, x.shape[2], CPU_ROWS):
        above = min(y, 1)  # rows: f mistakes the edges of a band for the image's, so they are cut off
        band = f(x[:, :, y - above : y + CPU_ROWS + 1])
        bands.append(band[:, :, above : above + CPU_ROWS])
    return torch.cat(bands, 2)


class PatchMerging(nn.Module):
    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(dim, out_dim, activation="gelu")
        self.conv2 = conv_bn(out_dim, out_dim, 3, stride, groups=out_dim, activation="gelu")
        self.conv3 = conv_bn(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, w) to (B, out_dim, h / stride, w / stride)."""
        y: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return y


class Block(nn.Module):
    """Windowed attention, a depthwise 3x3 convolution without residual, MLP. (B, C, h, w) in and out."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, window)
        self.local_conv = conv_bn(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        window = self.attn.window
        x = by_rows(lambda band: band + self.attn(band), x, max(1, CPU_ROWS // window) * window)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = by_rows(lambda band: band + self.mlp(band), x, CPU_ROWS)
        return x.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention within windows, one learnt bias per head and absolute distance (|dy|, |dx|).

    The last windows are filled up with zeros before the norm, which makes them its bias; they are attended
    to. The biases per distance are looked up anew on every call (at most 0.4 million numbers): no cache to
    grow stale.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). What all cells and the filling have in common is added last."""
        scaled = F.layer_norm(x, x.shape[-1:], self.norm.weight, None, self.norm.eps)
        windows = split_windows(linear(scaled, self.qkv.weight), self.window) + self.qkv(self.norm.bias)
        qkv = windows.reshape(len(windows), self.window**2, self.num_heads, 3, -1)  # each head's q, k, v
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(self.window))
        y = y.transpose(1, 2).reshape(*windows.shape[:3], -1)
        projected: Tensor = self.proj(join_windows(y, self.window, (x.shape[1], x.shape[2])))
        return projected

    def _bias(self, side: int) -> Tensor:
        """(1, heads, s * s, s * s), [any window, head, query, key], cells row by row."""
        at = torch.arange(side, device=self.attention_biases.device)
        distance = (at[:, None] - at).abs()
        table = self.attention_biases.view(-1, side, side)  # (heads, |dy|, |dx|)
        bias = table[:, distance][..., distance]  # (heads, qy, ky, qx, kx)
        return bias.transpose(2, 3).reshape(1, self.num_heads, side**2, side**2)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(self.norm(x), "gelu"))
        return out
