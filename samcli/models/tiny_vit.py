"""MobileSAM's image encoder: TinyViT-5M at 1024 px, its last merging without stride, with SAM's neck.

Sources: TinyViT (Wu et al. 2022, section 3 and table A), MobileSAM (Zhang et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.sam import ImageFeatures
from samcli.models.vit import join_windows, neck, split_windows


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


class ConvBN(nn.Sequential):
    """Convolution `c` without bias and batch normalisation `bn`."""

    def __init__(self, a: int, b: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(b)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, dim // 2, 3, 2), nn.GELU(), ConvBN(dim // 2, dim, 3, 2))

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
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, w) to (B, out_dim, h / stride, w / stride)."""
        y: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return y


class Block(nn.Module):
    """Windowed attention, a depthwise 3x3 convolution without residual, MLP. (B, C, h, w) in and out."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, window)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        windows = self.attn(split_windows(x, self.window))
        x = x + join_windows(windows, self.window, (x.shape[1], x.shape[2]))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.mlp(x)
        return x.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention within a window, one learnt bias per head and absolute distance (|dy|, |dx|).

    The norm stands inside, so the zeros that fill up the last windows become its bias, and are attended to.
    The biases are looked up anew on every call (at most 0.4 million numbers): no cache to grow stale.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """x: (windows, s, s, C) with s the window's side."""
        batch, side = x.shape[:2]
        qkv = self.qkv(self.norm(x)).reshape(batch, side**2, self.num_heads, 3, -1)  # each head's q, k, v
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(side))
        projected: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
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
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out
