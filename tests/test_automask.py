from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from samcli.automask import PRESETS, AutomaskConfig, AutomaskSettings, generate
from samcli.errors import SamcliError
from samcli.masks import decode_rle, mask_bbox, rle_area
from samcli.models.small import build_tiny
from samcli.predictor import Predictor
from samcli.weights import MODELS

SIDE, LOW = 64, 16
SPEC = replace(MODELS["tiny"], automask={})


class Stage:
    """A predictor whose three answers to every point are set by hand: `answer(x, y, px, py)`.

    It gets the cells' coordinates and the point, in pixels of what is embedded, and gives logits and IoUs.
    """

    def __init__(self, answer, spec=SPEC):
        self.predictor = Predictor(build_tiny(SIDE), spec, "a" * 64)
        self.predictor.decode = self._decode
        self.embedded = []
        embed = self.predictor.embed
        self.predictor.embed = lambda image: self.embedded.append(image.shape[:2]) or embed(image)
        self.answer = answer

    def _decode(self, embedding, coords, labels, *, multimask, min_iou):
        height, width = self.embedded[-1]
        cell = (np.arange(LOW) + 0.5) * (SIDE / LOW) * max(height, width) / SIDE
        answers = [self.answer(cell, cell[:, None], *point) for point in coords[:, 0]]
        logits = np.array([[np.broadcast_to(logits, (LOW, LOW)) for logits, _ in three] for three in answers])
        iou = torch.tensor([[iou for _, iou in three] for three in answers], dtype=torch.float32)
        return torch.tensor(logits, dtype=torch.float32)[iou > min_iou], iou

    def generate(self, size=(64, 64), **config):
        return generate(self.predictor, np.zeros((*size, 3), np.uint8), AutomaskConfig(**config))


def disc(x, y, cx, cy, radius):
    return np.clip(radius - np.hypot(x - cx, y - cy), -5, 5) * 20


NOTHING = (np.array(-9.0), 0.0)


def corners(x, y, px, py):
    """Each point sees the disc of its quarter, with falling scores, and twice nothing."""
    cx, cy = 16 + 32 * (px > 32), 16 + 32 * (py > 32)
    return (disc(x, y, cx, cy, 10), 0.99 - (px + py) / 2000), NOTHING, NOTHING


# Configuration


def test_the_references_parameters_and_defaults():
    assert asdict(AutomaskConfig().resolve(SPEC)) == {
        "points_per_side": 32,
        "points_per_batch": 64,
        "pred_iou_thresh": 0.88,
        "stability_score_thresh": 0.95,
        "stability_score_offset": 1.0,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_nms_thresh": 0.7,
        "crop_overlap_ratio": 512 / 1500,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0.0,
        "min_area": "0",
        "max_area": "100%",
        "mask_nms_thresh": 1.0,
    }


def test_what_is_given_beats_the_model_which_beats_the_reference():
    spec = replace(SPEC, automask={"points_per_side": 24, "pred_iou_thresh": 0.6})
    resolved = AutomaskConfig(pred_iou_thresh=0.5).resolve(spec)
    assert (resolved.points_per_side, resolved.pred_iou_thresh, resolved.box_nms_thresh) == (24, 0.5, 0.7)
    assert resolved.resolve(replace(SPEC, automask={"points_per_side": 8})) == resolved


@pytest.mark.parametrize("name", MODELS)
def test_every_models_own_defaults_are_valid(name):
    assert isinstance(AutomaskConfig().resolve(MODELS[name]), AutomaskSettings)


def test_numbers_that_mean_the_same_resolve_alike():
    one = AutomaskConfig(points_per_side=8.0, min_mask_region_area=100, max_area=1).resolve(SPEC)
    two = AutomaskConfig(points_per_side=8, min_mask_region_area=100.0, max_area="1").resolve(SPEC)
    assert repr(one) == repr(two)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"points_per_side": 0}, "points_per_side is 0; give a number from 1 to 1024"),
        ({"points_per_side": 2.5}, "points_per_side is 2.5; give a whole number"),
        ({"pred_iou_thresh": -1}, "pred_iou_thresh is -1; give a number of at least 0"),
        ({"stability_score_thresh": 95}, "stability_score_thresh is 95; give a number from 0 to 1"),
        (
            {"max_area": math.nan},
            "max_area: 'nan' is not an area; give pixels such as 1000, or a share such as 0.5%",
        ),
        ({"crop_n_layers": -1}, "crop_n_layers is -1; give a number from 0 to 8"),
        ({"min_mask_region_area": -5}, "min_mask_region_area is -5; give a number of at least 0"),
    ],
)
def test_values_without_sense_are_refused(config, message):
    with pytest.raises(SamcliError) as error:
        AutomaskConfig(**config).resolve(SPEC)
    assert str(error.value) == message


