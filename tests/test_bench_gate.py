"""The gate of the benchmarks, bench/gate.py, on masks made by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samcli.masks import encode_rle, mask_bbox

SETTINGS = {
    "pred_iou_thresh": 0.8,
    "stability_score_thresh": 0.9,
    "box_nms_thresh": 0.6,
    "crop_nms_thresh": 0.6,
}
WIDTH, HEIGHT = 2400, 20


@pytest.fixture(scope="module")
def gate(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("gate")


def mask(place: int, *, extra: int = 0, iou: float = 0.9, stability: float = 0.95) -> dict[str, Any]:
    """A square of 10x10 pixels at one of many places, `extra` pixels inside of it missing."""
    bits = np.zeros((HEIGHT, WIDTH), bool)
    x = 11 * place
    bits[5:15, x : x + 10] = True
    bits[7, x + 2 : x + 2 + extra] = False
    return {
        "segmentation": encode_rle(bits),
        "bbox": list(mask_bbox(bits)),
        "predicted_iou": iou + 1e-4 * (place % 7),
        "stability_score": stability,
        "point_coords": [[x + 5.0, 10.0]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
    }


def theirs(one: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = one["bbox"]
    return one | {"bbox": [x, y, width - 1, height - 1]}


Masks = list[dict[str, Any]]


EVERY = [mask(place) for place in range(200)]


@pytest.fixture
def many() -> Masks:
    return [*EVERY]


def test_equal_masks_pass(gate: ModuleType, many: Masks) -> None:
    found = gate.compare(many, [theirs(one) for one in reversed(many)], SETTINGS)
    assert found.passed
    assert (found.equal, found.differing, found.excused) == (200, [], 0)


@pytest.mark.parametrize(("pixels", "passes"), [(1, True), (2, True), (3, False)])
def test_few_pixels(gate: ModuleType, many: Masks, pixels: int, passes: bool) -> None:
    others = [theirs(one) for one in many]
    many[17] = mask(17, extra=pixels)
    found = gate.compare(many, others, SETTINGS)
    assert found.differing == [pixels]
    assert found.passed == passes
    assert passes or found.faults == ["mask 18 differs by 3 pixels"]


def test_too_many_masks_differ(gate: ModuleType, many: Masks) -> None:
    others = [theirs(one) for one in many]
    many[:3] = [mask(place, extra=1) for place in range(3)]
    assert gate.compare(many, others, SETTINGS).faults == ["only 197 of 200 masks are equal"]


def test_another_box_of_an_equal_mask(gate: ModuleType, many: Masks) -> None:
    found = gate.compare(many, many, SETTINGS)
    assert len(found.faults) == 200


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({"predicted_iou": 0.800004}, True),
        ({"predicted_iou": 0.80002}, False),
        ({"stability_score": 0.900004}, True),
        ({"stability_score": 0.90002}, False),
    ],
)
def test_a_mask_is_missing(gate: ModuleType, many: Masks, change: dict[str, float], passes: bool) -> None:
    for lacking in (0, 1):
        sides = [[*many], [theirs(one) for one in many]]
        sides[0][5] = sides[0][5] | change
        sides[1][5] = theirs(sides[0][5])
        del sides[lacking][5]
        found = gate.compare(*sides, SETTINGS)
        assert (found.excused, found.passed) == (int(passes), passes)
        assert passes or "only one has the mask of point [60.0, 10.0]" in found.faults[0]


def duplicate(overlap: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two boxes, inclusive and `overlap` alike, both 1000 pixels wide and 10 high."""
    boxes = []
    for shift in (0, round(1000 * (1 - overlap) / (1 + overlap))):
        bits = np.zeros((HEIGHT, WIDTH), bool)
        bits[0:2, 1000 + shift : 2001 + shift] = True
        one = mask(0) | {"segmentation": encode_rle(bits), "bbox": list(mask_bbox(bits))}
        boxes.append(one | {"point_coords": [[1000.0 + shift, 1.0]]})
    return boxes[0], boxes[1]


@pytest.mark.parametrize(("limit", "passes"), [(0.6, True), (0.61, False)])
def test_a_duplicate_near_the_limit(gate: ModuleType, many: Masks, limit: float, passes: bool) -> None:
    first, second = duplicate(0.6)  # 250 pixels aside: 750 of 1250 shared
    ours, others = [*many, first, second], [theirs(one) for one in [*many, first]]
    found = gate.compare(ours, others, SETTINGS | {"box_nms_thresh": limit, "crop_nms_thresh": limit})
    assert found.passed == passes


def test_prompts_are_compared_in_order(gate: ModuleType, many: Masks) -> None:
    plain = [{"segmentation": one["segmentation"]} for one in many]
    assert gate.compare(plain, plain).passed
    assert not gate.compare(plain, plain[::-1]).passed
    assert gate.compare(plain, plain[1:]).faults


def test_nothing_to_compare_is_a_fault(gate: ModuleType) -> None:
    compare: Callable[..., Any] = gate.compare
    assert compare([], [], SETTINGS).faults == ["there are no masks to compare"]
