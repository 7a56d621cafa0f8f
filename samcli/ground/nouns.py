"""From a caption to the things in it: "two cats on a sofa" names a cat and a sofa. English; free of torch.

TextBlob tells parts of speech, from a lexicon that lies in its package: nothing is downloaded. What follows
is about captions: their idioms, their words for no thing, and where its guesses go wrong in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from samcli.errors import SamcliError
from samcli.ground.vocabulary import singulars

_IDIOMS = re.compile(
    r"\b(?:(?:in|at) (?:the )?(?:front|back|side|top|middle|center|centre|edge|end) of|on top of|"
    r"next to|close up|close-up|(?:at|into|to|for) the camera|(?:in|through|into) the (?:air|distance)|"
    r"black and white|there (?:is|are))\b"
)
NO_THINGS = {
    # the picture itself
    "photo", "photograph", "picture", "image", "shot", "view", "scene", "background", "foreground",
    "illustration", "screenshot", "closeup",
    # places in it
    "top", "bottom", "front", "back", "side", "left", "right", "middle", "center", "centre", "end", "edge",
    "corner", "area", "part", "distance",
    # how many, how much, of what kind
    "group", "couple", "bunch", "pair", "lot", "number", "row", "line", "pile", "stack", "set", "series",
    "slice", "piece", "bit", "dozen", "herd", "flock", "kind", "type", "sort", "variety", "assortment",
    "collection", "array", "amount", "size", "color", "colour", "style", "way", "shape",
    # times, and words that stand for others
    "day", "night", "time", "daytime", "nighttime", "morning", "evening", "afternoon", "thing", "something",
    "someone", "object", "item", "one", "other", "others", "it", "another",
    # colours
    "black", "white", "red", "green", "blue", "yellow", "brown", "grey", "gray", "pink", "purple", "beige",
}  # fmt: skip
"""Words that a caption says of itself, or that name nothing to look for."""

PLURALS = {
    "binoculars", "clothes", "glasses", "goggles", "headphones", "jeans", "leggings", "pajamas", "pants",
    "pliers", "pyjamas", "scissors", "shorts", "sunglasses", "tights", "tongs", "trousers",
}  # fmt: skip
"""Things whose name is a plural."""

GERUNDS = {
    "baking", "boxing", "cutting", "dining", "dressing", "fishing", "frying", "ironing", "living", "mixing",
    "parking", "rocking", "rolling", "sewing", "shopping", "sleeping", "swimming", "walking", "washing",
    "welding", "wedding",
}  # fmt: skip
"""Before a noun, part of a thing's name: dining table, parking meter. Others say what it does."""

_NOUN = {"NN", "NNS", "NNP", "NNPS"}
_BEFORE_NOUN = {"DT", "CD", "JJ", "PRP$", "IN", "CC", ",", ""}  # "" is the start


def things(caption: str) -> tuple[str, ...]:
    """The things that a caption names, each once, in the singular and in lower case, in its order.

    Compound names stay together ("cell phone"), adjectives go. Raises SamcliError when TextBlob is missing.
    """
    return distinct(" ".join(words) for words in _names(caption))


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names of things, as a model says them, each once: singular, in lower case, without what is no thing."""
    found: dict[str, None] = {}
    for name in names:
        words = name.lower().split()
        while words and words[0] in NO_THINGS:
            words = words[1:]
        if words and singular(words[-1]) not in NO_THINGS and any(map(str.isalpha, words[-1])):
            found[" ".join((*words[:-1], singular(words[-1])))] = None
    return tuple(found)


def singular(noun: str) -> str:
    """A noun in the singular: of the forms that it may be the plural of, one that is known as a noun."""
    lexicon, forms = _textblob()[1], singulars(noun)
    if noun in PLURALS or not forms or lexicon.get(noun) == "NN":  # NN: bus, dress
        return noun
    nouns = [form for form in forms if lexicon.get(form) in ("NN", "NNP")]
    known = [form for form in forms if lexicon.get(form) in ("JJ", "VB", "VBP")]  # cherry, for one
    return (nouns or known or forms)[0]


def _names(caption: str) -> list[list[str]]:
    """Runs of words of a caption that each name something."""
    tagger, _ = _textblob()
    text = _IDIOMS.sub(" , ", " ".join(caption.lower().split()))
    tagged: list[tuple[str, str]] = tagger.tag(text) if text else []
    names: list[list[str]] = []
    run: list[str] = []
    before = ""
    for i, (word, tag) in enumerate(tagged):
        after = tagged[i + 1][1] if i + 1 < len(tagged) else ""
        if _names_something(word, tag, before, after):
            if word not in run:  # captioners stutter
                run.append(word)
            before = "NN" if tag != "NNS" else "NNS"
        else:
            names.append(run)
            run, before = [], tag
    names.append(run)
    return [run for run in names if run]


def _names_something(word: str, tag: str, before: str, after: str) -> bool:
    """Whether a word is part of a name. before, after: tags of its neighbours, "" where there is none."""
    if tag in _NOUN:
        return word[0].isalpha()
    if tag in ("VB", "VBP"):  # a stop sign, a teddy bear; but "children play"
        return before in _BEFORE_NOUN | {"NN"}
    if tag == "VBZ":  # knives and leaves
        return before in _BEFORE_NOUN - {""}
    if tag == "JJ":  # an orange on a table
        return before == "DT" and after in ("", "IN", "VBG", "VBZ", "VBN", ",", ".")
    return tag == "VBG" and word in GERUNDS and after in _NOUN


@cache
def _textblob() -> tuple[Any, Any]:
    """TextBlob's tagger and its lexicon, which gives a word's commonest part of speech."""
    try:
        from textblob.en import lexicon
        from textblob.taggers import PatternTagger
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("textblob", "nltk"):
            raise
        raise SamcliError(
            "captions become words by textblob; install it with: pip install 'samcli[ground]'"
        ) from error
    return PatternTagger(), lexicon
