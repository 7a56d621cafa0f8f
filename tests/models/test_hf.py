"""`hf_sam_vit_base.txt` lists the tensors and shapes that transformers 5.23 saves of its SAM with ViT-B."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samcli.models.hf import from_hf, is_hf, rename
from samcli.models.registry import build_sam, recognise

LISTING = Path(__file__).parent / "hf_sam_vit_base.txt"
POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
TIED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


@pytest.fixture(scope="module")
def theirs() -> dict[str, tuple[int, ...]]:
    rows = (line.split() for line in LISTING.read_text().splitlines())
    return {key: tuple(map(int, shape.split(","))) for key, shape in rows}


def test_every_tensor_gets_our_name_and_fits(theirs: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        ours = {key: tuple(value.shape) for key, value in build_sam("vit_b").state_dict().items()}
    assert from_hf(theirs) == ours


def test_recognised(theirs: dict[str, tuple[int, ...]]) -> None:
    assert is_hf(theirs)
    assert not is_hf(from_hf(theirs))
    assert recognise(theirs) == "vit_b"


def test_equal_shapes_are_not_mixed_up() -> None:
    """The pairs that shapes cannot tell apart."""
    assert (
        rename("mask_decoder.iou_prediction_head.proj_in.weight")
        == "mask_decoder.iou_prediction_head.layers.0.weight"
    )
    assert (
        rename("mask_decoder.iou_prediction_head.layers.0.weight")
        == "mask_decoder.iou_prediction_head.layers.1.weight"
    )
    assert rename("vision_encoder.layers.7.layer_norm2.bias") == "image_encoder.blocks.7.norm2.bias"
    assert rename("vision_encoder.neck.layer_norm1.weight") == "image_encoder.neck.1.weight"
    assert rename("vision_encoder.neck.layer_norm2.weight") == "image_encoder.neck.3.weight"


def test_the_tied_positions_may_come_once_or_twice() -> None:
    matrix = torch.randn(2, 128)
    assert from_hf({TIED[1]: matrix}) == {POSITIONS: matrix}
    assert from_hf({TIED[0]: matrix, TIED[1]: matrix.clone()}) == {POSITIONS: matrix}
    with pytest.raises(ValueError, match=r"^two values for prompt_encoder.pe_layer.*, and they differ$"):
        from_hf({TIED[0]: matrix, TIED[1]: matrix + 1})


def test_an_unknown_key_keeps_its_name_for_strict_loading_to_report() -> None:
    assert rename("vision_encoder.adapter.weight") == "vision_encoder.adapter.weight"
