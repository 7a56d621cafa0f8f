"""The architectures by name, and how to tell from a checkpoint's keys which one it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import nn

from samcli.models import hf
from samcli.models.mask_decoder import MaskDecoder
from samcli.models.prompt_encoder import PromptEncoder
from samcli.models.sam import Sam
from samcli.models.small import TINY_SIDE, build_tiny
from samcli.models.tiny_vit import TinyViT
from samcli.models.transformer import TwoWayTransformer
from samcli.models.vit import ImageEncoderViT

SAM_SIDE = 1024  # pixels; input side of the published models
PROMPT_DIM = 256


@dataclass(frozen=True)
class Architecture:
    """build: the network with fresh weights. image_size: pixels. signature: keys and shapes only it has."""

    name: str
    build: Callable[[], Sam]
    image_size: int
    signature: Mapping[str, tuple[int, ...]]


def build_sam(name: str) -> Sam:
    """The network of that name with fresh weights, in training mode. Raises ValueError for an unknown one."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name].build()


def recognise(shapes: Mapping[str, Sequence[int]]) -> str:
    """The architecture of a state dict, by its shapes; keys in segment-anything's or transformers' names.

    Only the encoder's telling keys are looked at; strict loading checks the rest. Raises ValueError that says
    what the closest architecture misses.
    """
    name_of = hf.rename if hf.is_hf(shapes) else str
    found = {name_of(key): tuple(shape) for key, shape in shapes.items()}
    missing = {
        name: [key for key, shape in architecture.signature.items() if found.get(key) != shape]
        for name, architecture in ARCHITECTURES.items()
    }
    closest = min(missing, key=lambda name: len(missing[name]) / len(ARCHITECTURES[name].signature))
    lacks = missing[closest]
    if not lacks:
        return closest
    signature = ARCHITECTURES[closest].signature
    if len(lacks) == len(signature):
        raise ValueError(f"no tensor of a Segment Anything image encoder is in it (such as {lacks[0]})")
    wanted = ", ".join(f"{key} of shape {signature[key]}, not {found.get(key, 'missing')}" for key in lacks)
    raise ValueError(f"the closest architecture is {closest}, which needs {wanted}")


def _published(encoder: nn.Module) -> Sam:
    """The prompt encoder and decoder that SAM and MobileSAM share."""
    grid = SAM_SIDE // 16
    transformer = TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, num_heads=8, mlp_dim=2048)
    return Sam(
        encoder,
        PromptEncoder(PROMPT_DIM, (grid, grid), (SAM_SIDE, SAM_SIDE), mask_in_chans=16),
        MaskDecoder(transformer, PROMPT_DIM),
    )


def _build_vit(embed_dim: int, depth: int, num_heads: int) -> Sam:
    """A global block ends each quarter of the depth."""
    quarter = depth // 4
    return _published(
        ImageEncoderViT(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            global_attn_indexes=range(quarter - 1, depth, quarter),
            img_size=SAM_SIDE,
            out_chans=PROMPT_DIM,
        )
    )


def _build_tiny_vit() -> Sam:
    return _published(TinyViT(img_size=SAM_SIDE, out_chans=PROMPT_DIM))


def _vit(name: str, embed_dim: int, depth: int, num_heads: int) -> Architecture:
    signature = {
        "image_encoder.pos_embed": (1, SAM_SIDE // 16, SAM_SIDE // 16, embed_dim),
        f"image_encoder.blocks.{depth - 1}.norm2.weight": (embed_dim,),
    }
    return Architecture(
        name, partial(_build_vit, embed_dim, depth, num_heads), SAM_SIDE, MappingProxyType(signature)
    )


_TINY_VIT_SIGNATURE = {
    "image_encoder.patch_embed.seq.0.c.weight": (32, 3, 3, 3),
    "image_encoder.layers.2.blocks.5.attn.attention_biases": (5, 196),
    "image_encoder.layers.3.blocks.1.attn.attention_biases": (10, 49),
}
_TINY_SIGNATURE = {
    "image_encoder.stem.0.0.weight": (24, 3, 3, 3),
    "image_encoder.attention.2.qkv.weight": (576, 192),
    "image_encoder.fuse4.0.0.weight": (40, 40, 3, 3),
}

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _vit("vit_b", 768, 12, 12),
        _vit("vit_l", 1024, 24, 16),
        _vit("vit_h", 1280, 32, 16),
        Architecture("vit_t", _build_tiny_vit, SAM_SIDE, MappingProxyType(_TINY_VIT_SIGNATURE)),
        Architecture("tiny", build_tiny, TINY_SIDE, MappingProxyType(_TINY_SIGNATURE)),
    )
}
