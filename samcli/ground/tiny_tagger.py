"""The embedded tagger: which words fit a photo, by the network of the embedded detector.

Words are first compared with regions: squares of several sizes all over the photo, as the network was trained
to do with regions. For the best few the word head then draws its mask and says how sure it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samcli.geometry import resized_size
from samcli.ground.detector import Thresholds
from samcli.ground.names import kinds_of, read_thing_names
from samcli.ground.pretrained import Place
from samcli.ground.tagger import Limits, Tagged
from samcli.ground.tiny import SIDE, STRIDE, load_tiny, only
from samcli.models.words import Meanings
from samcli.records import Tag
from samcli.weights import NAMES_FILE

SQUARES = (3, 5, 8, 12, 16, 24)  # cells of a region's side; all of the photo is the largest one
STEP = 3  # regions are a third of their side apart
ASKED = 12  # words whose mask is drawn; with 24 the words were the same on dev photos


class TinyTagger:
    """See `Tagger`. A word's score is the geometric mean of how alike the likest region is to it, and of how
    sure the word head is of its mask, each from 0 to 1.
    """

    def __init__(self, place: Place, labels: Sequence[str] | None, limits: Limits) -> None:
        """labels: what to choose from, else the names of things that it learned photos of; of those only one
        is said of words that are kinds of each other. Raises WeightsError when a file is damaged, SamcliError
        for labels outside the vocabulary.
        """
        self.name, self.sha256 = place.name, place.sha256
        self._limits = limits
        self._detector = load_tiny(
            place.folder, place.sha256, Thresholds(0.0), device=place.device, dtype=place.dtype
        )
        self.images_per_call = self._detector.images_per_call
        if labels is None:
            names = read_thing_names(place.folder / NAMES_FILE)
            self._words = tuple(name.word for name in names)
            self._kinds = kinds_of(names)
            same = np.array([[a.word in b.also or b.word in a.also for b in names] for a in names])
            self._related = self._kinds | self._kinds.T | same
        else:
            self._words = tuple(dict.fromkeys(labels))
            self._kinds = self._related = np.zeros((len(self._words),) * 2, bool)
        self._detector.vocabulary.check(self._words)
        self._meant = self._detector.words(self._words)

    @torch.inference_mode()
    def tag(self, images: Sequence[NDArray[np.uint8]]) -> list[Tagged]:
        """See `Tagger`."""
        found = []
        for start in range(0, len(images), self.images_per_call):
            group = images[start : start + self.images_per_call]
            meanings = self._detector.look(group)
            found += [self._tagged(only(meanings, i), image.shape[:2]) for i, image in enumerate(group)]
        return found

    def _tagged(self, meanings: Meanings, size: tuple[int, ...]) -> Tagged:
        """The words for one image of `size` (height, width)."""
        alike = self._alike(meanings, size)
        best = alike.argsort(descending=True, stable=True)[:ASKED]
        sure = self._detector.sure(meanings, self._meant[best])
        scores = np.zeros(len(self._words))
        scores[best.cpu().numpy()] = (alike[best] * sure).sqrt().double().cpu().numpy()
        # A thing is at least as likely there as any kind of it.
        scores = np.maximum(scores, (self._kinds.T * scores).max(axis=1, initial=0))
        kept: list[int] = []
        general = self._kinds.sum(axis=0)  # of equals the more general first
        for i in np.lexsort((-general, -scores)).tolist():
            if scores[i] > 0 and not self._related[i, kept].any():
                kept.append(i)
        return Tagged(self._limits(Tag(self._words[i], float(scores[i])) for i in kept))

    def _alike(self, meanings: Meanings, size: tuple[int, ...]) -> Tensor:
        """How alike the likest region of an image of `size` is to each word, (W,) 0 to 1, in fp32."""
        height, width = resized_size((size[0], size[1]), SIDE)
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        grid = SIDE // STRIDE
        cells = meanings.cells[0].T.reshape(1, -1, grid, grid)[:, :, :rows, :columns]
        regions = [
            F.avg_pool2d(cells, (min(side, rows), min(side, columns)), stride=max(1, side // STEP))
            .flatten(2)[0]
            .T
            for side in SQUARES
        ]
        return self._detector.alike(torch.cat(regions), self._meant).amax(dim=0)
