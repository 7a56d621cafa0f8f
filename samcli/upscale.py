"""From low-res logits to masks of the original image, computed only where a mask's contour runs.

The reference interpolates bilinearly twice: to the square input, of which the padding is cut off, and to the
original size. Both steps are linear and separable, so together they are one matrix per axis. Interpolated
logits lie between those they are made of: a tile of the image whose low-res cells are all on one side of what
is asked needs no interpolation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samcli.masks import encode_ends
from samcli.records import RLE

TILE = 96  # pixels; side of what is interpolated at once
NEVER = -1e9  # a logit below any threshold; finite, because it is multiplied by 0
_CPU_TILES, _GPU_TILES = 64, 2**12  # at once: 2 MiB of logits on a CPU, 144 MiB on a GPU
_CPU_PIXELS, _GPU_PIXELS = 1, 2**27  # of whole masks at once; at least one mask


class Measures(NamedTuple):
    """Of N masks. area: (N,) pixels. stability: (N,) float32. boxes: (N, 4) int64, inclusive xyxy, zeros for
    empty masks.
    """

    area: NDArray[np.int64]
    stability: NDArray[np.float32]
    boxes: NDArray[np.int64]


class Upscaling:
    """The way of low-res logits to the original image.

    low: (h, w) of the logits. side: of the model's square input. input_size: of the resized image within it.
    size: of the original image. Without aligned corners, as in the reference.
    """

    def __init__(
        self,
        low: tuple[int, int],
        side: int,
        input_size: tuple[int, int],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.size = size
        self._rows = _axis(low[0], side, input_size[0], size[0], device)
        self._columns = _axis(low[1], side, input_size[1], size[1], device)
        on_cpu = device.type == "cpu"
        self._tiles_at_once = _CPU_TILES if on_cpu else _GPU_TILES
        pixels = _CPU_PIXELS if on_cpu else _GPU_PIXELS
        self._masks_at_once = max(1, pixels // (size[0] * size[1]))

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., h, w) low-res logits to (..., H, W) float32."""
        return self._rows.matrix @ logits.float() @ self._columns.matrix.T

    def measure(self, logits: Tensor, threshold: float, offset: float) -> Measures:
        """Measure the masks of low-res logits (N, h, w), cut at `threshold`, in the original image.

        Stability is the IoU between the masks cut at threshold + offset and at threshold - offset; 0 where
        the larger one is empty, where the reference divides by zero.
        """
        logits = logits.float()
        low, high = _bounds(logits, self._rows, self._columns)
        inside = low > threshold + offset
        contour = torch.nonzero((high > threshold - offset) & ~inside)
        whole = torch.nonzero(inside)
        found = []
        for (_, tile_rows, tile_columns), part in _tiles(
            logits, contour, self._rows, self._columns, self._tiles_at_once
        ):
            rows, columns = ((part.amax(axis) > threshold).byte() for axis in (2, 1))
            y, x = self._rows.starts[tile_rows], self._columns.starts[tile_columns]
            box = [
                x + columns.argmax(1),
                y + rows.argmax(1),
                x + TILE - 1 - columns.flip(1).argmax(1),
                y + TILE - 1 - rows.flip(1).argmax(1),
            ]
            cuts = threshold + offset, threshold - offset, threshold
            over = torch.empty_like(part)  # 1 and 0: made, and summed, several times sooner than bool
            sizes = [torch.gt(part, cut, out=over).sum((1, 2)).long() for cut in cuts]
            found.append(torch.stack([*sizes, *box], 1))
        y, x = self._rows.starts[whole[:, 1]], self._columns.starts[whole[:, 2]]
        h, w = self._rows.lengths[whole[:, 1]], self._columns.lengths[whole[:, 2]]
        found.append(torch.stack([h * w, h * w, h * w, x, y, x + w - 1, y + h - 1], 1))
        owner = torch.cat([contour, whole])[:, :1]
        return _together(torch.cat([owner, torch.cat(found)], 1).cpu().numpy(), len(logits))

    def masks(self, logits: Tensor, threshold: float) -> Iterator[NDArray[np.bool_]]:
        """The masks of low-res logits (N, h, w), cut at `threshold`, one by one: (H, W)."""
        for some in logits.float().split(self._masks_at_once):
            y, x, bits = self._window(some, threshold, self._rows, self._columns)
            for part in bits.cpu().numpy():
                mask = np.zeros(self.size, dtype=bool)
                mask[y : y + part.shape[0], x : x + part.shape[1]] = part
                yield mask

    def rles(
        self, logits: Tensor, threshold: float, *, corner: tuple[int, int] = (0, 0), size: tuple[int, int]
    ) -> list[RLE]:
        """The masks of low-res logits (N, h, w), cut at `threshold`, as compressed COCO RLE of an image of
        `size` (height, width), of which this one is the crop whose top-left corner is at (x, y).
        """
        rles: list[RLE] = []
        for some in logits.float().split(self._masks_at_once):
            # column by column, as RLE runs
            x, y, bits = self._window(some.mT, threshold, self._columns, self._rows)
            padded = F.pad(bits, (1, 1))  # so that every run ends within its column
            flat = padded.flatten()
            changes = flat[1:] != flat[:-1]
            on_cpu = changes.device.type == "cpu"  # there numpy finds them several times sooner
            at = np.flatnonzero(changes.numpy()) if on_cpu else changes.nonzero()[:, 0].cpu().numpy()
            column, row = np.divmod(at, padded.shape[2])
            owner, column = np.divmod(column, padded.shape[1])
            ends = (corner[0] + x + column) * size[0] + corner[1] + y + row
            limits = np.searchsorted(owner, np.arange(len(some) + 1))
            rles += [encode_ends(_joined(ends[a:b]), size) for a, b in pairwise(limits)]
        return rles

    def _window(
        self, logits: Tensor, threshold: float, rows: _Axis, columns: _Axis
    ) -> tuple[int, int, Tensor]:
        """The masks (n, h, w) bool of logits, cut at `threshold`, in a window of the image that holds them
        all, and its top and left.
        """
        low, high = _bounds(logits, rows, columns)
        touched, inside = high > threshold, low > threshold
        y0, y1 = _extent(touched.any(2).any(0))
        x0, x1 = _extent(touched.any(1).any(0))
        bits = inside[:, y0:y1, None, x0:x1, None].expand(-1, -1, TILE, -1, TILE).contiguous()
        for (owner, row, column), part in _tiles(
            logits, torch.nonzero(touched & ~inside), rows, columns, self._tiles_at_once
        ):
            bits[owner, row - y0, :, column - x0] = part > threshold
        tall, wide = bits.shape[1] * TILE, bits.shape[3] * TILE
        top, left = y0 * TILE, x0 * TILE
        return top, left, bits.view(len(bits), tall, wide)[:, : rows.size - top, : columns.size - left]


