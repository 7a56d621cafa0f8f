"""The embedded model on the example photos: masks follow things."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import samcli
from samcli import images
from samcli.masks import decode_rle
from samcli.records import Box

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DEV = ROOT.parent / "shared" / "data" / "dev"


@pytest.fixture(scope="module")
def predictor() -> samcli.Predictor:
    return samcli.load("tiny")


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def _ellipse(size: tuple[int, int], x: float, y: float, rx: float, ry: float) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((columns + 0.5 - x) / rx) ** 2 + ((rows + 0.5 - y) / ry) ** 2 < 1


def test_weights_fit_into_the_package() -> None:
    assert (ROOT / "samcli" / "data" / "tiny.safetensors").stat().st_size <= 12_000_000


def test_a_box_around_the_saucer_gives_the_saucer(predictor: samcli.Predictor) -> None:
    photo = images.load(EXAMPLES / "coffee.jpg")
    embedding = predictor.embed(photo)
    mask = predictor.predict(embedding, samcli.Prompt(box=Box(82, 15, 514, 392))).masks[0]
    assert _iou(mask, _ellipse(mask.shape, 298, 205, 216, 187)) > 0.75


def test_everything_on_a_photo_is_many_different_masks(predictor: samcli.Predictor) -> None:
    photo = images.load(EXAMPLES / "astronaut.jpg")
    masks = samcli.automask(predictor, photo)
    assert 10 <= len(masks) <= 150
    decoded = [decode_rle(m.segmentation) for m in masks]
    assert np.mean(np.any(decoded, axis=0)) > 0.6  # most of the picture belongs to something
    overlaps = [_iou(a, b) for i, a in enumerate(decoded) for b in decoded[:i]]
    assert max(overlaps) < 0.76


@pytest.mark.parametrize(("folder", "click", "box"), [("duts-heldout", 0.65, 0.75), ("pets600", 0.6, 0.62)])
def test_photos_with_ground_truth(predictor: samcli.Predictor, folder: str, click: float, box: float) -> None:
    """Above what a filled box (0.63, 0.53) or chance gives, the uncertain border of the pets counted."""
    if not DEV.exists():
        pytest.skip("the development photos are not here")
    data = json.loads((DEV / folder / "annotations.json").read_text())
    found: list[tuple[float, float]] = []
    for image in data["images"][:20]:
        photo = images.load(DEV / folder / "images" / image["file_name"])
        embedding = predictor.embed(photo)
        truth = next(
            decode_rle(a["segmentation"]) for a in data["annotations"] if a["image_id"] == image["id"]
        )
        ys, xs = np.nonzero(truth)
        middle = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
        point = (float(xs[middle]) + 0.5, float(ys[middle]) + 0.5)
        corners = Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        answers = predictor.predict(embedding, [samcli.Prompt([point]), samcli.Prompt(box=corners)])
        found.append((_iou(answers[0].masks[0], truth), _iou(answers[1].masks[0], truth)))
    assert np.mean([c for c, _ in found]) > click
    assert np.mean([b for _, b in found]) > box
