"""Everything in an image: points on a grid, also on crops, and what remains after filters.

After SAM's appendix B. The stages and their order are those of the reference's SamAutomaticMaskGenerator.
Heavy work is put off until it is needed: masks are scaled up only after the predicted-IoU filter, only within
their own surroundings, a few at a time, and are encoded only after the duplicates are gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.geometry import crop_boxes, point_grid
from samcli.masks import (
    MASK_THRESHOLD,
    decode_rle,
    encode_rle,
    mask_bbox,
    mask_nms,
    nms,
    parse_area,
    remove_small_regions,
    rle_area,
)
from samcli.records import RLE, MaskRecord

if TYPE_CHECKING:
    from torch import Tensor

    from samcli.predictor import Embedding, Predictor
    from samcli.upscale import Upscaling
    from samcli.weights import ModelSpec

EDGE_TOLERANCE = 20  # pixels; a mask whose box comes this close to an inner crop edge was probably cut off

XYXY = tuple[int, int, int, int]


@dataclass(frozen=True)
class AutomaskConfig:
    """How to look for masks. None means the model's own default, else the reference's (`AutomaskSettings`).

    points_per_side: the grid on the whole image is points_per_side x points_per_side points.
    points_per_batch: points whose low-res logits are held at once.
    pred_iou_thresh: masks need a predicted IoU above it; 0 keeps all.
    stability_score_thresh, stability_score_offset: masks need at least this IoU between their versions cut at
        logits +offset and -offset.
    box_nms_thresh: box IoU above which the mask of lower predicted IoU is a duplicate, within a crop.
    crop_n_layers: layers of crops; layer i has 2**i x 2**i, each encoded anew.
    crop_nms_thresh: as box_nms_thresh between crops; the mask from the smaller crop stays.
    crop_overlap_ratio: overlap of the crops of layer 1, a share of the short side; halved with each layer.
    crop_n_points_downscale_factor: points per side in layer i are points_per_side / factor**i.
    min_mask_region_area: holes and islands of fewer pixels are filled and dropped; a value below 1 is a share
        of the image's area.
    min_area, max_area: smaller and larger masks are dropped; in pixels, or "0.5%" of the image.
    mask_nms_thresh: mask IoU above which, at the end, the mask of lower predicted IoU is a duplicate; 1
        keeps all.
    """

    points_per_side: int | None = None
    points_per_batch: int | None = None
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float | None = None
    box_nms_thresh: float | None = None
    crop_n_layers: int | None = None
    crop_nms_thresh: float | None = None
    crop_overlap_ratio: float | None = None
    crop_n_points_downscale_factor: int | None = None
    min_mask_region_area: float | None = None
    min_area: str | float | None = None
    max_area: str | float | None = None
    mask_nms_thresh: float | None = None

    def resolve(self, spec: ModelSpec) -> AutomaskSettings:
        """Fill in what is None. Raises SamcliError for values that make no sense."""
        return AutomaskSettings(**{**spec.automask, **self.given()})

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class AutomaskSettings(AutomaskConfig):
    """A complete `AutomaskConfig`, checked (SamcliError); its defaults are the reference generator's."""

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: float = 0.0
    min_area: str = "0"
    max_area: str = "100%"
    mask_nms_thresh: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type == "int"
            if field.type == "str":
                try:
                    object.__setattr__(self, field.name, str(parse_area(str(value))))
                except SamcliError as error:
                    raise SamcliError(f"{field.name}: {error}") from error
                continue
            low, high = _LIMITS[field.name]
            if not low <= value <= high:  # false for NaN too
                limits = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
                raise SamcliError(f"{field.name} is {value:g}; give a number {limits}")
            if whole and value != int(value):
                raise SamcliError(f"{field.name} is {value:g}; give a whole number")
            # One type per field, so that 1 and 1.0 are recorded, and hashed, alike.
            object.__setattr__(self, field.name, int(value) if whole else float(value))


_LIMITS: dict[str, tuple[float, float]] = {
    "points_per_side": (1, 1024),
    "points_per_batch": (1, 2**20),
    "pred_iou_thresh": (0, math.inf),
    "stability_score_thresh": (0, 1),
    "stability_score_offset": (0, math.inf),
    "box_nms_thresh": (0, 1),
    "crop_n_layers": (0, 8),
    "crop_nms_thresh": (0, 1),
    "crop_overlap_ratio": (0, 1),
    "crop_n_points_downscale_factor": (1, 1024),
    "min_mask_region_area": (0, math.inf),
    "mask_nms_thresh": (0, 1),
}

