"""From words to masks, with the embedded model and a detector of colours."""

from __future__ import annotations

import numpy as np
import pytest
from colour_detector import ColourDetector, picture

import samcli
from samcli.annotate import GroundConfig, detect, ground, name_masks, segment
from samcli.errors import SamcliError
from samcli.ground.detector import Detected, Thresholds
from samcli.masks import decode_rle, encode_rle
from samcli.predictor import Predictor, load
from samcli.records import Box, MaskRecord, Prompt

RED, SMALL, BLUE = (20, 20, 80, 100), (120, 10, 150, 40), (100, 60, 180, 110)
PHRASES = ("red", "a blue", "green")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return picture((120, 200), [("red", RED), ("red", SMALL), ("blue", BLUE)])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load("tiny", device="cpu")


def boxes(found: Detected) -> list[tuple[int, ...]]:
    return [tuple(box) for box in found.boxes.astype(int).tolist()]


def iou(mask: MaskRecord, box: tuple[int, int, int, int]) -> float:
    bits, truth = decode_rle(mask.segmentation), np.zeros(mask.segmentation["size"], bool)
    x0, y0, x1, y1 = box
    truth[y0:y1, x0:x1] = True
    return float((bits & truth).sum() / (bits | truth).sum())


def test_words_become_masks_with_names(predictor: Predictor, image: np.ndarray) -> None:
    masks = ground(predictor, ColourDetector(), image, PHRASES)
    named = [(mask.id, mask.category_id, mask.category, mask.phrase) for mask in masks]
    assert named == [(1, 1, "red", "red"), (2, 2, "a blue", "a blue"), (3, 1, "red", "red")]
    scores = [mask.score for mask in masks]
    assert scores == sorted(scores, reverse=True) == [mask.detector_score for mask in masks]
    assert all(mask.predicted_iou and mask.stability_score for mask in masks)
    assert min(iou(mask, box) for mask, box in zip(masks, (RED, BLUE, SMALL), strict=True)) > 0.8


def test_masks_are_those_of_the_boxes(predictor: Predictor, image: np.ndarray) -> None:
    embedding = predictor.embed(image)
    masks = ground(predictor, ColourDetector(), image, PHRASES, embedding=embedding)
    prompts = [Prompt(box=Box(*box)) for box in (RED, BLUE, SMALL)]
    for mask, answer in zip(masks, predictor.predict(embedding, prompts, multimask=False), strict=True):
        assert mask.segmentation == encode_rle(answer.masks[0])
        assert mask.predicted_iou == float(answer.predicted_iou[0])