def test_the_preset_is_how_sa1b_was_made():
    preset = PRESETS["sa1b"].resolve(replace(SPEC, automask={"points_per_side": 8, "box_nms_thresh": 0.1}))
    grids = [int(preset.points_per_side / preset.crop_n_points_downscale_factor**layer) for layer in range(3)]
    assert grids == [32, 16, 8]
    assert preset.crop_n_layers == 2
    assert (preset.pred_iou_thresh, preset.stability_score_thresh, preset.box_nms_thresh) == (0.88, 0.95, 0.7)
    assert (preset.max_area, preset.min_mask_region_area) == ("95%", 100)


# Generation


def test_each_thing_is_found_once_by_its_best_point():
    masks = Stage(corners).generate(points_per_side=4)
    assert [mask.id for mask in masks] == [1, 2, 3, 4]
    assert [mask.point_coords for mask in masks] == [
        ((8.0, 8.0),),
        ((40.0, 8.0),),
        ((8.0, 40.0),),
        ((40.0, 40.0),),
    ]
    assert [mask.predicted_iou for mask in masks] == sorted((m.predicted_iou for m in masks), reverse=True)
    for mask in masks:
        bits = decode_rle(mask.segmentation)
        assert mask.bbox == mask_bbox(bits)
        assert mask.area == bits.sum() == pytest.approx(math.pi * 100, rel=0.15)
        assert mask.crop_box == (0, 0, 64, 64)
        assert mask.score == mask.predicted_iou
        assert 0.8 < mask.stability_score <= 1


def test_nothing_found_is_an_empty_answer():
    assert Stage(lambda *_: (NOTHING,) * 3).generate(points_per_side=4) == ()


def test_masks_without_a_pixel_are_never_found():
    empty = (np.array(-9.0), 1.0)
    config = {
        "pred_iou_thresh": 0,
        "stability_score_thresh": 0,
        "min_mask_region_area": 9,
        "mask_nms_thresh": 0.5,
    }
    assert Stage(lambda *_: (empty,) * 3).generate(points_per_side=4, crop_n_layers=1, **config) == ()


def test_a_one_pixel_mask_has_width_1():
    def answer(x, y, px, py):
        return (np.where((abs(x - 8.5) < 0.5) & (abs(y - 3.5) < 0.5), 30.0, -10.0), 1.0), NOTHING, NOTHING

    (mask,) = Stage(answer).generate((16, 16), points_per_side=1, stability_score_thresh=0)
    assert (mask.bbox, mask.area) == ((8, 3, 1, 1), 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 300)])
def test_extreme_sizes_with_crops(size):
    everything = (np.array(9.0), 1.0)
    masks = Stage(lambda *_: (everything,) * 3).generate(size, points_per_side=2, crop_n_layers=2)
    assert (0, 0, size[1], size[0]) in [mask.bbox for mask in masks]


def test_unstable_masks_are_dropped():
    def soft(x, y, px, py):
        return (np.clip(10 - np.hypot(x - 32, y - 32), -5, 5) * 0.3, 1.0), NOTHING, NOTHING

    assert Stage(soft).generate(points_per_side=2) == ()
    (mask,) = Stage(soft).generate(points_per_side=2, stability_score_thresh=0.2)
    assert 0.2 <= mask.stability_score < 0.95
    assert Stage(soft).generate(points_per_side=2, stability_score_offset=0.01)


def test_the_batch_of_points_changes_nothing():
    everything = Stage(corners).generate(points_per_side=5, points_per_batch=100)
    assert Stage(corners).generate(points_per_side=5, points_per_batch=3) == everything


def test_masks_of_nearly_the_whole_image_can_be_dropped():
    def answer(x, y, px, py):
        return (np.array(9.0), 1.0), (disc(x, y, 32, 32, 20), 0.9), NOTHING

    whole, _ = Stage(answer).generate(points_per_side=1)
    assert whole.area == 64 * 64
    (mask,) = Stage(answer).generate(points_per_side=2, max_area="95%")
    assert mask.area < 64 * 64 / 2


def test_small_masks_can_be_dropped():
    def answer(x, y, px, py):
        return (disc(x, y, 32, 32, 20), 1.0), (disc(x, y, 10, 10, 3), 0.9), NOTHING

    large, small = Stage(answer).generate(points_per_side=1)
    assert large.area > 1000 > 40 > small.area
    assert Stage(answer).generate(points_per_side=1, min_area=40) == (large,)
    assert Stage(answer).generate(points_per_side=1, min_area="1%") == (large,)
    assert len(Stage(answer).generate(points_per_side=1, min_area=str(small.area))) == 2


def test_dropping_islands_does_not_smuggle_a_mask_past_the_smallest_area():
    def answer(x, y, px, py):  # two discs
        both = np.maximum(disc(x, y, 16, 16, 14), disc(x, y, 50, 50, 6))
        return (both, 1.0), NOTHING, NOTHING

    (mask,) = Stage(answer).generate(points_per_side=1)
    cleaned = {"points_per_side": 1, "min_mask_region_area": 200}
    (smaller,) = Stage(answer).generate(**cleaned)
    assert smaller.area < mask.area
    assert Stage(answer).generate(**cleaned, min_area=mask.area) == ()


