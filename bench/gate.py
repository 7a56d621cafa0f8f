"""Whether two programs gave the same masks: the gate every timed run passes.

Masks are dicts as the generators give them: segmentation (COCO RLE), bbox, predicted_iou, stability_score,
point_coords and crop_box. Needs only numpy and pycocotools.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco

EQUAL_SHARE = 0.99  # of the masks that both have, at least so many are equal to the pixel
MOST_PIXELS = 2  # that the others differ by
NEAR_STABILITY = 1e-3  # of pairs: a few pixels of the two versions
NEAR = 1e-5  # a mask that one side lacks must come so close to a threshold

Mask = dict[str, Any]


@dataclass(frozen=True)
class Gate:
    """What a comparison found. faults: one line each, none when the outputs are the same.

    equal: masks that both have, equal to the pixel. differing: pixels each of the others differs by.
    excused: masks that only one side has, as near a threshold as to be allowed. area: the median mask's, as a
    share of the image.
    """

    ours: int
    theirs: int
    equal: int
    differing: list[int] = field(default_factory=list)
    excused: int = 0
    area: float = 0
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def compare(ours: list[Mask], theirs: list[Mask], settings: dict[str, Any] | None = None) -> Gate:
    """Compare masks of everything mode, or of prompts in order when there are no settings.

    ours: samcli's, bbox in pixel extent. theirs: the reference's, bbox max - min. settings: pred_iou_thresh,
    stability_score_thresh, box_nms_thresh and crop_nms_thresh of both.
    """
    if settings is None:
        pairs = list(zip(ours, theirs, strict=False))
        excused: set[int] = set()
        faults = [] if len(ours) == len(theirs) else [f"{len(ours)} masks, but {len(theirs)} expected"]
    else:
        ours = [mask | {"bbox": _inclusive(mask["bbox"])} for mask in ours]
        pairs, lonely = _matched(ours, theirs)
        excused = _excused(lonely, [*ours, *theirs], settings)
        faults = [
            f"only one has the mask of point {mask['point_coords'][0]}, predicted IoU "
            f"{mask['predicted_iou']:.6f}, stability {mask['stability_score']:.6f}"
            for mask in lonely
            if id(mask) not in excused
        ]
    differing = []
    for number, (mine, other) in enumerate(pairs, start=1):
        pixels = difference(mine["segmentation"], other["segmentation"])
        if pixels:
            differing.append(pixels)
        if pixels > MOST_PIXELS:
            faults.append(f"mask {number} differs by {pixels} pixels")
        apart = abs(mine.get("stability_score", 0) - other.get("stability_score", 0))
        if apart > NEAR_STABILITY:
            faults.append(f"mask {number} differs by {apart:.1g} in stability")
        if pixels == 0 and "bbox" in mine and list(mine["bbox"]) != list(other["bbox"]):
            faults.append(f"mask {number} is equal but its box is {mine['bbox']}, not {other['bbox']}")
    equal = len(pairs) - len(differing)
    if len(differing) > (1 - EQUAL_SHARE) * len(pairs):
        faults.append(f"only {equal} of {len(pairs)} masks are equal")
    if not pairs:
        faults.append("there are no masks to compare")
    area = float(np.median([_share(mask) for mask in theirs])) if theirs else 0.0
    return Gate(len(ours), len(theirs), equal, differing, len(excused), area, faults)


def difference(one: dict[str, Any], other: dict[str, Any]) -> int:
    """Pixels that two RLEs of one size differ by."""
    if one["counts"] == other["counts"]:
        return 0
    shared = coco.area(coco.merge([one, other], intersect=True))
    return int(coco.area(one)) + int(coco.area(other)) - 2 * int(shared)


def _share(mask: Mask) -> float:
    height, width = mask["segmentation"]["size"]
    return float(coco.area(mask["segmentation"])) / (height * width)


def _inclusive(bbox: list[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, width - 1, height - 1]


def _matched(ours: list[Mask], theirs: list[Mask]) -> tuple[list[tuple[Mask, Mask]], list[Mask]]:
    """Masks of one point and crop go together, the nearest first; and those left over on either side.

    A point has up to three masks, told apart by their predicted IoU and their pixels.
    """
    places: dict[Any, tuple[list[Mask], list[Mask]]] = {}
    for side, masks in enumerate((ours, theirs)):
        for mask in masks:
            place = tuple(np.round([*mask["point_coords"][0], *mask["crop_box"]], 3))
            places.setdefault(place, ([], []))[side].append(mask)
    pairs, lonely = [], []
    for mine, others in places.values():
        near = sorted(
            (abs(a["predicted_iou"] - b["predicted_iou"]), i, j)
            for i, a in enumerate(mine)
            for j, b in enumerate(others)
            if abs(a["predicted_iou"] - b["predicted_iou"]) <= 1e-3
        )
        taken: tuple[set[int], set[int]] = (set(), set())
        for _, i, j in near:
            if i not in taken[0] and j not in taken[1]:
                pairs.append((mine[i], others[j]))
                taken[0].add(i)
                taken[1].add(j)
        for masks, used in zip((mine, others), taken, strict=True):
            lonely += [mask for i, mask in enumerate(masks) if i not in used]
    return pairs, lonely


def _excused(lonely: list[Mask], everyone: list[Mask], settings: dict[str, Any]) -> set[int]:
    """The id() of each lonely mask near a threshold, or that comes or goes with one that is."""
    overlaps = {settings["box_nms_thresh"], settings["crop_nms_thresh"]}
    excused = set()
    for mask in lonely:
        iou = abs(mask["predicted_iou"] - settings["pred_iou_thresh"]) <= NEAR
        stability = abs(mask["stability_score"] - settings["stability_score_thresh"]) <= NEAR
        boxes = [_overlap(mask, other) for other in everyone if other is not mask]
        duplicate = any(abs(value - limit) <= NEAR for value in boxes for limit in overlaps)
        if iou or stability or duplicate:
            excused.add(id(mask))
    while True:  # a mask that is there suppresses others, one that is gone does not
        more = {
            id(mask)
            for mask in lonely
            if id(mask) not in excused
            and any(id(o) in excused and _overlap(mask, o) > min(overlaps) for o in lonely)
        }
        if not more:
            return excused
        excused |= more


def _overlap(one: Mask, other: Mask) -> float:
    """IoU of two inclusive boxes, (x, y, max x - min x, max y - min y), as NMS computes it."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one["bbox"], other["bbox"]
    width = max(0, min(ax + aw, bx + bw) - max(ax, bx))
    height = max(0, min(ay + ah, by + bh) - max(ay, by))
    union = aw * ah + bw * bh - width * height
    return width * height / union if union else 0.0
