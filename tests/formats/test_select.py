"""What is exported: areas, filters, merging, background, and what lies on top in index maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samcli.errors import SamcliError
from samcli.formats.select import Selection, label_map, mask_of, stacked
from samcli.masks import Area, decode_rle, encode_rle, parse_area
from samcli.records import ImageRecord, MaskRecord

SIZE = (12, 16)
LARGE = np.zeros(SIZE, bool)
LARGE[1:11, 1:12] = True
SMALL = np.zeros(SIZE, bool)
SMALL[3:6, 4:8] = True
EDGE = np.zeros(SIZE, bool)
EDGE[11, 15] = True


def mask(
    bits: np.ndarray, number: int = 1, category: str | None = None, score: float | None = None
) -> MaskRecord:
    return mask_of(encode_rle(bits), id=number, category=category, score=score)


def image(*masks: MaskRecord) -> ImageRecord:
    return ImageRecord(None, None, 1, SIZE[1], SIZE[0], "a.jpg", masks)


def ids(selection: Selection, *masks: MaskRecord) -> list[int | None]:
    return [m.id for m in selection.apply(image(*masks)).annotations]


@pytest.mark.parametrize(
    ("text", "area", "pixels"),
    [
        ("100", Area(100), 100),
        ("0", Area(0), 0),
        ("12.5", Area(12.5), 12.5),
        ("50%", Area(0.5, True), 96),
        (" 100% ", Area(1, True), 192),
    ],
)
def test_areas(text, area, pixels):
    assert parse_area(text) == area
    assert area.pixels(SIZE) == pixels
    assert parse_area(str(area)) == area


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "101%", "%", "1e999"])
def test_what_is_no_area(text):
    with pytest.raises(SamcliError) as caught:
        parse_area(text)
    assert str(caught.value) == f"{text!r} is not an area; give pixels such as 1000, or a share such as 0.5%"


def test_filters_are_inclusive():
    masks = (mask(LARGE, 1, "cat", 0.9), mask(SMALL, 2, "dog", 0.5), mask(EDGE, 3))
    assert ids(Selection(), *masks) == [1, 2, 3]
    assert ids(Selection(min_area=Area(12)), *masks) == [1, 2]
    assert ids(Selection(min_area=Area(13)), *masks) == [1]
    assert ids(Selection(max_area=Area(12)), *masks) == [2, 3]
    assert ids(Selection(max_area=parse_area("6.25%")), *masks) == [2, 3]
    assert ids(Selection(min_score=0.5), *masks) == [1, 2, 3]  # the third one has none
    assert ids(Selection(min_score=0.51), *masks) == [1, 3]
    assert ids(Selection(categories=("dog",)), *masks) == [2]
    assert ids(Selection(categories=("dog", "object")), *masks) == [2, 3]


def test_the_predicted_iou_stands_in_for_a_score():
    one = MaskRecord(encode_rle(SMALL), (4, 3, 4, 3), 12, 0.25, 1.0, id=1)
    assert ids(Selection(min_score=0.25), one) == [1]
    assert ids(Selection(min_score=0.26), one) == []


def test_merging_makes_one_mask_of_a_category():
    merged = Selection(merge=True).apply(
        image(mask(SMALL, 1, "cat", 0.5), mask(LARGE, 2), mask(EDGE, 3, "cat", 0.75))
    )
    cat, thing = merged.annotations
    assert (cat.id, cat.category, cat.score, cat.area, cat.bbox) == (1, "cat", 0.75, 13, (4, 3, 12, 9))
    assert (decode_rle(cat.segmentation) == (SMALL | EDGE)).all()
    assert (thing.id, thing.category, thing.score) == (2, "object", None)


def test_the_background_is_what_nothing_covers():
    selection = Selection(categories=("cat",), background="nothing")
    *_, rest = selection.apply(image(mask(SMALL, 5, "cat"), mask(LARGE, 6, "dog"))).annotations
    assert (rest.id, rest.category) == (6, "nothing")
    assert (decode_rle(rest.segmentation) == ~SMALL).all()
    assert len(selection.apply(image()).annotations) == 1
    full = Selection(background="nothing").apply(image(mask(np.ones(SIZE, bool))))
    assert [m.category for m in full.annotations] == [None]


def test_what_lies_on_top():
    masks = [mask(SMALL, score=0.5), mask(LARGE, score=0.9), mask(EDGE), mask(EDGE, score=0.1)]
    assert stacked(masks, "area") == [1, 0, 2, 3]
    assert stacked(masks, "score") == [2, 3, 0, 1]
    assert stacked(masks, "order") == [0, 1, 2, 3]


def test_label_map_numbers_masks_from_one_the_smaller_over_the_larger():
    labels = label_map([mask(m) for m in (SMALL, LARGE, EDGE)], SIZE, "area")
    assert labels.dtype == np.uint16
    assert (labels[SMALL] == 1).all()
    assert (labels[LARGE & ~SMALL] == 2).all()
    assert (labels[EDGE] == 3).all()
    assert (labels[~(LARGE | EDGE)] == 0).all()


def test_label_map_of_nothing():
    assert not label_map([], SIZE, "area").any()


def test_label_map_of_too_many_masks():
    with pytest.raises(SamcliError) as caught:
        label_map([mask(SMALL)] * 65536, SIZE, "area")
    assert str(caught.value) == "65536 masks do not fit a label map of 16 bits; write them as --format png"


@given(st.lists(arrays(bool, SIZE), max_size=4), st.sampled_from(["area", "score", "order"]))
def test_every_covered_pixel_has_a_mask_that_covers_it(masks, policy):
    labels = label_map([mask(m) for m in masks], SIZE, policy, values=[7 + i for i in range(len(masks))])
    union = np.any(masks, axis=0) if masks else np.zeros(SIZE, bool)
    assert ((labels > 0) == union).all()
    for i, bits in enumerate(masks):
        assert bits[labels == 7 + i].all()
