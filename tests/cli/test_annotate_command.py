"""`samcli annotate`, through the real `main`: a detector of colours where it must be exact, else tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_detector import ColourDetector, picture
from conftest import Result, Samcli
from PIL import Image, ImageColor
from pycocotools.coco import COCO

from samcli.cli import detector as shared
from samcli.formats.record import read_record
from samcli.ground import load
from samcli.images import load as load_image
from samcli.images import perceptual_hash
from samcli.weights import DETECTORS

EXAMPLES = Path(__file__).parents[2] / "examples"
COLOURS = ("-m", "tiny", "--detector", "colours")
RED, SMALL, BLUE = (20, 20, 80, 100), (120, 10, 150, 40), (100, 60, 180, 110)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> list[ColourDetector]:
    """Let every name of a detector mean that of colours; the list has each one that was loaded."""
    loaded: list[ColourDetector] = []

    def load_detector(name: str, *, device: str, dtype: str) -> ColourDetector:
        loaded.append(ColourDetector())
        return loaded[-1]

    monkeypatch.setattr(load, "load_detector", load_detector)
    monkeypatch.setattr(load, "check_phrases", lambda name, phrases: None)
    shared._detector.cache_clear()
    return loaded


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/both.png with two red things and a blue one, photos/sub/red.png, photos/grey.png."""
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    (folder / "sub").mkdir(parents=True)
    both = picture((120, 200), [("red", RED), ("red", SMALL), ("blue", BLUE)])
    Image.fromarray(both).save(folder / "both.png")
    Image.fromarray(picture((90, 90), [("red", (20, 30, 70, 80))])).save(folder / "sub" / "red.png")
    Image.new("RGB", (80, 60), (128, 128, 128)).save(folder / "grey.png")
    return folder


@pytest.fixture
def annotate(samcli: Samcli, colours: list[ColourDetector], photos: Path) -> Samcli:
    """`samcli annotate photos -o set --labels red,blue` and more options, with the detector of colours."""

    def run(*args: object, labels: str = "red,blue", **streams: Any) -> Result:
        return samcli("annotate", photos, "-o", "set", "--labels", labels, *COLOURS, *args, **streams)

    return run


def files(folder: str | Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def dataset(name: str = "annotations.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("set", name).read_text("utf-8"))
    return content


def things(name: str = "annotations.json") -> list[tuple[str, str]]:
    """(file name, category) of each annotation."""
    content = dataset(name)
    photos = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [(photos[a["image_id"]], names[a["category_id"]]) for a in content["annotations"]]


# A folder becomes a dataset


def test_a_folder_becomes_a_dataset(annotate: Samcli) -> None:
    result = annotate()
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "3 images, 4 masks in set/records",
        "3 images, 4 annotations of 2 categories; see set/report.html",
    ]
    content = dataset()
    assert [c["name"] for c in content["categories"]] == ["red", "blue"]
    assert [image["file_name"] for image in content["images"]] == ["both.png", "grey.png", "sub/red.png"]
    assert sorted(things()) == [
        ("both.png", "blue"), ("both.png", "red"), ("both.png", "red"), ("sub/red.png", "red"),
    ]  # fmt: skip
    for annotation in content["annotations"]:
        assert annotation["provenance"] == {
            "source": "samcli",
            "tagger": "labels",
            "detector": "colours",
            "model": "tiny",
            "box_threshold": 0.3,
            "text_threshold": 0.25,
        }
    assert len(COCO("set/annotations.json").getAnnIds()) == 4
    made = files("set")
    assert {"records/both.json", "records/grey.json", "records/sub/red.json", "report.html"} <= set(made)
    assert {"overlays/both.jpg", "overlays/sub/red.jpg"} <= set(made)
    record = read_record(Path("set/records/both.json"))
    assert record.run
    assert record.run.command == "annotate"
    assert record.run.config["labels"] == ["red", "blue"]
    assert record.notes.phash == perceptual_hash(load_image(Path("photos/both.png")))


def test_masks_are_those_of_ground(annotate: Samcli, samcli: Samcli, photos: Path) -> None:
    assert annotate("-q").code == 0
    assert samcli("ground", photos, "red. blue", "-o", "ground", "-q", *COLOURS).code == 0
    for name in ("both.json", "grey.json", "sub/red.json"):
        ours, theirs = read_record(Path("set/records", name)), read_record(Path("ground", name))
        assert ours.annotations == theirs.annotations


def test_json_says_all(annotate: Samcli) -> None:
    told = json.loads(annotate("--json", "-q").out)
    assert (told["images"], told["done"], told["masks"]) == (3, 3, 4)
    assert (told["annotations"], told["categories"], told["to_review"], told["existing"]) == (4, 2, 0, 0)
    assert (told["dataset"], told["failed"], told["failures"]) == ("set", [], [])


def test_run_again_uses_no_model_and_changes_nothing(annotate: Samcli, colours: list[ColourDetector]) -> None:
    annotate()
    before = files("set")
    calls = sum(len(one.calls) for one in colours)
    result = annotate()
    assert result.code == 0
    assert result.err.splitlines()[0] == "3 images in set/records done before, nothing to do"
    assert sum(len(one.calls) for one in colours) == calls
    assert files("set") == before


def test_other_labels_are_refused(annotate: Samcli) -> None:
    annotate()
    result = annotate(labels="red")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: set/records/both.json was made with labels ['red', 'blue'], not ['red']; choose another "
        "output, or replace it with --overwrite\n"
    )


