"""The gallery: one page with the pictures and masks of many images, which needs nothing but itself.

What is in the file, in this order: the page and its program; an index of all images and masks, small, so that
filters and sorting know everything at once; and for each image a block of text with its picture and its
masks, which the program reads only when the image comes into view.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from samcli.masks import decode_rle, mask_bbox
from samcli.records import RLE, MaskRecord
from samcli.viz.colors import colors, label_index, label_of, mask_colors

MARK = b"<!DOCTYPE html><!-- samcli view -->\n"
"""How every gallery starts."""

SIDES = ((100, 1024), (500, 640), (3000, 360))
"""Up to so many images, so long is the long side of their pictures, in pixels: about 50 MB of photos each."""
SMALLEST_SIDE = 256

QUALITY = 75  # of JPEG

Kind = Literal["photo", "drawn", "bare", "failed"]
"""What there is of an image: its photo, its photo with masks drawn in, only its masks, only why it failed."""

_COLUMNS = {
    "id": "i", "area": "I", "score": "h", "iou": "h", "stability": "h", "detector": "h", "label": "i",
    "color": "I",
}  # fmt: skip
_SCORE = 10_000  # scores are kept in units of 1/_SCORE, rounded down, so that thresholds of 0.01 stay exact
_NONE = -(2**15)  # a score that is not there
_BACK = 2**20  # bytes copied at once


@dataclass(frozen=True)
class Shown:
    """One image as the gallery shows it.

    name: its path. size: (height, width) of the image, (0, 0) if that is unknown. small: the same of its
    picture here. jpeg: of the picture, empty without one. masks: without their segmentation, for the index.
    runs: their compressed COCO run-length encodings at the size `small`. problem: why it failed, or "".
    """

    name: str
    kind: Kind
    size: tuple[int, int] = (0, 0)
    small: tuple[int, int] = (0, 0)
    jpeg: bytes = b""
    masks: tuple[MaskRecord, ...] = ()
    runs: tuple[str, ...] = ()
    problem: str = ""


def side_for(count: int) -> int:
    """How long the long side of a picture may be in a gallery of so many images, in pixels."""
    return next((side for most, side in SIDES if count <= most), SMALLEST_SIDE)


def show(
    name: str,
    masks: Sequence[MaskRecord],
    size: tuple[int, int],
    pixels: NDArray[np.uint8] | None,
    side: int,
    *,
    drawn: bool = False,
) -> Shown:
    """Make an image small for the gallery.

    size: (height, width) of the masks. pixels: (H, W, 3) uint8 RGB, of any size; None: only masks are shown.
    side: of the small picture's long side, which never grows. drawn: masks are drawn into the pixels.
    Raises SamcliError for a damaged mask.
    """
    small = shrunk(size, side)
    runs = tuple(small_rle(mask.segmentation, small)["counts"] for mask in masks)
    kind: Kind = "bare" if pixels is None else "drawn" if drawn else "photo"
    return Shown(name, kind, size, small, _jpeg(pixels, small), tuple(masks), runs)


def shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) with the long side at most `side` and neither below 1."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def small_rle(rle: RLE, size: tuple[int, int]) -> RLE:
    """A mask at a smaller size (height, width); a mask that has pixels keeps some.

    A pixel belongs to it when the mask covers half of it, or, for a mask too thin or small to cover half of
    any, half of what it covers at most.
    """
    bits = decode_rle(rle)
    x, y, width, height = mask_bbox(bits)
    small = np.zeros(size, np.uint8, order="F")
    if width:
        top, cover = _shrunk_rows(bits[y : y + height, x : x + width], y, bits.shape[0], size[0])
        left, cover = _shrunk_rows(cover.T, x, bits.shape[1], size[1])
        enough = cover >= min(0.5, float(cover.max()) / 2) - 1e-6
        small[top : top + cover.shape[1], left : left + cover.shape[0]] = enough.T
    packed = coco.encode(small)
    return {"size": [*size], "counts": packed["counts"].decode("ascii")}


def _shrunk_rows(part: NDArray[Any], start: int, length: int, new: int) -> tuple[int, NDArray[np.float32]]:
    """Shrink `length` rows to `new` ones, each the mean of what it covers; all but these rows are zero.

    part: (N, M), rows from `start` on. Returns the first new row that is covered, and (n, M) of them.
    The sums up to any fraction of a row are exact, which makes this quicker than resizing all.
    """
    ratio = length / new
    first, last = int(start / ratio), min(new, math.ceil((start + len(part)) / ratio))
    edges = np.clip(np.arange(first, last + 1) * ratio - start, 0, len(part))
    whole = edges.astype(int)
    sums = np.zeros((len(part) + 1, part.shape[1]), np.float32)
    np.cumsum(part, axis=0, dtype=np.float32, out=sums[1:])
    rest = (edges - whole).astype(np.float32)[:, None]
    upto = sums[whole] + rest * (sums[np.minimum(whole + 1, len(part))] - sums[whole])
    return first, np.diff(upto, axis=0) / np.float32(ratio)


def _jpeg(pixels: NDArray[np.uint8] | None, size: tuple[int, int]) -> bytes:
    if pixels is None:
        return b""
    if pixels.shape[:2] != size:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


@dataclass
class Gallery:
    """A gallery in the making: images are added one by one, then all is written.

    title: what the page is called. spool: an empty file for what is written last; memory holds the index.
    """

    title: str
    spool: BinaryIO
    _images: list[list[Any]] = field(default_factory=list, init=False)
    _labels: dict[str, int] = field(default_factory=dict, init=False)
    _columns: dict[str, Any] = field(
        default_factory=lambda: {name: array(code) for name, code in _COLUMNS.items()}, init=False
    )

    def add(self, shown: Shown) -> None:
        """Add an image behind the others. Raises OSError."""
        number = len(self._images)
        (height, width), (small_height, small_width) = shown.size, shown.small
        what = [shown.name, width, height, small_width, small_height, shown.kind, len(shown.masks)]
        self._images.append([*what, shown.problem] if shown.problem else what)
        for mask, color in zip(shown.masks, mask_colors(shown.masks).tolist(), strict=True):
            label = label_of(mask)
            row = {
                "id": 0 if mask.id is None else max(-(2**31), min(mask.id, 2**31 - 1)),
                "area": max(0, min(mask.area, 2**32 - 1)),
                "score": _kept(score_of(mask)),
                "iou": _kept(mask.predicted_iou),
                "stability": _kept(mask.stability_score),
                "detector": _kept(mask.detector_score),
                "label": -1 if label is None else self._labels.setdefault(label, len(self._labels)),
                "color": color[0] << 16 | color[1] << 8 | color[2],
            }
            for name, value in row.items():
                self._columns[name].append(value)
        if shown.kind != "failed":
            # Neither base64 nor these run lengths (characters 0 to o) hold anything that could end the block.
            self.spool.write(
                b'<script type="text/plain" id="i%d">%s\n%s</script>\n'
                % (number, base64.b64encode(shown.jpeg), " ".join(shown.runs).encode("ascii"))
            )

    def pieces(self) -> Iterator[bytes]:
        """The page, in pieces."""
        program, style = _file("gallery.js"), _file("gallery.css")
        policy = (
            f"default-src 'none'; img-src data:; script-src '{_sha256(program)}'; "
            f"style-src '{_sha256(style)}'; base-uri 'none'; form-action 'none'"
        )
        page = _file("gallery.html")
        for name, text in (
            ("policy", policy),
            ("title", html.escape(self.title.encode("utf-8", "replace").decode())),
            ("style", style),
            ("index", self._index()),
            ("program", program),
        ):
            before, _, page = page.partition(f"{{{{{name}}}}}")
            yield (MARK if name == "policy" else b"") + before.encode()
            yield text.encode()
        before, _, page = page.partition("{{images}}")
        yield before.encode()
        self.spool.seek(0)
        while piece := self.spool.read(_BACK):
            yield piece
        yield page.encode()

    def _index(self) -> str:
        hues = colors([label_index(label) for label in self._labels]).tolist()
        index = {
            "title": self.title,
            "images": self._images,
            "labels": [
                [label, r << 16 | g << 8 | b] for label, (r, g, b) in zip(self._labels, hues, strict=True)
            ],
            "columns": {name: _little_endian(column) for name, column in self._columns.items()},
        }
        text = json.dumps(index, separators=(",", ":"))
        return text.replace("<", "\\u003c")  # no name or label ends the block that holds it


def score_of(mask: MaskRecord) -> float | None:
    """What masks are filtered and sorted by: the score they export, else the predicted IoU."""
    return mask.predicted_iou if mask.score is None else mask.score


def _kept(score: float | None) -> int:
    if score is None:
        return _NONE
    # a little more, so that 0.57 does not become 0.5699
    return max(_NONE + 1, min(math.floor(score * _SCORE + 1e-6), 2**15 - 1))


def _little_endian(column: Any) -> str:
    values = column
    if sys.byteorder == "big":
        values = array(column.typecode, column)
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    """As a content security policy names what may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
