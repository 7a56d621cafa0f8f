"""A small training set of drawn shapes, in COCO format."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from samcli.masks import encode_rle, rle_area

PHOTOS = 6


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shapes/` with annotations.json and images/: a disc and a rectangle on noise in each of PHOTOS
    pictures.
    """
    folder = tmp_path_factory.mktemp("data") / "shapes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, PHOTOS + 1):
        height, width = 90 + 4 * number, 120
        picture = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
        disc, box = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        cv2.circle(disc, (30 + number, 40), 20, 1, -1)
        cv2.rectangle(box, (70, 30 + number), (105, 60 + number), 1, -1)
        picture[disc > 0] = (220, 40, 40)
        picture[box > 0] = (30, 60, 200)
        name = f"{number}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for mask in (disc, box):
            rle = encode_rle(mask.astype(bool))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": rle,
                    "area": rle_area(rle),
                    "iscrowd": 0,
                }
            )
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "shape"}]}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder
