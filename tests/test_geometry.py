from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samcli.geometry import crop_boxes, point_grid, resized_size, to_model_frame


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((1200, 1800), 1024, (683, 1024)),  # 682.67 rounds up
        ((1800, 1200), 1024, (1024, 683)),
        ((1024, 1024), 1024, (1024, 1024)),
        ((5, 3), 320, (320, 192)),
        ((1, 1), 320, (320, 320)),
        ((50, 20000), 320, (1, 320)),
        ((10, 20000), 320, (1, 320)),  # 0.16 would round to no row at all
    ],
)
def test_the_long_side_is_resized_and_edges_are_rounded(size, side, expected):
    assert resized_size(size, side) == expected


def test_x_and_y_are_scaled_by_their_own_rounded_ratios():
    moved = to_model_frame([[1800, 1200], [900, 600]], (1200, 1800), 1024)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, [[1024, 683], [512, 341.5]], rtol=1e-6)


def test_points_keep_their_leading_shape():
    assert to_model_frame(np.zeros((3, 0, 2)), (10, 20), 64).shape == (3, 0, 2)


def test_grid_points_are_cell_centres_row_by_row():
    expected = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    np.testing.assert_array_equal(point_grid(2), expected)
    np.testing.assert_array_equal(point_grid(1), [[0.5, 0.5]])


def test_crops_of_two_layers():
    crops, layers = crop_boxes((600, 1000), 2, 512 / 1500)
    assert layers == [0] + [1] * 4 + [2] * 16
    assert crops[0] == (0, 0, 1000, 600)
    # overlap int(0.3413 * 600) = 204: width (204 + 1000) / 2 = 602, height (204 + 600) / 2 = 402
    assert crops[1:5] == [(0, 0, 602, 402), (0, 198, 602, 600), (398, 0, 1000, 402), (398, 198, 1000, 600)]


@settings(deadline=None)
@given(st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(0, 3), st.floats(0, 1))
def test_crops_lie_inside_and_each_layer_covers_the_image(size, n_layers, ratio):
    crops, layers = crop_boxes(size, n_layers, ratio)
    covered = np.zeros((n_layers + 1, *size), dtype=bool)
    for (x0, y0, x1, y1), layer in zip(crops, layers, strict=True):
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        covered[layer, y0:y1, x0:x1] = True
    assert covered.all()
