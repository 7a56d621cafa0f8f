"""Taggers that say a sentence, whose nouns are the words: BLIP and Florence-2, through transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcli.errors import SamcliError
from samcli.ground import nouns
from samcli.ground.pretrained import (
    Place,
    Square,
    in_batches,
    load_network,
    load_tokenizer,
    picture_settings,
    quiet,
    square,
    to_numpy,
)
from samcli.ground.tagger import Limits, Tagged
from samcli.records import Tag

BEAMS = 3  # as in the demos of both
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

BLIP_TOKENS = 30  # of a caption, at most

CAPTION, CAPTION_TOKENS = "Describe in detail what is shown in the image.", 100
DETECTION, DETECTION_TOKENS = "Locate the objects with category name in the image.", 256
"""What Florence-2 is asked for its tasks DETAILED_CAPTION and OD, and tokens of an answer, at most."""
FLORENCE_SIDE = 768  # pixels
_PLACE = re.compile(r"<loc_\d+>")
_MARK = re.compile(r"<[^<>\s]+>")


class Said(NamedTuple):
    """What a network said of one picture: ids of tokens, and the probability of each, 0 to 1."""

    tokens: list[int]
    probabilities: list[float]


class Blip:
    """See `Tagger`. A word's score is the mean probability of the caption's tokens."""

    def __init__(self, place: Place, limits: Limits) -> None:
        """Raises SamcliError when its files are not sound, or transformers or TextBlob is missing."""
        self.name, self.sha256, self.images_per_call = place.name, place.sha256, place.images_per_call
        nouns.things("")  # a missing TextBlob is said now
        self._place, self._limits = place, limits
        self._network = load_network(place, "BlipForConditionalGeneration")
        self._tokenizer = load_tokenizer(place, "PreTrainedTokenizerFast", (("tokenizer.json",),))
        self._picture = square(place, self._network.config.vision_config.image_size, CLIP_MEAN, CLIP_STD)

    def tag(self, images: Sequence[NDArray[np.uint8]]) -> list[Tagged]:
        """See `Tagger`."""
        said = _of_all(self._say, images, self._picture, self.images_per_call)
        return [_captioned(one, self._tokenizer, self._limits, []) for one in said]

    @torch.inference_mode()
    def _say(self, pictures: Tensor) -> list[Said]:
        """pictures: (B, 3, S, S)."""
        text = self._network.config.text_config
        with self._place.arithmetic(), quiet():
            answer = self._network.generate(
                pixel_values=pictures.to(self._place.device),
                num_beams=BEAMS,
                max_new_tokens=BLIP_TOKENS,
                output_scores=True,
                return_dict_in_generate=True,
            )
        ends = {text.bos_token_id, text.sep_token_id, text.pad_token_id}
        return _said(self._network.text_decoder, answer, ends, self._place)


class Florence2:
    """See `Tagger`. It is asked twice: for the names of the things in the photo, whose score is the mean
    probability of a name's tokens, and for a caption, whose nouns have that of all its tokens.
    """

    def __init__(self, place: Place, limits: Limits) -> None:
        """Raises SamcliError when its files are not sound, or transformers or TextBlob is missing."""
        self.name, self.sha256, self.images_per_call = place.name, place.sha256, place.images_per_call
        nouns.things("")
        self._place, self._limits = place, limits
        self._network = load_network(place, "Florence2ForConditionalGeneration")
        self._tokenizer = load_tokenizer(place, "PreTrainedTokenizerFast", (("tokenizer.json",),))
        stride = math.prod(self._network.config.vision_config.patch_stride)
        side = _florence_side(place, stride)
        self._picture = square(place, side, IMAGENET_MEAN, IMAGENET_STD)
        self._cells = (side // stride) ** 2 + 1  # with their mean

    def tag(self, images: Sequence[NDArray[np.uint8]]) -> list[Tagged]:
        """See `Tagger`."""
        of_all = partial(_of_all, images=images, picture=self._picture, at_once=self.images_per_call)
        detected = of_all(partial(self._say, DETECTION, DETECTION_TOKENS))
        said = of_all(partial(self._say, CAPTION, CAPTION_TOKENS))
        return [
            _captioned(caption, self._tokenizer, self._limits, self._names(things))
            for things, caption in zip(detected, said, strict=True)
        ]

    @torch.inference_mode()
    def _say(self, prompt: str, most_tokens: int, pictures: Tensor) -> list[Said]:
        """pictures: (B, 3, S, S)."""
        tokens = self._prompt(prompt).expand(len(pictures), -1)
        with self._place.arithmetic(), quiet():
            answer = self._network.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=pictures.to(self._place.device),
                num_beams=BEAMS,
                max_new_tokens=most_tokens,
                output_scores=True,
                return_dict_in_generate=True,
            )
        text = self._network.config.text_config
        return _said(
            self._network, answer, {text.bos_token_id, text.eos_token_id, text.pad_token_id}, self._place
        )

    def _prompt(self, text: str) -> Tensor:
        """Token ids (1, T): a place for each cell of the picture, then the text."""
        config = self._network.config
        words = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        bos, eos = config.text_config.bos_token_id, config.text_config.eos_token_id
        ids = [*[config.image_token_id] * self._cells, bos, *words, eos]
        return torch.tensor([ids], device=self._place.device)

    def _names(self, said: Said) -> list[Tag]:
        """The names before the places in "car<loc_1><loc_2><loc_3><loc_4>wheel<loc_5>...","""
        tags: list[Tag] = []
        name: list[int] = []
        sure: list[float] = []
        tokens = self._tokenizer.convert_ids_to_tokens(said.tokens)
        for number, token, probability in zip(said.tokens, tokens, said.probabilities, strict=True):
            if _PLACE.fullmatch(token):
                if name:
                    text = _text(self._tokenizer, name)
                    tags += [Tag(word, float(np.mean(sure))) for word in nouns.distinct([text])]
                name, sure = [], []
            elif not _MARK.fullmatch(token):
                name.append(number)
                sure.append(probability)
        return tags


def _of_all(say: Any, images: Sequence[NDArray[np.uint8]], picture: Square, at_once: int) -> list[Said]:
    """What `say` says of all images, `at_once` of them together."""
    said: list[Said] = []
    for start in range(0, len(images), at_once):
        pictures = torch.stack([picture(image) for image in images[start : start + at_once]])
        said += in_batches(say, pictures)
    return said


def _said(network: Any, answer: Any, ends: set[int], place: Place) -> list[Said]:
    """Tokens of each answer with their probabilities, without those that begin, end and fill it."""
    transitions = network.compute_transition_scores(answer.sequences, answer.scores, answer.beam_indices)
    probabilities = np.exp(np.minimum(to_numpy(transitions, place), 0))
    written = answer.sequences[:, -probabilities.shape[1] :].tolist()
    found = []
    for tokens, sure in zip(written, probabilities.tolist(), strict=True):
        kept = [(token, p) for token, p in zip(tokens, sure, strict=True) if token not in ends]
        found.append(Said([token for token, _ in kept], [p for _, p in kept]))
    return found


def _captioned(said: Said, tokenizer: Any, limits: Limits, others: list[Tag]) -> Tagged:
    """A caption with its nouns. others: words from elsewhere; of a word that is in both, the surer counts."""
    caption = _text(tokenizer, said.tokens)
    score = float(np.mean(said.probabilities)) if said.probabilities else 0.0
    best: dict[str, float] = {}
    for tag in (*others, *(Tag(word, score) for word in nouns.things(caption))):
        best[tag.word] = max(tag.score, best.get(tag.word, 0.0))
    return Tagged(limits(Tag(word, score) for word, score in best.items()), caption)


def _text(tokenizer: Any, tokens: list[int]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return " ".join(_MARK.sub(" ", text).split())


def _florence_side(place: Place, stride: int) -> int:
    """Pixels of the side of what the network takes: as its files say, in whole cells of `stride` pixels."""
    size = picture_settings(place.folder).get("size", {"height": FLORENCE_SIDE})
    side = size.get("height") if isinstance(size, dict) else None
    if not isinstance(side, int) or side <= 0 or side % stride:
        raise SamcliError(
            f"the preprocessor of {place.folder} has size {size!r}; give height and width, "
            f"both a multiple of {stride}"
        )
    return side
