"""From what was found in each photo to the figures of a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samcli.evaluate.coco import AREAS, Answer, Truth, average_precision, average_recall
from samcli.evaluate.edges import edge_figures
from samcli.evaluate.metrics import Bits, Counts, best_ious, boundaries, clicks_to, count_boundaries, covering
from samcli.evaluate.truth import Dataset, Photo, Thing
from samcli.formats.select import label_map, mask_of, score_of
from samcli.masks import label_rles
from samcli.records import ImageRecord

GOALS = (85, 90)  # % IoU, of the clicks that it takes
LEAST_REGION = 0.01  # of the image; smaller regions do not count for the mean of best IoUs
MEANS = ("single", "oracle", "random", "random_oracle", "box", "noised_box")

Figures = dict[str, Any]
"""Figures by name: numbers, None where there was nothing to measure, lists of these, or groups of figures."""
Rows = Sequence[Mapping[str, Any]]


def of_prompts(dataset: Dataset, found: Mapping[PurePosixPath, Rows], by: Sequence[str] = ()) -> Figures:
    """Means over all things of what `prompts.answers` says of each photo.

    by: names of groups (`Thing.groups`) to tell apart besides sizes and categories.
    """
    things = {thing.id: thing for path in found for thing in dataset.photos[path].things}
    rows = [row for some in found.values() for row in some]
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        for kind, name in _groups(things[row["id"]], dataset, by).items():
            groups.setdefault(kind, {}).setdefault(name, []).append(row)
    apart = {
        kind: {name: _of_rows(some) for name, some in sorted(named.items())}
        for kind, named in groups.items()
        if len(named) > 1
    }
    return {"photos": len(found), **_of_rows(rows), "by": apart}


def _of_rows(rows: Rows) -> Figures:
    if not rows:
        return {"things": 0}
    clicks = np.array([row["clicks"] for row in rows], np.float64)
    error = np.abs(clicks[:, 0] - [row["predicted"] for row in rows])
    return {
        "things": len(rows),
        "click": float(clicks[:, 0].mean()),
        "click_interval": _interval(clicks[:, 0]),
        **{name: float(np.mean([row[name] for row in rows])) for name in MEANS},
        "clicks": clicks.mean(0).tolist(),
        **{f"clicks_to_{goal}": float(clicks_to(clicks, goal / 100).mean()) for goal in GOALS},
        **{f"never_{goal}": float((clicks < goal / 100).all(1).mean()) for goal in GOALS},
        "predicted_iou_error": float(error.mean()),
    }


def _groups(thing: Thing, dataset: Dataset, by: Sequence[str]) -> dict[str, str]:
    size = next(name for name, (_, most) in AREAS.items() if thing.area < most)
    own = {name: thing.groups[name] for name in by if name in thing.groups}
    return {"size": size, "category": dataset.categories.get(thing.category, str(thing.category)), **own}


def _interval(values: ArrayLike) -> float:
    """Half of the mean's 95 % confidence interval, by the normal distribution."""
    known = np.asarray(values, np.float64)
    return 1.96 * float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else 0.0


def of_everything(dataset: Dataset, records: Iterable[tuple[Photo, ImageRecord]]) -> Figures:
    """Recall of what is annotated, and how well partitions that people drew are found again.

    A partition is made of masks by laying the better one, by its score, on top.
    """
    truths: list[Truth] = []
    answers: list[Answer] = []
    masks = photos = 0
    regions: list[float] = []
    covered = {"masks": [0.0, 0.0], "label_map": [0.0, 0.0]}
    counts = Counts(0, 0, 0, 0)
    for photo, record in records:
        photos, masks = photos + 1, masks + len(record.annotations)
        truths += [Truth(photo.number, 1, t.segmentation, t.area, t.crowd) for t in photo.things]
        answers += [
            Answer(photo.number, 1, mask.segmentation, score_of(mask) or 0.0) for mask in record.annotations
        ]
        if not dataset.partitions:
            continue
        labels = label_map(record.annotations, photo.size, "score")
        whole = [mask.segmentation for mask in record.annotations]
        parts = list(label_rles(labels + 1).values())  # what no mask covers is a region too
        for own in _by_annotator(photo):
            truth = [thing.segmentation for thing in own]
            large = [t.segmentation for t in own if t.area >= LEAST_REGION * photo.size[0] * photo.size[1]]
            regions += best_ious(large, whole).tolist()
            for name, some in (("masks", whole), ("label_map", parts)):
                value, weight = covering(truth, some)
                covered[name][0] += value
                covered[name][1] += weight
        counts += count_boundaries(boundaries(labels), annotated_boundaries(photo))
    figures: Figures = {"photos": photos, "masks": masks / photos if photos else 0.0}
    figures |= average_recall(truths, answers)
    if dataset.partitions and photos:
        figures |= {
            "best_iou": float(np.mean(regions)) if regions else None,
            "covering": covered["masks"][0] / covered["masks"][1],
            "covering_label_map": covered["label_map"][0] / covered["label_map"][1],
            "boundary_f": counts.f,
            "boundary_precision": counts.precision,
            "boundary_recall": counts.recall,
        }
    return figures


def _by_annotator(photo: Photo) -> list[list[Thing]]:
    people: dict[int | None, list[Thing]] = {}
    for thing in photo.things:
        people.setdefault(thing.annotator, []).append(thing)
    return list(people.values())


def annotated_boundaries(photo: Photo) -> list[Bits]:
    """The boundaries (H, W) between the regions that each annotator of a photo drew."""
    return [
        boundaries(label_map([mask_of(thing.segmentation) for thing in own], photo.size, "area"))
        for own in _by_annotator(photo)
    ]


def of_masks(dataset: Dataset, records: Iterable[tuple[Photo, ImageRecord]]) -> Figures:
    """COCO's average precision of masks with categories and scores."""
    truths: list[Truth] = []
    answers: list[Answer] = []
    photos = 0
    for photo, record in records:
        photos += 1
        truths += [Truth(photo.number, t.category, t.segmentation, t.area, t.crowd) for t in photo.things]
        answers += [
            Answer(photo.number, mask.category_id, mask.segmentation, score_of(mask) or 0.0)
            for mask in record.annotations
            if mask.category_id is not None
        ]
    return {
        "photos": photos,
        "things": sum(not truth.crowd for truth in truths),
        "masks": len(answers),
        **average_precision(truths, answers),
    }


def of_edges(found: Mapping[PurePosixPath, Rows]) -> Figures:
    """ODS, OIS, AP and R50 of the counts of each photo, as `edges.count_edges` gives them."""
    counts = [
        [Counts(row["found"], row["right"], row["drawn"], row["hit"]) for row in rows]
        for rows in found.values()
    ]
    if not counts:
        return {"photos": 0}
    figures = edge_figures(counts)._asdict()
    return {"photos": len(counts), **figures}
