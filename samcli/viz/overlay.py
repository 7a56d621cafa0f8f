"""Masks drawn over their image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.masks import decode_rle, mask_bbox, rle_area
from samcli.records import RLE, Box

FILL = 0.5  # share of the colour in a mask's inside: the picture must stay readable through it
WHITE = 0.4  # share of white in the colour of a contour: seen on dark and bright pictures alike


def overlay(
    image: NDArray[np.uint8],
    masks: Sequence[RLE | NDArray[np.bool_]],
    *,
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    boxes: Sequence[Box] = (),
) -> NDArray[np.uint8]:
    """Draw masks over an image, the smaller over the larger: translucent inside, a crisp contour around.

    image: (H, W, 3) uint8 RGB, left as it is. masks: (H, W) each, the i-th in the i-th colour of `palette`.
    points: (x, y) pixels, drawn green, or red where `labels` says 0. boxes: drawn white.
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
    canvas = _painted(image, fill, rim, palette(len(masks)))
    for box in boxes:
        left, top, right, bottom = (round(v) for v in box.xyxy)
        for color, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), color, width)
    for point, label in zip(points, labels or [1] * len(points), strict=True):
        center = (int(point[0]), int(point[1]))
        cv2.circle(canvas, center, 5 * line, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, center, 4 * line, (0, 170, 60) if label else (220, 30, 30), -1, cv2.LINE_AA)
    return canvas


def palette(count: int) -> NDArray[np.uint8]:
    """Colours by index, (count, 3) uint8 RGB: the i-th never depends on count, neighbours differ well.

    Hues turn by the golden angle in OKLCH (Björn Ottosson, 2020), where equal steps look equally far apart,
    and lightness takes three values in turn.
    """
    i = np.arange(count)
    hue = np.radians(255 + 137.508 * i)
    lightness = np.array([0.70, 0.80, 0.60])[i % 3]
    rgb = np.zeros((count, 3))
    fits = np.zeros(count, bool)
    for chroma in np.arange(0.26, 0, -0.01):  # the strongest that sRGB can show
        lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
        linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
        new = ~fits & (linear >= 0).all(axis=1) & (linear <= 1).all(axis=1)
        rgb[new] = linear[new]
        fits |= new
    srgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    colors: NDArray[np.uint8] = (srgb * 255).round().astype(np.uint8)
    return colors


_OKLAB_TO_LMS = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _area(mask: RLE | NDArray[np.bool_]) -> int:
    return int(mask.sum()) if isinstance(mask, np.ndarray) else rle_area(mask)


def _cropped(mask: RLE | NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    """Left, top and the bits of the mask's box."""
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
