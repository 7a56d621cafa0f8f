"""Grounding DINO's own phrase code, of the wheel rf-groundingdino, beside ours on the same maps of answers.

Its modules import what the wheel asks for and nobody here needs, so the functions are taken out of its source
and run as they are there.
"""

from __future__ import annotations
import __future__

import ast
import bisect
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectors import bert_vocabulary

from samcli.ground.phrases import Caption, captions, decode, split_phrases

ASKED = 900  # queries, as of the real network
PIECES = ("taxi", "van", "##van", "tri", "##cycle", "glass", "oil", "plant", "flower", "##pot", "melon")
MORE = (
    "fire",
    "##hy",
    "##dr",
    "##ant",
    "zucchini",
    "japanese",
    "fruit",
    "chair",
    "table",
    "onion",
    "a",
    "red",
)


def functions(file: Path, *names: str, **known: Any) -> list[Any]:
    """Functions of a source file, which find `known` where they look for names of their module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    space: dict[str, Any] = dict(known)
    # Their annotations name what is not imported here.
    exec(compile(tree, str(file), "exec", flags=__future__.annotations.compiler_flag), space)
    return [space[name] for name in names]


@pytest.fixture(scope="module")
def wheel() -> SimpleNamespace:
    """The reference's functions; without the wheel the tests skip, except in CI, where they fail."""
    spec = importlib.util.find_spec("groundingdino")
    if spec is None or spec.origin is None:
        if os.environ.get("CI") == "true":
            pytest.fail("rf-groundingdino is not installed")
        pytest.skip("rf-groundingdino is not installed")
    package = Path(spec.origin).parent
    (posmap,) = functions(package / "util" / "utils.py", "get_phrases_from_posmap", torch=torch)
    predict, preprocess = functions(
        package / "util" / "inference.py",
        "predict",
        "preprocess_caption",
        torch=torch,
        bisect=bisect,
        get_phrases_from_posmap=posmap,
    )
    build, positives = functions(
        package / "util" / "vl_utils.py",
        "build_captions_and_token_span",
        "create_positive_map_from_span",
        torch=torch,
        os=os,
    )
    (segments,) = functions(
        package / "models" / "GroundingDINO" / "bertwarper.py",
        "generate_masks_with_special_tokens_and_transfer_map",
        torch=torch,
    )
    return SimpleNamespace(
        predict=predict, preprocess=preprocess, build=build, positives=positives, segments=segments
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    if os.environ.get("CI") != "true":
        pytest.importorskip("transformers")
    from transformers import BertTokenizer

    vocabulary = {token: i for token, i in bert_vocabulary().items() if not token.startswith("[unused")}
    for token in (*PIECES, *MORE):
        vocabulary.setdefault(token, len(vocabulary) + 1100)
    taken = set(vocabulary.values())
    vocabulary |= {f"[unused{i}]": i for i in range(max(taken)) if i not in taken}
    return BertTokenizer(vocab=vocabulary)


class Said:
    """In the place of the reference's network: gives the answers made by hand."""

    def __init__(self, tokenizer: Any, probabilities: np.ndarray) -> None:
        self.tokenizer = tokenizer
        self.logits = torch.logit(torch.from_numpy(probabilities).double())

    def to(self, device: str) -> Said:
        return self

    def __call__(self, images: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
        assert captions[0].endswith(".")
        boxes = torch.arange(len(self.logits) * 4).reshape(1, -1, 4) / (len(self.logits) * 4)
        return {"pred_logits": self.logits[None], "pred_boxes": boxes}


def theirs(
    wheel: SimpleNamespace, tokenizer: Any, text: str, answers: np.ndarray, text_threshold: float, **how: bool
) -> tuple[list[int], list[float], list[str]]:
    """Queries, scores and labels of the reference."""
    said = Said(tokenizer, answers)
    boxes, scores, labels = wheel.predict(
        said, torch.zeros(3, 8, 8), text, 0.3, text_threshold, device="cpu", **how
    )
    queries = (boxes[:, 0] * len(answers)).round().long().tolist()
    return queries, scores.tolist(), labels


def ours(tokenizer: Any, phrases: Sequence[str]) -> Caption:
    from samcli.ground.grounding_dino import FRAME

    ids = [tokenizer(phrase.lower(), add_special_tokens=False)["input_ids"] for phrase in phrases]
    (caption,) = captions(ids, FRAME)
    return caption


def one_query(tokenizer: Any, text: str, at: Mapping[str, float]) -> np.ndarray:
    """A map of one query: probabilities of the caption's tokens by their text, 0.01 elsewhere."""
    tokens = ["[CLS]", *tokenizer.tokenize(text.lower()), "[SEP]"]
    answers = np.full((1, 256), 0.01)
    for token, probability in at.items():
        answers[0, tokens.index(token)] = probability
    return answers


# report, caption as reported in short, the answer, the label of the reference, what was asked for
DEFECTS = [
    ("GD#63", "car . taxi .", {"car": 0.5, "taxi": 0.6}, "car taxi", "taxi"),
    ("GD#63", "tricycle . car .", {"tri": 0.5, "##cycle": 0.2}, "tri", "tricycle"),
    ("GD#63", "avan . car .", {"a": 0.2, "##van": 0.5}, "##van", "avan"),
    ("GD#85", "onion . glass . oil .", {"glass": 0.5, "oil": 0.4}, "glass oil", "glass"),
    ("GD#421", "plant . flower . flowerpot", {"plant": 0.4, "flower": 0.45}, "plant flower", "flower"),
    ("GSA#240", "firehydrant . car", {"fire": 0.5, "##hy": 0.4, "##dr": 0.3}, "firehydr", "firehydrant"),
    ("GSA#240", "firehydrant . car", {"##hy": 0.5}, "##hy", "firehydrant"),
    ("GSA#339", "melon . zucchini . fruit", {"melon": 0.5, "zucchini": 0.4}, "melon zucchini", "melon"),
    ("GSA#339", "japanese_fruit . melon", {"japanese": 0.5, "_": 0.3}, "japanese _", "japanese_fruit"),
    ("GSA#339", "japanese_fruit . melon", {"fruit": 0.5}, "fruit", "japanese_fruit"),
    # nobody's report, but the same rule
    ("empty", "car . taxi", {"[CLS]": 0.6, "car": 0.2}, "", None),
    ("a comma does not split", "car, taxi", {"car": 0.5, "taxi": 0.4}, "car taxi", "car"),
]


@pytest.mark.parametrize(("report", "text", "at", "wrong", "right"), DEFECTS)
def test_reported_labels(
    wheel: SimpleNamespace,
    tokenizer: Any,
    report: str,
    text: str,
    at: dict[str, float],
    wrong: str,
    right: str | None,
) -> None:
    answers = one_query(tokenizer, text, at)
    _, scores, labels = theirs(wheel, tokenizer, text, answers, 0.25)
    assert labels == [wrong]
    phrases = split_phrases(text)
    caption = ours(tokenizer, phrases)
    found = decode(one_query(tokenizer, " . ".join(phrases) + " .", at), caption.spans, 0.3, 0.25)
    assert [phrases[i] for i in found.phrases] == ([] if right is None else [right])
    if right is not None:
        assert found.scores == pytest.approx(scores)


PHRASES = ("car", "red taxi", "tricycle", "a plant", "flowerpot", "firehydrant", "japanese fruit", "onion")


@pytest.fixture(scope="module")
def answers(tokenizer: Any) -> np.ndarray:
    """Random answers, from sure to unsure, none after the caption's end; (900, 256)."""
    rng = np.random.default_rng(3)
    map_ = rng.random((ASKED, 256)) ** rng.uniform(1, 60, (ASKED, 1))
    map_[:, len(ours(tokenizer, PHRASES).tokens) :] = 0
    return map_


def test_the_caption_is_the_references(wheel: SimpleNamespace, tokenizer: Any) -> None:
    text = wheel.preprocess(" . ".join(PHRASES).upper())
    assert list(ours(tokenizer, PHRASES).tokens) == tokenizer(text)["input_ids"]


def test_the_same_boxes_and_scores(wheel: SimpleNamespace, tokenizer: Any, answers: np.ndarray) -> None:
    """Of all that is above the box threshold; only that the reference prints no label for some."""
    text = " . ".join(PHRASES)
    queries, scores, _ = theirs(wheel, tokenizer, text, answers, 0.25)
    found = decode(answers, ours(tokenizer, PHRASES).spans, 0.3, 0.0)
    assert len(queries) > 300
    assert found.queries.tolist() == queries
    assert found.scores == pytest.approx(scores)


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.5])
def test_labels_where_the_reference_says_one_phrase(
    wheel: SimpleNamespace, tokenizer: Any, answers: np.ndarray, threshold: float
) -> None:
    """With `remove_combined` it keeps to the segment of the best token. Where that is one of a phrase, whole
    or in part it is ours.
    """
    caption = ours(tokenizer, PHRASES)
    queries, _, labels = theirs(
        wheel, tokenizer, " . ".join(PHRASES), answers, threshold, remove_combined=True
    )
    found = decode(answers, caption.spans, 0.3, threshold)
    label_of = dict(zip(queries, labels, strict=True))
    named = dict(zip(found.queries.tolist(), found.phrases.tolist(), strict=True))
    owners = {token: span.phrase for span in caption.spans for token in range(span.start, span.stop)}
    compared = pieces = 0
    for query in queries:
        best = int(answers[query].argmax())
        if best not in owners or answers[query, best] <= threshold:
            continue
        compared += 1
        assert named[query] == owners[best]
        spoken = "".join(label_of[query].replace("##", "").split())
        whole = "".join(PHRASES[named[query]].split())
        assert all(letter in whole for letter in spoken)
        pieces += spoken != whole
    assert compared > 15
    assert pieces > 3  # so even so its labels are not those asked for


def test_the_same_segments(wheel: SimpleNamespace, tokenizer: Any) -> None:
    """Where BERT's self-attention is split, and which tokens belong to a phrase."""
    caption = ours(tokenizer, PHRASES)
    ids = torch.tensor([caption.tokens])
    special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    _, _, masks = wheel.segments({"input_ids": ids}, special, tokenizer)
    segments = [np.flatnonzero(mask.numpy()) for mask in masks[0]]
    assert [(int(s[0]), int(s[-1]) + 1) for s in segments] == [s[1:] for s in caption.spans]


def test_the_same_positive_map(wheel: SimpleNamespace, tokenizer: Any) -> None:
    """The map that the reference scores categories of a data set with."""
    text, characters = wheel.build(list(PHRASES), force_lowercase=True)
    map_ = wheel.positives(tokenizer(text), [characters[phrase] for phrase in PHRASES]).numpy() > 0
    expected = np.zeros_like(map_)
    for span in ours(tokenizer, PHRASES).spans:
        expected[span.phrase, span.start : span.stop] = True
    assert (map_ == expected).all()
