"""Prompts and results: frozen, validated, free of torch.

Conventions, named here once:

- Sizes are `(height, width)`; points are `(x, y)` in pixels of the upright original image, (0, 0) being the
  top-left corner of the top-left pixel.
- `Box` is `x0, y0, x1, y1` in **pixel extent**: x1 and y1 are the right and bottom edges, so a one-pixel mask
  at (3, 5) has the box (3, 5, 4, 6). Written boxes (`bbox`) are COCO's `x, y, width, height` of the same
  extent: width 1.
- Masks travel as COCO run-length encoding (`RLE`): `{"size": [height, width], "counts": "..."}`, compressed,
  column-major, as pycocotools writes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, TypedDict, TypeGuard

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError

SCHEMA = 1
MAX_SIZE = 2**30
"""Pixels of the largest image that masks may be of: its lengths of runs fit pycocotools, its bits memory."""

_PHASH = re.compile("[0-9a-f]{16}")
_COUNTS = re.compile("(?:[P-o]{0,6}[0-O])*")  # numbers of five bits a character, all but the last from P to o


class RLE(TypedDict):
    """Compressed COCO run-length encoding; `size` is [height, width]."""

    size: list[int]
    counts: str


@dataclass(frozen=True)
class Box:
    """A box in pixel extent, x0 < x1 and y0 < y1. Raises SamcliError for NaN, infinity and empty boxes."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        values = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(v) for v in values):
            raise SamcliError(f"box {_numbers(values)} has a value that is not a finite number")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise SamcliError(f"box {_numbers(values)} is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        return (self.x0, self.y0, self.x1 - self.x0, self.y1 - self.y0)


@dataclass(frozen=True)
class Prompt:
    """One prompt: points and at most one box and one mask, answered together by the same masks.

    points: (x, y) pixels of the original image. labels: 1 foreground or 0 background, one per point; all
    foreground when left out. mask: (h, w) float32 low-res logits in the model's padded frame (what
    `Prediction.low_res_logits` holds); `Predictor.mask_prompt` makes them from a binary mask.
    Raises SamcliError when there is neither point, box nor mask, when counts differ, or for NaN.
    """

    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] | None = None
    box: Box | None = None
    mask: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        points = tuple((float(x), float(y)) for x, y in self.points)
        labels = tuple(int(v) for v in self.labels) if self.labels is not None else (1,) * len(points)
        if not points and self.box is None and self.mask is None:
            raise SamcliError("the prompt is empty; give a point, a box or a mask")
        if len(labels) != len(points):
            raise SamcliError(f"{len(points)} points but {len(labels)} labels; give one label per point")
        for label in labels:
            if label not in (0, 1):
                raise SamcliError(f"label {label} is unknown; use 1 for foreground and 0 for background")
        for point in points:
            if not all(math.isfinite(v) for v in point):
                raise SamcliError(f"point {_numbers(point)} has a value that is not a finite number")
        if self.mask is not None and (self.mask.ndim != 2 or not np.isfinite(self.mask).all()):
            raise SamcliError("the mask prompt must be a two-dimensional array of finite logits")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)

    def check_inside(self, size: tuple[int, int]) -> None:
        """Raise SamcliError when a point or the whole box is outside an image of `size` (height, width)."""
        height, width = size
        for x, y in self.points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise SamcliError(
                    f"point {_numbers((x, y))} lies outside the image, which is {width}x{height} pixels"
                )
        if self.box is not None:
            b = self.box
            if b.x1 <= 0 or b.y1 <= 0 or b.x0 >= width or b.y0 >= height:
                raise SamcliError(
                    f"box {_numbers(b.xyxy)} lies outside the image, which is {width}x{height} pixels"
                )


@dataclass(frozen=True)
class MaskRecord:
    """One mask as it is written: SA-1B's fields and ours. None fields are left out of the JSON.

    bbox: (x, y, w, h) in pixel extent. area: pixels. predicted_iou, stability_score: None for masks that
    other programs made. point_coords: the prompt points (x, y). crop_box: (x, y, w, h) of the crop the mask
    came from.
    """

    segmentation: RLE
    bbox: tuple[float, float, float, float]
    area: int
    predicted_iou: float | None = None
    stability_score: float | None = None
    id: int | None = None
    point_coords: tuple[tuple[float, float], ...] | None = None
    crop_box: tuple[float, float, float, float] | None = None
    category_id: int | None = None
    category: str | None = None
    phrase: str | None = None
    detector_score: float | None = None
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The mask's JSON object, keys in the contract's order, None fields left out."""
        names = (
            "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords",
            "crop_box", "category_id", "category", "phrase", "detector_score", "score",
        )  # fmt: skip
        return {n: _plain(getattr(self, n)) for n in names if getattr(self, n) is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MaskRecord:
        """Read what `to_json` wrote. Raises SamcliError, naming what is missing, unknown or malformed."""
        if not isinstance(data, dict):
            raise SamcliError("a mask is not a JSON object")
        missing = {"segmentation", "bbox", "area"} - data.keys()
        if missing:
            raise SamcliError(f"a mask lacks {', '.join(sorted(missing))}")
        unknown = data.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise SamcliError(f"a mask has unknown keys: {', '.join(sorted(unknown))}")
        for name, value in data.items():
            if not _fits(name, value):
                raise SamcliError(f"a mask has a malformed {name}")
        return cls(**{n: v if n == "segmentation" else _frozen(v) for n, v in data.items()})


@dataclass(frozen=True)
class InputFile:
    """Provenance of an image: path relative to its root, size in bytes, sha256 of the bytes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Run:
    """What made a record. `config` holds the resolved values; `config_hash` covers what changes masks."""

    command: str
    version: str
    model: str
    weights_sha256: str
    config: dict[str, Any]
    config_hash: str

    def to_json(self) -> dict[str, Any]:
        """The head of a record without its input, keys in the contract's order."""
        return {"schema": SCHEMA, **{n: getattr(self, n) for n in self.__dataclass_fields__}}


