"""Pictures of a dataset's report: crops around masks, sheets of them, and small photos."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samcli.dataset.plots import SOFTWARE
from samcli.dataset.summary import SAMPLES, Sample, Summary
from samcli.errors import SamcliError
from samcli.formats.table import Photos
from samcli.masks import decode_window, encode_rle
from samcli.viz.colors import mask_colors
from samcli.viz.gallery import score_of, shrunk
from samcli.viz.overlay import overlay
from samcli.viz.sheet import FAINT, GAP, GROUND, TEXT, Cell, marked_png, neutral, sheet
from samcli.viz.text import fitted, plain

SIDES = ((200, 320), (600, 240))
"""Up to so many samples, so long is a crop's side, in pixels."""
SMALLEST_SIDE = 176
MOST = 1000  # samples in all
MOST_BYTES = 10_000_000  # of all samples as JPEG; a third more in the page

AROUND = 1.35  # a crop's side, in those of the mask's box
LEAST = 64  # pixels of a photo that a crop shows at least: less would say nothing about a dot
DIM = 0.5  # how dark it is around a mask

Pixel = TypeVar("Pixel", np.uint8, np.float32)

QUALITIES = (82, 65, 45, 25)  # of JPEG, the first that is small enough

SMALL = 160  # pixels of the long side of photos that look alike
NARROWEST = 440  # pixels of a sheet, so that its title has room

GROUPS, MEMBERS = 24, 6  # of them that are shown


class Shot(NamedTuple):
    """A sample and its crop."""

    sample: Sample
    jpeg: bytes


@dataclass(frozen=True)
class Pictures:
    """samples: of each class of the summary, in its order, those that are shown. side: of the longest crop.

    alone: how many of them are masks without their photo. photos: small JPEGs of photos that look alike, by
    path; those that could be read.
    """

    samples: tuple[tuple[Shot, ...], ...]
    side: int
    alone: int
    photos: dict[str, bytes]


