"""Packed training data gives the samples that the folders give, and can be learned from elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from safetensors.torch import load_file

from samcli.errors import SamcliError
from samcli.models.small import build_tiny
from samcli.train.__main__ import main
from samcli.train.data import Pack, PromptDataset, SampleConfig, read_pack
from samcli.train.guide import CHANNELS, Guide, write_guide
from samcli.train.loop import load_checkpoint
from samcli.train.packed import read_packed, write_packed


@pytest.fixture
def packs(shapes: Path, tmp_path: Path) -> list[Pack]:
    """Objects, and the same masks as regions of various strengths."""
    data = json.loads((shapes / "annotations.json").read_text())
    for number, annotation in enumerate(data["annotations"]):
        annotation["score"] = 0.5 + 0.01 * number
    file = tmp_path / "regions.json"
    file.write_text(json.dumps(data))
    names = [f"{number}.png" for number in range(1, PHOTOS + 1)]
    rng = np.random.default_rng(0)
    said = [rng.normal(size=(4, 5, CHANNELS)).astype(np.float16) for _ in names]
    write_guide(names, said, tmp_path / "guide")
    photos = read_pack(shapes, regions=file, guide=Guide(tmp_path / "guide"))
    return [Pack("shapes", photos, 0.7, cutouts=True)]


def test_packed_photos_are_the_same(packs: list[Pack], tmp_path: Path) -> None:
    write_packed(packs, tmp_path / "packed")
    (pack,) = read_packed(tmp_path / "packed")
    assert (pack.name, pack.weight, pack.cutouts) == ("shapes", 0.7, True)
    assert len(pack.photos) == len(packs[0].photos)
    for ours, theirs in zip(pack.photos, packs[0].photos, strict=True):
        assert ours.things == theirs.things
        assert ours.strengths == pytest.approx(theirs.strengths)
        assert np.array_equal(ours.pixels(), theirs.pixels())
        assert np.array_equal(ours.features(), theirs.features())
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
        for a, b in zip(ours[i], theirs[i], strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


ELSEWHERE = """
import sys

for name in "pycocotools safetensors typer rich tqdm matplotlib h5py huggingface_hub".split():
    sys.modules[name] = None
from samcli.train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_it_trains_where_little_is_installed(packs: list[Pack], tmp_path: Path) -> None:
    packed, out, again = tmp_path / "packed", tmp_path / "out", tmp_path / "again"
    write_packed(packs, packed)

    def elsewhere(*arguments: object) -> None:
        command = [sys.executable, "-c", ELSEWHERE, *map(str, arguments)]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})

    few = ("run", packed, "--samples", "4", "--dtype", "fp32")  # a batch at each side
    elsewhere(*few, "-o", out, "--minutes", "0")
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 1
    assert not (out / "log.png").exists()
    elsewhere(*few, "-o", out)
    elsewhere(*few, "-o", again, "--start", out / "checkpoint.pt", "--minutes", "0")
    first, begun = (load_checkpoint(folder / "checkpoint.pt") for folder in (out, again))
    moved = [
        (begun["model"][n] - t).abs().max() for n, t in first["ema"].items() if n.endswith("proj.weight")
    ]
    assert max(moved) < 1e-4  # a step of the warm-up: they began there
    for folder, steps in ((out, 3), (again, 1)):
        assert load_checkpoint(folder / "checkpoint.pt")["step"] == steps
        assert main(["ship", str(folder)]) == 0
    assert load_file(out / "model.safetensors").keys() == build_tiny(32).state_dict().keys()
    assert main(["ship", str(tmp_path)]) == 1


def test_packing_keeps_what_it_works_with_elsewhere(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shapes)
    assert main(["pack", ".", str(tmp_path / "packed"), "-o", str(tmp_path / "runs"), "--no-regions"]) == 0
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["shapes"]
    (pack,) = read_packed(tmp_path / "packed")
    assert (pack.name, len(pack.photos)) == ("shapes", PHOTOS)


def test_wrong_arguments_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (("--samples", "0"), "argument --samples: 0 is not a whole number of at least 1"),
        (("--workers", "-1"), "argument --workers: -1 is not a whole number of at least 0"),
        (("--device", "auto"), "argument --device: invalid choice: 'auto'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["run", str(tmp_path), "-o", str(tmp_path), *arguments])
        assert said in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["run", str(tmp_path), "-o", str(tmp_path), "--device", "cuda"]) == 1
        assert capsys.readouterr().err == "there is no CUDA device here; use --device cpu\n"


def test_a_folder_without_packed_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamcliError, match="holds no packed training data"):
        read_packed(tmp_path)
