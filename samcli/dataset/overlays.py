"""Overlays of what a dataset holds, drawn again only where it changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from samcli.dataset.curate import Curated
from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.files import json_bytes, tree
from samcli.formats.png import encode_jpeg
from samcli.formats.select import category_of
from samcli.formats.table import Photos
from samcli.records import ImageRecord, MaskRecord

_MARK = b"samcli annotate "
_START = b"\xff\xd8\xff\xfe"  # a JPEG whose first segment is a comment


class Overlays:
    """A folder of photos with what was taken drawn on them, `<name>.jpg`; `?` marks what is to review.

    photos: None when nobody said where they are; overlays that are as they should be then stay.
    """

    def __init__(self, folder: Path, photos: Photos | None) -> None:
        self._folder = folder
        self._photos = photos
        self._kept: set[int] = set()  # hashes of paths: names would take the memory of many images
        self.missing = 0
        """Photos that could not be drawn on."""

    def add(self, name: PurePosixPath, record: ImageRecord, curated: Curated) -> None:
        """The overlay of a record's photo, unless it is there: of this very photo, with these masks."""
        doubtful = (replace(mask, category=f"{category_of(mask)}?") for mask in curated.to_review)
        masks = [*curated.accepted, *doubtful]
        path = self._folder / f"{name}.jpg"
        head = _head(record, masks)
        if not _begins_with(path, head):
            if self._photos is None:
                self.missing += 1
                return
            from samcli.viz.overlay import overlay  # slow to import

            try:
                pixels = self._photos.pixels(record.file_name)
            except SamcliError:
                self.missing += 1
                return
            if pixels.shape[:2] != (record.height, record.width):
                self.missing += 1
                return
            picture = encode_jpeg(overlay(pixels, masks))
            write_bytes(path, head + picture[2:])
        self._kept.add(hash(os.fspath(path)))

    def finish(self) -> None:
        """Remove overlays of an earlier build that are not of this one. Raises SamcliError."""
        if not self._folder.is_dir():
            return
        for path, _ in tree(self._folder, (".jpg",)):
            if hash(os.fspath(path)) not in self._kept and _begins_with(path, _START, _MARK):
                try:
                    path.unlink()
                except OSError as error:
                    raise SamcliError(
                        f"{path}, of an earlier build, cannot be removed: {error.strerror}"
                    ) from error


def _head(record: ImageRecord, masks: Sequence[MaskRecord]) -> bytes:
    """How the JPEG begins: a hash of all that it shows, in a comment."""
    photo = record.input.sha256 if record.input else ""
    shown = hashlib.sha256(json_bytes([photo, *(mask.to_json() for mask in masks)])).hexdigest()
    comment = _MARK + shown.encode()
    return _START + (len(comment) + 2).to_bytes(2, "big") + comment


def _begins_with(path: Path, head: bytes, then: bytes = b"") -> bool:
    """Whether a file begins so; `then` follows two bytes later."""
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head and (not then or file.read(2 + len(then)).endswith(then))
    except OSError:
        return False
