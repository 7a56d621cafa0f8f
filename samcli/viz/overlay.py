"""Masks drawn over their image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.masks import decode_rle, mask_bbox, rle_area
from samcli.records import RLE, Box, MaskRecord
from samcli.viz.colors import color_index, colors, label_of
from samcli.viz.text import LONGEST, Tag, plain, write_tags

Mask: TypeAlias = MaskRecord | RLE | NDArray[np.bool_]

FILL = 0.5  # share of the colour in a mask's inside: the picture must stay readable through it
WHITE = 0.4  # share of white in the colour of a contour: seen on dark and bright pictures alike


def overlay(
    image: NDArray[np.uint8],
    masks: Sequence[Mask],
    *,
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    boxes: Sequence[Box] = (),
    least_labelled: int = 0,
) -> NDArray[np.uint8]:
    """Draw masks over an image, the smaller over the larger: translucent inside, a crisp contour around.

    image: (H, W, 3) uint8 RGB, left as it is. masks: (H, W) each; a record is coloured by its label or id and
    has its label and the detector's score written on it, the i-th of the others in the i-th colour of
    `palette`.
    points: (x, y) pixels, drawn green, or red where `labels` says 0. boxes: drawn white.
    least_labelled: masks that show fewer pixels get no label, which would hide them.
    Returns (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    line = max(1, round(min(height, width) / 400))
    index = np.min_scalar_type(len(masks))
    fill = np.zeros((height, width), index)  # 1 + index of the uppermost mask
    rim = np.zeros((height, width), index)  # 1 + index of the uppermost contour
    for i in sorted(range(len(masks)), key=lambda i: -_area(masks[i])):
        x, y, inside = _cropped(masks[i])
        place = (slice(y, y + inside.shape[0]), slice(x, x + inside.shape[1]))
        fill[place][inside] = i + 1
        rim[place][_rim(inside, x, y, (height, width), line)] = i + 1
    painted = colors([color_index(m, i) if isinstance(m, MaskRecord) else i for i, m in enumerate(masks)])
    canvas = _painted(image, fill, rim, painted)
    for box in boxes:
        left, top, right, bottom = (round(v) for v in box.xyxy)
        for color, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), color, width)
    for point, label in zip(points, labels or [1] * len(points), strict=True):
        center = (int(point[0]), int(point[1]))
        cv2.circle(canvas, center, 5 * line, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, center, 4 * line, (0, 170, 60) if label else (220, 30, 30), -1, cv2.LINE_AA)
    write_tags(canvas, list(_tags(masks, fill, painted, least_labelled)))
    return canvas


def _tags(
    masks: Sequence[Mask],
    fill: NDArray[np.unsignedinteger[Any]],
    colors: NDArray[np.uint8],
    least: int,
) -> Iterator[Tag]:
    """The labels of masks, each at the point of what is seen of its mask that is farthest from its edge."""
    for i, mask in enumerate(masks):
        label = label_of(mask) if isinstance(mask, MaskRecord) else None
        if label:
            left, top, inside = _cropped(mask)
            seen = inside & (fill[top : top + inside.shape[0], left : left + inside.shape[1]] == i + 1)
            part = seen if seen.any() else inside
            if part.any() and part.sum() >= least:
                depth = cv2.distanceTransform(np.pad(part.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
                y, x = np.unravel_index(int(depth.argmax()), depth.shape)
                score = mask.detector_score if isinstance(mask, MaskRecord) else None
                text = label if score is None else f"{plain(label, LONGEST - 5)} {score:.2f}"
                yield Tag(text, (left + int(x), top + int(y)), colors[i])


def _area(mask: Mask) -> int:
    mask = _bare(mask)
    return int(mask.sum()) if isinstance(mask, np.ndarray) else rle_area(mask)


def _bare(mask: Mask) -> RLE | NDArray[np.bool_]:
    return mask.segmentation if isinstance(mask, MaskRecord) else mask


def _cropped(mask: Mask) -> tuple[int, int, NDArray[np.bool_]]:
    """Left, top and the bits of the mask's box."""
    mask = _bare(mask)
    if isinstance(mask, np.ndarray):
        x, y, width, height = mask_bbox(mask)
        return x, y, mask[y : y + height, x : x + width]
    x, y, width, height = (int(v) for v in coco.toBbox(mask))
    return x, y, decode_rle(mask)[y : y + height, x : x + width]


def _rim(inside: NDArray[np.bool_], x: int, y: int, size: tuple[int, int], line: int) -> NDArray[np.bool_]:
    """The pixels of a mask within `line` pixels of its outside; the image's border is no outside."""
    top, left = int(y > 0), int(x > 0)
    bottom, right = int(y + inside.shape[0] < size[0]), int(x + inside.shape[1] < size[1])
    padded = np.pad(inside.view(np.uint8), ((top, bottom), (left, right)))
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    rim: NDArray[np.bool_] = inside & (
        distance[top : top + inside.shape[0], left : left + inside.shape[1]] <= line
    )
    return rim


def _painted(
    image: NDArray[np.uint8],
    fill: NDArray[np.unsignedinteger[Any]],
    rim: NDArray[np.unsignedinteger[Any]],
    colors: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """The image with colours blended in where `fill` names a mask, and contours where `rim` does."""
    share = np.full(len(colors) + 1, FILL, np.float32)
    share[0] = 0
    add = np.zeros((len(colors) + 1, 3), np.float32)
    add[1:] = FILL * colors
    contour = np.zeros((len(colors) + 1, 3), np.uint8)
    contour[1:] = ((1 - WHITE) * colors + WHITE * 255).round()
    canvas = np.empty_like(image)
    for row in range(0, len(image), 256):  # bands keep the floats small
        rows = slice(row, row + 256)
        blended = image[rows] * (1 - share)[fill[rows]][..., None] + add[fill[rows]]
        canvas[rows] = np.where(rim[rows][..., None] > 0, contour[rim[rows]], blended.round())
    return canvas
