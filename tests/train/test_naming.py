"""Training of the word head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from samcli.cli import main
from samcli.errors import SamcliError
from samcli.ground.names import read_thing_names
from samcli.ground.vocabulary import Vocabulary, write_vocabulary
from samcli.models.words import WordHead
from samcli.train import naming
from samcli.train.log import Progress
from samcli.train.loop import Stage
from samcli.train.naming import (
    ABSENT,
    THERE,
    UNKNOWN,
    NamingDataset,
    NamingSamples,
    collate,
    naming_loss,
    read_names,
    train_detector,
)
from samcli.train.words import Noun
from samcli.weights import load_salient, load_sam

SIDE = 64
SHORT = replace(
    naming.CONFIG, stages=(Stage(side=SIDE, images=6, batch=2),), bf16=False, save_every=1, log_every=1
)
NOUNS = {
    "rectangle": [Noun(("shape", "entity"), 3, 25)],
    "disc": [Noun(("saucer", "artifact"), 0, 6), Noun(("shape", "entity"), 5, 25)],
}
WORDS = ("disc", "ellipse", "rectangle", "round thing", "saucer", "shape", "square")


@pytest.fixture
def named(shapes: Path, tmp_path: Path) -> Path:
    """The drawn shapes with names: discs with synonyms and hypernyms, rectangles without; one is nameless."""
    folder = tmp_path / "data" / "named"
    folder.mkdir(parents=True)
    (folder / "images").symlink_to(shapes / "images")
    data = json.loads((shapes / "annotations.json").read_text())
    data["categories"] = [
        {"id": 1, "name": "Disc", "synonyms": ["disc", "round thing"], "hypernyms": ["shape", "entity"]},
        {"id": 2, "name": "rectangle"},
        {"id": 3, "name": "salient object"},
    ]
    for i, annotation in enumerate(data["annotations"]):
        annotation["category_id"] = 3 if i == 1 else 1 + i % 2
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def vocabulary() -> Vocabulary:
    rng = np.random.default_rng(0)
    return Vocabulary(WORDS, rng.integers(-127, 128, (len(WORDS), 8)).astype(np.int8))


def dataset(folder: Path, vocabulary: Vocabulary, length: int = 40, **how: float) -> NamingDataset:
    packs, terms = read_names([folder], NOUNS)
    return NamingDataset(packs, terms, vocabulary, NamingSamples(side=SIDE, **how), seed=0, length=length)


def test_what_things_are_called(named: Path) -> None:
    (pack,), terms = read_names([named], NOUNS)
    assert terms.words == ("disc", "rectangle", "round thing", "shape")  # an entity is too wide
    disc, rectangle = ({terms.words[i] for i in np.flatnonzero(row)} for row in terms.true)
    assert disc == {"disc", "round thing", "shape"}
    assert rectangle == {"rectangle", "shape"}
    assert [[terms.words[i] for i in names] for names in terms.names] == [
        ["disc", "round thing"],
        ["rectangle"],
    ]
    assert not terms.unknown.any()
    assert [photo.categories for photo in pack.photos[:2]] == [(0, -1), (0, 1)]


def test_a_kind_of_it_may_be_there_too(named: Path) -> None:
    data = json.loads((named / "annotations.json").read_text())
    data["categories"].append({"id": 4, "name": "saucer", "hypernyms": ["disc", "shape"]})
    (named / "annotations.json").write_text(json.dumps(data))
    _, terms = read_names([named], NOUNS)
    unknown = [{terms.words[i] for i in np.flatnonzero(row)} for row in terms.unknown]
    assert unknown == [{"saucer"}, set(), set()]


def test_names_are_needed(named: Path) -> None:
    data = json.loads((named / "annotations.json").read_text())
    data["categories"] = data["categories"][2:]
    (named / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(SamcliError, match="the training data names nothing"):
        read_names([named], NOUNS)


def test_samples(named: Path, vocabulary: Vocabulary) -> None:
    plain = dataset(named, vocabulary, crop_share=0, paste_share=0)
    again = dataset(named, vocabulary, crop_share=0, paste_share=0)
    shape = WORDS.index("shape")
    seen = set()
    for i in range(len(plain)):
        asked = plain[i]
        assert all(torch.equal(a, b) for a, b in zip(asked, again[i], strict=True))
        assert asked.images.shape == (1, 3, SIDE, SIDE)
        assert asked.targets.shape == (naming.WORDS, SIDE // 4, SIDE // 4)
        height = int(asked.valid[0, 0])
        assert not asked.targets[:, -(-height // 4) :].any()
        for word, kind, target in zip(asked.words, asked.kinds, asked.targets, strict=True):
            assert bool(target.any()) == (kind == THERE)
            seen.add((WORDS[int(word)], int(kind)))
            if word == shape and kind == THERE and len(asked.regions) == 2:  # all that is a shape
                both = asked.regions.sum(0).repeat_interleave(4, 0).repeat_interleave(4, 1)
                assert float((both > 0)[target > 0.5].float().mean()) > 0.9
    assert ("disc", THERE) in seen
    assert ("shape", THERE) in seen
    assert ("square", ABSENT) in seen
    terms = dataset(named, vocabulary, crop_share=0, paste_share=0, anything_share=0)
    told = {
        (WORDS[int(word)], int(kind))
        for i in range(len(terms))
        for word, kind in zip(terms[i].words, terms[i].kinds, strict=True)
    }
    assert ("rectangle", ABSENT) in told
    assert ("shape", UNKNOWN) in told  # not told again that it is there,
    assert ("shape", ABSENT) not in told  # for it is in every photo


def test_things_are_pasted(named: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "PASTED_INTO", {"named"})
    monkeypatch.setattr(naming, "LEAST_CUTOUT", 100)
    pasted = dataset(named, vocabulary, crop_share=0, paste_share=1, pasted=(12, 30))
    counts = [len(pasted[i].regions) for i in range(20)]
    assert max(counts) > 2
    most = max(range(20), key=lambda i: counts[i])
    regions = pasted[most].regions
    assert float(regions.sum(0).max()) <= 1 + 1e-5  # what is in front hides what is behind


def test_the_gradient_reaches_every_parameter(named: Path, vocabulary: Vocabulary) -> None:
    sam = load_sam("tiny").sam
    head = WordHead(word_channels=8)
    head.begin_from(sam, load_salient(load_sam("tiny").sha256).head)
    packs, terms = read_names([named], NOUNS)
    samples = NamingDataset(packs, terms, vocabulary, NamingSamples(side=SIDE), seed=0, length=4)
    asked = collate([samples[i] for i in range(4)])
    assert asked.photo.max() == 3
    vectors = torch.from_numpy(vocabulary.vectors).float()
    tables = torch.from_numpy(terms.true), torch.from_numpy(terms.unknown)
    loss, reached, _ = naming_loss(sam, head, asked, vectors, vectors[samples.places], vectors, *tables)
    loss.backward()
    assert 0 <= reached <= 1
    idle = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias shifts all scores of a query alike, which softmax does not see
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []
    assert all(parameter.grad is None for parameter in sam.parameters())


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    (folder / "data.noun").write_text("00000001 25 n 01 shape 0 000 | a form\n")
    (folder / "index.noun").write_text("shape n 1 0 1 0 00000001\n")
    (folder / "cntlist.rev").write_text("")
    return folder


def train(named: Path, out: Path, vocabulary: Vocabulary, wordnet: Path) -> list[Progress]:
    out.mkdir(exist_ok=True)
    write_vocabulary(out / "words.safetensors", vocabulary)
    lines: list[Progress] = []
    train_detector(
        named.parent, out, config=SHORT, report=lines.append, note=lambda text: None, wordnet=wordnet
    )
    return lines


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    named: Path, tmp_path: Path, vocabulary: Vocabulary, wordnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(named, tmp_path / "whole", vocabulary, wordnet)
    assert [line.step for line in whole] == [1, 2, 3]
    assert "disc" in {name.word for name in read_thing_names(tmp_path / "whole" / "names.json")}

    def stop(line: Progress) -> None:
        if line.step == 2:
            raise KeyboardInterrupt

    out = tmp_path / "parts"
    out.mkdir()
    write_vocabulary(out / "words.safetensors", vocabulary)
    with pytest.raises(KeyboardInterrupt):
        train_detector(named.parent, out, config=SHORT, report=stop, note=lambda text: None, wordnet=wordnet)
    rest = train(named, out, vocabulary, wordnet)
    assert [line.step for line in rest] == [2, 3]
    with (
        safe_open(tmp_path / "whole" / "detector.safetensors", "pt") as one,
        safe_open(out / "detector.safetensors", "pt") as other,
    ):
        assert one.metadata()["weights_sha256"] == load_sam("tiny").sha256
        for name in one.keys():  # noqa: SIM118
            assert torch.equal(one.get_tensor(name), other.get_tensor(name)), name


def test_a_run_begins_with_a_head(named: Path, tmp_path: Path, vocabulary: Vocabulary, wordnet: Path) -> None:
    train(named, tmp_path / "first", vocabulary, wordnet)
    out = tmp_path / "same"
    out.mkdir()
    write_vocabulary(out / "words.safetensors", vocabulary)
    start = tmp_path / "first" / "detector.safetensors"
    train_detector(
        named.parent, out, config=replace(SHORT, lr=0.0), report=lambda _: None, note=lambda _: None,
        start=start, wordnet=wordnet,
    )  # fmt: skip
    first, same = load_file(start), load_file(out / "detector.safetensors")
    seen = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation
    assert all(torch.equal(first[name], same[name]) for name in first if not name.endswith(seen))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["train", "--recipe", "detector", "--data", str(tmp_path), "-o", str(tmp_path / "out")])
    assert code == 1
    assert "holds no training data" in capsys.readouterr().err
