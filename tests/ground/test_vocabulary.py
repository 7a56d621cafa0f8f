"""The embedded detector's words: what is found as what, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samcli.errors import SamcliError, WeightsError
from samcli.ground.vocabulary import Vocabulary, read_vocabulary, write_vocabulary

WORDS = (
    "bus", "cat", "child", "dress", "glass", "knife", "man", "mouse", "person", "potato", "red bat",
    "remote control", "strawberry", "t-shirt", "wineglass",
)  # fmt: skip


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(WORDS, np.eye(len(WORDS), 4, dtype=np.int8) * 127)


@pytest.mark.parametrize(
    ("phrase", "word"),
    [
        ("cat", "cat"),
        ("A  Cat", "cat"),
        ("the cats", "cat"),
        ("some people", "person"),
        ("men", "man"),
        ("mice", "mouse"),
        ("children", "child"),
        ("knives", "knife"),
        ("buses", "bus"),
        ("dresses", "dress"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("strawberries", "strawberry"),
        ("potatoes", "potato"),
        ("remote-control", "remote control"),
        ("remote controls", "remote control"),
        ("t shirt", "t-shirt"),
        ("wine glass", "wineglass"),
    ],
)
def test_forms_of_a_word(vocabulary: Vocabulary, phrase: str, word: str) -> None:
    place = vocabulary.find(phrase)
    assert place is not None
    assert WORDS[place] == word


@pytest.mark.parametrize("phrase", ["", "a", "the", "red cat", "bu", "gla", "dogs", "Katze", "猫"])
def test_no_word_is_made_up(vocabulary: Vocabulary, phrase: str) -> None:
    assert vocabulary.find(phrase) is None


def test_an_unknown_word_is_told_with_what_is_near(vocabulary: Vocabulary) -> None:
    assert vocabulary.nearest("a red cat") == ["cat", "red bat"]
    assert vocabulary.nearest("strawbery") == ["strawberry"]
    with pytest.raises(SamcliError) as said:
        vocabulary.place("a red cat")
    assert str(said.value) == (
        "'a red cat' is not in the embedded vocabulary; nearest: cat, red bat; for any word: "
        "samcli models pull grounding-dino-tiny, and --detector grounding-dino-tiny"
    )
    with pytest.raises(SamcliError, match="nearest: none; for any word"):
        vocabulary.place("qwertz")


def test_unknown_words_are_told_together(vocabulary: Vocabulary) -> None:
    vocabulary.check(["a cat", "people"])
    with pytest.raises(SamcliError, match=r"^'dog' is not in the embedded vocabulary; nearest: "):
        vocabulary.check(["cat", "dog"])
    with pytest.raises(SamcliError) as said:
        vocabulary.check(["cat", "dog", "bus", "zebra"])
    assert str(said.value) == (
        "2 phrases are not in the embedded vocabulary: 'dog', 'zebra'; for any word: "
        "samcli models pull grounding-dino-tiny, and --detector grounding-dino-tiny"
    )
    with pytest.raises(SamcliError, match=r"^30 phrases are .*: 'q0', .*, 'q19', \.\.\.; for any word"):
        vocabulary.check([f"q{i}" for i in range(30)])


def test_a_file_holds_it(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    write_vocabulary(path, vocabulary)
    again = read_vocabulary(path)
    assert again.words == WORDS
    assert np.array_equal(again.vectors, vocabulary.vectors)
    assert again.vectors.dtype == np.int8


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all, but long enough to look"])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "words.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"words\.safetensors is missing or damaged .*; reinstall samcli"):
        read_vocabulary(path)
