"""Colours of masks, the same in every picture, page and run: by their label, or else by their id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samcli.records import MaskRecord

INK = (0, 0, 0)
"""RGB of text on any of the colours: its contrast is at least 4.5 to 1 on each of them."""

_LABELS = 2**20  # more hues than an eye can tell apart


def label_of(mask: MaskRecord) -> str | None:
    """What a mask is called: its category, else the phrase it was found by; None without either."""
    return mask.category or mask.phrase or None


def color_index(mask: MaskRecord, place: int) -> int:
    """Which of `colors` a mask has: its label's, else its id's. place: from 0, stands for a missing id."""
    label = label_of(mask)
    if label is None:
        return place if mask.id is None else mask.id - 1
    return label_index(label)


def label_index(label: str) -> int:
    """Which of `colors` is a label's: the same in every picture, whatever else there is."""
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _LABELS


def mask_colors(masks: Sequence[MaskRecord]) -> NDArray[np.uint8]:
    """A colour for each mask, (N, 3) uint8 RGB."""
    return colors([color_index(mask, place) for place, mask in enumerate(masks)])


def palette(count: int) -> NDArray[np.uint8]:
    """Colours by index, (count, 3) uint8 RGB: the i-th never depends on count, neighbours differ well."""
    return colors(np.arange(count))


def colors(index: ArrayLike) -> NDArray[np.uint8]:
    """The colours with these indices, (N, 3) uint8 RGB.

    Hues turn by the golden angle in OKLCH (Björn Ottosson, 2020), where equal steps look equally far apart,
    and lightness takes three values in turn.
    """
    i = np.asarray(index, dtype=np.int64).reshape(-1)
    hue = np.radians(255 + 137.508 * i)
    lightness = np.array([0.70, 0.80, 0.60])[i % 3]
    rgb = np.zeros((len(i), 3))
    fits = np.zeros(len(i), bool)
    for chroma in np.arange(0.26, 0, -0.01):  # the strongest that sRGB can show
        lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
        linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
        new = ~fits & (linear >= 0).all(axis=1) & (linear <= 1).all(axis=1)
        rgb[new] = linear[new]
        fits |= new
    srgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    result: NDArray[np.uint8] = (srgb * 255).round().astype(np.uint8)
    return result


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
