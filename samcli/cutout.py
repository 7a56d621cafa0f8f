"""The thing that stands out in a picture, found without a prompt, and cut out.

How: the embedded model's features go to a small decoder that was trained to answer with the salient thing
(`models.salient`), once for the whole picture and once for the window around what was found there. The mask
is then moved to the edges in the photo by a guided filter (He et al., "Guided Image Filtering"). Another
model is prompted with the parts of that mask, and its own masks are the answer.

The soft edge of a picture is a function of the mask and the photo alone, so it can be painted again from a
record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.geometry import resized_size
from samcli.masks import (
    MASK_THRESHOLD,
    decode_rle,
    encode_rle,
    mask_bbox,
    remove_small_regions,
    stability_score,
)
from samcli.records import Box, MaskRecord, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from samcli.models.salient import SalientHead
    from samcli.predictor import Embedding, Predictor

WORKING_SIDE = 1024  # pixels; edges are looked for in the photo reduced to this
CELLS_AROUND = 2  # low-res cells that the mask may be wrong by, the radius of the guided filter
EDGE_EPSILON = 1e-4  # of the guided filter, squared contrast (0..1) that counts as an edge
LOOK_MARGIN = 1.3  # of the box around what was found, for the second look
LOOK_SHARE = 0.75  # of the picture, above which that window brings nothing new
SMALL_ISLAND, SMALL_HOLE = 0.05, 0.01  # of the mask, dropped and filled
SMALL_PART = 0.1  # of the largest part; smaller ones are no prompts of their own
SOFT_SHARE = 1 / 400  # of the photo's long side, radius of the soft edge, within the limits
SOFT_RADIUS = (1, 6)  # pixels
STRIP = 2**20  # pixels worked on at once where the photo is at its full size
TILE = 256  # pixels; side of the squares in which the soft edge is made
COLOUR = tuple[int, int, int]


@dataclass(frozen=True)
class CutoutConfig:
    """min_confidence: predicted IoU of the mask below which nothing stands out; 0 always cuts something
    out. Raises SamcliError unless it is from 0 to 1.
    """

    min_confidence: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise SamcliError(f"min_confidence is {self.min_confidence:g}; give a number from 0 to 1")


class Cutout(NamedTuple):
    """rgba: (H, W, 4) uint8, transparent where the thing is not. mask: None when nothing stands out."""

    rgba: NDArray[np.uint8]
    mask: MaskRecord | None


class Finder(NamedTuple):
    """The embedded model with the salient head. sha256: of the head's file."""

    predictor: Predictor
    head: SalientHead
    sha256: str


class _Found(NamedTuple):
    """A mask (H, W), the predicted IoU of it, and its stability."""

    mask: NDArray[np.bool_]
    confidence: float
    stability: float


def load_finder(predictor: Predictor) -> Finder:
    """The finder for a model that cuts out, on its device and in its dtype; the embedded model finds itself.

    Raises WeightsError when one of the finder's files is missing or damaged.
    """
    from samcli.predictor import DTYPES, load
    from samcli.weights import DEFAULT_MODEL, load_salient

    if not predictor.spec.packaged:
        dtype = next(name for name, dtype in DTYPES.items() if dtype == predictor.dtype)
        predictor = load(DEFAULT_MODEL, device=str(predictor.device), dtype=dtype)
    head, sha256 = load_salient(predictor.weights_sha256)
    return Finder(predictor, head.to(device=predictor.device, dtype=predictor.dtype), sha256)


def cutout(
    predictor: Predictor,
    image: NDArray[np.uint8],
    config: CutoutConfig | None = None,
    *,
    finder: Finder | None = None,
    embedding: Embedding | None = None,
) -> Cutout:
    """Cut out what stands out in an image, (H, W, 3) uint8 RGB. See `find`."""
    mask = find(predictor, image, config, finder=finder, embedding=embedding)
    bits = decode_rle(mask.segmentation) if mask else np.zeros(image.shape[:2], bool)
    return Cutout(paint(image, bits), mask)


