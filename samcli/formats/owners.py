"""Which photo is meant by what another program's file calls it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from unicodedata import normalize

from samcli.errors import SamcliError
from samcli.formats.names import image_id


class Owners:
    """Finds the image that each name of a file means, in one pass over the images.

    A name is the path below the root, with or without its ending, else the only file of that name in any
    folder. A number is the only file that is named by it, else samcli's own image id. `look` and `found`
    raise SamcliError when two files, or two names, could be meant.
    """

    def __init__(self, sources: Mapping[int | str, int] | Mapping[str, int], file: str) -> None:
        """sources: names, as `plain` has them, or numbers, and what `found` calls them; of `file`."""
        self._file = file
        self._names = {name: number for name, number in sources.items() if isinstance(name, str)}
        self._numbers = {name: number for name, number in sources.items() if isinstance(name, int)}
        self._tails = {_tail(name) for name in self._names}
        self._exact: dict[int, tuple[int, str]] = {}  # source: how exactly, the image's path
        self._by_tail: dict[str, list[str]] = {}  # at most two paths each: two are too many already
        self._by_number: dict[int, list[str]] = {}
        self._by_id: dict[int, str] = {}

    def look(self, image: PurePosixPath) -> None:
        """Take an image in."""
        path = image.as_posix()
        whole, bare = plain(path), plain(path[: -len(image.suffix)] if image.suffix else path)
        if not (self._claim(whole, 2, path) or self._claim(bare, 1, path)):
            for tail in {_tail(whole), _tail(bare)} & self._tails:
                self._note(self._by_tail.setdefault(tail, []), path)
        if self._numbers:
            number = decimal(image.stem)
            if number in self._numbers:
                self._note(self._by_number.setdefault(number, []), path)
            number = image_id(image)
            if number in self._numbers:
                self._by_id[number] = path

    def found(self) -> dict[int, str]:
        """The image's path for each source that has one."""
        found = {source: path for source, (_, path) in self._exact.items()}
        taken: dict[str, str] = {}
        for name, source in self._names.items():
            paths = self._by_tail.get(_tail(name), []) if source not in found else []
            if not paths:
                continue
            if len(paths) > 1:
                self._refuse(name, paths)
            other = taken.setdefault(paths[0], name)
            if other != name:
                raise SamcliError(
                    f"{other} and {name} in {self._file} could both be {paths[0]}; "
                    "give the folder that these names start from"
                )
            found[source] = paths[0]
        for number, source in self._numbers.items():
            paths = self._by_number.get(number, [])
            if len(paths) > 1:
                self._refuse(str(number), paths)
            path = paths[0] if paths else self._by_id.get(number)
            if path is not None:
                found[source] = path
        return found

    def _claim(self, name: str, exactness: int, path: str) -> bool:
        source = self._names.get(name)
        if source is None:
            return False
        before, other = self._exact.get(source, (0, ""))
        if before == exactness:
            self._refuse(name, [other, path])
        if before > exactness:
            return False
        self._exact[source] = (exactness, path)
        return True

    def _note(self, paths: list[str], path: str) -> None:
        if len(paths) < 2:
            paths.append(path)

    def _refuse(self, name: str, paths: list[str]) -> None:
        raise SamcliError(
            f"{name} in {self._file} could be {paths[0]} or {paths[1]}; name images by their paths below the "
            "folder"
        )


def plain(name: str) -> str:
    """A name as it is compared: accents composed, as some disks split them."""
    name = name.removeprefix("./")
    return name if name.isascii() else normalize("NFC", name)


def decimal(text: str) -> int:
    """A number of decimal digits; -1 for other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 100 else -1


def _tail(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]  # detectors run on Windows too
