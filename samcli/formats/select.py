"""Which masks of a record are exported, and what becomes of them: filters, merging, what lies on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.formats.names import image_id
from samcli.masks import Area, decode_rle, decode_window, encode_rle, rle_area
from samcli.records import RLE, ImageRecord, MaskRecord

UNNAMED = "object"
"""The category of masks that have none."""

Flatten = Literal["area", "score", "order"]


@dataclass(frozen=True)
class Selection:
    """What of a record's masks to take, in this order: filters, merging, background.

    min_area, max_area: inclusive. min_score: inclusive; masks without a score stay. categories: all when
    empty. merge: the masks of a category become one. background: the category of a mask of all that no other
    covers.
    """

    min_area: Area | None = None
    max_area: Area | None = None
    min_score: float | None = None
    categories: tuple[str, ...] = ()
    merge: bool = False
    background: str | None = None

    def apply(self, record: ImageRecord) -> ImageRecord:
        """The record with the masks that are taken."""
        size = (record.height, record.width)
        low = self.min_area.pixels(size) if self.min_area else 0
        high = self.max_area.pixels(size) if self.max_area else math.inf
        masks = [
            mask
            for mask in record.annotations
            if low <= mask.area <= high
            and (self.min_score is None or (s := score_of(mask)) is None or s >= self.min_score)
            and (not self.categories or category_of(mask) in self.categories)
        ]
        if self.merge:
            masks = _merged(masks)
        if self.background is not None:
            masks += _uncovered(masks, size, self.background)
        return replace(record, annotations=tuple(masks))


def category_of(mask: MaskRecord) -> str:
    """The mask's category; named by its number when it has only that, `UNNAMED` when it has none."""
    if mask.category is not None:
        return mask.category
    return UNNAMED if mask.category_id is None else f"category {mask.category_id}"


def score_of(mask: MaskRecord) -> float | None:
    """What counts as the mask's score: its own, else its predicted IoU, else None."""
    return mask.predicted_iou if mask.score is None else mask.score


def stacked(masks: Sequence[MaskRecord], policy: Flatten) -> list[int]:
    """Indices of masks from the lowest to the one on top, where they overlap.

    area: the smaller lies on top. score: the better. order: the later. Of equals the later.
    """
    if policy == "area":
        return sorted(range(len(masks)), key=lambda i: -masks[i].area)
    if policy == "score":
        scores = [score_of(mask) for mask in masks]
        return sorted(range(len(masks)), key=lambda i: -math.inf if (s := scores[i]) is None else s)
    return list(range(len(masks)))


def label_map(
    masks: Sequence[MaskRecord], size: tuple[int, int], policy: Flatten, values: Sequence[int] | None = None
) -> NDArray[np.uint16]:
    """An index map (H, W) uint16 of masks of `size`: 0 background, values[i] where mask i is on top.

    values: 1, 2, ... when left out. Raises SamcliError for values above 65535.
    """
    values = range(1, len(masks) + 1) if values is None else values
    if max(values, default=0) > 65535:
        raise SamcliError(
            f"{max(values)} masks do not fit a label map of 16 bits; write them as --format png"
        )
    labels = np.zeros(size, np.uint16)
    for i in stacked(masks, policy):
        x, y, bits = decode_window(masks[i].segmentation)
        labels[y : y + bits.shape[0], x : x + bits.shape[1]][bits] = values[i]
    return labels


def mask_of(
    segmentation: RLE,
    *,
    id: int | None = None,
    category: str | None = None,
    category_id: int | None = None,
    score: float | None = None,
) -> MaskRecord:
    """A mask that another program made, measured: box and area follow from the segmentation."""
    x, y, width, height = (int(v) for v in coco.toBbox(segmentation))
    return MaskRecord(
        segmentation,
        (x, y, width, height),
        rle_area(segmentation),
        id=id,
        category=category,
        category_id=category_id,
        score=score,
    )


def record_of(file_name: PurePosixPath, size: Sequence[int], masks: Sequence[MaskRecord]) -> ImageRecord:
    """The record of an image whose masks another program made. size: (height, width)."""
    height, width = (int(v) for v in size)
    path = file_name.as_posix()
    return ImageRecord(None, None, image_id(file_name), width, height, path, tuple(masks))


def _merged(masks: Sequence[MaskRecord]) -> list[MaskRecord]:
    """One mask for each category, in the order in which they first come; its score is that of its best."""
    groups: dict[str, list[MaskRecord]] = {}
    for mask in masks:
        groups.setdefault(category_of(mask), []).append(mask)
    merged = []
    for number, (name, members) in enumerate(groups.items(), start=1):
        union = coco.merge([mask.segmentation for mask in members])
        rle: RLE = {
            "size": [int(v) for v in union["size"]],
            "counts": union["counts"].decode("ascii"),
        }
        scores = [s for mask in members if (s := score_of(mask)) is not None]
        merged.append(
            mask_of(
                rle,
                id=number,
                category=name,
                category_id=members[0].category_id,
                score=max(scores, default=None),
            )
        )
    return merged


def _uncovered(masks: Sequence[MaskRecord], size: tuple[int, int], name: str) -> list[MaskRecord]:
    covered = np.zeros(size, bool)
    for mask in masks:
        covered |= decode_rle(mask.segmentation)
    if covered.all():
        return []
    number = max((mask.id or 0 for mask in masks), default=0) + 1
    return [mask_of(encode_rle(~covered), id=number, category=name)]
