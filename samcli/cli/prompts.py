"""Prompts as users write them: options, and JSON Lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcli.cli.report import UsageError
from samcli.errors import SamcliError
from samcli.formats.boxes import Detection
from samcli.records import Box, MaskRecord, Prompt

STDIN = Path("-")
KEYS = ("id", "image", "points", "labels", "box", "mask")
ID_DEPTH = 32  # lists and objects within an id; JSON's writer has a limit that depends on Python


@dataclass(frozen=True)
class Request:
    """One prompt as asked for, checked as far as that goes without its image. Raises SamcliError.

    id: the user's, or the number of the prompt from 1. mask: a picture or saved logits; of several logits in
    the file the one at `turn` = (index, how many) is meant, a single one always. detection: the prompt is the
    box of a detector, known in pixels only together with its image.
    """

    id: Any
    image: Path
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] | None = None
    box: Box | None = None
    mask: Path | None = None
    turn: tuple[int, int] = (0, 1)
    detection: Detection | None = None

    def __post_init__(self) -> None:
        if self.detection is None:
            self.prompt(None if self.mask is None else np.zeros((1, 1), np.float32))

    def within(self, size: tuple[int, int]) -> Request | None:
        """The request for an image of `size` (height, width); None for a detector's box outside of it."""
        if self.detection is None:
            return self
        box = self.detection.box(size)
        return replace(self, box=box) if box else None

    def told(self, mask: MaskRecord) -> MaskRecord:
        """A mask of the answer with what the detector said."""
        known = self.detection
        if known is None:
            return mask
        score = mask.score if known.score is None else known.score
        return replace(
            mask,
            category_id=known.category_id,
            category=known.category,
            detector_score=known.score,
            score=score,
        )

    def prompt(self, mask: NDArray[np.float32] | None) -> Prompt:
        """The prompt with what was read from its mask file."""
        return Prompt(self.points, self.labels, self.box, mask)


def from_options(
    image: Path, points: Sequence[str], boxes: Sequence[str], mask: Path | None
) -> list[Request]:
    """The prompts of the command line: points together are one, each box is one, one box joins the points.

    Raises UsageError for text that is no point or box and for what does not go together, SamcliError for
    values that make no sense.
    """
    where, labels = [], []
    for text in points:
        values = _split(text, "--point", "x,y or x,y,label", 2, 3)
        where.append((values[0], values[1]))
        labels.append(_label(text, values[2]) if len(values) == 3 else 1)
    corners = [_split(text, "--box", "x0,y0,x1,y1", 4, 4) for text in boxes]
    if where and len(corners) > 1:
        raise UsageError("--point goes with at most one --box; for more prompts at once use --prompts")
    if not (where or corners or mask):
        raise UsageError("no prompt; give --point, --box, --mask or --prompts")
    found: list[Box | None] = [Box(*values) for values in corners]
    found = found or [None]
    return [
        Request(i + 1, image, tuple(where), tuple(labels), box, mask, (i, len(found)))
        for i, box in enumerate(found)
    ]


def from_lines(
    lines: Iterable[bytes], name: str, image: Path | None, *, piped: bool = False
) -> Iterator[Request]:
    """The prompts of JSON Lines, one for each line that is not blank.

    name: of the file, for errors. image: for lines that name none. piped: the lines are standard input, which
    then is no image. Raises SamcliError with the line's number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = _request(line, number, image)
            if piped and request.image == STDIN:
                raise SamcliError("the image and the prompts cannot both be standard input")
        except SamcliError as error:
            raise SamcliError(f"line {number} of {name}: {error}") from error
        yield request


def _request(line: bytes, number: int, image: Path | None) -> Request:
    try:
        data = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise SamcliError(f"not JSON: {error.msg}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise SamcliError("not UTF-8 text") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise SamcliError("a number has too many digits") from error
    except RecursionError as error:
        raise SamcliError("lists or objects are nested too deeply") from error
    if not isinstance(data, dict):
        raise SamcliError('not a JSON object; write {"image": ..., "points": [[x, y]]} or the like')
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        raise SamcliError(f"unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    data = {key: value for key, value in data.items() if value is not None or key == "id"}
    if not _is_writable(data.get("id"), ID_DEPTH):
        raise SamcliError(f"id must hold finite numbers only, and be nested at most {ID_DEPTH} deep")
    named = _path(data, "image") or image
    if named is None:
        raise SamcliError('no image; name one as "image", or for all lines on the command line')
    points, labels, box = data.get("points", []), data.get("labels"), data.get("box")
    if not isinstance(points, list) or not all(_is_numbers(point, 2) for point in points):
        raise SamcliError("points must be [[x, y], ...]")
    if labels is not None and not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise SamcliError("labels must be [1, 0, ...]")
    if box is not None and not _is_numbers(box, 4):
        raise SamcliError("box must be [x0, y0, x1, y1]")
    try:
        return Request(
            data.get("id", number),
            named,
            tuple((x, y) for x, y in points),
            None if labels is None else tuple(labels),
            Box(*box) if box is not None else None,
            _path(data, "mask"),
        )
    except OverflowError as error:  # an integer beyond the range of floats
        raise SamcliError("a coordinate is too large") from error


def _path(data: dict[str, Any], key: str) -> Path | None:
    value = data.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise SamcliError(f"{key} must be a path")
    return None if value is None else Path(value)


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)


def _is_writable(value: Any, depth: int) -> bool:
    """What JSON read can be written as JSON again."""
    if isinstance(value, (list, dict)):
        members = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_writable(member, depth - 1) for member in members)
    return not isinstance(value, float) or math.isfinite(value)


def _split(text: str, option: str, form: str, least: int, most: int) -> list[float]:
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not least <= len(values) <= most:
        raise UsageError(f"{option} {text!r} is not {form}")
    return values


def _label(text: str, value: float) -> int:
    if not math.isfinite(value) or value != int(value):
        raise UsageError(f"the label of --point {text!r} is not 1 (foreground) or 0 (background)")
    return int(value)
