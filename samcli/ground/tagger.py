"""What a tagger is: images in, words for what they show out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.records import Tag


class Tagged(NamedTuple):
    """Words for one image, best first, each once, in lower case unless they were given otherwise.

    caption: the sentence that the words are from, where there is one.
    """

    tags: tuple[Tag, ...]
    caption: str | None = None


class Tagger(Protocol):
    """Says what images show. Holds no state between calls.

    name: as in `samcli models`. sha256: of its files. images_per_call: that suit its device.
    """

    name: str
    sha256: str
    images_per_call: int

    def tag(self, images: Sequence[NDArray[np.uint8]]) -> list[Tagged]:
        """Words for each image, (H, W, 3) uint8 RGB; maybe none."""


@dataclass(frozen=True)
class Limits:
    """Which words a tagger says. threshold: least score, `>=`. most: for an image. Raises SamcliError."""

    threshold: float
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise SamcliError(f"the tagger's threshold is {self.threshold}; give one from 0 to 1")
        if self.most < 1:
            raise SamcliError(f"the tagger may say {self.most} words; let it say one at least")

    def __call__(self, tags: Iterable[Tag]) -> tuple[Tag, ...]:
        """The best of `tags`, best first; equal scores stay in their order."""
        kept = sorted((tag for tag in tags if tag.score >= self.threshold), key=lambda tag: -tag.score)
        return tuple(kept[: self.most])