def test_filling_a_hole_does_not_smuggle_a_mask_past_the_largest_area():
    def answer(x, y, px, py):  # 64 x 64 with a hole of about 8 x 8
        return (-disc(x, y, 32, 32, 5), 1.0), NOTHING, NOTHING

    assert len(Stage(answer).generate(points_per_side=1, max_area="99%")) == 1
    assert Stage(answer).generate(points_per_side=1, max_area="99%", min_mask_region_area=500) == ()


def ring_with_an_island(x, y, px, py):
    ring = np.minimum(disc(x, y, 24, 24, 18), -disc(x, y, 24, 24, 5))
    return (np.maximum(ring, disc(x, y, 56, 56, 5)), 1.0), NOTHING, NOTHING


@pytest.mark.parametrize("area", [300, 300 / 64**2])
def test_small_holes_and_islands_go_by_pixels_or_by_share(area):
    (before,) = Stage(ring_with_an_island).generate(points_per_side=1, stability_score_thresh=0.5)
    (after,) = Stage(ring_with_an_island).generate(
        points_per_side=1, stability_score_thresh=0.5, min_mask_region_area=area
    )
    assert before.bbox[0] + before.bbox[2] > 56
    bits = decode_rle(after.segmentation)
    assert after.bbox == mask_bbox(bits)
    assert after.bbox[0] + after.bbox[2] < 48
    assert bits[24, 24]
    assert after.area == rle_area(after.segmentation) == bits.sum()


def test_duplicates_by_mask_are_dropped_though_their_boxes_differ():
    def answer(x, y, px, py):
        tail = np.where((y > 28) & (y < 36) & (x > 30), 9.0, -9.0)  # thin: a long box, few pixels
        body = disc(x, y, 20, 32, 14)
        return (np.maximum(body, tail), 0.9), (body, 0.95), NOTHING

    config = {"points_per_side": 1, "stability_score_thresh": 0.5}
    assert len(Stage(answer).generate(**config)) == 2
    (mask,) = Stage(answer).generate(**config, mask_nms_thresh=0.6)
    assert mask.predicted_iou == pytest.approx(0.95)


def test_crops_are_embedded_anew_and_their_masks_lie_in_the_whole_image():
    def answer(x, y, px, py):
        return (disc(x, y, px, py, 12), 0.95), NOTHING, NOTHING

    stage = Stage(answer)
    masks = stage.generate((128, 160), points_per_side=1, crop_n_layers=1, crop_overlap_ratio=0.25)
    assert stage.embedded == [(128, 160)] + [(80, 96)] * 4  # overlap int(0.25 * 128) = 32
    assert [mask.crop_box for mask in masks] == [
        (0, 0, 96, 80), (0, 48, 96, 80), (64, 0, 96, 80), (64, 48, 96, 80), (0, 0, 160, 128),
    ]  # fmt: skip
    assert [mask.point_coords for mask in masks] == [
        ((48.0, 40.0),), ((48.0, 88.0),), ((112.0, 40.0),), ((112.0, 88.0),), ((80.0, 64.0),),
    ]  # fmt: skip
    for mask in masks:
        (point,) = mask.point_coords
        x, y, w, h = mask.bbox
        assert (x + w / 2, y + h / 2) == (pytest.approx(point[0], abs=2), pytest.approx(point[1], abs=2))


def test_a_thing_cut_off_by_a_crop_is_dropped_there():
    def answer(x, y, px, py):  # reaches the crop's right edge, an inner one
        return (np.broadcast_to(np.where(x > 60, 9.0, -9.0), (LOW, LOW)), 0.95), NOTHING, NOTHING

    stage = Stage(answer)
    crops = {mask.crop_box for mask in stage.generate((128, 128), points_per_side=1, crop_n_layers=1)}
    assert crops  # the right-hand crops end with the image
    assert all(x + w == 128 for x, _, w, _ in crops)


def test_an_embedding_at_hand_is_used():
    stage = Stage(corners)
    image = np.zeros((64, 64, 3), np.uint8)
    embedding = stage.predictor.embed(image)
    stage.embedded[:] = [(64, 64)]
    masks = generate(stage.predictor, image, AutomaskConfig(points_per_side=4), embedding=embedding)
    assert stage.embedded == [(64, 64)]  # not once more
    assert masks == Stage(corners).generate(points_per_side=4)


def test_an_embedding_of_another_size_is_refused():
    stage = Stage(corners)
    embedding = stage.predictor.embed(np.zeros((64, 60, 3), np.uint8))
    with pytest.raises(SamcliError) as error:
        generate(stage.predictor, np.zeros((64, 64, 3), np.uint8), embedding=embedding)
    assert (
        str(error.value) == "the embedding is of an image of 60x64 pixels, this one has 64x64; embed it again"
    )


def test_the_network_itself_runs_from_photo_to_masks():
    torch.manual_seed(0)
    predictor = Predictor(build_tiny(SIDE), SPEC, "a" * 64)
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    config = AutomaskConfig(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0, crop_n_layers=1)
    masks = generate(predictor, image, config)
    assert masks == generate(predictor, image, config)
    for mask in masks:
        assert mask.segmentation["size"] == [40, 70]
        assert mask.bbox == mask_bbox(decode_rle(mask.segmentation))
