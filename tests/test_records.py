"""Prompts and records: what they refuse, and that records survive the way through JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcli.errors import SamcliError
from samcli.masks import decode_rle, encode_rle, mask_bbox, rle_area
from samcli.records import Box, ImageRecord, InputFile, MaskRecord, Notes, Prompt, Run, Tag

HEIGHT, WIDTH = 5, 7
RUN = Run("automask", "0.1.0", "tiny", "ab" * 32, {"points_per_side": 32, "threshold": 0.5}, "cd" * 32)
INPUT = InputFile("sub/ä b.jpg", 123, "ef" * 32)

finite = st.floats(allow_nan=False, allow_infinity=False)
quads = st.tuples(finite, finite, finite, finite)
bits = st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH).map(
    lambda values: np.array(values).reshape(HEIGHT, WIDTH)
)
masks = st.builds(
    MaskRecord,
    segmentation=bits.map(encode_rle),
    bbox=quads,
    area=st.integers(0, HEIGHT * WIDTH),
    predicted_iou=finite,
    stability_score=finite,
    id=st.none() | st.integers(),
    point_coords=st.none() | st.lists(st.tuples(finite, finite)).map(tuple),
    crop_box=st.none() | quads,
    category_id=st.none() | st.integers(0),
    category=st.none() | st.text(),
    phrase=st.none() | st.text(),
    detector_score=st.none() | finite,
    score=st.none() | finite,
)
notes = st.builds(
    Notes,
    caption=st.none() | st.text(),
    tags=st.lists(st.builds(Tag, word=st.text(), score=finite), max_size=3).map(tuple),
    phash=st.none() | st.from_regex(r"\A[0-9a-f]{16}\Z"),
)
records = st.builds(
    ImageRecord,
    run=st.just(RUN),
    input=st.just(INPUT),
    image_id=st.integers(0, 2**52 - 1),
    width=st.just(WIDTH),
    height=st.just(HEIGHT),
    file_name=st.text(min_size=1),
    annotations=st.lists(masks, max_size=4).map(tuple),
    notes=notes,
)


def a_mask(**changes: object) -> MaskRecord:
    bits = np.zeros((HEIGHT, WIDTH), bool)
    bits[1:3, 2:6] = True
    fields = {
        "segmentation": encode_rle(bits),
        "bbox": mask_bbox(bits),
        "area": int(bits.sum()),
        "predicted_iou": 0.9,
        "stability_score": 0.95,
    }
    return MaskRecord(**{**fields, **changes})


def a_record(*masks: MaskRecord) -> ImageRecord:
    return ImageRecord(RUN, INPUT, 42, WIDTH, HEIGHT, "ä b.jpg", masks)


# The box convention


def test_one_pixel_mask_has_a_box_of_one_by_one():
    bits = np.zeros((9, 9), bool)
    bits[5, 3] = True
    assert mask_bbox(bits) == (3, 5, 1, 1)
    assert Box(3, 5, 4, 6).xywh == (3, 5, 1, 1)
    assert Box(3, 5, 4, 6).xyxy == (3, 5, 4, 6)
    assert rle_area(encode_rle(bits)) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 1, 5), "box 1,2,1,5 is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"),
        ((1, 5, 4, 2.5), "box 1,5,4,2.5 is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"),
        ((float("nan"), 2, 4, 5), "box nan,2,4,5 has a value that is not a finite number"),
        ((0, 0, float("inf"), 5), "box 0,0,inf,5 has a value that is not a finite number"),
    ],
)
def test_bad_boxes(values, message):
    with pytest.raises(SamcliError) as caught:
        Box(*values)
    assert str(caught.value) == message


# Prompts


def test_labels_default_to_foreground_and_everything_is_frozen():
    prompt = Prompt(points=[(1, 2), (3, 4)])
    assert prompt.points == ((1.0, 2.0), (3.0, 4.0))
    assert prompt.labels == (1, 1)
    with pytest.raises(AttributeError):
        prompt.points = ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the prompt is empty; give a point, a box or a mask"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 points but 2 labels; give one label per point"),
        (
            {"points": [(1, 2)], "labels": [2]},
            "label 2 is unknown; use 1 for foreground and 0 for background",
        ),
        ({"points": [(1, float("nan"))]}, "point 1,nan has a value that is not a finite number"),
        (
            {"mask": np.full((4, 4), np.nan, np.float32)},
            "the mask prompt must be a two-dimensional array of finite logits",
        ),
        (
            {"mask": np.zeros((1, 4, 4), np.float32)},
            "the mask prompt must be a two-dimensional array of finite logits",
        ),
    ],
)
def test_bad_prompts(fields, message):
    with pytest.raises(SamcliError) as caught:
        Prompt(**fields)
    assert str(caught.value) == message


def test_prompts_outside_the_image():
    size = (10, 20)
    Prompt(points=[(0, 0), (20, 10)], box=Box(-5, -5, 1, 1)).check_inside(size)
    for prompt, message in [
        (Prompt(points=[(20.5, 3)]), "point 20.5,3 lies outside the image, which is 20x10 pixels"),
        (Prompt(points=[(3, -1)]), "point 3,-1 lies outside the image, which is 20x10 pixels"),
        (Prompt(box=Box(20, 2, 30, 8)), "box 20,2,30,8 lies outside the image, which is 20x10 pixels"),
        (Prompt(box=Box(2, -9, 8, 0)), "box 2,-9,8,0 lies outside the image, which is 20x10 pixels"),
    ]:
        with pytest.raises(SamcliError) as caught:
            prompt.check_inside(size)
        assert str(caught.value) == message


# Records as JSON


def test_keys_stand_in_the_contracts_order():
    mask = a_mask(
        id=0, point_coords=((3.5, 2.5),), crop_box=(0, 0, WIDTH, HEIGHT), category_id=0, category="cat",
        phrase="a cat", detector_score=0.5, score=0.5,
    )  # fmt: skip
    data = a_record(mask).to_json()
    assert list(data) == ["samcli", "image", "annotations"]
    assert list(data["samcli"]) == [
        "schema", "command", "version", "model", "weights_sha256", "config", "config_hash", "input",
    ]  # fmt: skip
    assert list(data["samcli"]["input"]) == ["path", "bytes", "sha256"]
    assert list(data["image"]) == ["image_id", "width", "height", "file_name"]
    assert list(data["annotations"][0]) == [
        "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box",
        "category_id", "category", "phrase", "detector_score", "score",
    ]  # fmt: skip
    assert list(data["annotations"][0]["segmentation"]) == ["size", "counts"]
    assert data["samcli"]["schema"] == 1


def test_notes_follow_what_an_image_is():
    notes = Notes("a cat", (Tag("cat", 0.5),), "b15fe6465121175e")
    data = ImageRecord(RUN, INPUT, 42, WIDTH, HEIGHT, "ä b.jpg", notes=notes).to_json()
    assert list(data["image"]) == [
        "image_id", "width", "height", "file_name", "caption", "tags", "phash",
    ]  # fmt: skip
    assert data["image"]["tags"] == [{"word": "cat", "score": 0.5}]


def test_values_that_are_none_are_left_out_and_zeros_are_not():
    assert list(a_mask().to_json()) == ["segmentation", "bbox", "area", "predicted_iou", "stability_score"]
    assert a_mask(id=0, category_id=0, score=0.0).to_json()["score"] == 0.0


@given(records)
def test_records_survive_json(record):
    text = json.dumps(record.to_json(), allow_nan=False)
    assert ImageRecord.from_json(json.loads(text)) == record


@given(bits)
def test_masks_survive_rle(mask):
    rle = encode_rle(mask)
    assert (decode_rle(json.loads(json.dumps(rle))) == mask).all()
    assert rle_area(rle) == mask.sum()
    x, y, width, height = mask_bbox(mask)
    assert mask[y : y + height, x : x + width].sum() == mask.sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("annotations"), "not a samcli record: 'annotations' is missing"),
        (lambda d: d["samcli"].pop("schema"), "not a samcli record: 'schema' is missing"),
        (
            lambda d: d["samcli"].update(schema=2),
            "record schema 2 is unknown; this samcli reads schema 1",
        ),
        (lambda d: d["annotations"][0].pop("bbox"), "a mask lacks bbox"),
        (lambda d: d["annotations"][0].update(colour=3), "a mask has unknown keys: colour"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "a mask has a malformed bbox"),
        (lambda d: d["annotations"][0].update(area="big"), "a mask has a malformed area"),
        (lambda d: d["annotations"][0].update(score=True), "a mask has a malformed score"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2]]), "a mask has a malformed segmentation"),
        (lambda d: d["image"].update(width=8), "a mask has the size [5, 7], unlike its image"),
        (lambda d: d["annotations"].append(3), "a mask is not a JSON object"),
        (lambda d: d["image"].update(caption=3), "not a samcli record: the caption is no text: 3"),
        (
            lambda d: d["image"].update(phash="b0"),
            "not a samcli record: phash is not 16 hexadecimal digits: 'b0'",
        ),
        (
            lambda d: d["image"].update(tags=[{"word": "cat", "score": "high"}]),
            "not a samcli record: a tag is no word with a score",
        ),
    ],
)
def test_bad_records(change, message):
    data = json.loads(json.dumps(a_record(a_mask()).to_json()))
    change(data)
    with pytest.raises(SamcliError) as caught:
        ImageRecord.from_json(data)
    assert str(caught.value) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    (), ("samcli",), ("samcli", "input"), ("samcli", "schema"), ("image",), ("image", "width"),
    ("image", "tags"), ("image", "phash"),
    ("annotations",), ("annotations", 0), *(("annotations", 0, key) for key in a_mask(id=1).to_json()),
    ("annotations", 0, "segmentation", "size"), ("annotations", 0, "segmentation", "counts"),
]  # fmt: skip


@given(st.sampled_from(PLACES), json_values)
def test_any_json_is_a_record_or_one_clear_line(place, value):
    data = json.loads(json.dumps(a_record(a_mask(id=1)).to_json()))
    if place:
        inner = data
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    else:
        data = value
    try:
        record = ImageRecord.from_json(data)
    except SamcliError as error:
        line = str(error)
    else:
        line = json.dumps(record.to_json())
    assert "\n" not in line


def test_records_import_no_torch():
    code = "import sys, samcli.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masks_of_other_programs_have_no_provenance():
    data = ImageRecord(None, None, 3, 4, 2, "a.jpg").to_json()
    assert list(data) == ["image", "annotations"]
    mask = {"segmentation": encode_rle(np.ones((2, 4), bool)), "bbox": [0, 0, 4, 2], "area": 8}
    record = ImageRecord.from_json({**data, "annotations": [mask]})
    assert (record.run, record.input) == (None, None)
    assert record.annotations[0].to_json() == mask
    assert record.to_json() == {**data, "annotations": [mask]}
