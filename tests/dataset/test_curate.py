"""Which proposals are taken: every rule by hand, and what holds for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from dataset_records import box, image, rle
from hypothesis import given, settings
from hypothesis import strategies as st

from samcli.dataset.curate import REASONS, Curation, Existing, curate, read_class_scores
from samcli.errors import SamcliError
from samcli.masks import Area
from samcli.records import MaskRecord

NUMBERS = {"cat": 1, "dog": 2, "object": 3}
ALL = Curation(duplicates=None, containment=None, conflicts=None)


def taken(
    curation: Curation, *masks: MaskRecord, existing: Sequence[Existing] = ()
) -> tuple[list[int | None], list[int | None], dict[str, int]]:
    """Ids of masks, numbered from 1, that are accepted, and to review, and what was dropped."""
    numbered = [replace(mask, id=i) for i, mask in enumerate(masks, start=1)]
    found = curate(image("a.jpg", *numbered), curation, NUMBERS, existing)
    return [m.id for m in found.accepted], [m.id for m in found.to_review], dict(found.dropped)


def test_the_least_score_is_inclusive_and_a_category_may_have_its_own():
    masks = [
        box("cat", 0.5, 0, 0, 3, 3),
        box("cat", 0.49, 4, 0, 7, 3),
        box("dog", 0.3, 8, 0, 11, 3),
        box("dog", 0.2, 12, 0, 15, 3),
        box("cat", None, 16, 0, 19, 3),
    ]
    assert taken(Curation(min_score=0.5, class_scores={"dog": 0.3}), *masks) == ([1, 3, 5], [], {"score": 2})


def test_areas_are_pixels_or_shares():
    masks = [box("cat", 0.5, 0, 0, 3, 3), box("cat", 0.5, 4, 0, 8, 3), box("cat", 0.5, 10, 0, 30, 20)]
    assert taken(Curation(min_area=Area(12), max_area=Area(0.5, True)), *masks) == ([2], [], {"area": 2})


def test_a_mask_without_a_pixel_is_none():
    assert taken(ALL, box("cat", 0.5, 0, 0, 0, 0)) == ([], [], {"area": 1})


def test_of_one_category_the_better_of_two_alike_stays():
    # 10 x 9 of 10 x 10 pixels are the same: IoU 0.9; 10 x 8 are not above 0.8.
    masks = [box("cat", 0.6, 0, 0, 10, 9), box("cat", 0.7, 0, 0, 10, 10), box("cat", 0.5, 0, 0, 10, 8)]
    assert taken(Curation(containment=None), *masks) == ([2, 3], [], {"duplicates": 1})
    assert taken(ALL, *masks)[0] == [1, 2, 3]


def test_a_part_of_a_better_one_of_its_category_goes():
    inside, most = box("cat", 0.5, 1, 1, 5, 5), box("cat", 0.5, 6, 8, 10, 12)
    whole = box("cat", 0.7, 0, 0, 10, 10)
    assert taken(Curation(), inside, whole, most) == ([2, 3], [], {"contained": 1})
    assert taken(Curation(containment=None), inside, whole) == ([1, 2], [], {})
    assert taken(Curation(), replace(inside, category="dog"), whole)[0] == [1, 2]
    assert taken(Curation(), replace(inside, score=0.9), whole)[0] == [1, 2]  # the larger is the worse


def test_of_two_labels_for_one_mask_the_better_stays():
    cat, dog = box("cat", 0.6, 0, 0, 10, 10), box("dog", 0.7, 0, 0, 10, 9)
    assert taken(Curation(), cat, dog) == ([2], [], {"conflicts": 1})
    assert taken(Curation(conflicts=0.9), cat, dog) == ([1, 2], [], {})


def test_of_equal_scores_the_earlier_category_stays():
    cat, dog = box("cat", 0.6, 0, 0, 10, 10), box("dog", 0.6, 0, 0, 10, 10)
    assert taken(Curation(), dog, cat)[0] == [2]
    both = image("a.jpg", cat, dog)
    (kept,) = curate(both, Curation(), {"dog": 1, "cat": 2}).accepted
    assert kept.category == "dog"


def test_what_was_dropped_drops_nothing_itself():
    best = box("cat", 0.9, 0, 0, 10, 10)
    second = box("cat", 0.8, 0, 0, 10, 9)  # IoU 0.9 with the best, which drops it
    third = box("dog", 0.7, 0, 0, 10, 8)  # IoU 0.8 with the best, 0.89 with the second
    assert taken(Curation(containment=None), best, second, third) == ([1, 3], [], {"duplicates": 1})


def test_confidence_divides_and_wants_a_score():
    masks = [box("cat", 0.5, 0, 0, 3, 3), box("cat", 0.4, 4, 0, 7, 3), box("cat", None, 8, 0, 11, 3)]
    assert taken(Curation(confident=0.5), *masks) == ([1], [2, 3], {})
    assert taken(Curation(), *masks) == ([1, 2, 3], [], {})


class TestCovered:
    def test_by_an_annotation_of_any_category_with_half_of_their_pixels_in_common(self) -> None:
        there = [Existing(rle(0, 0, 10, 10), "dog")]
        assert taken(ALL, box("cat", 0.9, 0, 0, 10, 5), existing=there) == ([], [], {"covered": 1})
        assert taken(ALL, box("cat", 0.9, 0, 0, 10, 4), existing=there) == ([1], [], {})

    def test_inside_one_of_its_category(self) -> None:
        there = [Existing(rle(0, 0, 10, 10), "cat")]
        # 4 of 5 rows are inside
        assert taken(ALL, box("cat", 0.9, 0, 6, 4, 11), existing=there) == ([], [], {"covered": 1})
        assert taken(ALL, box("dog", 0.9, 0, 6, 4, 11), existing=there) == ([1], [], {})
        assert taken(ALL, box("cat", 0.9, 0, 7, 4, 11), existing=there) == ([1], [], {})

    def test_a_crowd_covers_what_is_inside_of_its_category(self) -> None:
        there = [Existing(rle(0, 0, 10, 10), "cat", crowd=True)]
        assert taken(ALL, box("cat", 0.9, 0, 0, 3, 3), existing=there) == ([], [], {"covered": 1})
        assert taken(ALL, box("dog", 0.9, 0, 0, 10, 10), existing=there) == ([1], [], {})


def test_damaged_masks_are_refused():
    bad = replace(box("cat", 0.9, 0, 0, 3, 3), segmentation={"size": [20, 30], "counts": "05"})
    with pytest.raises(SamcliError, match="damaged"):
        curate(image("a.jpg", bad), Curation(), NUMBERS)


@pytest.mark.parametrize("name", ["min_score", "duplicates", "containment", "conflicts", "confident"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_that_make_no_sense_are_refused(name, value):
    with pytest.raises(SamcliError, match="give a number from 0 to 1"):
        Curation(**{name: value})


some_masks = st.lists(
    st.builds(
        lambda category, score, x, y, w, h: box(category, score, x, y, min(x + w, 30), min(y + h, 20)),
        st.sampled_from(["cat", "dog", None]),
        st.one_of(st.none(), st.floats(0, 1)),
        st.integers(0, 29),
        st.integers(0, 19),
        st.integers(0, 30),
        st.integers(0, 20),
    ),
    max_size=12,
)
some_curations = st.builds(
    Curation,
    min_score=st.one_of(st.none(), st.floats(0, 1)),
    duplicates=st.one_of(st.none(), st.floats(0, 1)),
    containment=st.one_of(st.none(), st.floats(0, 1)),
    conflicts=st.one_of(st.none(), st.floats(0, 1)),
    confident=st.one_of(st.none(), st.floats(0, 1)),
)


@settings(max_examples=200, deadline=None)
@given(some_masks, some_curations)
def test_every_proposal_has_one_fate_and_what_is_left_is_left_again(masks, curation):
    record = image("a.jpg", *(replace(mask, id=i) for i, mask in enumerate(masks)))
    found = curate(record, curation, NUMBERS)
    left = [*found.accepted, *found.to_review]
    assert len(left) + sum(found.dropped.values()) == len(masks)
    assert set(found.dropped) <= set(REASONS)
    ids = [mask.id for mask in record.annotations if mask in left]
    assert sorted(mask.id for mask in left) == ids
    assert [mask.id for mask in found.accepted] == sorted(mask.id for mask in found.accepted)
    again = curate(replace(record, annotations=tuple(sorted(left, key=lambda m: m.id))), curation, NUMBERS)
    assert (again.accepted, again.to_review, again.dropped) == (found.accepted, found.to_review, {})


class TestClassScores:
    def test_yaml_and_json(self, tmp_path) -> None:
        yaml, json = tmp_path / "a.yaml", tmp_path / "a.json"
        yaml.write_text("no: 0.4\n1.0: 1\nкошка: .25  # cat\n", encoding="utf-8")
        json.write_text('{"no": 0.4, "1.0": 1, "кошка": 0.25}', encoding="utf-8")
        assert read_class_scores(yaml) == read_class_scores(json) == {"no": 0.4, "1.0": 1.0, "кошка": 0.25}

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.yaml", "- cat\n", "has no scores of categories; give a score from 0 to 1 for each category"),
            ("a.yaml", "", "has no scores of categories"),
            ("a.yaml", "cat: [", "is not YAML: "),
            ("a.yaml", "cat: high\n", "the score of 'cat' is 'high'; give a number from 0 to 1"),
            ("a.yaml", "cat: 40\n", "the score of 'cat' is '40'; give a number from 0 to 1"),
            ("a.json", '{"cat": true}', "the score of 'cat' is True; give a number from 0 to 1"),
            ("a.json", '{"cat": NaN}', "the score of 'cat' is nan"),
            ("a.json", "cat: 0.4", "is not JSON: "),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, tmp_path, name, text, said) -> None:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SamcliError) as error:
            read_class_scores(path)
        message = str(error.value)
        assert message.startswith(str(path))
        assert said in message
        assert "\n" not in message

    def test_no_file_and_no_text(self, tmp_path) -> None:
        with pytest.raises(SamcliError, match=r"a\.yaml cannot be read: No such file"):
            read_class_scores(tmp_path / "a.yaml")
        (tmp_path / "a.yaml").write_bytes(b"cat: \xff")
        with pytest.raises(SamcliError, match=r"a\.yaml is not UTF-8 text"):
            read_class_scores(tmp_path / "a.yaml")
