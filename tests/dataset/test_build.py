"""Datasets from records, written and read back."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from dataset_records import RUN, SIZE, box, image, rle, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from samcli.cli.photos import PhotoFolder
from samcli.dataset.build import Plan, build, check
from samcli.dataset.curate import Curation
from samcli.dataset.summary import SAMPLES, Summary
from samcli.errors import SamcliError
from samcli.formats.record import write_error
from samcli.formats.table import FORMATS, Unreadable
from samcli.masks import decode_rle
from samcli.records import Notes, Tag

PLAIN = Plan()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three photos: two things, one thing and an unsure one, nothing."""
    return write(
        tmp_path / "dataset",
        image("a.jpg", box("dog", 0.9, 0, 0, 10, 10), box("кошка", 0.5, 12, 0, 20, 10)),
        image(
            "sub/b.jpg",
            replace(box("dog", 0.75, 2, 2, 8, 8), predicted_iou=0.875, stability_score=0.5, phrase="dog"),
            box("dog", 0.25, 12, 2, 20, 8),
            notes=Notes("A dog.", (Tag("dog", 0.5),), "0f0f0f0f0f0f0f0f"),
        ),
        image("sub/c.jpg"),
    )


def made(place: Path, plan: Plan = PLAIN, notes: list[str] | None = None) -> Summary:
    """Build, without notes unless they are asked for."""
    said: list[str] = []
    summary = build(place, plan, said.append)
    if notes is None:
        assert said == []
    else:
        notes += said
    return summary


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(place: Path) -> dict[str, bytes]:
    """Everything that was built."""
    found = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    return {name: data for name, data in sorted(found.items()) if not name.startswith("records/")}


def test_a_small_dataset_to_the_letter(place):
    summary = made(place, Plan(Curation(min_score=0.3)))
    whole, dog = rle(0, 0, 10, 10)["counts"], rle(2, 2, 8, 8)["counts"]
    provenance = (
        '{"source": "samcli", "tagger": "blip", "detector": "tiny", "model": "vit_h", "box_threshold": 0.2}'
    )
    assert (place / "annotations.json").read_text(encoding="utf-8") == (
        '{"info": {"description": "annotated by samcli", "version": "1.0", "contributor": "", "url": ""},\n'
        ' "licenses": [],\n'
        ' "images": [\n'
        '  {"id": 1, "width": 30, "height": 20, "file_name": "a.jpg"},\n'
        '  {"id": 2, "width": 30, "height": 20, "file_name": "sub/b.jpg", "caption": "A dog.", '
        '"tags": [{"word": "dog", "score": 0.5}]},\n'
        '  {"id": 3, "width": 30, "height": 20, "file_name": "sub/c.jpg"}],\n'
        ' "annotations": [\n'
        '  {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [20, 30], "counts": '
        f'{json.dumps(whole)}}}, "area": 100, "bbox": [0, 0, 10, 10], "iscrowd": 0, "score": 0.9, '
        f'"provenance": {provenance}}},\n'
        '  {"id": 2, "image_id": 1, "category_id": 2, "segmentation": {"size": [20, 30], "counts": '
        f'{json.dumps(rle(12, 0, 20, 10)["counts"])}}}, "area": 80, "bbox": [12, 0, 8, 10], "iscrowd": 0, '
        f'"score": 0.5, "provenance": {provenance}}},\n'
        '  {"id": 3, "image_id": 2, "category_id": 1, "segmentation": {"size": [20, 30], "counts": '
        f'{json.dumps(dog)}}}, "area": 36, "bbox": [2, 2, 6, 6], "iscrowd": 0, "predicted_iou": 0.875, '
        f'"stability_score": 0.5, "phrase": "dog", "score": 0.75, "provenance": {provenance}}}],\n'
        ' "categories": [{"id": 1, "name": "dog", "supercategory": ""}, '
        '{"id": 2, "name": "кошка", "supercategory": ""}]}\n'
    )
    assert read(place / "dataset.json") == {"samcli": {"dataset": 1, "made": ["annotations.json"]}}
    assert list(files(place)) == ["annotations.json", "dataset.json"]
    assert (summary.images, summary.empty, summary.accepted, summary.to_review) == (3, 1, 3, 0)
    assert summary.dropped == {"score": 1}
    assert [(c.name, c.accepted, c.images) for c in summary.classes] == [("dog", 2, 2), ("кошка", 1, 1)]
    dogs = summary.classes[0].samples
    assert [(s.file_name, s.mask.score) for s in dogs] == [("a.jpg", 0.9), ("sub/b.jpg", 0.75)]
    assert summary.scores[10] == summary.scores[15] == summary.scores[18] == 1
    assert sum(summary.scores) == sum(summary.sizes) == 3
    # sides: 10, 8.9 and 6 of 24.5 pixels
    assert [i for i, count in enumerate(summary.sizes) if count] == [4, 7, 8]
    assert summary.settings == (RUN.to_json(),)
    assert (summary.duplicates, summary.failures, summary.splits) == ((), (), ())


