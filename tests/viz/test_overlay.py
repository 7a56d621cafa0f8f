"""Overlays: what is coloured, what is not, and what lies above."""

from __future__ import annotations

import time

import numpy as np
import pytest

from samcli.masks import encode_rle
from samcli.records import Box, MaskRecord
from samcli.viz.colors import mask_colors, palette
from samcli.viz.overlay import overlay

GREY = np.full((60, 90, 3), 120, np.uint8)
OUTER = np.zeros((60, 90), bool)
OUTER[10:50, 10:70] = True
INNER = np.zeros((60, 90), bool)
INNER[20:40, 20:50] = True


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != GREY).any(axis=2)


def test_masks_are_coloured_inside_and_nowhere_else():
    before = GREY.copy()
    picture = overlay(GREY, [INNER])
    assert np.array_equal(GREY, before)
    assert picture.dtype == np.uint8
    assert (changed(picture) == INNER).all()


def test_nothing_gives_the_picture():
    assert (overlay(GREY, []) == GREY).all()
    assert (overlay(GREY, [np.zeros((60, 90), bool)]) == GREY).all()


def test_rle_and_bits_look_the_same():
    masks = [OUTER, INNER, np.zeros_like(OUTER), np.ones_like(OUTER)]
    assert (overlay(GREY, masks) == overlay(GREY, [encode_rle(mask) for mask in masks])).all()


def test_the_smaller_lies_above_and_colours_go_by_index():
    first, second = palette(2).astype(float)
    for masks, outer, inner in (([OUTER, INNER], first, second), ([INNER, OUTER], second, first)):
        picture = overlay(GREY, masks).astype(float)
        assert np.abs(picture[15, 40] - (GREY[0, 0] + outer) / 2).max() <= 1
        assert np.abs(picture[30, 35] - (GREY[0, 0] + inner) / 2).max() <= 1


def test_the_texture_stays_visible():
    stripes = GREY.copy()
    stripes[::2] = 60
    picture = overlay(stripes, [OUTER]).astype(int)
    assert np.abs(picture[30, 30] - picture[31, 30]).min() >= 25


def test_the_contour_runs_inside_the_mask_and_not_along_the_pictures_border():
    half = np.zeros((60, 90), bool)
    half[:, :45] = True
    picture = overlay(GREY, [half])
    inside, edge = picture[30, 20], picture[30, 44]
    assert (edge != inside).any()
    assert (picture[:, 44] == edge).all()
    assert (picture[:, :44] == inside).all()


@pytest.mark.parametrize(("side", "width"), [(50, 1), (1000, 2), (2000, 5)])
def test_contours_grow_with_the_picture(side, width):
    image = np.zeros((side, side, 3), np.uint8)
    mask = np.zeros((side, side), bool)
    mask[:, : side // 2] = True
    row = overlay(image, [mask])[side // 2]
    assert (row[: side // 2] != row[0]).any(axis=1).sum() == width


def test_a_one_pixel_picture_and_mask():
    picture = overlay(np.zeros((1, 1, 3), np.uint8), [np.ones((1, 1), bool)], points=[(0.5, 0.5)])
    assert picture.shape == (1, 1, 3)


def test_points_and_boxes():
    picture = overlay(GREY, [], points=[(20, 30), (60, 30)], labels=[1, 0], boxes=[Box(5, 6, 85, 55)])
    green, red = picture[30, 20].astype(int), picture[30, 60].astype(int)
    assert green.argmax() == 1
    assert red.argmax() == 0
    assert picture[6, 40].tolist() == picture[54, 40].tolist() == [255, 255, 255]
    assert picture[30, 5].tolist() == picture[30, 84].tolist() == [255, 255, 255]
    assert not changed(picture)[20, 20:60].any()


def test_points_without_labels_are_foreground_and_may_lie_outside():
    picture = overlay(GREY, [], points=[(20, 30), (90, 60), (-50, 700)], boxes=[Box(-10, -10, 200, 300)])
    assert picture[30, 20].argmax() == 1


def test_colours_never_depend_on_their_number_and_differ():
    colors = palette(40)
    assert (palette(7) == colors[:7]).all()
    assert len({tuple(color) for color in colors.tolist()}) == 40
    first = colors[:12].astype(int)
    distances = np.abs(first[:, None] - first[None]).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert distances.min() > 60
    assert (np.ptp(first, axis=1) > 60).all(), "none is grey"
    assert palette(0).shape == (0, 3)


def test_more_masks_than_a_byte_can_count():
    masks = []
    for i in range(300):
        mask = np.zeros((60, 90), bool)
        mask[i // 90, i % 90] = True
        masks.append(mask)
    picture = overlay(GREY, masks)
    assert changed(picture).sum() == 300
    assert (picture[3, 29] == overlay(GREY, [np.zeros((60, 90), bool)] * 299 + [masks[299]])[3, 29]).all()


def test_many_masks_take_seconds_at_most():
    """200 masks on 3 million pixels: 0.5 s of one core when written."""
    masks = []
    for i in range(20):
        mask = np.zeros((1500, 2000), bool)
        mask[50 * i : 50 * i + 400, 80 * i : 80 * i + 450] = True
        masks.append(encode_rle(mask))
    start = time.process_time()
    overlay(np.zeros((1500, 2000, 3), np.uint8), masks * 10)
    assert time.process_time() - start < 8


def record(bits: np.ndarray, **values: object) -> MaskRecord:
    return MaskRecord(encode_rle(bits), (0, 0, 1, 1), int(bits.sum()), 0.5, 0.5, **values)  # type: ignore[arg-type]


def test_records_are_coloured_by_id():
    picture = overlay(GREY, [record(OUTER, id=5), record(INNER, id=1)])
    assert (picture == overlay(GREY, [np.zeros_like(OUTER)] * 4 + [OUTER])).all(2)[15, 40]
    assert (picture == overlay(GREY, [INNER])).all(2)[30, 35]


def test_a_label_has_one_colour_and_is_written_on_its_masks():
    plain = overlay(np.zeros((200, 300, 3), np.uint8), [])
    left, right = np.zeros((200, 300), bool), np.zeros((200, 300), bool)
    left[:, :100], right[:, 200:] = True, True
    picture = overlay(plain, [record(left, id=1, category="cat"), record(right, id=2, category="cat")])
    assert (picture[5, 5] == picture[5, 295]).all()
    (color,) = mask_colors([record(left, category="cat")])
    chips = (picture == color).all(axis=2)
    assert chips[:, :100].any()
    assert chips[:, 200:].any()
    assert not chips[:, 100:200].any()


def test_a_label_stands_on_the_part_of_its_mask_that_is_seen():
    plain = np.zeros((200, 300, 3), np.uint8)
    everything, most = np.ones((200, 300), bool), np.zeros((200, 300), bool)
    most[:, :200] = True
    picture = overlay(plain, [record(everything, category="background"), record(most)])
    (color,) = mask_colors([record(everything, category="background")])
    columns = np.flatnonzero((picture == color).all(axis=2).any(axis=0))
    assert columns.min() > 200


def test_an_empty_mask_with_a_label_writes_nothing():
    assert (overlay(GREY, [record(np.zeros((60, 90), bool), category="cat")]) == GREY).all()


def test_small_masks_may_go_without_their_labels():
    found = record(INNER, id=1, category="cat")
    bare = overlay(GREY, [found], least_labelled=601)
    assert (overlay(GREY, [found], least_labelled=600) != bare).any()
    assert (changed(bare) == INNER).all()
