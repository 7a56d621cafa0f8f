"""Work on a Ray cluster of two workers, where Ray is installed; `.ci/run` has an environment with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def samcli(folder: Path, *args: str, names: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "samcli", *args],
        cwd=folder,
        env={**os.environ, "RAY_DEDUP_LOGS": "0"},
        input=names,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(40):
        picture = np.kron(generator.integers(0, 256, (4, 6, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        Image.fromarray(picture).save(folder / ("sub" if i % 2 else "") / f"{i:02}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


QUICK = ("--points-per-side", "4", "--pred-iou-thresh", "0.1", "--overlay", "--threads", "1", "--json")


WORDS = ("--labels", "quilt,cup", "--overlay", "--threads", "1", "--json")


@pytest.mark.parametrize(
    "command",
    [("automask", *QUICK), ("embed", "--threads", "1", "--json"), ("ground", *WORDS), ("annotate", *WORDS)],
)
def test_the_union_of_two_workers_is_a_single_run(photos: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    here = photos.parent
    code, out, err = samcli(here, name, "photos", "-o", "ray", *options, "--ray", "local")
    assert code == 3, err
    summary = json.loads(out)
    assert (summary["images"], summary["done"], summary["device"]) == (41, 40, "ray")
    assert [failure["path"] for failure in summary["failed"]] == ["photos/bad.png"]
    assert err.count("failed: photos/bad.png") == 1
    assert "Traceback" not in err
    assert samcli(here, name, "photos", "-o", "one", *options)[0] == 3
    assert tree(here / "ray") == tree(here / "one")
    code, out, _ = samcli(here, name, "photos", "-o", "ray", *options, "--ray", "local")
    assert (code, json.loads(out)["skipped"]) == (3, 40)


def test_boxes_of_a_detector(photos: Path) -> None:
    here = photos.parent
    boxes = [{"image_id": i // 2, "category_id": 1, "bbox": [10 * i % 90, 9, 30, 40]} for i in range(80)]
    (here / "r.json").write_text(json.dumps([*boxes, {"image_id": 3, "bbox": [500, 9, 30, 40]}]))
    command = ("predict", "photos", "--boxes", "r.json", "--threads", "1", "-m", "tiny")
    code, out, err = samcli(here, *command, "-o", "ray/", "--ray", "local")
    assert (code, out) == (3, "")
    said = "40 of 41 images, 80 masks in ray; 1 failed\nnote: 1 box outside of the images left out\n"
    assert err.endswith(said)
    assert samcli(here, *command, "-o", "one/")[0] == 3
    assert tree(here / "ray") == tree(here / "one")


def test_what_stops_a_worker_stops_the_run(photos: Path) -> None:
    """Names in a pipe are not looked at before: a worker meets the file of someone else."""
    here = photos.parent
    (here / "out").mkdir()
    (here / "out" / "00.json").write_text('{"shapes": []}')
    options = ("--files-from", "-", "-o", "out", "--ray", "local", *QUICK)
    code, _, err = samcli(here, "automask", *options, names="photos/00.png\nphotos/02.png\n")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: out/00.json is not a record of samcli; ")
    assert "Traceback" not in err
    assert (here / "out" / "00.json").read_text() == '{"shapes": []}'


def test_no_cluster_here(photos: Path) -> None:
    code, out, err = samcli(photos.parent, "embed", "photos", "-o", "out", "--ray", "auto")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: no Ray cluster answers at auto; check the address"
