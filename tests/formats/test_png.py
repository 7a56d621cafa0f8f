"""Mask pictures: single masks, label maps, cut-outs, and folders like amg.py's."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from samcli.formats.png import METADATA, cutout, encode_jpeg, encode_png, write_masks_folder
from samcli.images import load_mask
from samcli.masks import encode_rle, mask_bbox
from samcli.records import MaskRecord

SIZE = (12, 16)
LARGE = np.zeros(SIZE, bool)
LARGE[1:11, 1:12] = True
SMALL = np.zeros(SIZE, bool)
SMALL[3:6, 4:8] = True
EDGE = np.zeros(SIZE, bool)
EDGE[11, 15] = True

bits = arrays(bool, SIZE)


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def record(mask: np.ndarray, **changes: object) -> MaskRecord:
    return MaskRecord(
        **{
            "segmentation": encode_rle(mask),
            "bbox": mask_bbox(mask),
            "area": int(mask.sum()),
            "predicted_iou": 0.875,
            "stability_score": 0.5,
            **changes,
        }
    )


@given(bits)
def test_a_mask_survives_png(mask):
    data = encode_png(mask)
    picture = decoded(data)
    assert picture.mode == "L"
    assert (np.asarray(picture) == mask * 255).all()
    assert (load_mask(data) == mask).all()


@given(arrays(np.uint16, SIZE))
def test_16_bits_survive_png(values):
    assert (np.asarray(decoded(encode_png(values))) == values).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_survive_png(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, channels), np.uint8)
    assert (np.asarray(decoded(encode_png(pixels))) == pixels).all()


def test_jpeg():
    pixels = np.full((*SIZE, 3), (200, 100, 50), np.uint8)
    picture = decoded(encode_jpeg(pixels))
    assert picture.format == "JPEG"
    assert np.abs(np.asarray(picture).astype(int) - pixels).max() < 6


@given(st.lists(bits, max_size=3))
def test_cutout_is_the_picture_under_the_union(masks):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    rgba = cutout(pixels, masks)
    union = np.any(masks, axis=0) if masks else np.zeros(SIZE, bool)
    assert (rgba[..., :3] == pixels * union[..., None]).all()
    assert (rgba[..., 3] == union * 255).all()
    assert (cutout(pixels, [encode_rle(mask) for mask in masks]) == rgba).all()


def test_masks_folder(tmp_path):
    folder = tmp_path / "sub" / "a.masks"
    write_masks_folder(
        folder,
        [
            record(LARGE, point_coords=((4.5, 3.0), (1.0, 1.0)), crop_box=(0, 0, 16, 12)),
            record(EDGE),
        ],
    )
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png", "metadata.csv"]
    assert (folder / "metadata.csv").read_text() == (
        "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
        "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h\n"
        "0,110,1,1,11,10,4.5,3.0,0.875,0.5,0,0,16,12\n"
        "1,1,15,11,1,1,,,0.875,0.5,,,,\n"
    )
    for i, mask in enumerate((LARGE, EDGE)):
        assert (np.asarray(Image.open(folder / f"{i}.png")) == mask * 255).all()


def test_a_rerun_replaces_the_masks_folder_whole(tmp_path):
    write_masks_folder(tmp_path / "a.masks", [record(LARGE), record(SMALL)])
    write_masks_folder(tmp_path / "a.masks", [record(EDGE)])
    assert sorted(path.name for path in (tmp_path / "a.masks").iterdir()) == ["0.png", "metadata.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.masks"]


def test_masks_folder_of_nothing(tmp_path):
    write_masks_folder(tmp_path / "a.masks", [])
    with (tmp_path / "a.masks" / "metadata.csv").open() as file:
        assert list(csv.reader(file)) == [list(METADATA)]


@given(st.lists(bits, max_size=3))
def test_masks_survive_the_folder(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("masks") / "a.masks"
    write_masks_folder(folder, [record(mask) for mask in masks])
    with (folder / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(masks)
    for row, mask in zip(rows, masks, strict=True):
        read = load_mask(folder / f"{row['id']}.png")
        assert (read == mask).all()
        assert int(row["area"]) == mask.sum()
        x, y, width, height = (int(row[f"bbox_{n}"]) for n in ("x0", "y0", "w", "h"))
        assert read[y : y + height, x : x + width].sum() == mask.sum()
