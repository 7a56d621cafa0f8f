"""Which detections are kept: duplicates, boxes within boxes, and things that lie across tiles.

All boxes are x0, y0, x1, y1 in pixel extent. Boxes of different phrases are compared only where `agnostic`
says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.ground.detector import Detected
from samcli.masks import nms

Boxes = NDArray[np.float64]

NEAR_BORDER = 0.02  # of a tile's side: a box that ends this close to its inner border was cut off there
SAME = 0.5  # IoU, within what two tiles both see, of two boxes of one thing
GOES_ON = 0.3  # overlap there, a share of the smaller, that is enough where both boxes were cut off
PIECE = 0.7  # share of a cut-off box that lies in another box, from which on it is a piece of that


class Tile(NamedTuple):
    """A part of an image, in its pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


def tidy(
    found: Detected, *, iou: float, agnostic: bool, containment: float | None, most: int | None
) -> Detected:
    """Detections without duplicates, best first.

    iou: a box that overlaps a better one by a higher IoU goes; 1 keeps all. containment: so does one that
    shares more than this of the smaller box's area with a better one: parts within a whole, and boxes around
    groups that score less than their members; None keeps these. most: how many stay, None all.
    """
    found = found[np.argsort(-found.scores, kind="stable")]
    kept: list[int] = []
    for members in _by_kind(found, agnostic):
        part = found[members]
        chosen = nms(part.boxes, part.scores, iou)
        if containment is not None:
            chosen = chosen[_uncontained(part.boxes[chosen], containment)]
        kept += members[chosen].tolist()
    return found[np.array(sorted(kept)[:most], dtype=np.int64)]


def _by_kind(found: Detected, agnostic: bool) -> Iterator[NDArray[np.int64]]:
    """The indices of detections that are compared with each other."""
    if agnostic:
        yield np.arange(len(found))
    else:
        yield from (np.flatnonzero(found.phrases == phrase) for phrase in np.unique(found.phrases))


def _uncontained(boxes: Boxes, most: float) -> NDArray[np.int64]:
    """The boxes, best first, that do not share more than `most` of the smaller with a better one."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        better = boxes[kept]
        smaller = np.minimum(_areas(better), _areas(box[None]))
        if not (_common(better, box[None]) > most * smaller).any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)


# Tiles


def tiles(size: tuple[int, int], side: int, overlap: float) -> tuple[Tile, ...]:
    """Square tiles over an image of `size` (height, width), row by row; none when one would hold it.

    side: pixels. overlap: least share of the side that neighbours have in common. They are spread evenly, so
    that the last ones end with the image.
    """
    height, width = size
    if height <= side and width <= side:
        return ()
    return tuple(
        Tile(x, y, min(x + side, width), min(y + side, height))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    )


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    step = max(1.0, side * (1 - overlap))
    count = math.ceil((length - side) / step) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


class _Group(NamedTuple):
    """What tiles saw of one thing. whole: no border of a tile cut it off."""

    box: Boxes  # (4,)
    score: float
    phrase: int
    tiles: frozenset[int]
    whole: bool


def join(
    parts: Sequence[tuple[Tile, Detected]], whole: Detected, size: tuple[int, int], *, agnostic: bool
) -> Detected:
    """The detections of tiles and of the whole image together, best first; `tidy` follows.

    parts: the tiles of an image of `size` (height, width), each with what was found in it, in its own pixels.
    Boxes of one thing in several tiles are known by agreeing where these overlap, or by going on beyond the
    border: they become the best one that no border cut off, or else their union. At most one box of a tile
    is part of a thing, so touching things stay apart. What is only a piece of another box goes.
    """
    groups = list(_groups(parts, size, agnostic))
    groups += [
        _Group(box, float(score), int(phrase), frozenset(), True)
        for box, score, phrase in zip(whole.boxes, whole.scores, whole.phrases, strict=True)
    ]
    groups.sort(key=lambda group: -group.score)
    found = Detected(
        np.array([group.box for group in groups]).reshape(-1, 4),
        np.array([group.score for group in groups], dtype=np.float64),
        np.array([group.phrase for group in groups], dtype=np.int64),
    )
    return found[~_pieces(groups, found, agnostic)]


def _groups(
    parts: Sequence[tuple[Tile, Detected]], size: tuple[int, int], agnostic: bool
) -> Iterator[_Group]:
    """The things that tiles saw, from those that agree best on."""
    places = [tile for tile, found in parts for _ in range(len(found))]
    of_tile = np.array([i for i, (_, found) in enumerate(parts) for _ in range(len(found))], dtype=np.int64)
    if not places:
        return
    frames = np.array(places, dtype=np.float64)
    boxes = np.concatenate([found.boxes for _, found in parts]) + np.tile(frames[:, :2], 2)
    scores = np.concatenate([found.scores for _, found in parts])
    phrases = np.concatenate([found.phrases for _, found in parts])
    near = NEAR_BORDER * (frames[:, 2:] - frames[:, :2]).min(axis=1)
    cut = _cut_off(boxes, frames, near, size)
    # What was cut off goes on for certain, so that it meets its continuation also where tiles only touch.
    reach = 2 * near[:, None] * np.array([-1, -1, 1, 1])
    grown = boxes + cut * reach

    pairs: list[tuple[float, float, int, int]] = []
    for i in range(len(boxes)):
        rest = grown[i + 1 :]
        touching = (rest[:, :2] < grown[i, 2:]) & (rest[:, 2:] > grown[i, :2])
        after = i + 1 + np.flatnonzero(touching.all(axis=1) & (of_tile[i + 1 :] != of_tile[i]))
        if not agnostic:
            after = after[phrases[after] == phrases[i]]
        shared = _clipped(frames[after], frames[i])
        agreement, _ = _overlap(_clipped(shared, boxes[i]), _clipped(shared, boxes[after]))
        shared = _clipped(frames[after] + reach[after], frames[i] + reach[i])
        beyond, of_smaller = _overlap(_clipped(shared, grown[i]), _clipped(shared, grown[after]))
        goes_on = _facing(frames[i], cut[i], frames[after], cut[after]) & (of_smaller >= GOES_ON)
        for k in np.flatnonzero((agreement >= SAME) | goes_on).tolist():
            pairs.append((-float(agreement[k]), -float(beyond[k]), i, int(after[k])))

    group_of = list(range(len(boxes)))
    members = {i: [i] for i in range(len(boxes))}
    for _, _, i, j in sorted(pairs):
        one, other = group_of[i], group_of[j]
        if one != other and not set(of_tile[members[one]]) & set(of_tile[members[other]]):
            for k in members[other]:
                group_of[k] = one
            members[one] += members.pop(other)
    for group in members.values():
        uncut = [k for k in group if not cut[k].any()]
        best = max(group, key=lambda k: scores[k])
        box = np.concatenate([boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)])
        if uncut:
            box = boxes[max(uncut, key=lambda k: scores[k])]
        within = frozenset(int(of_tile[k]) for k in group)
        yield _Group(box, float(scores[best]), int(phrases[best]), within, bool(uncut))


def _cut_off(boxes: Boxes, frames: Boxes, near: Boxes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which sides of boxes lie at a border of their tile that is none of the image: (N, 4)."""
    height, width = size
    inner = np.stack([frames[:, :2] > 0, frames[:, 2:] < (width, height)], axis=1).reshape(-1, 4)
    cut: NDArray[np.bool_] = inner & (np.abs(boxes - frames) <= near[:, None])
    return cut