def test_pycocotools_reads_it(place, capsys):
    made(place)
    coco = COCO(place / "annotations.json")
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert np.array_equal(coco.annToMask(found[0]), decode_rle(rle(0, 0, 10, 10)))
    capsys.readouterr()


def test_nothing_at_all_is_a_dataset_too(tmp_path, capsys):
    place = write(tmp_path)
    summary = made(place, Plan(Curation(confident=0.5), split=(0.5, 0.5), label_json=True))
    for name in ("annotations.json", "to_review.json", "train.json", "val.json"):
        coco = COCO(place / name)
        assert (coco.imgs, coco.anns, coco.cats) == ({}, {}, {})
    assert (summary.images, summary.empty, summary.classes) == (0, 0, ())
    write(place, image("a.jpg"))
    assert (made(place).images, made(place).empty) == (1, 1)
    assert len(COCO(place / "annotations.json").imgs) == 1
    capsys.readouterr()


def test_the_same_again_gives_the_same_bytes(place):
    plan = Plan(
        Curation(confident=0.6), split=(0.5, 0.3, 0.2), formats=("yolo", "labelme", "coco"), label_json=True
    )
    first = made(place, plan)
    before = files(place)
    assert made(place, plan) == first
    assert files(place) == before
    again = place.parent / "copy" / "dataset"
    shutil.copytree(place / "records", again / "records")
    made(again, replace(plan, formats=("labelme", "coco")))
    for name, data in files(again).items():
        assert name == "dataset.json" or before[name] == data


def test_nothing_of_an_earlier_build_is_left(place):
    made(place, Plan(Curation(confident=0.6), split=(0.5, 0.5), formats=("yolo", "png"), label_json=True))
    assert {"labels", "yolo", "png", "train.json", "to_review.json"} <= {p.name for p in place.iterdir()}
    (place / "report.html").write_text("mine")
    (place / "records/sub/b.json").unlink()
    made(place, Plan(formats=("png",)))
    assert {path.name for path in place.iterdir()} == {
        "records", "annotations.json", "dataset.json", "png", "report.html",
    }  # fmt: skip
    assert sorted(path.name for path in (place / "png").rglob("*") if path.is_dir()) == ["a", "c", "sub"]
    made(place)
    assert list(files(place)) == ["annotations.json", "dataset.json", "report.html"]


@pytest.mark.parametrize("name", ["train.json", "yolo/mine.txt", "labels/mine.txt", "annotations.json"])
def test_what_is_not_ours_is_not_overwritten_and_not_removed(place, name):
    mine = place / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    top = mine.relative_to(place).parts[0]
    with pytest.raises(SamcliError) as error:
        made(place, Plan(split=(0.5, 0.5), formats=("yolo",), label_json=True))
    assert str(error.value) == (
        f"{place / top} is there already, and dataset.json does not list it as samcli's; move it away, or "
        "choose another place"
    )
    if top != "annotations.json":
        made(place)
    assert mine.read_text() == "mine"


def test_what_dataset_json_says_of_other_files_is_not_believed(place):
    (place / "mine").mkdir()
    for name in ("mine", "../mine", "records", "report.html"):
        (place / "dataset.json").write_text(json.dumps({"samcli": {"made": [name, "annotations.json"]}}))
        made(place)
    assert (place / "mine").is_dir()
    assert (place / "records").is_dir()
    (place / "dataset.json").write_text("[]")
    with pytest.raises(SamcliError, match=r"dataset\.json is not what samcli wrote; remove it"):
        made(place)