def test_rebuilt_from_records_without_photos_or_models(
    annotate: Samcli, samcli: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate()
    whole = files("set")
    for name in ("annotations.json", "report.html"):
        Path("set", name).unlink()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load, "load_detector", never)
    monkeypatch.setattr("samcli.predictor.load", never)
    shared._detector.cache_clear()
    result = samcli("annotate", "--rebuild", "set", "--labels", "red,blue", "--images", "photos")
    assert result.code == 0
    assert result.err == "3 images, 4 annotations of 2 categories; see set/report.html\n"
    assert files("set") == whole
    result = samcli("annotate", "--rebuild", "set", "--min-score", "0.999", "--json", "-q")
    told = json.loads(result.out)
    assert told["annotations"] < 4
    assert told["annotations"] + told["dropped"]["score"] == 4
    assert len(things()) == told["annotations"]


def test_a_rebuild_knows_the_labels_and_their_order(annotate: Samcli, samcli: Samcli) -> None:
    annotate("-q", labels="yellow,red,blue")
    whole = files("set")
    assert samcli("annotate", "--rebuild", "set", "--images", "photos", "-q").code == 0
    assert files("set") == whole
    assert [one["name"] for one in dataset()["categories"]] == ["yellow", "red", "blue"]


def test_a_dataset_is_not_made_among_its_photos(
    samcli: Samcli, colours: list[ColourDetector], photos: Path
) -> None:
    before = files(photos)
    result = samcli("annotate", "photos", "-o", "photos", "--labels", "red", *COLOURS)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: photos holds the photos; give the dataset a folder of its own, such as photos/dataset\n"
    )
    assert files(photos) == before
    for _ in range(2):
        inside = samcli("annotate", "photos", "-o", "photos/dataset", "--labels", "red", *COLOURS)
        assert inside.code == 0
        assert inside.err.splitlines()[-1].startswith("3 images, ")


def test_photos_are_found_again_whatever_the_root(annotate: Samcli) -> None:
    """A folder is its own root, a file has the one that is named."""
    drawn = ["both.jpg", "grey.jpg", "sub/red.jpg"]
    assert annotate("--root", ".").code == 0
    assert sorted(files("set/overlays")) == drawn
    Path("more").mkdir()
    Image.new("RGB", (50, 50), (0, 0, 255)).save("more/blue.png")
    assert annotate("more/blue.png", "--root", ".").code == 0
    assert sorted(files("set/overlays")) == sorted(["more/blue.jpg", *drawn])


@pytest.mark.parametrize("name", ["annotations.json", "report.html"])
def test_files_of_others_are_not_replaced(annotate: Samcli, name: str) -> None:
    Path("set").mkdir()
    Path("set", name).write_text("mine")
    result = annotate()
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: set/{name} is there already, and dataset.json does not list it as samcli's; move it away, "
        "or choose another place\n"
    )
    assert files("set") == {name: b"mine"}


