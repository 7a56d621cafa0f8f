"""Contact sheets: places, captions, failures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from samcli.masks import encode_rle
from samcli.records import MaskRecord
from samcli.viz.sheet import (
    BESIDE,
    CAPTION,
    CELL,
    COLUMNS,
    FAILED,
    GAP,
    PNG_MARK,
    Cell,
    drawn_small,
    marked_png,
    neutral,
    sheet,
)


def step() -> tuple[int, int]:
    return CELL[0] + GAP, CELL[1] + CAPTION + GAP


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (7, COLUMNS, 2), (48, COLUMNS, 8)]
)
def test_a_sheet_is_as_large_as_it_needs(count, columns, rows):
    cells = [Cell("a.jpg", "1 mask", neutral((24, 32)))] * count
    assert sheet(cells).shape == (GAP + rows * step()[1], GAP + columns * step()[0], 3)


def test_pictures_lie_in_the_middle_of_their_cells_above_their_names():
    red = np.full((100, 200, 3), (255, 0, 0), np.uint8)
    page = sheet([Cell("a.jpg", "3 masks", red)] * 2)
    for left in (GAP, GAP + step()[0]):
        cell = page[GAP : GAP + CELL[1], left : left + CELL[0]]
        assert (cell[70:170, 60:260] == (255, 0, 0)).all()
        assert (cell[:70] == BESIDE).all()
        caption = page[GAP + CELL[1] : GAP + CELL[1] + CAPTION, left : left + CELL[0]]
        assert (caption[:22] < 100).any(), "the name"
        assert (caption[22:] < 160).any(), "the masks"
        assert (caption[:, 150:] == 255).all()


def test_a_failure_says_why():
    page = sheet([Cell("a.jpg", "a.jpg is truncated; " + 30 * "copy it again ")])
    words = (page[GAP : GAP + CELL[1], GAP : GAP + CELL[0]] == FAILED).all(axis=2)
    assert words.sum() > 300
    assert (page[:, GAP + CELL[0] :] == 255).all(), "nothing beside the cell"


def test_names_and_reasons_of_any_kind():
    sheet([Cell("猫\udcff/" + "x" * 400, "\n" * 50 + "é" * 900), Cell("", "", neutral((1, 1)))])


@pytest.mark.parametrize(
    ("size", "small"), [((600, 600), (240, 240)), ((60, 90), (60, 90)), ((30, 3000), (3, 320))]
)
def test_images_fit_their_cells_and_do_not_grow(size, small):
    bits = np.zeros(size, bool)
    bits[: size[0] // 2] = True
    mask = MaskRecord(encode_rle(bits), (0, 0, 1, 1), int(bits.sum()), 0.9, 0.9, 1)
    picture = drawn_small(np.zeros((*size, 3), np.uint8), [mask])
    assert picture.shape == (*small, 3)
    assert picture[0].any()
    assert not picture[-1].any()


def test_our_pngs_say_so_at_their_start():
    data = marked_png(neutral((5, 7)))
    assert PNG_MARK in data[:256]
    assert Image.open(io.BytesIO(data)).size == (7, 5)
