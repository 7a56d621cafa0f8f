"""datumaro reads SA-1B's files and COCO's instances and panoptic segments."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from reading import bits

pytestmark = pytest.mark.slow
datumaro = pytest.importorskip("datumaro")


def items(place: Path, name: str) -> dict[str, object]:
    return {item.id: item for item in datumaro.Dataset.import_from(str(place), name)}


def masks(item, size: tuple[int, int], kind: str) -> list[np.ndarray]:
    """By group; a group's polygons are one mask."""
    from pycocotools import mask as coco

    found: dict[int, np.ndarray] = {}
    for shape in item.annotations:
        if shape.type.name != kind:
            continue
        if kind == "polygon":
            bits = coco.decode(coco.merge(coco.frPyObjects([list(shape.points)], *size))).astype(bool)
        else:
            bits = np.asarray(shape.image).astype(bool)
        found[shape.group] = found.get(shape.group, np.zeros(size, bool)) | bits
    return [found[group] for group in sorted(found)]


def test_segment_anything(export, records, photos):
    place = export("sa1b")
    shutil.copytree(photos, place, dirs_exist_ok=True)
    for record in records:
        # It reads one folder, without those inside.
        path = Path(record.file_name)
        item = items(place / path.parent, "segment_anything")[str(path.with_suffix(""))]
        read = masks(item, (record.height, record.width), "mask")
        assert len(read) == len(record.annotations)
        assert all((a == b).all() for a, b in zip(read, bits(record), strict=True))
        scores = [
            shape.attributes["predicted_iou"] for shape in item.annotations if shape.type.name == "mask"
        ]
        assert scores == [mask.predicted_iou or 0.0 for mask in record.annotations]


def dataset(file: Path, photos: Path, place: Path) -> Path:
    """As datumaro wants to find it."""
    (place / "annotations").mkdir(parents=True)
    shutil.copy(file, place / "annotations" / "instances_all.json")
    shutil.copytree(photos, place / "images" / "all")
    return place


@pytest.mark.parametrize("options", [[], ["--polygons"]])
def test_coco_instances(export, records, photos, tmp_path, options):
    place = dataset(export("coco", *options) / "annotations.json", photos, tmp_path / "coco")
    read = datumaro.Dataset.import_from(str(place), "coco_instances")
    names = [label.name for label in read.categories()[datumaro.AnnotationType.label]]
    found = {item.id: item for item in read}
    assert set(found) == {str(Path(record.file_name).with_suffix("")) for record in records}
    for record in records:
        item = found[str(Path(record.file_name).with_suffix(""))]
        size = (record.height, record.width)
        kind = "polygon" if options else "mask"
        own = masks(item, size, kind)
        assert len(own) == len(record.annotations)
        assert all((a == b).all() for a, b in zip(own, bits(record), strict=True))
        label = {shape.group: names[shape.label] for shape in item.annotations if shape.type.name == kind}
        assert [label[group] for group in sorted(label)] == [mask.category for mask in record.annotations]
        score = {shape.group: shape.attributes["score"] for shape in item.annotations}
        assert [score[group] for group in sorted(score)] == [mask.score for mask in record.annotations]


def test_coco_panoptic(export, records, photos):
    place = export("coco-panoptic", "--flatten", "order")
    shutil.copytree(photos, place / "images" / "all")
    found = items(place, "coco_panoptic")
    for record in records:
        item = found[str(Path(record.file_name).with_suffix(""))]
        read = {shape.group: np.asarray(shape.image).astype(bool) for shape in item.annotations}
        above = np.zeros((record.height, record.width), bool)
        for number, mask in reversed([*enumerate(bits(record), start=1)]):
            seen = mask & ~above
            assert (read.pop(number, np.zeros_like(seen)) == seen).all()
            above |= mask
        assert not read
