"""The masks of `ground --masks-from`: made before, by whatever wrote a format that `convert` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samcli.cli.photos import PhotoFolder
from samcli.errors import SamcliError
from samcli.formats.files import json_bytes
from samcli.formats.names import output_paths
from samcli.formats.recognise import recognise
from samcli.formats.record import read_record
from samcli.formats.table import FORMATS, Item
from samcli.images import ImageFile
from samcli.records import MaskRecord


@dataclass(frozen=True)
class GivenMasks:
    """Masks of images. by_name: by an image's path below its root, with and without its ending; None for a
    folder of records, which are read one at a time.
    """

    place: Path
    keep_extension: bool
    by_name: Mapping[str, tuple[MaskRecord, ...]] | None

    def of(self, image: ImageFile) -> tuple[MaskRecord, ...]:
        """The masks of an image. Raises SamcliError when there is nothing about it."""
        if self.by_name is None:
            return read_record(self._record(image)).annotations
        whole = image.relative.as_posix()
        for name in (whole, image.relative.with_suffix("").as_posix()):
            if name in self.by_name:
                return self.by_name[name]
        raise SamcliError(f"{self.place} has no masks of {whole}; give --root, so that paths begin as there")

    def _record(self, image: ImageFile) -> Path:
        paths = (
            output_paths(self.place, image.relative, keep_extension=keep).record
            for keep in (self.keep_extension, not self.keep_extension)
        )
        first, second = paths
        return second if second.is_file() and not first.is_file() else first


def given_masks(place: Path, photos: Path | None, keep_extension: bool) -> GivenMasks:
    """Find out what a file or folder holds. photos: the folder that the images lie in, where there is one.

    Raises SamcliError for what is of no known format, or damaged.
    """
    format_ = FORMATS[recognise(place)]
    if format_.name == "sa1b" and place.is_dir():
        return GivenMasks(place, keep_extension, None)
    if format_.read_needs_photos and photos is None:
        raise SamcliError(f"{place} is of the format {format_.name}, which is read with one folder of images")
    if format_.file and (place / format_.file).is_file():
        place /= format_.file
    by_name: dict[str, tuple[MaskRecord, ...]] = {}
    for item in format_.read(place, None if photos is None else PhotoFolder(photos)):
        if not isinstance(item, Item):
            raise SamcliError(item.reason)
        by_name.setdefault(item.record.file_name, item.record.annotations)
        by_name.setdefault(item.name.as_posix(), item.record.annotations)
    return GivenMasks(place, keep_extension, by_name)


def digest_of(masks: tuple[MaskRecord, ...]) -> str:
    """sha256 of masks as they are written."""
    return hashlib.sha256(json_bytes([mask.to_json() for mask in masks])).hexdigest()
