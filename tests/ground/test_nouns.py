"""From captions to things, each with a stated answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from samcli.errors import SamcliError
from samcli.ground import nouns
from samcli.ground.nouns import NO_THINGS, distinct, singular, things


@pytest.fixture(autouse=True)
def _textblob(request: pytest.FixtureRequest) -> None:
    if os.environ.get("CI") != "true" and "missing" not in request.node.name:
        pytest.importorskip("textblob")


CAPTIONS = {
    "a dog sitting on a couch": "dog, couch",
    "two cats sleeping on a blanket next to a laptop": "cat, blanket, laptop",
    "a group of people standing around a table with plates of food": "person, table, plate, food",
    "a close up of a cup of coffee on a wooden table": "cup, coffee, table",
    "arafed woman in a red dress walking down a street": "woman, dress, street",
    "a black and white photo of a train station": "train station",
    "a couple of zebras standing in a field": "zebra, field",
    "there is a stop sign on the side of the road": "stop sign, road",
    "a plate with a knife and fork on it": "plate, knife, fork",
    "a bunch of bananas hanging from a tree": "banana, tree",
    "a teddy bear sitting on a chair": "teddy bear, chair",
    "a bus parked in front of a building": "bus, building",
    "a woman with glasses holding a cell phone": "woman, glasses, cell phone",
    "three sheep grazing on grass in a meadow": "sheep, grass, meadow",
    "a bathroom with a toilet, sink and shower": "bathroom, toilet, sink, shower",
    "a view of a city from the top of a hill": "city, hill",
    "a pile of fruits and vegetables": "fruit, vegetable",
    "two men playing frisbee in a park": "man, frisbee, park",
    "a living room with a couch, a television and a fireplace": "living room, couch, television, fireplace",
    "children are feeding geese near the water": "child, goose, water",
    "The image shows a green car parked in front of a yellow building.": "car, building",
    "a slice of pizza on a white plate": "pizza, plate",
    "a cat looking at the camera": "cat",
    "a kite flying in the air": "kite",
    "a red stop sign next to an orange": "stop sign, orange",
    "mice and knives and leaves on shelves": "mouse, knife, leaf, shelf",
    "a dog and another dog, and dogs": "dog",
    "there are many different kinds of donuts on display": "donut, display",
    "a van van car": "van car",
    "a picture of something": "",
    "a": "",
    "": "",
    " \n": "",
    "!?": "",
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_things_of_a_caption(caption: str) -> None:
    assert ", ".join(things(caption)) == CAPTIONS[caption]


PLURALS = {
    "cats": "cat", "mice": "mouse", "knives": "knife", "buses": "bus", "dishes": "dish", "tomatoes": "tomato",
    "cherries": "cherry", "pies": "pie", "ties": "tie", "toes": "toe", "canoes": "canoe", "boxes": "box",
    "vases": "vase", "houses": "house", "zombies": "zombie", "people": "person", "sheep": "sheep",
    "scissors": "scissors", "jeans": "jeans", "bus": "bus", "dress": "dress", "grass": "grass",
    "skis": "ski", "iphones": "iphone", "猫": "猫",
}  # fmt: skip


@pytest.mark.parametrize("plural", PLURALS)
def test_singular(plural: str) -> None:
    assert singular(plural) == PLURALS[plural]


def test_names_that_a_model_gives_as_such() -> None:
    assert distinct(["Cars", "car", " traffic  light", "group", "Top", "", "1", "cat"]) == (
        "car",
        "traffic light",
        "cat",
    )


def test_what_is_no_thing_is_in_the_singular() -> None:
    plurals = {"others", "series"}
    assert {word for word in NO_THINGS if singular(word) != word} <= plurals


def test_a_missing_textblob_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob", None)
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    nouns._textblob.cache_clear()
    with pytest.raises(SamcliError) as caught:
        things("a cat")
    assert str(caught.value) == (
        "captions become words by textblob; install it with: pip install 'samcli[ground]'"
    )


def test_nothing_is_downloaded() -> None:
    """Nor looked for in the user's folders of NLTK."""
    code = (
        "import socket\n"
        "def refuse(*args, **options): raise AssertionError('the network was used')\n"
        "socket.socket.connect = refuse\n"
        "from samcli.ground.nouns import things\n"
        "print(*things('two cats on a mat'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": "/nonexistent", "NLTK_DATA": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("cat mat\n", "")
