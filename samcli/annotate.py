"""From words to masks: a detector finds boxes for phrases, the predictor cuts them out (Grounded SAM).

The phrases are given, or a tagger says them.

The one place where taggers, detectors and the predictor meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.ground.detector import Detected, Detector, Thresholds, nothing
from samcli.ground.merge import join, tidy, tiles
from samcli.ground.phrases import split_phrases
from samcli.ground.tagger import Tagged, Tagger
from samcli.images import check_pixels, perceptual_hash
from samcli.masks import decode_window
from samcli.records import Box, MaskRecord, Notes, Prompt

if TYPE_CHECKING:
    from samcli.predictor import Embedding, Predictor

LEAST_FIT = 0.5  # of a box and a mask, for the box's phrase to be the mask's name
LEAST_TILE = 64  # pixels
MOST_OVERLAP = 0.9  # of tiles


@dataclass(frozen=True)
class GroundConfig:
    """How to look for what phrases name. Raises SamcliError for values that make no sense.

    box_threshold, text_threshold: as in `ground.detector.Thresholds`; None means the detector's own default.
    nms: box IoU above which the worse of two boxes is a duplicate; 1 keeps all. class_agnostic: also between
    phrases. containment: share of a box's area in a better box, or of a better box in it, above which it
    goes; None keeps these. max_detections: best of an image; None keeps all.
    tile: also look at square tiles of so many pixels, which overlap by at least the share `overlap`, and
    join what is found; None looks at the whole image only.
    """

    box_threshold: float | None = None
    text_threshold: float | None = None
    # The reference's demos have 0.5, 0.8 and none. SAM's own 0.7 keeps things that stand close together.
    nms: float = 0.7
    class_agnostic: bool = False
    containment: float | None = None
    max_detections: int | None = None
    tile: int | None = None
    overlap: float = 0.2

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "box_threshold": (0, 1),
            "text_threshold": (0, 1),
            "nms": (0, 1),
            "containment": (0, 1),
            "max_detections": (1, math.inf),
            "tile": (LEAST_TILE, math.inf),
            "overlap": (0, MOST_OVERLAP),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not low <= value <= high:  # false for NaN too
                given = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
                raise SamcliError(f"{name} is {value:g}; give a number {given}")
            if high == math.inf and not float(value).is_integer():
                raise SamcliError(f"{name} is {value:g}; give a whole number")
            # One type per field, so that 1 and 1.0 are recorded, and hashed, alike.
            object.__setattr__(self, name, int(value) if high == math.inf else float(value))

    def resolve(self, own: Thresholds) -> GroundConfig:
        """With the detector's own thresholds where there are none. Raises as `thresholds`."""
        thresholds = self.thresholds(own)
        return replace(self, box_threshold=thresholds.box, text_threshold=thresholds.text)

    def thresholds(self, own: Thresholds) -> Thresholds:
        """Those given, else the detector's own. Raises SamcliError for one that it does not have."""
        if self.text_threshold is not None and own.text is None:
            raise SamcliError("text_threshold is for Grounding DINO; this detector has none, so leave it out")
        return Thresholds(
            own.box if self.box_threshold is None else self.box_threshold,
            own.text if self.text_threshold is None else self.text_threshold,
        )


def ground(
    predictor: Predictor,
    detector: Detector,
    image: NDArray[np.uint8],
    phrases: Sequence[str],
    config: GroundConfig | None = None,
    *,
    embedding: Embedding | None = None,
) -> tuple[MaskRecord, ...]:
    """Masks of what phrases name in an image, (H, W, 3) uint8 RGB, the best first; maybe none.

    embedding: of this image by `predictor`, when it is at hand; without detections none is made. See `detect`
    and `segment`. Raises SamcliError for a phrase that the detector cannot look for.
    """
    if embedding:
        embedding.check_size((image.shape[0], image.shape[1]))
    (found,) = detect(detector, [image], phrases, config)
    if not len(found):
        return ()
    return segment(predictor, embedding or predictor.embed(image), found, phrases)


def detect(
    detector: Detector,
    images: Sequence[NDArray[np.uint8]],
    phrases: Sequence[str],
    config: GroundConfig | None = None,
) -> list[Detected]:
    """What phrases name in each of some images, (H, W, 3) uint8 RGB, as boxes without duplicates, best first.

    Images and tiles go through the detector together, `images_per_call` at a time. Boxes are rounded to
    hundredths of a pixel, so that they are the same when they are written and read again. Raises SamcliError
    for arrays that are no such images, and for phrases that are none or that the detector cannot look for.
    """
    if isinstance(phrases, str):  # a sequence of letters, to Python
        raise SamcliError(f"phrases is the text {phrases!r}; give a list of phrases")
    for image in images:
        check_pixels(image)
    config = config or GroundConfig()
    thresholds = config.thresholds(detector.thresholds)
    layouts = [
        tiles((image.shape[0], image.shape[1]), config.tile, config.overlap) if config.tile else ()
        for image in images
    ]
    views = [(image, tile) for image, layout in zip(images, layouts, strict=True) for tile in (None, *layout)]
    seen: list[Detected] = []
    for start in range(0, len(views), detector.images_per_call):
        group = [
            image if tile is None else np.ascontiguousarray(image[tile.y0 : tile.y1, tile.x0 : tile.x1])
            for image, tile in views[start : start + detector.images_per_call]
        ]
        seen += detector.detect(group, phrases, thresholds)
    found = []
    views_seen = iter(seen)
    for image, layout in zip(images, layouts, strict=True):
        size = image.shape[0], image.shape[1]
        whole = next(views_seen)
        if layout:
            parts = [(tile, _tidied(next(views_seen), config)) for tile in layout]
            whole = join(parts, _tidied(whole, config), size, agnostic=config.class_agnostic)
        found.append(_rounded(_tidied(whole, config, config.max_detections), size))
    return found


