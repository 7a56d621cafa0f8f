"""Where the outputs of an image lie: a mirrored tree, one name per input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samcli.errors import SamcliError

BOXES = ".boxes.jsonl"  # ends the names of files with boxes of a detector


@dataclass(frozen=True)
class OutputPaths:
    """Every file or folder that an image's results may go to."""

    record: Path
    error: Path
    overlay: Path
    labelmap: Path
    masks: Path
    cutout: Path
    cutout_png: Path
    embedding: Path
    boxes: Path


def output_paths(out: Path, relative: PurePosixPath, *, keep_extension: bool = False) -> OutputPaths:
    """The outputs of the image at `relative` (its path below its root) in the folder `out`.

    `a/b.jpg` gives `out/a/b.json` and so on; with keep_extension `out/a/b.jpg.json`.
    """
    folder = out / relative.parent
    stem = relative.name if keep_extension else relative.stem
    return OutputPaths(
        record=folder / f"{stem}.json",
        error=folder / f"{stem}.error.json",
        overlay=folder / f"{stem}.overlay.jpg",
        labelmap=folder / f"{stem}.labelmap.png",
        masks=folder / f"{stem}.masks",
        cutout=folder / f"{stem}.cutout",
        cutout_png=folder / f"{stem}.cutout.png",
        embedding=folder / f"{stem}.safetensors",
        boxes=folder / f"{stem}{BOXES}",
    )


def names_folder(output: str) -> bool:
    """Whether what -o says is a folder: it is one, ends in /, or has no ending."""
    path = Path(output)
    return output.endswith("/") or path.is_dir() or not path.suffix


def record_names(relative: PurePosixPath, *, keep_extension: bool = False) -> tuple[str, str]:
    """The record and the note of failure of `output_paths`, relative to the output folder; quicker."""
    stem = relative if keep_extension else relative.parent / relative.stem
    return f"{stem}.json", f"{stem}.error.json"


def check_unique(images: Iterable[tuple[Path, PurePosixPath]], *, keep_extension: bool = False) -> None:
    """Raise SamcliError, naming both, when two inputs would write one output.

    images: each input's path and its path relative to its root.
    """
    owners: dict[str, Path] = {}
    for path, relative in images:
        for output in record_names(relative, keep_extension=keep_extension):
            other = owners.setdefault(output, path)
            if os.path.abspath(other) != os.path.abspath(path):  # noqa: PTH100 - links keep their names
                raise SamcliError(
                    f"{other} and {path} would both write {output}; "
                    "rename one, or name outputs by --root or --keep-extension"
                )


def image_id(relative: PurePosixPath) -> int:
    """The record's image id: the first 52 bits of the sha256 of the path relative to the root."""
    digest = hashlib.sha256(relative.as_posix().encode("utf-8", "surrogateescape")).hexdigest()
    return int(digest[:13], 16)
