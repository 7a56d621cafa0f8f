"""LabelMe's own class for its files reads the masks. Its window, and so Qt, is not needed."""

from __future__ import annotations

import importlib.util
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from reading import bits

pytestmark = pytest.mark.slow


@pytest.fixture
def label_file(monkeypatch):
    """The class, with stand-ins for what only LabelMe's window uses."""
    if not importlib.util.find_spec("labelme"):
        pytest.skip("labelme is not installed")
    window = ("onnxruntime", "imgviz", "imgviz.io", "PyQt5", "PyQt5.QtCore", "PyQt5.QtGui", "PyQt5.QtWidgets")
    for name in window:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    from labelme import LabelFile

    return LabelFile


def test_masks(export, records, photos, label_file):
    place = export("labelme", "--images", photos)
    for record in records:
        file = label_file(str(place / record.file_name.replace(".png", ".json")))
        assert file.image_data == (photos / record.file_name).read_bytes()
        assert [shape["label"] for shape in file.shapes] == [mask.category for mask in record.annotations]
        for shape, own in zip(file.shapes, bits(record), strict=True):
            assert shape["shape_type"] == "mask"
            (x0, y0), (x1, y1) = np.array(shape["points"]).astype(int)
            read = np.zeros_like(own)
            read[y0 : y1 + 1, x0 : x1 + 1] = shape["mask"]
            assert (read == own).all()
