"""The formats that records can be written as and read from, and what their readers and writers share.

A reader gives items one after the other, a writer takes them so; neither holds them all. Where masks cannot
overlap, `Export.flatten` says which lies on top.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.formats.select import Flatten, category_of
from samcli.records import ImageRecord, MaskRecord


class Item(NamedTuple):
    """A record, and the path that its files are named by: below the place, without an ending."""

    name: PurePosixPath
    record: ImageRecord


class Unreadable(NamedTuple):
    """Something that should have been an item, and why it is none."""

    name: str
    reason: str


class Photos(Protocol):
    """The photos that records are of, found by the paths that these hold. All raise SamcliError."""

    def path(self, file_name: str) -> Path:
        """The file. Raises SamcliError when it is not there."""

    def size(self, file_name: str) -> tuple[int, int]:
        """(height, width) of the upright picture."""

    def pixels(self, file_name: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright."""

    def named(self, stem: PurePosixPath) -> str:
        """The path of the photo with this path up to its ending; that path itself when none is found."""


@dataclass
class Categories:
    """Numbers of categories, from 1: those given, else those that masks bring, else the next free one."""

    numbers: dict[str, int] = field(default_factory=dict)
    _given: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._given = {number: name for name, number in self.numbers.items()}

    def number(self, mask: MaskRecord) -> int:
        """The number of the mask's category, from now on the same for all of its name."""
        name = category_of(mask)
        if mask.category is None and mask.category_id is not None:  # a number of those given says enough
            name = self._given.get(mask.category_id, name)
        if name not in self.numbers:
            wanted, taken = mask.category_id, set(self.numbers.values())
            if wanted is None or wanted < 1 or wanted in taken:
                wanted = next(n for n in range(1, len(taken) + 2) if n not in taken)
            self.numbers[name] = wanted
        return self.numbers[name]

    def to_json(self) -> list[dict[str, Any]]:
        """As COCO lists them, by number."""
        return [
            {"id": number, "name": name, "supercategory": ""}
            for name, number in sorted(self.numbers.items(), key=lambda entry: entry[1])
        ]


@dataclass(frozen=True)
class Export:
    """How to write, as far as a format can be written in several ways.

    photos: None when nobody said where they are. labels: categories that come first, in this order.
    image_ids, category_ids: of an existing dataset, by file name and by name, instead of new ones.
    prefix: put before a photo's path where a format wants its address.
    """

    photos: Photos | None = None
    polygons: bool = False
    flatten: Flatten = "area"
    merged: bool = False
    tight: bool = False
    labels: tuple[str, ...] = ()
    image_ids: Mapping[str, int] | None = None
    category_ids: Mapping[str, int] | None = None
    prefix: str = ""
    _given: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def categories(self) -> Categories:
        """The numbers of categories to begin with."""
        if self.category_ids is not None:
            return Categories(dict(self.category_ids))
        return Categories({name: i for i, name in enumerate(self.labels, start=1)})

    def image_number(self, file_name: str, count: int) -> int:
        """The number of an image: of the existing dataset, else `count`. Raises SamcliError."""
        if self.image_ids is None:
            return count
        known = self.image_ids.get(file_name)
        if known is None:
            known = self.image_ids.get(PurePosixPath(file_name).name)
        if known is None:
            raise SamcliError(f"{file_name} is not among the images of --like")
        if self._given.setdefault(known, file_name) != file_name:
            raise SamcliError(f"{file_name} has the number {known} in --like, as {self._given[known]} has")
        return known


Write = Callable[[Item], None]
FileWriter = Callable[[BinaryIO, Export], AbstractContextManager[Write]]
FolderWriter = Callable[[Path, Export], AbstractContextManager[Write]]
Reader = Callable[[Path, Photos | None], Iterator[Item | Unreadable]]


@dataclass(frozen=True)
class Format:
    """A format: where its code is, and what it needs.

    file: the name of its only file in a folder; None when it is a folder of files. needs_photos: to be
    written; read_needs_photos: to be read.
    """

    name: str
    module: str
    file: str | None = None
    needs_photos: bool = False
    read_needs_photos: bool = False

    def read(self, place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
        """The items of a file or folder of this format, in a stable order.

        Raises SamcliError when the whole of it is none.
        """
        reader: Reader = getattr(import_module(self.module), f"read_{self._function}")
        return reader(place, photos)

    def write_file(self, file: BinaryIO, export: Export) -> AbstractContextManager[Write]:
        """Write items into an open file; the end of the context completes it."""
        writer: FileWriter = getattr(import_module(self.module), f"write_{self._function}")
        return writer(file, export)

    def write_folder(self, place: Path, export: Export) -> AbstractContextManager[Write]:
        """Write items into a folder, each file whole or not at all; the end of the context completes it."""
        writer: FolderWriter = getattr(import_module(self.module), f"write_{self._function}")
        return writer(place, export)

    @property
    def _function(self) -> str:
        return self.name.replace("-", "_")


_IN = "samcli.formats."

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        Format("sa1b", _IN + "trees"),
        Format("jsonl", _IN + "trees", "records.jsonl"),
        Format("amg", _IN + "trees"),
        Format("amg-png", _IN + "trees"),
        Format("coco", _IN + "coco", "annotations.json"),
        Format("coco-results", _IN + "coco", "results.json"),
        Format("coco-panoptic", _IN + "panoptic"),
        Format("labelmap", _IN + "pictures"),
        Format("tiff", _IN + "pictures"),
        Format("palette", _IN + "pictures"),
        Format("png", _IN + "pictures"),
        Format("cutout", _IN + "pictures", needs_photos=True),
        Format("labelme", _IN + "labelme"),
        Format("yolo", _IN + "yolo", read_needs_photos=True),
        Format("labelstudio", _IN + "labelstudio", "tasks.json"),
    )
}


def relative(file_name: str) -> PurePosixPath:
    """A path from a file of others, safe to name files by. Raises SamcliError when it leads elsewhere."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in file_name:
        raise SamcliError(f"{file_name!r} is no path below a folder; name photos relative to theirs")
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError as error:
        raise SamcliError(f"{file_name!r} is no name that a file can have; rename the photo") from error
    return path