def find(
    predictor: Predictor,
    image: NDArray[np.uint8],
    config: CutoutConfig | None = None,
    *,
    finder: Finder | None = None,
    embedding: Embedding | None = None,
) -> MaskRecord | None:
    """The mask of what stands out in an image, (H, W, 3) uint8 RGB; None when nothing does.

    predictor: the model that cuts out; the finder's own finds and cuts by itself. finder: loaded here when
    left out. embedding: the image's, by `predictor`. Raises SamcliError.
    """
    config = config or CutoutConfig()
    finder = finder or load_finder(predictor)
    own = predictor.weights_sha256 == finder.predictor.weights_sha256
    found = _find(finder, image, embedding if own else None)
    if found.confidence < config.min_confidence or not found.mask.any():
        return None
    if not own:
        found = _cut(predictor, embedding or predictor.embed(image), found)
        if not found.mask.any():
            return None
    return MaskRecord(
        id=1,
        segmentation=encode_rle(found.mask),
        bbox=mask_bbox(found.mask),
        area=int(np.count_nonzero(found.mask)),
        predicted_iou=found.confidence,
        stability_score=found.stability,
        score=found.confidence,
    )


# Finding


def _find(finder: Finder, image: NDArray[np.uint8], embedding: Embedding | None) -> _Found:
    predictor = finder.predictor
    size = image.shape[0], image.shape[1]
    working = resized_size(size, WORKING_SIDE) if max(size) > WORKING_SIDE else size
    embedding = embedding or predictor.embed(image)
    low, confidence = _look(finder, embedding)
    logits = _enlarged(predictor, embedding, low, working)
    offset = predictor.stability_offset
    stability = float(stability_score(low, MASK_THRESHOLD, offset))
    window = _window(logits > MASK_THRESHOLD, working)
    if window is not None:
        y0, y1, x0, x1 = (
            round(edge * full / part)
            for edge, full, part in zip(
                (window[0].start, window[0].stop, window[1].start, window[1].stop),
                (size[0], size[0], size[1], size[1]),
                (working[0], working[0], working[1], working[1]),
                strict=True,
            )
        )
        closer = predictor.embed(np.ascontiguousarray(image[y0:y1, x0:x1]))
        shape = logits[window].shape
        logits[window] += _enlarged(predictor, closer, _look(finder, closer)[0], (shape[0], shape[1]))
        logits[window] /= 2
    radius = max(1, round(CELLS_AROUND * max(working) / predictor.low_res_size[0]))
    mask = _to_edges(image, logits > MASK_THRESHOLD, radius)
    area = np.count_nonzero(mask)
    if area:
        mask, _ = remove_small_regions(mask, SMALL_ISLAND * area, "islands")
        mask, _ = remove_small_regions(mask, SMALL_HOLE * area, "holes")
    return _Found(mask, confidence, stability)


def _look(finder: Finder, embedding: Embedding) -> tuple[Tensor, float]:
    """Low-res logits (h, w) float32 and their predicted IoU."""
    import torch

    from samcli.models.sam import ImageFeatures

    with torch.inference_mode():
        positions = finder.predictor.sam.prompt_encoder.get_dense_pe().to(embedding.features.dtype)
        logits, iou = finder.head(ImageFeatures(embedding.features, embedding.high_res), positions)
    return logits[0].float(), float(np.clip(float(iou[0]), 0, 1))


