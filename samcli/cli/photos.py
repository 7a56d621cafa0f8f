"""The photos that records are of, in the folder that --images names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from samcli import images
from samcli.errors import SamcliError
from samcli.formats.table import relative
from samcli.images import EXTENSIONS, MAX_PIXELS


class _Readable:
    """What follows from a photo's path. max_pixels: of a photo that is decoded."""

    max_pixels: int = MAX_PIXELS

    def path(self, file_name: str) -> Path:
        raise NotImplementedError

    def size(self, file_name: str) -> tuple[int, int]:
        return images.size_of(self.path(file_name))

    def pixels(self, file_name: str) -> NDArray[np.uint8]:
        return images.load(self.path(file_name), max_pixels=self.max_pixels)


@dataclass(frozen=True)
class ListedPhotos(_Readable):
    """Photos of several folders, by what they are called. `samcli.formats.table.Photos`."""

    paths: Mapping[str, Path]
    max_pixels: int = MAX_PIXELS

    def path(self, file_name: str) -> Path:
        if file_name not in self.paths:
            raise SamcliError(f"{file_name} is not among the images given; name them all")
        return self.paths[file_name]

    def named(self, stem: PurePosixPath) -> str:
        names = (name for name in self.paths if PurePosixPath(name).with_suffix("") == stem)
        return next(names, stem.as_posix())


@dataclass(frozen=True)
class PhotoFolder(_Readable):
    """Photos by their path below a root. `samcli.formats.table.Photos`."""

    root: Path
    max_pixels: int = MAX_PIXELS

    def path(self, file_name: str) -> Path:
        path = self.root / relative(file_name)
        if not path.is_file():
            raise SamcliError(f"{path} does not exist; give the folder that the photos lie in with --images")
        return path

    def named(self, stem: PurePosixPath) -> str:
        if (self.root / stem).is_file():
            return stem.as_posix()
        for ending in EXTENSIONS:
            for spelled in (ending, ending.upper()):
                if (self.root / f"{stem}{spelled}").is_file():
                    return f"{stem}{spelled}"
        return stem.as_posix()
