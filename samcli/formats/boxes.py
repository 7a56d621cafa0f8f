"""Boxes of other detectors: COCO results and instances, JSON Lines of results, and YOLO's text files.

All boxes of a file are held in columns, 64 bytes a box; the prompts of an image are made when it is its turn.
A file is read as a stream and checked whole: whatever is malformed is refused with its place in the file.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.formats.class_names import Labels, beside
from samcli.formats.files import tree
from samcli.formats.json_stream import JsonStream
from samcli.formats.names import BOXES
from samcli.formats.owners import Owners, decimal, plain
from samcli.records import Box

_EXPECTED = (
    'give COCO results [{"image_id", "category_id", "bbox", "score"}, ...], the same as JSON Lines, COCO '
    'instances {"images", "annotations", "categories"}, or a folder of YOLO\'s .txt files'
)
_NO_CATEGORY = -(2**63)
_INT64 = range(-(2**63), 2**63)
_LARGEST_SHARE = 2.0  # boxes of a detector may reach over the edge; pixels taken for shares are far above


@dataclass(frozen=True)
class Detection:
    """A box as a detector gave it.

    id: of the annotation, else the number of the entry or line in its file. numbers: as the file has them,
    COCO's x, y, width, height in pixels or, with `shares`, YOLO's centre x, centre y, width and height as
    shares of the image's.
    """

    id: int
    numbers: tuple[float, float, float, float]
    shares: bool = False
    category_id: int | None = None
    category: str | None = None
    score: float | None = None

    def box(self, size: tuple[int, int]) -> Box | None:
        """The part within an image of `size` (height, width); None when there is none."""
        height, width = size
        x, y, w, h = self.numbers
        if self.shares:
            x, y, w, h = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
        return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def to_json(self) -> dict[str, Any]:
        """What a record's configuration says of it: the box as x0, y0, x1, y1, or as YOLO has it."""
        x, y, w, h = self.numbers
        box = {"yolo": [x, y, w, h]} if self.shares else {"box": [x, y, x + w, y + h]}
        told = {"category_id": self.category_id, "category": self.category, "detector_score": self.score}
        return {**box, **{name: value for name, value in told.items() if value is not None}}


class Missing(NamedTuple):
    """Boxes whose image was not found. first: what the file calls the first such image."""

    boxes: int
    images: int
    first: str