PRESETS: dict[str, AutomaskConfig] = {
    # How SA-1B was made (SAM, appendix B): 32x32 points on the image, 16x16 and 8x8 on 4 and 16 crops.
    "sa1b": AutomaskConfig(
        points_per_side=32,
        pred_iou_thresh=0.88,
        stability_score_thresh=0.95,
        stability_score_offset=1.0,
        box_nms_thresh=0.7,
        crop_n_layers=2,
        crop_nms_thresh=0.7,
        crop_overlap_ratio=512 / 1500,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=100,
        max_area="95%",
        mask_nms_thresh=1.0,
    ),
}


def generate(
    predictor: Predictor,
    image: NDArray[np.uint8],
    config: AutomaskConfig | None = None,
    *,
    embedding: Embedding | None = None,
) -> tuple[MaskRecord, ...]:
    """Find everything in an image, (H, W, 3) uint8 RGB. Returns its masks, numbered from 1; maybe none.

    config: what it leaves None is the model's default. embedding: of this image, when it is at hand; crops
    are embedded anew. A mask's point_coords is the grid point that found it and crop_box, in pixel extent,
    the crop that was looked at. Raises SamcliError for a bad config, image or embedding.
    """
    settings = (config or AutomaskConfig()).resolve(predictor.spec)
    height, width = image.shape[:2]
    if embedding:
        embedding.check_size((height, width))
    crops, layers = crop_boxes((height, width), settings.crop_n_layers, settings.crop_overlap_ratio)
    found: list[_Found] = []
    for crop, layer in zip(crops, layers, strict=True):
        x0, y0, x1, y1 = crop
        seen = embedding if layer == 0 and embedding else predictor.embed(image[y0:y1, x0:x1])
        n = max(1, int(settings.points_per_side / settings.crop_n_points_downscale_factor**layer))
        found += _look(predictor, seen, crop, (height, width), n, settings)
    if len(crops) > 1:
        smallness = [1 / ((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in (mask.crop for mask in found)]
        found = _kept(found, smallness, settings.crop_nms_thresh)
    if settings.min_mask_region_area > 0:
        found = _without_small_regions(found, (height, width), settings)
    if settings.mask_nms_thresh < 1:
        rles, scores = [mask.rle for mask in found], [mask.iou for mask in found]
        found = [found[i] for i in sorted(mask_nms(rles, scores, settings.mask_nms_thresh))]
    return tuple(_record(mask, number) for number, mask in enumerate(found, start=1))


@dataclass(frozen=True)
class _Found:
    """A mask of the whole image. box: inclusive xyxy. crop: xyxy with exclusive ends."""

    rle: RLE
    box: XYXY
    iou: float
    stability: float
    point: tuple[float, float]
    crop: XYXY


class _Candidates(NamedTuple):
    """Masks within a crop that passed the filters, still as low-res logits (N, h, w). iou, stability: (N,).
    boxes: (N, 4), inclusive xyxy. points: (N, 2), (x, y).
    """

    logits: Tensor
    iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    boxes: NDArray[np.int64]
    points: NDArray[np.float64]


def _look(
    predictor: Predictor,
    embedding: Embedding,
    crop: XYXY,
    size: tuple[int, int],
    points_per_side: int,
    settings: AutomaskSettings,
) -> list[_Found]:
    """The masks of one crop of an image of `size`, without duplicates, by falling predicted IoU."""
    x0, y0, _, _ = crop
    upscaling = predictor.upscaling(embedding)
    groups = list(_candidates(predictor, embedding, upscaling, crop, size, points_per_side, settings))
    boxes = np.concatenate([group.boxes for group in groups])
    kept = nms(boxes, np.concatenate([group.iou for group in groups]), settings.box_nms_thresh)
    found: dict[int, _Found] = {}
    first = 0
    for group in groups:
        own = np.sort(kept[(kept >= first) & (kept < first + len(group.iou))])
        rows = own - first
        rles = upscaling.rles(group.logits[rows], MASK_THRESHOLD, corner=(x0, y0), size=size)
        for number, row, rle in zip(own.tolist(), rows, rles, strict=True):
            bx0, by0, bx1, by1 = group.boxes[row].tolist()
            x, y = group.points[row].tolist()
            found[number] = _Found(
                rle,
                (bx0 + x0, by0 + y0, bx1 + x0, by1 + y0),
                float(group.iou[row]),
                float(group.stability[row]),
                (x + x0, y + y0),
                crop,
            )
        first += len(group.iou)
    return [found[number] for number in kept.tolist()]


def _candidates(
    predictor: Predictor,
    embedding: Embedding,
    upscaling: Upscaling,
    crop: XYXY,
    size: tuple[int, int],
    points_per_side: int,
    settings: AutomaskSettings,
) -> Iterator[_Candidates]:
    """Prompt one crop with a grid of points, some at a time, and filter the three answers to each."""
    x0, y0, x1, y1 = crop
    points = point_grid(points_per_side) * (x1 - x0, y1 - y0)
    smallest, largest = _areas(settings, size)
    min_iou = settings.pred_iou_thresh or -math.inf
    for start in range(0, len(points), settings.points_per_batch):
        batch = points[start : start + settings.points_per_batch]
        logits, iou = predictor.decode(
            embedding, batch[:, None], np.ones((len(batch), 1)), multimask=True, min_iou=min_iou
        )
        scores: NDArray[np.float32] = iou.cpu().numpy()
        source, answer = np.nonzero(scores > min_iou)
        area, stability, boxes = upscaling.measure(logits, MASK_THRESHOLD, settings.stability_score_offset)
        good = (stability >= settings.stability_score_thresh) & (smallest <= area) & (area <= largest)
        rows = np.flatnonzero(good & ~_cut_off(boxes, crop, size))
        source, answer = source[rows], answer[rows]
        yield _Candidates(logits[rows], scores[source, answer], stability[rows], boxes[rows], batch[source])


def _cut_off(boxes: NDArray[np.int64], crop: XYXY, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes (N, 4), given within the crop, come close to an edge of it that is none of the image."""
    sides = boxes + np.array(crop[:2] * 2)
    at_crop = np.abs(sides - crop) <= EDGE_TOLERANCE
    at_image = np.abs(sides - (0, 0, size[1], size[0])) <= EDGE_TOLERANCE
    cut: NDArray[np.bool_] = (at_crop & ~at_image).any(axis=1)
    return cut


def _kept(found: Sequence[_Found], scores: Sequence[float], threshold: float) -> list[_Found]:
    """Without those whose box a better one suppresses, by falling score."""
    return [found[i] for i in nms([mask.box for mask in found], scores, threshold)]


def _areas(settings: AutomaskSettings, size: tuple[int, int]) -> tuple[float, float]:
    """The least and the most pixels of a mask in an image of `size`; an empty one is none."""
    return max(1, parse_area(settings.min_area).pixels(size)), parse_area(settings.max_area).pixels(size)


def _without_small_regions(
    found: Sequence[_Found], size: tuple[int, int], settings: AutomaskSettings
) -> list[_Found]:
    """Fill small holes, drop small islands; of masks that thereby become duplicates prefer unchanged ones."""
    area = settings.min_mask_region_area
    if area < 1:
        area *= size[0] * size[1]
    smallest, largest = _areas(settings, size)
    cleaned, unchanged = [], []
    for mask in found:
        bits, filled = remove_small_regions(decode_rle(mask.rle), area, "holes")
        bits, dropped = remove_small_regions(bits, area, "islands")
        if filled or dropped:
            x, y, w, h = mask_bbox(bits)
            mask = replace(mask, rle=encode_rle(bits), box=(x, y, x + w - 1, y + h - 1))
        if smallest <= rle_area(mask.rle) <= largest:
            cleaned.append(mask)
            unchanged.append(float(not (filled or dropped)))
    return _kept(cleaned, unchanged, max(settings.box_nms_thresh, settings.crop_nms_thresh))


def _record(mask: _Found, number: int) -> MaskRecord:
    (x0, y0, x1, y1), (cx0, cy0, cx1, cy1) = mask.box, mask.crop
    return MaskRecord(
        id=number,
        segmentation=mask.rle,
        bbox=(x0, y0, x1 - x0 + 1, y1 - y0 + 1),
        area=rle_area(mask.rle),
        predicted_iou=mask.iou,
        stability_score=mask.stability,
        point_coords=(mask.point,),
        crop_box=(cx0, cy0, cx1 - cx0, cy1 - cy0),
        score=mask.iou,
    )
