"""Boxes of detectors as records of numbers: clipping, streams in small pieces, memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcli.formats import json_stream
from samcli.formats.boxes import Detection, Missing, read_boxes
from samcli.formats.json_stream import JsonStream


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((3, 5, 1, 1), (3, 5, 4, 6)),
        ((-2, -2, 4, 3), (0, 0, 2, 1)),
        ((8, 4, 5, 5), (8, 4, 10, 6)),
        ((-100, -100, 1000, 1000), (0, 0, 10, 6)),
        ((10, 0, 2, 2), None),
        ((0, 6, 2, 2), None),
        ((-2, 0, 2, 2), None),
        ((9.99, 5.99, 1, 1), (9.99, 5.99, 10, 6)),
    ],
)
def test_a_box_within_an_image(numbers: Any, expected: Any) -> None:
    box = Detection(1, numbers).box((6, 10))
    assert (box and box.xyxy) == expected


def test_shares_are_of_width_and_height() -> None:
    box = Detection(1, (0.5, 0.25, 0.2, 0.5), shares=True).box((100, 400))
    assert box is not None
    assert box.xyxy == (160, 0, 240, 50)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(values), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 9))
def test_a_stream_in_pieces_reads_what_json_reads(
    expected: list[Any], indent: int | None, ascii_only: bool, piece: int
) -> None:
    text = json.dumps(expected, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_PIECE", piece)
        assert list(JsonStream(io.StringIO(text)).elements()) == expected
        stream = JsonStream(io.StringIO(f'{{"a": {text}, "b" : {text}}} '))
        assert [(key, stream.value()) for key in stream.members()] == [("a", expected), ("b", expected)]
        assert stream.peek() == ""


@pytest.mark.parametrize("text", ["", "[", "[1", "[1,", "[1 2]", "[1}", '{"a"', '{"a": 1', "{1 2}"])
def test_text_that_ends_early_is_no_json(text: str) -> None:
    stream = JsonStream(io.StringIO(text))
    with pytest.raises(json.JSONDecodeError):
        list(stream.elements() if text[:1] != "{" else (stream.value() for _ in stream.members()))


def test_boxes_keep_the_order_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    rows = [{"image_id": i % 7, "category_id": i, "bbox": [i, 1, 2, 3], "score": i / 100} for i in range(50)]
    path.write_text(json.dumps(rows))
    boxes = read_boxes(path, min_score=0.1)
    assert boxes.match(PurePosixPath(f"{i}.jpg") for i in range(1, 9)) == Missing(6, 1, "0")
    assert boxes.images == 6
    found = list(boxes.of(PurePosixPath("3.jpg")))
    assert [box.id for box in found] == [11, 18, 25, 32, 39, 46]
    assert found[0] == Detection(11, (10.0, 1.0, 2.0, 3.0), False, 10, None, 0.1)
    assert list(boxes.of(PurePosixPath("8.jpg"))) == list(boxes.of(PurePosixPath("0.jpg"))) == []


def test_memory_is_bound_by_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    polygon = [[float(i) for i in range(200)]]  # of instance segmentation: read over
    with path.open("w") as file:
        for i in range(4000):
            row = {"image_id": i // 10, "category_id": 1, "bbox": [1.5, 2.5, 3, 4], "segmentation": polygon}
            file.write(f"{json.dumps(row)}\n")
    tracemalloc.start()
    boxes = read_boxes(path)
    boxes.match(PurePosixPath(f"{i}.jpg") for i in range(400))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 400_000
    assert peak < 8_000_000  # pieces of a megabyte, whatever the file's length
    assert boxes.images == 400
