"""A dataset of annotate as supervision and datumaro read it: annotations.json, parts of it, YOLO in parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from reading import bits, iou
from specimens import write_records

from samcli.cli.photos import PhotoFolder
from samcli.dataset.build import Plan, build
from samcli.dataset.curate import Curation

pytestmark = pytest.mark.slow
supervision = pytest.importorskip("supervision")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, records, photos) -> Path:
    place = tmp_path_factory.mktemp("dataset")
    write_records(place / "records", records)
    every = Curation(duplicates=None, containment=None, conflicts=None)
    plan = Plan(every, split=(0.5, 0.5), formats=("yolo",), photos=PhotoFolder(photos))
    summary = build(place, plan, print)
    assert summary.failures == ()
    assert all(split.images for split in summary.splits)
    return place


def test_annotations_and_parts(place, photos, records):
    kept = {r.file_name: [m for m in bits(r) if m.any()] for r in records}
    read: dict[str, object] = {}
    for part in ("train", "val"):
        dataset = supervision.DetectionDataset.from_coco(
            str(photos), str(place / f"{part}.json"), force_masks=True
        )
        assert dataset.classes
        read |= {path.rsplit("photos", 1)[-1].split("/", 1)[1]: found for path, _, found in dataset}
    whole = supervision.DetectionDataset.from_coco(
        str(photos), str(place / "annotations.json"), force_masks=True
    )
    assert len(whole) == len(read) == len(records)
    for name, masks in kept.items():
        assert len(read[name]) == len(masks)
        for mine, theirs in zip(masks, read[name].mask if masks else (), strict=True):
            assert (np.asarray(theirs) == mine).all()


def test_yolo_in_parts(place, records):
    """`data.yaml` leads to every part, and labels lie where training tools look for them."""
    import yaml

    data = yaml.safe_load((place / "yolo/data.yaml").read_text(encoding="utf-8"))
    found: dict[str, object] = {}
    for part in ("train", "val"):
        pictures = Path(data["path"]) / data[part]
        labels = Path(str(pictures).replace("/images", "/labels"))
        for folder in sorted({path.parent for path in pictures.rglob("*.*")}):
            below = folder.relative_to(pictures)
            dataset = supervision.DetectionDataset.from_yolo(
                str(folder), str(labels / below), str(place / "yolo/data.yaml"), force_masks=True
            )
            assert dataset.classes == list(data["names"].values())
            for path, _, detections in dataset:
                found[Path(path).relative_to(pictures).as_posix()] = detections
    for record in records:
        own = [mask for mask in bits(record) if mask.any()]
        theirs = found[record.file_name]
        assert len(theirs) == len(own)
        for a, b in zip(own, theirs.mask if own else (), strict=True):
            assert a.sum() < 200 or iou(a, np.asarray(b).astype(bool)) > 0.8


def test_datumaro_reads_annotations(place, photos, records, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    (tmp_path / "annotations").mkdir()
    shutil.copy(place / "annotations.json", tmp_path / "annotations" / "instances_all.json")
    shutil.copytree(photos, tmp_path / "images" / "all")
    found = {item.id: item for item in datumaro.Dataset.import_from(str(tmp_path), "coco_instances")}
    for record in records:
        groups = {shape.group for shape in found[str(Path(record.file_name).with_suffix(""))].annotations}
        assert len(groups) == sum(mask.any() for mask in bits(record))
