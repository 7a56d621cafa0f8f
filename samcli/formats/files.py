"""Reading what other programs left: trees of files, JSON of any size, pictures of masks."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samcli.errors import SamcliError
from samcli.formats.json_stream import JsonStream

_PICTURES = ("PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP")  # Pillow's other readers may start programs
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise on damaged files."""


def tree(place: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, PurePosixPath]]:
    """The files below a folder that end so, in order, each with its path below it less the ending; or a file.

    Hidden files and folders are left out. Raises SamcliError for a place that cannot be listed.
    """
    if not place.is_dir():
        if not place.exists():
            raise SamcliError(f"{place} does not exist; check the path")
        yield place, PurePosixPath(place.name).with_suffix("")
        return
    for folder, files, _ in walk(place):
        for name in files:
            if name.lower().endswith(suffixes):
                yield place / folder / name, (folder / name).with_suffix("")


def walk(place: Path) -> Iterator[tuple[PurePosixPath, list[str], list[str]]]:
    """A folder and those in it, at any depth: its path below `place`, and its files and folders, sorted.

    Hidden ones are left out, and links that lead back up. Raises SamcliError when a folder cannot be listed.
    """
    above: frozenset[str] = frozenset()
    stack = [(PurePosixPath(), above)]
    while stack:
        relative, above = stack.pop()
        real = os.path.realpath(place / relative)
        if real in above:
            continue
        files, folders = _listing(place / relative)
        yield relative, files, folders
        stack += [(relative / name, above | {real}) for name in reversed(folders)]


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise SamcliError(f"{folder} cannot be listed: {error.strerror}; change its permissions") from error
    files.sort()
    folders.sort()
    return files, folders


def folders_with(place: Path, name: str) -> Iterator[tuple[Path, PurePosixPath]]:
    """The folders that hold a file of that name, in order, each with its path below `place`."""
    if not place.is_dir():
        raise SamcliError(f"{place} is not a folder; check the path")
    for folder, files, _ in walk(place):
        if name in files:
            yield place / folder, folder if folder.name else PurePosixPath(place.name)


def load_json(path: Path) -> Any:
    """What a JSON file holds. Raises SamcliError without its name."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise SamcliError(f"cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise SamcliError(f"not JSON: {error}") from error


def json_items(path: Path, name: str = "") -> Iterator[Any]:
    """The elements of a JSON file's list, or of that list of its object, one by one; none without one.

    The file may be of any size. Raises SamcliError, naming it.
    """
    with _json_stream(path) as stream:
        if not name and stream.peek() == "[":
            yield from stream.elements()
        elif name and stream.peek() == "{":
            for key in stream.members():
                if key == name and stream.peek() == "[":
                    yield from stream.elements()
                else:
                    stream.skip()


def json_members(path: Path, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The members of a JSON file's object, with their keys; of those lists each element by itself.

    None when it is no object. Raises SamcliError, naming the file, as `json_items`.
    """
    with _json_stream(path) as stream:
        for key in stream.members() if stream.peek() == "{" else ():
            if key in lists and stream.peek() == "[":
                yield from ((key, element) for element in stream.elements())
            else:
                yield key, stream.value()


@contextmanager
def _json_stream(path: Path) -> Iterator[JsonStream]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield JsonStream(file)
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else " ".join(str(error).split())
        raise SamcliError(f"{path} is not whole JSON: {reason}; write or copy it again") from error


def json_objects(path: Path, name: str = "") -> Iterator[dict[str, Any]]:
    """`json_items` that are all objects."""
    for value in json_items(path, name):
        if not isinstance(value, dict):
            what = f"an element of {name}" if name else "an element"
            raise SamcliError(f"{path}: {what} is not a JSON object: {json.dumps(value)[:40]}")
        yield value


def json_key(data: dict[str, Any], name: str) -> str:
    """A member that things are known by, a number or text, as something to look them up by."""
    value = data.get(name)
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def json_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8; what UTF-8 lacks (file names that are not text) leaves as JSON's escapes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


class Groups:
    """Values kept on disk under keys, for files whose order is not that of the images."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE kept (key TEXT, value TEXT)")

    def add(self, values: Iterator[tuple[str, Any]]) -> None:
        """Keep JSON values under their keys, and make them findable."""
        rows = ((key, json.dumps(value)) for key, value in values)
        self._database.executemany("INSERT INTO kept VALUES (?, ?)", rows)
        self.index()

    def put(self, key: str, value: Any) -> None:
        """Keep one more JSON value; `index` makes them findable."""
        self._database.execute("INSERT INTO kept VALUES (?, ?)", (key, json.dumps(value)))

    def index(self) -> None:
        """Make findable what was put."""
        self._database.execute("CREATE INDEX by_key ON kept (key)")

    def get(self, key: str) -> list[Any]:
        """What was kept under a key, in the order in which it came."""
        rows = self._database.execute("SELECT value FROM kept WHERE key = ? ORDER BY rowid", (key,))
        return [json.loads(value) for (value,) in rows]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Everything with its key, in the order in which it came."""
        rows = self._database.execute("SELECT key, value FROM kept ORDER BY rowid")
        return ((key, json.loads(value)) for key, value in rows)

    def keys(self) -> Iterator[str]:
        """Every key once, in the order of their first values."""
        rows = self._database.execute("SELECT key FROM kept GROUP BY key ORDER BY MIN(rowid)")
        return (key for (key,) in rows)


class Names:
    """Names that came so far, kept on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> bool:
        """Whether the name is new."""
        try:
            self._database.execute("INSERT INTO names VALUES (?)", (os.fsencode(name),))
        except sqlite3.IntegrityError:
            return False
        return True


@contextmanager
def groups() -> Iterator[Groups]:
    """Empty groups, which go with the context. Raises SamcliError."""
    with _database() as database:
        yield Groups(database)


@contextmanager
def names() -> Iterator[Names]:
    """No names yet; they go with the context. Raises SamcliError."""
    with _database() as database:
        yield Names(database)


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A temporary database, in a file once it is large."""
    try:
        with closing(sqlite3.connect("")) as database:
            yield database
    except sqlite3.Error as error:
        raise SamcliError(f"temporary files cannot be written: {error}; make room, or set TMPDIR") from error


def mask_picture(path: Path) -> NDArray[np.bool_]:
    """A picture of one mask as (H, W) bool: white, or opaque, is the thing.

    Raises SamcliError without its name.
    """
    image = open_picture(path)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA").getchannel("A")) > 127
    values = np.asarray(image if image.mode in ("P", "I", "I;16", "1") else image.convert("L"))
    above = values > 127
    bits: NDArray[np.bool_] = above if image.mode == "L" and above.any() else values > 0
    return bits


def open_picture(source: Path | BinaryIO) -> Image.Image:
    """A picture, decoded, in its own mode. Raises SamcliError without its name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on what it makes of damaged files, and of large ones
            image = Image.open(source, formats=_PICTURES)
            image.load()
    except FileNotFoundError as error:
        raise SamcliError("the picture does not exist; check the path") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SamcliError(f"the picture cannot be decoded ({reason})") from error
    return image