def test_a_file_is_no_place_for_a_dataset(annotate: Samcli) -> None:
    Path("set").write_text("mine")
    result = annotate("-q")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: set is a file; give a folder for the results\n"


def test_a_damaged_base_is_refused_before_work(annotate: Samcli, colours: list[ColourDetector]) -> None:
    Path("base.json").write_text('{"images": [')
    result = annotate("--base", "base.json")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: base.json")
    assert result.err.count("\n") == 1
    assert not any(one.calls for one in colours)
    assert not Path("set").exists()


def test_others_look_at_the_records_of_a_dataset(annotate: Samcli, samcli: Samcli) -> None:
    annotate("-q", "--label-json", "--format", "labelme")
    assert samcli("status", "set").out.startswith("annotate with tiny: 3 done\n")
    page = samcli("view", "set", "--images", "photos")
    assert (page.code, page.out) == (0, "")
    assert page.err.startswith("3 images, 4 masks in set/gallery.html")
    assert "<title>set" in Path("set/gallery.html").read_text("utf-8")
    assert samcli("view", "set", "--images", "photos", "-o", "drawn/").code == 0
    assert sorted(files("drawn")) == ["both.overlay.png", "grey.overlay.png", "sub/red.overlay.png"]


def test_a_damaged_photo_stops_nothing(annotate: Samcli) -> None:
    Path("photos/damaged.jpg").write_bytes(b"\xff\xd8\xff no picture")
    result = annotate()
    assert result.code == 3
    lines = result.err.splitlines()
    assert lines[0].startswith("failed: photos/damaged.jpg")
    assert lines[1:] == [
        "3 of 4 images, 4 masks in set/records; 1 failed",
        "3 images, 4 annotations of 2 categories, 1 failed; see set/report.html",
    ]
    assert len(things()) == 4
    assert "damaged.jpg" in Path("set/report.html").read_text("utf-8")
    again = annotate("-q", "--json")
    assert again.code == 3
    assert [failure["path"] for failure in json.loads(again.out)["failures"]] == ["damaged.jpg"]


def test_what_cannot_be_taken_of_an_earlier_run_is_listed(annotate: Samcli, samcli: Samcli) -> None:
    Path("photos/damaged.jpg").write_bytes(b"\xff\xd8\xff no picture")
    annotate("-q")
    Path("set/records/strange.json").write_text("{}")
    result = samcli("annotate", "--rebuild", "set", "-q")
    assert (result.code, result.out) == (3, "")
    first, second = result.err.splitlines()
    assert first.startswith("failed: photos/damaged.jpg")
    assert second.startswith("failed: set/records/strange.json")


def test_a_damaged_photo_alone_is_an_error(
    samcli: Samcli, colours: list[ColourDetector], photos: Path
) -> None:
    Path("damaged.jpg").write_bytes(b"nothing")
    result = samcli("annotate", "damaged.jpg", "-o", "set", "--labels", "red", *COLOURS)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: damaged.jpg")
    assert result.err.count("\n") == 1
    assert not Path("set/annotations.json").exists()


def test_nothing_found(annotate: Samcli) -> None:
    result = annotate("--fail-empty", labels="green")
    assert result.code == 5
    content = dataset()
    assert (len(content["images"]), content["annotations"]) == (3, [])
    assert COCO("set/annotations.json").getAnnIds() == []
    assert Path("set/report.html").stat().st_size > 0


def test_shards_make_records_and_rebuild_the_dataset(annotate: Samcli, samcli: Samcli) -> None:
    annotate("-q", "--no-overlay")
    whole = files("set")
    Path("set").rename("whole")
    for part in ("1/2", "2/2"):
        result = annotate("--shard", part)
        assert result.code == 0
        assert result.err.splitlines()[-1] == (
            "note: records only; when the other parts are done: samcli annotate --rebuild set"
        )
    assert not Path("set/annotations.json").exists()
    samcli("annotate", "--rebuild", "set", "--labels", "red,blue", "--images", "photos", "-q", "--no-overlay")
    assert files("set") == whole


# What is taken


