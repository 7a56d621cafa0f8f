"""Text in pictures: ASCII in Pillow's own font, other letters in a font of the system that has them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from samcli.viz.colors import INK

LONGEST = 40  # characters of a label; what is longer hides the picture
DOTS = "..."
SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc",
    "Arial Unicode.ttf", "arial.ttf", "msyh.ttc", "Hiragino Sans GB.ttc",
)  # fmt: skip
"""Searched for where the system keeps its fonts: of Linux, macOS and Windows, those with many letters."""


class Tag(NamedTuple):
    """A label to write on a picture. at: (x, y) pixels of its middle. color: (3,) uint8 RGB behind it."""

    text: str
    at: tuple[int, int]
    color: NDArray[np.uint8]


def letters_for(text: str, size: float) -> tuple[str, Any]:
    """The text and a font of `size` pixels that can draw it.

    Letters that neither Pillow's font nor one of the system's has lose their accents, or become question
    marks: a label that cannot be read is no reason to fail.
    """
    own = ImageFont.load_default(size)
    if not text.isascii():
        for name in SYSTEM_FONTS:
            try:
                other = ImageFont.truetype(name, size)
            except OSError:
                continue
            if _draws(other, text):
                return text, other
        bare = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = "".join(c if c.isascii() else "?" for c in bare)
    return text, own


def _draws(letters: Any, text: str) -> bool:
    missing = bytes(letters.getmask("\uffff"))
    return all(c == " " or bytes(letters.getmask(c)) != missing for c in set(text))


def plain(text: str, longest: int = LONGEST) -> str:
    """One line that can be drawn: no control characters, nothing that is no text, not too long."""
    text = text.encode("utf-8", "replace").decode()
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= longest else text[: longest - len(DOTS)] + DOTS


def fitted(text: str, width: float, size: float) -> tuple[str, Any]:
    """As much of a text's end as fits `width` pixels, and its font: of a long path the end says most."""
    text, letters = letters_for(plain(text, 10**3), size)
    keep = len(text)
    while keep and letters.getlength(text if keep == len(text) else DOTS + text[-keep:]) > width:
        keep -= 1
    return (text if keep == len(text) else DOTS + text[len(text) - keep :]), letters


def write_tags(canvas: NDArray[np.uint8], tags: Sequence[Tag]) -> None:
    """Write labels into a picture (H, W, 3) uint8 RGB, each where it hides none of the others if it can."""
    if not tags:
        return
    height, width = canvas.shape[:2]
    size = min(max(11, round(min(height, width) / 32)), 64)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    pad, tall = max(2, size // 4), round(1.45 * size)
    taken: list[tuple[int, int, int, int]] = []
    for tag in tags:
        text, letters = letters_for(plain(tag.text), size)
        wide = round(letters.getlength(text)) + 2 * pad
        box = _place(tag.at, (wide, tall), (width, height), taken)
        taken.append(box)
        left, top, right, bottom = box
        color = tuple(int(v) for v in tag.color)
        draw.rounded_rectangle((left, top, right - 1, bottom - 1), pad, fill=color, outline=INK)
        draw.text((left + pad, (top + bottom) / 2), text, fill=INK, font=letters, anchor="lm")
    canvas[:] = np.asarray(picture)


def _place(
    at: tuple[int, int],
    size: tuple[int, int],
    around: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box inside the picture that hides as little as can be of those taken.

    at: (x, y) of its middle, if possible. size, around: (width, height) of the box and of the picture.
    """
    wide, tall = size
    best, least = (0, 0, wide, tall), None
    for step in (0, -1, 1, -2, 2, -3, 3):  # above and below, nearest first
        left = max(0, min(at[0] - wide // 2, around[0] - wide))
        top = max(0, min(at[1] - tall // 2 + step * (tall + 1), around[1] - tall))
        box = (left, top, left + wide, top + tall)
        hidden = sum(
            max(0, min(box[2], b[2]) - max(box[0], b[0])) * max(0, min(box[3], b[3]) - max(box[1], b[1]))
            for b in taken
        )
        if least is None or hidden < least:
            best, least = box, hidden
        if hidden == 0:
            break
    return best
