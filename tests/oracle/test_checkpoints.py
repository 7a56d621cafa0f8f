"""A checkpoint saved by a reference package is one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import Reference

from samcli import weights


@pytest.mark.parametrize("name", ["vit_t", pytest.param("vit_b", marks=pytest.mark.slow)])
def test_loads(reference: Reference, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = reference.build(name)
    torch.save(theirs.state_dict(), tmp_path / "saved.pth")
    sam, spec, _ = weights.load_sam(tmp_path / "saved.pth")
    assert spec.architecture == name
    ours, expected = sam.state_dict(), theirs.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in expected.items())
