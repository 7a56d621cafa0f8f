"""What a tagger is: images in, words for what they show out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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
