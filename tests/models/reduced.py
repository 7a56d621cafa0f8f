"""Every architecture with the same parts and fewer or smaller ones, so that a test can afford it on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from samcli.models.mask_decoder import MaskDecoder
from samcli.models.prompt_encoder import PromptEncoder
from samcli.models.registry import ARCHITECTURES
from samcli.models.sam import Sam
from samcli.models.small import build_tiny
from samcli.models.tiny_vit import TinyViT
from samcli.models.transformer import TwoWayTransformer
from samcli.models.vit import ImageEncoderViT

SIDE = 256  # pixels: a grid of 16 cells, more than a window of 14
NAMES = tuple(ARCHITECTURES)
HEAD_DIMS = {"vit_b": 64, "vit_l": 64, "vit_h": 80}


def build(name: str) -> Sam:
    """The architecture for images of SIDE pixels; the ViTs with two windowed and two global blocks."""
    torch.manual_seed(0)
    if name == "tiny":
        return build_tiny(SIDE)
    if name == "vit_t":
        encoder: TinyViT | ImageEncoderViT = TinyViT(img_size=SIDE)
    else:
        encoder = ImageEncoderViT(
            embed_dim=2 * HEAD_DIMS[name], depth=4, num_heads=2, global_attn_indexes=(1, 3), img_size=SIDE
        )
    grid = SIDE // 16
    return Sam(
        encoder,
        PromptEncoder(256, (grid, grid), (SIDE, SIDE), mask_in_chans=16),
        MaskDecoder(TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048), 256),
    )


def images(count: int) -> Tensor:
    """(count, 3, SIDE, SIDE) noise as `Sam.preprocess` leaves it."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def prompts(count: int, *labels: int) -> tuple[Tensor, Tensor]:
    """Coordinates (count, T, 2) anywhere in the frame, and labels (count, T)."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, len(labels), 2, generator=generator) * SIDE, torch.tensor([labels] * count)


def masks(count: int) -> Tensor:
    """(count, 1, SIDE / 4, SIDE / 4) low-res logits."""
    return 4 * torch.randn(count, 1, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(2))
