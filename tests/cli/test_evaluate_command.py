"""`samcli evaluate` through the real `main`, with the embedded model on pictures that are drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Samcli
from PIL import Image

from samcli.formats.record import read_record, read_rows
from samcli.masks import encode_rle


def disc(x: int, y: int, radius: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def annotation(number: int, image: int, mask: np.ndarray, category: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": encode_rle(mask),
        "area": int(mask.sum()),
        "bbox": [0, 0, 1, 1],
        "iscrowd": 0,
        **more,
    }


def write_dataset(folder: Path, annotations: list[dict[str, Any]], names: tuple[str, ...]) -> Path:
    (folder / "images").mkdir(parents=True)
    images = []
    for number, name in enumerate(names, start=1):
        picture = np.full((120, 160, 3), (60, 90, 140), np.uint8)
        for mask, colour in ((disc(50, 60, 30), (220, 60, 40)), (disc(120, 40, 18), (240, 220, 60))):
            picture[np.roll(mask, 5 * number, 1)] = colour
        path = folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
        images.append(
            {"id": number, "file_name": name, "width": 160, "height": 120, "kind": f"kind {number}"}
        )
    categories = [{"id": 1, "name": "ball"}, {"id": 7, "name": "sun"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """Two photos with a ball and a sun in each."""
    things = disc(50, 60, 30), disc(120, 40, 18)
    annotations = [
        annotation(2 * image + part, image, np.roll(things[part], 5 * image, 1), (1, 7)[part])
        for image in (1, 2)
        for part in (0, 1)
    ]
    return write_dataset(tmp_path / "discs", annotations, ("a.png", "sub/b.png"))


@pytest.fixture
def partitions(tmp_path: Path) -> Path:
    """A photo that two people divided, one of them not seeing the sun."""
    ball, sun = np.roll(disc(50, 60, 30), 5, 1), np.roll(disc(120, 40, 18), 5, 1)
    annotations = [
        annotation(1, 1, ball, annotator=0),
        annotation(2, 1, sun, annotator=0),
        annotation(3, 1, ~(ball | sun), annotator=0),
        annotation(4, 1, ball, annotator=1),
        annotation(5, 1, ~ball, annotator=1),
    ]
    return write_dataset(tmp_path / "parts", annotations, ("a.png",))


def figures(result: Any, protocol: str, name: str) -> dict[str, Any]:
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)["figures"][protocol][name]
    return found


def test_clicks_and_boxes(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = samcli("evaluate", discs, "-o", out, "--by", "kind")
    found = figures(result, "prompts", "discs")
    assert (found["photos"], found["things"]) == (2, 4)
    assert found["click"] > 0.6  # plain discs are easy
    assert found["oracle"] >= found["click"]
    assert len(found["clicks"]) == 9
    assert found["clicks"][0] == pytest.approx(found["click"])
    assert found["clicks"][4] > 0.8
    assert 1 <= found["clicks_to_85"] <= found["clicks_to_90"] <= 9
    assert found["box"] > 0.8
    assert set(found["by"]) == {"size", "category", "kind"}
    assert set(found["by"]["category"]) == {"ball", "sun"}
    assert {name: one["things"] for name, one in found["by"]["kind"].items()} == {"kind 1": 2, "kind 2": 2}
    ball, sun = (found["by"]["category"][name]["click"] for name in ("ball", "sun"))
    assert (ball + sun) / 2 == pytest.approx(found["click"])
    assert json.loads((out / "evaluation.json").read_text())["figures"]["prompts"]["discs"] == found
    assert Image.open(out / "clicks.png").width > 500
    rows = read_rows(out / "discs" / "prompts" / "sub" / "b.json")
    assert [row["id"] for row in rows] == [4, 5]
    assert result.err.splitlines()[-2:] == [
        "discs: prompts",
        f"2 images, 4 things in {out / 'discs' / 'prompts'}",
    ]
    unknown = samcli("evaluate", discs, "-o", out, "--by", "kimd")
    assert (unknown.code, "--by kimd: no image or annotation has it; they have kind" in unknown.err) == (
        2,
        True,
    )


def test_a_second_run_measures_nothing_again(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    first = samcli("evaluate", discs, "-o", tmp_path / "out")
    record = tmp_path / "out" / "discs" / "prompts" / "a.json"
    before = record.stat().st_mtime_ns
    again = samcli("evaluate", discs, "-o", tmp_path / "out")
    assert again.out == first.out
    assert "done before, nothing to do" in again.err
    assert record.stat().st_mtime_ns == before
    other = samcli("evaluate", discs, "-o", tmp_path / "out", "--seed", "1")
    assert other.code == 1
    assert "--overwrite" in other.err
    data = json.loads((discs / "annotations.json").read_text())
    data["annotations"].pop()
    (discs / "annotations.json").write_text(json.dumps(data))
    corrected = samcli("evaluate", discs, "-o", tmp_path / "out")
    assert corrected.code == 1
    assert "truth_sha256" in corrected.err


def test_small_things_can_be_left_out(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    result = samcli("evaluate", discs, "-o", tmp_path / "out", "--min-area", "2000")
    assert figures(result, "prompts", "discs")["things"] == 2


def test_everything_mode_on_partitions(samcli: Samcli, partitions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = samcli("evaluate", partitions, "-o", out, "-p", "everything", "-p", "edges")
    found = figures(result, "everything", "parts")
    assert found["best_iou"] > 0.6
    assert 0.5 < found["covering_label_map"] <= found["covering"] + 1e-9
    assert 0.3 < found["boundary_f"] <= 1
    assert 0 < found["ar_1000"] <= 1
    record = read_record(out / "parts" / "everything" / "a.json")
    assert record.run.command == "evaluate"
    assert found["masks"] == len(record.annotations)
    edges = figures(result, "edges", "parts")
    assert 0.5 < edges["ods"] <= edges["ois"] + 1e-9
    assert len(edges["curve"]) == 99
    assert Image.open(out / "parts" / "edges" / "a.png").size == (160, 120)
    assert {path.name for path in out.glob("*.png")} == {"recall.png", "edges.png"}


def test_what_was_measured_before_stays_in_the_report(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    samcli("evaluate", discs, "-o", tmp_path / "out", "-p", "boxes")
    result = samcli("evaluate", discs, "-o", tmp_path / "out", "-p", "everything")
    assert set(json.loads(result.out)["figures"]) == {"boxes", "everything"}


def test_masks_of_true_and_of_given_boxes(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    true = figures(samcli("evaluate", discs, "-o", tmp_path / "true", "-p", "boxes"), "boxes", "discs")
    assert true["ap50"] > 0.9
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [25, 30, 60, 60], "score": 0.9},
        {"image_id": 1, "category_id": 7, "bbox": [400, 400, 10, 10], "score": 0.9},  # beside the photo
        {"image_id": 2, "category_id": 7, "bbox": [112, 22, 36, 36], "score": 0.8},
    ]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(results))
    given = samcli("evaluate", discs, "-o", tmp_path / "given", "-p", "boxes", "--boxes", file)
    found = figures(given, "boxes", "discs")
    assert found["masks"] == 2
    assert found["ap50"] == pytest.approx(0.5, abs=0.02)  # each category has one of its two things
    file.write_text("[{}]")
    broken = samcli("evaluate", discs, "-o", tmp_path / "broken", "-p", "boxes", "--boxes", file)
    assert broken.code != 0
    assert f"{file} is not COCO results" in broken.err


def test_text_over_a_folder_of_datasets(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    for name in ("Balls", "Suns"):  # SegInW's layout
        split = sets / name / "valid"
        split.mkdir(parents=True)
        (split / "sub").mkdir()
        for image in ("a.png", "sub/b.png"):
            (split / image).write_bytes((discs / "images" / image).read_bytes())
        (split / "_annotations_min1cat.coco.json").write_bytes((discs / "annotations.json").read_bytes())
    result = samcli("evaluate", sets, "-o", tmp_path / "out", "-p", "text")
    assert result.code == 0, result.err
    text = json.loads(result.out)["figures"]["text"]
    assert set(text) == {"Balls", "Suns", "mean"}
    assert text["mean"]["ap50"] == pytest.approx((text["Balls"]["ap50"] + text["Suns"]["ap50"]) / 2)
    record = read_record(tmp_path / "out" / "Suns" / "text" / "a.json")
    assert record.annotations
    assert {mask.category_id for mask in record.annotations} <= {1, 7}
    assert record.run.config["phrases"] == ["ball", "sun"]


def test_a_terminal_gets_a_table(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    result = samcli("evaluate", discs, "-o", tmp_path / "out", terminal=True)
    *_, head, line = result.out.splitlines()
    assert "3 clicks" in head
    assert line.split()[:2] == ["discs", "4"]


def test_a_photo_that_is_missing_or_changed_is_listed_and_the_others_count(
    samcli: Samcli, discs: Path, tmp_path: Path
) -> None:
    (discs / "images" / "a.png").unlink()
    result = samcli("evaluate", discs, "-o", tmp_path / "out")
    assert result.code == 3
    assert json.loads(result.out)["figures"]["prompts"]["discs"]["photos"] == 1
    assert f"failed: {discs / 'images' / 'a.png'} does not exist; check the path" in result.err
    Image.new("RGB", (50, 50)).save(discs / "images" / "a.png")
    again = samcli("evaluate", discs, "-o", tmp_path / "out", "--retry-failed")
    assert again.code == 3
    assert "the photo is of 50x50 pixels" in again.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.pop("images"), "no list of images"),
        (lambda data: data["images"][0].update(file_name="../a.png"), "give a path below the images"),
        (lambda data: data["images"][1].update(file_name="a.png"), "twice"),
        (lambda data: data["annotations"][0].update(image_id="x"), "image_id"),
        (lambda data: data["annotations"][0].update(segmentation={"size": [1, 1]}), "annotation 2"),
    ],
)
def test_a_malformed_file_is_one_line(
    samcli: Samcli, discs: Path, tmp_path: Path, change: Any, says: str
) -> None:
    file = discs / "annotations.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    result = samcli("evaluate", discs, "-o", tmp_path / "out", "-q")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {file}: ")
    assert says in line
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_measured_is_said(samcli: Samcli, discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no annotators" in samcli("evaluate", discs, "-o", out, "-p", "edges").err
    assert "does not exist" in samcli("evaluate", tmp_path / "no", "-o", out).err
    (tmp_path / "empty").mkdir()
    assert "holds no dataset" in samcli("evaluate", tmp_path / "empty", "-o", out).err
    assert samcli("evaluate", discs, "-o", out, "--boxes", "x.json").code == 2
    assert samcli("evaluate", discs, "-o", out, "--points-per-side", "4").code == 2
    assert samcli("evaluate", discs, "-o", out, "--detector", "tiny").code == 2
    (tmp_path / "other.json").write_bytes((discs / "annotations.json").read_bytes())
    two = discs, tmp_path / "other.json"
    assert samcli("evaluate", *two, "-o", out, "--images", discs).code == 2
    assert not out.exists()
