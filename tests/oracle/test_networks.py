"""Our networks against the reference's, with the same random weights."""

from __future__ import annotations

import sys

import pytest
import torch
from reference import STAND_INS, Reference

from samcli.models.registry import ARCHITECTURES, build_sam

PUBLISHED = [name for name in ARCHITECTURES if name != "tiny"]


def test_the_stand_ins_are_gone_after_the_import(reference: Reference) -> None:
    assert all(sys.modules[name].__spec__ for name in STAND_INS if name in sys.modules)


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_names_shapes_and_dtypes(reference: Reference, name: str) -> None:
    with torch.device("cpu" if name == "vit_t" else "meta"):  # TinyViT reads numbers while it is built
        theirs = reference.build(name)
    with torch.device("meta"):
        ours = build_sam(name)
    assert describe(ours.state_dict()) == describe(theirs.state_dict())
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()


def describe(state: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
