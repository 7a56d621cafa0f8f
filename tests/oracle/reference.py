"""The reference packages, segment-anything and MobileSAM, imported without torchvision and timm.

They use only the few functions below of the two. The stand-ins are in `sys.modules` while the packages are
imported and not after.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

PACKAGES = {"segment_anything": "segment-anything==1.0", "mobile_sam": "mobilesam-mirror==1.0.0"}


@dataclass(frozen=True)
class Reference:
    """The imported packages: `sam` is segment_anything, `mobile` is mobile_sam."""

    sam: Any
    mobile: Any

    def build(self, name: str) -> Any:
        """The reference's network for one of the architectures vit_b, vit_l, vit_h and vit_t."""
        package = self.mobile if name == "vit_t" else self.sam
        return package.sam_model_registry[name]()


def load() -> Reference:
    """Import both packages. Raises ModuleNotFoundError when one is not installed."""
    with _stand_ins():
        return Reference(import_module("segment_anything"), import_module("mobile_sam"))


def to_pil_image(array: np.ndarray) -> Image.Image:
    """torchvision.transforms.functional.to_pil_image for (H, W, 3) uint8."""
    return Image.fromarray(array)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """torchvision.transforms.functional.resize of a Pillow image to (height, width), by default bilinear."""
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def box_area(boxes: Tensor) -> Tensor:
    """torchvision.ops.boxes.box_area of (N, 4) xyxy."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """torchvision.ops.boxes.batched_nms: indices kept by falling score; categories are apart."""
    order = scores.sort(stable=True, descending=True).indices
    area = box_area(boxes)
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if gone[i]:
            continue
        kept.append(i)
        low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        gone |= (shared / (area[i] + area - shared) > iou_threshold) & (categories == categories[i])
    return torch.tensor(kept, dtype=torch.int64)


class DropPath(nn.Module):
    """timm's stochastic depth, a base class in MobileSAM, which builds it for probabilities above 0 only."""

    def __init__(self, drop_prob: float) -> None:
        raise NotImplementedError("stochastic depth has no stand-in")


def _pair(value: int) -> tuple[int, int]:
    return (value, value)


def _same(function: Any) -> Any:
    return function


STAND_INS: dict[str, dict[str, Any]] = {
    "torchvision": {},
    "torchvision.transforms": {},
    "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    "torchvision.ops": {},
    "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
    "timm": {},
    "timm.models": {},
    "timm.models.layers": {"DropPath": DropPath, "to_2tuple": _pair, "trunc_normal_": nn.init.trunc_normal_},
    "timm.models.registry": {"register_model": _same},
}


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put the stand-ins into `sys.modules`; what was there returns."""
    before = {name: sys.modules[name] for name in STAND_INS if name in sys.modules}
    for name, contents in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in STAND_INS:
            del sys.modules[name]
        sys.modules.update(before)
