"""Logits files: the way there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from samcli.errors import SamcliError
from samcli.formats.logits import load_logits, save_logits


def test_logits_survive(tmp_path):
    logits = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)
    path = tmp_path / "new" / "a.safetensors"
    save_logits(path, logits[:, ::-1])
    assert (load_logits(path) == logits[:, ::-1]).all()
    assert list(safetensors.numpy.load_file(path)) == ["logits"]


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": np.zeros((1, 4, 4), np.float32)},
        {"logits": np.zeros((4, 4), np.float32)},
        {"logits": np.zeros((1, 4, 4), np.float64)},
        {"logits": np.full((1, 4, 4), np.nan, np.float32)},
    ],
)
def test_other_tensors_are_refused(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(SamcliError) as caught:
        load_logits(path)
    assert str(caught.value) == (
        f"{path} has no `logits` of shape (N, h, w) with finite fp32 values; write some with --logits"
    )


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for data in (b"", b"not at all", b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(SamcliError) as caught:
            load_logits(path)
        assert str(caught.value).startswith(f"{path} is not a logits file (")
    with pytest.raises(SamcliError) as caught:
        load_logits(tmp_path / "no.safetensors")
    assert str(caught.value) == f"{tmp_path}/no.safetensors does not exist; check the path"
    with pytest.raises(SamcliError) as caught:
        load_logits(tmp_path)
    assert str(caught.value) == f"{tmp_path} cannot be read: Is a directory; check the path"
