from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samcli.errors import SamcliError
from samcli.masks import (
    decode_rle,
    encode_rle,
    mask_bbox,
    mask_nms,
    mask_to_box,
    nms,
    remove_small_regions,
    rle_area,
    stability_score,
)

any_mask = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(deadline=None)
@given(any_mask)
def test_rle_round_trip(mask):
    rle = encode_rle(mask)
    assert rle["size"] == list(mask.shape)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(decode_rle(rle), mask)
    assert rle_area(rle) == mask.sum()


def test_rle_is_what_coco_writes():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    assert encode_rle(mask) == {"size": [3, 4], "counts": "714"}


def test_memory_order_does_not_matter():
    mask = np.random.default_rng(0).random((7, 9)) > 0.5
    assert encode_rle(mask) == encode_rle(np.asfortranarray(mask))


def test_damaged_rle_is_refused():
    with pytest.raises(SamcliError, match=r"run-length encoding of size \[3, 4\] is damaged"):
        decode_rle({"size": [3, 4], "counts": "7145"})


@settings(deadline=None)
@given(any_mask)
def test_boxes_are_exact(mask):
    x, y, w, h = mask_bbox(mask)
    box = mask_to_box(torch.from_numpy(mask)[None])[0].tolist()
    if not mask.any():
        assert (x, y, w, h) == (0, 0, 0, 0)
        assert box == [0, 0, 0, 0]
        return
    assert mask[y : y + h, x : x + w].sum() == mask.sum()
    assert mask[y].any()
    assert mask[y + h - 1].any()
    assert mask[:, x].any()
    assert mask[:, x + w - 1].any()
    assert box == [x, y, x + w - 1, y + h - 1]


def test_a_one_pixel_mask_has_width_1():
    mask = np.zeros((8, 8), dtype=bool)
    mask[5, 3] = True
    assert mask_bbox(mask) == (3, 5, 1, 1)
    assert mask_to_box(torch.from_numpy(mask)[None]).tolist() == [[3, 5, 3, 5]]


def test_boxes_of_no_masks_and_of_masks_without_pixels():
    assert mask_to_box(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4)
    assert mask_to_box(torch.zeros(2, 0, 4, dtype=torch.bool)).tolist() == [[0] * 4] * 2


def test_stability_is_the_iou_of_the_two_cuts():
    logits = torch.tensor(
        [[[2.0, 0.5], [-0.5, -2.0]], [[-3.0, -3.0], [-3.0, -3.0]], [[5.0, 5.0], [5.0, 5.0]]]
    )
    assert stability_score(logits, 0.0, 1.0).tolist() == [pytest.approx(1 / 3), 0.0, 1.0]
    assert stability_score(logits, 0.0, 1.0).dtype == torch.float32
    assert stability_score(torch.zeros(0, 0), 0.0, 1.0).item() == 0.0


def brute_force_nms(overlap, scores, threshold):
    """Keep what no kept, better one overlaps."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = []
    for i in order:
        if all(overlap(i, j) <= threshold for j in kept):
            kept.append(i)
    return kept


box = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 10), st.integers(0, 10))


@settings(deadline=None)
@given(st.lists(st.tuples(box, st.integers(0, 4)), max_size=20), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms_is_greedy_by_score_then_position(items, threshold):
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _ in items]
    scores = [score / 4 for _, score in items]

    def overlap(i, j):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes[i], boxes[j]
        common = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
        union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common
        return float(np.float32(common) / np.float32(union)) if union else 0.0

    assert nms(boxes, scores, threshold).tolist() == brute_force_nms(overlap, scores, threshold)


@settings(deadline=None)
@given(
    st.lists(st.tuples(arrays(bool, (6, 6)), st.integers(0, 4)), max_size=12),
    st.sampled_from([0.0, 0.4, 0.9]),
)
def test_mask_nms_is_exact(items, threshold):
    masks, scores = [mask for mask, _ in items], [score / 4 for _, score in items]

    def overlap(i, j):
        union = (masks[i] | masks[j]).sum()
        return (masks[i] & masks[j]).sum() / union if union else 0.0

    kept = mask_nms([encode_rle(mask) for mask in masks], scores, threshold)
    assert kept.tolist() == brute_force_nms(overlap, scores, threshold)


def test_suppression_of_nothing_keeps_nothing():
    assert nms(np.zeros((0, 4)), [], 0.7).tolist() == []
    assert nms([], [], 0.7).tolist() == []
    assert mask_nms([], [], 0.7).tolist() == []


def plainly_cleaned(mask, min_area, mode):
    """The reference's rule, on the whole mask."""
    wanted = mask if mode == "islands" else ~mask
    count, labels = cv2.connectedComponents(wanted.astype(np.uint8), connectivity=8)
    sizes = [(labels == label).sum() for label in range(1, count)]
    small = [label for label, size in enumerate(sizes, start=1) if size < min_area]
    if not small:
        return mask, False
    if mode == "holes":
        return mask | np.isin(labels, small), True
    if len(small) == len(sizes):
        small.remove(1 + int(np.argmax(sizes)))
    return mask & ~np.isin(labels, small), True


@settings(deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.sampled_from([True, False])),
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)),
    st.sampled_from([0.5, 1, 2, 5, 20, 60]),
    st.sampled_from(["holes", "islands"]),
)
def test_small_regions_are_found_as_in_the_whole_mask(mask, around, min_area, mode):
    top, bottom, left, right = around
    mask = np.pad(mask, ((top, bottom), (left, right)))
    if not mask.any():
        return
    expected, expected_change = plainly_cleaned(mask, min_area, mode)
    cleaned, changed = remove_small_regions(mask, min_area, mode)
    assert changed == expected_change
    np.testing.assert_array_equal(cleaned, expected)


def test_regions_are_8_connected_and_small_means_strictly_smaller():
    mask = np.zeros((9, 9), dtype=bool)
    mask[1:7, 1:7] = True
    mask[3, 3] = mask[4, 4] = False  # one diagonal hole of 2 pixels
    assert remove_small_regions(mask, 2, "holes")[1] is False
    filled, changed = remove_small_regions(mask, 3, "holes")
    assert changed
    assert filled.sum() == 36


def test_of_islands_that_are_all_small_the_largest_stays():
    mask = np.zeros((9, 9), dtype=bool)
    mask[0, 0] = True
    mask[4, 4:7] = True
    cleaned, changed = remove_small_regions(mask, 10, "islands")
    assert changed
    assert mask_bbox(cleaned) == (4, 4, 3, 1)


@pytest.mark.parametrize("mode", ["holes", "islands"])
def test_an_empty_mask_stays_empty(mode):
    mask = np.zeros((30, 30), dtype=bool)
    cleaned, changed = remove_small_regions(mask, 10, mode)
    assert not changed
    assert not cleaned.any()
