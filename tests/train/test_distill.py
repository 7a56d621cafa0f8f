"""A small encoder learns after a large one: networks with random weights, small inputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_decoder import SIDE, small

from samcli.errors import SamcliError
from samcli.models.sam import Sam
from samcli.predictor import Predictor
from samcli.train import distill
from samcli.train.data import Photo
from samcli.train.decoder import Features
from samcli.train.distill import DistillSamples, joined, lesson, losses, train_distilled, view_of
from samcli.train.log import Progress
from samcli.train.loop import Stage
from samcli.weights import MODELS

SHORT = replace(
    distill.CONFIG,
    stages=(Stage(side=0, images=8, batch=2),),
    warmup=1,
    bf16=False,
    save_every=1,
    log_every=1,
)


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """A folder of photos without annotations."""
    shutil.copytree(shapes / "images", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A small ViT with random weights teaches a small TinyViT."""
    large = small("vit_b")
    spec = MODELS["vit_b"]
    monkeypatch.setattr(distill, "load_predictor", lambda *_, **__: Predictor(large, spec, "1" * 64))
    monkeypatch.setattr(distill, "build_sam", lambda _: small("vit_t"))
    return large


def learn(photos: Path, out: Path, **options: Any) -> Path:
    given = {
        "teacher": "vit_h",
        "model": None,
        "config": SHORT,
        "report": lambda _: None,
        "note": lambda _: None,
    }
    return train_distilled(photos, out, **{**given, **options})


def test_the_student_has_the_teachers_decoder_and_an_encoder_of_its_own(
    teacher: Sam, photos: Path, tmp_path: Path
) -> None:
    fresh, large = small("vit_t").state_dict(), teacher.state_dict()
    learned = load_file(learn(photos, tmp_path / "out"))
    assert learned.keys() == fresh.keys()
    for name, tensor in learned.items():
        if not name.startswith("image_encoder."):
            assert torch.equal(tensor, large[name]), name
    moved = [n for n in learned if n.startswith("image_encoder.") and not torch.equal(learned[n], fresh[n])]
    assert len(moved) > 50
    assert not (tmp_path / "out" / "features").exists()
    assert (tmp_path / "out" / "log.png").exists()


def test_it_comes_closer_to_the_teacher(teacher: Sam, photos: Path, tmp_path: Path) -> None:
    log: list[Progress] = []
    config = replace(SHORT, stages=(Stage(side=0, images=160, batch=4),), log_every=8, save_every=99)
    learn(photos, tmp_path / "out", config=config, report=log.append)
    assert log[-1].loss < 0.85 * log[0].loss
    assert log[-1].iou_last > log[0].iou_last + 0.05


def test_a_stopped_run_continues_to_the_same_weights(teacher: Sam, photos: Path, tmp_path: Path) -> None:
    whole = load_file(learn(photos, tmp_path / "whole"))

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(photos, tmp_path / "part", report=stop)
    part = load_file(learn(photos, tmp_path / "part"))
    assert all(torch.equal(part[name], whole[name]) for name in whole)


def test_a_perfect_student_has_no_loss_and_the_padding_does_not_count(
    teacher: Sam, photos: Path, tmp_path: Path
) -> None:
    predictor = Predictor(teacher, MODELS["vit_b"], "1" * 64)
    paths = sorted(photos.iterdir())
    features = Features(predictor, tmp_path / "features", {path: path.name * 8 for path in paths})
    views = [view_of(Photo(path, (), (), ()), 0, i, DistillSamples(), 0) for i, path in enumerate(paths[:2])]
    taught = lesson(views, predictor.sam, features, DistillSamples(), np.random.default_rng(0))
    assert taught.images.shape == (2, 3, SIDE, SIDE)
    with torch.no_grad():
        error, _, reached = losses(teacher, teacher, taught)
        assert float(error) == pytest.approx(0, abs=1e-8)
        assert reached == pytest.approx(1)
        height, width = taught.valid[0].tolist()
        assert min(height, width) <= SIDE - 16  # there is padding of at least a row or column of cells
        noise = taught._replace(said=taught.said.clone())
        noise.said[0, :, -(-height // 16) :] += 5
        noise.said[0, :, :, -(-width // 16) :] += 5
        assert float(losses(teacher, teacher, noise)[0]) == pytest.approx(0, abs=1e-8)


def test_views_lie_in_the_photo(photos: Path) -> None:
    path = min(photos.iterdir())
    views = [view_of(Photo(path, (), (), ()), 3, number, DistillSamples(), 1) for number in range(4)]
    assert [view.mirrored for view in views] == [False, False, True, True]
    x0, y0, x1, y1 = views[1].window
    height, width = views[0].size
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert (x1 - x0) * (y1 - y0) < width * height
    assert views[1] == view_of(Photo(path, (), (), ()), 3, 1, DistillSamples(), 1)


def test_networks_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SamcliError, match="the decoder of vit_h does not go with this student"):
        joined(small("tiny"), small("vit_b"), "vit_h")


def test_distilling_needs_a_teacher_and_others_take_none(samcli: Callable[..., Any], photos: Path) -> None:
    without = samcli("train", "--recipe", "distill", "--data", photos)
    assert (without.code, "name it with --teacher" in without.err) == (2, True)
    other = samcli("train", "--recipe", "tiny", "--data", photos, "--teacher", "vit_h")
    assert (other.code, "--teacher goes with --recipe distill" in other.err) == (2, True)
