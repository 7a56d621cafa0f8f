"""Grounding DINO and MM-Grounding-DINO, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from samcli.errors import SamcliError, StopError
from samcli.ground.detector import Detected, Thresholds, nothing
from samcli.ground.phrases import Caption, Frame, captions, decode
from samcli.ground.pretrained import (
    Place,
    colours,
    in_batches,
    load_network,
    load_tokenizer,
    picture_settings,
    to_detected,
    to_numpy,
    together,
)

NETWORKS = {  # by model_type
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.txt",))
FRAME = Frame(start=101, dot=1012, stop=102)  # BERT's ids, which the network's code has fixed
QUESTION_MARK = 1029  # ends a phrase as the dot does
SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels, the most
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class GroundingDino:
    """A `Detector`. Images of one size go through the network together, others apart: so no padding, and what
    is found in an image never depends on the others of the call.
    """

    def __init__(self, place: Place, model_type: str, thresholds: Thresholds) -> None:
        """Load it. Raises SamcliError when its files are not sound, or transformers is missing."""
        self.name, self.sha256, self.images_per_call = place.name, place.sha256, place.images_per_call
        self.thresholds = thresholds
        self._place = place
        self._network = load_network(place, NETWORKS[model_type])
        self._tokenizer = load_tokenizer(place, "BertTokenizer", TOKENIZER_FILES)
        if self._tokenizer.convert_tokens_to_ids(["[CLS]", ".", "[SEP]"]) != list(FRAME):
            raise SamcliError(f"the tokenizer in {place.folder} is not BERT's; Grounding DINO needs that one")
        self._most_tokens: int = self._network.config.max_text_len
        settings = picture_settings(place.folder)
        self._sides = _sides(place, settings.get("size"))
        self._mean, self._std = colours(place, settings, MEAN, STD)

    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        """See `Detector`. Phrases that do not fit into one caption take several passes."""
        if not phrases:
            return [nothing() for _ in images]
        asked = captions([self._tokens(phrase) for phrase in phrases], FRAME, self._most_tokens)
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault((image.shape[0], image.shape[1]), []).append(index)
        found: dict[int, Detected] = {}
        for size, indices in by_size.items():
            for start in range(0, len(indices), self.images_per_call):
                group = indices[start : start + self.images_per_call]
                pictures = torch.stack([self._picture(images[index]) for index in group])
                passes = [
                    in_batches(partial(self._ask, caption, size, thresholds), pictures) for caption in asked
                ]
                found.update(zip(group, map(together, zip(*passes, strict=True)), strict=True))
        return [found[index] for index in range(len(images))]

    def knows(self, phrase: str) -> bool:
        """See `Detector`: not all of its tokens are unknown, and they fit."""
        try:
            self._tokens(phrase)
        except StopError:
            return False
        return True

    @torch.inference_mode()
    def _ask(
        self, caption: Caption, size: tuple[int, int], thresholds: Thresholds, pictures: Tensor
    ) -> list[Detected]:
        """One pass. pictures: (B, 3, h, w) fp32. size: (height, width) of the images."""
        tokens = torch.tensor([caption.tokens], device=self._place.device).expand(len(pictures), -1)
        with self._place.arithmetic():
            answer = self._network(pixel_values=pictures.to(self._place.device), input_ids=tokens)
        probabilities = to_numpy(answer.logits.float().sigmoid(), self._place)
        boxes = to_numpy(answer.pred_boxes, self._place)
        found = []
        for of_tokens, of_boxes in zip(probabilities, boxes, strict=True):
            kept = decode(of_tokens, caption.spans, thresholds.box, thresholds.text or 0.0)
            unit = (float(size[1]), float(size[0]))
            found.append(to_detected(of_boxes[kept.queries], unit, size, kept.scores, kept.phrases))
        return found

    def _tokens(self, phrase: str) -> list[int]:
        """A phrase's token ids, without any that would end it. Raises StopError when it cannot be asked."""
        ids: Any = self._tokenizer(phrase.lower(), add_special_tokens=False, split_special_tokens=True)
        tokens = [token for token in ids["input_ids"] if token not in (*FRAME, QUESTION_MARK)]
        if all(token == self._tokenizer.unk_token_id for token in tokens):
            raise StopError(f"{self.name} cannot read {phrase!r}; its words are English")
        if len(tokens) > self._most_tokens - 3:
            raise StopError(
                f"{self.name} cannot look for {phrase[:40] + '...'!r}: it has {len(tokens)} tokens, "
                f"at most {self._most_tokens - 3} fit"
            )
        return tokens

    def _picture(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 RGB to what the network takes, (3, h, w) fp32."""
        height, width = resized((image.shape[0], image.shape[1]), *self._sides)
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        values = (np.asarray(small, dtype=np.float32) / 255 - self._mean) / self._std
        return torch.from_numpy(values).permute(2, 0, 1)


def _sides(place: Place, size: Any) -> tuple[int, int]:
    """Short and long side of what the network takes, as the detector's files say, else the reference's."""
    if size is None:
        return SHORT_SIDE, LONG_SIDE
    short, long = (
        size.get(key) if isinstance(size, dict) else None for key in ("shortest_edge", "longest_edge")
    )
    if not (isinstance(short, int) and isinstance(long, int) and 0 < short <= long):
        raise SamcliError(
            f"the preprocessor of {place.folder} has size {size!r}; give shortest_edge and longest_edge"
        )
    return short, long


def resized(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) whose short side is `short`, or less so that the long side is no more than `long`.

    Rounded as transformers does, which differs from the reference by a pixel for long images.
    """
    least, most = min(size), max(size)
    side = long * least / most if most / least * short > long else float(short)
    whole = round(side)
    other = most if least == whole else int(side * most / least)
    whole = max(whole, 1)  # of a line a thousand times longer than wide
    return (whole, other) if size[0] <= size[1] else (other, whole)
