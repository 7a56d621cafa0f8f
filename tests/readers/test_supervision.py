"""supervision reads COCO and YOLO. It rounds coordinates and fills polygons with their own line."""

from __future__ import annotations

import numpy as np
import pytest
from reading import bits, iou, larger

pytestmark = pytest.mark.slow
supervision = pytest.importorskip("supervision")


def by_photo(dataset) -> dict[str, object]:
    return {path.rsplit("photos", 1)[-1].split("/", 1)[1]: found for path, _, found in dataset}


def test_coco(export, records, photos):
    file = export("coco") / "annotations.json"
    dataset = supervision.DetectionDataset.from_coco(str(photos), str(file), force_masks=True)
    found = by_photo(dataset)
    for record in records:
        detections = found[record.file_name]
        assert len(detections) == len(record.annotations)
        if record.annotations:
            for read, own in zip(detections.mask, bits(record), strict=True):
                assert (np.asarray(read) == own).all()
            names = [dataset.classes[i] for i in detections.class_id]
            assert names == [mask.category for mask in record.annotations]


def test_coco_polygons(export, records, photos):
    file = export("coco", "--polygons") / "annotations.json"
    found = by_photo(supervision.DetectionDataset.from_coco(str(photos), str(file), force_masks=True))
    values = []
    for record in records:
        own = bits(record)
        for read, mask, large in (
            zip(found[record.file_name].mask, own, larger(own), strict=True) if own else ()
        ):
            read = np.asarray(read).astype(bool)
            # Corners of pixels are its pixels: it draws the line, too, right and below of the mask.
            assert (mask <= read).all()
            grown = np.pad(mask, ((1, 0), (1, 0)))
            around = grown[1:, 1:] | grown[:-1, 1:] | grown[1:, :-1] | grown[:-1, :-1]
            assert (read <= around).all()
            values += [iou(read, mask)] if large else []
    print(f"supervision, coco --polygons: mean IoU {np.mean(values):.4f}, worst {min(values):.4f}")
    assert np.mean(values) > 0.85


def test_yolo(export, records, photos):
    place = export("yolo", "--images", photos)
    values = []
    for record in records:
        folder = record.file_name.rpartition("/")[0]
        dataset = supervision.DetectionDataset.from_yolo(
            str(place / "images" / folder),
            str(place / "labels" / folder),
            str(place / "data.yaml"),
            force_masks=True,
        )
        found = next(f for path, _, f in dataset if path.endswith("/" + record.file_name.rpartition("/")[2]))
        own = bits(record)
        assert len(found) == len(own)
        if own:
            assert [dataset.classes[i] for i in found.class_id] == [m.category for m in record.annotations]
        for read, mask, large in zip(found.mask, own, larger(own), strict=True) if own else ():
            read = np.asarray(read).astype(bool)
            assert (mask <= read).all()  # nothing but the lines between parts is more
            values += [iou(read, mask)] if large else []
    print(f"supervision, yolo: mean IoU {np.mean(values):.4f}, worst {min(values):.4f}")
    assert np.mean(values) > 0.98
