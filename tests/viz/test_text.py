"""Labels written into pictures: readable, inside, and never a reason to fail."""

from __future__ import annotations

import numpy as np
import pytest

from samcli.viz.text import Tag, fitted, letters_for, plain, write_tags

COLOR = np.array([240, 180, 40], np.uint8)


def blank(height: int = 200, width: int = 300) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def written(canvas: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what was drawn."""
    rows, columns = np.flatnonzero(canvas.any((1, 2))), np.flatnonzero(canvas.any((0, 2)))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_a_label_stands_where_it_should_on_its_colour():
    canvas = blank()
    write_tags(canvas, [Tag("cat", (150, 100), COLOR)])
    left, top, right, bottom = written(canvas)
    assert abs((left + right) / 2 - 150) <= 2
    assert abs((top + bottom) / 2 - 100) <= 2
    chip = canvas[top:bottom, left:right]
    assert (chip == COLOR).all(2).mean() > 0.5
    assert (chip.max(2) < 60).mean() > 0.05, "letters"


@pytest.mark.parametrize("at", [(0, 0), (299, 199), (299, 0), (0, 199)])
def test_labels_stay_inside_the_picture(at):
    canvas = blank()
    write_tags(canvas, [Tag("traffic light", at, COLOR)])
    left, top, right, bottom = written(canvas)
    assert right - left > 40
    assert bottom - top >= 11


def test_labels_make_room_for_each_other():
    canvas, both = blank(), blank()
    write_tags(canvas, [Tag("cat", (150, 100), COLOR)])
    write_tags(both, [Tag("cat", (150, 100), COLOR), Tag("cat", (150, 100), COLOR)])
    assert (both == COLOR).all(2).sum() == 2 * (canvas == COLOR).all(2).sum()


@pytest.mark.parametrize(
    "text", ["猫", "é ß ж", "\udcff", "a\nb\0c\x1b[31m", "", " ", "\u202egnp", "x" * 500, "👍🏽"]
)
def test_any_label_can_be_written(text):
    write_tags(blank(), [Tag(text, (10, 10), COLOR)])
    write_tags(blank(3, 2), [Tag(text, (1, 1), COLOR)])
    fitted(text, 50, 12)


def test_letters_that_no_font_has_become_what_can_be_read(monkeypatch):
    monkeypatch.setattr("samcli.viz.text.SYSTEM_FONTS", ("no such font.ttf",))
    assert letters_for("café 猫", 12)[0] == "cafe ?"


def test_one_short_line_of_anything():
    assert plain("a\n b\t\0c") == "a b c"
    assert plain("x" * 100) == "x" * 37 + "..."


def test_of_a_long_path_the_end_stays():
    text, letters = fitted("a/very/long/folder/name/photo.jpg", 100, 12)
    assert text.startswith("...")
    assert text.endswith("photo.jpg")
    assert letters.getlength(text) <= 100
    assert fitted("a.jpg", 100, 12)[0] == "a.jpg"
    assert fitted("a.jpg", 1, 12)[0] == "..."