def _bounds(logits: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """The least and the largest of the logits (N, h, w) that each tile is made of: (N, rows, columns)."""
    low = torch.stack([logits[:, first:stop].amin(1) for first, stop in rows.spans], 1)
    high = torch.stack([logits[:, first:stop].amax(1) for first, stop in rows.spans], 1)
    return (
        torch.stack([low[..., first:stop].amin(2) for first, stop in columns.spans], 2),
        torch.stack([high[..., first:stop].amax(2) for first, stop in columns.spans], 2),
    )


def _tiles(
    logits: Tensor, wanted: Tensor, rows: _Axis, columns: _Axis, at_once: int
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
    """The wanted tiles, (G, 3) of mask, row and column; some at once, their index and logits (g, TILE, TILE),
    `NEVER` beyond the image.
    """
    padded = F.pad(logits, (0, 1, 0, 1), value=NEVER)
    for index in wanted.split(at_once):
        owner, row, column = index.unbind(1)
        y, x = rows.cells[row][:, :, None], columns.cells[column][:, None]
        part = rows.weights[row] @ padded[owner[:, None, None], y, x]
        yield (owner, row, column), part @ columns.weights[column].mT


def _extent(some: Tensor) -> tuple[int, int]:
    """First and last + 1 of those that are true; 0 and 0 when none is."""
    at = np.flatnonzero(some.cpu().numpy())
    return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)


def _joined(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs that end where the next column's begin become one."""
    differs = np.diff(ends, prepend=-1, append=-1) != 0
    joined: NDArray[np.int64] = ends[differs[1:] & differs[:-1]]
    return joined


class _Axis:
    """One axis of `Upscaling`, whole and in tiles of `TILE` outputs.

    size: outputs. matrix: (size, low), a row of interpolation weights for each. spans: first and last + 1 of
    the low-res cells that the outputs of each tile are made of. starts, lengths: (tiles,) outputs. cells:
    (tiles, K) low-res cells, the last one beyond all. weights: (tiles, TILE, K); outputs beyond the axis take
    the last.
    """

    def __init__(self, low: int, side: int, kept: int, size: int, device: torch.device) -> None:
        units = torch.eye(low)[None]  # interpolating unit vectors yields the very weights that torch uses
        in_model = F.interpolate(units, size=side, mode="linear", align_corners=False)[..., :kept]
        matrix = F.interpolate(in_model, size=size, mode="linear", align_corners=False)[0].T.contiguous()
        used = matrix.numpy() > 0
        first_of, stop_of = used.argmax(1), low - used[:, ::-1].argmax(1)
        starts = np.arange(0, size, TILE)
        stops = np.minimum(starts + TILE, size)
        self.size = size
        self.spans = [(int(first_of[a]), int(stop_of[b - 1])) for a, b in zip(starts, stops, strict=True)]
        count = max(stop - first for first, stop in self.spans)
        firsts = np.minimum([first for first, _ in self.spans], low - count)
        cells = np.append(firsts[:, None] + np.arange(count), np.full((len(starts), 1), low), axis=1)
        weights = torch.zeros(len(starts), TILE, count + 1)
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            weights[number, : stop - start, :-1] = matrix[start:stop, firsts[number] : firsts[number] + count]
            weights[number, stop - start :, -1] = 1
        self.matrix, self.weights = matrix.to(device), weights.to(device)
        self.cells = torch.from_numpy(cells).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.lengths = torch.from_numpy(stops - starts).to(device)


_axis = lru_cache(maxsize=8)(_Axis)  # images of a folder, and crops of an image, often share theirs


def _together(tiles: NDArray[np.int64], count: int) -> Measures:
    """From (G, 8) of tiles (mask, pixels inside, outside and in it, box) to the masks."""
    owner, inner, outer, area = tiles[:, :4].T
    sums = [np.bincount(owner, part, count).astype(np.int64) for part in (inner, outer, area)]
    drawn = tiles[area > 0]
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    np.minimum.at(boxes[:, :2], drawn[:, 0], drawn[:, 4:6])
    np.maximum.at(boxes[:, 2:], drawn[:, 0], drawn[:, 6:])
    boxes[sums[2] == 0] = 0
    inner, outer = sums[0].astype(np.float32), np.maximum(sums[1], 1).astype(np.float32)
    return Measures(sums[2], np.divide(inner, outer, dtype=np.float32), boxes)
