"""Packed training data gives the samples that the folders give."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from samcli.errors import SamcliError
from samcli.train.data import Pack, PromptDataset, SampleConfig, read_pack
from samcli.train.packed import read_packed, write_packed


@pytest.fixture
def packs(shapes: Path, tmp_path: Path) -> list[Pack]:
    """Objects, and the same masks as regions of various strengths."""
    data = json.loads((shapes / "annotations.json").read_text())
    for number, annotation in enumerate(data["annotations"]):
        annotation["score"] = 0.5 + 0.01 * number
    file = tmp_path / "regions.json"
    file.write_text(json.dumps(data))
    return [Pack("shapes", read_pack(shapes, regions=file), 0.7, cutouts=True)]


def test_packed_photos_are_the_same(packs: list[Pack], tmp_path: Path) -> None:
    write_packed(packs, tmp_path / "packed")
    (pack,) = read_packed(tmp_path / "packed")
    assert (pack.name, pack.weight, pack.cutouts) == ("shapes", 0.7, True)
    assert len(pack.photos) == len(packs[0].photos)
    for ours, theirs in zip(pack.photos, packs[0].photos, strict=True):
        assert ours.things == theirs.things
        assert ours.strengths == pytest.approx(theirs.strengths)
        assert np.array_equal(ours.pixels(), theirs.pixels())
        for number in range(theirs.things + len(theirs.strengths)):
            assert np.array_equal(ours.mask(number), theirs.mask(number))
    with pytest.raises(IndexError):
        pack.photos[len(pack.photos)]


def test_packed_samples_are_the_same_also_in_another_process(packs: list[Pack], tmp_path: Path) -> None:
    write_packed(packs, tmp_path / "packed")
    config = SampleConfig(side=64)
    theirs = PromptDataset(packs, config, seed=3, length=8)
    ours = PromptDataset(read_packed(tmp_path / "packed"), config, seed=3, length=8)
    ours = pickle.loads(pickle.dumps(ours))
    for i in range(8):
        assert all(torch.equal(a, b) for a, b in zip(ours[i], theirs[i], strict=True))


def test_a_folder_without_packed_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamcliError, match="holds no packed training data"):
        read_packed(tmp_path)
