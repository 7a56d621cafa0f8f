"""A detector for synthetic pictures that really detects: phrases are colours, things are blobs of them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from samcli.errors import SamcliError
from samcli.ground.detector import Detected, Thresholds


class ColourDetector:
    """Boxes of the connected blobs of colours that Pillow knows by name; an article before one is allowed.

    A blob's score is the share of its box that it fills, less a tenth of the share of the picture that it
    does not cover. calls: pictures in each call of `detect`.
    """

    name = "colours"
    sha256 = "c0" * 32
    thresholds = Thresholds(0.3, 0.25)

    def __init__(self, images_per_call: int = 1) -> None:
        self.images_per_call = images_per_call
        self.calls: list[int] = []

    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        self.calls.append(len(images))
        return [self._detect(image, phrases, thresholds) for image in images]

    def knows(self, phrase: str) -> bool:
        try:
            rgb(phrase)
        except SamcliError:
            return False
        return True

    def _detect(self, image: NDArray[np.uint8], phrases: Sequence[str], thresholds: Thresholds) -> Detected:
        rows = []
        for number, phrase in enumerate(phrases):
            colour = rgb(phrase)
            blobs = (np.abs(image.astype(int) - colour).max(axis=2) <= 40).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(blobs, connectivity=8)
            for x, y, w, h, area in stats[1:].tolist():
                score = area / (w * h) - 0.1 * (1 - area / blobs.size)
                if score > thresholds.box and area >= 16:
                    rows.append((score, x, y, x + w, y + h, number))
        table = np.array(sorted(rows, key=lambda row: -row[0]), dtype=np.float64).reshape(-1, 6)
        return Detected(table[:, 1:5], table[:, 0], table[:, 5].astype(np.int64))


def rgb(phrase: str) -> tuple[int, ...]:
    """The colour that a phrase names. Raises SamcliError."""
    try:
        return ImageColor.getrgb(phrase.lower().removeprefix("a ").removeprefix("an "))
    except ValueError:
        raise SamcliError(f"the detector colours does not know {phrase!r}; name a colour") from None


def picture(
    size: tuple[int, int], things: Sequence[tuple[str, tuple[int, int, int, int]]]
) -> NDArray[np.uint8]:
    """A grey picture of `size` (height, width) with coloured boxes x0, y0, x1, y1 in it."""
    pixels = np.full((*size, 3), 128, np.uint8)
    for colour, (x0, y0, x1, y1) in things:
        pixels[y0:y1, x0:x1] = ImageColor.getrgb(colour)
    return pixels
