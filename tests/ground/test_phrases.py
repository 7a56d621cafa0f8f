"""Phrases of a text, captions of phrases, labels of answers: each rule on maps made by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from samcli.errors import SamcliError
from samcli.ground.phrases import Caption, Frame, Span, captions, decode, split_phrases

FRAME = Frame(start=101, dot=1012, stop=102)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a dog", ("a dog",)),
        ("cat. dog", ("cat", "dog")),
        ("cat . dog .", ("cat", "dog")),
        ("cat,dog", ("cat", "dog")),
        ("cat\ndog\r\nred car\n", ("cat", "dog", "red car")),
        ("cat; dog? car", ("cat", "dog", "car")),
        (" . , \n cat ..,", ("cat",)),
        ("  a   red\tcar ", ("a red car",)),
        ("Red Car. TAXI", ("Red Car", "TAXI")),
        ("Cat. dog. cat. DOG", ("Cat", "dog")),
        ("traffic light, stop-sign", ("traffic light", "stop-sign")),
        ("japanese_fruit", ("japanese_fruit",)),
        ("Straße. 猫", ("Straße", "猫")),
    ],
)
def test_split(text: str, phrases: tuple[str, ...]) -> None:
    assert split_phrases(text) == phrases


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(SamcliError) as caught:
        split_phrases("a cat, caf\udce9")
    assert str(caught.value) == r"'a cat, caf\udce9' is not UTF-8 text; write it so"


@pytest.mark.parametrize("text", ["", " ", ".", " ., \n;?"])
def test_a_text_that_names_nothing(text: str) -> None:
    with pytest.raises(SamcliError) as caught:
        split_phrases(text)
    assert str(caught.value) == (
        f"{text!r} names nothing to look for; separate phrases by dots or commas: cat. red car"
    )


class TestCaptions:
    def test_one(self) -> None:
        assert captions([[7], [8, 9]], FRAME) == [
            Caption((101, 7, 1012, 8, 9, 1012, 102), (Span(0, 1, 2), Span(1, 3, 5)))
        ]

    def test_split_at_the_last_token_that_fits(self) -> None:
        """[CLS] and [SEP] take two tokens, each phrase one more for its dot."""
        assert captions([[1, 2], [3, 4], [5]], FRAME, most=8) == [
            Caption((101, 1, 2, 1012, 3, 4, 1012, 102), (Span(0, 1, 3), Span(1, 4, 6))),
            Caption((101, 5, 1012, 102), (Span(2, 1, 2),)),
        ]
        assert [len(c.spans) for c in captions([[1, 2], [3, 4], [5]], FRAME, most=7)] == [1, 2]
        assert [len(c.spans) for c in captions([[1, 2], [3, 4], [5]], FRAME, most=10)] == [3]

    def test_the_longest_phrase_fits(self) -> None:
        (caption,) = captions([range(1, 254)], FRAME)
        assert len(caption.tokens) == 256

    def test_every_phrase_once_and_whole(self) -> None:
        rng = np.random.default_rng(0)
        phrases = [list(rng.integers(2000, 3000, rng.integers(1, 9))) for _ in range(300)]
        made = captions(phrases, FRAME)
        spans = [(span, caption.tokens) for caption in made for span in caption.spans]
        assert [span.phrase for span, _ in spans] == list(range(300))
        for span, tokens in spans:
            assert list(tokens[span.start : span.stop]) == phrases[span.phrase]
            assert tokens[span.stop] == FRAME.dot
        for caption in made:
            assert len(caption.tokens) <= 256
            assert (caption.tokens[0], caption.tokens[-1]) == (FRAME.start, FRAME.stop)
            own = sum(span.stop - span.start for span in caption.spans)
            assert len(caption.tokens) == own + len(caption.spans) + 2
        assert len(made) == 7  # 1,325 tokens and 300 dots


# [CLS] cat . red car . tri ##cycle . [SEP]: tokens 0 to 9, and two that pad
SPANS = (Span(0, 1, 2), Span(1, 3, 5), Span(2, 6, 8))


def answer(box: float = 0.3, text: float = 0.25, **at: float) -> tuple[int, float] | None:
    """Phrase and score of one query with these probabilities at `t<token>`; None when it is dropped."""
    map_ = np.zeros((1, 12), np.float32)
    for token, probability in at.items():
        map_[0, int(token[1:])] = probability
    found = decode(map_, SPANS, box, text)
    if len(found.queries) == 0:
        return None
    return int(found.phrases[0]), round(float(found.scores[0]), 6)


class TestDecode:
    def test_the_phrase_of_the_best_token(self) -> None:
        assert answer(t1=0.6) == (0, 0.6)
        assert answer(t3=0.6) == (1, 0.6)
        assert answer(t4=0.6) == (1, 0.6)
        assert answer(t7=0.6) == (2, 0.6)

    def test_two_phrases_are_never_merged(self) -> None:
        assert answer(t1=0.5, t3=0.6, t4=0.55) == (1, 0.6)
        assert answer(t1=0.61, t3=0.6, t4=0.6) == (0, 0.61)

    def test_a_piece_of_a_word_stands_for_the_phrase(self) -> None:
        assert answer(t6=0.1, t7=0.4) == (2, 0.4)
        assert answer(t6=0.4, t7=0.1) == (2, 0.4)

    def test_the_first_of_equals(self) -> None:
        assert answer(t1=0.5, t4=0.5) == (0, 0.5)

    def test_box_threshold_is_for_the_score_and_strict(self) -> None:
        assert answer(t1=0.5, box=0.5) is None
        assert answer(t1=0.5, box=0.4999) == (0, 0.5)

    def test_the_score_may_come_from_a_token_that_names_nothing(self) -> None:
        """As in the reference, where the maximum over all tokens is the score."""
        assert answer(t0=0.9, t4=0.4) == (1, 0.9)
        assert answer(t5=0.9, t4=0.4, t1=0.41) == (0, 0.9)
        assert answer(t9=0.9, t11=0.95, t6=0.3) == (2, 0.95)

    def test_without_a_token_above_the_text_threshold_there_is_no_label_and_no_box(self) -> None:
        assert answer(t0=0.9, t4=0.25) is None
        assert answer(t0=0.9, t4=0.2501) == (1, 0.9)
        assert answer(t0=0.9, text=0.0) is None
        assert answer(t1=0.6, text=0.6) is None
        assert answer(t1=0.6, text=0.59) == (0, 0.6)

    def test_the_text_threshold_does_not_matter_below_the_score_of_a_named_token(self) -> None:
        assert answer(t1=0.35, text=0.0) == answer(t1=0.35, text=0.34) == (0, 0.35)

    def test_queries_keep_their_order(self) -> None:
        map_ = np.zeros((5, 256))
        map_[[0, 2, 3], [3, 1, 7]] = 0.4, 0.9, 0.5
        found = decode(map_, SPANS, 0.3, 0.25)
        assert found.queries.tolist() == [0, 2, 3]
        assert found.scores.tolist() == [0.4, 0.9, 0.5]
        assert found.phrases.tolist() == [1, 0, 2]

    def test_spans_of_a_later_pass_keep_their_phrases(self) -> None:
        map_ = np.zeros((1, 256))
        map_[0, 2] = 0.5
        assert decode(map_, (Span(40, 1, 2), Span(41, 2, 3)), 0.3, 0.25).phrases.tolist() == [41]

    def test_nothing(self) -> None:
        assert answer() is None
        assert len(decode(np.zeros((0, 256)), SPANS, 0.3, 0.25).queries) == 0


def test_phrases_and_specs_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, samcli.ground.phrases; from samcli.ground.load import detector_spec\n"
        "assert detector_spec('owlv2').box == 0.1\n"
        "print(sorted({'torch', 'transformers', 'cv2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