def samples_per_class(classes: int) -> int:
    """How many samples of each class are shown when there are so many classes."""
    return max(1, min(SAMPLES, MOST // max(1, classes)))


def draw(summary: Summary, photos: Photos | None) -> Pictures:
    """Make the pictures; each photo is decoded once. Beyond MOST classes there are no samples."""
    each = samples_per_class(len(summary.classes))
    shown = [_spread(one.samples, each) for one in summary.classes[:MOST]]
    count = sum(map(len, shown))
    side = next((side for most, side in SIDES if count <= most), SMALLEST_SIDE)
    room = MOST_BYTES // max(1, count)
    wanted: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, samples in enumerate(shown):
        for j, sample in enumerate(samples):
            wanted[sample.file_name].append((i, j))
    alike = {name for group in summary.duplicates[:GROUPS] for name in group[:MEMBERS]} if photos else set()
    found: dict[tuple[int, int], bytes] = {}
    small: dict[str, bytes] = {}
    alone = 0
    for name in sorted(wanted.keys() | alike):
        pixels = _pixels(photos, name)
        if pixels is not None and name in alike:
            small[name] = _jpeg(
                _resized(pixels, shrunk((pixels.shape[0], pixels.shape[1]), SMALL)), room=12_000
            )
        for i, j in wanted.get(name, ()):
            sample = shown[i][j]
            fits = pixels is not None and [*pixels.shape[:2]] == sample.mask.segmentation["size"]
            alone += not fits
            found[i, j] = _jpeg(crop(sample, pixels if fits else None, side), room)
    shots = tuple(
        tuple(Shot(sample, found[i, j]) for j, sample in enumerate(samples))
        for i, samples in enumerate(shown)
    )
    return Pictures(shots, side, alone, small)


def _spread(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    """The first, the last, and others evenly between them; of one, the first."""
    if len(samples) <= most:
        return samples
    step = (len(samples) - 1) / max(1, most - 1)
    return [samples[round(i * step)] for i in range(most)]


def crop(sample: Sample, pixels: NDArray[np.uint8] | None, side: int) -> NDArray[np.uint8]:
    """A mask with its outline and, darker, what is around it; without a photo the mask alone.

    pixels: (H, W, 3) uint8 RGB, of the mask's size. side: of the crop's longer side. Returns (h, w, 3) uint8
    RGB, a square where the image has the room. Raises SamcliError for a damaged mask.
    """
    height, width = sample.mask.segmentation["size"]
    left, top, bits = decode_window(sample.mask.segmentation)
    x, x_end = _window(left, bits.shape[1], max(bits.shape), width)
    y, y_end = _window(top, bits.shape[0], max(bits.shape), height)
    inside = np.zeros((y_end - y, x_end - x), np.float32)
    inside[top - y : top - y + bits.shape[0], left - x : left - x + bits.shape[1]] = bits
    scale = side / max(inside.shape)
    size = max(1, round(inside.shape[0] * scale)), max(1, round(inside.shape[1] * scale))
    cover = _resized(inside, size)
    mask = (cover >= min(0.5, float(cover.max()) / 2)) & (cover > 0)  # what is thin stays
    if pixels is None:
        alone = replace(sample.mask, segmentation=encode_rle(mask))
        return overlay(neutral(size), [alone], least_labelled=mask.size + 1)
    canvas = _resized(pixels[y:y_end, x:x_end], size)
    canvas[~mask] = (canvas[~mask] * DIM).astype(np.uint8)
    color = tuple(int(v) for v in mask_colors([sample.mask])[0])
    line = max(2, side // 100)
    if mask.any():  # the outline lies around the mask, hides nothing of it, and is seen on bright and dark
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
        canvas[~mask & (away <= line + 1.5)] = 0
        canvas[~mask & (away <= line)] = color
    return canvas


def _window(start: int, length: int, longest: int, whole: int) -> tuple[int, int]:
    """Where a crop begins and ends along one side of an image of `whole` pixels.

    start, length: of the mask's box along this side. longest: of its sides.
    """
    long = min(whole, max(LEAST, round(AROUND * longest)))
    begin = max(0, min(start + (length - long) // 2, whole - long))
    return begin, begin + long


def _pixels(photos: Photos | None, name: str) -> NDArray[np.uint8] | None:
    try:
        return photos.pixels(name) if photos else None
    except SamcliError:  # the mask is shown without it; the page says so
        return None


def _resized(pixels: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """pixels: (H, W) or (H, W, 3), uint8 or float32. size: (height, width)."""
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(pixels, size[::-1], interpolation=how)
    return resized.astype(pixels.dtype, copy=False)


def _jpeg(pixels: NDArray[np.uint8], room: int) -> bytes:
    """A picture in at most `room` bytes, if need be with fewer pixels."""
    picture = Image.fromarray(pixels)
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= room or max(picture.size) <= 16:
                return buffer.getvalue()
        picture = picture.resize((-(-picture.width // 2), -(-picture.height // 2)))


def class_sheet(title: str, about: str, shots: Sequence[Shot], side: int) -> bytes:
    """The sheet of a class as PNG: two lines about it, and its crops with their photos' paths and scores."""
    cells = []
    for sample, jpeg in shots:
        score = score_of(sample.mask)
        note = "no score" if score is None else f"score {score:.2f}"
        cells.append(Cell(sample.file_name, note, np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))))
    pixels = sheet(cells, (side, side))
    page = Image.new("RGB", (max(NARROWEST, pixels.shape[1]), pixels.shape[0] + 3 * GAP), GROUND)
    page.paste(Image.fromarray(pixels), (0, 3 * GAP))
    draw = ImageDraw.Draw(page)
    for text, size, middle, color in ((title, 20, 1.5 * GAP, TEXT), (about, 14, 2.8 * GAP, FAINT)):
        line, letters = fitted(plain(text), page.width - 2 * GAP, size)
        draw.text((GAP, middle), line, fill=color, font=letters, anchor="lm")
    return marked_png(np.asarray(page), SOFTWARE)
