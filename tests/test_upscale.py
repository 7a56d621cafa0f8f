"""Low-res logits become masks of the original image: as the reference's two interpolations, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from samcli import upscale
from samcli.masks import decode_rle, encode_rle, mask_to_box
from samcli.upscale import Upscaling

FRAMES = [  # low, side, input_size, size
    (256, 1024, (683, 1024), (1000, 1500)),
    (256, 1024, (1024, 683), (301, 201)),
    (80, 320, (213, 320), (97, 146)),
    (80, 320, (320, 320), (1, 1)),
    (80, 320, (1, 320), (3, 2000)),
    (16, 64, (41, 64), (48, 75)),
    (16, 64, (64, 43), (192, 96)),  # whole tiles
    (16, 64, (64, 64), (97, 95)),
]
CPU = torch.device("cpu")


def the_reference_way(logits, side, input_size, size):
    """Two interpolations with the padding cut off between them."""
    big = F.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)
    big = big[..., : input_size[0], : input_size[1]]
    return F.interpolate(big, size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("low", "side", "input_size", "size"), FRAMES)
def test_it_is_the_two_interpolations_in_one(low, side, input_size, size):
    logits = torch.randn(2, low, low, generator=torch.Generator().manual_seed(0)) * 10
    expected = the_reference_way(logits, side, input_size, size)
    upscaling = Upscaling((low, low), side, input_size, size, CPU)
    error = (upscaling(logits) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-6


def blobs(seed: int, low: int) -> torch.Tensor:
    """Logits (5, low, low) with surfaces and contours, of many sizes; the last mask is empty, the one before
    it is everything.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:low, :low]
    logits = []
    for _ in range(3):
        (cx, cy), radius = rng.uniform(0, low, 2), low * rng.uniform(0.02, 0.7)
        wobble = rng.normal(0, rng.choice([0, 0.3]), (low, low))
        logits.append(np.clip(12 * (1 - np.hypot(x - cx, y - cy) / radius) + wobble, -12, 12))
    return torch.tensor(np.stack([*logits, np.full((low, low), 5.0), np.full((low, low), -5.0)])).float()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(FRAMES), st.sampled_from([0.0, -0.5]))
def test_masks_and_what_is_measured_are_those_of_the_whole_image(seed, frame, threshold):
    low, side, input_size, size = frame
    logits = blobs(seed, low)
    upscaling = Upscaling((low, low), side, input_size, size, CPU)
    full = the_reference_way(logits, side, input_size, size)
    # Rounding decides where a logit is as good as a threshold.
    unsure, *unsure_cuts = (
        ((full - cut).abs() < 1e-4).numpy() for cut in (threshold, threshold + 1, threshold - 1)
    )
    masks = np.stack(list(upscaling.masks(logits, threshold)))
    assert (masks == (full > threshold).numpy())[~unsure].all()
    rles = np.stack([decode_rle(rle) for rle in upscaling.rles(logits, threshold, size=size)])
    assert (rles == masks)[~unsure].all()
    area, stability, boxes = upscaling.measure(logits, threshold, 1.0)
    assert (np.abs(area - masks.sum((1, 2))) <= unsure.sum((1, 2))).all()
    inner, outer = (full > threshold + 1).sum((1, 2)), (full > threshold - 1).sum((1, 2))
    slack = sum(cut.sum((1, 2)) for cut in unsure_cuts) / outer.clamp(min=1).numpy()
    assert (np.abs(stability - (inner / outer.clamp(min=1)).numpy()) <= slack + 1e-6).all()
    assert stability.dtype == np.float32
    sure = ~unsure.any((1, 2))
    assert np.array_equal(boxes[sure], mask_to_box(torch.from_numpy(masks)).numpy()[sure])


@pytest.mark.parametrize("corner", [(0, 0), (7, 11), (30, 0), (0, 20)])
def test_rles_of_a_crop_stand_in_the_whole_image(corner):
    (x, y), whole = corner, (100, 140)
    size = (100 - y, 140 - x)  # to the edges, where a full column meets the next
    upscaling = Upscaling((16, 16), 64, (64, 64), size, CPU)
    logits = blobs(1, 16)
    for mask, rle in zip(
        upscaling.masks(logits, 0.0), upscaling.rles(logits, 0.0, corner=corner, size=whole), strict=True
    ):
        expected = np.zeros(whole, bool)
        expected[y:, x:] = mask
        assert rle == encode_rle(expected)
        assert np.array_equal(decode_rle(rle), expected)


def test_groups_as_on_a_gpu_change_nothing(monkeypatch):
    low, side, input_size, size = FRAMES[1]
    logits = torch.cat([blobs(seed, low) for seed in range(4)])
    alone = Upscaling((low, low), side, input_size, size, CPU)
    monkeypatch.setattr(upscale, "_CPU_TILES", 1000)
    monkeypatch.setattr(upscale, "_CPU_PIXELS", 8 * size[0] * size[1])
    together = Upscaling((low, low), side, input_size, size, CPU)
    for ours, theirs in zip(alone.measure(logits, 0.0, 1.0), together.measure(logits, 0.0, 1.0), strict=True):
        assert np.array_equal(ours, theirs)
    assert alone.rles(logits, 0.0, size=size) == together.rles(logits, 0.0, size=size)
    assert np.array_equal(list(alone.masks(logits, 0.0)), list(together.masks(logits, 0.0)))


def test_of_no_masks_nothing_is_measured():
    upscaling = Upscaling((16, 16), 64, (64, 64), (30, 40), CPU)
    none = torch.zeros(0, 16, 16)
    assert [len(part) for part in upscaling.measure(none, 0.0, 1.0)] == [0, 0, 0]
    assert upscaling.rles(none, 0.0, size=(30, 40)) == []
    assert list(upscaling.masks(none, 0.0)) == []