def test_numbers_of_categories_follow_the_labels_then_the_names(place):
    summary = made(place, Plan(labels=("zebra", "кошка")))
    categories = {"zebra": 1, "кошка": 2, "dog": 3}
    assert {c["name"]: c["id"] for c in read(place / "annotations.json")["categories"]} == categories
    assert [c.name for c in summary.classes] == ["dog", "кошка", "zebra"]
    made(place, Plan(Curation(min_score=0.95)))  # numbers do not depend on what is taken
    assert [c["name"] for c in read(place / "annotations.json")["categories"]] == ["dog", "кошка"]


def test_five_hundred_labels(tmp_path):
    labels = tuple(f"слово {i}" for i in range(500))
    place = write(tmp_path, image("a.jpg", *(box(labels[i], 0.5, i, 0, i + 1, 5) for i in range(30))))
    made(place, Plan(labels=labels, formats=("yolo",)))
    data = read(place / "annotations.json")
    assert [c["id"] for c in data["categories"]] == list(range(1, 501))
    assert [a["category_id"] for a in data["annotations"]] == list(range(1, 31))
    assert '\n  499: "слово 499"\n' in (place / "yolo/data.yaml").read_text(encoding="utf-8")
    assert (place / "yolo/labels/a.txt").read_text().split("\n")[29].startswith("29 ")


def test_masks_without_a_name_are_objects(tmp_path):
    place = write(tmp_path, image("a.jpg", box(None, 0.5, 0, 0, 4, 4)))
    made(place)
    assert [c["name"] for c in read(place / "annotations.json")["categories"]] == ["object"]


def test_what_is_to_review_stands_apart(place):
    summary = made(place, Plan(Curation(confident=0.6)))
    data, rest = read(place / "annotations.json"), read(place / "to_review.json")
    assert [(a["id"], a["score"]) for a in data["annotations"]] == [(1, 0.9), (2, 0.75)]
    assert [(a["id"], a["image_id"], a["score"]) for a in rest["annotations"]] == [(3, 1, 0.5), (4, 2, 0.25)]
    assert rest["images"] == data["images"][:2]  # only what there is to review
    assert rest["categories"] == data["categories"]
    assert (summary.accepted, summary.to_review) == (2, 2)
    assert (sum(summary.scores), sum(summary.review_scores)) == (2, 2)


def test_failures_do_not_end_it(place):
    write_error(
        place / "records/bad.error.json", RUN, PurePosixPath("bad.jpg"), None, "bad.jpg is no picture"
    )
    (place / "records/half.json").write_bytes((place / "records/a.json").read_bytes()[:300])
    damaged = box("dog", 0.9, 0, 0, 3, 3)
    damaged = replace(damaged, segmentation={"size": list(SIZE), "counts": "05"})
    write(place, image("odd.jpg", damaged))
    shutil.copy(place / "records/a.json", place / "records/a.jpg.json")  # of --keep-extension
    summary = made(place)
    assert [path for path, _ in summary.failures] == ["a.jpg", "bad.jpg", "half", "odd.jpg"]
    reasons = [reason for _, reason in summary.failures]
    assert reasons[0] == f"{place}/records/a.json is a second record of this photo; remove one"
    assert reasons[1] == "bad.jpg is no picture"
    assert reasons[2].startswith(f"{place}/records/half.json is not a samcli record: ")
    assert "damaged" in reasons[3]
    assert summary.images == 3
    assert len(read(place / "annotations.json")["images"]) == 3


@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "\ud800.jpg"])
def test_paths_that_lead_elsewhere_are_failures(place, name):
    text = (place / "records/a.json").read_text(encoding="utf-8")
    (place / "records/bad.json").write_text(text.replace('"a.jpg"', json.dumps(name)), encoding="utf-8")
    summary = made(place, Plan(split=(0.5, 0.5), formats=("png",), label_json=True))
    assert [path for path, _ in summary.failures] == ["bad"]
    assert (summary.images, list(place.parent.glob("*.*"))) == (3, [])


