"""The embedded tagger on pictures, and what it may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from samcli import images
from samcli.errors import SamcliError, WeightsError
from samcli.ground.load import load_tagger
from samcli.ground.names import Name, kinds_of, read_thing_names, write_thing_names
from samcli.ground.tagger import Limits, Tagger
from samcli.ground.vocabulary import read_vocabulary
from samcli.records import Tag

ROOT = Path(__file__).parents[2]
DATA = ROOT / "samcli" / "data"
NAMES = read_thing_names(DATA / "names.json")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return load_tagger("tiny", device="cpu")


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    return images.load(ROOT / "examples" / "coffee.jpg")


class TestNames:
    def test_every_name_is_in_the_vocabulary(self) -> None:
        read_vocabulary(DATA / "words.safetensors").check([name.word for name in NAMES])
        assert len(NAMES) > 300

    def test_each_once_and_sorted(self) -> None:
        words = [name.word for name in NAMES]
        assert words == sorted(set(words))

    def test_known_relations(self) -> None:
        at = {name.word: i for i, name in enumerate(NAMES)}
        kinds = kinds_of(NAMES)
        assert kinds[at["african elephant"], at["elephant"]]
        assert not kinds[at["elephant"], at["african elephant"]]
        assert not kinds[at["cat"], at["dog"]]
        assert not kinds.diagonal().any()

    def test_written_and_read_again(self, tmp_path: Path) -> None:
        names = (Name("cat", ("house cat",), ("animal", "猫")), Name("dog", (), ()))
        write_thing_names(tmp_path / "names.json", names)
        assert read_thing_names(tmp_path / "names.json") == names

    @pytest.mark.parametrize("text", [None, "", "{", "[1]", '[["a"]]'])
    def test_damaged(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "names.json").write_text(text)
        with pytest.raises(
            WeightsError, match=r"names\.json is missing or damaged \(.*\); reinstall samcli$"
        ):
            read_thing_names(tmp_path / "names.json")


def test_a_cup_is_a_cup(tagger: Tagger, coffee: np.ndarray) -> None:
    (tagged,) = tagger.tag([coffee])
    assert tagged.tags[0].word == "cup"
    assert tagged.caption is None
    assert 1 < len(tagged.tags) <= 5
    scores = [tag.score for tag in tagged.tags]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.3


def test_words_that_are_kinds_of_each_other_are_not_said_together(coffee: np.ndarray) -> None:
    (tagged,) = load_tagger("tiny", device="cpu", threshold=0, most=100).tag([coffee])
    at = {name.word: i for i, name in enumerate(NAMES)}
    kinds = kinds_of(NAMES)
    places = [at[tag.word] for tag in tagged.tags]
    assert len(places) > 3
    assert not kinds[np.ix_(places, places)].any()


def test_chosen_from_labels(coffee: np.ndarray) -> None:
    """All of them may be said, as they were given; the plural of a known word is known."""
    labels = ("zebra", "Cups", "a cup", "bus", "spoon")
    (tagged,) = load_tagger("tiny", device="cpu", labels=labels, threshold=0).tag([coffee])
    scores = {tag.word: tag.score for tag in tagged.tags}
    assert set(scores) == set(labels)
    assert scores["Cups"] == pytest.approx(scores["a cup"])
    assert scores["Cups"] > scores["zebra"]


def test_500_labels(coffee: np.ndarray) -> None:
    words = read_vocabulary(DATA / "words.safetensors").words
    labels = ["cup", *(word for word in words[::31] if word != "cup")][:500]
    (tagged,) = load_tagger("tiny", device="cpu", labels=labels).tag([coffee])
    assert 0 < len(tagged.tags) <= 5
    assert {tag.word for tag in tagged.tags} <= set(labels)


def test_labels_outside_the_vocabulary() -> None:
    with pytest.raises(
        SamcliError, match=r"^2 phrases are not in the embedded vocabulary: '猫', 'собака'; for"
    ):
        load_tagger("tiny", device="cpu", labels=["cat", "猫", "собака"])


def test_images_of_a_call_do_not_know_each_other(
    tagger: Tagger, coffee: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [coffee, coffee[:100, ::-1], np.zeros((30, 400, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)]
    alone = [tagger.tag([photo])[0] for photo in photos]
    monkeypatch.setattr(tagger, "images_per_call", 4)
    for one, other in zip(tagger.tag(photos), alone, strict=True):
        assert [tag.word for tag in one.tags] == [tag.word for tag in other.tags]
        assert [t.score for t in one.tags] == pytest.approx([t.score for t in other.tags], abs=1e-4)
    assert tagger.tag([]) == []


def test_half_precision(coffee: np.ndarray) -> None:
    (tagged,) = load_tagger("tiny", device="cpu", dtype="bf16").tag([coffee])
    assert tagged.tags[0].word == "cup"


def test_limits() -> None:
    tags = [Tag("a", 0.2), Tag("b", 0.5), Tag("c", 0.5), Tag("d", 0.3)]
    assert [tag.word for tag in Limits(0.3, 10)(tags)] == ["b", "c", "d"]
    assert [tag.word for tag in Limits(0, 2)(tags)] == ["b", "c"]


def test_a_fresh_install_needs_no_transformers() -> None:
    code = (
        "import sys\nsys.modules['transformers'] = sys.modules['textblob'] = None\n"
        "import numpy\nfrom samcli.ground.load import load_tagger\n"
        "print(load_tagger('tiny', device='cpu').tag([numpy.zeros((9, 9, 3), numpy.uint8)]) is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
