"""Edges from masks of everything mode (SAM, section 7.2 and appendix D.2), and how good they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from samcli.evaluate.metrics import Bits, Counts, count_boundaries
from samcli.geometry import point_grid
from samcli.masks import MASK_THRESHOLD, nms

if TYPE_CHECKING:
    from samcli.predictor import Embedding, Predictor

POINTS = 16  # per side of the grid
OVERLAP = 0.7  # of boxes, above which the mask of the lower predicted IoU goes

THRESHOLDS = tuple(step / 100 for step in range(1, 100))
"""Of edge strength, at which precision and recall are taken."""

_ENDS = 5  # pixels at the image's border where edges are weakened, as in the edge detection toolbox


def mask_logits(predictor: Predictor, embedding: Embedding) -> Iterator[NDArray[np.float32]]:
    """The logits (H, W), at the image's size, of the masks that a grid of points finds, less duplicates.

    Masks are not filtered by predicted IoU or stability (appendix D.2).
    """
    height, width = embedding.original_size
    points = point_grid(POINTS) * (width, height)
    logits, iou = predictor.decode(embedding, points[:, None], np.ones((len(points), 1)), multimask=True)
    upscaling = predictor.upscaling(embedding)
    area, _, boxes = upscaling.measure(logits, MASK_THRESHOLD, predictor.stability_offset)
    there = np.flatnonzero(area)
    kept = there[nms(boxes[there], iou.flatten().cpu().numpy()[there], OVERLAP)]
    for i in kept.tolist():
        full: NDArray[np.float32] = upscaling(logits[i]).cpu().numpy()
        yield full


def edge_map(logits: Iterable[NDArray[np.float32]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Strength of edges, (H, W) in 0 to 1, from the logits (H, W) of masks of an image of `size`.

    The gradient (Sobel) of each mask's probabilities, on the pixels just outside of the mask; of all masks
    the strongest, scaled to at most 1, thinned.
    """
    strongest = np.zeros(size, np.float32)
    ring = np.ones((3, 3), np.uint8)
    for each in logits:
        probability = 1 / (1 + np.exp(-each.astype(np.float32)))
        gradient = np.hypot(*(cv2.Sobel(probability, cv2.CV_32F, *way) for way in ((1, 0), (0, 1))))
        inside = (each > 0).astype(np.uint8)
        outer = cv2.dilate(inside, ring) > inside
        np.maximum(strongest, np.where(outer, gradient, 0), out=strongest)
    most = float(strongest.max())
    return thinned(strongest / most) if most > 0 else strongest


def thinned(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edges (H, W) that are no weaker than their neighbours across them; the others become 0.

    Non-maximum suppression after Canny, with the orientation from second derivatives of the smoothed map, as
    the structured edge toolbox does it.
    """
    smooth = cv2.GaussianBlur(edges, (0, 0), 2)
    dy, dx = np.gradient(smooth)
    dyy, _ = np.gradient(dy)
    dxy, dxx = np.gradient(dx)
    across = np.arctan2(dyy * np.sign(-dxy), dxx + 1e-5)  # as good as any where both are 0
    x, y = np.meshgrid(*(np.arange(length, dtype=np.float32) for length in edges.shape[::-1]))
    step_x, step_y = np.cos(across).astype(np.float32), np.sin(across).astype(np.float32)
    keep = np.ones(edges.shape, bool)
    for side in (-1, 1):
        there = cv2.remap(
            edges, x + side * step_x, y + side * step_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        keep &= edges * 1.01 >= there
    result = np.where(keep, edges, 0).astype(np.float32)
    for axis in (0, 1):
        length = edges.shape[axis]
        place = np.arange(length)
        ends = np.minimum(np.minimum(place, length - 1 - place) / _ENDS, 1).astype(np.float32)
        result *= np.expand_dims(ends, 1 - axis)
    return result


def count_edges(edges: NDArray[np.float32], annotators: Sequence[Bits]) -> list[Counts]:
    """Compare edges (H, W) at each of `THRESHOLDS` with the boundaries that annotators drew."""
    return [count_boundaries(edges >= threshold, annotators) for threshold in THRESHOLDS]


class EdgeFigures(NamedTuple):
    """ods, ois: the best F at one threshold for all images, and at the best one for each. ap: the mean
    precision over recalls from 0 to 1. r50: recall at a precision of one half. threshold: of ods. curve:
    (recall, precision) at each threshold.
    """

    ods: float
    ois: float
    ap: float
    r50: float
    threshold: float
    curve: list[tuple[float, float]]


def edge_figures(counts: Sequence[Sequence[Counts]]) -> EdgeFigures:
    """Figures of several images. counts: of each image, as `count_edges` gives them; at least one."""
    nothing = Counts(0, 0, 0, 0)
    whole = [sum(column, nothing) for column in zip(*counts, strict=True)]
    best = max(range(len(whole)), key=lambda i: whole[i].f)
    each = sum((max(image, key=lambda one: one.f) for image in counts), nothing)
    curve = [(one.recall, one.precision) for one in whole]
    recall, precision = (np.array(v) for v in zip(*sorted(curve), strict=True))
    at = np.arange(101) / 100
    inside = (at >= recall[0]) & (at <= recall[-1])
    ap = float(np.where(inside, np.interp(at, recall, precision), 0).sum() / 100)
    half = [r for r, p in curve if p >= 0.5]
    return EdgeFigures(whole[best].f, each.f, ap, max(half, default=0.0), THRESHOLDS[best], curve)
