"""Figures of a tagger on COCO-format sets with ground truth: does it say what is annotated?

    python bench/tags.py COCO PETS [--tagger NAME] [--limit N]

Each DIR holds annotations.json and images/. Prints a JSON line for each set, way, list length and threshold:

- way: "own words", what the tagger says of its own accord; "labels", chosen from the 80 names of COCO (for
  taggers that take labels).
- precision: tags that are right, of all. An own word is right that names an annotated thing, a kind of it
  ("tabby" for a cat), or what it is a kind of; what is there but not annotated counts as wrong.
- recall: names annotated in a photo that some tag is right for, of all.
- tags: words for a photo, mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import samcli
from samcli import images
from samcli.ground.load import load_tagger, tagger_spec
from samcli.ground.names import Name, read_thing_names
from samcli.records import Tag

LENGTHS = (1, 3, 5, 8)
THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5)
NAMES = Path(samcli.__file__).parent / "data" / "names.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="COCO's first: the labels are its names")
    parser.add_argument("--tagger", default="tiny")
    parser.add_argument("--limit", type=int, help="photos per set")
    args = parser.parse_args()
    spec = tagger_spec(args.tagger)
    ways: dict[str, list[str] | None] = {} if spec.chooses else {"own words": None}
    if spec.takes_labels:
        ways["labels"] = labels(args.folders[0])
    for folder in args.folders:
        for way, chosen_from in ways.items():
            for line in figures(args.tagger, folder, chosen_from, args.limit):
                print(json.dumps({"set": folder.name, "tagger": args.tagger, "way": way, **line}), flush=True)


def labels(folder: Path) -> list[str]:
    data = json.loads((folder / "annotations.json").read_text())
    return [category["name"] for category in data["categories"]]


def figures(name: str, folder: Path, chosen_from: list[str] | None, limit: int | None) -> list[dict]:
    """A line for each list length and threshold; the tagger looks at each photo once."""
    tagger = load_tagger(name, device="cpu", labels=chosen_from, threshold=0, most=10_000)
    data = json.loads((folder / "annotations.json").read_text())
    names = {category["id"]: category["name"].lower() for category in data["categories"]}
    seen: list[tuple[tuple[Tag, ...], set[str]]] = []
    for photo in data["images"][:limit]:
        here = {names[a["category_id"]] for a in data["annotations"] if a["image_id"] == photo["id"]}
        (tagged,) = tagger.tag([images.load(folder / "images" / photo["file_name"])])
        seen.append((tagged.tags, here))
        print(f"\r{folder.name} {len(seen)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    table = {} if chosen_from else {word: name for name in read_thing_names(NAMES) for word in both(name)}
    lines = []
    for length in LENGTHS:
        for threshold in THRESHOLDS:
            said = right = found = there = 0
            for tags, here in seen:
                words = [tag.word for tag in tags[:length] if tag.score >= threshold]
                said += len(words)
                right += sum(any(same(word, truth, table) for truth in here) for word in words)
                there += len(here)
                found += sum(any(same(word, truth, table) for word in words) for truth in here)
            lines.append(
                {
                    "most": length,
                    "threshold": threshold,
                    "precision": round(right / max(said, 1), 3),
                    "recall": round(found / max(there, 1), 3),
                    "tags": round(said / max(len(seen), 1), 1),
                }
            )
    return lines


def both(name: Name) -> tuple[str, ...]:
    return (name.word, *name.also)


def same(word: str, truth: str, table: dict[str, Name]) -> bool:
    """Whether a word is right for an annotated name. table: what is known of words."""
    if word == truth or word not in table or truth not in table:
        return word == truth
    one, other = table[word], table[truth]
    own, others = set(both(one)), set(both(other))
    return bool(own & others or own & set(other.kinds) or others & set(one.kinds))


if __name__ == "__main__":
    main()
