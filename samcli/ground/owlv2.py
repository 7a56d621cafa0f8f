"""OWLv2, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcli.errors import StopError
from samcli.ground.detector import Detected, Thresholds, nothing
from samcli.ground.pretrained import (
    Place,
    colours,
    in_batches,
    load_network,
    load_tokenizer,
    picture_settings,
    to_detected,
    to_numpy,
)

NETWORK = "Owlv2ForObjectDetection"
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
ARTICLES = ("a", "an", "the")


class Owlv2:
    """A `Detector`. Each phrase is a query of its own; a box belongs to the phrase that it fits best."""

    def __init__(self, place: Place, thresholds: Thresholds) -> None:
        """Load it. Raises SamcliError when its files are not sound, or transformers is missing."""
        self.name, self.sha256, self.images_per_call = place.name, place.sha256, place.images_per_call
        self.thresholds = thresholds
        self._place = place
        self._network = load_network(place, NETWORK)
        self._tokenizer = load_tokenizer(place, "CLIPTokenizer", TOKENIZER_FILES)
        self._most_tokens: int = self._network.config.text_config.max_position_embeddings
        self._side: int = self._network.config.vision_config.image_size
        self._mean, self._std = colours(place, picture_settings(place.folder), MEAN, STD)

    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        """See `Detector`. There is no text threshold."""
        if not phrases:
            return [nothing() for _ in images]
        asked = self._tokens(phrases)
        found: list[Detected] = []
        for start in range(0, len(images), self.images_per_call):
            group = images[start : start + self.images_per_call]
            pictures = torch.stack([self._picture(image) for image in group])
            answers = in_batches(lambda batch: self._ask(batch, asked, thresholds.box), pictures)
            for image, (boxes, scores, which) in zip(group, answers, strict=True):
                size = (image.shape[0], image.shape[1])
                side = float(max(size))  # the network saw the image at the top left of a square
                found.append(to_detected(boxes, (side, side), size, scores, which))
        return found

    def knows(self, phrase: str) -> bool:
        """See `Detector`: it has words, and they fit."""
        try:
            self._tokens([phrase])
        except StopError:
            return False
        return True

    @torch.inference_mode()
    def _ask(
        self, pictures: Tensor, asked: dict[str, Tensor], threshold: float
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
        """Boxes (N, 4), scores (N,) and phrases (N,) above the threshold of each picture (B, 3, S, S)."""
        queries = {name: value.repeat(len(pictures), 1) for name, value in asked.items()}
        with self._place.arithmetic():
            answer = self._network(pixel_values=pictures.to(self._place.device), **queries)
        probabilities = to_numpy(answer.logits.float().sigmoid(), self._place)
        boxes = to_numpy(answer.pred_boxes, self._place)
        found = []
        for of_phrases, of_boxes in zip(probabilities, boxes, strict=True):
            scores = of_phrases.max(axis=1)
            kept = scores > threshold
            found.append((of_boxes[kept], scores[kept], of_phrases[kept].argmax(axis=1)))
        return found

    def _tokens(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """The network's text inputs, (P, T) each. Raises StopError for a phrase that does not fit."""
        if not all(phrase.split() for phrase in phrases):
            raise StopError(f"{self.name} cannot look for a phrase without words")
        texts = [query(phrase) for phrase in phrases]
        encoded: Any = self._tokenizer(texts, split_special_tokens=True)
        for phrase, ids in zip(phrases, encoded["input_ids"], strict=True):
            if len(ids) > self._most_tokens:
                raise StopError(
                    f'{self.name} cannot look for {phrase!r}: it has {len(ids)} tokens with "a photo of", '
                    f"at most {self._most_tokens} fit"
                )
        padded = self._tokenizer.pad(
            encoded, padding="max_length", max_length=self._most_tokens, return_tensors="pt"
        )
        return {name: padded[name].to(self._place.device) for name in ("input_ids", "attention_mask")}

    def _picture(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 RGB to what the network takes, (3, S, S) fp32."""
        values = (squared(image, self._side) - self._mean) / self._std
        return torch.from_numpy(values).permute(2, 0, 1)


def query(phrase: str) -> str:
    """What OWLv2 is asked: it was trained on captions, so "cat" and "a cat" are "a photo of a cat"."""
    words = phrase.lower().split()
    return " ".join(("a photo of", *(() if words[0] in ARTICLES else ("a",)), *words))


def squared(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """An image (H, W, 3) padded below and right with black to a square, at `side` pixels, values 0 to 1.

    As the reference resizes: blurred by a Gaussian of (scale - 1) / 2 when made smaller, then interpolated
    linearly; mirrored at the edges. One colour after the other: a photo of 100 megapixels takes a third of
    some gigabytes.
    """
    return np.stack([_squared(image[..., colour], side) for colour in range(3)], axis=2)


def _squared(values: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """One colour, (H, W) to (side, side)."""
    long = max(values.shape)
    padded = np.zeros((long, long), np.float32)
    np.divide(values, 255, out=padded[: values.shape[0], : values.shape[1]], dtype=np.float32)
    scale = long / side
    sigma = (scale - 1) / 2
    radius = int(4 * sigma + 0.5)
    if radius > 0:
        kernel = (2 * radius + 1, 2 * radius + 1)
        padded = cv2.GaussianBlur(padded, kernel, sigma, borderType=cv2.BORDER_REFLECT_101)
    at = (np.arange(side) + 0.5) * scale - 0.5
    first = np.floor(at).astype(np.int64)
    share = (at - first).astype(np.float32)[:, None]
    low, high = (np.clip(_mirrored(i, long), 0, long - 1) for i in (first, first + 1))
    rows = padded[low] * (1 - share) + padded[high] * share
    columns = rows.T
    found: NDArray[np.float32] = (columns[low] * (1 - share) + columns[high] * share).T
    return found


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices just outside of 0..size, mirrored about the first and last one."""
    index = np.abs(index)
    return np.where(index >= size, 2 * (size - 1) - index, index)
