from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from samcli.errors import SamcliError
from samcli.masks import decode_rle, encode_rle
from samcli.models.prompt_encoder import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.train.data import (
    LOGIT_STRIDE,
    Pack,
    Photo,
    PromptDataset,
    SampleConfig,
    _resize_masks,
    collate,
    read_pack,
    unpack,
)

SIDE = 64


@pytest.fixture(scope="session")
def dataset(shapes: Path) -> PromptDataset:
    pack = Pack("shapes", read_pack(shapes), 1.0, cutouts=False)
    return PromptDataset([pack], SampleConfig(side=SIDE), seed=3, length=40)


def test_read_pack_keeps_every_mask(shapes: Path) -> None:
    photos = read_pack(shapes)
    assert [len(p.objects) for p in photos] == [2] * 6
    assert all(p.path.exists() and not p.regions for p in photos)


def test_polygons_and_plain_run_lengths_are_read_too(shapes: Path, tmp_path: Path) -> None:
    data = json.loads((shapes / "annotations.json").read_text())
    polygon = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "image_id": 1}
    height, width = data["images"][0]["height"], data["images"][0]["width"]
    counts = {"segmentation": {"size": [height, width], "counts": [5, 7, height * width - 12]}, "image_id": 1}
    (tmp_path / "annotations.json").write_text(
        json.dumps({"images": data["images"][:1], "annotations": [polygon, counts]})
    )
    square, run = (decode_rle(rle) for rle in read_pack(tmp_path)[0].objects)
    assert square[10:30, 10:30].all()
    assert square.sum() == 400
    assert run.sum() == 7


def test_an_annotation_without_polygons_is_left_out(shapes: Path, tmp_path: Path) -> None:
    images = json.loads((shapes / "annotations.json").read_text())["images"][:1]
    polygons = ([], [[]], [[1, 1, 2, 2]], [[], [10, 10, 30, 10, 30, 30, 10, 30]])
    annotations = [{"segmentation": polygon, "image_id": 1} for polygon in polygons]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (only,) = read_pack(tmp_path)[0].objects
    assert decode_rle(only).sum() == 400


def test_two_hundred_masks_of_one_photo(shapes: Path) -> None:
    """OpenCV resizes at most 128 channels at once."""
    photo = read_pack(shapes)[0]
    many = Photo(photo.path, photo.objects * 100, (), ())
    dataset = PromptDataset([Pack("many", [many], 1.0, False)], SampleConfig(side=SIDE), seed=0, length=1)
    assert dataset[0].known.any()
    masks = np.random.default_rng(0).integers(0, 2, (30, 40, 200), dtype=np.uint8)
    resized = _resize_masks(masks, (17, 13))
    one = [cv2.resize(masks[..., k], (17, 13), interpolation=cv2.INTER_NEAREST) for k in range(200)]
    assert np.array_equal(resized, np.stack(one, -1))


