"""The words of the embedded detector: WordNet's files, the choice of words, the sentence encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from samcli.errors import SamcliError
from samcli.train.words import (
    SentenceEncoder,
    choose_words,
    described,
    read_wordnet,
    reduce,
)

# Four numbers lead each line of the database: offset, lexicographer file, part of speech, count of words.
DATA = """  1 a line of the licence
00000001 03 n 01 entity 0 000 | what is
00000002 05 n 02 cat 0 true_cat 0 001 @ 00000003 n 0000 | a feline animal
00000003 05 n 01 animal 0 001 @ 00000001 n 0000 | that moves
00000004 18 n 01 cat 0 001 @ 00000006 n 0000 | an informal term for a youth
00000005 05 n 01 Felix 0 001 @i 00000002 n 0000 | one cat of a film
00000006 18 n 01 person 0 001 @ 00000001 n 0000 | a human being
00000007 18 n 01 lout 0 001 @ 00000006 n 0000 | an offensive word
00000008 07 n 01 height 0 001 @ 00000001 n 0000 | how tall
00000010 18 n 01 boy 0 001 @ 00000006 n 0000 | a young man
00000009 06 n 02 tea_cup 0 teacup 0 001 @ 00000001 n 0000 | a cup
"""
INDEX = """  1 a line of the licence
animal n 1 1 @ 1 1 00000003
boy n 1 1 @ 1 1 00000010
cat n 2 1 @ 2 1 00000002 00000004
entity n 1 0 1 0 00000001
felix n 1 1 @i 1 0 00000005
height n 1 1 @ 1 1 00000008
lout n 1 1 @ 1 0 00000007
person n 1 1 @ 1 1 00000006
tea_cup n 1 1 @ 1 0 00000009
"""
COUNTS = """cat%1:05:00:: 1 18
cat%1:18:01:: 2 1
animal%1:05:00:: 1 30
cat%2:29:00:: 1 99
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    for name, content in (("data.noun", DATA), ("index.noun", INDEX), ("cntlist.rev", COUNTS)):
        (tmp_path / name).write_text(content, encoding="latin-1")
    return tmp_path


def test_wordnets_nouns(wordnet: Path) -> None:
    nouns = read_wordnet(wordnet)
    animal, young = nouns["cat"]
    assert animal.kinds == ("animal", "entity")
    assert (animal.uses, animal.file) == (18, 5)
    assert (young.kinds, young.uses, young.file) == (("person", "entity"), 1, 18)
    assert nouns["felix"] == []  # the name of one
    assert nouns["lout"] == []  # a word to insult with
    assert nouns["tea cup"][0].file == 6


def test_described_by_the_sense_that_is_used(wordnet: Path) -> None:
    nouns = read_wordnet(wordnet)
    assert described("cat", nouns) == "cat, animal, entity"
    assert described("tea cup", nouns) == "tea cup, entity"
    assert described("height", nouns) == "height"  # cannot be seen
    assert described("zyx", nouns) == "zyx"


def test_missing_wordnet_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        SamcliError, match=r"WordNet cannot be read from .*; pip install wordfreq .*wordnet-base"
    ):
        read_wordnet(tmp_path)


def test_chosen_words_can_be_seen(wordnet: Path) -> None:
    pytest.importorskip("wordfreq")
    words = choose_words(read_wordnet(wordnet), ["Zyx", "cat"])
    assert words == ["animal", "boy", "cat", "tea cup", "zyx"]  # no words for persons but a few
    assert choose_words(read_wordnet(wordnet), ["zyx"], count=1) == ["boy", "zyx"]  # the commonest
    assert "person" in choose_words(read_wordnet(wordnet), ["person"])  # wanted


def test_vectors_are_reduced() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 3, generator=generator) @ torch.randn(3, 20, generator=generator) + 5
    reduced = reduce(vectors, 3)
    assert (reduced.dtype, reduced.shape) == (np.int8, (50, 3))
    assert np.allclose(np.linalg.norm(reduced.astype(float), axis=1), 127, atol=2)
    centred = vectors - vectors.mean(0)
    angles = torch.nn.functional.cosine_similarity(centred[:1], centred[1:])
    kept = torch.from_numpy(reduced).float()
    again = torch.nn.functional.cosine_similarity(kept[:1], kept[1:])
    assert torch.allclose(angles, again, atol=0.03)


def test_the_encoder_is_bert_with_a_mean(tmp_path: Path) -> None:
    """Beside transformers' BertModel, on random weights of MiniLM's depth."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=48, num_hidden_layers=6, num_attention_heads=12, intermediate_size=96
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file({n: t.contiguous() for n, t in bert.state_dict().items()}, tmp_path / "model.safetensors")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {word: i for i, word in enumerate(["cat", "dog", "a", "red", ",", "animal"], 4)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = ["cat", "a red dog, animal", "dog"]
    ours = SentenceEncoder(tmp_path)(texts, batch=2)
    encoded = [tokenizer.encode(text).ids for text in texts]
    with torch.no_grad():
        theirs = torch.stack([bert(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in encoded])
    assert torch.allclose(ours, torch.nn.functional.normalize(theirs, dim=1), atol=1e-5)
