"""The page: what is in the file, that nothing in it can break out, and masks that stay when they shrink."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samcli.errors import SamcliError
from samcli.masks import decode_rle, encode_rle
from samcli.records import MaskRecord
from samcli.viz.colors import mask_colors
from samcli.viz.gallery import MARK, Gallery, Shown, show, shrunk, side_for, small_rle

PIXELS = np.full((60, 90, 3), (200, 90, 40), np.uint8)


def mask(bits: np.ndarray, number: int = 1, **values: Any) -> MaskRecord:
    given = {"predicted_iou": 0.9, "stability_score": 0.8, "id": number, **values}
    return MaskRecord(encode_rle(bits), (0, 0, 1, 1), int(bits.sum()), **given)


def square(x: int, y: int, side: int) -> np.ndarray:
    bits = np.zeros((60, 90), bool)
    bits[y : y + side, x : x + side] = True
    return bits


def page_of(*shown: Shown, title: str = "out") -> str:
    with tempfile.TemporaryFile() as spool:
        gallery = Gallery(title, spool)
        for one in shown:
            gallery.add(one)
        return b"".join(gallery.pieces()).decode()


def index_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="index">(.*?)</script>', page, re.DOTALL)
    assert match
    index: dict[str, Any] = json.loads(match[1])
    kinds = {
        "id": "<i4", "area": "<u4", "color": "<u4", "label": "<i4", "score": "<i2", "iou": "<i2",
        "stability": "<i2", "detector": "<i2",
    }  # fmt: skip
    index["columns"] = {
        name: np.frombuffer(base64.b64decode(text), kinds[name]).tolist()
        for name, text in index["columns"].items()
    }
    return index


def block_of(page: str, number: int) -> tuple[bytes, list[str]]:
    match = re.search(rf'<script type="text/plain" id="i{number}">(.*?)\n(.*?)</script>', page)
    assert match
    return base64.b64decode(match[1]), match[2].split()


def test_what_is_in_the_page():
    masks = [
        mask(square(5, 5, 20), 1, predicted_iou=0.91239, category="cat"),
        mask(square(40, 20, 30), 2, score=0.57, detector_score=0.25),
        mask(square(0, 0, 1), 3, predicted_iou=-0.01, phrase="dog"),
    ]
    page = page_of(
        show("a/b.jpg", masks, (60, 90), PIXELS, 45), Shown("c.jpg", "failed", problem="c.jpg is empty")
    )
    assert page.encode().startswith(MARK)
    index = index_of(page)
    assert index["title"] == "out"
    assert index["images"] == [
        ["a/b.jpg", 90, 60, 45, 30, "photo", 3],
        ["c.jpg", 0, 0, 0, 0, "failed", 0, "c.jpg is empty"],
    ]
    columns = index["columns"]
    assert columns["id"] == [1, 2, 3]
    assert columns["area"] == [400, 900, 1]
    assert columns["iou"] == [9123, 9000, -100], "rounded down, so that thresholds stay exact"
    assert columns["score"] == [9123, 5700, -100]
    assert columns["detector"] == [-(2**15), 2500, -(2**15)]
    assert columns["label"] == [0, -1, 1]
    assert [label for label, _ in index["labels"]] == ["cat", "dog"]
    colors = [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in mask_colors(masks)]
    assert columns["color"] == colors
    assert [color for _, color in index["labels"]] == [colors[0], colors[2]]
    photo, runs = block_of(page, 0)
    assert Image.open(io.BytesIO(photo)).size == (45, 30)
    small = [decode_rle({"size": [30, 45], "counts": counts}) for counts in runs]
    assert small[1].sum() == 15 * 15
    assert small[1][10:25, 20:35].all()
    assert small[2].sum() == 1
    assert 'id="i1"' not in page, "a failure has no picture"


def test_without_a_photo_and_with_masks_drawn_in():
    page = page_of(
        show("a.jpg", [mask(square(5, 5, 20))], (60, 90), None, 45),
        show("b.jpg", [mask(square(5, 5, 20))], (60, 90), PIXELS, 1000, drawn=True),
    )
    assert [image[3:6] for image in index_of(page)["images"]] == [[45, 30, "bare"], [90, 60, "drawn"]]
    assert block_of(page, 0)[0] == b""


HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> \u2028 \udcff &amp; \" '"


def test_nothing_breaks_out_of_the_page():
    shown = show(HOSTILE, [mask(square(5, 5, 20), category=HOSTILE)], (60, 90), PIXELS, 45)
    page = page_of(shown, Shown(HOSTILE, "failed", problem=HOSTILE), title=HOSTILE)
    index = index_of(page)
    assert (
        index["title"] == index["images"][0][0] == index["images"][1][7] == index["labels"][0][0] == HOSTILE
    )
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert page.count("<!--") == 1


def test_run_lengths_are_written_anew():
    """A record's own text may hold anything that its decoder lets pass."""
    rle = encode_rle(square(5, 5, 20))
    strange = MaskRecord({**rle, "counts": rle["counts"] + "</script>"}, (0, 0, 1, 1), 400, 0.9, 0.8, 1)
    try:
        page = page_of(show("a.jpg", [strange], (60, 90), PIXELS, 90))
    except SamcliError:
        return
    assert page.count("</script>") == 3