class Labelled(NamedTuple):
    """What words say of one image: the words asked for, and the boxes of these."""

    phrases: tuple[str, ...]
    found: Detected
    notes: Notes


def label(
    tagger: Tagger | None,
    detector: Detector,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[str] = (),
    config: GroundConfig | None = None,
) -> list[Labelled]:
    """What is in each of some images, (H, W, 3) uint8 RGB: the tagger says words, the detector finds them.

    labels: what to look for in every image when tagger is None. Words that the detector does not know are
    noted, not looked for. Images with the same words go through the detector together. See `detect`.
    """
    said = tagger.tag(images) if tagger else [Tagged(())] * len(images)
    asked = [_askable(one, detector) if tagger else tuple(labels) for one in said]
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, phrases in enumerate(asked):
        groups.setdefault(phrases, []).append(i)
    labelled: dict[int, Labelled] = {}
    for phrases, which in groups.items():
        seen = [nothing()] * len(which)
        if phrases:
            seen = detect(detector, [images[i] for i in which], phrases, config)
        for i, found in zip(which, seen, strict=True):
            notes = Notes(said[i].caption, said[i].tags, perceptual_hash(images[i]))
            labelled[i] = Labelled(phrases, found, notes)
    return [labelled[i] for i in range(len(images))]


def _askable(tagged: Tagged, detector: Detector) -> tuple[str, ...]:
    """The words that a detector can be asked for, each a phrase of its own."""
    words = (tag.word for tag in tagged.tags)
    return tuple(word for word in words if split_phrases(word) == (word,) and detector.knows(word))


def _tidied(found: Detected, config: GroundConfig, most: int | None = None) -> Detected:
    return tidy(
        found, iou=config.nms, agnostic=config.class_agnostic, containment=config.containment, most=most
    )


def _rounded(found: Detected, size: tuple[int, int]) -> Detected:
    """Boxes in hundredths of a pixel, within the image; those that vanish thereby go."""
    height, width = size
    boxes = found.boxes.clip(0, (width, height, width, height)).round(2)
    there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Detected(boxes, found.scores, found.phrases)[there]


def segment(
    predictor: Predictor, embedding: Embedding, found: Detected, phrases: Sequence[str]
) -> tuple[MaskRecord, ...]:
    """The masks of boxes, one each, from a single call of the decoder; ids from 1, in the boxes' order.

    category and phrase are the phrase asked for, category_id its place from 1; score is the detector's. Boxes
    in which the decoder sees nothing have no mask.
    """
    masks: list[MaskRecord] = []
    prompts = [Prompt(box=Box(*box)) for box in found.boxes.tolist()]
    answers = predictor.predict_each(embedding, prompts, multimask=False)
    for answer, score, place in zip(answers, found.scores.tolist(), found.phrases.tolist(), strict=True):
        (mask,) = answer.records()
        if mask.area:
            named = _named(mask, phrases, place, score)
            masks.append(replace(named, id=len(masks) + 1, score=score))
    return tuple(masks)


def name_masks(
    masks: Sequence[MaskRecord], found: Detected, phrases: Sequence[str]
) -> tuple[MaskRecord, ...]:
    """Masks of an image, named by what was detected in it; the others as they are.

    A box names the mask that it fits best: by the IoU of both boxes times the share of the mask's pixels
    within the box, which must be at least 0.5. Of several boxes for one mask the best one names it. A mask
    keeps its own score.
    """
    extents = np.array([mask.bbox for mask in masks], dtype=np.float64).reshape(-1, 4)
    extents[:, 2:] += extents[:, :2]
    named = list(masks)
    taken: set[int] = set()
    for box, score, place in zip(found.boxes, found.scores.tolist(), found.phrases.tolist(), strict=True):
        fit = _iou(extents, box)
        for i in np.flatnonzero(fit >= LEAST_FIT).tolist():
            fit[i] *= _share_inside(masks[i], box)
        if len(fit) and fit.max() >= LEAST_FIT and (best := int(fit.argmax())) not in taken:
            taken.add(best)
            named[best] = _named(masks[best], phrases, place, score)
    return tuple(named)


def _named(mask: MaskRecord, phrases: Sequence[str], place: int, score: float) -> MaskRecord:
    phrase = phrases[place]
    return replace(mask, category_id=place + 1, category=phrase, phrase=phrase, detector_score=score)


def _iou(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of boxes (N, 4) with one (4,), none empty but that of an empty mask."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    iou: NDArray[np.float64] = common / (areas - common)
    return iou


def _share_inside(mask: MaskRecord, box: NDArray[np.float64]) -> float:
    """Of a mask's pixels, none empty, those whose middle is in a box."""
    left, top, bits = decode_window(mask.segmentation)
    x0, y0, x1, y1 = np.ceil(box - 0.5 - (left, top, left, top)).astype(int).clip(0)
    return int(bits[y0:y1, x0:x1].sum()) / mask.area
