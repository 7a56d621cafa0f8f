"""Reading what other programs left: trees of files, JSON of any size, pictures of masks."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samcli.errors import SamcliError


def tree(place: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, PurePosixPath]]:
    """The files below a folder that end so, sorted, each with its path below it, less the ending; or a file.

    Hidden files and folders are left out. Raises SamcliError for a place that cannot be listed.
    """
    if not place.is_dir():
        if not place.exists():
            raise SamcliError(f"{place} does not exist; check the path")
        yield place, PurePosixPath(place.name).with_suffix("")
        return
    yield from _below(place, PurePosixPath(), suffixes)


def _below(
    folder: Path, relative: PurePosixPath, suffixes: tuple[str, ...]
) -> Iterator[tuple[Path, PurePosixPath]]:
    for name, is_folder in listing(folder):
        if is_folder:
            yield from _below(folder / name, relative / name, suffixes)
        elif name.lower().endswith(suffixes):
            yield folder / name, (relative / name).with_suffix("")


def listing(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder that are not hidden, sorted, and whether each is a folder. Raises SamcliError."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise SamcliError(f"{folder} cannot be listed: {error.strerror}; check the path") from error


def folders_with(place: Path, name: str) -> Iterator[tuple[Path, PurePosixPath]]:
    """The folders that hold a file of that name, sorted, each with its path below `place`."""
    if not place.is_dir():
        raise SamcliError(f"{place} is not a folder; check the path")
    stack = [PurePosixPath()]
    while stack:
        relative = stack.pop()
        entries = listing(place / relative)
        if (name, False) in entries:
            yield place / relative, relative if relative.name else PurePosixPath(place.name)
        stack += [relative / entry for entry, is_folder in reversed(entries) if is_folder]


def load_json(path: Path) -> Any:
    """What a JSON file holds. Raises SamcliError without its name."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise SamcliError(f"cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise SamcliError(f"not JSON: {error}") from error


def json_items(path: Path, prefix: str) -> Iterator[Any]:
    """The members of a list within a JSON file of any size, one by one; none when there is no such list.

    prefix: where, as ijson says it: "annotations.item", or "item" for the file's own list.
    Raises SamcliError, naming the file.
    """
    import ijson  # only some commands read such files

    try:
        with path.open("rb") as file:
            yield from ijson.items(file, prefix, use_float=True)
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SamcliError(f"{path} is not whole JSON: {reason}; write or copy it again") from error


class Groups:
    """Values kept on disk under keys, for files whose order is not that of the images."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE kept (key TEXT, value TEXT)")

    def add(self, values: Iterator[tuple[str, Any]]) -> None:
        """Keep JSON values under their keys, and make them findable."""
        rows = ((key, json.dumps(value)) for key, value in values)
        self._database.executemany("INSERT INTO kept VALUES (?, ?)", rows)
        self._database.execute("CREATE INDEX by_key ON kept (key)")

    def get(self, key: str) -> list[Any]:
        """What was kept under a key, in the order in which it came."""
        rows = self._database.execute("SELECT value FROM kept WHERE key = ? ORDER BY rowid", (key,))
        return [json.loads(value) for (value,) in rows]

    def keys(self) -> Iterator[str]:
        """Every key once, in the order of their first values."""
        rows = self._database.execute("SELECT key FROM kept GROUP BY key ORDER BY MIN(rowid)")
        return (key for (key,) in rows)


@contextmanager
def groups() -> Iterator[Groups]:
    """Empty groups in a temporary database, which goes with the context. Raises SamcliError."""
    try:
        with closing(sqlite3.connect("")) as database:
            yield Groups(database)
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


def open_picture(path: Path) -> Image.Image:
    """A picture, decoded, in its own mode. Raises SamcliError without its name."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise SamcliError("the picture does not exist; check the path") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SamcliError(f"the picture cannot be decoded ({error})") from error
    return image