class Detections:
    """The boxes of a file or folder; after `match`, those of each image.

    shares: the file is YOLO's. sources: what it calls each image, and the image's number here. empty: how
    many boxes were left out because they have no area. crowds: as many annotations of crowds.
    """

    def __init__(self, path: Path, *, shares: bool, min_score: float | None) -> None:
        self.path = path
        self.shares = shares
        self.empty = self.crowds = 0
        self._min_score = -math.inf if min_score is None else min_score
        self.sources: dict[int | str, int] = {}
        self._source, self._id, self._category = array("q"), array("q"), array("q")
        self._numbers, self._score = array("d"), array("d")
        self._damaged: dict[int, str] = {}  # sources that are no boxes, if they are of an image
        self._names: dict[int, str] = {}
        self._image: NDArray[np.int64] = np.empty(0, np.int64)  # hashes of paths, sorted, one a box
        self._order: NDArray[np.int64] = np.empty(0, np.int64)  # the boxes in that order

    # Reading

    def source(self, name: int | str) -> int:
        """The number of an image, given what the file calls it: a number, or a name as `plain` has it."""
        return self.sources.setdefault(name, len(self.sources))

    def add(
        self,
        source: int,
        box_id: int,
        numbers: tuple[float, float, float, float],
        category: int | None,
        score: float | None,
    ) -> None:
        """Take a box in, unless it is empty or below the least score."""
        if numbers[2] <= 0 or numbers[3] <= 0:
            self.empty += 1
        elif score is None or score >= self._min_score:
            self._source.append(source)
            self._id.append(box_id)
            self._category.append(_NO_CATEGORY if category is None else category)
            self._numbers.extend(numbers)
            self._score.append(math.nan if score is None else score)

    def damaged(self, source: int, reason: str) -> None:
        """The file of one image holds no boxes: an error if the image is there, nothing otherwise."""
        self._damaged[source] = reason

    def rename(self, names: dict[int | str, str]) -> None:
        """Call images by file names, where there is one."""
        renamed: dict[int | str, int] = {}
        new = np.empty(len(self.sources), np.int64)
        for name, number in self.sources.items():
            new[number] = renamed.setdefault(names.get(name, name), len(renamed))
        self._source = array("q", new[np.asarray(self._source)].tobytes())
        self.sources = renamed

    def of_dataset(self, numbers: Mapping[str, int]) -> None:
        """Call images by the file names of a dataset, given its numbers by file name."""
        self.rename({number: plain(name) for name, number in numbers.items()})

    def name(self, labels: Labels | None) -> None:
        """Give the categories their names. Raises SamcliError for one that has none."""
        if labels is None:
            return
        used = sorted(set(np.unique(np.asarray(self._category)).tolist()) - {_NO_CATEGORY})
        first = 0 if self.shares or 0 in used else 1
        self._names = labels.from_id(first)
        unnamed = [category for category in used if category not in self._names]
        if unnamed:
            known = f"{min(self._names)} to {max(self._names)}" if self._names else "none"
            raise SamcliError(
                f"category {unnamed[0]} of {self.path} has no name in {labels.source}, which names {known}; "
                "give all names with --labels"
            )

    # Images

    def match(self, images: Iterable[PurePosixPath]) -> Missing:
        """Find the image of each box among paths below their root; returns what was not found.

        A name is the path below the root, with or without its ending, else the only file of that name in any
        folder. A number is the only file that is named by it, else samcli's own image id. Raises SamcliError
        when two files, or two names, could be meant, and when no box at all is of these images.
        """
        owners = Owners(self.sources, str(self.path))
        for image in images:
            owners.look(image)
        found = owners.found()
        for source, reason in self._damaged.items():
            if source in found:
                raise SamcliError(reason)
        if self.sources and not found:
            raise SamcliError(
                f"no box of {self.path} is of these images; its first is of {next(iter(self.sources))}, but "
                "that must be a path below the folder, a file name, or one without its ending"
            )
        of_source = np.asarray(self._source)
        there = np.zeros(len(self.sources), bool)
        hashes = np.zeros(len(self.sources), np.int64)
        there[list(found)] = True
        hashes[list(found)] = [hash(path) for path in found.values()]
        kept = there[of_source].nonzero()[0]
        image_of = hashes[of_source[kept]]
        order = image_of.argsort(kind="stable")
        self._image, self._order = image_of[order], kept[order]
        lost = of_source[~there[of_source]]
        first = ""
        if len(lost):
            first = str(next(name for name, number in self.sources.items() if number == lost[0]))
        self.sources = {}
        return Missing(len(lost), len(np.unique(lost)), first)

    @property
    def images(self) -> int:
        """How many images have boxes."""
        return len(np.unique(self._image))

    def of(self, image: PurePosixPath) -> Iterator[Detection]:
        """The boxes of an image, in the file's order."""
        path = hash(image.as_posix())
        start, stop = self._image.searchsorted(path), self._image.searchsorted(path, "right")
        for row in self._order[start:stop].tolist():
            category, score = self._category[row], self._score[row]
            x, y, w, h = self._numbers[4 * row : 4 * row + 4]
            yield Detection(
                self._id[row],
                (x, y, w, h),
                self.shares,
                None if category == _NO_CATEGORY else category,
                self._names.get(category),
                None if math.isnan(score) else score,
            )


def read_boxes(
    path: Path, *, min_score: float | None = None, labels: Labels | None = None, image: Path | None = None
) -> Detections:
    """Read the boxes of a detector: COCO's JSON, a folder of YOLO's .txt files, one such file, or a folder
    that `ground --boxes-only` wrote.

    min_score: boxes that score less are left out. labels: names of the categories, else those that the file
    has, or that lie beside YOLO's. image: the only one there is, if so; a single .txt file is about that one.
    Raises SamcliError, naming the entry or line, for what is malformed.
    """
    if path.is_dir() and (results := [file for file, _ in tree(path, (BOXES,))]):
        boxes = Detections(path, shares=False, min_score=min_score)
        names: dict[int, str] = {}
        for file in results:
            names |= _read_json(file, boxes)
        boxes.name(labels or _named(path, names))
    elif path.is_dir():
        boxes = Detections(path, shares=True, min_score=min_score)
        _read_folder(path, boxes)
        boxes.name(labels or beside(path))
    elif path.suffix.lower() == ".txt":
        if image is None:
            raise SamcliError(f"{path} is of a single image; give the folder of all .txt files")
        boxes = Detections(path, shares=True, min_score=min_score)
        source = boxes.source(plain(image.name))
        if reason := _read_text(path, source, boxes):
            raise SamcliError(reason)
        boxes.name(labels or beside(path.parent))
    else:
        boxes = Detections(path, shares=False, min_score=min_score)
        own = _read_json(path, boxes)
        boxes.name(labels or _named(path, own))
    return boxes


