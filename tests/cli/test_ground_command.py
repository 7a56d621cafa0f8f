"""`samcli ground`, through the real `main`, with a detector of colours in place of a large one."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_detector import ColourDetector, picture, rgb
from conftest import Result, Samcli
from PIL import Image

from samcli.cli import detector as shared
from samcli.formats.record import read_record
from samcli.ground import load
from samcli.ground.detector import Thresholds
from samcli.masks import decode_rle
from samcli.predictor import Predictor
from samcli.records import MaskRecord

TINY = ("-m", "tiny", "--detector", "colours")
RED, SMALL, BLUE = (20, 20, 80, 100), (120, 10, 150, 40), (100, 60, 180, 110)
FEW = ("--points-per-side", "8")
NOTES = (
    "note: using the embedded detector colours; others with --detector: "
    + ", ".join(name for name, spec in shared.DETECTORS.items() if not spec.packaged)
    + "\n"
)


LAST = f"the last argument is what to look for, but {{!r}} is {{}}; {shared.EXAMPLE}, or give --labels"


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> list[ColourDetector]:
    """Let every name of a detector mean that of colours; the list has each one that was loaded."""
    loaded: list[ColourDetector] = []

    def load_detector(name: str, *, device: str, dtype: str) -> ColourDetector:
        assert (device, dtype) == ("cpu", "fp32")
        loaded.append(ColourDetector())
        return loaded[-1]

    def check_phrases(name: str, phrases: tuple[str, ...]) -> None:
        for phrase in phrases:
            rgb(phrase)

    monkeypatch.setattr(load, "load_detector", load_detector)
    monkeypatch.setattr(load, "check_phrases", check_phrases)
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
def ground(samcli: Samcli, colours: list[ColourDetector], photos: Path) -> Samcli:
    def run(*args: object, **streams: Any) -> Result:
        return samcli("ground", *args, *TINY, **streams)

    return run


def files(folder: str | Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def lines(result: Result) -> list[dict[str, Any]]:
    assert (result.code, result.err) == (0, "")
    return [json.loads(line) for line in result.out.splitlines()]


def masks(path: str | Path) -> tuple[MaskRecord, ...]:
    return read_record(Path(path)).annotations


def names(path: str | Path) -> list[str | None]:
    return [mask.category for mask in masks(path)]


# What comes out


def test_one_image_prints_its_record(ground: Samcli) -> None:
    (record,) = lines(ground("photos/both.png", "a red. BLUE"))
    assert list(record) == ["samcli", "image", "annotations"]
    assert record["image"]["file_name"] == "both.png"
    assert list(record["annotations"][0]) == [
        "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "category_id", "category",
        "phrase", "detector_score", "score",
    ]  # fmt: skip
    told = [(m["id"], m["category_id"], m["category"], m["phrase"]) for m in record["annotations"]]
    assert told == [(1, 1, "a red", "a red"), (2, 2, "BLUE", "BLUE"), (3, 1, "a red", "a red")]
    assert [m["score"] for m in record["annotations"]] == [m["detector_score"] for m in record["annotations"]]
    assert record["samcli"]["command"] == "ground"
    assert record["samcli"]["model"] == "tiny"
    assert record["samcli"]["config"] == {
        "detector": "colours",
        "detector_sha256": ColourDetector.sha256,
        "phrases": ["a red", "BLUE"],
        "box_threshold": 0.3,
        "text_threshold": 0.25,
        "nms": 0.7,
        "class_agnostic": False,
        "containment": None,
        "max_detections": None,
        "tile": None,
        "dtype": "fp32",
    }


def test_a_folder_prints_a_record_for_each_image(ground: Samcli) -> None:
    records = lines(ground("photos", "red"))
    found = {record["image"]["file_name"]: len(record["annotations"]) for record in records}
    assert found == {"both.png": 2, "grey.png": 0, "sub/red.png": 1}


def test_several_images_are_named_before_the_text(ground: Samcli) -> None:
    records = lines(ground("photos/grey.png", "photos/both.png", "blue"))
    assert [len(record["annotations"]) for record in records] == [0, 1]


def test_a_folder_becomes_records_which_another_run_leaves_alone(
    ground: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ground("photos", "red, blue", "-o", "out") == (0, "", "3 images, 4 masks in out\n")
    before = files("out")
    assert list(before) == ["both.json", "grey.json", "sub/red.json"]
    assert names("out/both.json") == ["red", "blue", "red"]
    monkeypatch.setattr(ColourDetector, "detect", None)
    again = ground("photos", "red\nblue", "-o", "out")
    assert again == (0, "", "3 images in out done before, nothing to do\n")
    assert files("out") == before


def test_a_folder_and_single_images_and_lines_are_the_same(ground: Samcli) -> None:
    assert ground("photos", "red", "-o", "out", "-q").code == 0
    assert ground("photos/sub/red.png", "red", "-o", "sub.json", "--root", "photos") == (0, "", "")
    assert Path("sub.json").read_bytes() == Path("out/sub/red.json").read_bytes()
    assert lines(ground("photos", "red"))[2] == json.loads(Path("sub.json").read_text())
    assert ground("photos", "red", "-o", "all.jsonl") == (0, "", "")
    assert Path("all.jsonl").read_text() == ground("photos", "red").out


def test_json_is_a_summary_of_a_folder_and_records_of_a_file(ground: Samcli) -> None:
    code, out, err = ground("photos", "red", "-o", "out", "--json", "-q")
    summary = json.loads(out)
    assert (code, err, summary["images"], summary["masks"], summary["model"]) == (0, "", 3, 3, "tiny")
    code, out, err = ground("photos/both.png", "red", "-o", "mask.png", "--json", "-q")
    assert (code, err, len(json.loads(out)["annotations"])) == (0, "", 2)


def test_a_table_on_a_terminal(ground: Samcli, photos: Path) -> None:
    code, out, err = ground("photos/both.png", "red . blue", terminal=True)
    assert (code, err) == (0, "")
    assert [word in out for word in ("what", "score", "predicted IoU", "red", "blue", "0.920")] == [True] * 6
    assert "both.png" not in out
    for what in ("red", "blue"):  # in several images, and in one of several
        assert "photos/both.png" in ground("photos", what, terminal=True).out
    long = photos / f"{'x' * 60}.png"
    long.write_bytes((photos / "both.png").read_bytes())
    table = ground("photos", "red", terminal=True).out
    assert "…" not in table
    assert table.count("x") > 2 * 60
    one = ground("photos/both.png", "red", "--json", terminal=True)
    assert json.loads(one.out)["image"]["file_name"] == "both.png"
    assert "predicted IoU" not in ground("photos/both.png", "red", "--boxes-only", terminal=True).out


# Pictures


def opened(result: Result) -> Image.Image:
    assert result.code == 0
    found = Image.open(io.BytesIO(result.raw))
    found.load()
    assert found.format == "PNG"
    return found


def test_pictures_through_pipes(ground: Samcli, photos: Path) -> None:
    data = (photos / "both.png").read_bytes()
    mask = ground("-", "blue", "-o", "-", stdin=data)
    assert mask.err == ""
    assert ground("photos/both.png", "blue", "-o", "out", "-q").code == 0
    truth = decode_rle(masks("out/both.json")[0].segmentation)
    np.testing.assert_array_equal(np.asarray(opened(mask)) > 0, truth)
    cut = ground("-", "red . blue", "-o", "-", "--format", "cutout", stdin=data)
    assert cut.err == "note: 3 masks in one picture: the cut-out shows their union\n"
    assert opened(cut).mode == "RGBA"
    index = ground("-", "red . blue", "-o", "-", stdin=data)
    assert index.err == "note: 3 masks in one picture: an index map, 0 background, 1 the first mask\n"
    assert set(np.unique(np.asarray(opened(index)))) == {0, 1, 2, 3}
    overlay = ground("-", "red . blue", "-o", "-", "--overlay", stdin=data)
    assert (overlay.err, opened(overlay).size) == ("", (200, 120))


def test_what_lies_on_top_in_an_index_map(ground: Samcli, photos: Path) -> None:
    nested = picture((120, 200), [("red", (10, 10, 110, 110)), ("blue", (30, 30, 80, 80))])
    Image.fromarray(nested).save(photos / "nested.png")
    maps = {}
    for flatten in ("area", "score", "order"):
        assert ground("photos/nested.png", "red . blue", "-o", "out", "--overwrite", "--format", "labelmap",
                      "--flatten", flatten, "-q").code == 0  # fmt: skip
        beside = np.asarray(Image.open("out/nested.labelmap.png"))
        alone = ground("photos/nested.png", "red . blue", "-o", "-", "--flatten", flatten, "-q")
        np.testing.assert_array_equal(np.asarray(opened(alone)), beside)
        maps[flatten] = alone.raw
    assert len(set(maps.values())) > 1


def test_nothing_found_is_an_empty_picture_and_a_note(ground: Samcli) -> None:
    result = ground("photos/grey.png", "red", "-o", "-")
    assert result.err == "note: nothing found for: red; a lower --box-threshold finds more\n"
    assert not np.asarray(opened(result)).any()
    assert opened(result).size == (80, 60)
    cut = ground("photos/grey.png", "red", "-o", "-", "--format", "cutout", "-q")
    assert (cut.err, opened(cut).getextrema()[3]) == ("", (0, 0))


def test_pictures_beside_the_records(ground: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--overlay", "--format", "cutout", "--format", "png", "--format", "labelmap")
    assert ground("photos/both.png", "red . blue", "-o", "out", *options).code == 0
    before = files("out")
    assert list(before) == [
        "both.cutout/0.png", "both.cutout/1.png", "both.cutout/2.png", "both.json", "both.labelmap.png",
        "both.masks/0.png", "both.masks/1.png", "both.masks/2.png", "both.masks/metadata.csv",
        "both.overlay.jpg",
    ]  # fmt: skip
    Path("out/both.overlay.jpg").unlink()
    monkeypatch.setattr(ColourDetector, "detect", None)
    again = ground("photos/both.png", "red . blue", "-o", "out", *options)
    assert again == (0, "", "1 image in out done before, nothing to do\n")
    assert files("out") == before


def test_labels_and_scores_are_written_on_overlays(ground: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "samcli.viz.overlay.write_tags", lambda canvas, tags: written.extend(tag.text for tag in tags)
    )
    assert ground("photos/both.png", "red . blue", "-o", "a.png", "--format", "overlay").code == 0
    assert written == ["red 0.92", "blue 0.92", "red 0.90"]


# Words


def test_labels_are_phrases(ground: Samcli) -> None:
    Path("labels.txt").write_text("\ufeffred\n\n  a blue \n", encoding="utf-8")
    for given in ("red,a blue", "@labels.txt"):
        (record,) = lines(ground("photos/both.png", "--labels", given))
        assert record["samcli"]["config"]["phrases"] == ["red", "a blue"]
    assert [m["category_id"] for m in record["annotations"]] == [1, 2, 1]


def test_a_text_may_be_longer_than_a_file_name(ground: Samcli) -> None:
    text = " . ".join(["lime", "yellow", "aqua", "red"] + [f"#0000{i:02x}" for i in range(60)])
    (record,) = lines(ground("photos/both.png", text))
    assert {mask["category_id"] for mask in record["annotations"]} == {4}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, f"nothing to look for; say what, {shared.EXAMPLE}"),
        (
            ("photos/both.png",),
            2,
            LAST.format("photos/both.png", "a file"),
        ),
        (
            ("photos/both.png", "other.JPG"),
            2,
            LAST.format("other.JPG", "an image's name"),
        ),
        (
            ("red", "-"),
            2,
            LAST.format("-", "standard input"),
        ),
        (
            ("photos/both.png", "a", "red", "thing"),
            2,
            f"a does not exist; a text of several words needs quotes, {shared.EXAMPLE}",
        ),
        (
            ("photos/both.png", ""),
            1,
            "'' names nothing to look for; separate phrases by dots or commas: cat. red car",
        ),
        (("red",), 2, "no images; name files or folders, or a list of them with --files-from"),
        (("--labels", "red"), 2, "no images; name files or folders, or a list of them with --files-from"),
        (
            ("photos", " . ,"),
            1,
            "' . ,' names nothing to look for; separate phrases by dots or commas: cat. red car",
        ),
        (
            ("photos", "--labels", "st. bernard,red"),
            2,
            "'st. bernard' of --labels is several phrases; put each on its own",
        ),
        (("photos", "--labels", "red,Red"), 2, "--labels 'red,Red' names one category twice"),
        (
            ("photos", "--labels", "@no.txt"),
            1,
            "no.txt cannot be read: No such file or directory; check the path",
        ),
        (("photos", "red, dog"), 1, "the detector colours does not know 'dog'; name a colour"),
        (("photos/none.png", "red"), 1, "photos/none.png does not exist; check the path"),
        (
            ("photos", "red", "-o", "a.png"),
            2,
            "photos is a folder, but a.png holds one image; give -o a folder",
        ),
        (
            ("photos/both.png", "photos/grey.png", "red", "-o", "a.json"),
            2,
            "these are several images, but a.json holds one image; give -o a folder",
        ),
        (
            ("photos/both.png", "red", "-o", "a.jpg"),
            2,
            "-o a.jpg must end in .png, .json or .jsonl, or be a folder (end it in /)",
        ),
        (
            ("photos/both.png", "red", "--format", "cutout"),
            2,
            "--format needs -o: a .png file, a folder, or - for standard output",
        ),
        (
            ("photos/both.png", "red", "-o", "a.png", "--format", "labelmap"),
            2,
            "--format labelmap needs a folder: -o DIR/",
        ),
        (
            ("photos/both.png", "red", "-o", "a.png", "--format", "cutout", "--overlay"),
            2,
            "--format cutout and overlay needs a folder: -o DIR/",
        ),
        (
            ("photos/both.png", "red", "-o", "a.json", "--overlay"),
            2,
            "--format overlay is a picture; give -o a .png file or a folder",
        ),
        (
            ("photos/both.png", "red", "-o", "-", "--json"),
            2,
            "-o - and --json both want standard output; choose one",
        ),
        (
            ("photos", "red", "--overwrite"),
            2,
            "--overwrite, --retry-failed, --shard, --ray and --device all need a folder: -o DIR/",
        ),
        (
            ("-", "red", "-o", "out"),
            2,
            "an image on standard input goes to a file, or -o - for standard output",
        ),
        (("-", "photos", "red"), 2, "- is the image on standard input; name no other beside it"),
        (
            ("photos", "red", "--boxes-only", "--overlay", "-o", "out"),
            2,
            "--boxes-only goes without --format, --overlay, --embeddings and --masks-from",
        ),
        (
            ("photos/both.png", "red", "--boxes-only", "-o", "a.png"),
            2,
            "boxes are no picture; give -o a .json or .jsonl file, or a folder",
        ),
        (
            ("photos", "red", "--masks-from", "out", "--embeddings", "emb"),
            2,
            "--masks-from makes no masks, so it goes without --embeddings",
        ),
        (("photos", "red", "--masks-from", "none"), 1, "none does not exist; check the path"),
        (
            ("photos", "red", "--masks-from", "photos", "-o", "photos/", "--overwrite"),
            2,
            "--masks-from and -o are both photos/; write to another folder",
        ),
        (("photos", "red", "--box-threshold", "2"), 1, "box_threshold is 2; give a number from 0 to 1"),
        (("photos", "red", "--tile", "10"), 1, "tile is 10; give a number of at least 64"),
        (("photos", "red", "--overlap", "0.5"), 2, "--overlap is that of tiles; it goes with --tile"),
        (
            ("photos", "red", "--shard", "9/2", "-o", "out"),
            2,
            "--shard '9/2' is not i/n with i from 1 to n, such as 1/8",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(ground: Samcli, args: tuple[str, ...], code: int, said: str) -> None:
    assert ground(*args) == (code, "", f"error: {said}\n")
    assert not Path("a.png").exists()
    assert not Path("out").exists()


def test_words_are_checked_before_anything_is_loaded(
    ground: Samcli, colours: list[ColourDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcli.predictor.load", None)
    assert ground("photos", "dog").err == "error: the detector colours does not know 'dog'; name a colour\n"
    assert colours == []


def test_an_unknown_detector(samcli: Samcli, photos: Path) -> None:
    code, out, err = samcli("ground", "photos", "cat", "--detector", "nope", "-m", "tiny")
    assert (code, out) == (1, "")
    assert err.startswith("error: unknown detector 'nope'; known: ")
    assert err.count("\n") == 1


def test_a_detector_that_is_not_installed(samcli: Samcli, photos: Path) -> None:
    shared._detector.cache_clear()
    code, out, err = samcli("ground", "photos", "cat", "--detector", "grounding-dino-tiny", "-m", "tiny")
    assert (code, out) == (4, "")
    assert err.endswith("with: samcli models pull grounding-dino-tiny\n")


def test_the_detector_comes_from_option_variable_or_default(
    samcli: Samcli, photos: Path, colours: list[ColourDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    known = load.load_detector

    def listed(name: str, **rest: str) -> ColourDetector:
        asked.append(name)
        return known(name, **rest)

    monkeypatch.setattr(load, "load_detector", listed)
    plain = ("ground", "photos/both.png", "red", "-m", "tiny")
    assert samcli(*plain).err == NOTES
    monkeypatch.setenv("SAMCLI_DETECTOR", "from-variable")
    assert samcli(*plain).err == ""
    assert samcli(*plain, "--detector", "from-option").err == ""
    assert asked == ["tiny", "from-variable", "from-option"]


# Options of the search


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 4),
        (("--box-threshold", "0.95"), 0),
        (("--box-threshold", "0.91"), 2),
        (("--class-agnostic",), 2),
        (("--class-agnostic", "--nms", "1"), 4),
        (("--max-detections", "3"), 3),
        (("--tile", "100", "--overlap", "0.3"), 4),
        (("--containment", "0.9"), 4),
        (("--containment", "0.9", "--nms", "1", "--class-agnostic"), 2),
    ],
)
def test_options_reach_the_search(ground: Samcli, options: tuple[str, ...], count: int) -> None:
    code, out, err = ground("photos/both.png", "red . a red", *options, "-q")
    assert (code, err, len(json.loads(out)["annotations"])) == (0, "", count)


def test_what_the_configuration_says_of_tiles(ground: Samcli) -> None:
    (record,) = lines(ground("photos/both.png", "red", "--tile", "100", "--overlap", "0.3"))
    config = record["samcli"]["config"]
    assert (config["tile"], config["overlap"]) == (100, 0.3)


def test_a_detector_without_a_text_threshold(ground: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColourDetector, "thresholds", Thresholds(0.3))
    (record,) = lines(ground("photos/both.png", "red"))
    assert "text_threshold" not in record["samcli"]["config"]
    said = "error: text_threshold is for Grounding DINO; this detector has none, so leave it out\n"
    for options in ((), ("--boxes-only",), ("-o", "out")):
        assert ground("photos/both.png", "red", "--text-threshold", "0.2", *options) == (1, "", said)


def test_another_configuration_is_refused(ground: Samcli) -> None:
    assert ground("photos/both.png", "red", "-o", "out").code == 0
    refused = ground("photos/both.png", "blue", "-o", "out")
    assert refused == (
        1,
        "",
        "error: out/both.json was made with phrases ['red'], not ['blue']; choose another output, or replace "
        "it with --overwrite\n",
    )
    assert ground("photos/both.png", "red", "-o", "out", "--nms", "0.5").err.startswith(
        "error: out/both.json was made with nms 0.7, not 0.5; "
    )
    replaced = ground("photos/both.png", "blue", "-o", "out", "--overwrite")
    assert replaced == (0, "", "1 image, 1 mask in out\n")
    assert names("out/both.json") == ["blue"]


def test_of_many_phrases_only_some_are_said(ground: Samcli, samcli: Samcli) -> None:
    colours = [f"#0000{i:02x}" for i in range(60)]
    Path("labels.txt").write_text("\n".join(colours))
    result = ground("photos/grey.png", "--labels", "@labels.txt", "-o", "a.jsonl")
    note = "note: nothing found for: any of 60 phrases; a lower --box-threshold finds more\n"
    assert result == (0, "", note)
    assert ground("photos", "--labels", "@labels.txt", "-o", "out", "-q").code == 0
    assert ground("photos", "red", "-o", "out").err.startswith(
        "error: out/both.json was made with phrases ['#000000', '#000001', '#000002', ... 60 in all], not "
        "['red']; "
    )
    assert "phrases ['#000000', '#000001', '#000002', ... 60 in all], " in samcli("status", "out").out


# Batches


def test_a_failing_image_is_left_beside_the_others(ground: Samcli) -> None:
    Path("photos/bad.jpg").write_bytes(b"\xff\xd8\xff no photo")
    result = ground("photos", "red", "-o", "out")
    assert (result.code, result.out) == (3, "")
    assert result.err.endswith("3 of 4 images, 3 masks in out; 1 failed\n")
    assert json.loads(Path("out/bad.error.json").read_text())["samcli"]["command"] == "ground"
    again = ground("photos", "red", "-o", "out")
    assert "not tried again; add --retry-failed" in again.err


def test_a_failing_image_among_lines(ground: Samcli) -> None:
    Path("photos/bad.jpg").write_bytes(b"\xff\xd8\xff no photo")
    result = ground("photos", "red")
    assert result.code == 3
    assert result.err.startswith("failed: photos/bad.jpg ")
    assert result.err.count("\n") == 1
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert list(rows[0]) == ["image", "error"]
    assert rows[0]["image"] == "photos/bad.jpg"
    assert [len(row["annotations"]) for row in rows[1:]] == [2, 0, 1]
    alone = ground("photos/bad.jpg", "red")
    assert (alone.code, alone.out) == (1, "")
    assert alone.err.startswith("error: photos/bad.jpg ")


def test_a_list_of_files_and_patterns(ground: Samcli) -> None:
    given = b"photos/both.png\nphotos/grey.png\n"
    result = ground("red", "--files-from", "-", "-o", "out", stdin=given)
    assert result == (0, "", "2 images, 2 masks in out\n")
    assert ground("photos", "red", "-o", "some", "--include", "sub/*") == (0, "", "1 image, 1 mask in some\n")
    assert list(files("some")) == ["sub/red.json"]
    nothing = ground("red", "--files-from", "-", stdin=b"photos/none.png\n")
    assert (nothing.code, nothing.err) == (3, "failed: photos/none.png does not exist; check the path\n")


def test_shards_together_are_the_whole(ground: Samcli) -> None:
    assert ground("photos", "red", "-o", "whole", "-q").code == 0
    for index in (1, 2):
        assert ground("photos", "red", "-o", "parts", "--shard", f"{index}/2", "-q").code == 0
    assert files("whole") == files("parts")


def test_saved_embeddings_are_used(ground: Samcli, samcli: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert samcli("embed", "photos", "-o", "emb", "-q", "-m", "tiny").code == 0
    assert ground("photos", "red", "-o", "a", "-q").code == 0
    monkeypatch.setattr(Predictor, "_model_input", None)
    assert ground("photos", "red", "-o", "b", "-q", "--embeddings", "emb").code == 0
    assert files("a") == files("b")


def test_an_image_without_anything_is_not_embedded(ground: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "_model_input", None)
    assert ground("photos/grey.png", "red", "-o", "out") == (0, "", "1 image, 0 masks in out\n")


def test_several_images_go_through_the_detector_together(
    ground: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a call of the work takes several."""
    from samcli import batch

    detector = ColourDetector(images_per_call=8)
    monkeypatch.setattr(load, "load_detector", lambda name, *, device, dtype: detector)

    def at_once(items: Any, make_work: Any, sink: Any, **options: Any) -> Any:
        work = make_work("cpu")
        listed = list(items)
        results = work.compute([work.read(item, lambda size: None) for item in listed])
        return batch.Tally(
            done=sum(sink.write(*pair) is not None for pair in zip(listed, results, strict=True))
        )

    run = batch.run
    for options in ((), ("--boxes-only",), ("--masks-from", "one")):
        assert ground("photos", "red", "-o", f"one{len(options)}", "-q", *options).code == 0
        monkeypatch.setattr(batch, "run", at_once)
        detector.calls.clear()
        assert ground("photos", "red", "-o", f"many{len(options)}", "-q", *options).code == 0
        assert detector.calls == [3]
        monkeypatch.setattr(batch, "run", run)
        assert files(f"one{len(options)}").keys() == files(f"many{len(options)}").keys()
        if not options:
            Path("one0").rename("one")


