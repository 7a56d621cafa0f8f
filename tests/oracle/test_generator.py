"""Our generator against the reference's, both fed the same logits and predicted IoUs.

With random weights every mask would span the image, so a world of blobs answers the prompts instead of a
network: things with parts, holes and islands, some at the image's edge, drawn from a seed and seen by each
prompt a little differently. Everything around the network is the real code of both sides.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from reference import Reference
from torch import Tensor

from samcli.automask import AutomaskConfig, generate
from samcli.geometry import resized_size, to_model_frame
from samcli.masks import decode_rle
from samcli.models.small import build_tiny
from samcli.predictor import Embedding, Predictor
from samcli.weights import MODELS

SIZE = (210, 290)
SIDE, LOW = 192, 48  # small, for speed


class World:
    """Answers a point with three nested masks of the nearest thing, as low-res logits and predicted IoUs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        height, width = SIZE
        self.centres = rng.uniform((0, 0), (width, height), (40, 2))
        self.radii = rng.uniform(10, 55, (40, 2))

    def answer(self, crop: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """crop: xyxy. coords: (N, 1, 2) in the crop's model frame. Returns (N, 3, LOW, LOW) and (N, 3)."""
        x0, y0, x1, y1 = crop.tolist()
        height, width = resized_size((y1 - y0, x1 - x0), SIDE)
        scale = np.array([(x1 - x0) / width, (y1 - y0) / height])
        cell = (np.arange(LOW) + 0.5) * (SIDE / LOW)
        x, y = x0 + cell * scale[0], (y0 + cell * scale[1])[:, None]
        points = coords[:, 0].double().numpy() * scale + (x0, y0)
        answers = [self._thing(point, x, y) for point in points]
        logits = torch.tensor(np.array([logits for logits, _ in answers]), dtype=torch.float32)
        return logits, torch.tensor(np.array([iou for _, iou in answers]), dtype=torch.float32)

    def _thing(
        self, point: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # An eighth of a pixel tells prompts apart; the odd shift keeps grid points away from where rounding
        # turns.
        eighths = np.floor(point * 8 + 0.377).astype(int)
        rng = np.random.default_rng([self.seed, *eighths])
        nearest = int(np.argmin(((self.centres - point) ** 2).sum(1)))
        (cx, cy), (rx, ry) = self.centres[nearest] + rng.normal(0, 1.5, 2), self.radii[nearest]
        wobble = 1 + 0.15 * np.sin(3 * np.arctan2(y - cy, x - cx) + nearest)
        steep = rng.choice([10.0, 30.0, 60.0])
        logits = []
        for part in (0.4, 0.7, 1.0):
            distance = np.hypot((x - cx) / rx, (y - cy) / ry) / (part * wobble)
            value = np.clip(steep * (1 - distance), -12, 12)
            for sign in (-1, 1):  # a hole inside, an island outside
                if rng.random() < 0.6:
                    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(3, 8)
                    where = part * (0.5 if sign < 0 else 2.0)
                    bx, by = cx + where * rx * np.cos(angle), cy + where * ry * np.sin(angle)
                    value += sign * 30 * np.exp(-((x - bx) ** 2 + (y - by) ** 2) / (2 * radius**2))
            logits.append(value)
        return np.array(logits), rng.uniform(0.7, 1.0, 3)


def located_image() -> NDArray[np.uint8]:
    """An image whose every pixel tells its position, so that a crop tells where it lies."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=-1).astype(np.uint8)


def crop_of(image: NDArray[np.uint8]) -> Tensor:
    """xyxy of a crop of `located_image`."""

    def position(pixel: NDArray[np.uint8]) -> tuple[int, int]:
        low_x, low_y, high = (int(v) for v in pixel)
        return high // 16 * 256 + low_x, high % 16 * 256 + low_y

    (x0, y0), (x1, y1) = position(image[0, 0]), position(image[-1, -1])
    return torch.tensor([x0, y0, x1 + 1, y1 + 1])


class WorldPredictor(Predictor):
    """Our predictor, where embedding an image means to know its crop and the world decodes."""

    def __init__(self, world: World) -> None:
        super().__init__(build_tiny(SIDE), MODELS["vit_b"], "of the world")
        self.world = world

    def decode(
        self,
        embedding: Embedding,
        coords: ArrayLike,
        labels: ArrayLike,
        masks: None = None,
        *,
        multimask: bool,
        min_iou: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert multimask
        assert masks is None
        assert np.array_equal(labels, np.ones((len(np.asarray(coords)), 1)))
        frame = torch.from_numpy(to_model_frame(coords, embedding.original_size, SIDE))
        logits, iou = self.world.answer(embedding.features, frame)
        return logits[iou > (-np.inf if min_iou is None else min_iou)], iou

    def embed(self, image: NDArray[np.uint8], *, image_sha256: str | None = None) -> Embedding:
        size = image.shape[:2]
        return Embedding(
            crop_of(image), (), size, resized_size(size, SIDE), "world", self.weights_sha256, "image"
        )


@dataclass
class Stages:
    """What each stage of the reference kept and dropped (or left and changed)."""

    kept: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(self, stage: str, keep: int, drop: int) -> None:
        self.kept[stage] += keep
        self.dropped[stage] += drop


def reference_generator(
    reference: Reference, world: World, stages: Stages, monkeypatch: pytest.MonkeyPatch, **config: Any
) -> Any:
    """The reference's generator with the world for a network; `stages` counts what it does."""
    module = reference.sam.automatic_mask_generator
    crops = sum(4**layer for layer in range(config["crop_n_layers"] + 1))
    threshold = config["pred_iou_thresh"]

    def decode(image_embeddings: Tensor, sparse_prompt_embeddings: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        logits, iou = world.answer(image_embeddings, sparse_prompt_embeddings)
        good = int((iou > threshold).sum())
        stages.count("predicted IoU", good, iou.numel() - good)
        return logits, iou

    def prompt_encoder(points: tuple[Tensor, Tensor], boxes: None, masks: None) -> tuple[Tensor, None]:
        return points[0], None

    prompt_encoder.get_dense_pe = lambda: None  # type: ignore[attr-defined]
    model = SimpleNamespace(
        image_encoder=SimpleNamespace(img_size=SIDE),
        prompt_encoder=prompt_encoder,
        mask_decoder=decode,
        mask_threshold=0.0,
        device=torch.device("cpu"),
    )
    model.postprocess_masks = MethodType(reference.sam.modeling.Sam.postprocess_masks, model)
    generator = module.SamAutomaticMaskGenerator(model, output_mode="coco_rle", **config)

    def set_image(predictor: Any, image: NDArray[np.uint8]) -> None:
        predictor.features, predictor.original_size = crop_of(image), image.shape[:2]
        predictor.input_size = predictor.transform.get_preprocess_shape(*image.shape[:2], SIDE)
        predictor.is_image_set = True

    generator.predictor.set_image = MethodType(set_image, generator.predictor)

    stability, near_edge, suppress, small = (
        getattr(module, name)
        for name in (
            "calculate_stability_score",
            "is_box_near_crop_edge",
            "batched_nms",
            "remove_small_regions",
        )
    )

    def counted_stability(*args: Any) -> Tensor:
        score: Tensor = stability(*args)
        good = int((score >= config["stability_score_thresh"]).sum())
        stages.count("stability", good, len(score) - good)
        return score

    def counted_near_edge(*args: Any) -> Tensor:
        near: Tensor = near_edge(*args)
        stages.count("crop edge", int((~near).sum()), int(near.sum()))
        return near

    calls: list[int] = []

    def counted_nms(boxes: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        keep: Tensor = suppress(boxes, *args, **kwargs)
        calls.append(len(keep))
        across = crops > 1 and len(calls) == crops + 1
        stage = "NMS within" if len(calls) <= crops else "NMS across" if across else "second NMS"
        stages.count(stage, len(keep), len(boxes) - len(keep))
        return keep

    def counted_small(mask: Any, area: float, mode: str) -> tuple[Any, bool]:
        cleaned, changed = small(mask, area, mode)
        stages.count(mode, int(not changed), int(changed))
        return cleaned, changed

    monkeypatch.setattr(module, "calculate_stability_score", counted_stability)
    monkeypatch.setattr(module, "is_box_near_crop_edge", counted_near_edge)
    monkeypatch.setattr(module, "batched_nms", counted_nms)
    monkeypatch.setattr(module, "remove_small_regions", counted_small)
    return generator


EVERYWHERE = {"predicted IoU", "stability", "NMS within", "holes", "islands", "second NMS"}


@pytest.mark.parametrize(
    ("layers", "stages_there"),
    [
        (0, EVERYWHERE),
        (1, EVERYWHERE | {"crop edge", "NMS across"}),
        (2, EVERYWHERE | {"crop edge", "NMS across"}),
    ],
)
def test_same_masks_boxes_scores_and_order(
    layers: int, stages_there: set[str], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, stages = World(3), Stages()
    config: dict[str, Any] = {
        "points_per_side": 10,
        "points_per_batch": 50,
        "pred_iou_thresh": 0.75,
        "stability_score_thresh": 0.8,
        "crop_n_layers": layers,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 150,
    }
    image = located_image()
    generator = reference_generator(reference, world, stages, monkeypatch, **config)
    theirs = generator.generate(image)
    ours = generate(WorldPredictor(world), image, AutomaskConfig(**config))

    for stage in stages_there:
        assert stages.kept[stage] >= 5, stage
        assert stages.dropped[stage] >= 5, stage

    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        x, y, w, h = other["bbox"]
        assert mine.bbox == (x, y, w + 1, h + 1)  # written in pixel extent
        assert mine.predicted_iou == other["predicted_iou"]
        assert mine.stability_score == other["stability_score"]
        assert mine.point_coords == tuple(map(tuple, other["point_coords"]))
        assert mine.crop_box is not None
        cx, cy, cw, ch = mine.crop_box
        assert [cx, cy, cw, ch] == other["crop_box"]
        assert mine.area == other["area"]
        differing = decode_rle(mine.segmentation) ^ decode_rle(other["segmentation"])
        assert np.count_nonzero(differing) == 0