# YOLO


def _read_folder(folder: Path, boxes: Detections) -> None:
    files = [(path, name) for path, name in tree(folder, (".txt",)) if path.name != "classes.txt"]
    if not files:
        raise SamcliError(f"{folder} holds no .txt file; give the folder of YOLO's labels, or a JSON file")
    for path, name in files:
        source = boxes.source(plain(name.as_posix()))
        if reason := _read_text(path, source, boxes):
            boxes.damaged(source, reason)


def _read_text(path: Path, source: int, boxes: Detections) -> str:
    """Read a file of YOLO's; returns why it is none, "" when it is."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError:
        return f"{path} is not text"
    rows = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            rows.append((number, *_yolo(parts)))
        except SamcliError as error:
            return f"line {number} of {path}: {error}"
    for row in rows:
        boxes.add(source, *row)
    return ""


def _yolo(parts: list[str]) -> tuple[tuple[float, float, float, float], int, float | None]:
    if len(parts) > 6:
        raise SamcliError(
            f"{len(parts)} numbers are a polygon or a turned box; boxes are: class cx cy w h [confidence]"
        )
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) < 5:
        raise SamcliError("not a box; boxes are: class cx cy w h [confidence]")
    if not all(math.isfinite(value) for value in values):
        raise SamcliError("a value is not a finite number")
    category, x, y, w, h, *rest = values
    if category != int(category) or not 0 <= category < 2**53:
        raise SamcliError(f"the class {parts[0]} is not 0, 1, 2, ...")
    if max(abs(x), abs(y), abs(w), abs(h)) > _LARGEST_SHARE:
        raise SamcliError("the box is not in shares of the image, from 0 to 1")
    if rest and not 0 <= rest[0] <= 1:
        raise SamcliError(f"the confidence {parts[5]} is not from 0 to 1")
    return (x, y, w, h), int(category), rest[0] if rest else None


# COCO


def _named(path: Path, names: dict[int, str]) -> Labels | None:
    return Labels(str(path), ids=names) if names else None


def _read_json(path: Path, boxes: Detections) -> dict[int, str]:
    """Read a JSON file of any form. Returns the names of its categories, as far as it has some."""
    coco = _Coco(path, boxes)
    try:
        with path.open(encoding="utf-8-sig") as file:
            coco.read(JsonStream(file))
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise SamcliError(f"{path} is not UTF-8 text; {_EXPECTED}") from error
    except json.JSONDecodeError as error:
        raise SamcliError(f"{coco.place}: not JSON: {error.msg}") from error
    except _MalformedError as error:
        raise SamcliError(f"{coco.place}: {error}") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise SamcliError(f"{coco.place}: a number has too many digits") from error
    except RecursionError as error:
        raise SamcliError(f"{coco.place}: lists or objects are nested too deeply") from error
    return coco.categories


class _MalformedError(Exception):
    """What is wrong; where, knows who catches it."""


class _Coco:
    """Reads results, their JSON Lines, and instances. place: where it is, for errors."""

    def __init__(self, path: Path, boxes: Detections) -> None:
        self.place = str(path)
        self.categories: dict[int, str] = {}
        self._path = path
        self._boxes = boxes
        self._files: dict[int | str, str] = {}  # of instances: id, file name if there is one

    def read(self, stream: JsonStream) -> None:
        """Read the file: its first character and its first object show what it is."""
        start = stream.peek()
        if start == "[":
            self._list(stream, "entry", self._result)
        elif start == "{":
            first, lists = self._object(stream)
            if {"images", "annotations"} <= lists:
                self._link()
            elif "bbox" in first:
                self._lines(first, stream)
            elif "samcli" in first:  # what `ground --boxes-only` says before its boxes
                self._lines(None, stream)
            else:
                raise SamcliError(f"{self._path} holds no boxes; {_EXPECTED}")
        elif start or self._path.suffix.lower() not in (".jsonl", ".ndjson"):  # there may be no lines
            raise SamcliError(f"{self._path} is not JSON; {_EXPECTED}")
        if stream.peek():
            raise SamcliError(f"{self._path} goes on after its end; write it again")

    def _object(self, stream: JsonStream) -> tuple[dict[str, Any], set[str]]:
        """Read an object: lists of instances an element at a time, what else it has as it is."""
        lists = {
            "images": ("image", self._image),
            "annotations": ("annotation", self._annotation),
            "categories": ("category", self._category),
        }
        rest: dict[str, Any] = {}
        seen: set[str] = set()
        for key in stream.members():
            if key in lists and stream.peek() == "[":
                self._list(stream, *lists[key])
                seen.add(key)
            else:
                rest[key] = stream.value()
        return rest, seen

    def _list(self, stream: JsonStream, what: str, read: Callable[[dict[str, Any], int], None]) -> None:
        elements = stream.elements()
        number = 0
        while True:
            number += 1
            self.place = f"{what} {number} of {self._path}"
            try:
                element = next(elements)
            except StopIteration:
                break
            read(_object(element), number)
        self.place = str(self._path)

    def _lines(self, first: dict[str, Any] | None, stream: JsonStream) -> None:
        number = 1
        if first is not None:
            self.place = f"entry {number} of {self._path}"
            self._result(first, number)
            number += 1
        while stream.peek():
            self.place = f"entry {number} of {self._path}"
            self._result(_object(stream.value()), number)
            number += 1

    def _link(self) -> None:
        """Call the images of annotations by their files."""
        for name in self._boxes.sources:
            if name not in self._files:
                raise SamcliError(f"{self._path} has an annotation of image {name}, but no such image")
        self._boxes.rename({name: file for name, file in self._files.items() if file})

    def _image(self, data: dict[str, Any], number: int) -> None:
        self._files[_image_key(data, "id")] = _file_name(data)

    def _category(self, data: dict[str, Any], number: int) -> None:
        category, name = _whole(data.get("id")), data.get("name")
        if category is None or not isinstance(name, str):
            raise _MalformedError("it needs a whole number as id, and a name")
        self.categories[category] = name

    def _annotation(self, data: dict[str, Any], number: int) -> None:
        if data.get("iscrowd") == 1:
            self._boxes.crowds += 1
            return
        own = _whole(data.get("id"))
        self._add(_image_key(data, "image_id"), data, number if own is None else own)

    def _result(self, data: dict[str, Any], number: int) -> None:
        self._add(_file_name(data) or _image_key(data, "image_id"), data, number)

    def _add(self, image: int | str, data: dict[str, Any], box_id: int) -> None:
        bbox, score, category = data.get("bbox"), data.get("score"), data.get("category_id")
        numbers = [v for v in map(_number, bbox) if v is not None] if isinstance(bbox, list) else []
        if not (isinstance(bbox, list) and len(bbox) == len(numbers) == 4):
            raise _MalformedError("bbox is not [x, y, width, height] in finite numbers")
        if score is not None and _number(score) is None:
            raise _MalformedError("score is not a finite number")
        if category is not None and _whole(category) is None:
            raise _MalformedError("category_id is not a whole number")
        name, known = data.get("category"), _whole(category)
        if isinstance(name, str) and known is not None:
            self.categories.setdefault(known, name)
        x, y, w, h = numbers
        self._boxes.add(self._boxes.source(image), box_id, (x, y, w, h), _whole(category), _number(score))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _MalformedError("not a JSON object")
    return value


def _file_name(data: dict[str, Any]) -> str:
    name = data.get("file_name")
    if name is not None and not isinstance(name, str):
        raise _MalformedError("file_name is not text")
    return plain(name or "")


def _image_key(data: dict[str, Any], key: str) -> int | str:
    """An image's id: a number also when it is written as text."""
    value = data.get(key)
    number = _whole(value)
    if number is not None:
        return number
    if not (isinstance(value, str) and value):
        raise _MalformedError(f"{key} is neither a whole number nor a name")
    return decimal(value) if value == str(decimal(value)) else plain(value)


def _number(value: Any) -> float | None:
    if type(value) not in (int, float):  # bool is no number here
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _whole(value: Any) -> int | None:
    """A whole number, also when it is written as 3.0."""
    number = _number(value)
    return int(value) if number is not None and number.is_integer() and int(value) in _INT64 else None


def _unreadable(path: Path, error: OSError) -> SamcliError:
    return SamcliError(f"{path} cannot be read: {error.strerror}; check the path")
