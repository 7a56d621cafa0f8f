"""What a text asks for, and what Grounding DINO answers: phrases, captions, labels. No torch.

Grounding DINO reads all phrases in one caption, "cat . red car ." in tokens, and gives every box a
probability for each token. A caption holds 256 tokens with their frame, so many phrases take several passes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError

MOST_TOKENS = 256  # of a caption; the network was trained with as many

_BETWEEN = re.compile(r"[.,;?\n\r]")  # "?" too: in Grounding DINO's captions it ends a phrase as "." does


def split_phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text, as the user wrote them, each once whatever its case, in their order.

    Dots, commas, semicolons, question marks and new lines separate; spaces do not: "a dog, red car." is
    "a dog" and "red car". Raises SamcliError when the text names nothing, or is no text.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes of a command line that are none
        raise SamcliError(f"{text!r} is not UTF-8 text; write it so")
    phrases: dict[str, str] = {}
    for piece in _BETWEEN.split(text):
        phrase = " ".join(piece.split())
        if phrase:
            phrases.setdefault(phrase.lower(), phrase)
    if not phrases:
        raise SamcliError(
            f"{text!r} names nothing to look for; separate phrases by dots or commas: cat. red car"
        )
    return tuple(phrases.values())


class Span(NamedTuple):
    """The tokens of a phrase in a caption, start <= i < stop. phrase: its index among those asked for."""

    phrase: int
    start: int
    stop: int


class Caption(NamedTuple):
    """What is asked in one pass. tokens: ids, those around and between the phrases included."""

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]


class Frame(NamedTuple):
    """Ids of the tokens around and between phrases: [CLS] phrase . phrase . [SEP]"""

    start: int
    dot: int
    stop: int


def captions(phrases: Sequence[Sequence[int]], frame: Frame, most: int = MOST_TOKENS) -> list[Caption]:
    """Put phrases into as few captions as their order allows, of at most `most` tokens each.

    phrases: token ids of each, at least one, none of the frame's, at most `most` - 3.
    Each phrase is in exactly one caption, whole.
    """
    made: list[Caption] = []
    tokens, spans = [frame.start], list[Span]()
    for index, ids in enumerate(phrases):
        assert 0 < len(ids) <= most - 3
        if len(tokens) + len(ids) + 2 > most:
            made.append(Caption((*tokens, frame.stop), tuple(spans)))
            tokens, spans = [frame.start], []
        spans.append(Span(index, len(tokens), len(tokens) + len(ids)))
        tokens += [*ids, frame.dot]
    made.append(Caption((*tokens, frame.stop), tuple(spans)))
    return made


class Answers(NamedTuple):
    """queries: (N,) int64, those kept, ascending. scores: (N,) as the probabilities. phrases: (N,) int64."""

    queries: NDArray[np.int64]
    scores: NDArray[np.floating]
    phrases: NDArray[np.int64]


def decode(probabilities: NDArray[np.floating], spans: Sequence[Span], box: float, text: float) -> Answers:
    """Which queries are boxes of which phrase.

    probabilities: (Q, T) of each query for each token of a caption, 0 to 1; T may be longer than the caption.
    spans: of its phrases, at least one.

    As in the reference a query's score is its greatest probability, wherever that is, and the query stays
    when the score is above `box`. Its phrase is the one that holds the best token of all phrases' tokens, the
    first of equals; tokens around and between phrases name nothing. A query whose best token is not above
    `text` is dropped: the reference, which prints the tokens above `text`, has no label for it either. So
    `text` matters only where it is above `box`, or where the score came from a token between phrases.
    """
    scores = probabilities.max(axis=1)
    owned = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    owners = np.concatenate([np.full(span.stop - span.start, span.phrase) for span in spans])
    named = probabilities[:, owned]
    queries = np.flatnonzero((scores > box) & (named.max(axis=1) > text))
    return Answers(queries, scores[queries], owners[named[queries].argmax(axis=1)])