def test_the_policy_allows_this_program_and_nothing_else():
    page = page_of()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r"https?://|\bsrc=|\bon\w+=\"", page)


def test_the_same_records_give_the_same_bytes():
    shown = show("a.jpg", [mask(square(5, 5, 20))], (60, 90), PIXELS, 45)
    assert page_of(shown) == page_of(shown)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0.57, 5700), (0.29, 2900), (0.8499999, 8499), (99.0, 2**15 - 1), (-99.0, -(2**15) + 1)],
)
def test_scores_are_rounded_down_and_kept_in_bounds(value, kept):
    page = page_of(show("a.jpg", [mask(square(5, 5, 20), predicted_iou=value)], (60, 90), PIXELS, 45))
    assert index_of(page)["columns"]["score"] == [kept]


@pytest.mark.parametrize(("count", "side"), [(0, 1024), (100, 1024), (101, 640), (2000, 360), (50_000, 256)])
def test_many_images_get_smaller_pictures(count, side):
    assert side_for(count) == side


@pytest.mark.parametrize(
    ("size", "side", "small"),
    [((60, 90), 45, (30, 45)), ((60, 90), 200, (60, 90)), ((1, 9000), 90, (1, 90)), ((9000, 1), 90, (90, 1))],
)
def test_shrunk(size, side, small):
    assert shrunk(size, side) == small


def test_thin_and_small_masks_stay():
    wire = np.zeros((1000, 1500), bool)
    wire[400, :] = True
    small = decode_rle(small_rle(encode_rle(wire), (100, 150)))
    assert small.sum() == 150
    assert small[40].all()
    dot = np.zeros((1000, 1500), bool)
    dot[777, 1111] = True
    small = decode_rle(small_rle(encode_rle(dot), (10, 15)))
    assert np.argwhere(small).tolist() == [[7, 11]]
    assert decode_rle(small_rle(encode_rle(dot), (1, 1))).all()
    assert not decode_rle(small_rle(encode_rle(np.zeros((10, 10), bool)), (5, 5))).any()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_smaller_mask_is_what_it_covers_half(data):
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    size = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    bits = generator.random((height, width)) < data.draw(st.sampled_from([0.02, 0.3, 0.9]))
    cover = np.zeros(size)
    for y in range(height * size[0]):  # of a grid that both divide
        for_rows = cover[y // height]
        row = np.repeat(bits[y // size[0]], size[1]).reshape(size[1], width).mean(axis=1)
        for_rows += row / height
    expected = cover >= min(0.5, cover.max() / 2) - 1e-6 if bits.any() else np.zeros(size, bool)
    close = np.abs(cover - min(0.5, cover.max() / 2)) < 1e-5
    small = decode_rle(small_rle(encode_rle(bits), size))
    assert ((small == expected) | close).all()
    assert small.any() == bits.any()
