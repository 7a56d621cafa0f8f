"""Our own small Sam, the architecture of the embedded model `tiny`.

A convolutional encoder with a few global-attention blocks at stride 16 and finer maps for the decoder, a
narrow decoder, and a prompt encoder that also draws the prompt as dense maps: with few parameters a click
is learned sooner as a place in the picture than as a token. No parameter depends on the input size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import ConvBN, Linear
from samcli.models.mask_decoder import LayerNorm2d, MaskDecoder
from samcli.models.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, TOP_LEFT, PromptEncoder
from samcli.models.sam import ImageFeatures, Sam
from samcli.models.transformer import TwoWayTransformer

STRIDE = 16
TINY_SIDE = 320  # pixels; input side of the embedded model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3, activation="relu")
        self.conv2 = ConvBN(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(self.conv1(x)))


class InvertedResidual(nn.Module):
    """Widen, mix in space channel by channel, narrow, with a residual."""

    def __init__(self, channels: int, expand: int = 4) -> None:
        super().__init__()
        wide = channels * expand
        self.widen = ConvBN(channels, wide, activation="relu")
        self.mix = ConvBN(wide, wide, 3, groups=wide, activation="relu")
        self.narrow = ConvBN(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.narrow(self.mix(self.widen(x)))
        return out


class GlobalBlock(nn.Module):
    """Pre-norm self-attention over all cells and an MLP; positions come from a depthwise convolution."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.lin1 = Linear(channels, 4 * channels)
        self.lin2 = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns the same shape."""
        h, w = x.shape[-2:]
        tokens = (x + self.position(x)).flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        tokens = tokens + self.proj(mixed)
        tokens = tokens + self.lin2(self.lin1(self.norm2(tokens), "relu"))
        out: Tensor = tokens.transpose(1, 2).unflatten(-1, (h, w))
        return out


class SmallFeatures(NamedTuple):
    """An image's features as `models.sam.ImageFeatures` has them, and the backbone's at strides 8 and 16."""

    embedding: Tensor
    high_res: tuple[Tensor, ...]
    stage8: Tensor
    stage16: Tensor


class SmallEncoder(nn.Module):
    """Convolutions at strides 2 to 16, global attention at 16, a top-down path back to 8 and 4."""

    def __init__(
        self,
        out_channels: int,
        *,
        widths: tuple[int, int, int, int] = (24, 40, 80, 192),
        depths: tuple[int, int, int, int] = (1, 3, 4, 3),
        high_res_channels: tuple[int, int] = (80, 40),
        num_heads: int = 6,
    ) -> None:
        super().__init__()
        w2, w4, w8, w16 = widths
        self.high_res_channels = high_res_channels
        basic, middle, deep, attention = depths
        self.stem = nn.Sequential(ConvBN(3, w2, 3, 2), nn.ReLU())
        self.stage4 = nn.Sequential(ConvBN(w2, w4, 3, 2), nn.ReLU(), *(BasicBlock(w4) for _ in range(basic)))
        self.stage8 = nn.Sequential(ConvBN(w4, w8, 3, 2), *(InvertedResidual(w8) for _ in range(middle)))
        self.stage16 = nn.Sequential(ConvBN(w8, w16, 3, 2), *(InvertedResidual(w16) for _ in range(deep)))
        self.attention = nn.Sequential(*(GlobalBlock(w16, num_heads) for _ in range(attention)))
        self.neck = nn.Sequential(nn.Conv2d(w16, out_channels, 1, bias=False), LayerNorm2d(out_channels))
        coarse, fine = high_res_channels
        self.down8 = ConvBN(w16, coarse, 1)
        self.side8 = ConvBN(w8, coarse, 1)
        self.fuse8 = nn.Sequential(ConvBN(coarse, coarse, 3), nn.ReLU())
        self.down4 = ConvBN(coarse, fine, 1)
        self.side4 = ConvBN(w4, fine, 1)
        self.fuse4 = nn.Sequential(ConvBN(fine, fine, 3), nn.ReLU())

    def forward(self, images: Tensor) -> ImageFeatures:
        """images: (B, 3, S, S), S a multiple of 16. Returns strides 16, 8 and 4."""
        features = self.stages(images)
        return ImageFeatures(features.embedding, features.high_res)

    def stages(self, images: Tensor) -> SmallFeatures:
        """The same, with what the backbone has at strides 8 and 16."""
        images = images.contiguous(memory_format=torch.channels_last)
        x4 = self.stage4(self.stem(images))
        x8 = self.stage8(x4)
        x16 = self.attention(self.stage16(x8))
        fine8 = self.fuse8(F.relu(self.side8(x8) + F.interpolate(self.down8(x16), scale_factor=2.0)))
        fine4 = self.fuse4(F.relu(self.side4(x4) + F.interpolate(self.down4(fine8), scale_factor=2.0)))
        return SmallFeatures(self.neck(x16), (fine8, fine4), x8, x16)


class DrawnPromptEncoder(PromptEncoder):
    """SAM's prompt encoder whose dense branch sees the mask prompt and the points and box drawn at stride
    4.
    """

    dense_by_prompt = True
    maps = 5  # logits, whether there are any, foreground, background, box
    spread = 6.0  # pixels of the model frame; standard deviation of a drawn point

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
    ) -> None:
        super().__init__(embed_dim, image_embedding_size, input_image_size, mask_in_chans)
        self.mask_downscaling[0] = nn.Conv2d(self.maps, mask_in_chans // 4, kernel_size=2, stride=2)
        del self.no_mask_embed

    def _dense(self, coords: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        drawn = self._draw(coords, labels)
        if masks is None:
            logits = drawn.new_zeros(1, 2, 1, 1).expand(len(drawn), 2, *drawn.shape[-2:])
        else:
            masks = masks.clamp(-8, 8).to(drawn.dtype).expand(len(drawn), -1, -1, -1) / 4
            logits = torch.cat([masks, torch.ones_like(masks)], 1)
        weight = self.not_a_point_embed.weight
        dense: Tensor = self.mask_downscaling(torch.cat([logits, drawn], 1).to(weight.dtype))
        return dense

    def _draw(self, coords: Tensor, labels: Tensor) -> Tensor:
        """coords (N, T, 2), labels (N, T). Returns (N, 3, 4h, 4w) in 0..1: foreground, background, box."""
        coords = coords.float()
        step = STRIDE // 4
        height, width = self.input_image_size
        y = torch.arange(height // step, device=coords.device, dtype=torch.float32) * step + step / 2
        x = torch.arange(width // step, device=coords.device, dtype=torch.float32) * step + step / 2
        near_x = torch.exp(-(((coords[..., :1] - x) / self.spread) ** 2) / 2)  # (N, T, 4w)
        near_y = torch.exp(-(((coords[..., 1:] - y) / self.spread) ** 2) / 2)
        points = [
            torch.einsum("nth,ntw->nhw", near_y * (labels == kind)[..., None], near_x).clamp(max=1)
            for kind in (FOREGROUND, BACKGROUND)
        ]
        low = torch.where((labels == TOP_LEFT)[..., None], coords, 0).sum(
            1
        )  # (N, 2); zeros when there is no box
        high = torch.where((labels == BOTTOM_RIGHT)[..., None], coords, 0).sum(1)
        inside_x = ((torch.minimum(x - low[:, :1], high[:, :1] - x) + step / 2) / step).clamp(0, 1)
        inside_y = ((torch.minimum(y - low[:, 1:], high[:, 1:] - y) + step / 2) / step).clamp(0, 1)
        box = inside_y[:, :, None] * inside_x[:, None] * (labels == TOP_LEFT).any(1)[:, None, None]
        return torch.stack([*points, box], 1)


def build_tiny(side: int = TINY_SIDE) -> Sam:
    """The embedded model's architecture for a square input of `side` pixels (a multiple of 16)."""
    width, grid = 128, side // STRIDE
    encoder = SmallEncoder(width)
    return Sam(
        encoder,
        DrawnPromptEncoder(width, (grid, grid), (side, side), mask_in_chans=32),
        MaskDecoder(
            TwoWayTransformer(depth=2, embedding_dim=width, num_heads=4, mlp_dim=512),
            width,
            upscale_channels=(64, 32),
            high_res_channels=encoder.high_res_channels,
            iou_head_hidden_dim=128,
        ),
    )
