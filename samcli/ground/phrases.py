"""What a text asks for: phrases. No torch."""

from __future__ import annotations

import re

from samcli.errors import SamcliError

_BETWEEN = re.compile(r"[.,;?\n\r]")  # "?" too: in Grounding DINO's captions it ends a phrase as "." does


def split_phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text, as the user wrote them, each once whatever its case, in their order.

    Dots, commas, semicolons, question marks and new lines separate; spaces do not: "a dog, red car." is
    "a dog" and "red car". Raises SamcliError when the text names nothing.
    """
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
