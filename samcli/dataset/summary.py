"""What a dataset holds, counted while it is built: all that the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samcli.records import MaskRecord

BINS = 20  # of each histogram
SAMPLES = 12  # of a class


@dataclass(frozen=True)
class Sample:
    """A mask to show, and the photo it is of: its path relative to its root."""

    file_name: str
    mask: MaskRecord


@dataclass(frozen=True)
class ClassSummary:
    """One category. accepted, to_review: proposals of samcli. existing: annotations that were there before.

    images: that have at least one of the three. samples: at most SAMPLES, the best of their photos, from the
    best to the worst.
    """

    name: str
    accepted: int
    to_review: int
    existing: int
    images: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """A part of the dataset: its name, images and annotations."""

    name: str
    images: int
    annotations: int


@dataclass(frozen=True)
class Summary:
    """All of a dataset.

    images: in annotations.json. empty: of these, without an annotation. classes: the most frequent first.
    scores, review_scores: how many accepted proposals, and those to review, have a score in each of BINS
    equal parts of 0 to 1. sizes: how many annotations have a side, the square root of their share of the
    image, in each of BINS equal parts of 0 to 1. dropped: proposals that were not taken, by reason.
    duplicates: groups of photos that look alike, by path; the first of a group is the one that is kept when
    the others are left out (`skipped`). failures: paths and reasons. settings: what made the records, as in
    their heads, one entry for each different configuration.
    """

    images: int
    empty: int
    classes: tuple[ClassSummary, ...]
    scores: tuple[int, ...]
    review_scores: tuple[int, ...]
    sizes: tuple[int, ...]
    dropped: Mapping[str, int]
    duplicates: tuple[tuple[str, ...], ...]
    skipped: bool
    failures: tuple[tuple[str, str], ...]
    splits: tuple[Split, ...]
    settings: tuple[Mapping[str, Any], ...]

    @property
    def accepted(self) -> int:
        return sum(one.accepted for one in self.classes)

    @property
    def to_review(self) -> int:
        return sum(one.to_review for one in self.classes)

    @property
    def existing(self) -> int:
        return sum(one.existing for one in self.classes)
