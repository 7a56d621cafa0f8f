"""Counting what a dataset gets, for its `Summary`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from samcli.dataset.curate import REASONS
from samcli.dataset.summary import BINS, SAMPLES, ClassSummary, Sample
from samcli.formats.select import category_of, score_of
from samcli.records import MaskRecord


class Samples:
    """At most SAMPLES of any number of samples, each of another photo, spread over their scores."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, str, Sample]] = []  # from the worst to the best

    def add(self, sample: Sample) -> None:
        """Take one more in; the one goes that leaves the smallest gap. The best and the worst stay."""
        score = score_of(sample.mask)
        tie = hashlib.sha256(sample.file_name.encode("utf-8", "backslashreplace")).hexdigest()
        self._kept.append((-math.inf if score is None else score, tie, sample))
        self._kept.sort(key=lambda one: one[:2])
        if len(self._kept) > SAMPLES:
            inner = range(1, SAMPLES)
            scores = [one[0] for one in self._kept]
            least = min(inner, key=lambda i: (_gap(scores[i - 1], scores[i + 1]), self._kept[i][1]))
            del self._kept[least]

    def best_first(self) -> tuple[Sample, ...]:
        return tuple(sample for _, _, sample in reversed(self._kept))


def _gap(low: float, high: float) -> float:
    return 0.0 if low == high else high - low  # infinities may be equal


@dataclass
class _Class:
    accepted: int = 0
    to_review: int = 0
    existing: int = 0
    images: int = 0
    samples: Samples = field(default_factory=Samples)


class Tally:
    """What was counted so far. empty: images without an annotation."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._classes = {name: _Class() for name in numbers}
        self._numbers = numbers
        self.empty = 0
        self.scores, self.review_scores, self.sizes = [0] * BINS, [0] * BINS, [0] * BINS
        self._dropped: Counter[str] = Counter()

    def existing(self, annotations: Sequence[tuple[str, float | None]]) -> None:
        """Count an image, and what was there before: categories and, where known, shares of the image."""
        self.empty += not annotations
        for name, share in annotations:
            self._classes[name].existing += 1
            if share is not None:
                _count(self.sizes, math.sqrt(max(share, 0.0)))
        for name in {name for name, _ in annotations}:
            self._classes[name].images += 1

    def proposals(
        self,
        file_name: str,
        pixels: int,
        accepted: Sequence[MaskRecord],
        to_review: Sequence[MaskRecord],
        dropped: Mapping[str, int],
        before: Iterable[str] = (),
    ) -> None:
        """Count the proposals of an image, itself counted by `existing`. before: categories that it had."""
        had = set(before)
        self.empty -= bool(accepted) and not had
        best: dict[str, MaskRecord] = {}
        for masks, scores in ((accepted, self.scores), (to_review, self.review_scores)):
            for mask in masks:
                name, score = category_of(mask), score_of(mask)
                known = self._classes[name]
                if masks is accepted:
                    known.accepted += 1
                    _count(self.sizes, math.sqrt(mask.area / pixels))
                else:
                    known.to_review += 1
                if score is not None:
                    _count(scores, score)
                other = best.setdefault(name, mask)
                if (score_of(other) or 0) < (score or 0):
                    best[name] = mask
        for name, mask in best.items():
            self._classes[name].images += name not in had
            self._classes[name].samples.add(Sample(file_name, mask))
        self._dropped.update(dropped)

    def classes(self) -> tuple[ClassSummary, ...]:
        """The most frequent first, by annotations, then by proposals to review, then by number."""
        order = sorted(
            self._classes.items(),
            key=lambda entry: (
                -(entry[1].accepted + entry[1].existing),
                -entry[1].to_review,
                self._numbers[entry[0]],
            ),
        )
        return tuple(
            ClassSummary(
                name, one.accepted, one.to_review, one.existing, one.images, one.samples.best_first()
            )
            for name, one in order
        )

    def dropped(self) -> dict[str, int]:
        return {reason: self._dropped[reason] for reason in REASONS if self._dropped[reason]}


def _count(bins: list[int], value: float) -> None:
    if math.isfinite(value):
        bins[min(max(int(value * BINS), 0), BINS - 1)] += 1