def test_without_records(tmp_path):
    with pytest.raises(SamcliError, match=r"holds no records/; give a folder that samcli annotate wrote"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"split": (0.5, 0.4)}, "the split 0.5,0.4 is not two or three shares above 0 that add up to 1"),
        ({"split": (1.0,)}, "the split 1 is not"),
        ({"split": (1.5, -0.5)}, "the split 1.5,-0.5 is not"),
        ({"formats": ("voc",)}, "the format 'voc' is unknown; known: sa1b, "),
        ({"formats": ("png", "png")}, "the format png is asked for twice"),
        (
            {"formats": ("cutout",)},
            "the format cutout needs the photos; give their folder with --images",
        ),
    ],
)
def test_plans_that_make_no_sense(values, said):
    with pytest.raises(SamcliError) as error:
        Plan(**values)
    assert str(error.value).startswith(said)


def test_scores_of_categories_that_nothing_is_of_are_noted(place):
    notes: list[str] = []
    made(place, Plan(Curation(class_scores={"dog": 0.5, "cow": 0.1, "bee": 0.2})), notes)
    assert notes == [
        "nothing was proposed as bee, which has a least score of its own",
        "nothing was proposed as cow, which has a least score of its own",
    ]


class TestSplit:
    def test_by_the_hash_of_the_path(self, tmp_path) -> None:
        names = [f"folder {i % 7}/{i:04}.jpg" for i in range(600)]
        place = write(tmp_path, *(image(name, box("dog", 0.5, 0, 0, 5, 5)) for name in names))
        summary = made(place, Plan(split=(0.8, 0.1, 0.1)))
        whole = read(place / "annotations.json")
        parts = {part: read(place / f"{part}.json") for part in ("train", "val", "test")}
        for key in ("images", "annotations"):
            joined = [entry for part in parts.values() for entry in part[key]]
            assert sorted(joined, key=lambda entry: entry["id"]) == whole[key]
        assert all(part["categories"] == whole["categories"] for part in parts.values())
        assert [(s.name, s.images, s.annotations) for s in summary.splits] == [
            (name, len(part["images"]), len(part["annotations"])) for name, part in parts.items()
        ]
        assert 440 < len(parts["train"]["images"]) < 520
        for name, part in parts.items():
            for entry in part["images"]:
                at = int(hashlib.sha256(entry["file_name"].encode()).hexdigest()[:16], 16) / 2**64
                assert name == ("train" if at < 0.8 else "val" if at < 0.9 else "test")
        before = {entry["file_name"] for entry in parts["train"]["images"]}
        write(place, *(image(f"new {i}.jpg") for i in range(50)))
        made(place, Plan(split=(0.8, 0.1, 0.1)))
        after = {entry["file_name"] for entry in read(place / "train.json")["images"]}
        assert {name for name in after if not name.startswith("new")} == before

    def test_photos_that_look_alike_go_together(self, tmp_path) -> None:
        place = write(tmp_path, *(image(f"{i}.jpg", notes=Notes(phash=f"{i // 10:016x}")) for i in range(40)))
        summary = made(place, Plan(split=(0.5, 0.5)))
        assert [len(group) for group in summary.duplicates] == [40]  # 0, 1, 2, 3 differ in two bits at most
        assert sorted(split.images for split in summary.splits) == [0, 40]


def test_of_photos_that_look_alike_the_first_is_taken(tmp_path):
    looks = {"a.jpg": "00ff00ff00ff00ff", "b/a.jpg": "00ff00ff00ff00fe", "c.jpg": "ffffffff00000000"}
    records = [image(n, box("dog", 0.5, 0, 0, 5, 5), notes=Notes(phash=h)) for n, h in looks.items()]
    place = write(tmp_path, *records)
    summary = made(place)
    assert (summary.duplicates, summary.skipped, summary.images) == ((("a.jpg", "b/a.jpg"),), False, 3)
    summary = made(place, Plan(skip_duplicates=True))
    assert (summary.duplicates, summary.skipped, summary.images) == ((("a.jpg", "b/a.jpg"),), True, 2)
    assert [i["file_name"] for i in read(place / "annotations.json")["images"]] == ["a.jpg", "c.jpg"]
    assert (summary.classes[0].accepted, summary.classes[0].images) == (2, 2)


