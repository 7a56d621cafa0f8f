"""Coordinate frames, resize sizes, point grids, crops. Sizes (height, width), points (x, y), crops xyxy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size (height, width) of an image resized to a long side of `side` pixels; edges are at least one."""
    scale = side / max(size)
    height, width = (max(1, int(edge * scale + 0.5)) for edge in size)
    return height, width


def to_model_frame(points: ArrayLike, size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """Move points from the original image to the frame of the resized one.

    points: (..., 2), (x, y) pixels. size: (height, width) of the original image. side: long side after
    resizing. Returns (..., 2) float32. x and y are scaled each by their own ratio of rounded sizes, as the
    reference does; the half pixel to the pixel's centre is added by the prompt encoder.
    """
    height, width = resized_size(size, side)
    ratio = np.array([width / size[1], height / size[0]])
    moved: NDArray[np.float32] = (np.asarray(points, dtype=np.float64) * ratio).astype(np.float32)
    return moved


def point_grid(n: int) -> NDArray[np.float64]:
    """Centres of an n x n division of the unit square: (n * n, 2) in 0..1, (x, y), row by row."""
    offset = 1 / (2 * n)
    centres = np.linspace(offset, 1 - offset, n)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def crop_boxes(
    size: tuple[int, int], n_layers: int, overlap_ratio: float
) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """The whole image and, for layer i = 1..n_layers, a grid of 2**i x 2**i overlapping crops.

    size: (height, width). overlap_ratio: overlap in layer 1 as a share of the short side; halved with each
    layer. Returns the crops, xyxy pixels with exclusive ends, column by column, and the layer of each. Crops
    that would be empty, as in images of a few pixels, are left out.
    """
    height, width = size
    crops = [(0, 0, width, height)]
    layers = [0]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / n))
        crop_width, crop_height = (math.ceil((overlap * (n - 1) + edge) / n) for edge in (width, height))
        for i, j in product(range(n), repeat=2):
            x0, y0 = i * (crop_width - overlap), j * (crop_height - overlap)
            if x0 < width and y0 < height:
                crops.append((x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)))
                layers.append(layer)
    return crops, layers
