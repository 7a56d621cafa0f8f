"""The embedded detector."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from samcli import images, weights
from samcli.errors import SamcliError, WeightsError
from samcli.ground.detector import Detected, Thresholds
from samcli.ground.load import check_phrases, detector_spec, load_detector
from samcli.ground.tiny import SIDE, TinyDetector, _parts, _whole
from samcli.weights import files

EXAMPLES = Path(__file__).parents[2] / "examples"
ANY = Thresholds(0.0)


@pytest.fixture(scope="module")
def tiny() -> TinyDetector:
    detector = load_detector("tiny", device="cpu")
    assert isinstance(detector, TinyDetector)
    return detector


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return images.load(EXAMPLES / "animals" / "cat.jpg")


def same(one: Detected, other: Detected) -> bool:
    return (
        np.array_equal(one.phrases, other.phrases)
        and np.allclose(one.boxes, other.boxes, atol=0.5)
        and np.allclose(one.scores, other.scores, atol=1e-4)
    )


def test_it_finds_the_cat(tiny: TinyDetector, cat: np.ndarray) -> None:
    (found,) = tiny.detect([cat], ["a cat", "bus"], tiny.thresholds)
    assert found.phrases.tolist()[:1] == [0]
    x0, y0, x1, y1 = found.boxes[0]
    height, width = cat.shape[:2]
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert (x1 - x0) * (y1 - y0) > 0.2 * height * width
    assert 1 not in found.phrases  # there is no bus


def test_words_for_it_score_alike_and_other_words_do_not(tiny: TinyDetector, cat: np.ndarray) -> None:
    def best(phrase: str) -> float:
        (found,) = tiny.detect([cat], [phrase], ANY)
        return float(found.scores[0]) if len(found) else 0.0

    assert min(best("cat"), best("house cat"), best("animal")) > max(best("pizza"), best("bus"), best("car"))


def test_the_contract(tiny: TinyDetector, cat: np.ndarray) -> None:
    (found,) = tiny.detect([cat], ["cat", "person", "cats"], ANY)
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert set(found.phrases.tolist()) <= {0, 1, 2}
    height, width = cat.shape[:2]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (width, height, width, height)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    kinds = [found[found.phrases == place] for place in (0, 2)]
    assert np.allclose(kinds[0].boxes, kinds[1].boxes)  # one word, asked for twice


def test_the_threshold_is_exclusive(tiny: TinyDetector, cat: np.ndarray) -> None:
    (found,) = tiny.detect([cat], ["cat"], ANY)
    (fewer,) = tiny.detect([cat], ["cat"], Thresholds(float(found.scores[0])))
    assert len(fewer) == 0


def test_several_images_are_as_each_alone(tiny: TinyDetector, cat: np.ndarray) -> None:
    other = images.load(EXAMPLES / "coffee.jpg")
    phrases = ["cat", "cup", "table", "dog", "plate", "spoon", "person", "chair", "book"]
    # more than are decoded at once
    together = tiny.detect([cat, other], phrases, Thresholds(0.2))
    alone = [tiny.detect([image], phrases, Thresholds(0.2))[0] for image in (cat, other)]
    assert all(same(one, two) for one, two in zip(together, alone, strict=True))
    one_word = tiny.detect([other], ["cup"], Thresholds(0.2))[0]
    assert np.allclose(one_word.boxes, together[1][together[1].phrases == 1].boxes, atol=0.5)


def test_nothing_asked_and_little_to_see(tiny: TinyDetector, cat: np.ndarray) -> None:
    (nothing,) = tiny.detect([cat], [], ANY)
    assert (len(nothing), nothing.boxes.shape) == (0, (0, 4))
    (narrow,) = tiny.detect([np.zeros((1, 700, 3), np.uint8)], ["cat"], ANY)
    assert (narrow.boxes[:, 3] <= 1).all()


def test_bf16_agrees_roughly(tiny: TinyDetector, cat: np.ndarray) -> None:
    half = load_detector("tiny", device="cpu", dtype="bf16")
    (one,), (two,) = (d.detect([cat], ["cat"], ANY) for d in (tiny, half))
    assert abs(one.scores[0] - two.scores[0]) < 0.1


def test_a_word_outside_is_refused(tiny: TinyDetector, cat: np.ndarray) -> None:
    with pytest.raises(SamcliError, match=r"^'a red cat' is not in the embedded vocabulary; nearest: cat"):
        tiny.detect([cat], ["cat", "a red cat"], ANY)
    with pytest.raises(SamcliError, match="'blorb' is not in the embedded vocabulary"):
        check_phrases("tiny", ["cat", "blorb"])
    check_phrases("tiny", ["cat", "a dog", "people", "remote controls", "t-shirt"])
    check_phrases("grounding-dino-tiny", ["blorb"])


def test_what_it_knows(tiny: TinyDetector) -> None:
    known = {"cat": True, "a cat": True, "Cats": True, "a red cat": False, "猫": False, "": False}
    assert {phrase: tiny.knows(phrase) for phrase in known} == known


def test_phrases_are_checked_without_torch() -> None:
    code = (
        "import sys; from samcli.ground.load import check_phrases; check_phrases('tiny', ['cat']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_vocabulary(tiny: TinyDetector) -> None:
    words = tiny.vocabulary.words
    assert len(words) > 15_000
    assert list(words) == sorted(set(words))
    assert tiny.vocabulary.vectors.shape == (len(words), 64)
    cat, dog, truck = (tiny.vocabulary.vectors[words.index(w)].astype(int) for w in ("cat", "dog", "truck"))
    assert cat @ dog > cat @ truck


def test_it_is_small_and_part_of_samcli() -> None:
    spec = detector_spec("tiny")
    place = weights.installed(spec).path
    assert spec.packaged
    assert sum((place / name).stat().st_size for name in spec.files) <= 10_000_000


def test_damaged_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = detector_spec("tiny")
    for name in ("tiny.safetensors", "salient.safetensors", *spec.files):
        (tmp_path / name).write_bytes((files.DATA / name).read_bytes())
    monkeypatch.setattr(files, "DATA", tmp_path)
    (tmp_path / spec.files[0]).write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match=r"detector\.safetensors is damaged.*; reinstall samcli"):
        load_detector("tiny", device="cpu")
    (tmp_path / spec.files[0]).unlink()
    with pytest.raises(WeightsError, match="tiny is missing from this installation; reinstall samcli"):
        load_detector("tiny", device="cpu")


class TestParts:
    """Of a mask of 24 x 20 cells, which are 96 x 80 pixels."""

    @pytest.fixture
    def logits(self) -> torch.Tensor:
        return torch.full((24, 24), -8.0)

    def test_each_thing_is_a_box(self, logits: torch.Tensor) -> None:
        logits[2:8, 4:10] = 8.0
        logits[12:18, 14:20] = 2.0
        boxes, scores = _parts(logits, (96, 80), 0.5)
        assert np.allclose(boxes, [[16, 8, 40, 32], [56, 48, 80, 72]], atol=2)
        assert scores[0] == 0.5  # the surest part has the mask's own
        assert 0.3 < scores[1] < 0.5

    def test_crumbs_and_the_padding_are_none(self, logits: torch.Tensor) -> None:
        logits[2:12, 4:14] = 8.0
        logits[20, 2] = 8.0
        logits[14:20, 21:] = 8.0  # beyond 80 pixels
        boxes, scores = _parts(logits, (96, 80), 0.5)
        assert np.allclose(boxes, [[16, 8, 56, 48]], atol=2)
        assert scores.tolist() == [0.5]

    def test_nothing(self, logits: torch.Tensor) -> None:
        boxes, scores = _parts(logits, (96, 80), 0.5)
        assert (boxes.shape, scores.shape) == ((0, 4), (0,))

    def test_what_touches_is_one(self, logits: torch.Tensor) -> None:
        logits[4:10, 4:10] = logits[4:10, 10:16] = 8.0
        boxes, _ = _parts(logits, (96, 80), 0.5)
        assert np.allclose(boxes, [[16, 16, 64, 40]], atol=2)


def test_clicks_tell_things_of_a_word_apart(
    tiny: TinyDetector, cat: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four cats: the mask of all runs them together."""
    monkeypatch.setattr(import_module("samcli.ground.tiny"), "PIECE", 1.0)
    tiles = np.concatenate([np.concatenate([cat, cat[:, ::-1]], 1)] * 2, 0)
    (found,) = tiny.detect([tiles], ["cat"], Thresholds(0.05))
    height, width = tiles.shape[:2]
    small = found.boxes[(found.boxes[:, 2:] - found.boxes[:, :2]).prod(1) < 0.4 * height * width]
    middles = (small[:, :2] + small[:, 2:]) / 2
    assert len({(bool(x > width / 2), bool(y > height / 2)) for x, y in middles}) == 4


def test_pieces_of_a_better_box_go() -> None:
    whole, piece, half_out = [10, 10, 60, 60], [20, 20, 40, 40], [40, 40, 90, 60]
    assert _whole(np.array([whole, piece, half_out], float)).tolist() == [True, False, True]
    assert _whole(np.array([piece, whole], float)).tolist() == [True, True]  # the better one stays
    assert _whole(np.zeros((0, 4))).tolist() == []


def test_the_input_is_the_models(tiny: TinyDetector, cat: np.ndarray) -> None:
    given = tiny._input(cat)
    assert given.shape == (1, 3, SIDE, SIDE)
    assert not given[..., 256:, :].any()  # 451 x 300 pixels
    assert torch.isfinite(given).all()
