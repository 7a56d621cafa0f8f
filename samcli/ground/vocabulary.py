"""The words that the embedded detector knows, with a vector each. Free of torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError, WeightsError

ANY_WORD = "grounding-dino-tiny"  # the detector to name where this one's words end
NEAREST = 3  # words named to who asked for an unknown one
LISTED = 20  # unknown words told at once
ALIKE = 0.75  # difflib's ratio, from which a word may be what was meant

_REMEDY = f"for any word: samcli models pull {ANY_WORD}, and --detector {ANY_WORD}"
_ARTICLE = re.compile(r"^(?:an?|the|some|any)\s+")
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "oxen": "ox", "leaves": "leaf", "loaves": "loaf", "knives": "knife",
    "wolves": "wolf", "calves": "calf", "shelves": "shelf", "scarves": "scarf", "halves": "half",
    "hooves": "hoof", "wives": "wife", "lives": "life", "thieves": "thief", "elves": "elf",
}  # fmt: skip
_PLURALS = (
    ("ies", "y"),
    ("sses", "ss"),
    ("ses", "s"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("xes", "x"),
    ("oes", "o"),
    ("s", ""),
)


class Vocabulary:
    """words: sorted, in lower case. vectors: (N, D) int8, of nearly one length each."""

    def __init__(self, words: tuple[str, ...], vectors: NDArray[np.int8]) -> None:
        self.words, self.vectors = words, vectors
        self._places = {word: i for i, word in enumerate(words)}

    def find(self, phrase: str) -> int | None:
        """The place of a phrase's word: as it is, without its article, in the singular, hyphened."""
        phrase = " ".join(phrase.lower().split())
        for text in (phrase, _ARTICLE.sub("", phrase)):
            for form in (text, *singulars(text)):
                for spelled in (form, form.replace("-", " "), form.replace(" ", "-"), form.replace(" ", "")):
                    if spelled in self._places:
                        return self._places[spelled]
        return None

    def nearest(self, phrase: str) -> list[str]:
        """Known words that may do instead, best first: the end of the phrase, and words spelled alike."""
        phrase = _ARTICLE.sub("", " ".join(phrase.lower().split()))
        parts = phrase.split()
        ends = (self.find(" ".join(parts[i:])) for i in range(1, len(parts)))
        found = [self.words[place] for place in ends if place is not None]
        found += difflib.get_close_matches(phrase, self.words, NEAREST, ALIKE)
        return list(dict.fromkeys(found))[:NEAREST]

    def place(self, phrase: str) -> int:
        """The place of a phrase's word. Raises SamcliError, with what comes near it, for an unknown one."""
        place = self.find(phrase)
        if place is None:
            near = ", ".join(self.nearest(phrase)) or "none"
            raise SamcliError(f"{phrase!r} is not in the embedded vocabulary; nearest: {near}; {_REMEDY}")
        return place

    def check(self, phrases: Sequence[str]) -> None:
        """Raise SamcliError, naming them, for unknown phrases; as `place` for one."""
        unknown = [phrase for phrase in phrases if self.find(phrase) is None]
        if len(unknown) > 1:
            listed = ", ".join(map(repr, unknown[:LISTED])) + ", ..." * (len(unknown) > LISTED)
            raise SamcliError(
                f"{len(unknown)} phrases are not in the embedded vocabulary: {listed}; {_REMEDY}"
            )
        for phrase in unknown:
            self.place(phrase)


@cache
def read_vocabulary(path: Path) -> Vocabulary:
    """Read a file that `write_vocabulary` wrote. Raises WeightsError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = load_file(path)
        words = tuple(content["words"].tobytes().decode().split("\n"))
        return Vocabulary(words, content["vectors"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); reinstall samcli") from error


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write words and vectors as safetensors."""
    from safetensors.numpy import save_file

    words = np.frombuffer("\n".join(vocabulary.words).encode(), np.uint8)
    save_file({"words": words, "vectors": np.ascontiguousarray(vocabulary.vectors)}, path)


def singulars(text: str) -> list[str]:
    """What a text may be the plural of."""
    head, _, last = text.rpartition(" ")
    lead = f"{head} " if head else ""
    if last in _IRREGULAR:
        return [lead + _IRREGULAR[last]]
    return [
        lead + last.removesuffix(many) + one
        for many, one in _PLURALS
        if last.endswith(many) and len(last) > len(many) + 1 and not last.endswith("ss")
    ]
