"""Contact sheets: many images with their masks on one picture."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from samcli.records import MaskRecord
from samcli.viz.gallery import small_rle
from samcli.viz.overlay import overlay
from samcli.viz.text import fitted, letters_for, plain

CELL = (320, 240)  # (width, height) of the place for a picture, in pixels
GAP = 20  # between cells, and around them
CAPTION = 42  # height of the two lines below a picture
COLUMNS = 6
ROWS = 8

LEAST_LABELLED = 600  # pixels; about as many as a label takes

PNG_MARK = b"tEXtSoftware\0samcli view"
"""What tells our pictures from others, within their first 256 bytes."""

GROUND = (255, 255, 255)
BESIDE = (240, 241, 243)  # where a picture does not fill its cell
TEXT = (22, 24, 28)
FAINT = (98, 104, 112)  # 5.7 to 1 on white
FAILED = (176, 32, 32)
NEUTRAL = (58, 62, 68)  # in place of a photo


@dataclass(frozen=True)
class Cell:
    """One image of a sheet.

    name: its path. note: a line about it, or why it failed. picture: (h, w, 3) uint8 RGB, no larger than a
    cell; None for an image that failed.
    """

    name: str
    note: str
    picture: NDArray[np.uint8] | None = None


def neutral(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A ground for masks whose photo is not at hand: (height, width, 3) uint8 RGB."""
    return np.full((*size, 3), NEUTRAL, np.uint8)


def drawn_small(
    pixels: NDArray[np.uint8], masks: Sequence[MaskRecord], box: tuple[int, int] = CELL
) -> NDArray[np.uint8]:
    """An image with its masks, shrunk to fit a box (width, height); contours stay as thin as they are there.

    pixels: (H, W, 3) uint8 RGB. Small images are not enlarged.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, box[0] / width, box[1] / height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != (height, width):
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    small = [replace(mask, segmentation=small_rle(mask.segmentation, size)) for mask in masks]
    return overlay(pixels, small, least_labelled=LEAST_LABELLED)


def sheet(cells: Sequence[Cell], box: tuple[int, int] = CELL) -> NDArray[np.uint8]:
    """The sheet of at most ROWS * COLUMNS cells, as high and wide as it needs: (H, W, 3) uint8 RGB.

    box: (width, height) of the place for a picture, in pixels.
    """
    columns = max(1, min(COLUMNS, len(cells)))
    rows = max(1, -(-len(cells) // columns))
    step = box[0] + GAP, box[1] + CAPTION + GAP
    page = Image.new("RGB", (GAP + columns * step[0], GAP + rows * step[1]), GROUND)
    draw = ImageDraw.Draw(page)
    for i, cell in enumerate(cells):
        left, top = GAP + i % columns * step[0], GAP + i // columns * step[1]
        _draw(page, draw, cell, (left, top), box)
    return np.asarray(page)


def marked_png(pixels: NDArray[np.uint8], software: str = "samcli view") -> bytes:
    """PNG bytes of a picture (H, W, 3) uint8 RGB, with the mark of what made it near the start (PNG_MARK)."""
    buffer, note = io.BytesIO(), PngInfo()
    note.add_text("Software", software)
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


def _draw(page: Image.Image, draw: Any, cell: Cell, at: tuple[int, int], box: tuple[int, int]) -> None:
    """at: (left, top). box: (width, height)."""
    left, top = at
    draw.rectangle((left, top, left + box[0] - 1, top + box[1] - 1), fill=BESIDE)
    if cell.picture is not None:
        height, width = cell.picture.shape[:2]
        middle = left + (box[0] - width) // 2, top + (box[1] - height) // 2
        page.paste(Image.fromarray(cell.picture), middle)
    else:
        text, letters = letters_for(plain(cell.note, 300), 15)
        lines = "\n".join(textwrap.wrap(text, 40))  # so many letters of this size fit a cell
        draw.multiline_text((left + GAP / 2, top + GAP / 2), lines, fill=FAILED, font=letters, spacing=5)
    below, failed = top + box[1], cell.picture is None
    second = ("failed", 13, 34, FAILED) if failed else (cell.note, 13, 34, FAINT)
    for text, size, offset, color in ((cell.name, 15, 15, TEXT), second):
        line, letters = fitted(text, box[0], size)
        draw.text((left, below + offset), line, fill=color, font=letters, anchor="lm")