def _striped(folder: Path, rows: slice) -> Pack:
    """One 64 x 64 photo whose only mask is the given rows."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    mask = np.zeros((64, 64), bool)
    mask[rows] = True
    return Pack("stripe", [Photo(folder / "a.png", (encode_rle(mask),), (), ())], 1.0, cutouts=False)


def test_a_mask_too_thin_for_the_logits_is_not_known(tmp_path: Path) -> None:
    config = SampleConfig(side=64, whole_share=1.0, anywhere_share=0.0)
    thin = PromptDataset([_striped(tmp_path, np.s_[9:10])], config, seed=0, length=1)[0]
    assert not (thin.targets >= 0.5).any()
    assert not thin.known.any()
    wide = PromptDataset([_striped(tmp_path, np.s_[9:19])], config, seed=0, length=1)[0]
    assert wide.known[:, 0].all()


def test_data_without_a_usable_mask_is_named(tmp_path: Path) -> None:
    dataset = PromptDataset(
        [_striped(tmp_path, np.s_[:])], SampleConfig(side=64, whole_share=1.0), seed=0, length=1
    )
    with pytest.raises(SamcliError, match=r"no usable mask in 100 samples of the training data \(stripe\)"):
        dataset[0]
    with pytest.raises(SamcliError, match=r"the training data \(none\) holds no annotated masks"):
        PromptDataset([Pack("none", [], 1.0, False)], SampleConfig(), seed=0, length=1)


def test_sample_is_a_function_of_seed_and_index(dataset: PromptDataset) -> None:
    first, again, other = dataset[5], dataset[5], dataset[6]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_a_click_lies_in_every_known_answer_and_a_box_around_its_own(dataset: PromptDataset) -> None:
    clicks = boxes = 0
    for index in range(len(dataset)):
        batch = dataset[index]
        for n in range(len(batch.coords)):
            if tuple(batch.labels[n].tolist()) == (FOREGROUND, PADDING):
                x, y = (batch.coords[n, 0] / LOGIT_STRIDE).long().tolist()
                near = np.s_[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                assert all(target[near].any() for target in batch.targets[n][batch.known[n]])
                clicks += int(batch.known[n].any())
            else:
                assert tuple(batch.labels[n].tolist()) == (TOP_LEFT, BOTTOM_RIGHT)
                ys, xs = torch.nonzero(batch.targets[n, 0], as_tuple=True)
                centre = torch.stack([xs.float().mean(), ys.float().mean()]) * LOGIT_STRIDE
                assert (batch.coords[n, 0] <= centre).all()
                assert (batch.coords[n, 1] >= centre).all()
                boxes += 1
    assert clicks > 20
    assert boxes > 20


def test_pasting_takes_what_it_covers_from_the_masks_below(shapes: Path) -> None:
    photos = read_pack(shapes)
    single = [p.__class__(p.path, p.objects[:1], (), ()) for p in photos]
    packs = [Pack("all", photos, 1.0, False), Pack("cut", single, 1e-9, True)]
    pasted = PromptDataset(packs, SampleConfig(side=SIDE, paste_share=1.0), seed=0, length=20)
    plain = PromptDataset(packs, SampleConfig(side=SIDE, paste_share=0.0), seed=0, length=20)
    changed = sum(not torch.equal(pasted[i].images, plain[i].images) for i in range(20))
    assert changed >= 15


def test_collate_keeps_the_prompts_of_an_image_together(dataset: PromptDataset) -> None:
    samples = [dataset[0], dataset[1]]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, SIDE, SIDE)
    assert torch.equal(batch.coords[:4], samples[0].coords)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "does not exist; training data is a folder with annotations.json and images/"),
        ("{", "annotations.json is not JSON"),
        ('{"images": []}', "is not a COCO instances file: 'annotations' is missing or wrong"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(SamcliError, match=r"annotations\.json") as caught:
        read_pack(tmp_path)
    assert expected in str(caught.value)


def test_unpack_refuses_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(SamcliError, match="holds no training data"):
        unpack(tmp_path, tmp_path / "into")


def test_unpack_reads_folders_and_tar_files(shapes: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        tar.add(shapes, "packed")
    assert [p.name for p in unpack(tmp_path, tmp_path / "into")] == ["packed"]
    assert unpack(shapes.parent, tmp_path / "other") == [shapes]


def test_a_folder_and_its_tar_file_count_once(shapes: Path, tmp_path: Path) -> None:
    data, into = tmp_path / "data", tmp_path / "into"
    data.mkdir()
    with tarfile.open(data / "shapes.tar", "w") as tar:
        tar.add(shapes, "shapes")
    assert unpack(data, into) == [into / "shapes"]
    shutil.copytree(shapes, data / "shapes")
    assert unpack(data, into) == [data / "shapes"]
    assert unpack(data, tmp_path / "unused") == [data / "shapes"]
    assert not (tmp_path / "unused").exists()
