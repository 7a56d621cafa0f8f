"""Polygons: what is traced and filled again is the mask that was traced."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from samcli.errors import SamcliError
from samcli.formats.polygons import corner_polygons, fill_contours, pixel_contour, polygons_rle
from samcli.masks import decode_rle

anything = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14))


def filled(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    if not polygons:
        return np.zeros(size, bool)
    return decode_rle(polygons_rle([polygon.ravel().tolist() for polygon in polygons], size))


def parts(mask: np.ndarray, connectivity: int) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[0]) - 1


def drawn(rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows.split()])


def test_one_pixel():
    mask = np.zeros((8, 9), bool)
    mask[5, 3] = True
    (polygon,) = corner_polygons(mask)
    assert polygon.tolist() == [[3, 5], [4, 5], [4, 6], [3, 6]]
    assert pixel_contour(mask).tolist() == [[3, 5]] * 3


def test_a_hole_is_entered_and_left_by_one_line():
    mask = drawn("##### ##### ##.## ##### #####")
    (polygon,) = corner_polygons(mask)
    assert polygon.tolist() == [
        [0, 0], [2, 0], [2, 2], [2, 3], [3, 3], [3, 2], [2, 2], [2, 0], [5, 0], [5, 5], [0, 5],
    ]  # fmt: skip
    assert (filled([polygon], mask.shape) == mask).all()


def test_nothing():
    assert corner_polygons(np.zeros((3, 4), bool)) == []
    assert pixel_contour(np.zeros((3, 4), bool)).shape == (0, 2)


@settings(max_examples=400)
@given(anything)
def test_corner_polygons_are_exact(mask):
    polygons = corner_polygons(mask)
    assert len(polygons) == parts(mask, 4)
    assert (filled(polygons, mask.shape) == mask).all()
    for polygon in polygons:
        assert (polygon >= 0).all()
        assert (polygon <= mask.shape[::-1]).all()


@settings(max_examples=400)
@given(anything)
def test_contours_lose_nothing_but_the_gaps_between_parts(mask):
    contour = pixel_contour(mask)
    back = fill_contours([contour], mask.shape) if len(contour) else np.zeros_like(mask)
    assert (back | mask == back).all()
    if parts(mask, 8) <= 1:
        assert (back == mask).all()
    if len(contour):
        assert mask[contour[:, 1], contour[:, 0]].all()


@pytest.mark.parametrize("scale", [2, 5, 20])
def test_large_masks_of_many_parts_and_holes(scale):
    noise = np.random.default_rng(scale).random((400, 500)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), scale) > 0.5
    assert (filled(corner_polygons(mask), mask.shape) == mask).all()
    back = fill_contours([pixel_contour(mask)], mask.shape)
    # No line between parts is longer than it has to be, by much: the nearest parts are joined.
    assert (back & mask).sum() / (back | mask).sum() > 0.96


def test_parts_are_joined_where_they_are_near():
    mask = np.zeros((40, 100), bool)
    mask[5:35, 5:40] = mask[5:35, 44:80] = True
    back = fill_contours([pixel_contour(mask)], mask.shape)
    assert (back & ~mask).sum() == 4  # a line through the gap


@given(st.lists(st.floats(-5, 20), max_size=5))
def test_polygons_without_three_points_are_refused(values):
    with pytest.raises(SamcliError) as caught:
        polygons_rle([values], (10, 10))
    assert str(caught.value) == "a polygon is not a list of x and y of at least three points"
