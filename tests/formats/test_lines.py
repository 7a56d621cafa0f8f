"""JSON Lines of records, and of what predict prints."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samcli.formats.select import mask_of
from samcli.formats.table import Item, Unreadable
from samcli.formats.trees import read_lines
from samcli.masks import encode_rle
from samcli.records import ImageRecord


def a_mask(column: int, width: int = 6) -> dict:
    bits = np.zeros((4, width), bool)
    bits[1:3, column] = True
    return mask_of(encode_rle(bits), id=1).to_json()


def answer(image: str, *columns: int, **more: object) -> dict:
    return {"id": 1, "image": image, "masks": [a_mask(column) for column in columns], **more}


def read(*lines: object) -> list[Item | Unreadable]:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(read_lines((text + b"\n" for text in texts), "standard input"))


def test_neighbouring_answers_of_an_image_are_one_record():
    one, two, three = read(
        answer("a/b.jpg", 0, 1), answer("a/b.jpg", 2), answer("c.jpg", 3), answer("a/b.jpg", 4)
    )
    assert isinstance(one, Item)
    assert (str(one.name), one.record.file_name) == ("a/b", "a/b.jpg")
    assert (one.record.height, one.record.width, one.record.run) == (4, 6, None)
    assert [(m.id, m.bbox[0]) for m in one.record.annotations] == [(1, 0), (2, 1), (3, 2)]
    assert isinstance(two, Item)
    assert isinstance(three, Item)
    assert (two.record.file_name, three.record.file_name) == ("c.jpg", "a/b.jpg")


def test_records_and_answers_may_be_mixed():
    record = ImageRecord(None, None, 1, 6, 4, "z.png")
    names = [str(item.name) for item in read(answer("a.jpg", 1), record.to_json(), b"", answer("a.jpg", 1))]
    assert names == ["a", "z", "a"]


@pytest.mark.parametrize("path", ["/home/me/a.jpg", "../a.jpg", "b/../../a.jpg"])
def test_a_path_from_elsewhere_counts_by_its_name(path):
    (item,) = read(answer(path, 1))
    assert isinstance(item, Item)
    assert item.record.file_name == "a.jpg"


def test_lines_that_are_none():
    different = answer("a.jpg", 1)
    different["masks"].append(a_mask(1, width=7))
    found = read(b"{", [1], {"id": 1, "image": "x.jpg", "error": "gone"}, different, {})
    assert [item.reason for item in found if isinstance(item, Unreadable)] == [
        "line 1 of standard input: not JSON: Expecting property name enclosed in double quotes, column 2",
        "line 2 of standard input: not a JSON object",
        "line 3 of standard input: an earlier failure: gone",
        "answers before line 5 of standard input: a.jpg: masks differ in size",
        "line 5 of standard input: not a samcli record: 'annotations' is missing",
    ]
