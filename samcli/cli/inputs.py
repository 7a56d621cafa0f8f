"""The images that a command works on: named, found in folders, or listed, and each with one output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from samcli import images
from samcli.cli.prompts import STDIN
from samcli.cli.report import UsageError
from samcli.errors import RefusedError, SamcliError
from samcli.formats.names import check_unique, image_id, record_names
from samcli.images import Chosen, ImageFile, list_images, located
from samcli.records import InputFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.batch import Room


class Decoded(NamedTuple):
    """A decoded input: provenance, and (H, W, 3) uint8 RGB."""

    source: InputFile
    pixels: NDArray[np.uint8]


def read_picture(image: ImageFile, max_pixels: int, room: Room = lambda size: None) -> Decoded:
    """Read and decode an input. Raises SamcliError; BadBytesError when its bytes are at fault."""
    if image.problem:
        raise SamcliError(image.problem)
    data = read_stdin() if image.path == STDIN else images.read(image.path)
    source = images.input_file(data, image.relative)
    return Decoded(source, decode(data, source, shown(image.path), max_pixels, room))


def shown(path: Path) -> str:
    """What an image is called."""
    return "standard input" if path == STDIN else str(path)


PIPED = ImageFile(STDIN, PurePosixPath("stdin"))
"""The image on standard input."""


class BadBytesError(SamcliError):
    """A file cannot be decoded, and another try would fail alike. source: the file with these very bytes."""

    def __init__(self, reason: str, source: InputFile) -> None:
        super().__init__(reason)
        self.source = source


def decode(data: bytes, source: InputFile, name: str, max_pixels: int, room: Room) -> NDArray[np.uint8]:
    """Decode an input that is read already. Raises as `read_picture` does."""
    try:
        return images.load(data, max_pixels=max_pixels, name=name, room=room)
    except RefusedError:
        raise
    except SamcliError as error:
        raise BadBytesError(str(error), source) from error


def listed_file(path: Path, root: Path | None) -> ImageFile:
    """A path that stands in a list; with a problem when it cannot be an image below the root."""
    image = ImageFile(path, PurePosixPath(path.name), _impossible_name(path))
    if image.problem:
        return image
    if path.name in ("", ".."):
        return ImageFile(path, PurePosixPath("."), f"{path} is a folder; give an image file")
    try:
        found = located(path, root)
    except SamcliError as error:
        return replace(image, problem=str(error))
    return found if found.relative.name else replace(found, problem=f"{path} is a folder; give an image file")


def _impossible_name(path: Path) -> str | None:
    """Why no file can be called that; None when one can."""
    if "\0" in str(path):
        return f"{str(path)!r} holds a NUL; for a list that find -print0 wrote add -0"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return f"{str(path)!r} is not a file name"
    return None


@dataclass(frozen=True)
class Shard:
    """Number `index`, from 1, of `count` shards; every image is in one, by the path below its root."""

    index: int
    count: int

    def __contains__(self, image: ImageFile) -> bool:
        return image_id(image.relative) % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Read "i/n". Raises UsageError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text!r} is not i/n with i from 1 to n, such as 1/8")
    return Shard(int(index), int(count))


def parse_pixels(text: str) -> int:
    """Read a number of pixels such as 50000000, 50M or 0.2G. Raises UsageError."""
    unit = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    try:
        pixels = int(float(text if unit == 1 else text[:-1]) * unit)
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise UsageError(f"--max-pixels {text!r} is not a number of pixels, such as 100M")
    return pixels


@dataclass(frozen=True)
class Inputs:
    """The images of paths and lists, each once, listed anew with every iteration.

    files_from: a file with a path on each line, or STDIN. null: NUL ends a path there, not the line.
    Two images that would write one output: the second one has a `problem`.
    """

    paths: tuple[Path, ...]
    out: Path | None
    files_from: Path | None = None
    null: bool = False
    root: Path | None = None
    keep_extension: bool = False
    chosen: Chosen = images.EVERYTHING
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if not self.paths and self.files_from is None:
            raise UsageError("no images; name files or folders, or a list of them with --files-from")
        if STDIN in self.paths:
            raise UsageError("- is no image here; for names on standard input use --files-from -")
        if self.null and self.files_from is None:
            raise UsageError("-0 goes with --files-from")
        if self.files_from == STDIN and sys.stdin.isatty():
            raise UsageError("--files-from - reads standard input, which is a terminal; pipe a list in")

    @property
    def once(self) -> bool:
        """The list is a pipe: the images can be listed only once, and not before work starts."""
        listed = self.files_from
        return listed == STDIN or (listed is not None and listed.exists() and not listed.is_file())

    @property
    def alone(self) -> Path | None:
        """The image, when a single one was named."""
        single = len(self.paths) == 1 and self.files_from is None and not self.paths[0].is_dir()
        return self.paths[0] if single else None

    def __iter__(self) -> Iterator[ImageFile]:
        return (image for image in self._unique() if self.shard is None or image in self.shard)

    def _unique(self) -> Iterator[ImageFile]:
        seen: set[int] = set()  # hashes of 64 bits: names would take the memory of many images
        for image in self._listed():
            if image.problem is None:
                outputs = record_names(image.relative, keep_extension=self.keep_extension)
                same = hash((outputs[0], os.path.abspath(image.path)))  # noqa: PTH100 - links keep their names
                if same in seen:
                    continue
                taken = next((output for output in outputs if hash(output) in seen), None)
                if taken:
                    image = replace(
                        image,
                        problem=f"{image.path} would write {taken}, as an image before it; "
                        "rename one, or name outputs by --root or --keep-extension",
                    )
                else:
                    seen |= {same, *map(hash, outputs)}
            yield image

    def check(self, allow: Callable[[ImageFile], None]) -> int | None:
        """Look through all images before any work; how many there are, None when they come through a pipe.

        Raises SamcliError for the first with a problem, and what `allow` raises.
        """
        if self.once:
            return None
        count = 0
        for image in self._unique():
            if image.problem:
                check_unique(  # says who the other one is
                    ((i.path, i.relative) for i in self._listed() if i.problem is None),
                    keep_extension=self.keep_extension,
                )
                raise SamcliError(image.problem)
            if self.shard is None or image in self.shard:
                allow(image)
                count += 1
        return count

    def _listed(self) -> Iterator[ImageFile]:
        if self.paths:
            yield from list_images(self.paths, root=self.root, output=self.out, chosen=self.chosen)
        if self.files_from is not None:
            for name in self._names(self.files_from):
                image = listed_file(Path(os.fsdecode(name)), self.root)
                if image.problem or image.relative in self.chosen:
                    yield image

    def _names(self, files_from: Path) -> Iterator[bytes]:
        separator = b"\0" if self.null else b"\n"
        names = stdin_pieces(separator) if files_from == STDIN else _pieces(files_from, separator)
        return (name for name in names if name.strip())


def stdin_pieces(separator: bytes) -> Iterator[bytes]:
    """The lines of standard input, or what another byte separates, each as soon as it is there.

    Reads the file itself where there is one: at its end Python waits for a lock that a thread waiting for
    input holds on the buffer.
    """
    return _split(_stdin().read, separator)


def read_stdin() -> bytes:
    """All of standard input; as `stdin_pieces` reads it."""
    return b"".join(_chunks(_stdin().read))


def _stdin() -> Any:
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


def _chunks(read: Callable[[int], bytes | None]) -> Iterator[bytes]:
    while (piece := read(2**16)) != b"":
        if piece is None:  # the other side made the pipe non-blocking
            time.sleep(0.05)
        else:
            yield piece


def _pieces(file: Path, separator: bytes) -> Iterator[bytes]:
    try:
        with file.open("rb") as stream:
            yield from _split(stream.read, separator)
    except OSError as error:
        raise SamcliError(f"{file} cannot be read: {error.strerror}; check the path") from error


def _split(read: Callable[[int], bytes | None], separator: bytes) -> Iterator[bytes]:
    rest = b""
    for piece in _chunks(read):
        *whole, rest = (rest + piece).split(separator)
        yield from (_line(part, separator) for part in whole)
    if rest:
        yield _line(rest, separator)


def _line(text: bytes, separator: bytes) -> bytes:
    return text.removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf") if separator == b"\n" else text
