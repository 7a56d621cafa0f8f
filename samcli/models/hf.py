"""Key names of the `facebook/sam-vit-*` files (transformers' SamModel) and ours, segment-anything's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch

T = TypeVar("T")

RENAMES = (
    (r"(shared_image|prompt_encoder\.shared)_embedding\.positional_embedding",  # tied: one or both
     r"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"vision_encoder\.pos_embed", r"image_encoder.pos_embed"),
    (r"vision_encoder\.patch_embed\.projection\.(weight|bias)", r"image_encoder.patch_embed.proj.\1"),
    (r"vision_encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"image_encoder.blocks.\1.norm\2.\3"),
    (r"vision_encoder\.layers\.(\d+)\.(attn|mlp)\.(.+)", r"image_encoder.blocks.\1.\2.\3"),
    (r"vision_encoder\.neck\.conv1\.weight", r"image_encoder.neck.0.weight"),
    (r"vision_encoder\.neck\.layer_norm1\.(weight|bias)", r"image_encoder.neck.1.\1"),
    (r"vision_encoder\.neck\.conv2\.weight", r"image_encoder.neck.2.weight"),
    (r"vision_encoder\.neck\.layer_norm2\.(weight|bias)", r"image_encoder.neck.3.\1"),
    (r"prompt_encoder\.(no_mask_embed|not_a_point_embed)\.weight", r"prompt_encoder.\1.weight"),
    (r"prompt_encoder\.point_embed\.([0-3])\.weight", r"prompt_encoder.point_embeddings.\1.weight"),
    (r"prompt_encoder\.mask_embed\.conv1\.(weight|bias)", r"prompt_encoder.mask_downscaling.0.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.(weight|bias)", r"prompt_encoder.mask_downscaling.1.\1"),
    (r"prompt_encoder\.mask_embed\.conv2\.(weight|bias)", r"prompt_encoder.mask_downscaling.3.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.(weight|bias)", r"prompt_encoder.mask_downscaling.4.\1"),
    (r"prompt_encoder\.mask_embed\.conv3\.(weight|bias)", r"prompt_encoder.mask_downscaling.6.\1"),
    (r"mask_decoder\.(iou_token|mask_tokens)\.weight", r"mask_decoder.\1.weight"),
    (r"mask_decoder\.transformer\.layers\.(\d)\.layer_norm([1-4])\.(weight|bias)",
     r"mask_decoder.transformer.layers.\1.norm\2.\3"),
    (r"mask_decoder\.transformer\.layers\.(\d)\.(self_attn|cross_attn_\w+|mlp)\.(.+)",
     r"mask_decoder.transformer.layers.\1.\2.\3"),
    (r"mask_decoder\.transformer\.final_attn_token_to_image\.(.+)",
     r"mask_decoder.transformer.final_attn_token_to_image.\1"),
    (r"mask_decoder\.transformer\.layer_norm_final_attn\.(weight|bias)",
     r"mask_decoder.transformer.norm_final_attn.\1"),
    (r"mask_decoder\.upscale_conv1\.(weight|bias)", r"mask_decoder.output_upscaling.0.\1"),
    (r"mask_decoder\.upscale_layer_norm\.(weight|bias)", r"mask_decoder.output_upscaling.1.\1"),
    (r"mask_decoder\.upscale_conv2\.(weight|bias)", r"mask_decoder.output_upscaling.3.\1"),
    (r"mask_decoder\.(output_hypernetworks_mlps\.[0-3]|iou_prediction_head)\.proj_in\.(weight|bias)",
     r"mask_decoder.\1.layers.0.\2"),
    (r"mask_decoder\.(output_hypernetworks_mlps\.[0-3]|iou_prediction_head)\.layers\.0\.(weight|bias)",
     r"mask_decoder.\1.layers.1.\2"),
    (r"mask_decoder\.(output_hypernetworks_mlps\.[0-3]|iou_prediction_head)\.proj_out\.(weight|bias)",
     r"mask_decoder.\1.layers.2.\2"),
)  # fmt: skip


def is_hf(keys: Iterable[str]) -> bool:
    """Whether a state dict's keys are in transformers' layout."""
    return any(key.startswith("vision_encoder.") for key in keys)


def rename(key: str) -> str:
    """Our name of a transformers key; one the table does not know stays, for strict loading to name."""
    for pattern, ours in RENAMES:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(ours)
    return key


def from_hf(state: Mapping[str, T]) -> dict[str, T]:
    """The same values under our names. Raises ValueError when the two copies of the tied positions differ."""
    renamed: dict[str, T] = {}
    for key, value in state.items():
        name = rename(key)
        known = renamed.setdefault(name, value)
        if known is not value and not _equal(known, value):
            raise ValueError(f"two values for {name}, and they differ")
    return renamed


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b
