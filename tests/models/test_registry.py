from __future__ import annotations

import re

import pytest
import torch

from samcli.models.registry import ARCHITECTURES, build_sam, recognise

Shapes = dict[str, tuple[int, ...]]


def shapes(name: str) -> Shapes:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build_sam(name).state_dict().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_recognise(name: str) -> None:
    assert recognise(shapes(name)) == name


def fails(found: Shapes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        recognise(found)


def test_recognise_names_what_the_closest_architecture_misses() -> None:
    found = shapes("vit_l")
    del found["image_encoder.blocks.23.norm2.weight"]
    fails(
        found,
        "the closest architecture is vit_l, which needs "
        "image_encoder.blocks.23.norm2.weight of shape (1024,), not missing",
    )


def test_recognise_another_input_size() -> None:
    fails(
        shapes("vit_b") | {"image_encoder.pos_embed": (1, 32, 32, 768)},
        "the closest architecture is vit_b, which needs "
        "image_encoder.pos_embed of shape (1, 64, 64, 768), not (1, 32, 32, 768)",
    )


@pytest.mark.parametrize("found", [{}, {"model.layers.0.weight": (3, 3)}], ids=["empty", "other"])
def test_recognise_something_else(found: Shapes) -> None:
    fails(found, "no tensor of a Segment Anything image encoder is in it (such as image_encoder.pos_embed)")


def test_unknown_architecture() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown architecture 'vit_g'; known: vit_b, vit_l, vit_h, vit_t, tiny$"
    ):
        build_sam("vit_g")
