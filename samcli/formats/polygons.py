"""Masks as polygons, and polygons as masks, without losing a pixel.

A mask has parts, and a part has an outer ring and maybe holes. Rings run along the edges of pixels, with the
mask to the right of the way, and turn only at corners. Most formats know no holes: a polygon here goes into a
hole and comes back along the same line, which lies within the mask, so that fillers see the hole and not the
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.masks import mask_bbox
from samcli.records import RLE

RIGHT, DOWN, LEFT, UP = range(4)
_INSIDE = ((0, 0), (-1, 0), (-1, -1), (0, -1))
"""For a way of each direction, where it starts: the pixel of the mask beside it, relative to the corner."""
_BEFORE = ((-1, 0), (-1, -1), (0, -1), (0, 0))
"""The same where it ends."""


def corner_polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Polygons along the corners of pixels, one for each 4-connected part of a (H, W) mask.

    Each is (N, 2), x and y in [0, W] and [0, H]; one pixel at (3, 5) is (3, 5), (4, 5), (4, 6), (3, 6).
    Filled by pixel centres, as pycocotools does, together they are the mask.
    """
    x, y, rings = _rings(mask, joined=False)
    return [_joined(ring, corners=True) + np.array([x, y]) for ring in rings]


def pixel_contour(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One polygon through the outermost pixels of a (H, W) mask, (N, 2) of x and y; N is at least 3, or 0.

    Filled with its own line, as cv2.fillPoly does, it is the mask. Parts that do not touch are joined by
    short lines, which such a filler draws: the one loss.
    """
    x, y, rings = _rings(mask, joined=True)
    whole = _bridged([_joined(ring, corners=False) for ring in rings])
    if not len(whole):
        return whole
    while len(whole) < 3:
        whole = np.concatenate([whole, whole[-1:]])
    moved: NDArray[np.int64] = whole + np.array([x, y])
    return moved


def polygons_rle(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> RLE:
    """The union of polygons x0, y0, x1, y1, ... filled by pixel centres, in an image of (height, width).

    Raises SamcliError for polygons without three points.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise SamcliError("a polygon is not a list of x and y of at least three points")
        # pycocotools walks along the line step by step, in memory and in 32 bits.
        if np.abs(polygon).max() > 4 * max(size) + 4096:
            raise SamcliError("a polygon leads far out of its image")
    height, width = size
    merged = coco.merge(coco.frPyObjects([[float(v) for v in p] for p in polygons], height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def fill_contours(contours: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of contours (N, 2), filled with their own lines, in a mask of `size` (height, width).

    Coordinates are cut down to the pixel they lie in, as the tools that read YOLO's files do.
    """
    import cv2  # slow to import

    bits = np.zeros(size, np.uint8)
    for contour in contours:
        cv2.fillPoly(bits, [np.floor(contour).astype(np.int32)], 1)
    return bits.astype(bool)


@dataclass
class _Ring:
    """A ring of corners with its ways: `out[i]` leads from `xy[i]` to the next corner.

    holes: rings to be entered, by the way that they are entered from: the point on it, and the ring, which
    begins at the corner below that point.
    """

    xy: list[tuple[int, int]]
    out: list[int]
    holes: dict[int, list[tuple[tuple[int, int], _Ring]]] = field(default_factory=dict)


def _rings(mask: NDArray[np.bool_], *, joined: bool) -> tuple[int, int, list[_Ring]]:
    """Left and top of the mask's box, and its outer rings with their holes, relative to it.

    joined: pixels that touch at a corner are of one part.
    """
    left, top, width, height = mask_bbox(mask)
    if not width:
        return 0, 0, []
    bits = np.pad(mask[top : top + height, left : left + width], 1)
    a, b, c, d = bits[:-1, :-1], bits[:-1, 1:], bits[1:, :-1], bits[1:, 1:]
    ys, xs = np.nonzero(((a != b) | (c != d)) & ((a != c) | (b != d)))
    corners = [p[ys, xs] for p in (a, b, c, d)]
    a, b, c, d = corners
    ways = np.stack([d & ~b, c & ~d, a & ~c, b & ~a])  # that lead away: RIGHT, DOWN, LEFT, UP
    by_column = np.lexsort((ys, xs))
    place = np.empty_like(by_column)
    place[by_column] = np.arange(len(by_column))
    last = len(by_column) - 1
    following = [
        list(range(1, last + 2)),
        by_column[np.minimum(place + 1, last)].tolist(),
        list(range(-1, last)),
        by_column[np.maximum(place - 1, 0)].tolist(),
    ]
    only = np.where(ways.sum(axis=0) == 1, ways.argmax(axis=0), -1).tolist()  # -1: two ways cross here
    turn = -1 if joined else 1
    x_of, y_of = xs.tolist(), ys.tolist()
    left_to_do = [row.tolist() for row in ways]
    owner: dict[int, tuple[_Ring, int]] = {}  # of ways to the right, by the corner they start from
    outer: list[_Ring] = []
    holes: list[_Ring] = []
    for start in range(last + 1):
        for first in (RIGHT, DOWN, LEFT, UP):
            if not left_to_do[first][start]:
                continue
            ring = _Ring([], [])
            at, way, area = start, first, 0
            while left_to_do[way][at]:
                left_to_do[way][at] = False
                if way == RIGHT:
                    owner[at] = (ring, len(ring.xy))
                ring.xy.append((x_of[at], y_of[at]))
                ring.out.append(way)
                before, at = at, following[way][at]
                area += x_of[before] * y_of[at] - x_of[at] * y_of[before]
                way = only[at] if only[at] >= 0 else (way + turn) % 4
            (outer if area > 0 else holes).append(ring)
    # From above: what is met on the way up from a hole is then an outer ring or a hole that has its place.
    key = ys * (width + 2) + xs
    for ring in sorted(holes, key=lambda ring: min((y, x) for x, y in ring.xy)):
        y, x = min((y, x) for x, y in ring.xy)
        # Where parts join at corners the ring may pass its highest corner twice; the way down is the hole's.
        begin = next(i for i, point in enumerate(ring.xy) if point == (x, y) and ring.out[i] == DOWN)
        ring.xy = ring.xy[begin:] + ring.xy[:begin]
        ring.out = ring.out[begin:] + ring.out[:begin]
        column = bits[: y + 1, x + 1]  # of the padded mask: pixel (x, r) is at [r + 1, x + 1]
        edge = y - int(np.argmin(column[::-1]))
        above = int(np.searchsorted(key, edge * (width + 2) + x, side="right")) - 1
        parent, number = owner[above]
        parent.holes.setdefault(number, []).append(((x, edge), ring))
    return left, top, outer


def _joined(ring: _Ring, *, corners: bool) -> NDArray[np.int64]:
    """A ring and its holes as one polygon, through corners, or through the pixels of the mask beside them."""
    points: list[tuple[int, int]] = []
    stack: list[tuple[_Ring, int, tuple[int, int] | None]] = [(ring, 0, None)]
    while stack:
        ring, i, door = stack.pop()
        x, y = ring.xy[i % len(ring.xy)]
        if door and i == 0:
            points += [door, (x, y) if corners else (x, y - 1)]
        if i == len(ring.xy):
            points += [(x, y) if corners else (x, y - 1), door] if door else []
            continue
        if corners:
            points.append((x, y))
        else:
            for dx, dy in (_BEFORE[ring.out[i - 1]], _INSIDE[ring.out[i]]):
                points.append((x + dx, y + dy))
        stack.append((ring, i + 1, door))
        # The way is to the right; those further left come first, so they go on the stack last.
        for point, hole in sorted(ring.holes.get(i, []), key=lambda entry: -entry[0][0]):
            stack.append((hole, 0, point))
    same = [point == points[i - 1] for i, point in enumerate(points)]
    kept = [point for point, repeated in zip(points, same, strict=True) if not repeated] or points[:1]
    return np.array(kept, dtype=np.int64)


def _bridged(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Polygons as one: from the first one on, the nearest is joined, there and back by one line."""
    if not parts:
        return np.zeros((0, 2), np.int64)
    # All pairs are compared by so many points that there are at most about 10**8 distances.
    few = int(np.clip(10**4 / len(parts), 8, 1024))
    sample = [part[:: -(-len(part) // few)] for part in parts]
    distance = np.full(len(parts), np.inf)
    to = np.zeros(len(parts), np.int64)
    children: dict[int, dict[int, list[tuple[int, int]]]] = {}  # part: point: (other part, its point)
    newest, waiting = 0, set(range(1, len(parts)))
    while waiting:
        for i in waiting:
            near = _nearest(sample[newest], sample[i])[0]
            if near < distance[i]:
                distance[i], to[i] = near, newest
        newest = min(waiting, key=lambda i: (distance[i], i))
        waiting.remove(newest)
        parent = int(to[newest])
        a, b = (-(-len(parts[i]) // 4096) for i in (parent, newest))
        _, here, there = _nearest(parts[parent][::a], parts[newest][::b])
        children.setdefault(parent, {}).setdefault(here * a, []).append((newest, there * b))
    points: list[NDArray[np.int64]] = []
    stack = [(0, 0, 0)]
    while stack:
        part, first, i = stack.pop()
        count = len(parts[part])
        points.append(parts[part][(first + i) % count])
        if i == count:
            continue
        stack.append((part, first, i + 1))
        for child, there in children.get(part, {}).get((first + i) % count, []):
            stack.append((part, (first + i) % count, count))  # back to this point
            stack.append((child, there, 0))
    return np.stack(points)


def _nearest(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, int, int]:
    """Squared distance of the nearest points of two polygons, and their indices."""
    best = (np.inf, 0, 0)
    for start in range(0, len(a), 1024):  # bounds the memory
        square = ((a[start : start + 1024, None] - b[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(square.argmin()), square.shape)
        if square[i, j] < best[0]:
            best = (float(square[i, j]), start + int(i), int(j))
    return best