def test_conflicts_scores_and_review(annotate: Samcli) -> None:
    """ "red" and "#ff0000" name the same things: the first label keeps them."""
    result = annotate("--confident", "0.999", "--json", "-q", labels="red,#ff0000,blue")
    told = json.loads(result.out)
    assert told["dropped"]["conflicts"] == 3
    assert told["annotations"] + told["to_review"] == 4
    assert told["to_review"] > 0
    assert len(things("to_review.json")) == told["to_review"]
    assert "#ff0000" not in {name for _, name in things() + things("to_review.json")}


def test_thresholds_of_classes(annotate: Samcli) -> None:
    Path("least.yaml").write_text("red: 1.0\n")
    assert annotate("--class-thresholds", "least.yaml", "-q").code == 0
    assert things() == [("both.png", "blue")]
    Path("least.yaml").write_text("red: high\n")
    result = annotate("--class-thresholds", "least.yaml")
    assert result.code == 1
    assert result.err.startswith("error: least.yaml")
    assert result.err.count("\n") == 1


def test_existing_annotations_are_kept_and_the_rest_is_added(annotate: Samcli) -> None:
    x0, y0, x1, y1 = RED
    existing = {
        "id": 77,
        "image_id": 5,
        "category_id": 9,
        "iscrowd": 0,
        "area": (x1 - x0) * (y1 - y0),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "by": "Ada",
    }
    base = {
        "images": [{"id": 5, "file_name": "both.png", "width": 200, "height": 120}],
        "annotations": [existing],
        "categories": [{"id": 9, "name": "brick", "supercategory": ""}],
    }
    Path("base.json").write_text(json.dumps(base))
    result = annotate("--base", "base.json", "--json", "-q")
    told = json.loads(result.out)
    assert (told["existing"], told["dropped"]["covered"]) == (1, 1)
    content = dataset()
    assert content["annotations"][0] == existing
    assert [a["provenance"]["source"] for a in content["annotations"][1:]] == ["samcli"] * 3
    assert {"id": 9, "name": "brick", "supercategory": ""} in content["categories"]
    assert next(image["id"] for image in content["images"] if image["file_name"] == "both.png") == 5


def test_splits_formats_and_label_json(annotate: Samcli) -> None:
    result = annotate("--split", "0.5,0.5", "--format", "yolo", "--format", "labelme", "--label-json", "-q")
    assert (result.code, result.err) == (0, "")
    parts = [dataset(f"{name}.json") for name in ("train", "val")]
    assert sum(len(part["images"]) for part in parts) == 3
    assert sum(len(part["annotations"]) for part in parts) == 4
    made = set(files("set"))
    assert "yolo/data.yaml" in made
    assert sum(name.startswith("yolo/") and name.endswith(".txt") for name in made) == 3
    assert sum(name.startswith("labelme/") and name.endswith(".json") for name in made) == 3
    label = json.loads(Path("set/labels/both.label.json").read_text("utf-8"))
    assert label["mask"][0] == {"value": 0, "label": "background"}
    values = np.unique(np.asarray(Image.open("set/labels/both.mask.png")))
    assert set(values) == {entry["value"] for entry in label["mask"]}


def test_photos_that_look_alike(annotate: Samcli) -> None:
    Image.open("photos/both.png").resize((400, 240)).save("photos/copy.png")
    told = json.loads(annotate("--json", "-q").out)
    assert told["duplicates"] == [["both.png", "copy.png"]]
    assert told["dataset_images"] == 4
    told = json.loads(annotate("--json", "-q", "--skip-duplicates").out)
    assert told["dataset_images"] == 3


def test_labels_in_other_alphabets(annotate: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"красный": "#ff0000", "蓝色": "#0000ff", "أحمر": "#ff0001"}
    plain = ImageColor.getrgb
    monkeypatch.setattr(ImageColor, "getrgb", lambda name: plain(known.get(name, name)))
    assert annotate("--format", "yolo", "-q", labels=",".join(known)).code == 0
    assert [c["name"] for c in dataset()["categories"]][:2] == ["красный", "蓝色"]
    assert {name for _, name in things()} == {"красный", "蓝色"}
    report = Path("set/report.html").read_text("utf-8")
    assert "красный" in report
    assert "蓝色" in report


