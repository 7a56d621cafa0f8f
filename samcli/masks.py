"""Masks as bits and as run-length encodings: areas, boxes, stability, duplicates, small regions.

Boxes in here are the reference's: inclusive xyxy, so a one-pixel mask has x0 == x1 and area 0, and keep sets
agree with it. `mask_bbox` alone gives the written form, xywh in pixel extent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samcli.errors import SamcliError
from samcli.records import RLE

if TYPE_CHECKING:
    from torch import Tensor

MASK_THRESHOLD = 0.0  # logits above it belong to the mask


def _coco() -> Any:
    from pycocotools import mask  # machines that only train have none

    return mask


@dataclass(frozen=True)
class Area:
    """A number of pixels, or a share of the image's (from 0 to 1)."""

    value: float
    share: bool = False

    def pixels(self, size: tuple[int, int]) -> float:
        """In an image of `size` (height, width)."""
        return self.value * size[0] * size[1] if self.share else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.share else f"{self.value:g}"


def parse_area(text: str) -> Area:
    """Read "1000" (pixels) or "0.5%" (of the image). Raises SamcliError."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (percent and value > 100):
        raise SamcliError(f"{text!r} is not an area; give pixels such as 1000, or a share such as 0.5%")
    return Area(value / 100, True) if percent else Area(value)


def encode_rle(mask: NDArray[np.bool_]) -> RLE:
    """Encode a (H, W) mask as compressed COCO RLE."""
    rle = _coco().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_ends(ends: NDArray[np.integer[Any]], size: tuple[int, int]) -> RLE:
    """Encode a mask of `size` (height, width) from where its runs end, in pixels column by column: first what
    is outside of it. The last end may be left out.
    """
    height, width = size
    if not len(ends) or ends[-1] != height * width:
        ends = np.append(ends, height * width)
    rle = _coco().frPyObjects(
        {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}, height, width
    )
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: RLE) -> NDArray[np.bool_]:
    """The (H, W) mask of a compressed COCO RLE. Raises SamcliError when counts and size disagree."""
    _ends(rle)  # pycocotools gives memory that it never wrote where runs are missing
    bits: NDArray[np.uint8] = _coco().decode(rle)
    return bits.view(np.bool_)


def decode_window(rle: RLE) -> tuple[int, int, NDArray[np.bool_]]:
    """Left and top of the mask's box, and the bits in it (h, w): the same mask, sooner for small ones.

    (0, 0) and nothing when it is empty. Raises SamcliError when counts and size disagree.
    """
    height, _ = rle["size"]
    ends = _ends(rle)
    runs = ends[: len(ends) // 2 * 2].reshape(-1, 2)  # where the mask begins and ends, column by column
    runs = runs[runs[:, 0] < runs[:, 1]]
    if not len(runs):
        return 0, 0, np.zeros((0, 0), bool)
    left, right = int(runs[0, 0] // height), int((runs[-1, 1] - 1) // height) + 1
    edges = np.concatenate([[left * height], runs.ravel(), [right * height]])
    lengths = edges[1:] - edges[:-1]
    flags = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(flags, lengths).reshape(right - left, height).T
    rows = np.flatnonzero(columns.any(axis=1))
    return left, int(rows[0]), columns[rows[0] : rows[-1] + 1]


def check_rle(rle: RLE) -> None:
    """Raise SamcliError when counts and size disagree."""
    _ends(rle)


def _ends(rle: RLE) -> NDArray[np.int64]:
    """Where the runs of an RLE end, in pixels column by column. Raises SamcliError when they do not fit.

    Each character of the counts holds five bits of a number, the lowest first, and whether it goes on; from
    the fourth number on they are differences to the number before the last one.
    """
    height, width = rle["size"]
    codes = np.frombuffer(rle["counts"].encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)  # characters of each number
    first = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    sizes = last - first + 1
    ends = np.zeros(0, np.int64)
    if len(last) and last[-1] == len(codes) - 1 and sizes.max() <= 7 and 0 <= codes.min() <= codes.max() < 64:
        place = np.arange(len(codes)) - np.repeat(first, sizes)
        values = np.add.reduceat((codes & 31) << 5 * place, first)
        values -= np.where(codes[last] & 16, 1 << 5 * sizes, 0)  # the last bit is the sign
        values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
        if (values >= 0).all():
            ends = np.cumsum(values)
    if not len(ends) or ends[-1] != height * width:
        pixels = height * width
        size = rle["size"]
        raise SamcliError(f"run-length encoding of size {size} is damaged: not runs of {pixels} pixels")
    return ends


def label_rles(labels: NDArray[np.integer[Any]]) -> dict[int, RLE]:
    """The mask of each value above 0 of an index map (H, W), by value."""
    flat = labels.ravel(order="F")
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    runs = np.stack([begins, np.append(begins[1:], flat.size)], axis=1)
    values = flat[begins]
    order = np.argsort(values, kind="stable")
    found, at = np.unique(values[order], return_index=True)
    rles: dict[int, RLE] = {}
    for value, own in zip(found.tolist(), np.split(runs[order], at[1:]), strict=True):
        if value > 0:
            rles[value] = encode_ends(own.ravel(), (labels.shape[0], labels.shape[1]))
    return rles


def rle_area(rle: RLE) -> int:
    """Pixels in the mask of an RLE."""
    return int(_coco().area(rle))


def mask_bbox(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of a (H, W) mask in pixel extent; (0, 0, 0, 0) when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def mask_to_box(masks: Tensor) -> Tensor:
    """Boxes of masks (N, H, W) bool: (N, 4) int64, inclusive xyxy; zeros for empty masks."""
    height, width = masks.shape[-2:]
    if masks.numel() == 0:
        return masks.new_zeros((len(masks), 4)).long()
    rows, columns = masks.any(dim=2).long(), masks.any(dim=1).long()
    box = masks.new_zeros((len(masks), 4)).long()
    box[:, 0], box[:, 1] = columns.argmax(dim=1), rows.argmax(dim=1)
    box[:, 2], box[:, 3] = width - 1 - columns.flip(1).argmax(dim=1), height - 1 - rows.flip(1).argmax(dim=1)
    return box * rows.any(dim=1, keepdim=True)


def stability_score(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU between the masks cut at threshold + offset and at threshold - offset.

    logits: (..., H, W), full resolution or any part outside which all logits are at most threshold - offset.
    Returns (...) float32; 0 where the larger mask is empty, where the reference divides by zero.
    """
    inner = (logits > threshold + offset).sum(dim=(-2, -1))
    outer = (logits > threshold - offset).sum(dim=(-2, -1))
    return inner / outer.clamp(min=1)


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Greedy suppression of boxes that overlap a better one by an IoU above `threshold`.

    boxes: (N, 4) xyxy. scores: (N,); of equal scores the earlier box is the better one. Returns the indices
    kept, by falling score. Computes in float32 as torchvision does, so that keep sets agree; two boxes
    without area never overlap.
    """
    box = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(box[best, 2:], box[order, 2:]) - np.maximum(box[best, :2], box[order, :2])
        common = np.prod(np.maximum(sides, 0), axis=1)
        union = area[best] + area[order] - common
        iou = np.divide(common, union, out=np.zeros_like(union), where=union > 0)
        order = order[iou.astype(np.float64) <= threshold]
    return np.array(kept, dtype=np.int64)


def mask_nms(rles: Sequence[RLE], scores: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Greedy suppression of masks that overlap a better one by an exact mask IoU above `threshold`.

    rles: N masks of one size. scores: (N,); of equal scores the earlier mask is the better one. Returns the
    indices kept, by falling score.
    """
    area = np.array([rle_area(rle) for rle in rles], dtype=np.float64)
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        # An IoU is at most the ratio of the areas, which spares most of the exact comparisons.
        smaller, larger = np.minimum(area[best], area[order]), np.maximum(area[best], area[order])
        close = smaller > threshold * larger
        rivals = [rles[i] for i in order[close]]
        if rivals:
            iou = np.zeros(len(order))
            iou[close] = _coco().iou(rivals, [rles[best]], [0])[:, 0]
            order = order[iou <= threshold]
    return np.array(kept, dtype=np.int64)


