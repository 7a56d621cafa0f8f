"""Nested regions of a photo from its edge map: training masks for everything that nobody annotated.

Watershed cells are merged greedily by mean boundary strength (an ultrametric contour map, Arbelaez et al.,
PAMI 2011); a node of the merge tree becomes a target only when its own contour is strong all around, so
flat walls and grass are not taught as arbitrary cells.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RegionConfig:
    """When a region is worth teaching. Strengths are edge probabilities, areas shares of the image."""

    blur: float = 1.2  # pixels, before the watershed
    weak: float = 0.2  # a contour pixel below this is weak
    min_strength: float = 0.4  # mean along the region's own contour
    max_weak: float = 0.12  # share of weak contour pixels
    min_contrast: float = 0.25  # contour above the mean inside: cells within a thick edge fall here
    min_area: float = 0.004
    max_area: float = 0.85
    min_radius: float = 0.02  # of the long side; thinner regions are slivers
    duplicate_iou: float = 0.85


class Region(NamedTuple):
    """mask: (H, W) bool. strength: mean edge strength along its contour, 0..1."""

    mask: NDArray[np.bool_]
    strength: float


@dataclass
class _Node:
    """A region of the merge tree. `edges` maps a neighbour to [sum of strength, length, weak length]."""

    area: int
    inside: float  # sum of edge strength over the area
    cells: list[int]
    edges: dict[int, list[float]] = field(default_factory=dict)

    def contour(self) -> tuple[float, float]:
        """Mean strength and weak share of the contour, the image's border left out."""
        total, length, weak = (sum(v) for v in zip(*self.edges.values(), strict=True))
        return total / length, weak / length


def nested_regions(edges: NDArray[np.float32], config: RegionConfig | None = None) -> list[Region]:
    """edges: (H, W) float32 in 0..1. Returns regions of the same size, the strongest contour first."""
    config = config or RegionConfig()
    cells = _watershed(edges, config.blur)
    size, count = cells.size, int(cells.max()) + 1
    nodes = _adjacency(edges, cells, config.weak)
    found: list[tuple[float, int, NDArray[np.int64]]] = []
    for node in _merge_tree(nodes):
        if not node.edges or not config.min_area <= node.area / size <= config.max_area:
            continue
        strength, weak = node.contour()
        contrast = strength - node.inside / node.area
        if strength >= config.min_strength and weak <= config.max_weak and contrast >= config.min_contrast:
            found.append((strength, node.area, np.asarray(node.cells)))
    found.sort(key=lambda f: -f[0])
    kept: list[Region] = []
    members: list[tuple[int, set[int]]] = []
    areas = np.bincount(cells.ravel(), minlength=count)
    for strength, area, ids in found:
        inside = set(ids.tolist())
        if any(
            _iou(areas, inside, area, other, other_area) > config.duplicate_iou
            for other_area, other in members
        ):
            continue
        lookup = np.zeros(count, bool)
        lookup[ids] = True
        mask = lookup[cells]
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        if cv2.distanceTransform(padded, cv2.DIST_L2, 3).max() < config.min_radius * max(edges.shape):
            continue
        kept.append(Region(mask, strength))
        members.append((area, inside))
    return kept


def _iou(areas: NDArray[np.int64], a: set[int], area_a: int, b: set[int], area_b: int) -> float:
    shared = int(areas[list(a & b)].sum())
    return shared / (area_a + area_b - shared)


def _watershed(edges: NDArray[np.float32], blur: float) -> NDArray[np.int64]:
    """Cells (H, W), numbered from 0, one per local minimum of the blurred edge map."""
    from skimage.segmentation import watershed

    smooth = cv2.GaussianBlur(edges, (0, 0), blur)
    cells: NDArray[np.int64] = watershed((smooth * 255).astype(np.uint8)).astype(np.int64)
    return cells - 1


def _adjacency(edges: NDArray[np.float32], cells: NDArray[np.int64], weak: float) -> dict[int, _Node]:
    count = int(cells.max()) + 1
    pairs, strengths = [], []
    for a, b, ea, eb in (
        (cells[:, :-1], cells[:, 1:], edges[:, :-1], edges[:, 1:]),
        (cells[:-1], cells[1:], edges[:-1], edges[1:]),
    ):
        border = a != b
        low, high = np.minimum(a, b)[border], np.maximum(a, b)[border]
        pairs.append(low * count + high)
        strengths.append(np.maximum(ea, eb)[border])
    keys, index = np.unique(np.concatenate(pairs), return_inverse=True)
    strength = np.concatenate(strengths)
    sums = np.bincount(index, strength, len(keys))
    lengths = np.bincount(index, minlength=len(keys))
    weaks = np.bincount(index, strength < weak, len(keys))
    areas = np.bincount(cells.ravel(), minlength=count)
    inside = np.bincount(cells.ravel(), edges.ravel(), count)
    nodes = {i: _Node(int(areas[i]), float(inside[i]), [i]) for i in range(count)}
    for key, total, length, low in zip(keys.tolist(), sums, lengths, weaks, strict=True):
        a, b = divmod(key, count)
        nodes[a].edges[b] = nodes[b].edges[a] = [float(total), float(length), float(low)]
    return nodes


def _merge_tree(nodes: dict[int, _Node]) -> Iterator[_Node]:
    """Merge the weakest boundary until one region is left; yield every node when its contour is final."""
    heap = [(e[0] / e[1], a, b) for a, node in nodes.items() for b, e in node.edges.items() if a < b]
    heapq.heapify(heap)
    fresh = len(nodes)
    while heap:
        strength, a, b = heapq.heappop(heap)
        if a not in nodes or b not in nodes:
            continue
        yield nodes[a]
        yield nodes[b]
        first, second = nodes.pop(a), nodes.pop(b)
        merged = _Node(first.area + second.area, first.inside + second.inside, first.cells + second.cells)
        for node, gone in ((first, b), (second, a)):
            for other, edge in node.edges.items():
                if other == gone:
                    continue
                nodes[other].edges.pop(a, None)
                nodes[other].edges.pop(b, None)
                shared = merged.edges.get(other)
                merged.edges[other] = (
                    edge if shared is None else [x + y for x, y in zip(shared, edge, strict=True)]
                )
        for other, edge in merged.edges.items():
            nodes[other].edges[fresh] = edge
            heapq.heappush(heap, (max(strength, edge[0] / edge[1]), other, fresh))
        nodes[fresh] = merged
        fresh += 1
