"""What a detector is: images and phrases in, boxes with scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Detected:
    """What was found in one image, best first.

    boxes: (N, 4) float64, x0, y0, x1, y1 in pixel extent of the image, within it, none empty.
    scores: (N,) float64, 0 to 1. phrases: (N,) int64, indices into the phrases asked for.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    phrases: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Detected:
        return Detected(self.boxes[which], self.scores[which], self.phrases[which])


def nothing() -> Detected:
    """What is found in an image where there is nothing to look for."""
    return Detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Thresholds:
    """box: least score of a box, `>`. text: least probability of a token that counts to a phrase, `>`; only
    Grounding DINO has one, None for the others.
    """

    box: float
    text: float | None = None


class Detector(Protocol):
    """Finds boxes for what phrases name. Holds no state between calls.

    name: as in `samcli models`. sha256: of its files. thresholds: its own defaults. images_per_call: that
    suit its device.
    """

    name: str
    sha256: str
    thresholds: Thresholds
    images_per_call: int

    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        """Boxes of all phrases in each image, (H, W, 3) uint8 RGB. Duplicates are left in: `ground.merge`
        drops them. Raises StopError for a phrase that it cannot look for, in whatever image.
        """

    def knows(self, phrase: str) -> bool:
        """Whether it can look for a phrase: `detect` raises for the others."""
