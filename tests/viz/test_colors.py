"""Colours: the same for a label or an id wherever it appears, and readable under text."""

from __future__ import annotations

import numpy as np
import pytest

from samcli.masks import encode_rle
from samcli.records import MaskRecord
from samcli.viz.colors import INK, label_of, mask_colors, palette

RLE = encode_rle(np.ones((2, 2), bool))


def mask(**values: object) -> MaskRecord:
    return MaskRecord(RLE, (0, 0, 2, 2), 4, 0.5, 0.5, **values)  # type: ignore[arg-type]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """As WCAG 2 defines it, of (..., 3) uint8."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_a_label_has_its_colour_whatever_else_there_is():
    cat = mask_colors([mask(id=1, category="cat")])[0]
    others = [mask(id=7), mask(id=9, category="dog"), mask(id=4, category="cat"), mask(phrase="cat")]
    colors = mask_colors(others)
    assert (colors[2] == cat).all()
    assert (colors[3] == cat).all()
    assert (colors[1] != cat).any()


def test_the_colour_of_a_label_does_not_change_between_runs():
    assert mask_colors([mask(category="cat")]).tolist() == [[133, 134, 4]]
    assert mask_colors([mask(category="猫 \udcff")]).shape == (1, 3)


def test_others_go_by_id_as_overlays_by_index():
    colors = palette(9)
    found = mask_colors([mask(id=9), mask(id=1), mask(id=3)])
    assert (found == colors[[8, 0, 2]]).all()
    assert (mask_colors([mask(), mask()]) == colors[:2]).all(), "without ids, their place counts"
    assert mask_colors([mask(id=0), mask(id=-5), mask(id=2**60)]).shape == (3, 3)
    assert mask_colors([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("values", "label"),
    [({}, None), ({"category": "a", "phrase": "b"}, "a"), ({"phrase": "b"}, "b"), ({"category": ""}, None)],
)
def test_labels(values, label):
    assert label_of(mask(**values)) == label


def test_text_is_readable_on_every_colour():
    contrast = (luminance(palette(5000)) + 0.05) / (luminance(np.array(INK)) + 0.05)
    assert contrast.min() >= 4.5