def test_work_and_sinks_can_go_to_other_processes(ground: Samcli, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device all and --ray send them; here they are sent and come back."""
    from samcli import batch

    run = batch.run

    def sent(items: Any, make_work: Any, sink: Any, **options: Any) -> Any:
        return run(items, pickle.loads(pickle.dumps(make_work)), pickle.loads(pickle.dumps(sink)), **options)

    assert ground("photos", "red", "-o", "here", "-q").code == 0
    monkeypatch.setattr(batch, "run", sent)
    assert ground("photos", "red", "-o", "there", "-q", "--overlay", "--fail-empty").code == 0
    assert ground("photos", "red", "-o", "boxes", "-q", "--boxes-only", "--fail-empty").code == 0
    assert ground("photos", "red", "-o", "named", "-q", "--masks-from", "here", "--fail-empty").code == 0
    assert ground("photos", "lime", "-o", "none", "-q", "--fail-empty").code == 5
    assert {name: data for name, data in files("there").items() if name.endswith(".json")} == files("here")


# Nothing found


def test_fail_empty(ground: Samcli) -> None:
    grey = "photos/grey.png"
    note = "note: nothing found for: red, blue; a lower --box-threshold finds more\n"
    assert ground(grey, "red . blue", "-o", "a.jsonl") == (0, "", note)
    assert ground(grey, "red", "-o", "a.png", "--fail-empty", "-q") == (5, "", "")
    assert ground(grey, "red", "--boxes-only", "--fail-empty", "-q") == (5, "", "")
    for _ in range(2):  # the second time from the records
        assert ground(grey, "red", "-o", "out", "--fail-empty", "-q").code == 5
        assert ground("photos", "red", "-o", "all", "--fail-empty", "-q").code == 0
        assert ground(grey, "red", "-o", "boxes", "--boxes-only", "--fail-empty", "-q").code == 5
        assert ground("photos", "red", "-o", "many", "--boxes-only", "--fail-empty", "-q").code == 0


# Boxes only


def test_boxes_are_read_back_by_predict(
    ground: Samcli, samcli: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ground("photos", "red . blue", "-o", "out", "-q").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("samcli.predictor.load", None)  # no SAM is needed
        found = lines(ground("photos", "red . blue", "--boxes-only"))
        assert ground("photos", "red . blue", "--boxes-only", "-o", "b.jsonl") == (0, "", "")
        assert ground("photos", "red . blue", "--boxes-only", "-o", "b.json") == (0, "", "")
        folder = ground("photos", "red . blue", "--boxes-only", "-o", "boxes")
    assert folder == (0, "", "3 images, 4 detections in boxes\n")
    assert list(files("boxes")) == ["both.boxes.jsonl", "grey.boxes.jsonl", "sub/red.boxes.jsonl"]
    assert found[0] == {
        "image_id": found[1]["image_id"],
        "file_name": "both.png",
        "category_id": 1,
        "category": "red",
        "bbox": [20.0, 20.0, 60.0, 80.0],
        "score": found[0]["score"],
    }
    assert json.loads(Path("b.json").read_text()) == found
    assert [json.loads(line) for line in Path("b.jsonl").read_text().splitlines()] == found
    whole = [m for name in files("out") for m in masks(f"out/{name}")]
    for place in ("b.jsonl", "b.json", "boxes"):
        result = samcli("predict", "photos", "--boxes", place, "-o", f"from-{place}/", "-m", "tiny")
        assert result == (0, "", f"3 images, 4 masks in from-{place}\n")
        again = [m for name in files(f"from-{place}") for m in masks(f"from-{place}/{name}")]
        for one, other in zip(whole, again, strict=True):
            assert one.segmentation == other.segmentation
            told = (one.category_id, one.category, one.detector_score, one.score)
            assert told == (other.category_id, other.category, other.detector_score, other.score)


def test_the_boxes_of_one_image_can_be_read_back(ground: Samcli, samcli: Samcli) -> None:
    assert ground("photos", "red . blue", "--boxes-only", "-o", "boxes", "-q").code == 0
    place = "boxes/both.boxes.jsonl"
    result = samcli("predict", "photos/both.png", "--boxes", place, "-o", "a.json", "-m", "tiny")
    assert result == (0, "", "")
    assert names("a.json") == ["red", "blue", "red"]


def test_boxes_can_be_resumed_and_counted(ground: Samcli, samcli: Samcli) -> None:
    assert ground("photos/both.png", "red", "--boxes-only", "-o", "boxes").code == 0
    result = ground("photos", "red", "--boxes-only", "-o", "boxes")
    assert result == (0, "", "2 images, 1 detection in boxes; 1 done before\n")
    status = json.loads(samcli("status", "boxes", "--json").out)
    assert (status["done"], status["other"], status["configurations"][0]["model"]) == (3, 0, "colours")
    refused = ground("photos", "blue", "--boxes-only", "-o", "boxes")
    assert refused.err.startswith(
        "error: boxes/both.boxes.jsonl was made with phrases ['red'], not ['blue']; "
    )
    Path("boxes/both.boxes.jsonl").write_bytes(Path("boxes/both.boxes.jsonl").read_bytes()[:-30])
    result = ground("photos", "red", "--boxes-only", "-o", "boxes")
    assert result == (0, "", "1 image, 2 detections in boxes; 2 done before\n")


def test_no_boxes_at_all_can_be_read_back(ground: Samcli, samcli: Samcli) -> None:
    assert ground("photos", "lime", "--boxes-only", "-o", "b.jsonl", "-q").code == 0
    assert ground("photos", "lime", "--boxes-only", "-o", "boxes", "-q").code == 0
    for place in ("b.jsonl", "boxes"):
        result = samcli("predict", "photos", "--boxes", place, "-o", f"from-{place}/", "-m", "tiny")
        assert result == (0, "", f"3 images, 0 masks in from-{place}\n")


# Names for masks that are there


@pytest.fixture
def made(samcli: Samcli, photos: Path) -> Path:
    """made/: automatic masks of all photos."""
    assert samcli("automask", "photos", "-o", "made", "-q", *FEW, "-m", "tiny").code == 0
    return Path("made")


@pytest.mark.parametrize("format_", ["sa1b", "coco", "jsonl", "labelmap", "amg"])
def test_masks_of_any_format_get_names(
    ground: Samcli, samcli: Samcli, made: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "given.json" if format_ == "coco" else "given.jsonl" if format_ == "jsonl" else "given"
    written = samcli("convert", made, "--to", format_, "-o", place, "-q", "--images", "photos")
    assert written.code == 0
    monkeypatch.setattr("samcli.predictor.load", None)
    result = ground("photos", "red . blue", "--masks-from", place, "-o", "out")
    count = sum(len(masks(f"out/{name}")) for name in files("out"))
    assert result == (0, "", f"3 images, {count} masks, 4 names in out\n")
    assert sorted(name for name in names("out/both.json") if name) == ["blue", "red", "red"]
    if format_ == "sa1b":
        for before, after in zip(masks("made/both.json"), masks("out/both.json"), strict=True):
            assert (before.segmentation, before.score) == (after.segmentation, after.score)
    again = ground("photos", "red . blue", "--masks-from", place, "-o", "out")
    assert again == (0, "", "3 images in out done before, nothing to do\n")


def test_other_masks_are_another_configuration(ground: Samcli, made: Path) -> None:
    options = ("--masks-from", "made", "-o", "out")
    assert ground("photos/both.png", "red", *options, "-q").code == 0
    Path("made").rename("moved")
    moved = ground("photos/both.png", "red", "--masks-from", "moved", "-o", "out")
    assert moved == (0, "", "1 image in out done before, nothing to do\n")
    record = json.loads(Path("moved/both.json").read_text())
    record["annotations"].pop()
    Path("moved/both.json").write_text(json.dumps(record))
    refused = ground("photos/both.png", "red", "--masks-from", "moved", "-o", "out")
    assert refused.code == 1
    assert "masks_sha256" in refused.err


def test_old_names_go(ground: Samcli, made: Path) -> None:
    assert ground("photos/both.png", "red . blue", "--masks-from", "made", "-o", "named", "-q").code == 0
    (record,) = lines(ground("photos/both.png", "blue", "--masks-from", "named"))
    assert {m.get("category") for m in record["annotations"]} == {None, "blue"}
    assert [m["category_id"] for m in record["annotations"] if "category" in m] == [1]


def test_images_without_masks_fail_alone(ground: Samcli, made: Path, samcli: Samcli) -> None:
    assert samcli("convert", "made", "--to", "coco", "-o", "all.json", "-q").code == 0
    count = len(masks(made / "sub" / "red.json"))
    (made / "both.json").unlink()
    (made / "grey.json").write_bytes(Path("made/sub/red.json").read_bytes())
    result = ground("photos", "red", "--masks-from", "made", "-o", "out")
    assert (result.code, result.err.splitlines()) == (
        3,
        [
            "failed: photos/both.png: made/both.json does not exist; check the path",
            "failed: made has masks of 90x90 pixels for photos/grey.png, which has 80x60; give the masks of "
            "this image",
            f"1 of 3 images, {count} masks, 1 name in out; 2 failed",
        ],
    )
    Path("photos/new.png").write_bytes(Path("photos/grey.png").read_bytes())
    result = ground("photos", "red", "--masks-from", "all.json", "-o", "more")
    assert result.code == 3
    assert result.err.splitlines()[0] == (
        "failed: photos/new.png: all.json has no masks of new.png; give --root, so that paths begin as there"
    )


# predict and automask


def test_predict_with_a_text_is_the_same_path(ground: Samcli, samcli: Samcli) -> None:
    both = "photos/both.png"
    (record,) = lines(ground(both, "red . blue"))
    (answer,) = lines(samcli("predict", both, "--text", "red . blue", *TINY))
    assert answer == {"id": 1, "image": both, "masks": record["annotations"]}
    data = Path(both).read_bytes()
    for target in ("-", "out.png"):
        options = ("-o", target, "--format", "cutout", "-q")
        one, other = (
            ground("-", "red", *options, stdin=data),
            samcli("predict", "--text", "red", *options, *TINY, stdin=data),
        )
        assert one == other
        assert one.code == 0
    assert ground("photos", "red", "-o", "out", "-q").code == 0
    again = samcli("predict", "photos", "--text", "red", "-o", "out/", *TINY)
    assert again == (0, "", "3 images in out done before, nothing to do\n")
    few = samcli("predict", both, "--text", "red", "--box-threshold", "0.91", *TINY)
    assert len(lines(few)[0]["masks"]) == 1


@pytest.mark.parametrize(
    "options",
    [("--point", "1,1"), ("--box", "1,1,5,5"), ("--all",), ("--boxes", "x.json"), ("--labels", "a")],
)
def test_a_text_goes_with_no_other_prompt(
    samcli: Samcli, colours: list[ColourDetector], photos: Path, options: tuple[str, ...]
) -> None:
    assert samcli("predict", "photos/both.png", "--text", "red", *options, *TINY) == (
        2,
        "",
        "error: --text goes without other prompts, and without --all, --logits, --labels, --like and "
        "--min-score\n",
    )


def test_a_detector_needs_a_text(samcli: Samcli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, end in (("predict", "--text"), ("automask", "--text or --labels")):
        place = ("--point", "1,1") if command == "predict" else ("-o", "out", *FEW)
        plain = (command, "photos/both.png", *place, "-m", "tiny")
        for option in (("--box-threshold", "0.5"), ("--text-threshold", "0.5"), ("--detector", "owlv2")):
            assert samcli(*plain, *option) == (
                2,
                "",
                f"error: --detector, --box-threshold and --text-threshold go with {end}\n",
            )
        with monkeypatch.context() as patch:
            patch.setenv("SAMCLI_DETECTOR", "owlv2")
            assert samcli(*plain).code == 0


def test_everything_with_names(ground: Samcli, samcli: Samcli, made: Path) -> None:
    result = samcli("automask", "photos", "-o", "named", "--text", "red . blue", "--overlay", *FEW, *TINY)
    count = sum(len(masks(path)) for path in made.rglob("*.json"))
    assert result == (0, "", f"3 images, {count} masks, 4 names in named\n")
    for path in made.rglob("*.json"):
        for plain, named in zip(masks(path), masks("named" / path.relative_to(made)), strict=True):
            assert (plain.segmentation, plain.score) == (named.segmentation, named.score)
    assert sorted(name for name in names("named/both.json") if name) == ["blue", "red", "red"]
    config = read_record(Path("named/both.json")).run.config
    assert (config["detector"], config["phrases"]) == ("colours", ["red", "blue"])
    labels = samcli("automask", "photos", "-o", "named", "--labels", "red,blue", "--overlay", *FEW, *TINY)
    assert labels == (0, "", "3 images in named done before, nothing to do\n")
    assert ground("photos", "red . blue", "--masks-from", "made", "-o", "given", "-q").code == 0
    for name in files("given"):
        assert masks(f"given/{name}") == masks(f"named/{name}")
    both = samcli("automask", "photos", "-o", "x", "--labels", "red", "--text", "red", *TINY)
    assert both == (2, "", "error: --text and --labels both say what to look for; choose one\n")


def test_automask_without_words_is_as_before(samcli: Samcli, made: Path) -> None:
    run = read_record(Path("made/both.json")).run
    assert "detector" not in run.config
    assert not any(mask.category for mask in masks("made/both.json"))


def test_terminals(ground: Samcli) -> None:
    said = "standard input is a terminal; name a file, or pipe one in"
    assert ground("-", "red", terminal=True) == (2, "", f"error: {said}\n")
    said = "-o - writes a PNG, but standard output is a terminal; redirect it, or name a file"
    assert ground("photos/both.png", "red", "-o", "-", terminal=True) == (2, "", f"error: {said}\n")


def test_results_can_be_converted(ground: Samcli, samcli: Samcli) -> None:
    assert ground("photos", "red . blue", "-o", "out", "-q").code == 0
    assert samcli("convert", "out", "--to", "coco", "-o", "coco.json", "-q").code == 0
    coco = json.loads(Path("coco.json").read_text())
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [(1, "red"), (2, "blue")]
    assert len(coco["annotations"]) == 4
    piped = samcli(
        "convert", "-", "--to", "coco", "-o", "piped.json", "-q", stdin=ground("photos", "red . blue").raw
    )
    assert piped.code == 0
    assert json.loads(Path("piped.json").read_text())["annotations"] == coco["annotations"]
