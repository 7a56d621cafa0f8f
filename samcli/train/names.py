"""Names of the training data's categories: what they are kinds of, and those that the embedded tagger may
say, which are shipped as `names.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from samcli.ground.names import Name
from samcli.ground.vocabulary import singulars
from samcli.train.data import read_json
from samcli.train.words import SEEN, Noun

UNNAMED = "salient object"  # a category's name that says nothing
IN_WORDNET = {
    "mouse": "computer mouse", "tv": "television", "remote": "remote control", "couch": "sofa",
    "donut": "doughnut", "potted plant": "pot plant", "cell phone": "cellular telephone",
    "hair drier": "hand blower", "sports ball": "ball", "skis": "ski", "wine glass": "wineglass",
    "tie": "necktie", "stop sign": "street sign", "hot dog": "hotdog", "t-shirt": "jersey", "shoes": "shoe",
    "pants": "trouser", "sandals": "sandal", "socks": "sock", "boots": "boot", "glasses": "spectacles",
    "gloves": "glove", "heels": "shoe", "pumps": "shoe", "sneakers": "gym shoe", "flats": "shoe",
    "wedges": "shoe", "earrings": "earring", "leggings": "legging", "stockings": "stocking",
    "loafers": "loafer", "shorts": "short pants", "keyboard": "computer keyboard", "purse": "bag",
    "accessories": "accessory",
}  # fmt: skip
"""What WordNet calls categories of COCO and of the clothes, where that is another word."""
TOO_WIDE = {
    "abstraction", "act", "activity", "area", "article", "artifact", "attribute", "block", "body part",
    "case", "causal agent", "chordate", "club", "commodity", "communication", "consumer goods", "container",
    "conveyance", "covering", "creation", "device", "disk", "entity", "equipment", "event",
    "geographical area", "group", "implement", "instrumentality", "line", "living thing", "location",
    "matter", "mechanism", "message", "natural object", "object", "organism", "part", "passage",
    "physical entity", "physical object", "placental", "plant organ", "plant part", "plate", "point",
    "process", "product", "property", "psychological feature", "region", "relation",
    "reproductive structure", "room", "sheet", "signal", "solid", "state", "stick", "structure",
    "substance", "surface", "system", "thing", "thread", "unit", "vertebrate", "ware", "way", "whole",
}  # fmt: skip
"""Kinds that nobody looks for, or that are not meant in the sense of the photo."""

LEAST_THINGS = 3  # in the training data; of fewer nothing is learned
NOT_SAID = {
    "accessories", "file", "hair", "nail", "polo", "racer", "ray", "recreation room", "restaurant", "skin",
    "top", "vessel",
}  # fmt: skip
"""Names that say too little, name no thing, or were meant in another sense than they are read in."""


def words_of(category: Mapping[str, object], nouns: Mapping[str, list[Noun]]) -> tuple[set[str], set[str]]:
    """A category's names, and what it is a kind of."""
    name = str(category["name"])
    synonyms, above = category.get("synonyms"), category.get("hypernyms")
    names = {name.lower(), *(str(word).lower() for word in synonyms or ())}  # type: ignore[attr-defined]
    if not above:
        known = IN_WORDNET.get(name, name)
        names.add(known)
        senses = [sense for sense in nouns.get(known, []) if sense.file in SEEN]
        # animals, artifacts and food before all else
        senses.sort(key=lambda sense: (sense.file not in (5, 6, 13), -sense.uses))
        above = ("human",) if name == "person" else senses[0].kinds if senses else ()
    kinds = {str(word).lower() for word in above}  # type: ignore[attr-defined]
    return names, kinds - TOO_WIDE - names


def choose_names(folders: Iterable[Path], nouns: Mapping[str, list[Noun]]) -> list[Name]:
    """The names of COCO-format folders' categories with at least LEAST_THINGS things, sorted; categories of
    one name are one. Raises SamcliError for a missing or malformed file.
    """
    also: dict[str, set[str]] = {}
    kinds: dict[str, set[str]] = {}
    things: Counter[str] = Counter()
    for folder in folders:
        data = read_json(folder / "annotations.json")
        counts = Counter(annotation["category_id"] for annotation in data["annotations"])
        for category in data["categories"]:
            name = str(category["name"]).lower()
            if name == UNNAMED or name in NOT_SAID:
                continue
            own, above = words_of(category, nouns)
            word = next((form for form in singulars(name) if form in own), name)  # shoes, socks
            also.setdefault(word, set()).update(own)
            kinds.setdefault(word, set()).update(above)
            things[word] += counts[category["id"]]
    return [
        Name(word, tuple(sorted(also[word] - {word})), tuple(sorted(kinds[word] - also[word])))
        for word in sorted(things)
        if things[word] >= LEAST_THINGS
    ]