def _enlarged(
    predictor: Predictor, embedding: Embedding, low: Tensor, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Low-res logits (h, w) brought to a copy of the image of this size."""
    from samcli.upscale import Upscaling

    upscaling = Upscaling(
        predictor.low_res_size, predictor.sam.image_size, embedding.input_size, size, predictor.device
    )
    logits: NDArray[np.float32] = upscaling(low).cpu().numpy()
    return logits


def _window(mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[slice, slice] | None:
    """The surroundings of a mask; None when they are most of the picture, or the mask is next to nothing."""
    x, y, w, h = mask_bbox(mask)
    wide, high = w * (LOOK_MARGIN - 1) / 2, h * (LOOK_MARGIN - 1) / 2
    top, bottom = max(0, int(y - high)), min(size[0], int(y + h + high))
    left, right = max(0, int(x - wide)), min(size[1], int(x + w + wide))
    area = (bottom - top) * (right - left)
    if min(bottom - top, right - left) < 16 or area >= LOOK_SHARE * size[0] * size[1]:
        return None
    return np.s_[top:bottom, left:right]


def _cut(predictor: Predictor, embedding: Embedding, found: _Found) -> _Found:
    """What another model makes of the parts of the mask, each prompted by its box and its mask; the union."""
    masks, scores, stabilities, areas = [], [], [], []
    for part in _parts(found.mask):
        x, y, w, h = mask_bbox(part)
        prompt = Prompt(box=Box(x, y, x + w, y + h), mask=predictor.mask_prompt(embedding, part))
        answer = predictor.predict(embedding, prompt, multimask=False)
        masks.append(answer.masks[0])
        scores.append(float(answer.predicted_iou[0]))
        stabilities.append(float(answer.stability_score[0]))
        areas.append(w * h)
    union = np.logical_or.reduce(masks)
    return _Found(
        union,
        float(np.average(scores, weights=areas)),
        float(np.average(stabilities, weights=areas)),
    )


def _parts(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected parts of a mask that are not small beside its largest."""
    import cv2  # slow to import

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    for label in 1 + np.flatnonzero(areas >= SMALL_PART * areas.max(initial=1)):
        yield labels == label


# Edges


def _to_edges(image: NDArray[np.uint8], mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Move a mask to the edges in the photo: (H, W), of the photo's size.

    mask: (h, w), of a reduced copy of the photo. radius: pixels of that copy.
    """
    import cv2

    if not mask.any():
        return np.zeros(image.shape[:2], bool)
    height, width = mask.shape
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    guide = _unit(np.asarray(small, np.uint8))
    slope, base = _linear(guide, mask.astype(np.float32), radius)
    nearer = (slope * guide).sum(-1) + base > 0.5  # a second round comes closer still
    slope, base = _linear(guide, nearer.astype(np.float32), radius)
    model = np.dstack([slope, base])
    out = np.zeros(image.shape[:2], bool)
    for rows in _strips(*image.shape[:2]):
        part = _rows(model, rows, image.shape[0])
        if part.shape[1] != image.shape[1]:
            wide = cv2.resize(part, (image.shape[1], len(part)), interpolation=cv2.INTER_LINEAR)
            part = np.asarray(wide, np.float32)
        out[rows] = (part[..., :3] * _unit(image[rows])).sum(-1) + part[..., 3] > 0.5
    return out


def alpha(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The opacity (H, W) of a cut-out: soft along the mask's edge, where the photo's colours say how soft.

    More than half opaque is what the mask holds, no more and no less.
    """
    out = np.zeros(mask.shape, np.uint8)
    least, most = SOFT_RADIUS
    radius = int(np.clip(round(max(mask.shape) * SOFT_SHARE), least, most))
    reach = 2 * radius  # how far the filter looks
    for y, x in product(range(0, mask.shape[0], TILE), range(0, mask.shape[1], TILE)):
        top, left = max(0, y - reach), max(0, x - reach)
        seen = np.s_[top : y + TILE + reach, left : x + TILE + reach]
        bits = mask[seen]
        tile = np.s_[y : y + TILE, x : x + TILE]
        if bits.all() or not bits.any():  # most tiles; the filter would give the same
            out[tile] = 255 * bits[0, 0]
            continue
        guide = _unit(image[seen])
        slope, base = _linear(guide, bits.astype(np.float32), radius)
        soft = np.rint(((slope * guide).sum(-1) + base) * 255)
        soft = np.where(bits, np.clip(soft, 128, 255), np.clip(soft, 0, 127))
        out[tile] = soft[y - top : y - top + TILE, x - left : x - left + TILE]
    return out


def paint(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    tight: bool = False,
    background: COLOUR | None = None,
) -> NDArray[np.uint8]:
    """The cut-out: (H, W, 4) uint8 RGBA, or (H, W, 3) RGB over a background colour.

    image: (H, W, 3) uint8. mask: (H, W). tight: only the box around what is visible; the whole size when that
    is nothing.
    """
    opacity = alpha(image, mask)
    if tight:
        x, y, w, h = mask_bbox(opacity > 0)
        if w:
            image, opacity = image[y : y + h, x : x + w], opacity[y : y + h, x : x + w]
    out = np.zeros((*opacity.shape, 4 if background is None else 3), np.uint8)
    for rows in _strips(*opacity.shape):
        colours, share = image[rows], opacity[rows, :, None]
        if background is None:
            out[rows, :, :3] = colours * (share > 0)  # nothing is left of what is not seen
            out[rows, :, 3:] = share
        else:
            wide = share.astype(np.uint16)
            mixed = colours * wide + np.array(background, np.uint16) * (255 - wide)
            out[rows] = (mixed + 127) // 255
    return out


def _linear(
    guide: NDArray[np.float32], mask: NDArray[np.float32], radius: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The guided filter's linear model of a mask (H, W) in the colours of a picture (H, W, 3), 0..1.

    Returns slope (H, W, 3) and base (H, W), averaged over the windows that hold a pixel:
    slope * guide + base is the filtered mask.
    """
    import cv2

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        side = 2 * radius + 1
        blurred = cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, np.float32)

    colour, level = mean(guide), mean(mask)
    shared = mean(guide * mask[..., None]) - colour * level[..., None]
    red, green, blue = (guide[..., i] for i in range(3))

    def spread(a: NDArray[np.float32], b: NDArray[np.float32], i: int, j: int) -> NDArray[np.float32]:
        return mean(a * b) - colour[..., i] * colour[..., j]

    rr, gg, bb = spread(red, red, 0, 0), spread(green, green, 1, 1), spread(blue, blue, 2, 2)
    rr, gg, bb = rr + EDGE_EPSILON, gg + EDGE_EPSILON, bb + EDGE_EPSILON
    rg, rb, gb = spread(red, green, 0, 1), spread(red, blue, 0, 2), spread(green, blue, 1, 2)
    # the inverse of the symmetric 3 x 3 covariance, by cofactors
    c_rr, c_rg, c_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = c_rr * rr + c_rg * rg + c_rb * rb
    x, y, z = (shared[..., i] for i in range(3))
    slope = np.dstack(
        [c_rr * x + c_rg * y + c_rb * z, c_rg * x + c_gg * y + c_gb * z, c_rb * x + c_gb * y + c_bb * z]
    )
    slope /= determinant[..., None]
    base = level - (slope * colour).sum(-1)
    return mean(slope), mean(base)


def _unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours 0..255 as 0..1."""
    scaled: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    return scaled


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture in turn, so many that they hold about STRIP pixels."""
    step = max(1, STRIP // width)
    return (slice(first, min(first + step, height)) for first in range(0, height, step))


def _rows(values: NDArray[np.float32], rows: slice, height: int) -> NDArray[np.float32]:
    """Some rows of (h, w, C) interpolated to `height` rows, pixel centres on pixel centres."""
    place = (np.arange(rows.start, rows.stop) + 0.5) * (len(values) / height) - 0.5
    place = np.clip(place, 0, len(values) - 1)
    low = np.floor(place).astype(np.int64)
    share = (place - low).astype(np.float32)[:, None, None]
    high = np.minimum(low + 1, len(values) - 1)
    out: NDArray[np.float32] = values[low] * (1 - share) + values[high] * share
    return out
