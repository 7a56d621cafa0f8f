"""How well masks fit: IoU, clicks, regions of a partition, boundaries. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.records import RLE, Box

BOUNDARY_TOLERANCE = 0.0075
"""Of the image's diagonal: how far a boundary pixel may lie from the one it is paired with (BSDS500)."""

Bits = NDArray[np.bool_]


def iou(mask: Bits, truth: Bits, counted: Bits | None = None) -> float:
    """IoU of two (H, W) masks among the pixels that count; 1 when both are empty there."""
    shared, union = mask & truth, mask | truth
    if counted is not None:
        shared, union = shared & counted, union & counted
    whole = np.count_nonzero(union)
    return np.count_nonzero(shared) / whole if whole else 1.0


def deepest(mask: Bits) -> tuple[float, float, float]:
    """The pixel of a (H, W) mask furthest from what is not in it, which the image's surroundings are not.

    Returns the pixel's centre (x, y) and the distance in pixels, 0 for an empty mask (SAM, appendix D.1: the
    maximum of the distance transform).
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5, float(depth[y, x])


def next_click(mask: Bits, truth: Bits, counted: Bits | None = None) -> tuple[float, float, int]:
    """Where someone who corrects a (H, W) mask clicks next: (x, y) and the label, 1 to add and 0 to remove.

    The deepest pixel of what is missing, or of what is too much, whichever lies deeper; as interactive
    segmentation is evaluated by RITM and by SAM (appendix D.1). Without any error a click into the truth.
    """
    missing, surplus = truth & ~mask, mask & ~truth
    if counted is not None:
        missing, surplus = missing & counted, surplus & counted
    (mx, my, add), (sx, sy, remove) = deepest(missing), deepest(surplus)
    if add == remove == 0:
        return (*deepest(truth)[:2], 1)
    return (mx, my, 1) if add >= remove else (sx, sy, 0)


def random_click(mask: Bits, rng: np.random.Generator) -> tuple[float, float]:
    """The centre (x, y) of a random pixel of a (H, W) mask that is not empty."""
    ys, xs = np.nonzero(mask)
    chosen = int(rng.integers(len(ys)))
    return float(xs[chosen]) + 0.5, float(ys[chosen]) + 0.5


def noised_box(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A box as a hasty person draws it (SAM, appendix A): each edge off by normal noise, a tenth of the side
    but at most 20 pixels, within an image of `size` (height, width).
    """
    width, height = box.x1 - box.x0, box.y1 - box.y0
    sides = np.array([width, height, width, height])
    noise = rng.normal(0, 0.1 * sides)
    edges = np.array(box.xyxy) + np.clip(noise, -20, 20)
    x0, x1 = sorted(np.clip(edges[[0, 2]], 0, size[1]).tolist())
    y0, y1 = sorted(np.clip(edges[[1, 3]], 0, size[0]).tolist())
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def clicks_to(ious: NDArray[np.float64], goal: float) -> NDArray[np.int64]:
    """How many clicks each object takes to an IoU of `goal`. ious: (N, K) after each of K clicks. Returns
    (N,); those that K clicks do not bring there count K, as in the literature.
    """
    reached = ious >= goal
    first = reached.argmax(1) + 1
    found: NDArray[np.int64] = np.where(reached.any(1), first, ious.shape[1]).astype(np.int64)
    return found


def best_ious(truths: Sequence[RLE], masks: Sequence[RLE]) -> NDArray[np.float64]:
    """Of each true region the best IoU with any mask, (N,); zeros where there are no masks."""
    if not truths or not masks:
        return np.zeros(len(truths))
    best: NDArray[np.float64] = coco.iou(list(masks), list(truths), [0] * len(truths)).max(0)
    return best


def covering(truths: Sequence[RLE], masks: Sequence[RLE]) -> tuple[float, float]:
    """How well masks cover a partition (Arbelaez et al., 2011): the best IoU of each region, weighted by its
    pixels. Returns the sum and the weight, so that images and annotators can be added up.
    """
    area = np.array([float(coco.area(rle)) for rle in truths])
    return float((area * best_ious(truths, masks)).sum()), float(area.sum())


def check_scipy() -> None:
    """Raise SamcliError where what `match_boundaries` needs is not installed."""
    if find_spec("scipy") is None:
        raise SamcliError("boundaries are compared by scipy; install it with: pip install 'samcli[evaluate]'")


def boundaries(labels: NDArray[np.integer]) -> Bits:
    """Pixels (H, W) of an index map that differ from the one to the right or below: a line one pixel wide."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def match_boundaries(found: Bits, truth: Bits, tolerance: float = BOUNDARY_TOLERANCE) -> tuple[Bits, Bits]:
    """Pair boundary pixels one to one, as many as can be, each at most `tolerance` diagonals apart.

    found, truth: (H, W). Returns which pixels of either are paired. BSDS500's own code asks for the shortest
    pairs too, which makes no difference to how many there are.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    ours, theirs = np.argwhere(found), np.argwhere(truth)
    paired = np.zeros(found.shape, bool), np.zeros(truth.shape, bool)
    if not len(ours) or not len(theirs):
        return paired
    reach = tolerance * float(np.hypot(*found.shape))
    near = cKDTree(ours).sparse_distance_matrix(cKDTree(theirs), reach, output_type="ndarray")
    graph = csr_matrix((np.ones(len(near), np.int8), (near["i"], near["j"])), (len(ours), len(theirs)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    with_one = np.flatnonzero(partner >= 0)
    paired[0][tuple(ours[with_one].T)] = True
    paired[1][tuple(theirs[partner[with_one]].T)] = True
    return paired


@dataclass(frozen=True)
class Counts:
    """Boundary pixels of an image, or of several: those found, how many of them are right, those that
    annotators drew, and how many of them were found.
    """

    found: int
    right: int
    drawn: int
    hit: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.found + other.found, self.right + other.right, self.drawn + other.drawn, self.hit + other.hit
        )

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.hit / self.drawn if self.drawn else 0.0

    @property
    def f(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def count_boundaries(found: Bits, annotators: Sequence[Bits]) -> Counts:
    """Compare boundaries (H, W) with those of several annotators, as BSDS500 does: a pixel is right that is
    paired with any annotator's, and each annotator's pixels want to be found.
    """
    right = np.zeros(found.shape, bool)
    drawn = hit = 0
    for truth in annotators:
        ours, theirs = match_boundaries(found, truth)
        right |= ours
        drawn += int(np.count_nonzero(truth))
        hit += int(np.count_nonzero(theirs))
    return Counts(int(np.count_nonzero(found)), int(np.count_nonzero(right)), drawn, hit)