def _facing(
    frame: Boxes, cut: NDArray[np.bool_], frames: Boxes, cuts: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether each of some boxes and one box were cut off towards the other: (N,). frames: their tiles."""
    before, behind = frame[:2] < frames[:, :2], frame[:2] > frames[:, :2]
    facing = (before & cut[2:] & cuts[:, :2]) | (behind & cut[:2] & cuts[:, 2:])
    return np.asarray(facing.any(axis=1))


def _pieces(groups: Sequence[_Group], found: Detected, agnostic: bool) -> NDArray[np.bool_]:
    """Which boxes were cut off and lie mostly in one of another tile: (N,). found: those of the groups."""
    areas = _areas(found.boxes)
    whole = np.array([group.whole for group in groups], dtype=bool)
    pieces = np.zeros(len(groups), dtype=bool)
    for i in np.flatnonzero(~whole).tolist():
        holds = _common(found.boxes, found.boxes[i]) >= PIECE * areas[i]
        holds &= whole | (areas > areas[i])
        if not agnostic:
            holds &= found.phrases == found.phrases[i]
        pieces[i] = any(not groups[k].tiles & groups[i].tiles for k in np.flatnonzero(holds).tolist())
    return pieces


# Boxes


def _areas(boxes: Boxes) -> Boxes:
    """(N,); 0 for those that `_clipped` left nothing of."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: Boxes = sides[:, 0] * sides[:, 1]
    return areas


def _clipped(boxes: Boxes, to: Boxes) -> Boxes:
    """The parts of boxes (N, 4) within others, (N, 4) or one (4,)."""
    low, high = np.maximum(boxes[:, :2], to[..., :2]), np.minimum(boxes[:, 2:], to[..., 2:])
    return np.concatenate([low, high], axis=1)


def _common(boxes: Boxes, others: Boxes) -> Boxes:
    """Areas that boxes share pairwise: (N,)."""
    return _areas(_clipped(boxes, others))


def _overlap(boxes: Boxes, others: Boxes) -> tuple[Boxes, Boxes]:
    """What boxes share pairwise: of their union, and of the smaller one; (N,) each."""
    common, a, b = _common(boxes, others), _areas(boxes), _areas(others)
    return _ratio(common, a + b - common), _ratio(common, np.minimum(a, b))


def _ratio(part: Boxes, whole: Boxes) -> Boxes:
    """0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