def test_samples_are_few_and_spread_over_scores_and_photos(tmp_path):
    def masks(i: int) -> list[Any]:
        return [box("dog", s, x, 0, x + 5, 5) for x, s in ((0, i / 100), (10, 0.0))]

    summary = made(write(tmp_path, *(image(f"{i:02}.jpg", *masks(i)) for i in range(100))))
    samples = summary.classes[0].samples
    assert len(samples) == SAMPLES
    scores = [sample.mask.score for sample in samples]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (0.99, 0.0)
    assert max(np.diff(scores[::-1])) < 0.25
    assert len({sample.file_name for sample in samples}) == SAMPLES
    assert (summary.classes[0].accepted, summary.classes[0].images) == (200, 100)


# An existing dataset


def existing() -> dict[str, Any]:
    """What another tool left: numbers and keys of its own, polygons, an image without a photo."""
    return {
        "info": {"year": 2020, "contributor": "they"},
        "licenses": [{"id": 4, "name": "CC-BY"}],
        "images": [
            {"id": 70, "width": 30, "height": 20, "file_name": "b.jpg", "license": 4, "flickr_url": "x"},
            {"id": 9, "width": 10, "height": 10, "file_name": "gone.jpg"},
            {"id": 12, "width": 30, "height": 20, "file_name": "a.jpg"},
        ],
        "annotations": [
            {"id": 500, "image_id": 12, "category_id": 18, "iscrowd": 0, "area": 100.5,
             "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]], "theirs": {"n": 1.5}},
            {"id": 3, "image_id": 9, "category_id": 1, "iscrowd": 1, "area": 9, "bbox": [0, 0, 3, 3],
             "segmentation": {"size": [10, 10], "counts": [0, 3, 7, 3, 7, 3, 77]}},
            {"id": 7, "image_id": 70, "category_id": 18, "area": 36, "bbox": [12, 2, 8, 6]},
        ],
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal", "keypoints": []},
            {"id": 1, "name": "person"},
        ],
        "type": "instances",
    }  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "their.json"
    path.write_text(json.dumps(existing()))
    return path


