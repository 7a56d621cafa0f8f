"""Label Studio's own converter decodes its brush labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from reading import bits

from samcli.formats.labelstudio import decode_brush

pytestmark = pytest.mark.slow
brush = pytest.importorskip("label_studio_sdk.converter.brush")


def test_brush_labels(export, records):
    tasks = json.loads((export("labelstudio") / "tasks.json").read_bytes())
    assert [task["data"]["image"] for task in tasks] == [record.file_name for record in records]
    for task, record in zip(tasks, records, strict=True):
        regions = task["predictions"][0]["result"]
        assert len(regions) == len(record.annotations)
        for region, mask, own in zip(regions, record.annotations, bits(record), strict=True):
            values = brush.decode_rle(region["value"]["rle"])
            pixels = np.reshape(values, (record.height, record.width, 4))
            assert ((pixels == 255) == own[:, :, None]).all()
            assert region["value"]["brushlabels"] == [mask.category]
            assert region["score"] == mask.score


def test_what_its_converter_writes_is_read(records):
    for record in records:
        for own in bits(record):
            rle = brush.mask2rle(own.astype(np.uint8) * 255)
            assert (decode_brush(rle, own.shape) == own).all()
