"""Pillow and tifffile read the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reading import bits

pytestmark = pytest.mark.slow


def flattened(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The smaller over the larger, of equals the later: anew, and by hand."""
    labels = np.zeros(size, int)
    for i in sorted(range(len(masks)), key=lambda i: (-masks[i].sum(), i)):
        labels[masks[i]] = i + 1
    return labels


@pytest.mark.parametrize(("name", "ending", "mode"), [("labelmap", ".png", "I;16"), ("palette", ".png", "P")])
def test_maps(export, records, name, ending, mode):
    place = export(name)
    for record in records:
        image = Image.open(place / Path(record.file_name).with_suffix(ending))
        assert image.mode == mode
        assert (np.asarray(image) == flattened(bits(record), (record.height, record.width))).all()


def test_tiff(export, records):
    tifffile = pytest.importorskip("tifffile")
    place = export("tiff")
    for record in records:
        labels = tifffile.imread(place / Path(record.file_name).with_suffix(".tif"))
        assert labels.dtype == np.uint16
        assert (labels == flattened(bits(record), (record.height, record.width))).all()


def test_masks_and_cutouts(export, records, photos):
    masks, cutouts = export("png"), export("cutout", "--images", photos)
    for record in records:
        photo = np.asarray(Image.open(photos / record.file_name))
        for mask, own in zip(record.annotations, bits(record), strict=True):
            inner = Path(record.file_name).with_suffix("") / f"{mask.id}_{mask.category}.png"
            image = Image.open(masks / inner)
            assert image.mode == "L"
            assert (np.asarray(image) == own * 255).all()
            pixels = np.asarray(Image.open(cutouts / inner))
            assert (pixels[:, :, 3] == own * 255).all()
            assert (pixels[:, :, :3] == photo * own[:, :, None]).all()