def remove_small_regions(
    mask: NDArray[np.bool_], min_area: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes, or drop the islands, of a (H, W) mask that have fewer than `min_area` pixels.

    Regions are 8-connected. If every island is too small the largest stays. Returns the mask and whether it
    changed.
    """
    import cv2  # slow to import, and most callers of this module never come here

    # The mask's surroundings do as well as the whole: so wide that they count at least min_area pixels
    # themselves.
    margin = math.ceil(max(math.sqrt(min_area), min_area / min(mask.shape)))
    x, y, w, h = mask_bbox(mask)
    top, left = max(y - margin, 0) // 2 * 2, max(x - margin, 0) // 2 * 2  # even: OpenCV labels 2x2 at once,
    window = np.s_[top : y + h + margin, left : x + w + margin]  # so of equal islands the same one stays
    regions = mask[window] if mode == "islands" else ~mask[window]
    count, labels = cv2.connectedComponents(regions.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=count)[1:]
    small = sizes < min_area
    if not small.any():
        return mask, False
    chosen = np.zeros(count, dtype=bool)  # per label, whether it belongs to the result; label 0 is the rest
    if mode == "holes":
        chosen[0] = True
        chosen[1:] = small
    elif small.all():
        chosen[1 + int(np.argmax(sizes))] = True
    else:
        chosen[1:] = ~small
    result = mask.copy()
    result[window] = chosen[labels]
    return result, True