class TestBase:
    def test_it_is_kept_to_the_letter_and_only_what_is_not_covered_is_added(self, place, base) -> None:
        notes: list[str] = []
        summary = made(place, Plan(base=base), notes)
        assert notes == [
            f"{base} has an annotation without a mask, kept; in other formats boxes are left out"
        ]
        before, after = existing(), read(place / "annotations.json")
        for key in ("info", "licenses", "type"):
            assert after[key] == before[key]
        assert after["annotations"][:3] == before["annotations"]
        assert after["categories"] == [
            *before["categories"],
            {"id": 19, "name": "кошка", "supercategory": ""},
        ]
        assert after["images"][:3] == before["images"]
        assert [(i["id"], i["file_name"]) for i in after["images"][3:]] == [(71, "sub/c.jpg")]
        # The dog of a.jpg is there as a polygon, the second of sub/b.jpg as a box.
        added = [(a["id"], a["image_id"], a["category_id"], a["score"]) for a in after["annotations"][3:]]
        assert added == [(501, 12, 19, 0.5), (502, 70, 18, 0.75)]
        assert all(a["provenance"]["source"] == "samcli" for a in after["annotations"][3:])
        assert summary.dropped == {"covered": 2}
        assert (summary.images, summary.empty, summary.existing, summary.accepted) == (4, 1, 3, 2)
        classes = {c.name: (c.accepted, c.existing, c.images) for c in summary.classes}
        assert classes == {"dog": (1, 2, 2), "person": (0, 1, 1), "кошка": (1, 0, 1)}
        assert [c.name for c in summary.classes] == ["dog", "person", "кошка"]
        assert sum(summary.sizes) == 5

    def test_pycocotools_reads_it(self, place, base, capsys) -> None:
        made(place, Plan(base=base), [])
        coco = COCO(place / "annotations.json")
        assert sorted(coco.getAnnIds(imgIds=[12])) == [500, 501]
        assert coco.annToMask(coco.anns[500]).sum() == 100
        capsys.readouterr()

    def test_what_is_to_review_and_the_parts_know_the_same_numbers(self, place, base) -> None:
        made(place, Plan(Curation(confident=0.6), base=base, split=(0.5, 0.5)), [])
        whole, review = read(place / "annotations.json"), read(place / "to_review.json")
        assert [(a["id"], a["image_id"]) for a in review["annotations"]] == [(502, 12)]
        assert review["images"] == [existing()["images"][2]]
        assert review["categories"] == whole["categories"]
        parts = [read(place / "train.json"), read(place / "val.json")]
        for key in ("images", "annotations"):
            joined = [json.dumps(entry) for part in parts for entry in part[key]]
            assert sorted(joined) == sorted(json.dumps(entry) for entry in whole[key])
        for part in parts:
            assert {a["image_id"] for a in part["annotations"]} <= {i["id"] for i in part["images"]}

    def test_other_formats_have_both(self, place, base) -> None:
        summary = made(place, Plan(base=base, formats=("sa1b", "coco")), [])
        found = read(place / "sa1b/a.json")["annotations"]
        assert [(m["id"], m["category"], m["category_id"], m["area"]) for m in found] == [
            (1, "dog", 18, 100),
            (2, "кошка", 19, 80),
        ]
        assert read(place / "sa1b/gone.json")["annotations"] == []  # a crowd is no thing
        (dog,) = read(place / "sa1b/sub/b.json")["annotations"]  # a box is no mask
        assert dog["score"] == 0.75
        coco = read(place / "coco/annotations.json")
        assert [(i["id"], i["file_name"]) for i in coco["images"]] == [
            (9, "gone.jpg"), (12, "a.jpg"), (70, "sub/b.jpg"), (71, "sub/c.jpg"),
        ]  # fmt: skip
        assert summary.failures == ()

    def test_another_size_is_a_failure_of_the_image(self, place, base) -> None:
        data = existing()
        data["images"][2]["width"] = 31
        base.write_text(json.dumps(data))
        summary = made(place, Plan(base=base), [])
        assert summary.failures == (
            ("a.jpg", f"{base}: image 12: the photo is of 30x20 pixels, not 31x20; mend one"),
        )
        after = read(place / "annotations.json")
        assert [a["id"] for a in after["annotations"]] == [500, 3, 7, 501]
        assert summary.existing == 3

    def test_a_damaged_mask_is_a_failure_of_the_image(self, place, base) -> None:
        data = existing()
        data["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": "05"}
        base.write_text(json.dumps(data))
        ((path, reason),) = made(place, Plan(base=base), []).failures
        assert path == "a.jpg"
        assert reason.startswith(f"{base}: image 12: annotation 500: ")

    def test_a_file_name_that_two_photos_have_is_refused(self, place, base) -> None:
        write(place, image("other/b.jpg"))
        with pytest.raises(SamcliError) as error:
            made(place, Plan(base=base), [])
        assert str(error.value) == (
            f"b.jpg in {base} could be other/b.jpg or sub/b.jpg; name images by their paths below the folder"
        )
        assert not (place / "annotations.json").exists()

    def test_an_image_of_it_is_no_duplicate_to_skip(self, tmp_path, base) -> None:
        look = Notes(phash="00ff00ff00ff00ff")
        place = write(tmp_path / "d", *(image(name, notes=look) for name in ("0.jpg", "1.jpg", "b.jpg")))
        made(place, Plan(base=base, skip_duplicates=True), [])
        images = [i["file_name"] for i in read(place / "annotations.json")["images"]]
        assert images == ["b.jpg", "gone.jpg", "a.jpg", "0.jpg"]

    def test_names_that_lead_elsewhere_are_kept_but_name_no_files(self, place, base) -> None:
        data = existing()
        data["images"][1]["file_name"] = "../\ud800.jpg"
        base.write_text(json.dumps(data))
        summary = made(place, Plan(base=base, split=(0.5, 0.5), formats=("png",)), [])
        ((path, reason),) = summary.failures
        assert (path, "is no path below a folder" in reason) == ("../\ud800.jpg", True)
        assert read(place / "annotations.json")["images"][:3] == data["images"]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda d: d["images"][0].update(id="x"), ": id of an image is not a whole number: 'x'"),
            (lambda d: d["images"][0].pop("file_name"), ": image 70 has no file_name"),
            (lambda d: d["images"][0].update(id=9), " lists image 9, gone.jpg, twice; remove one"),
            (lambda d: d["images"][0].update(file_name="a.jpg"), " lists image 12, a.jpg, twice; remove one"),
            (lambda d: d["annotations"][0].pop("id"), ": id of an annotation is not a whole number: None"),
            (
                lambda d: d["annotations"][0].update(image_id=1),
                " has annotations of image 1, which it does not list; add it",
            ),
            (
                lambda d: d["annotations"][0].update(category_id=2),
                " has annotations of category 2, which it does not list; add it",
            ),
            (
                lambda d: d["categories"].append({"id": 18, "name": "other"}),
                " lists category 18 twice; remove one",
            ),
            (lambda d: d["annotations"].append(5), ": an element of annotations is not a JSON object"),
            (
                lambda d: d["annotations"][0].update(area=float("nan")),
                ": an element of annotations has a number that is none",
            ),
            (lambda d: d.clear(), " lists no images; give COCO instances, such as annotations.json"),
        ],
    )
    def test_a_file_that_cannot_be_kept_is_refused(self, place, base, change, said) -> None:
        data = copy.deepcopy(existing())
        change(data)
        base.write_text(json.dumps(data))
        with pytest.raises(SamcliError) as error:
            made(place, Plan(base=base), [])
        assert str(error.value) == f"{base}{said}"

    def test_files_that_cannot_be_read_or_would_be_overwritten(self, place, base) -> None:
        with pytest.raises(SamcliError, match=r"no\.json is not a file; give COCO instances"):
            check(place, Plan(base=place / "no.json"))
        base.write_text("{")
        with pytest.raises(SamcliError, match=r"their\.json is not whole JSON: .*; write or copy it again"):
            made(place, Plan(base=base))
        made(place)
        made(place, Plan(split=(0.5, 0.5)))
        for name in ("annotations.json", "train.json"):  # this one would be removed
            with pytest.raises(SamcliError) as error:
                check(place, Plan(base=place / name))
            assert str(error.value) == f"{place / name} would be replaced; give a copy that lies elsewhere"

    def test_its_own_output_as_base_adds_nothing(self, place) -> None:
        made(place)
        copied = place.parent / "copy.json"
        shutil.copy(place / "annotations.json", copied)
        summary = made(place, Plan(base=copied))
        assert read(place / "annotations.json") == read(copied)
        assert (summary.accepted, summary.existing) == (0, 4)


