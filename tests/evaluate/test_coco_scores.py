"""Average precision and recall, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from samcli.evaluate.coco import Answer, Truth, average_precision, average_recall
from samcli.masks import encode_rle
from samcli.records import RLE


def square(x: int, side: int = 40) -> RLE:
    mask = np.zeros((200, 300), bool)
    mask[10 : 10 + side, x : x + side] = True
    return encode_rle(mask)


def truth(image: int, x: int, category: int = 1, side: int = 40, *, crowd: bool = False) -> Truth:
    return Truth(image, category, square(x, side), side * side, crowd)


def test_all_right_is_one():
    truths = [truth(1, 0), truth(1, 100, 2), truth(2, 50)]
    answers = [Answer(t.image, t.category, t.segmentation, 0.5) for t in truths]
    found = average_precision(truths, answers)
    assert found == pytest.approx(
        {"ap": 1, "ap50": 1, "ap75": 1, "ap_small": None, "ap_medium": 1, "ap_large": None}
    )
    assert average_recall(truths, answers)["ar_10"] == pytest.approx(1)


def test_a_worse_answer_first_halves_the_precision():
    # of one thing: the best answer is nowhere, the second one right, so the precision is 1/2 at every recall
    found = average_precision([truth(1, 0)], [Answer(1, 1, square(100), 0.9), Answer(1, 1, square(0), 0.8)])
    assert found["ap"] == pytest.approx(0.5)
    other = average_precision([truth(1, 0)], [Answer(1, 1, square(100), 0.7), Answer(1, 1, square(0), 0.8)])
    assert other["ap"] == pytest.approx(1)


def test_thresholds_count():
    # 4 of 40 columns off: IoU 36 / 44 = 0.818, so right at 0.5 to 0.8, 7 of the 10 thresholds
    found = average_precision([truth(1, 0)], [Answer(1, 1, square(4), 0.9)])
    assert [found[name] for name in ("ap50", "ap75", "ap")] == pytest.approx([1, 1, 0.7])
    assert average_recall([truth(1, 0)], [Answer(1, 1, square(4), 0.9)])["ar_100"] == pytest.approx(0.7)


def test_the_mean_is_over_categories_and_recall_knows_none():
    truths = [truth(1, 0, 1), truth(1, 100, 2)]
    answers = [Answer(1, 1, square(0), 0.9), Answer(1, 1, square(100), 0.8)]
    assert average_precision(truths, answers)["ap"] == pytest.approx(0.5)
    assert average_recall(truths, answers)["ar_10"] == pytest.approx(1)


def test_crowds_count_neither_way():
    truths = [truth(1, 0), truth(1, 100, crowd=True)]
    answers = [Answer(1, 1, square(100), 0.9), Answer(1, 1, square(0), 0.8)]
    assert average_precision(truths, answers)["ap"] == pytest.approx(1)


def test_sizes():
    truths = [truth(1, 0, side=20), truth(1, 100, side=50), truth(1, 180, side=110)]
    answers = [Answer(1, 1, t.segmentation, 0.9) for t in truths[:2]]
    recall = average_recall(truths, answers)
    assert [recall[f"ar_{size}"] for size in ("small", "medium", "large")] == pytest.approx([1, 1, 0])
    assert recall["ar_1000"] == pytest.approx(2 / 3)


def test_recall_with_few_masks_takes_the_best():
    truths = [truth(1, 0)]
    wrong = [Answer(1, 1, square(100), 0.9)] * 10
    recall = average_recall(truths, [*wrong, Answer(1, 1, square(0), 0.1)])
    assert (recall["ar_10"], recall["ar_100"]) == (0, 1)


def test_no_answers_is_nought_and_no_truth_is_nothing():
    assert average_precision([truth(1, 0)], [])["ap"] == 0
    assert average_recall([truth(1, 0)], [])["ar_1000"] == 0
    assert set(average_precision([], [Answer(1, 1, square(0), 0.9)]).values()) == {None}
    assert set(average_recall([truth(1, 0, crowd=True)], []).values()) == {None}