@dataclass(frozen=True)
class Tag:
    """A word for an image, and how sure the tagger is of it, 0 to 1."""

    word: str
    score: float


@dataclass(frozen=True)
class Notes:
    """What `annotate` found out about an image besides masks.

    caption: a sentence, from taggers that say one. tags: best first. phash: the perceptual hash of
    `samcli.images.perceptual_hash`, 16 hexadecimal digits.
    """

    caption: str | None = None
    tags: tuple[Tag, ...] = ()
    phash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Members of a record's image, those that are there."""
        found: dict[str, Any] = {} if self.caption is None else {"caption": self.caption}
        if self.tags:
            found["tags"] = [{"word": tag.word, "score": tag.score} for tag in self.tags]
        return found if self.phash is None else {**found, "phash": self.phash}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Notes:
        """Take out of `data`, a record's image, what `to_json` put there. Raises ValueError, TypeError."""
        caption, phash = data.pop("caption", None), data.pop("phash", None)
        tags = tuple(Tag(**tag) for tag in data.pop("tags", ()))
        if not all(isinstance(tag.word, str) and _are([tag.score], (int, float), 1) for tag in tags):
            raise ValueError("a tag is no word with a score")
        if not isinstance(caption, (str, NoneType)):
            raise ValueError(f"the caption is no text: {caption!r}")
        if phash is not None and not (isinstance(phash, str) and _PHASH.fullmatch(phash)):
            raise ValueError(f"phash is not 16 hexadecimal digits: {phash!r}")
        return cls(caption, tags, phash)


@dataclass(frozen=True)
class ImageRecord:
    """All masks of one image with their provenance: the canonical record file.

    run, input: both None when other programs made the masks; the JSON then is SA-1B's own.
    """

    run: Run | None
    input: InputFile | None
    image_id: int
    width: int
    height: int
    file_name: str
    annotations: tuple[MaskRecord, ...] = field(default=())
    notes: Notes = Notes()

    def to_json(self) -> dict[str, Any]:
        """The record's JSON object, keys in the contract's order (design: `The record`)."""
        head = {}
        if self.run and self.input:
            source = {"path": self.input.path, "bytes": self.input.bytes, "sha256": self.input.sha256}
            head = {"samcli": {**self.run.to_json(), "input": source}}
        return {
            **head,
            "image": {
                "image_id": self.image_id,
                "width": self.width,
                "height": self.height,
                "file_name": self.file_name,
                **self.notes.to_json(),
            },
            "annotations": [mask.to_json() for mask in self.annotations],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageRecord:
        """Read what `to_json` wrote, or a file of SA-1B.

        Raises SamcliError for another schema and for malformed data.
        """
        run = source = None
        try:
            if "samcli" in data:
                head = dict(data["samcli"])
                schema = head.pop("schema")
                if schema != SCHEMA:
                    raise SamcliError(f"record schema {schema} is unknown; this samcli reads schema {SCHEMA}")
                source = InputFile(**head.pop("input"))
                run = Run(**head)
            masks = tuple(MaskRecord.from_json(m) for m in data["annotations"])
            image = dict(data["image"])
            notes = Notes.from_json(image)
            record = cls(run, source, annotations=masks, notes=notes, **image)
            check_size(record.height, record.width)
            if type(record.image_id) is not int or not isinstance(record.file_name, str):
                raise SamcliError("not a samcli record: image_id is no number, or file_name no text")
        except KeyError as error:
            raise SamcliError(f"not a samcli record: {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise SamcliError(f"not a samcli record: {error}") from error
        for mask in masks:
            if mask.segmentation["size"] != [record.height, record.width]:
                raise SamcliError(f"a mask has the size {mask.segmentation['size']}, unlike its image")
        return record


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """The size of an image, from a file of others. Raises SamcliError when there can be no such image."""
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise SamcliError(f"height and width are no sizes in pixels: {height!r} and {width!r}")
    if height * width > MAX_SIZE:
        raise SamcliError(f"an image of {width}x{height} pixels is too large; the most are {MAX_SIZE}")
    return height, width


def is_counts(value: Any) -> TypeGuard[str]:
    """Whether a JSON value can be the counts of an `RLE`; pycocotools crashes on others."""
    return isinstance(value, str) and _COUNTS.fullmatch(value) is not None


def _fits(name: str, value: Any) -> bool:
    """Whether a JSON value can be that field of a MaskRecord."""
    match name:
        case "segmentation":
            return (
                isinstance(value, dict)
                and value.keys() == {"size", "counts"}
                and _are(value["size"], (int,), 2)
                and min(value["size"]) > 0
                and value["size"][0] * value["size"][1] <= MAX_SIZE
                and is_counts(value["counts"])
            )
        case "bbox" | "crop_box":
            return _are(value, (int, float), 4)
        case "point_coords":
            return isinstance(value, list) and all(_are(point, (int, float), 2) for point in value)
        case "area" | "id" | "category_id":
            return _are([value], (int,), 1)
        case "category" | "phrase":
            return isinstance(value, str)
    return _are([value], (int, float), 1)


def _are(values: Any, kinds: tuple[type, ...], count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in kinds and -math.inf < v < math.inf for v in values)  # type: bool is no int here
    )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{v:g}" for v in values)