# With the embedded models


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/cat.jpg and photos/coffee.jpg, small."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("animals/cat", "coffee"):
        small = Image.open(EXAMPLES / f"{name}.jpg")
        small.thumbnail((400, 400))
        small.save(Path("photos", f"{Path(name).name}.jpg"))
    return Path("photos")


def test_labels_with_the_embedded_models(samcli: Samcli, animals: Path) -> None:
    shared._detector.cache_clear()
    result = samcli("annotate", animals, "-o", "set", "--labels", "cat,cup")
    assert (result.code, result.out) == (0, "")
    others = ", ".join(name for name, spec in DETECTORS.items() if not spec.packaged)
    assert result.err.splitlines()[0] == (
        f"note: using the embedded detector tiny; others with --detector: {others}"
    )
    assert ("cat.jpg", "cat") in things()


def test_images_annotate_themselves(samcli: Samcli, animals: Path) -> None:
    """Without labels: the embedded tagger says words, and each thing is named by one of them."""
    result = samcli("annotate", animals, "-o", "set")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("note: using the embedded tagger tiny; ")
    for name in ("cat", "coffee"):
        record = read_record(Path("set/records", f"{name}.json"))
        words = [tag.word for tag in record.notes.tags]
        assert words
        assert len(set(words)) == len(words)
        assert {mask.category for mask in record.annotations} <= set(words)
        assert all(mask.category_id is None for mask in record.annotations)
    assert things()
    assert {name for _, name in things()} <= {c["name"] for c in dataset()["categories"]}


def test_500_labels(samcli: Samcli, animals: Path) -> None:
    """The tagger chooses those that a photo may show; only these are looked for."""
    from samcli.ground.vocabulary import read_vocabulary
    from samcli.weights import WORDS_FILE, installed

    words = read_vocabulary(installed(DETECTORS["tiny"]).path / WORDS_FILE).words
    chosen = ["cat", *words[:: len(words) // 499]][:500]
    Path("labels.txt").write_text("\n".join(dict.fromkeys(chosen)))
    result = samcli("annotate", animals, "-o", "set", "--labels", "@labels.txt", "--tagger", "tiny", "-q")
    assert (result.code, result.out, result.err) == (0, "", "")
    record = read_record(Path("set/records/cat.json"))
    assert record.notes.tags
    assert {tag.word for tag in record.notes.tags} <= set(chosen)
    for mask in record.annotations:
        assert mask.category_id == chosen.index(mask.category or "") + 1


# Wrong usage


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ((), "give -o DIR for the dataset; or --rebuild DIR to make one anew from its records"),
        (("-o", "set"), "no images; name files or folders, or a list of them with --files-from"),
        (
            ("photos", "-o", "set", "--labels", "red", "--max-tags", "3"),
            "--tag-threshold and --max-tags are for words of a --tagger",
        ),
        (
            ("--rebuild", "set", "-m", "tiny"),
            "--rebuild goes without --model, it uses no model; see the panels Dataset and Masks",
        ),
        (
            ("--rebuild", "set", "photos"),
            "--rebuild goes without images, it uses no model; see the panels Dataset and Masks",
        ),
        (
            ("photos", "-o", "set", "--split", "most,few"),
            "--split 'most,few' is not shares, such as 0.8,0.1,0.1",
        ),
        (("photos", "-o", "set", "--images", "photos"), "--images goes with --rebuild; the photos are the "
         "arguments here"),
        (("photos", "-o", "set", "--overlap", "0.5"), "--overlap is that of tiles; it goes with --tile"),
    ],
)  # fmt: skip
def test_wrong_usage(samcli: Samcli, photos: Path, args: tuple[str, ...], line: str) -> None:
    result = samcli("annotate", *args)
    assert (result.code, result.out, result.err) == (2, "", f"error: {line}\n")


def test_a_rebuild_needs_records(samcli: Samcli, photos: Path) -> None:
    result = samcli("annotate", "--rebuild", "photos")
    assert result.code == 1
    assert result.err == "error: photos holds no records/; give a folder that samcli annotate wrote\n"