def test_all_boxes_go_through_one_call_of_the_decoder(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    decode = Predictor.decode

    def counted(self: Predictor, *args: object, **options: object) -> object:
        calls.append((len(args[1]), options))
        return decode(self, *args, **options)

    monkeypatch.setattr(Predictor, "decode", counted)
    assert len(ground(predictor, ColourDetector(), image, PHRASES)) == 3
    assert calls == [(3, {"multimask": False})]


def test_nothing_found_needs_no_embedding(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "embed", None)
    assert ground(predictor, ColourDetector(), image, ("green", "white")) == ()


def test_boxes_without_a_mask_are_dropped_and_ids_have_no_gaps(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = predictor.embed(image)
    (found,) = detect(ColourDetector(), [image], PHRASES)
    decode = Predictor.decode

    def nothing_for_the_first(self: Predictor, *args: object, **options: object) -> object:
        logits, scores = decode(self, *args, **options)
        logits[0] = -9
        return logits, scores

    whole = segment(predictor, embedding, found, PHRASES)
    monkeypatch.setattr(Predictor, "decode", nothing_for_the_first)
    masks = segment(predictor, embedding, found, PHRASES)
    assert [mask.id for mask in masks] == [1, 2]
    assert [mask.segmentation for mask in masks] == [mask.segmentation for mask in whole[1:]]


def test_an_embedding_of_another_image_is_refused(predictor: Predictor, image: np.ndarray) -> None:
    embedding = predictor.embed(image[:60])
    with pytest.raises(SamcliError, match="an image of 200x60 pixels, this one has 200x120"):
        ground(predictor, ColourDetector(), image, PHRASES, embedding=embedding)


def test_what_the_detector_does_not_know_is_said(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(SamcliError, match="'dog'"):
        ground(predictor, ColourDetector(), image, ("dog",))


def test_what_are_no_images_or_phrases_is_said(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(SamcliError, match=r"^phrases is the text 'red'; give a list of phrases$"):
        ground(predictor, ColourDetector(), image, "red")
    with pytest.raises(SamcliError, match=r"^an image array is \(120, 200, 3\) float64; give \(height"):
        ground(predictor, ColourDetector(), image / 255, PHRASES)
    with pytest.raises(SamcliError, match=r"^an image array is \(120, 200\) uint8; give \(height"):
        detect(ColourDetector(), [image[..., 0]], PHRASES)


# Detecting


def test_thresholds_are_the_detectors_unless_given(image: np.ndarray) -> None:
    found = detect(ColourDetector(), [image, image[:, :90]], PHRASES)
    assert [boxes(one) for one in found] == [[RED, BLUE, SMALL], [RED]]
    (few,) = detect(ColourDetector(), [image], PHRASES, GroundConfig(box_threshold=0.915))
    assert boxes(few) == [RED, BLUE]
    assert GroundConfig(box_threshold=0.5).thresholds(Thresholds(0.3, 0.2)) == Thresholds(0.5, 0.2)
    assert GroundConfig(text_threshold=0).resolve(Thresholds(0.3, 0.2)) == GroundConfig(0.3, 0.0)
    assert GroundConfig().resolve(Thresholds(0.3)) == GroundConfig(0.3)
    with pytest.raises(SamcliError, match=r"^text_threshold is for Grounding DINO; this detector has none"):
        GroundConfig(text_threshold=0.2).resolve(Thresholds(0.3))


def test_the_options_reach_the_merging(image: np.ndarray) -> None:
    twice = ("red", "a red")
    assert len(detect(ColourDetector(), [image], twice)[0]) == 4
    assert len(detect(ColourDetector(), [image], twice, GroundConfig(class_agnostic=True))[0]) == 2
    assert len(detect(ColourDetector(), [image], twice, GroundConfig(max_detections=3))[0]) == 3
    nested = picture((120, 200), [("red", (10, 10, 110, 110)), ("blue", (30, 30, 60, 60))])
    config = GroundConfig(containment=0.8, class_agnostic=True)
    assert [len(detect(ColourDetector(), [nested], PHRASES, c)[0]) for c in (None, config)] == [2, 1]


def test_images_and_tiles_go_through_the_detector_together(image: np.ndarray) -> None:
    detector = ColourDetector(images_per_call=4)
    detect(detector, [image] * 6, PHRASES)
    assert detector.calls == [4, 2]
    detector.calls.clear()
    found = detect(detector, [image, image[:64, :64], image], PHRASES, GroundConfig(tile=100))
    assert detector.calls == [4, 4, 4, 3]  # three images, and 2 x 3 tiles of each of the larger ones
    assert boxes(found[0]) == boxes(found[2]) == [RED, BLUE, SMALL]


def test_things_across_tiles_are_found_once_and_whole(predictor: Predictor) -> None:
    things = [("red", (60, 60, 140, 140)), ("red", (10, 200, 290, 230)), ("red", (250, 20, 258, 28))]
    image = picture((260, 300), things)
    (plain,) = detect(ColourDetector(), [image], ("red",))
    (tiled,) = detect(ColourDetector(), [image], ("red",), GroundConfig(tile=100, overlap=0.25))
    assert sorted(boxes(tiled)) == sorted(boxes(plain)) == sorted(box for _, box in things)
    config = GroundConfig(tile=100, overlap=0.25)
    masks = ground(predictor, ColourDetector(), image, ("red",), config)
    assert max(iou(mask, (60, 60, 140, 140)) for mask in masks) > 0.8


class _Rough(ColourDetector):
    """Boxes with many digits, one of them beyond the image and one that is next to nothing."""

    def detect(self, images, phrases, thresholds):  # type: ignore[no-untyped-def]
        table = np.array([[10.123456, 20.98765, 200.4, 100.005], [50.001, 50, 50.002, 90]])
        return [Detected(table, np.array([0.9, 0.8]), np.array([0, 0])) for _ in images]


def test_boxes_are_rounded_within_the_image(image: np.ndarray) -> None:
    (found,) = detect(_Rough(), [image], PHRASES)
    assert found.boxes.tolist() == [[10.12, 20.99, 200.0, 100.0]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"box_threshold": 1.5}, "box_threshold is 1.5; give a number from 0 to 1"),
        ({"text_threshold": float("nan")}, "text_threshold is nan; give a number from 0 to 1"),
        ({"tile": float("inf")}, "tile is inf; give a whole number"),
        ({"nms": -1}, "nms is -1; give a number from 0 to 1"),
        ({"tile": 10}, "tile is 10; give a number of at least 64"),
        ({"tile": 100.5}, "tile is 100.5; give a whole number"),
        ({"overlap": 0.95}, "overlap is 0.95; give a number from 0 to 0.9"),
        ({"max_detections": 0}, "max_detections is 0; give a number of at least 1"),
    ],
)
def test_values_that_make_no_sense(values: dict[str, float], said: str) -> None:
    with pytest.raises(SamcliError, match=f"^{said}$"):
        GroundConfig(**values)


# Naming masks


def mask_of(number: int, x0: int, y0: int, x1: int, y1: int) -> MaskRecord:
    bits = np.zeros((100, 100), bool)
    bits[y0:y1, x0:x1] = True
    return MaskRecord(
        encode_rle(bits), (x0, y0, x1 - x0, y1 - y0), int(bits.sum()), 0.7, 0.9, number, score=0.7
    )


def found(*rows: tuple[float, ...]) -> Detected:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detected(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def names(masks: tuple[MaskRecord, ...]) -> list[str | None]:
    return [mask.category for mask in masks]


def test_a_box_names_the_mask_that_it_fits_best() -> None:
    masks = [mask_of(1, 0, 0, 60, 60), mask_of(2, 0, 0, 50, 50), mask_of(3, 70, 70, 90, 90)]
    named = name_masks(masks, found((0, 0, 52, 50, 0.6, 1)), PHRASES)
    assert names(named) == [None, "a blue", None]
    assert (named[1].category_id, named[1].detector_score, named[1].score) == (2, 0.6, 0.7)
    assert (named[0], named[2]) == (masks[0], masks[2])


def test_the_best_box_names_a_mask() -> None:
    rows = [(0, 0, 50, 50, 0.6, 1), (0, 0, 50, 48, 0.5, 0)]
    assert names(name_masks([mask_of(1, 0, 0, 50, 50)], found(*rows), PHRASES)) == ["a blue"]


def test_a_box_that_fits_no_mask_names_none() -> None:
    masks = [mask_of(1, 0, 0, 60, 60)]
    assert name_masks(masks, found((0, 0, 30, 60, 0.6, 1), (80, 80, 90, 90, 0.5, 0)), PHRASES) == tuple(masks)
    assert name_masks(masks, found(), PHRASES) == tuple(masks)
    assert name_masks([], found((0, 0, 30, 60, 0.6, 1)), PHRASES) == ()


def test_pixels_outside_the_box_count_against_a_mask() -> None:
    bits = np.zeros((100, 100), bool)
    bits[0:10, 0:100] = bits[90:100, 0:100] = True  # two bars; the box holds one of them and all between
    bars = MaskRecord(encode_rle(bits), (0, 0, 100, 100), 2000)
    assert names(name_masks([bars], found((0, 0, 100, 90, 0.9, 0)), PHRASES)) == [None]
    assert names(name_masks([bars], found((0, 0, 100, 95, 0.9, 0)), PHRASES)) == ["red"]


def test_two_boxes_of_one_phrase_name_two_masks() -> None:
    masks = [mask_of(1, 0, 0, 30, 30), mask_of(2, 40, 0, 70, 30)]
    named = name_masks(masks, found((0, 0, 30, 31, 0.6, 0), (40, 0, 70, 30, 0.5, 0)), PHRASES)
    assert names(named) == ["red", "red"]
    assert [mask.detector_score for mask in named] == [0.6, 0.5]


def test_an_empty_mask_stays_unnamed() -> None:
    empty = MaskRecord(encode_rle(np.zeros((100, 100), bool)), (0, 0, 0, 0), 0)
    assert names(name_masks([empty], found((0, 0, 50, 50, 0.9, 0)), PHRASES)) == [None]


def test_automatic_masks_get_names(predictor: Predictor) -> None:
    pixels = np.asarray(picture((120, 200), [("red", RED), ("blue", BLUE)]))
    masks = samcli.automask(predictor, pixels)
    (seen,) = detect(ColourDetector(), [pixels], PHRASES)
    named = name_masks(masks, seen, PHRASES)
    assert sorted(name for name in names(named) if name) == ["a blue", "red"]
    assert all(iou(mask, RED if mask.category == "red" else BLUE) > 0.8 for mask in named if mask.category)
