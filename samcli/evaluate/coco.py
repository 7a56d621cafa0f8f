"""Average precision and recall as COCO's own evaluation computes them (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from samcli.records import RLE

AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Pixels of COCO's sizes."""
DETECTIONS = 100  # of an image, the best by score, that count for the precision
PROPOSALS = (10, 100, 1000)  # of an image, that recall is taken with


class Truth(NamedTuple):
    """A thing that is there. crowd: it stands for several, and finding it counts neither way."""

    image: int
    category: int
    segmentation: RLE
    area: float
    crowd: bool = False


class Answer(NamedTuple):
    """A mask that was found. category: as in the truth; any where categories do not count."""

    image: int
    category: int
    segmentation: RLE
    score: float


def average_precision(truths: Iterable[Truth], answers: Iterable[Answer]) -> dict[str, float | None]:
    """COCO's mask AP: ap (mean over IoU 0.5 to 0.95), ap50, ap75, and ap_small, ap_medium, ap_large.

    The mean is over the categories that have any truth; of an image the best 100 answers count. None where
    there is nothing of that kind.
    """
    result = _evaluated(truths, answers, (1, 10, DETECTIONS), categories=True)
    if result is None:
        return dict.fromkeys(("ap", "ap50", "ap75", *(f"ap_{name}" for name in AREAS)))
    precision = result.eval["precision"][..., -1]  # (IoU, recall, category, area)
    found = {
        "ap": _mean(precision[..., 0]),
        "ap50": _mean(precision[0, ..., 0]),
        "ap75": _mean(precision[5, ..., 0]),
    }
    return found | {f"ap_{name}": _mean(precision[..., i]) for i, name in enumerate(AREAS, start=1)}


def average_recall(truths: Iterable[Truth], answers: Iterable[Answer]) -> dict[str, float | None]:
    """COCO's mask AR whatever the category: ar_10, ar_100, ar_1000 and, of these 1000, ar_small, ar_medium,
    ar_large. None where there is nothing of that size.
    """
    result = _evaluated(truths, answers, PROPOSALS, categories=False)
    if result is None:
        return dict.fromkeys((*(f"ar_{n}" for n in PROPOSALS), *(f"ar_{name}" for name in AREAS)))
    recall = result.eval["recall"]  # (IoU, category, area, how many answers)
    found = {f"ar_{n}": _mean(recall[:, :, 0, i]) for i, n in enumerate(PROPOSALS)}
    return found | {f"ar_{name}": _mean(recall[:, :, i, -1]) for i, name in enumerate(AREAS, start=1)}


def _mean(values: Any) -> float | None:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


def _evaluated(
    truths: Iterable[Truth], answers: Iterable[Answer], most: tuple[int, ...], *, categories: bool
) -> Any:
    """pycocotools' evaluation, accumulated; None when there is no truth at all."""
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": one.image,
            "category_id": one.category,
            "segmentation": one.segmentation,
            "area": one.area,
            "bbox": [0, 0, 0, 0],  # not asked for
            "iscrowd": int(one.crowd),
        }
        for number, one in enumerate(truths, start=1)
    ]
    if not any(not annotation["iscrowd"] for annotation in annotations):
        return None
    results: list[dict[str, Any]] = [
        {
            "image_id": one.image,
            "category_id": one.category,
            "segmentation": one.segmentation,
            "score": one.score,
        }
        for one in answers
    ]
    sizes = {row["image_id"]: row["segmentation"]["size"] for row in (*results, *annotations)}
    kinds = sorted({row["category_id"] for row in (*annotations, *results)})
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its loops
        there = COCO()
        there.dataset = {
            "info": {},
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
            "categories": [{"id": i, "name": str(i)} for i in kinds],
            "annotations": annotations,
        }
        there.createIndex()
        found = there.loadRes(results) if results else _nothing(there)
        evaluation = COCOeval(there, found, "segm")
        evaluation.params.maxDets = list(most)
        evaluation.params.useCats = int(categories)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _nothing(there: COCO) -> COCO:
    """No results, which loadRes cannot take."""
    found = COCO()
    found.dataset = {**there.dataset, "annotations": []}
    found.createIndex()
    return found