# Other formats


def photos(place: Path) -> PhotoFolder:
    root = place.parent / "photos"
    for name in ("a.jpg", "sub/b.jpg", "sub/c.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "grey").save(root / name)
    return PhotoFolder(root)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "amg-png"])
def test_every_format_is_written_and_reads_back(place, name):
    found = photos(place)
    made(place, Plan(formats=(name,), photos=found))
    format_ = FORMATS[name]
    where = place / name / (format_.file or "")
    items = list(format_.read(where, found))
    assert not any(isinstance(item, Unreadable) for item in items)
    assert sum(len(item.record.annotations) for item in items) == 4


def test_yolo_in_parts_is_one_dataset(tmp_path):
    import yaml

    names = [f"{i}.jpg" for i in range(12)]
    for name in names:
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "photos" / name)
    place = write(tmp_path / "d", *(image(name, box("dog", 0.5, 0, 0, 9, 9)) for name in names))
    summary = made(
        place,
        Plan(split=(0.6, 0.4), formats=("yolo",), photos=PhotoFolder(tmp_path / "photos"), labels=("cat",)),
    )
    assert yaml.safe_load((place / "yolo/data.yaml").read_text()) == {
        "path": str(place.resolve() / "yolo"),
        "train": "train/images",
        "val": "val/images",
        "names": {0: "cat", 1: "dog"},
    }
    for split in summary.splits:
        assert split.images > 0
        own = sorted(i["file_name"] for i in read(place / f"{split.name}.json")["images"])
        assert sorted(p.name for p in (place / "yolo" / split.name / "images").iterdir()) == own
        labels = sorted((place / "yolo" / split.name / "labels").iterdir())
        assert [path.stem + ".jpg" for path in labels] == own
        assert all(path.read_text().startswith("1 ") for path in labels)
    assert sorted(p.name for p in (place / "yolo").iterdir()) == ["data.yaml", "train", "val"]


def test_what_a_format_cannot_write_is_a_failure_of_the_image(place):
    found = photos(place)
    (found.root / "sub/b.jpg").unlink()
    summary = made(place, Plan(formats=("cutout", "png"), photos=found))
    ((path, reason),) = summary.failures
    assert path == "sub/b.jpg"
    assert reason.startswith(f"cutout: {found.root}/sub/b.jpg does not exist")
    assert (summary.images, (place / "png/sub/b").is_dir(), (place / "cutout/a").is_dir()) == (3, True, True)


