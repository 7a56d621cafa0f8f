"""What tests of readers share."""

from __future__ import annotations

import numpy as np

from samcli.masks import decode_rle
from samcli.records import ImageRecord


def bits(record: ImageRecord) -> list[np.ndarray]:
    """The masks of a record."""
    return [decode_rle(mask.segmentation) for mask in record.annotations]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def larger(masks: list[np.ndarray]) -> list[bool]:
    """Which masks are above 32x32 pixels."""
    return [bool(mask.sum() > 32 * 32) for mask in masks]
