"""The embedded detector: always there, for the words of its vocabulary.

The word head (`models.words`) draws the mask of all that a word names; its connected parts are the things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from samcli.geometry import resized_size
from samcli.ground.detector import Detected, Thresholds
from samcli.ground.vocabulary import Vocabulary
from samcli.models.sam import Sam
from samcli.models.small import SmallEncoder
from samcli.models.words import WORD_SIDE, Meanings, WordHead

WORDS_AT_ONCE = 32  # decoded together
SMALL_PART = 0.1  # of the largest part of a mask; smaller ones are crumbs
LEAST_PART = 12  # pixels of the head's input
LOGIT_STRIDE = 4


class TinyDetector:
    """See `ground.detector.Detector`. dtype: of the networks."""

    name = "tiny"

    def __init__(
        self,
        sam: Sam,
        head: WordHead,
        vocabulary: Vocabulary,
        sha256: str,
        thresholds: Thresholds,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.sha256, self.thresholds, self.vocabulary = sha256, thresholds, vocabulary
        self.device, self.dtype = device, dtype
        self.images_per_call = 1 if device.type == "cpu" else 16
        encoder = sam.image_encoder
        assert isinstance(encoder, SmallEncoder)
        self._mean, self._std = sam.pixel_mean.to(device), sam.pixel_std.to(device)  # in fp32, as positions
        grid = WORD_SIDE // 16
        self._positions = sam.prompt_encoder.pe_layer((grid, grid))[None].to(device=device, dtype=dtype)
        self._encoder = encoder.to(device=device, dtype=dtype)
        self._head = head.to(device=device, dtype=dtype)

    @torch.inference_mode()
    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        """Boxes of all phrases in each image, (H, W, 3) uint8 RGB; `thresholds.text` has no meaning here.

        Raises SamcliError for a phrase that is not in the vocabulary.
        """
        places = [self.vocabulary.place(phrase) for phrase in phrases]
        vectors = torch.from_numpy(self.vocabulary.vectors[places]).to(device=self.device, dtype=self.dtype)
        words = self._head.words(vectors)
        inputs = torch.cat([self._input(image) for image in images]).to(self.dtype)
        meanings = self._head.look(self._encoder.stages(inputs))
        return [
            self._found(_only(meanings, i), words, image.shape[:2], thresholds.box)
            for i, image in enumerate(images)
        ]

    def _input(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to the padded input (1, 3, S, S) fp32."""
        height, width = resized_size((image.shape[0], image.shape[1]), WORD_SIDE)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device).permute(2, 0, 1)[None]
        normal = (pixels.float() - self._mean) / self._std
        return F.pad(normal, (0, WORD_SIDE - width, 0, WORD_SIDE - height))

    def _found(self, meanings: Meanings, words: Tensor, size: tuple[int, ...], least: float) -> Detected:
        """What the words name in one image of `size` (height, width)."""
        height, width = resized_size((size[0], size[1]), WORD_SIDE)
        boxes: list[NDArray[np.float64]] = []
        scores: list[float] = []
        phrases: list[int] = []
        for start in range(0, len(words), WORDS_AT_ONCE):
            logits, score, _ = self._head(meanings, self._positions, words[start : start + WORDS_AT_ONCE])
            sure = score.float().sigmoid().cpu().tolist()
            for i, certain in enumerate(sure):
                if certain <= least:  # no part of its mask can be better
                    continue
                whole = F.interpolate(
                    logits[i][None, None].float(), scale_factor=LOGIT_STRIDE, mode="bilinear"
                )
                for box, share in _parts(whole[0, 0, :height, :width].cpu().numpy()):
                    if certain * share > least:
                        boxes.append(box)
                        scores.append(certain * share)
                        phrases.append(start + i)
        order = np.argsort(-np.array(scores), kind="stable")
        scale = np.array([size[1] / width, size[0] / height] * 2)
        found = np.array(boxes, np.float64).reshape(-1, 4) * scale
        return Detected(found[order], np.array(scores)[order], np.array(phrases, np.int64)[order])


def _only(meanings: Meanings, i: int) -> Meanings:
    """What was made of one image of several."""
    features = meanings.features
    one = type(features)(
        features.embedding[i : i + 1],
        tuple(finer[i : i + 1] for finer in features.high_res),
        features.stage8[i : i + 1],
    )
    return Meanings(meanings.cells[i : i + 1], one)


def _parts(logits: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float64], float]]:
    """The connected parts of a mask, as boxes x0, y0, x1, y1, and how sure each is beside the surest."""
    mask = (logits > 0).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    least = max(LEAST_PART, SMALL_PART * areas[1:].max(initial=0))
    kept = [i for i in range(1, count) if areas[i] >= least]
    probability = 1 / (1 + np.exp(-logits))
    sure = {i: float(probability[labels == i].mean()) for i in kept}
    best = max(sure.values(), default=1.0)
    for i in kept:
        x, y, w, h = stats[i, :4].tolist()
        yield np.array([x, y, x + w, y + h], np.float64), sure[i] / best


def load_tiny(
    folder: Path, sha256: str, thresholds: Thresholds, *, device: torch.device, dtype: torch.dtype
) -> TinyDetector:
    """The detector from its files in a folder. Raises WeightsError when one is damaged."""
    from samcli.ground.vocabulary import read_vocabulary
    from samcli.weights import DEFAULT_MODEL, DETECTOR_FILE, WORDS_FILE, load_sam, load_word_head

    vocabulary = read_vocabulary(folder / WORDS_FILE)
    sam = load_sam(DEFAULT_MODEL)
    head = load_word_head(folder / DETECTOR_FILE, vocabulary.vectors.shape[1], sam.sha256)
    return TinyDetector(sam.sam, head, vocabulary, sha256, thresholds, device=device, dtype=dtype)
