"""What the embedded tagger may say, chosen from categories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samcli.errors import SamcliError
from samcli.ground.names import Name
from samcli.train.names import LEAST_THINGS, choose_names
from samcli.train.words import Noun

NOUNS = {"shoe": [Noun(("footwear", "artifact"), 3, 6)], "cat": [Noun(("feline", "whole"), 3, 5)]}


def pack(folder: Path, counts: dict[str, int], **more: object) -> Path:
    folder.mkdir()
    categories = [{"id": i, "name": name, **more} for i, name in enumerate(counts)]
    annotations = [{"category_id": i} for i, count in enumerate(counts.values()) for _ in range(count)]
    (folder / "annotations.json").write_text(
        json.dumps({"categories": categories, "annotations": annotations})
    )
    return folder


def test_names_of_enough_things_with_their_kinds(tmp_path: Path) -> None:
    assert LEAST_THINGS == 3
    some = pack(tmp_path / "a", {"cat": 2, "top": 9, "salient object": 9, "dog": 2})
    other = pack(tmp_path / "b", {"cat": 1, "zebra": 3}, synonyms=["Puss"], hypernyms=["feline", "animal"])
    assert choose_names([some, other], NOUNS) == [
        Name("cat", ("puss",), ("animal", "feline")),
        Name("zebra", ("puss",), ("animal", "feline")),
    ]


def test_a_plural_gives_way_to_the_singular_among_its_names(tmp_path: Path) -> None:
    """IN_WORDNET has shoes as a shoe."""
    assert choose_names([pack(tmp_path / "a", {"shoes": 3})], NOUNS) == [
        Name("shoe", ("shoes",), ("footwear",))
    ]


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(SamcliError, match=r"annotations\.json does not exist; training data is a folder"):
        choose_names([tmp_path], NOUNS)
