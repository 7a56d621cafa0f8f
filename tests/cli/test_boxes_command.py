"""`samcli predict --boxes`, through the real `main`: boxes of a detector become masks, over whole folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, Samcli
from PIL import Image
from pycocotools import mask as coco

from samcli.formats.names import image_id
from samcli.formats.record import read_record
from samcli.records import MaskRecord

DISC, BLOCK = [14.0, 14.0, 32.0, 32.0], [60.0, 10.0, 20.0, 40.0]  # x, y, w, h of the things in `pixels`
KEPT = "choose another output, or replace it with --overwrite"


def result(image: Any, bbox: list[float], category: int = 1, score: float | None = 0.5) -> dict[str, Any]:
    """An entry of COCO results; text names a file, a number is an id."""
    key = "file_name" if isinstance(image, str) else "image_id"
    values = {key: image, "category_id": category, "bbox": bbox, "score": score}
    return {name: value for name, value in values.items() if value is not None}


def write(name: str, value: Any) -> str:
    Path(name).write_text(json.dumps(value))
    return name


def yolo(bbox: list[float], *rest: object) -> str:
    """A line of a label file, of a picture of 90x60."""
    x, y, w, h = bbox
    return " ".join(map(str, [(x + w / 2) / 90, (y + h / 2) / 60, w / 90, h / 60, *rest]))


def masks(path: str) -> tuple[MaskRecord, ...]:
    return read_record(Path(path)).annotations


def said(mask: MaskRecord) -> tuple[Any, ...]:
    return (mask.category_id, mask.category, mask.detector_score)


def lines(result: Result) -> list[dict[str, Any]]:
    assert (result.code, result.err) == (0, "")
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.fixture
def photos(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with 7.png, mug.png and sub/möwe.png, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos/sub").mkdir(parents=True)
    for shift, name in enumerate(("7.png", "mug.png", "sub/möwe.png")):
        Image.fromarray(np.roll(pixels, shift, axis=2)).save(Path("photos") / name)
    return Path("photos")


@pytest.fixture
def predict(samcli: Samcli, random_tiny: Path, photos: Path) -> Samcli:
    def run(*args: object, **streams: Any) -> Result:
        return samcli("predict", *args, "-m", random_tiny, **streams)

    return run


# Formats


def test_results_of_a_folder_become_records(predict: Samcli) -> None:
    write(
        "r.json",
        [
            result(7, DISC, 3, 0.9),
            result("sub/möwe.png", BLOCK, 1, 0.25),
            result(7, BLOCK, 5, None),
        ],
    )
    ran = predict("photos", "--boxes", "r.json", "-o", "out/")
    assert ran == (0, "", "3 images, 3 masks in out\n")
    first, second = masks("out/7.json")
    assert (first.id, said(first), first.score) == (1, (3, None, 0.9), 0.9)
    assert (second.id, said(second), second.score) == (2, (5, None, None), second.predicted_iou)
    record = read_record(Path("out/7.json"))
    assert record.run.config["prompts"] == [
        {"id": 1, "box": [14.0, 14.0, 46.0, 46.0], "category_id": 3, "detector_score": 0.9},
        {"id": 3, "box": [60.0, 10.0, 80.0, 50.0], "category_id": 5},
    ]
    assert said(masks("out/sub/möwe.json")[0]) == (1, None, 0.25)
    assert masks("out/mug.json") == ()


def instances() -> dict[str, Any]:
    return {
        "info": {"year": 2026},
        "annotations": [
            {"id": 70, "image_id": 1, "category_id": 18, "bbox": DISC, "iscrowd": 0, "area": 9},
            {"id": 71, "image_id": 1, "category_id": 44, "bbox": BLOCK, "iscrowd": 1},
            {"id": 72, "image_id": 7, "category_id": 44, "bbox": BLOCK, "segmentation": [[1, 2, 3, 4, 5, 6]]},
        ],
        "images": [
            {"id": 1, "file_name": "mug.png", "width": 90, "height": 60},
            {"id": 7, "file_name": "data/möwe.png"},
            {"id": 9, "file_name": "unused.png"},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 44, "name": "Flasche ü"}],
    }


def test_instances_have_file_names_and_categories(predict: Samcli) -> None:
    write("i.json", instances())
    ran = predict("photos", "--boxes", "i.json", "-o", "out/")
    assert ran == (0, "", "note: 1 annotation of crowds left out\n3 images, 2 masks in out\n")
    (dog,), (bottle,) = masks("out/mug.json"), masks("out/sub/möwe.json")
    assert (said(dog), said(bottle)) == ((18, "dog", None), (44, "Flasche ü", None))
    assert dog.score == dog.predicted_iou
    assert read_record(Path("out/mug.json")).run.config["prompts"][0]["id"] == 70
    assert masks("out/7.json") == ()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines_of_results(predict: Samcli, mark: str) -> None:
    rows = [result("mug.png", DISC), result("mug.png", BLOCK), result("7.png", DISC)]
    Path("r.jsonl").write_text(mark + "\r\n\r\n".join(map(json.dumps, rows)))
    assert predict("photos", "--boxes", "r.jsonl", "-o", "out/") == (0, "", "3 images, 3 masks in out\n")
    assert len(masks("out/mug.json")) == 2


def test_yolo_labels_with_names_beside(predict: Samcli) -> None:
    Path("run/labels/sub").mkdir(parents=True)
    Path("run/labels/7.txt").write_text(f"1 {yolo(DISC)} 0.75\n\n0 {yolo(BLOCK)} 1e-1\r\n")
    Path("run/labels/sub/möwe.txt").write_text(f"\ufeff1.0 {yolo(BLOCK)}\n", encoding="utf-8")
    Path("run/labels/mug.txt").touch()
    Path("run/labels/classes.txt").write_text("cat\ndog\n")
    write("r.json", [result("7.png", DISC, 1, 0.75), result("7.png", BLOCK, 0, 0.1)])
    assert predict("photos", "--boxes", "run/labels", "-o", "out/") == (0, "", "3 images, 3 masks in out\n")
    assert [said(mask) for mask in masks("out/7.json")] == [(1, "dog", 0.75), (0, "cat", 0.1)]
    assert said(masks("out/sub/möwe.json")[0]) == (1, "dog", None)
    prompt = read_record(Path("out/7.json")).run.config["prompts"][1]
    assert {**prompt, "yolo": np.round(prompt["yolo"], 6).tolist()} == {
        "id": 3,
        "yolo": [0.777778, 0.5, 0.222222, 0.666667],
        "category_id": 0,
        "category": "cat",
        "detector_score": 0.1,
    }
    assert predict("photos/7.png", "--boxes", "r.json", "-o", "other/").code == 0
    for ours, theirs in zip(masks("out/7.json"), masks("other/7.json"), strict=True):
        assert ours.segmentation == theirs.segmentation


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "path: x\nnames:\n  0: no\n  1: 'a dog'\n"),
        ("data.yaml", "nc: 2\nnames: [no, 'a dog']\n"),
        ("data.yaml", "names:\n- no\n- a dog\n"),
        ("data.yaml", "names: {1: a dog, 0: no, 5: x}\n"),
        ("classes.txt", "no\r\na dog\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("place", ["set", "set/labels", "set/labels/train"])
def test_names_of_yolo_in_a_dataset(predict: Samcli, name: str, text: str, place: str) -> None:
    Path("set/labels/train").mkdir(parents=True)
    Path("set/labels/train/7.txt").write_text(f"1 {yolo(DISC)}\n0 {yolo(BLOCK)}\n")
    (Path(place) / name).write_text(text)
    answers = lines(predict("photos", "--boxes", "set/labels/train"))
    assert [line["masks"][0]["category"] for line in answers] == ["a dog", "no"]


def test_a_label_file_of_one_image(predict: Samcli) -> None:
    Path("any.txt").write_text(f"0 {yolo(DISC)}\n")
    (line,) = lines(predict("photos/mug.png", "--boxes", "any.txt", "--labels", "cup"))
    assert (line["id"], line["image"]) == (1, "photos/mug.png")
    assert line["masks"][0]["category"] == "cup"
    error = "error: any.txt is of a single image; give the folder of all .txt files\n"
    assert predict("photos", "--boxes", "any.txt") == (1, "", error)


# Names


@pytest.mark.parametrize(
    ("ids", "labels", "expected"),
    [
        ([1, 2], "cat, dog", ["cat", "dog"]),
        ([0, 1], "cat,dog", ["cat", "dog"]),
        ([2], "cat,dog", ["dog"]),
        ([2], "@names.txt", ["Hund ü"]),
        ([1, 2], "@data.yaml", ["cat", "dog"]),
        ([44, 18], "@i.json", ["Flasche ü", "dog"]),
    ],
)
def test_labels_name_the_categories(
    predict: Samcli, ids: list[int], labels: str, expected: list[str]
) -> None:
    Path("names.txt").write_text("Katze\nHund ü\n", encoding="utf-8")
    Path("data.yaml").write_text("names: {0: cat, 1: dog}\n")
    write("i.json", instances())
    write("r.json", [result("mug.png", DISC, category) for category in ids])
    answers = lines(predict("photos", "--boxes", "r.json", "--labels", labels))
    assert [line["masks"][0]["category"] for line in answers] == expected


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ("cat,dog", "category 3 of r.json has no name in --labels, which names 1 to 2; give all names "),
        ("@gone.txt", "gone.txt cannot be read: No such file or directory; check the path"),
        ("@empty.yaml", "empty.yaml has no names of classes"),
        ("@bad.json", "bad.json is not JSON: Expecting ':'"),
        ("@raw.yaml", "raw.yaml is not UTF-8 text"),
        ("@list.yaml", "names in list.yaml are neither a list of names nor names by number"),
        ("@bad.yaml", "bad.yaml is not YAML: "),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(predict: Samcli, labels: str, line: str) -> None:
    Path("empty.yaml").touch()
    Path("bad.json").write_text('{"categories" 1}')
    Path("raw.yaml").write_bytes(b"\xff\xfe")
    Path("list.yaml").write_text("names: {cat: 0}")
    Path("bad.yaml").write_text("names: [")
    write("r.json", [result("mug.png", DISC, 3)])
    code, out, err = predict("photos", "--boxes", "r.json", "--labels", labels)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


# Which image a box is of


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file_name", "00/a1.png"),
        ("file_name", "./00/a1.png"),
        ("file_name", "a1.png"),
        ("file_name", "/data/elsewhere/a1.png"),
        ("file_name", "C:\\data\\a1.png"),
        ("image_id", "a1"),
        ("image_id", "00/a1"),
        ("file_name", "o\u0308.png"),
        ("image_id", 42),
        ("image_id", 42.0),
        ("image_id", "42"),
        ("image_id", "000000000042"),
        ("image_id", "own"),
    ],
)
def test_the_image_of_a_box(predict: Samcli, photos: Path, key: str, value: Any) -> None:
    name = "000000000042.png" if "42" in str(value) else "ö.png" if "\u0308" in str(value) else "00/a1.png"
    (photos / name).parent.mkdir(exist_ok=True)
    (photos / "7.png").rename(photos / name)
    if value == "own":
        value = image_id((photos / name).relative_to(photos))
    write("r.json", [{key: value, "category_id": 1, "bbox": DISC}])
    (line,) = lines(predict("photos", "--boxes", "r.json"))
    assert line["image"] == f"photos/{name}"


def test_spellings_of_one_name_are_one_image(predict: Samcli) -> None:
    names = ("sub/möwe.png", "./sub/möwe.png", "sub/mo\u0308we.png")
    write("r.json", [result(name, DISC) for name in names])
    assert [line["id"] for line in lines(predict("photos", "--boxes", "r.json"))] == [1, 2, 3]


def test_a_whole_path_goes_before_a_file_name(predict: Samcli, photos: Path) -> None:
    (photos / "sub/7.png").write_bytes((photos / "7.png").read_bytes())
    write("r.json", [result("7.png", DISC), result("sub/7.png", BLOCK), result("gone/7.png", BLOCK)])
    code, out, err = predict("photos", "--boxes", "r.json")
    assert [(line["id"], line["image"]) for line in map(json.loads, out.splitlines())] == [
        (1, "photos/7.png"),
        (2, "photos/sub/7.png"),
    ]
    note = "note: 1 box of 1 image that is not here left out, the first of gone/7.png\n"
    assert (code, err) == (0, note)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [result("x/mug.png", DISC)],
            "x/mug.png in r.json could be a/mug.png or b/mug.png; "
            "name images by their paths below the folder",
        ),
        (
            [result(3, DISC)],
            "3 in r.json could be a/03.png or b/3.png; name images by their paths below the folder",
        ),
        (
            [{"image_id": "mug", "bbox": DISC}],
            "mug in r.json could be a/mug.png or b/mug.png; name images by their paths below the folder",
        ),
        (
            [{"image_id": "a/mug", "bbox": DISC}, result("c/only.png", BLOCK), result("d/only.png", BLOCK)],
            "c/only.png and d/only.png in r.json could both be a/only.png; give the folder that these names "
            "start from",
        ),
    ],
)
def test_two_images_could_be_meant(
    predict: Samcli, photos: Path, rows: list[dict[str, Any]], line: str
) -> None:
    for name in ("a/mug.png", "b/mug.png", "a/03.png", "b/3.png", "a/only.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "7.png").read_bytes())
    (photos / "mug.png").unlink()
    write("r.json", rows)
    assert predict("photos", "--boxes", "r.json", "-o", "out/") == (1, "", f"error: {line}\n")
    assert not Path("out").exists()


def test_one_ending_of_two_is_ambiguous_for_labels(predict: Samcli, photos: Path) -> None:
    (photos / "7.bmp").write_bytes((photos / "7.png").read_bytes())
    Path("labels").mkdir()
    Path("labels/7.txt").write_text(f"0 {yolo(DISC)}\n")
    line = "7 in labels could be 7.bmp or 7.png; name images by their paths below the folder"
    assert predict("photos", "--boxes", "labels") == (1, "", f"error: {line}\n")
    (one,) = lines(predict("photos", "--boxes", "labels", "--exclude", "*.bmp"))
    assert one["image"] == "photos/7.png"
    line = "photos/7.bmp and photos/7.png would both write 7.json; rename one, or name outputs by --root or "
    code, _, err = predict("photos", "--boxes", write("r.json", [result("7.png", DISC)]), "-o", "out/")
    assert (code, err) == (1, f"error: {line}--keep-extension\n")


def test_boxes_of_other_images_are_said(predict: Samcli) -> None:
    rows = [result("gone.png", DISC), result("7.png", DISC), result("gone.png", BLOCK), result(5, BLOCK)]
    write("r.json", rows)
    note = "note: 3 boxes of 2 images that are not here left out, the first of gone.png\n"
    ran = predict("photos", "--boxes", "r.json", "-o", "out/")
    assert ran == (0, "", f"{note}3 images, 1 mask in out\n")
    assert predict("photos", "--boxes", "r.json", "-o", "quiet/", "-q") == (0, "", "")


def test_boxes_of_no_image_are_an_error(predict: Samcli) -> None:
    write("r.json", [result("gone.png", DISC)])
    line = (
        "error: no box of r.json is of these images; its first is of gone.png, but that must be a path below "
        "the folder, a file name, or one without its ending\n"
    )
    assert predict("photos", "--boxes", "r.json", "-o", "out/") == (1, "", line)
    assert predict("photos/7.png", "--boxes", "r.json") == (1, "", line)
    assert not Path("out").exists()


# What is left out


def test_boxes_are_clipped_and_dropped_with_a_word(predict: Samcli) -> None:
    rows = [
        result("7.png", [60, 10, 900, 40]),
        result("7.png", [90, 10, 5, 5]),
        result("7.png", [-9, -9, 9, 9]),
        result("7.png", [10, 10, 0, 5]),
        result("mug.png", [10, 10, 5, -1]),
        result("mug.png", [-20, 10, 40, 500]),
    ]
    write("r.json", rows)
    ran = predict("photos", "--boxes", "r.json", "-o", "out/")
    assert ran == (
        0,
        "",
        "note: 2 boxes without area left out\n"
        "3 images, 2 masks in out\n"
        "note: 2 boxes outside of the images left out\n",
    )
    write("clipped.json", [result("7.png", [60, 10, 30, 40]), result("mug.png", [0, 10, 20, 50])])
    assert predict("photos", "--boxes", "clipped.json", "-o", "clipped/").code == 0
    for name in ("7", "mug"):
        (ours,), (clipped,) = masks(f"out/{name}.json"), masks(f"clipped/{name}.json")
        assert ours == clipped
    code, out, err = predict("photos", "--boxes", "r.json", "-q")
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(line["id"], len(line["masks"])) for line in answers] == [(1, 1), (2, 0), (3, 0), (6, 1)]
    assert predict("photos", "--boxes", "r.json", "-o", "all.jsonl").err == (
        "note: 2 boxes without area left out\nnote: 2 boxes outside of the images left out\n"
    )


def test_boxes_reaching_over_the_edge_in_yolo_labels(predict: Samcli) -> None:
    Path("labels").mkdir()
    Path("labels/7.txt").write_text("0 1 0.5 0.2 0.5\n")
    write("r.json", [result("7.png", [81, 15, 9, 30])])
    (ours,) = lines(predict("photos", "--boxes", "labels"))
    (clipped,) = lines(predict("photos", "--boxes", "r.json"))
    assert ours["masks"][0]["segmentation"] == clipped["masks"][0]["segmentation"]


def test_a_least_score(predict: Samcli) -> None:
    rows = [result("7.png", DISC, 1, score) for score in (0.001, 0.3, 0.299, None)]
    write("r.json", [*rows, result("mug.png", BLOCK, 1, 0.1)])
    assert [line["id"] for line in lines(predict("photos", "--boxes", "r.json", "--min-score", "0.3"))] == [
        2,
        4,
    ]
    ran = predict("photos", "--boxes", "r.json", "--min-score", "0.3", "-o", "out/")
    assert ran == (0, "", "3 images, 2 masks in out\n")
    line = "error: --min-score nan is not a finite number\n"
    assert predict("photos", "--boxes", "r.json", "--min-score", "nan") == (2, "", line)


def test_no_boxes_at_all(predict: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samcli.predictor.Predictor.embed", None)  # nothing to look for: nothing to compute
    write("r.json", [])
    assert predict("photos", "--boxes", "r.json", "-o", "out/") == (0, "", "3 images, 0 masks in out\n")
    record = read_record(Path("out/sub/möwe.json"))
    assert (record.annotations, record.width, record.height) == ((), 90, 60)
    assert predict("photos", "--boxes", "r.json") == (0, "", "")
    assert predict("photos/7.png", "--boxes", "r.json", "-o", "x.json") == (0, "", "")
    assert read_record(Path("x.json")).annotations == ()
    ran = predict("photos", "--boxes", "r.json", "-o", "out/", "--format", "overlay")
    assert ran == (0, "", "3 images in out done before, nothing to do\n")
    assert Path("out/7.overlay.jpg").exists()


def test_an_annotation_of_an_unknown_image(predict: Samcli) -> None:
    write("i.json", {**instances(), "images": [{"id": 1, "file_name": "mug.png"}]})
    line = "error: i.json has an annotation of image 7, but no such image\n"
    assert predict("photos", "--boxes", "i.json") == (1, "", line)


# Files that hold no boxes

EXPECTED = (
    'give COCO results [{"image_id", "category_id", "bbox", "score"}, ...], the same as JSON Lines, COCO '
    'instances {"images", "annotations", "categories"}, or a folder of YOLO\'s .txt files'
)
ENTRY = '{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", f"b.json is not JSON; {EXPECTED}"),
        (b"cls,x,y\n", f"b.json is not JSON; {EXPECTED}"),
        (b"\xff\xfe[", f"b.json is not UTF-8 text; {EXPECTED}"),
        (b"{}", f"b.json holds no boxes; {EXPECTED}"),
        (b'{"shapes": [], "version": 12}', f"b.json holds no boxes; {EXPECTED}"),
        (b'{"annotations": []}', f"b.json holds no boxes; {EXPECTED}"),
        (b"[1]", "entry 1 of b.json: not a JSON object"),
        (f"[{ENTRY}, {ENTRY[:-3]}".encode(), "entry 2 of b.json: not JSON: Expecting ',' delimiter"),
        (f"[{ENTRY}".encode(), "entry 2 of b.json: not JSON: Expecting ','"),
        (f"[{ENTRY}]]".encode(), "b.json goes on after its end; write it again"),
        (f"{ENTRY}\n{ENTRY}\nx".encode(), "entry 3 of b.json: not JSON: Expecting value"),
        (f"{ENTRY}\n[]".encode(), "entry 2 of b.json: not a JSON object"),
        (b"[" * 10**5, "entry 1 of b.json: lists or objects are nested too deeply"),
        (b'[{"image_id": ' + b"1" * 5000 + b"}]", "entry 1 of b.json: a number has too many digits"),
        (b'{"images": [{"id": 1, "file_name": 5}]}', "image 1 of b.json: file_name is not text"),
        (b'{"images": [{"file_name": "a"}]}', "image 1 of b.json: id is neither a whole number nor a name"),
        (b'{"categories": [{"id": 1}]}', "category 1 of b.json: it needs a whole number as id, and a name"),
        (
            b'{"images": [], "annotations": [{"image_id": 1, "caption": "a dog"}]}',
            "annotation 1 of b.json: bbox is not [x, y, width, height] in finite numbers",
        ),
    ],
)
def test_files_that_hold_no_boxes(predict: Samcli, text: bytes, line: str) -> None:
    Path("b.json").write_bytes(text)
    assert predict("photos", "--boxes", "b.json", "-o", "out/") == (1, "", f"error: {line}\n")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": None}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"bbox": [1, 2, 3]}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"bbox": [1, 2, 3, True]}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox is not [x, y, width, height] in finite numbers"),
        ({"score": "high"}, "score is not a finite number"),
        ({"score": float("inf")}, "score is not a finite number"),
        ({"category_id": 1.5}, "category_id is not a whole number"),
        ({"category_id": 2**70}, "category_id is not a whole number"),
        ({"category_id": "cat"}, "category_id is not a whole number"),
        ({"image_id": None}, "image_id is neither a whole number nor a name"),
        ({"image_id": ""}, "image_id is neither a whole number nor a name"),
        ({"image_id": [1]}, "image_id is neither a whole number nor a name"),
        ({"file_name": 5}, "file_name is not text"),
    ],
)
def test_damaged_entries_are_refused_before_work(
    predict: Samcli, change: dict[str, Any], reason: str
) -> None:
    good = {"image_id": 7, "category_id": 1, "bbox": DISC, "score": 0.5}
    write("r.json", [good, {**good, **change}])
    code, out, err = predict("photos", "--boxes", "r.json", "-o", "out/")
    assert (code, out, err) == (1, "", f"error: entry 2 of r.json: {reason}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.1 0.2 0.3", "not a box; boxes are: class cx cy w h [confidence]"),
        ("0 0.1 0.2 0.3 x", "not a box; boxes are: class cx cy w h [confidence]"),
        (
            "0 0.1 0.2 0.3 0.4 0.5 0.6",
            "7 numbers are a polygon or a turned box; boxes are: class cx cy w h [confidence]",
        ),
        ("0 0.1 0.2 nan 0.4", "a value is not a finite number"),
        ("0.5 0.1 0.2 0.3 0.4", "the class 0.5 is not 0, 1, 2, ..."),
        ("-1 0.1 0.2 0.3 0.4", "the class -1 is not 0, 1, 2, ..."),
        ("0 45 30 20 20", "the box is not in shares of the image, from 0 to 1"),
        ("0 0.1 0.2 0.3 0.4 17", "the confidence 17 is not from 0 to 1"),
    ],
)
def test_damaged_label_files_are_refused_before_work(predict: Samcli, text: str, reason: str) -> None:
    Path("labels").mkdir()
    Path("labels/7.txt").write_text(f"0 {yolo(DISC)}\n")
    Path("labels/mug.txt").write_text(f"0 {yolo(DISC)}\n{text}\n")
    code, out, err = predict("photos", "--boxes", "labels", "-o", "out/")
    assert (code, out, err) == (1, "", f"error: line 2 of labels/mug.txt: {reason}\n")
    Path("labels/mug.txt").rename("labels/README.txt")  # of no image: no labels at all
    assert predict("photos", "--boxes", "labels", "-o", "out/").code == 0
    Path("labels/7.txt").write_bytes(b"\xff")
    assert predict("photos", "--boxes", "labels") == (1, "", "error: labels/7.txt is not text\n")


@pytest.mark.parametrize(
    ("boxes", "line"),
    [
        ("gone.json", "gone.json cannot be read: No such file or directory; check the path"),
        ("gone.txt", "gone.txt cannot be read: No such file or directory; check the path"),
        ("empty", "empty holds no .txt file; give the folder of YOLO's labels, or a JSON file"),
    ],
)
def test_boxes_that_are_not_there(predict: Samcli, boxes: str, line: str) -> None:
    Path("empty").mkdir()
    Path("empty/classes.txt").write_text("cat\n")
    assert predict("photos/7.png", "--boxes", boxes) == (1, "", f"error: {line}\n")


# With other options


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--point", "1,1"], "--boxes goes without --point, --box, --mask, --prompts and --logits"),
        (["--box", "1,1,5,5"], "--boxes goes without --point, --box, --mask, --prompts and --logits"),
        (["--mask", "m.png"], "--boxes goes without --point, --box, --mask, --prompts and --logits"),
        (["--prompts", "p.jsonl"], "--boxes goes without --point, --box, --mask, --prompts and --logits"),
        (["--logits", "l"], "--boxes goes without --point, --box, --mask, --prompts and --logits"),
        (["-o", "x.png"], "photos is a folder, but x.png holds one image; give -o a folder"),
        (["-o", "-"], "photos is a folder, but standard output holds one image; give -o a folder"),
        (["-o", "x.json"], "photos is a folder, but x.json holds one image; give -o a folder"),
        (
            ["--shard", "1/2"],
            "--overwrite, --retry-failed, --shard, --ray and --device all need a folder: -o DIR/",
        ),
    ],
)
def test_what_does_not_go_with_boxes(predict: Samcli, args: list[str], line: str) -> None:
    write("r.json", [result("7.png", DISC)])
    assert predict("photos", "--boxes", "r.json", *args) == (2, "", f"error: {line}\n")


def test_boxes_need_an_image_by_name(predict: Samcli) -> None:
    line = "error: --boxes needs an image, or a folder of images, by name\n"
    assert predict("--boxes", "r.json") == (2, "", line)
    assert predict("-", "--boxes", "r.json", terminal=True) == (2, "", line)
    line = (
        "error: --min-score, --labels and --like go with --boxes, --include and --exclude also with --text\n"
    )
    for option in (["--min-score", "1"], ["--labels", "a"], ["--include", "*"], ["--exclude", "*"]):
        assert predict("photos/7.png", "--point", "1,1", *option) == (2, "", line)


# Outputs


def test_a_single_image_has_all_outputs(predict: Samcli) -> None:
    rows = [result("7.png", DISC, 1, 0.9), result("mug.png", DISC), result("7.png", BLOCK, 2, 0.8)]
    args = ("photos/7.png", "--boxes", write("r.json", rows), "--labels", "disc,block")
    note = "note: 1 box of 1 image that is not here left out, the first of mug.png\n"
    code, out, err = predict(*args)
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, note)
    assert [(line["id"], line["image"]) for line in answers] == [(1, "photos/7.png"), (3, "photos/7.png")]
    keys = ["category_id", "category", "detector_score", "score"]
    assert list(answers[0]["masks"][0])[-4:] == keys
    assert [answers[0]["masks"][0][key] for key in keys] == [1, "disc", 0.9, 0.9]
    code, out, err = predict(*args, terminal=True)
    assert (code, err, "block" in out) == (0, note, True)
    assert predict(*args, "-o", "x.json", "-q") == (0, "", "")
    assert [said(mask) for mask in masks("x.json")] == [(1, "disc", 0.9), (2, "block", 0.8)]
    assert predict(*args, "-o", "x.jsonl", "-q") == (0, "", "")
    assert [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()] == answers
    for picture in ("cutout", "overlay"):
        assert predict(*args, "-o", "x.png", "--format", picture, "-q") == (0, "", "")
        assert np.asarray(Image.open("x.png")).shape[:2] == (60, 90)
    assert predict(*args, "-o", "out/", "-q") == (0, "", "")
    assert [mask.segmentation for mask in masks("out/7.json")] == [
        line["masks"][0]["segmentation"] for line in answers
    ]


def test_all_gives_three_masks_a_box(predict: Samcli) -> None:
    write("r.json", [result("7.png", DISC, 4, 0.9), result("7.png", BLOCK, 5, 0.8)])
    assert predict("photos/7.png", "--boxes", "r.json", "--all", "-o", "x.json") == (0, "", "")
    assert [said(mask) for mask in masks("x.json")] == [(4, None, 0.9)] * 3 + [(5, None, 0.8)] * 3


def test_a_broken_image_fails_alone(predict: Samcli, photos: Path) -> None:
    (photos / "7.png").write_bytes(b"\x89PNG broken")
    rows = [result("7.png", DISC), result("mug.png", DISC), result("7.png", BLOCK)]
    write("r.json", rows)
    code, out, err = predict("photos", "--boxes", "r.json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith("failed: photos/7.png ")
    assert [(line["id"], "error" in line) for line in answers] == [(1, True), (3, True), (2, False)]
    code, out, err = predict("photos", "--boxes", "r.json", "-o", "out/")
    assert (code, out) == (3, "")
    assert err.endswith("\n2 of 3 images, 1 mask in out; 1 failed\n")
    assert Path("out/7.error.json").exists()
    code, out, err = predict("photos/7.png", "--boxes", write("one.json", rows[:1]))
    assert (code, out) == (1, "")
    assert err.startswith("error: photos/7.png ")
    (photos / "7.png").unlink()
    line = "error: photos/7.png does not exist; check the path\n"
    assert predict("photos/7.png", "--boxes", "one.json") == (1, "", line)


def test_many_boxes_of_one_image_are_as_each_alone(predict: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "samcli.cli.answers.MASK_BYTES", 128 * 3 * 90 * 60
    )  # three calls, a group after another
    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 1, (300, 2, 2)), axis=1) * [[90, 60]]
    boxes = [(float(x0), float(y0), float(x1 - x0), float(y1 - y0)) for (x0, y0), (x1, y1) in corners]
    write("r.json", [result("7.png", list(box)) for box in boxes])
    together = lines(predict("photos/7.png", "--boxes", "r.json"))
    assert len(together) == 300
    for index in (0, 63, 64, 128, 299):
        x, y, w, h = boxes[index]
        (alone,) = lines(predict("photos/7.png", "--box", f"{x!r},{y!r},{x + w!r},{y + h!r}"))
        (mask,), (expected,) = together[index]["masks"], alone["masks"]
        assert mask["predicted_iou"] == pytest.approx(expected["predicted_iou"], abs=1e-4)
        bits, others = (coco.decode(m["segmentation"]) > 0 for m in (mask, expected))
        assert (bits != others).sum() <= 3


# Runs


def test_runs_resume_and_refuse_other_boxes(predict: Samcli, photos: Path) -> None:
    rows = [result("7.png", DISC), result("mug.png", DISC), result("sub/möwe.png", BLOCK)]
    args = ("photos", "--boxes", write("r.json", rows), "-o", "out/")
    assert predict(*args) == (0, "", "3 images, 3 masks in out\n")
    whole = {path.name: path.read_bytes() for path in Path("out").rglob("*.json")}
    Path("out/mug.json").unlink()
    assert predict(*args) == (0, "", "1 image, 1 mask in out; 2 done before\n")
    assert {path.name: path.read_bytes() for path in Path("out").rglob("*.json")} == whole
    for part in (1, 2):
        assert predict(*args[:-1], "parts/", "--shard", f"{part}/2").code == 0
    assert {path.name: path.read_bytes() for path in Path("parts").rglob("*.json")} == whole
    refused = f"error: out/mug.json was made with other prompts; {KEPT}\n"
    for change in ({"bbox": BLOCK}, {"score": 0.4}, {"category_id": 2}):
        write("r.json", [rows[0], {**rows[1], **change}, rows[2]])
        assert predict(*args) == (1, "", refused)
    write("r.json", [*rows[::-1], result("gone.png", DISC)])  # in another order, with boxes of other images
    code, _, err = predict(*args)
    assert (code, err.splitlines()[1]) == (0, "3 images in out done before, nothing to do")
    write("r.json", rows[:1])
    assert predict(*args) == (1, "", refused)
    assert predict(*args, "--overwrite") == (0, "", "3 images, 1 mask in out\n")


def test_pictures_beside_records(predict: Samcli) -> None:
    write("r.json", [result("7.png", DISC), result("7.png", [200, 200, 5, 5]), result("7.png", BLOCK)])
    args = ("photos", "--boxes", "r.json", "-o", "out/", "--include", "7.png", "--format")
    note = "note: 1 box outside of the images left out\n"
    assert predict(*args, "cutout") == (0, "", f"1 image, 2 masks in out\n{note}")
    assert sorted(path.name for path in Path("out/7.cutout").iterdir()) == ["0.png", "1.png"]
    assert predict(*args, "overlay") == (0, "", "1 image in out done before, nothing to do\n")
    drawn = Path("out/7.overlay.jpg").read_bytes()
    assert predict(*args, "overlay", "--overwrite") == (0, "", f"1 image, 2 masks in out\n{note}")
    assert Path("out/7.overlay.jpg").read_bytes() == drawn


def test_saved_embeddings_answer_boxes(predict: Samcli, samcli: Samcli, random_tiny: Path) -> None:
    write("r.json", [result("7.png", DISC), result("sub/möwe.png", BLOCK)])
    assert samcli("embed", "photos", "-o", "emb", "-m", random_tiny).code == 0
    assert predict("photos", "--boxes", "r.json", "-o", "fresh/").code == 0
    ran = predict("photos", "--boxes", "r.json", "-o", "out/", "--embeddings", "emb")
    assert ran == (0, "", "3 images, 2 masks in out\n")
    for name in ("7.json", "mug.json", "sub/möwe.json"):
        assert (Path("out") / name).read_bytes() == (Path("fresh") / name).read_bytes()


def test_several_devices_share_the_images(predict: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    write("r.json", [result("7.png", DISC), result("mug.png", [200, 200, 5, 5]), result("mug.png", DISC)])
    assert predict("photos", "--boxes", "r.json", "-o", "alone/").code == 0
    monkeypatch.setattr("samcli.predictor.find_devices", lambda name: ("cpu", "cpu"))
    ran = predict("photos", "--boxes", "r.json", "-o", "out/", "--device", "all")
    note = "note: 1 box outside of the images left out\n"
    assert ran == (0, "", f"3 images, 2 masks in out\n{note}")
    for name in ("7.json", "mug.json", "sub/möwe.json"):
        assert (Path("out") / name).read_bytes() == (Path("alone") / name).read_bytes()


# What is found


def test_boxes_find_the_things(samcli: Samcli, photos: Path, pixels: np.ndarray) -> None:
    """The embedded model on a disc and a block: each mask is the thing in its box."""
    large = np.kron(pixels, np.ones((6, 6, 1), np.uint8))
    Image.fromarray(large).save(photos / "7.png")
    write("r.json", [result(7, [6 * v for v in box], i) for i, box in enumerate((DISC, BLOCK))])
    ran = samcli("predict", "photos", "--boxes", "r.json", "-o", "out/", "-m", "tiny")
    assert ran == (0, "", "3 images, 2 masks in out\n")
    for mask, colour in zip(masks("out/7.json"), ([220, 60, 40], [40, 160, 60]), strict=True):
        bits, thing = coco.decode(mask.segmentation) > 0, (large == colour).all(2)
        assert (bits & thing).sum() / (bits | thing).sum() > 0.9


def test_the_numbers_of_a_dataset(predict: Samcli) -> None:
    """Results say 1 and 2 where the dataset has files; a file whose name is a number does not matter."""
    dataset = {
        "images": [{"id": 1, "file_name": "mug.png"}, {"id": 7, "file_name": "sub/möwe.png"}],
        "annotations": [],
        "categories": [{"id": 3, "name": "bird"}],
    }
    write("d.json", dataset)
    write("r.json", [result(7, [1, 1, 20, 20], 3), result(1, [2, 2, 30, 30], 3), result(9, [2, 2, 3, 3], 3)])
    code, out, err = predict("photos", "--boxes", "r.json", "--like", "d.json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [(line["image"], line["masks"][0]["category"]) for line in told] == [
        ("photos/mug.png", "bird"),
        ("photos/sub/möwe.png", "bird"),
    ]
    assert (code, err) == (0, "note: 1 box of 1 image that is not here left out, the first of 9\n")
    both = predict("photos", "--boxes", "r.json", "--like", "d.json", "--labels", "a")
    assert both == (2, "", "error: --labels and --like both name the categories; choose one\n")
    alone = predict("photos/7.png", "--like", "d.json", "--point", "3,3")
    assert alone.code == 2
