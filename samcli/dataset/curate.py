"""Which proposals of an image become annotations, and why the others do not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.formats.select import Selection, category_of, score_of
from samcli.masks import Area, check_rle, mask_nms
from samcli.records import RLE, ImageRecord, MaskRecord

COVERED = 0.5  # mask IoU of a proposal with an existing annotation of whatever category
COVERED_INSIDE = 0.8  # share of a proposal inside one of its own category

REASONS = ("score", "area", "covered", "duplicates", "contained", "conflicts")
"""Why proposals are dropped, in the order in which it is asked."""


@dataclass(frozen=True)
class Curation:
    """What is taken of the proposals. Raises SamcliError for values that make no sense.

    min_score: inclusive. class_scores: for some categories, instead of min_score. min_area, max_area:
    inclusive. duplicates: mask IoU of two of one category, containment: share of a mask inside a better one
    of its category, conflicts: mask IoU of two of different categories, above which the worse goes; None
    keeps it. confident: from this score on they are accepted, below they are to review; None accepts all.
    """

    min_score: float | None = None
    class_scores: Mapping[str, float] = field(default_factory=dict)
    min_area: Area | None = None
    max_area: Area | None = None
    duplicates: float | None = 0.8
    # A part that the detector takes for the whole, such as a head for a person. Masks, unlike boxes, seldom
    # hold another thing of their kind.
    containment: float | None = 0.9
    conflicts: float | None = 0.8
    confident: float | None = None

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("min_score", "duplicates", "containment")}
        shares |= {"conflicts": self.conflicts, "confident": self.confident}
        shares |= {f"the score of {name}": value for name, value in self.class_scores.items()}
        for name, value in shares.items():
            if value is not None and not 0 <= value <= 1:  # false for NaN too
                raise SamcliError(f"{name.replace('_', ' ')} is {value:g}; give a number from 0 to 1")

    def least(self, category: str) -> float:
        """The score that masks of a category need."""
        least = self.class_scores.get(category, self.min_score)
        return -math.inf if least is None else least


class Existing(NamedTuple):
    """An annotation that was there before. crowd: a region of many things."""

    segmentation: RLE
    category: str
    crowd: bool = False


@dataclass(frozen=True)
class Curated:
    """The proposals of an image that are taken, as they are and in their order, and how many are not, by
    reason."""

    accepted: tuple[MaskRecord, ...]
    to_review: tuple[MaskRecord, ...]
    dropped: Mapping[str, int]


def curate(
    record: ImageRecord,
    curation: Curation,
    numbers: Mapping[str, int],
    existing: Sequence[Existing] = (),
) -> Curated:
    """Decide about the proposals of an image, by these rules in this order:

    1. score: below that of its category, else below min_score. A mask without a score passes.
    2. area: out of bounds, or no pixel.
    3. covered: the mask IoU with an existing annotation is 0.5 or more, or 0.8 of the mask is inside one of
       its category. Of a crowd only what is inside and of its category is covered.
    4. duplicates: the mask IoU with a better one of the same category is above `duplicates`.
    5. contained: more of the mask than `containment` is inside a better one of the same category.
    6. conflicts: the mask IoU with a better one of another category is above `conflicts`.

    The better has the higher score, without a score the lowest; of equal scores the category that is first
    in `numbers` wins, then the earlier mask. What a rule dropped drops nothing by a later rule. Who is left
    is accepted or to review, by `confident`; a mask without a score is not confident.

    numbers: of all categories. existing: annotations of the image, of its size. Raises SamcliError for
    damaged masks.
    """
    for mask in record.annotations:
        check_rle(mask.segmentation)
    dropped = dict.fromkeys(REASONS, 0)
    left = list(record.annotations)

    def keep(reason: str, kept: Sequence[MaskRecord]) -> None:
        nonlocal left
        dropped[reason] += len(left) - len(kept)
        left = list(kept)

    keep("score", [m for m in left if (s := score_of(m)) is None or s >= curation.least(category_of(m))])
    bounds = Selection(min_area=curation.min_area or Area(1), max_area=curation.max_area)
    sized = bounds.apply(ImageRecord(None, None, 0, record.width, record.height, "", tuple(left)))
    keep("area", [mask for mask in sized.annotations if mask.area])
    if existing:
        keep("covered", [m for m, c in zip(left, _covered(left, existing), strict=True) if not c])
    order = {id(mask): i for i, mask in enumerate(left)}
    left.sort(key=lambda mask: (-_rank(mask), numbers[category_of(mask)]))  # from the best on
    for reason, limit, rule in (
        ("duplicates", curation.duplicates, _distinct),
        ("contained", curation.containment, _not_inside),
    ):
        if limit is not None:
            kept: set[int] = set()
            for name in {category_of(mask) for mask in left}:
                own = [mask for mask in left if category_of(mask) == name]
                kept |= {id(mask) for mask in rule(own, limit)}
            keep(reason, [mask for mask in left if id(mask) in kept])
    if curation.conflicts is not None:
        keep("conflicts", _distinct(left, curation.conflicts))
    left.sort(key=lambda mask: order[id(mask)])
    sure = [
        curation.confident is None or ((s := score_of(mask)) is not None and s >= curation.confident)
        for mask in left
    ]
    return Curated(
        tuple(mask for mask, yes in zip(left, sure, strict=True) if yes),
        tuple(mask for mask, yes in zip(left, sure, strict=True) if not yes),
        {reason: number for reason, number in dropped.items() if number},
    )


def _rank(mask: MaskRecord) -> float:
    score = score_of(mask)
    return -math.inf if score is None else score


def _covered(masks: Sequence[MaskRecord], existing: Sequence[Existing]) -> list[bool]:
    """Of each mask whether it is an existing annotation, or part of one."""
    if not masks:
        return []
    rles, others = [mask.segmentation for mask in masks], [one.segmentation for one in existing]
    iou = np.asarray(coco.iou(rles, others, [0] * len(others)))
    inside = np.asarray(coco.iou(rles, others, [1] * len(others)))  # divides by the mask's own area
    same = np.array([[one.category == category_of(mask) for one in existing] for mask in masks])
    crowd = np.array([one.crowd for one in existing])
    covered: NDArray[np.bool_] = ((iou >= COVERED) & ~crowd | (inside >= COVERED_INSIDE) & same).any(axis=1)
    return [bool(yes) for yes in covered]


def _distinct(masks: Sequence[MaskRecord], limit: float) -> list[MaskRecord]:
    """Masks, from the best on, without those that are too like a better one."""
    ranks = range(len(masks), 0, -1)  # their order, whatever rounding would make of the scores
    return [masks[i] for i in mask_nms([mask.segmentation for mask in masks], ranks, limit).tolist()]


def _not_inside(masks: Sequence[MaskRecord], limit: float) -> list[MaskRecord]:
    """Masks, from the best on, without those that are too much inside of one better one."""
    kept: list[MaskRecord] = []
    for mask in masks:
        better = [one.segmentation for one in kept if one.area > limit * mask.area]
        if not better or coco.iou([mask.segmentation], better, [1] * len(better)).max() <= limit:
            kept.append(mask)
    return kept


def read_class_scores(path: Path) -> dict[str, float]:
    """Read the least scores of categories, YAML or JSON: `cat: 0.4`. Raises SamcliError, naming the file."""
    import yaml  # slow to import

    wanted = 'give a score from 0 to 1 for each category, such as "cat: 0.4"'
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_bytes().decode("utf-8-sig")
        # As YAML all is text: a category may be called no, or 1.0.
        data = json.loads(text) if is_json else yaml.load(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise SamcliError(f"{path} is not UTF-8 text; {wanted}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SamcliError(f"{path} is not {'JSON' if is_json else 'YAML'}: {reason}; {wanted}") from error
    if not isinstance(data, dict) or not data:
        raise SamcliError(f"{path} has no scores of categories; {wanted}")
    return {name: _score(path, name, value) for name, value in data.items()}


def _score(path: Path, name: Any, value: Any) -> float:
    try:
        score = float(value) if isinstance(name, str) and type(value) in (int, float, str) else math.nan
    except (ValueError, OverflowError):
        score = math.nan
    if not 0 <= score <= 1:
        raise SamcliError(f"{path}: the score of {name!r} is {value!r}; give a number from 0 to 1")
    return score
