"""The embedded detector: always there, for the words of its vocabulary.

The word head (`models.words`) draws the mask of all that a word names, whose connected parts are things. In a
picture of many things that mask is too coarse, so tiny's own decoder is asked too, with clicks where the word
is likest; each of its masks is scored by the word's likeness within it and its predicted IoU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from samcli.masks import mask_to_box, nms
from samcli.models.prompt_encoder import FOREGROUND, PADDING
from samcli.models.sam import ImageFeatures, Sam
from samcli.models.small import SmallEncoder
from samcli.models.words import Meanings, WordHead

SIDE = 384  # pixels; of the input. Found better on dev photos than the 256 and 320 that were trained at
WORDS_AT_ONCE = 8  # decoded together; on a CPU 2 to 32 were slower
CLICKS = 12  # of a word, at most
WORTH_CLICKS = 0.05  # score of a word's mask, above which clicks are worth their time
LEAST_LIKE = -4.0  # logit of a cell's likeness to the word, for a click
CLICK_WEIGHT = 0.6  # of the scores of clicks beside those of the word's mask
WHOLE_PICTURE = 0.95  # share of the picture that a thing does not exceed
DUPLICATE = 0.8  # IoU of boxes of one word, of which the better one stays
PIECE = 0.8  # share of a box that lies in a better one of the word, from which on it is a piece of that
SMALL_PART = 0.1  # of the largest part of a mask; smaller ones are crumbs
LEAST_PART = 12  # pixels of the head's input
STRIDE, LOGIT_STRIDE = 16, 4


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
        grid = SIDE // STRIDE
        sam.prompt_encoder.image_embedding_size = grid, grid
        sam.prompt_encoder.input_image_size = SIDE, SIDE
        self._mean, self._std = sam.pixel_mean.to(device), sam.pixel_std.to(device)
        # In fp32: in 16 bits positions would blur.
        matrix = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.to(device)
        self._sam = sam.to(device=device, dtype=dtype)
        sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix = matrix
        self._positions = sam.prompt_encoder.get_dense_pe().to(dtype)
        self._head = head.to(device=device, dtype=dtype)

    @torch.inference_mode()
    def detect(
        self, images: Sequence[NDArray[np.uint8]], phrases: Sequence[str], thresholds: Thresholds
    ) -> list[Detected]:
        """Boxes of all phrases in each image, (H, W, 3) uint8 RGB; `thresholds.text` has no meaning here.

        Raises SamcliError for a phrase that is not in the vocabulary.
        """
        words, meanings = self.words(phrases), self.look(images)
        return [
            self._found(only(meanings, i), words, image.shape[:2], thresholds.box)
            for i, image in enumerate(images)
        ]

    @torch.inference_mode()
    def words(self, phrases: Sequence[str]) -> Tensor:
        """What the network makes of phrases, (P, C). Raises SamcliError for one outside the vocabulary."""
        places = [self.vocabulary.place(phrase) for phrase in phrases]
        vectors = torch.from_numpy(self.vocabulary.vectors[places])
        made: Tensor = self._head.words(vectors.to(device=self.device, dtype=self.dtype))
        return made

    @torch.inference_mode()
    def look(self, images: Sequence[NDArray[np.uint8]]) -> Meanings:
        """What the network makes of images, (H, W, 3) uint8 RGB, at least one."""
        inputs = torch.cat([self._input(image) for image in images]).to(self.dtype)
        encoder = self._sam.image_encoder
        assert isinstance(encoder, SmallEncoder)
        return self._head.look(encoder.stages(inputs))

    @torch.inference_mode()
    def alike(self, regions: Tensor, words: Tensor) -> Tensor:
        """How alike regions are to words, (R, P) fp32, 0 to 1. regions: (R, C) means of `Meanings.cells`."""
        cosine = self._head.meant(regions) @ words.T
        found: Tensor = (self._head.scale[0].exp() * cosine + self._head.bias[0]).float().sigmoid()
        return found

    @torch.inference_mode()
    def sure(self, meanings: Meanings, words: Tensor) -> Tensor:
        """Scores of the masks of words (P, C) in one image, (P,) fp32, 0 to 1."""
        _, score, _ = self._head(meanings, self._positions, words)
        certain: Tensor = score.float().sigmoid()
        return certain

    def knows(self, phrase: str) -> bool:
        """See `Detector`: it is in the vocabulary."""
        return self.vocabulary.find(phrase) is not None

    def _input(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to the padded input (1, 3, S, S) fp32."""
        height, width = resized_size((image.shape[0], image.shape[1]), SIDE)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device).permute(2, 0, 1)[None]
        normal = (pixels.float() - self._mean) / self._std
        return F.pad(normal, (0, SIDE - width, 0, SIDE - height))

    def _found(self, meanings: Meanings, words: Tensor, size: tuple[int, ...], least: float) -> Detected:
        """What the words name in one image of `size` (height, width)."""
        shown = resized_size((size[0], size[1]), SIDE)
        boxes = [np.zeros((0, 4))]
        scores = [np.zeros(0)]
        phrases = [np.zeros(0, np.int64)]
        for start in range(0, len(words), WORDS_AT_ONCE):
            logits, score, alike = (
                out.float()
                for out in self._head(meanings, self._positions, words[start : start + WORDS_AT_ONCE])
            )
            for i, certain in enumerate(score.sigmoid().tolist()):
                found, sure = _parts(logits[i], shown, certain)
                if certain > WORTH_CLICKS:
                    clicked, likely = self._clicked(meanings, alike[i], shown, least)
                    found, sure = np.concatenate([found, clicked]), np.concatenate([sure, likely])
                kept = np.flatnonzero(sure > least)
                kept = kept[nms(found[kept], sure[kept], DUPLICATE)]
                kept = kept[_whole(found[kept])]
                boxes.append(found[kept])
                scores.append(sure[kept])
                phrases.append(np.full(len(kept), start + i))
        all_scores = np.concatenate(scores)
        order = np.argsort(-all_scores, kind="stable")
        scale = np.array([size[1] / shown[1], size[0] / shown[0]] * 2)
        all_boxes = np.concatenate(boxes) * scale
        return Detected(all_boxes[order], all_scores[order], np.concatenate(phrases)[order])

    def _clicked(
        self, meanings: Meanings, alike: Tensor, shown: tuple[int, int], least: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes (N, 4) in the input and scores (N,) of tiny's masks for clicks where a word is likest.

        alike: (h, w) logits of the cells. shown: (height, width) of the input without its padding. Where no
        mask can score more than `least`, tiny is not asked.
        """
        cells = -(-shown[0] // STRIDE), -(-shown[1] // STRIDE)
        inside = torch.full_like(alike, -math.inf)
        inside[: cells[0], : cells[1]] = alike[: cells[0], : cells[1]]
        if CLICK_WEIGHT * float(inside.max().sigmoid().sqrt()) <= least:
            return np.zeros((0, 4)), np.zeros(0)
        peaks = inside == F.max_pool2d(inside[None], 3, stride=1, padding=1)[0]
        places = torch.nonzero(peaks & (inside > LEAST_LIKE))
        places = places[inside[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)[:CLICKS]]
        if not len(places):
            return np.zeros((0, 4)), np.zeros(0)
        points = (places.flip(1).float() + 0.5) * STRIDE
        points = torch.minimum(points, points.new_tensor([shown[1] - 1, shown[0] - 1]))
        coords = torch.stack([points, torch.zeros_like(points)], 1)  # a click and its padding
        labels = torch.tensor([FOREGROUND, PADDING], device=self.device).expand(len(points), 2)
        features = ImageFeatures(meanings.features.embedding, meanings.features.high_res)
        logits, iou = self._sam.decode(features, coords, labels, None, multimask=True)
        height, width = -(-shown[0] // LOGIT_STRIDE), -(-shown[1] // LOGIT_STRIDE)
        masks = logits.flatten(0, 1)[:, :height, :width].float() > 0
        finer = F.interpolate(alike[None, None], scale_factor=STRIDE / LOGIT_STRIDE, mode="bilinear")
        areas = masks.sum((1, 2))
        likeness = (masks * finer[0, :, :height, :width]).sum((1, 2)) / areas.clamp(min=1)
        quality = iou.flatten().float().clamp(0, 1)
        scores = CLICK_WEIGHT * (likeness.sigmoid() * quality).sqrt()
        things = (areas > 0) & (areas <= WHOLE_PICTURE * height * width)
        boxes = mask_to_box(masks[things]).double() + torch.tensor([0, 0, 1, 1], device=self.device)
        found: NDArray[np.float64] = (boxes * LOGIT_STRIDE).cpu().numpy()
        limits = np.array([shown[1], shown[0]] * 2, np.float64)
        return np.minimum(found, limits), scores[things].double().cpu().numpy()


def only(meanings: Meanings, i: int) -> Meanings:
    """What was made of one image of several."""
    features = meanings.features
    one = type(features)(
        features.embedding[i : i + 1],
        tuple(finer[i : i + 1] for finer in features.high_res),
        features.stage8[i : i + 1],
        features.stage16[i : i + 1],
    )
    return Meanings(meanings.cells[i : i + 1], one)


def _whole(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some boxes (N, 4), best first, do not lie within better ones, as pieces of a thing do."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        better = boxes[kept]
        sides = np.minimum(better[:, 2:], box[2:]) - np.maximum(better[:, :2], box[:2])
        common = np.maximum(sides, 0).prod(axis=1)
        if not (common > PIECE * (box[2:] - box[:2]).prod()).any():
            kept.append(i)
    whole = np.zeros(len(boxes), bool)
    whole[kept] = True
    return whole


def _parts(
    logits: Tensor, shown: tuple[int, int], certain: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The connected parts of a mask, as boxes (N, 4) in the input, and scores (N,).

    logits: (h, w) of the mask. shown: (height, width) of the input without its padding. certain: the score of
    the mask; a part of it has less, by how much surer the surest part is.
    """
    whole = F.interpolate(logits[None, None], scale_factor=LOGIT_STRIDE, mode="bilinear")[0, 0]
    values = whole[: shown[0], : shown[1]].cpu().numpy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats((values > 0).astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    least = max(LEAST_PART, SMALL_PART * areas[1:].max(initial=0))
    kept = [i for i in range(1, count) if areas[i] >= least]
    probability = 1 / (1 + np.exp(-values))
    sure = np.array([probability[labels == i].mean() for i in kept], np.float64)
    corners = stats[kept, :4].astype(np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners, certain * sure / sure.max(initial=1e-9)


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
