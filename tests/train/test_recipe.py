from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from samcli.errors import SamcliError
from samcli.train import recipe
from samcli.train.edges import EdgeTeacher
from samcli.train.log import rows

pytest.importorskip("skimage")


def _edges(stop_at: int, calls: list[int]) -> Callable[[EdgeTeacher, np.ndarray], np.ndarray]:
    """Edges of a box, in place of those that weights no test can download would find."""

    def edges(_: EdgeTeacher, image: np.ndarray) -> np.ndarray:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(1)
        drawn = np.zeros(image.shape[:2], np.uint8)
        cv2.rectangle(drawn, (20, 15), (80 + len(calls), 70), 255, 2)
        return cv2.GaussianBlur(drawn.astype(np.float32) / 255, (0, 0), 1.0)

    return edges


def test_regions_go_on_after_the_last_whole_photo(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EdgeTeacher, "load", EdgeTeacher)
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    monkeypatch.setattr(recipe, "edge_map", _edges(99, []))
    recipe.make_regions(shapes, whole, lambda _: None)
    calls: list[int] = []
    monkeypatch.setattr(recipe, "edge_map", _edges(4, calls))
    with pytest.raises(KeyboardInterrupt):
        recipe.make_regions(shapes, part, lambda _: None)
    assert not part.exists()
    with (tmp_path / "part.json.part").open("a") as torn:
        torn.write('{"file_name": "5.png", "reg')
    monkeypatch.setattr(recipe, "edge_map", _edges(99, calls))
    recipe.make_regions(shapes, part, lambda _: None)
    assert len(calls) == 6
    assert part.read_text() == whole.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.json", "whole.json"]
    annotations = json.loads(part.read_text())["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    assert {a["image_id"] for a in annotations} == set(range(1, 7))


def test_the_first_process_alone_reports(
    samcli: Callable[..., object], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-o` may be left out, as docs/training.md shows."""
    stages = (recipe.Stage(side=48, images=4, batch=4),)
    monkeypatch.setattr(recipe, "CONFIG", replace(recipe.CONFIG, stages=stages))
    monkeypatch.chdir(tmp_path)
    command = ["train", "--data", str(shapes.parent), "--no-regions", "--dtype", "fp32", "--device", "cpu"]
    result = samcli(*command, "--json")
    assert (result.code, json.loads(result.out)["weights"]) == (0, "runs/tiny/model.safetensors")
    assert "weights: runs/tiny/model.safetensors" in result.err
    monkeypatch.setenv("RANK", "1")
    assert samcli(*command, "--json") == (0, "", "")


def test_rounds_parts_and_a_dev_set(
    samcli: Callable[..., object], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (recipe.Stage(side=48, images=8, batch=4),)
    monkeypatch.setattr(recipe, "CONFIG", replace(recipe.CONFIG, stages=stages))
    out = tmp_path / "out"
    command = [
        "train",
        "--data",
        str(shapes),
        "--no-regions",
        "--dtype",
        "fp32",
        "--device",
        "cpu",
        "-o",
        out,
    ]
    result = samcli(*command, "--rounds", "4", "--accumulate", "2", "--dev", shapes)
    assert result.code == 0, result.err
    (row,) = rows(out / "checks.csv")
    assert row["step"] == "2"
    assert all(0 <= float(row[name]) <= 1 for name in ("click", "clicks_3", "box"))
    assert Image.open(out / "log.png").width > 500
    other = samcli(*command, "--rounds", "5")
    assert "rounds was 4, is now 5" in other.err
    few = samcli("train", "--recipe", "salient", "--data", shapes, "--rounds", "4")
    assert (few.code, "--rounds goes with --recipe tiny or decoder; salient takes none" in few.err) == (
        2,
        True,
    )


def test_pieces_that_begin_with_the_embedded_model(
    samcli: Callable[..., object], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-m tiny` goes on from it, `--minutes` stops, and the next call ends what was begun."""
    stages = (recipe.Stage(side=48, images=8, batch=4),)
    monkeypatch.setattr(recipe, "CONFIG", replace(recipe.CONFIG, stages=stages, lr=1e-9, log_every=1))
    out = tmp_path / "out"
    command = [
        "train",
        "--data",
        shapes,
        "--no-regions",
        "--device",
        "cpu",
        "-o",
        out,
        "-m",
        "tiny",
        "--json",
    ]
    first = samcli(*command, "--minutes", "0")
    assert (first.code, json.loads(first.out)["weights"]) == (0, None)
    assert "stopped by --minutes; run it again to go on" in first.err
    assert not (out / "model.safetensors").exists()
    assert [row["step"] for row in rows(out / "log.csv")] == ["1"]
    assert samcli(*command).code == 0
    assert [row["step"] for row in rows(out / "log.csv")] == ["1", "2"]
    other = samcli(*[word for word in command if word not in ("-m", "tiny")])
    assert other.code == 1
    assert "the weights to begin with was " in other.err
    ours = load_file(out / "model.safetensors")
    theirs = load_file(Path(recipe.__file__).parents[1] / "data" / "tiny.safetensors")
    assert ours.keys() == theirs.keys()
    learned = [name for name in ours if name.endswith("weight")]
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in learned)


def test_a_frozen_encoder_stays_as_it_is(
    samcli: Callable[..., object], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (recipe.Stage(side=48, images=8, batch=4),)
    monkeypatch.setattr(recipe, "CONFIG", replace(recipe.CONFIG, stages=stages))
    command = [
        "train",
        "--data",
        shapes,
        "--no-regions",
        "--device",
        "cpu",
        "--freeze-encoder",
        "-o",
        tmp_path,
    ]
    assert samcli(*command, "-m", "tiny").code == 0
    ours = load_file(tmp_path / "model.safetensors")
    theirs = load_file(Path(recipe.__file__).parents[1] / "data" / "tiny.safetensors")
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    encoder = {name for name in ours if name.startswith("image_encoder.")}
    assert encoder <= same
    assert len(ours) - len(same) > 50
    alone = samcli(*command)
    assert (alone.code, "--freeze-encoder goes with -m" in alone.err) == (2, True)
    few = samcli(*command, "--recipe", "salient")
    assert (few.code, "--freeze-encoder goes with --recipe tiny; salient takes none" in few.err) == (2, True)


@pytest.mark.parametrize("norms", ["shared", "own"])
def test_norms_are_those_that_were_asked_for(
    samcli: Callable[..., object], shapes: Path, monkeypatch: pytest.MonkeyPatch, norms: str
) -> None:
    asked = []
    monkeypatch.setattr(recipe, "train_tiny", lambda *_, config, **__: asked.append(config.share_norms))
    assert samcli("train", "--data", shapes, "--norms", norms).code == 0
    assert asked == [norms == "shared"]


def test_weights_of_another_architecture_are_no_beginning() -> None:
    with pytest.raises(
        SamcliError, match="of another architecture; the recipe tiny takes those of the embedded"
    ):
        recipe.started({"image_encoder.pos_embed": torch.zeros(1)})(48)
