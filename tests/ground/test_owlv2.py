"""OWLv2 with random weights, beside transformers' own road."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from samcli.errors import SamcliError, StopError
from samcli.ground.detector import Thresholds
from samcli.ground.load import detector_spec, load_detector
from samcli.ground.owlv2 import Owlv2, query, squared

Folders = Callable[[str], Path]

ALL = Thresholds(0.0, 0.0)
PHRASES = ("cat", "a red car", "Blue thing")
QUERIES = ["a photo of a cat", "a photo of a red car", "a photo of a blue thing"]


@pytest.fixture(scope="module")
def folder(random_detector: Folders) -> Path:
    return random_detector("owlv2")


@pytest.fixture(scope="module")
def detector(folder: Path) -> Owlv2:
    loaded = load_detector(str(folder), device="cpu")
    assert isinstance(loaded, Owlv2)
    return loaded


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(96, 96), (60, 90), (300, 200), (200, 777)])
def test_boxes_scores_and_phrases_are_those_of_transformers(
    folder: Path, detector: Owlv2, size: tuple[int, int]
) -> None:
    from transformers import CLIPTokenizer, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    processor = Owlv2Processor(
        Owlv2ImageProcessorPil.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    )
    network = Owlv2ForObjectDetection.from_pretrained(folder).eval()
    image = picture(*size)
    inputs = processor(images=image, text=[QUERIES], return_tensors="pt")
    with torch.no_grad():
        outputs = network(**inputs)
    result = processor.post_process_grounded_object_detection(
        outputs, threshold=0.1, target_sizes=[image.shape[:2]]
    )[0]
    boxes = result["boxes"].numpy().clip(0, (size[1], size[0]) * 2)
    full = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    scores = result["scores"].numpy()[full]
    order = np.argsort(-scores, kind="stable")
    (ours,) = detector.detect([image], PHRASES, Thresholds(0.1, 0.0))
    assert len(ours) > 5
    np.testing.assert_allclose(ours.scores, scores[order], atol=1e-5)
    np.testing.assert_allclose(ours.boxes, boxes[full][order], atol=1e-2)
    assert (ours.phrases == result["labels"].numpy()[full][order]).all()
    if size == (96, 96):
        assert set(ours.phrases.tolist()) == {0, 1, 2}


def test_boxes_below_or_right_of_the_image_are_dropped(detector: Owlv2) -> None:
    """The network sees a square; in a wide image most of it is padding."""
    (square,) = detector.detect([picture(200, 200)], PHRASES, ALL)
    (wide,) = detector.detect([picture(20, 200)], PHRASES, ALL)
    assert len(wide) < len(square) == 36
    assert (wide.boxes[:, 2:] <= (200, 20)).all()
    assert (wide.boxes[:, 2:] > wide.boxes[:, :2]).all()


def test_images_of_a_call_do_not_know_each_other(detector: Owlv2, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [picture(90, 130), picture(120, 80, 1), picture(300, 300, 2)]
    alone = [detector.detect([image], PHRASES, ALL)[0] for image in images]
    monkeypatch.setattr(detector, "images_per_call", 2)
    for one, other in zip(alone, detector.detect(images, PHRASES, ALL), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
        assert (one.phrases == other.phrases).all()
    assert detector.detect([], PHRASES, ALL) == []


def test_thresholds_only_leave_out(detector: Owlv2) -> None:
    image = picture(90, 130)
    (every,) = detector.detect([image], PHRASES, ALL)
    middle = float(every.scores[len(every) // 2])
    (some,) = detector.detect([image], PHRASES, Thresholds(middle, 0.99))
    assert 0 < len(some) == int((every.scores > middle).sum())
    (none,) = detector.detect([image], PHRASES, Thresholds(1.0, 0.0))
    assert len(none) == 0


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", "bf16"),
        pytest.param(
            "cuda",
            "fp16",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ),
    ],
)
def test_half_precision(folder: Path, detector: Owlv2, device: str, dtype: str) -> None:
    half = load_detector(str(folder), device=device, dtype=dtype)
    (found,), (exact,) = (one.detect([picture(96, 96)], PHRASES, ALL) for one in (half, detector))
    assert found.scores[:5] == pytest.approx(exact.scores[:5], abs=0.03)


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("cat", "a photo of a cat"),
        ("A  Cat", "a photo of a cat"),
        ("an owl", "a photo of an owl"),
        ("the red car", "a photo of the red car"),
        ("another", "a photo of a another"),
    ],
)
def test_what_is_asked(phrase: str, text: str) -> None:
    assert query(phrase) == text


def test_a_phrase_that_is_too_long(detector: Owlv2) -> None:
    with pytest.raises(SamcliError) as caught:
        detector.detect([picture(20, 20)], ["cat", "qqqqqqqqqqqq"], ALL)
    assert str(caught.value) == (
        "owlv2 cannot look for 'qqqqqqqqqqqq': it has 18 tokens with \"a photo of\", at most 16 fit"
    )


def test_a_token_of_the_vocabulary_in_a_phrase_is_letters(detector: Owlv2) -> None:
    with pytest.raises(SamcliError, match=r"'<\|endoftext\|>': it has 18 tokens with"):
        detector.detect([picture(20, 20)], ["<|endoftext|>"], ALL)


def test_what_it_knows(detector: Owlv2) -> None:
    for phrase, known in (("cat", True), ("猫", True), ("qqqqqqqqqqqq", False), (" ", False), ("", False)):
        assert detector.knows(phrase) == known
        if known:
            detector.detect([picture(20, 20)], [phrase], ALL)
        else:
            with pytest.raises(StopError):
                detector.detect([picture(20, 20)], [phrase], ALL)


def test_no_phrases(detector: Owlv2) -> None:
    (found,) = detector.detect([picture(20, 20)], [], ALL)
    assert (len(found), found.boxes.shape) == (0, (0, 4))
    with pytest.raises(SamcliError, match=r"^owlv2 cannot look for a phrase without words$"):
        detector.detect([picture(20, 20)], ["cat", " "], ALL)


def test_spec(folder: Path) -> None:
    spec = detector_spec(str(folder))
    assert (spec.kind, spec.box, spec.text) == ("owlv2", 0.1, None)


def test_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != "merges.txt":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SamcliError) as caught:
        load_detector(str(tmp_path), device="cpu")
    assert str(caught.value) == (
        f"{tmp_path} has no tokenizer: tokenizer.json or vocab.json and merges.txt; "
        "save it there with save_pretrained"
    )


class TestSquare:
    @pytest.mark.parametrize("size", [(96, 96), (50, 70), (300, 200), (97, 95), (1000, 60), (1, 1), (2, 1)])
    @pytest.mark.usefixtures("folder")  # skips without transformers
    def test_as_transformers_resizes(self, size: tuple[int, int]) -> None:
        from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

        processor = Owlv2ImageProcessorPil(size={"height": 96, "width": 96}, do_normalize=False)
        image = picture(*size)
        expected = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        np.testing.assert_allclose(squared(image, 96).transpose(2, 0, 1), expected, atol=2e-6)

    def test_black_below_and_right(self) -> None:
        white = np.full((40, 80, 3), 255, np.uint8)
        square = squared(white, 80)
        assert (square[:40] == 1).all()
        assert (square[40:] == 0).all()
        assert (squared(white.swapaxes(0, 1).copy(), 80)[:, 40:] == 0).all()
