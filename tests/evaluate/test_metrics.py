"""Metrics on cases small enough to be computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from samcli.evaluate.edges import THRESHOLDS, count_edges, edge_figures, edge_map, thinned
from samcli.evaluate.metrics import (
    Counts,
    best_ious,
    boundaries,
    clicks_to,
    count_boundaries,
    covering,
    deepest,
    iou,
    match_boundaries,
    next_click,
    noised_box,
    random_click,
)
from samcli.masks import encode_rle
from samcli.records import Box


def block(y0: int, y1: int, x0: int, x1: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_iou_by_hand():
    assert iou(block(0, 4, 0, 4), block(0, 4, 2, 6)) == 8 / 24
    assert iou(block(0, 0, 0, 0), block(0, 0, 0, 0)) == 1
    assert iou(block(0, 4, 0, 4), block(0, 0, 0, 0)) == 0


def test_pixels_that_do_not_count_are_left_out():
    counted = ~block(0, 4, 2, 4)  # what both share
    assert iou(block(0, 4, 0, 4), block(0, 4, 2, 6), counted) == 0
    assert iou(block(0, 4, 0, 4), block(0, 4, 0, 2), ~block(0, 4, 2, 4)) == 1


def test_the_deepest_pixel_is_the_middle_of_a_block():
    x, y, depth = deepest(block(3, 10, 10, 21))  # 7 high, 11 wide
    assert y == 6.5
    assert 13 <= x <= 18
    assert depth == 4


def test_the_border_of_the_image_is_an_edge():
    assert deepest(np.ones((9, 9), bool)) == (4.5, 4.5, 5)
    assert deepest(np.zeros((9, 9), bool))[2] == 0


def test_the_next_click_goes_where_the_larger_error_is():
    truth = block(2, 12, 2, 12)
    x, y, label = next_click(block(2, 12, 2, 5), truth)  # 7 columns are missing
    assert label == 1
    assert truth[int(y), int(x)]
    assert not block(2, 12, 2, 5)[int(y), int(x)]
    x, y, label = next_click(truth | block(0, 20, 14, 30), truth)
    assert label == 0
    assert x > 14
    # beside each other, what is missing and what is too much are two errors, not a wide one
    missing, surplus = block(0, 20, 10, 14), block(0, 20, 14, 20)
    x, _, label = next_click(surplus, missing)
    assert (label, 14 < x < 20) == (0, True)


def test_without_an_error_the_next_click_is_into_the_thing():
    truth = block(2, 7, 2, 7)
    assert next_click(truth, truth) == (4.5, 4.5, 1)
    assert next_click(block(2, 7, 2, 9), truth, ~block(2, 7, 7, 9)) == (4.5, 4.5, 1)


def test_clicks_to_a_goal():
    ious = np.array([[0.9, 0.95, 0.97], [0.5, 0.86, 0.8], [0.1, 0.2, 0.3]])
    assert clicks_to(ious, 0.85).tolist() == [1, 2, 3]


def test_random_clicks_lie_on_the_thing_and_differ():
    mask = block(3, 9, 4, 20)
    rng = np.random.default_rng(1)
    places = [random_click(mask, rng) for _ in range(50)]
    assert all(mask[int(y), int(x)] for x, y in places)
    assert len(set(places)) > 20


def test_noise_of_boxes_is_a_tenth_of_the_side_and_at_most_20_pixels():
    rng = np.random.default_rng(2)
    moved = np.array(
        [np.subtract(noised_box(Box(100, 100, 140, 900), (2000, 2000), rng).xyxy, (100, 100, 140, 900))
         for _ in range(2000)]
    )  # fmt: skip
    assert np.abs(moved).max() == 20
    assert 3.7 < moved[:, 0].std() < 4.3  # a tenth of 40
    assert 15 < moved[:, 1].std() < 20  # a tenth of 800, cut at 20
    inside = [noised_box(Box(0, 0, 30, 20), (20, 30), rng) for _ in range(100)]
    assert all(0 <= b.x0 < b.x1 <= 30 and 0 <= b.y0 < b.y1 <= 20 for b in inside)


def test_best_ious_and_covering_by_hand():
    truths = [encode_rle(block(0, 20, 0, 10)), encode_rle(block(0, 20, 10, 30))]  # 200 and 400 pixels
    masks = [encode_rle(block(0, 20, 0, 12)), encode_rle(block(0, 10, 10, 30))]
    assert best_ious(truths, masks) == pytest.approx([200 / 240, 200 / 400])
    assert covering(truths, masks) == (pytest.approx(200 * 200 / 240 + 400 * 0.5), 600)
    assert best_ious(truths, []).tolist() == [0, 0]
    assert covering(truths, []) == (0, 600)


def test_boundaries_of_a_label_map():
    labels = np.zeros((4, 4), int)
    labels[:2, :2] = 1
    assert np.argwhere(boundaries(labels)).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert not boundaries(np.ones((4, 4), int)).any()


def largest_matching(ours: np.ndarray, theirs: np.ndarray, reach: float) -> int:
    """By trying everything; for a few points."""
    near = np.linalg.norm(ours[:, None] - theirs[None], axis=2) <= reach
    if len(ours) > len(theirs):
        near = near.T
    return max(
        sum(near[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(near.shape[1]), near.shape[0])
    )


@pytest.mark.parametrize("seed", range(8))
def test_boundary_pixels_are_paired_one_to_one_as_many_as_can_be(seed):
    rng = np.random.default_rng(seed)
    found, truth = (rng.random((10, 10)) < share for share in (0.05, 0.07))
    ours, theirs = np.argwhere(found)[:6], np.argwhere(truth)[:7]
    found, truth = np.zeros((2, 10, 10), bool)
    found[tuple(ours.T)] = truth[tuple(theirs.T)] = True
    reach = 2.5
    mine, others = match_boundaries(found, truth, reach / np.hypot(10, 10))
    expected = largest_matching(ours, theirs, reach) if len(ours) and len(theirs) else 0
    assert mine.sum() == others.sum() == expected
    assert not (mine & ~found).any()
    assert not (others & ~truth).any()


def test_a_thick_boundary_is_only_right_once():
    truth = block(0, 20, 10, 11)
    right = count_boundaries(truth, [truth])
    assert (right.precision, right.recall, right.f) == (1, 1, 1)
    thick = count_boundaries(block(0, 20, 10, 13), [truth])
    assert thick == Counts(found=60, right=20, drawn=20, hit=20)
    assert thick.f == pytest.approx(2 * (1 / 3) / (1 + 1 / 3))


def test_what_one_annotator_drew_is_right_and_what_another_drew_is_wanted():
    one, other = block(0, 20, 5, 6), block(0, 20, 20, 21)
    assert count_boundaries(one, [one, other]) == Counts(found=20, right=20, drawn=40, hit=20)


def test_tolerance_is_a_share_of_the_diagonal():
    truth, found = block(0, 100, 50, 51, (100, 100)), block(0, 100, 51, 52, (100, 100))
    assert count_boundaries(found, [truth]).right == 100  # 0.0075 * 141 = 1.06 pixels
    assert count_boundaries(block(0, 100, 53, 54, (100, 100)), [truth]).right == 0


def test_edges_of_a_step_lie_on_it_and_are_thin():
    logits = np.where(block(20, 44, 20, 44, (64, 64)), 8.0, -8.0).astype(np.float32)
    edges = edge_map([logits], (64, 64))
    assert edges.max() == pytest.approx(1)
    strong = edges > 0.5
    frame = block(19, 45, 19, 45, (64, 64)) & ~block(20, 44, 20, 44, (64, 64))
    assert not (strong & ~frame).any()
    assert strong.sum() >= 0.9 * frame.sum()
    assert not edge_map([], (64, 64)).any()


def test_thinning_keeps_the_ridge():
    x = np.arange(40)
    ridge = np.tile(np.exp(-((x - 20) ** 2) / 8.0), (40, 1)).astype(np.float32)
    kept = thinned(ridge)[10:30] > 0.1
    assert (kept.sum(1) == 1).all()
    assert kept[:, 20].all()


def test_edge_figures_by_hand():
    # two images; at the first threshold all is found, at the second only what is right in the first image
    low = [Counts(20, 10, 10, 10), Counts(10, 10, 20, 10)]
    high = [Counts(10, 10, 10, 10), Counts(2, 2, 20, 2)]
    counts = [[low[i], high[i]] + [Counts(0, 0, (10, 20)[i], 0)] * (len(THRESHOLDS) - 2) for i in range(2)]
    figures = edge_figures(counts)
    # whole: low 20 of 30 right, 20 of 30 hit; high 12 of 12, 12 of 30
    assert figures.ods == pytest.approx(2 / 3)
    assert figures.threshold == THRESHOLDS[0]
    # the best of each: high for the first image, low for the second: 20 of 20 right, 20 of 30 hit
    assert figures.ois == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    assert figures.r50 == pytest.approx(2 / 3)
    # precision goes from 0 at recall 0 to 1 at 0.4 to 2/3 at 2/3, in straight lines, sampled 101 times
    at = np.arange(101) / 100
    line = np.interp(at, [0, 0.4, 2 / 3], [0, 1, 2 / 3])
    assert figures.ap == pytest.approx(line[at <= 2 / 3].sum() / 100)


def test_perfect_edges():
    drawn = block(5, 15, 10, 11)
    counts = count_edges(drawn.astype(np.float32), [drawn])
    figures = edge_figures([counts])
    assert (figures.ods, figures.ois, figures.r50) == (1, 1, 1)