def test_results_of_nothing_are_noted(tmp_path):
    notes: list[str] = []
    made(write(tmp_path, image("a.jpg")), Plan(formats=("coco-results",)), notes)
    assert notes == [
        "coco-results: there are no masks; COCO results of none cannot be loaded, so nothing is written"
    ]


def test_label_json_is_the_demos(place):
    made(place, Plan(Curation(min_score=0.3), label_json=True))
    assert read(place / "labels/sub/b.label.json") == {
        "caption": "A dog.",
        "mask": [
            {"value": 0, "label": "background"},
            {"value": 1, "label": "dog", "logit": 0.75, "box": [2, 2, 8, 8]},
        ],
    }
    first = read(place / "labels/a.label.json")
    assert list(first) == ["tags", "mask"]
    assert [entry["label"] for entry in first["mask"]] == ["background", "dog", "кошка"]
    labels = np.asarray(Image.open(place / "labels/a.mask.png"))
    assert labels.shape == SIZE
    assert np.array_equal(labels == 2, decode_rle(rle(12, 0, 20, 10)))
    assert np.array_equal(labels == 1, decode_rle(rle(0, 0, 10, 10)))
    assert read(place / "labels/sub/c.label.json") == {
        "tags": "",
        "mask": [{"value": 0, "label": "background"}],
    }
    write(place, image("sub/c.jpg", notes=Notes(tags=(Tag("sea", 0.5), Tag("sky", 0.25)))))
    made(place, Plan(label_json=True))
    assert read(place / "labels/sub/c.label.json")["tags"] == "sea, sky"


# Many


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["dog", "cat", None]),
            st.floats(0, 1),
            st.integers(0, 20),
            st.integers(0, 12),
            st.integers(1, 9),
        ),
        max_size=8,
    ),
    st.floats(0, 1),
)
def test_every_proposal_is_counted_once(tmp_path_factory, masks, confident):
    place = tmp_path_factory.mktemp("any")
    drawn = [box(name, score, x, y, x + side, min(y + side, 20)) for name, score, x, y, side in masks]
    write(place, image("a.jpg", *drawn[::2]), image("b.jpg", *drawn[1::2]))
    summary = made(place, Plan(Curation(confident=confident, min_score=0.25)))
    found, review = read(place / "annotations.json"), read(place / "to_review.json")
    assert len(found["annotations"]) == summary.accepted == sum(summary.scores)
    assert len(review["annotations"]) == summary.to_review == sum(summary.review_scores)
    assert summary.accepted + summary.to_review + sum(summary.dropped.values()) == len(masks)
    ids = [a["id"] for a in found["annotations"] + review["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert summary.empty == len({1, 2} - {a["image_id"] for a in found["annotations"]})


BUILD = """
import resource, sys
from pathlib import Path
from samcli.dataset.build import Plan, build
from samcli.dataset.curate import Curation
plan = Plan(Curation(confident=0.4), split=(0.8, 0.2), formats=("jsonl",))
summary = build(Path(sys.argv[1]), plan, print)
assert "torch" not in sys.modules
print(summary.images, summary.accepted, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_twenty_thousand_records_take_no_memory(tmp_path):
    """Two thousand take what there is to take; ten times as many take little more."""
    random = np.random.default_rng(0)
    masks = [box("dog", 0.5, 3 * i, 0, 3 * i + 2, 9) for i in range(9)]
    one = write(tmp_path / "one", image("x.jpg", *masks, notes=Notes(phash="f" * 16)))
    text = (one / "records/x.json").read_text()
    used = []
    for count in (2_000, 20_000):
        place = tmp_path / str(count)
        for i in range(count):
            path = place / "records" / f"{i // 1000}" / f"{i}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            look = f"{int(random.integers(0, 2**63)):016x}"
            path.write_text(text.replace("x.jpg", f"{i // 1000}/{i}.jpg").replace("f" * 16, look))
        run = subprocess.run([sys.executable, "-c", BUILD, place], capture_output=True, text=True, check=True)
        images, accepted, memory = map(int, run.stdout.split())
        assert (images, accepted) == (count, 9 * count)
        used.append(memory)
    assert used[1] - used[0] < 25_000  # KiB; the masks alone are 40,000
