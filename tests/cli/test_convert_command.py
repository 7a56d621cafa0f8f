"""`samcli convert` as people run it: formats out and back, choices, refusals, damaged and hostile input."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from specimens import DOT, LARGE, RING, golden, record, write_photos, write_records

from samcli.formats.names import image_id
from samcli.formats.record import read_record
from samcli.formats.select import mask_of
from samcli.formats.table import FORMATS
from samcli.masks import encode_rle

KNOWN = ", ".join(FORMATS)
FLAT = {"coco-panoptic", "labelmap", "tiff", "palette"}  # masks cannot overlap
SUMMARY = "3 images, 6 masks as {} in {}\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_records(tmp_path / "out", golden())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", golden())


def load(path: Path) -> object:
    return json.loads(path.read_bytes())


def tree(folder: Path) -> list[str]:
    """What lies in a folder, temporary files included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_written_and_recognised(samcli, out, photos, tmp_path, name):
    place = tmp_path / "place"
    format_ = FORMATS[name]
    images = ["--images", photos] if format_.needs_photos or format_.read_needs_photos else []
    where = place / format_.file if format_.file else place
    assert samcli("convert", out, "--to", name, "-o", place, *images) == (0, "", SUMMARY.format(name, where))
    assert not [path for path in tree(tmp_path) if ".samcli-tmp" in path]
    back = tmp_path / "back"
    code, text, err = samcli("convert", where, "--to", "sa1b", "-o", back, "--images", photos, "--json")
    told = json.loads(text)
    # Maps and panoptic lose what smaller masks hide; of results, images without masks.
    masks = told["masks"] if name in FLAT else 6
    images_ = 2 if name == "coco-results" else 3
    assert (code, told) == (
        0,
        {
            "images": images_,
            "masks": masks,
            "failed": [],
            "from": name,
            "to": "sa1b",
            "output": str(back),
        },
    )
    assert err == f"{images_} images, {masks} masks as sa1b in {back}\n"
    if name != "coco-results":
        assert tree(back) == ["first.json", "folder/empty.json", "folder/ünï côde.json"]
        ring = read_record(back / "first.json").annotations[0]
        assert ring.segmentation == encode_rle(RING) or name in FLAT


def test_records_stay_as_they_are(samcli, out, tmp_path):
    assert samcli("convert", out, "--to", "sa1b", "-o", tmp_path / "copy", "-q") == (0, "", "")
    for path in tree(out):
        assert (tmp_path / "copy" / path).read_bytes() == (out / path).read_bytes()


def test_standard_input_and_output(samcli, out, tmp_path):
    code, lines, err = samcli("convert", out, "--to", "jsonl", "-o", "-")
    assert (code, err) == (0, SUMMARY.format("jsonl", "standard output"))
    assert [json.loads(line)["image"]["file_name"] for line in lines.splitlines()] == [
        item.file_name for item in golden()
    ]
    code, text, err = samcli("convert", "-", "--to", "coco", "-o", "-", "-q", stdin=lines.encode())
    assert (code, err, len(json.loads(text)["annotations"])) == (0, "", 6)
    assert (
        samcli("convert", "-", "--to", "sa1b", "-o", tmp_path / "back", "-q", stdin=lines.encode()).code == 0
    )
    assert [read_record(tmp_path / "back" / path) for path in tree(tmp_path / "back")] == golden()


def test_nothing_on_standard_input(samcli, tmp_path):
    place = tmp_path / "a.json"
    assert samcli("convert", "-", "--to", "coco", "-o", place) == (
        1,
        "",
        "error: - holds nothing in the format jsonl; check the path, or give --from\n",
    )
    assert not place.exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "nope"], 2, f"--to 'nope' is unknown; known: {KNOWN}"),
        (["--to", "coco", "--from", "nope"], 2, f"--from 'nope' is unknown; known: {KNOWN}"),
        (["--to", "cutout"], 2, "--to cutout needs the photos; name their folder with --images"),
        (
            ["--to", "coco", "--labels", "a", "--like", "x.json"],
            2,
            "--labels and --like both number the categories; choose one",
        ),
        (["--to", "coco", "--labels", "a,a"], 2, "--labels 'a,a' names one category twice"),
        (
            ["--to", "coco", "--min-area", "x"],
            2,
            "--min-area 'x' is not an area; give pixels such as 1000, or a share such as 0.5%",
        ),
        (
            ["--to", "coco", "--images", "gone"],
            1,
            "gone is not a folder; give the folder that the photos lie in",
        ),
        (
            ["--to", "coco", "--like", "gone.json"],
            1,
            "gone.json cannot be read: No such file or directory; check the path",
        ),
        (
            ["--to", "coco", "--from", "yolo"],
            2,
            "--from yolo needs the photos; name their folder with --images",
        ),
        (["--to", "sa1b", "--from", "coco"], 1, "{out} cannot be read: Is a directory; check the path"),
        (
            ["--to", "sa1b", "--from", "tiff"],
            1,
            "{out} holds nothing in the format tiff; check the path, or give --from",
        ),
    ],
)
def test_refusals(samcli, out, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    result = samcli("convert", out, "-o", tmp_path / "place", *words)
    assert result == (code, "", f"error: {message.format(out=out)}\n")
    assert tree(tmp_path) == before


def test_what_does_not_go_together(samcli, out, tmp_path):
    assert samcli("convert", out, "--to", "png", "-o", "-") == (
        2, "", "error: png is a folder of files; give -o a folder\n",
    )  # fmt: skip
    assert samcli("convert", out, "--to", "coco", "-o", "-", "--json") == (
        2, "", "error: -o - and --json both want standard output; choose one\n",
    )  # fmt: skip
    assert samcli("convert", "-", "--from", "coco", "--to", "sa1b", "-o", tmp_path / "a") == (
        2, "", "error: --from coco cannot be read from standard input, which is JSON Lines\n",
    )  # fmt: skip


def test_what_is_no_format(samcli, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "empty"):
        place = tmp_path / name
        assert samcli("convert", place, "--to", "coco", "-o", tmp_path / "a.json") == (
            1, "", f"error: {place} is of no format that can be recognised; name it with convert --from\n",
        )  # fmt: skip
    gone = tmp_path / "gone"
    assert samcli("convert", gone, "--to", "coco", "-o", tmp_path / "a.json") == (
        1, "", f"error: {gone} does not exist; check the path\n",
    )  # fmt: skip


def test_places_that_are_taken(samcli, out, tmp_path):
    file, folder = tmp_path / "a.json", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for name, place in (("coco", file), ("png", folder)):
        assert samcli("convert", out, "--to", name, "-o", place) == (
            1, "", f"error: {place} is there already; choose another place, or add --overwrite\n",
        )  # fmt: skip
    assert samcli("convert", out, "--to", "png", "-o", file, "--overwrite") == (
        1, "", f"error: {file} is a file; png needs a folder\n",
    )  # fmt: skip
    assert file.read_text() == "mine"
    for name, place in (("coco", file), ("png", folder), ("png", folder)):
        assert samcli("convert", out, "--to", name, "-o", place, "--overwrite", "-q") == (0, "", "")
    assert len(load(file)["annotations"]) == 6
    assert (folder / "mine.txt").read_text() == "mine"
    assert len(tree(folder)) == 7


def test_a_place_inside_of_what_is_read(samcli, out):
    for place in (out, out / "inner", out / "a.json"):
        name = "coco" if place.suffix else "sa1b"
        assert samcli("convert", out, "--to", name, "-o", place, "--overwrite") == (
            1, "", f"error: {place} lies in {out}, which is read; choose a place of its own\n",
        )  # fmt: skip


def test_a_file_over_itself(samcli, out, tmp_path):
    file = tmp_path / "a.jsonl"
    assert samcli("convert", out, "--to", "jsonl", "-o", file, "-q").code == 0
    assert (
        samcli("convert", file, "--to", "jsonl", "-o", file, "--overwrite", "--min-area", "10", "-q").code
        == 0
    )
    assert [len(json.loads(line)["annotations"]) for line in file.read_text().splitlines()] == [2, 0, 1]


def test_damaged_files_among_good_ones(samcli, out, tmp_path):
    (out / "b.json").write_text('{"image": ')
    (out / "c.json").write_text("[" * 100_000)
    (out / "d.error.json").write_text(
        (out / "first.json").read_text().partition("\n")[0].rstrip(",") + ', "error": "it was damaged"}'
    )
    hostile = load(out / "first.json")
    hostile["annotations"][0]["segmentation"]["counts"] = "o" * 1000  # crashes pycocotools
    (out / "e.json").write_text(json.dumps(hostile))
    huge = load(out / "first.json") | {"annotations": []}
    huge["image"] |= {"width": 10**6, "height": 10**6}
    (out / "f.json").write_text(json.dumps(huge))
    place = tmp_path / "a.json"
    code, text, err = samcli("convert", out, "--to", "coco", "-o", place, "--json")
    lines = err.splitlines()
    assert lines[:3] == [
        f"failed: {out / 'b.json'} is not a samcli record: Expecting value: line 1 column 11 (char 10); "
        "write it again with --overwrite",
        lines[1],
        f"failed: {out / 'e.json'}: a mask has a malformed segmentation",
    ]
    assert lines[1].startswith(f"failed: {out / 'c.json'} is not a samcli record: ")
    assert lines[3:] == [
        f"failed: {out / 'f.json'}: an image of 1000000x1000000 pixels is too large; the most are {2**30}",
        f"3 images, 6 masks as coco in {place}; 4 failed",
    ]
    told = json.loads(text)
    assert (code, told["images"], [entry["path"] for entry in told["failed"]]) == (
        3,
        3,
        [str(out / name) for name in ("b.json", "c.json", "e.json", "f.json")],
    )
    assert len(load(place)["images"]) == 3


@pytest.mark.parametrize("size", [[-6, 8], [0, 8], [2**40, 2**40], [6], "68", None])
@pytest.mark.parametrize("name", ["amg", "sa1b", "coco", "coco-results", "jsonl"])
def test_sizes_that_no_mask_has(samcli, tmp_path, name, size):
    made = write_records(tmp_path / "one", golden()[:1])
    read = tmp_path / "read"
    assert samcli("convert", made, "--to", name, "-o", read, "-q").code == 0
    (path,) = [read / path for path in tree(read)]
    path.write_text(path.read_text().replace('"size": [6, 8]', f'"size": {json.dumps(size)}', 1))
    result = samcli("convert", path, "--from", name, "--to", "jsonl", "-o", tmp_path / "a.jsonl")
    assert (result.code, result.err.count("\n")) == (3, 2)


def test_a_photo_may_be_called_error(samcli, tmp_path):
    out = write_records(tmp_path / "out", [record("a.png"), record("a.error.png")])
    assert samcli("convert", out, "--to", "jsonl", "-o", "-", "-q").out.count("\n") == 2


def test_names_that_only_endings_tell_apart(samcli, tmp_path):
    twice = [json.dumps(record(name).to_json()) for name in ("a/b.png", "a/b.jpg", "b.png")]
    place = tmp_path / "place"
    assert samcli("convert", "-", "--to", "sa1b", "-o", place, stdin="\n".join(twice).encode()) == (
        3,
        "",
        "failed: a/b.jpg: another image is called a/b, too, but for its ending; rename one\n"
        f"2 images, 0 masks as sa1b in {place}; 1 failed\n",
    )
    assert read_record(place / "a/b.json").file_name == "a/b.png"
    for name in ("a.tif", "a.tiff"):
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(np.ones((2, 3), np.uint16)).save(tmp_path / "maps" / name)
    assert samcli("convert", tmp_path / "maps", "--to", "sa1b", "-o", tmp_path / "maps2").code == 3


EVIL = [
    "../x.png",
    "/tmp/x.png",
    "a/../../x.png",
    "..",
    "",
    "a/\0.png",
    "..\\x.png",
    "C:/../../x.png",
]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("source", ["jsonl", "coco", "coco-panoptic", "labelstudio", "labelme", "sa1b"])
def test_names_that_lead_elsewhere(samcli, tmp_path, photos, source, name):
    """Nothing is written outside of the place, whatever a file calls its photos."""
    work = tmp_path / "work"
    place = work / "deep" / "place"
    read = work / "read"
    made = write_records(tmp_path / "one", [replace(golden()[0], file_name="first.png")])
    assert samcli("convert", made, "--to", source, "-o", read, "-q").code == 0
    quoted = json.dumps(name)
    changed = 0
    for path in read.rglob("*.json*"):
        text = path.read_text()
        changed += text.count('"first.png"')
        path.write_text(text.replace('"first.png"', quoted))
    assert changed
    before = tree(tmp_path)
    words = ["--to", "png", "-o", place, "--from", source]
    file = FORMATS[source].file
    code, text, err = samcli("convert", read / file if file else read, *words)
    assert (code in (0, 3), text) == (True, "")
    assert [
        path for path in tree(tmp_path) if path not in before and not path.startswith("work/deep/place/")
    ] == []
    assert err.count("\n") in (1, 2)


def test_names_that_no_file_can_have(samcli_process, tmp_path):
    image = {"id": 1, "file_name": "\ud800.png", "width": 2, "height": 2}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    done = samcli_process("samcli convert a.json --to png -o place -q")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == (
        b"failed: a.json: image \\ud800.png: '\\ud800.png' is no name that a file can have; "
        b"rename the photo\n"
    )


def test_photos_are_not_looked_for_elsewhere(samcli, tmp_path, photos):
    out = write_records(tmp_path / "out", [record("a.png", *golden()[0].annotations)])
    text = (out / "a.json").read_text()
    (out / "a.json").write_text(text.replace('"a.png"', '"../photos/first.png"'))
    place = tmp_path / "place"
    inner = tmp_path / "inner"
    inner.mkdir()
    result = samcli("convert", out, "--to", "yolo", "-o", place, "--images", inner)
    assert result.code == 3
    assert "'../photos/first.png' is no path below a folder" in result.err
    assert not list(place.rglob("*.png"))


def test_missing_photos(samcli, out, photos, tmp_path):
    (photos / "first.png").unlink()
    place = tmp_path / "place"
    assert samcli("convert", out, "--to", "cutout", "-o", place, "--images", photos) == (
        3,
        "",
        f"failed: {photos / 'first.png'} does not exist; "
        "give the folder that the photos lie in with --images\n"
        f"2 images, 2 masks as cutout in {place}; 1 failed\n",
    )
    assert tree(place) == ["folder/ünï côde/1_no- -1- #é☕.png", "folder/ünï côde/2_dog.png"]


def test_photos_of_another_size(samcli, out, photos, tmp_path):
    Image.new("RGB", (20, 10)).save(photos / "first.png")
    result = samcli("convert", out, "--to", "cutout", "-o", tmp_path / "place", "--images", photos)
    assert result.code == 3
    assert (
        f"{photos / 'first.png'} is 20x10 pixels, its masks are 8x6; give the photo that they were made of"
        in result.err
    )


def test_a_dataset_keeps_its_photos(samcli, out, photos, tmp_path):
    """Labels are written beside photos that lie where YOLO wants them: these stay."""
    place = tmp_path / "dataset"
    place.mkdir()
    photos.rename(place / "images")
    before = {path: (place / "images" / path).read_bytes() for path in tree(place / "images")}
    words = ["--to", "yolo", "-o", place, "--images", place / "images", "--overwrite"]
    for _ in range(2):
        assert samcli("convert", out, *words, "-q") == (0, "", "")
    assert {path: (place / "images" / path).read_bytes() for path in tree(place / "images")} == before


def test_filters(samcli, out, tmp_path):
    def kept(*words: str) -> list[list[int]]:
        lines = samcli("convert", out, "--to", "jsonl", "-o", "-", "-q", *words).out.splitlines()
        return [[mask["id"] for mask in json.loads(line)["annotations"]] for line in lines]

    assert kept() == [[1, 2, 3, 4], [], [1, 2]]
    assert kept("--min-area", "9", "--max-area", "50%") == [[1, 2], [], []]
    assert kept("--min-score", "0.5") == [[1, 2, 4], [], [2]]
    assert kept("--category", "cat", "--category", "dog") == [[1, 4], [], [2]]
    assert kept("--category", "object") == [[2], [], []]
    assert kept("--merge-category") == [[1, 2, 3], [], [1, 2]]
    assert kept("--merge-category", "--background", "rest") == [[1, 2, 3, 4], [1], [1, 2, 3]]


def test_what_lies_on_top(samcli, out, tmp_path):
    first = golden()[0].annotations
    for policy, order in (("area", [3, 0, 1, 2]), ("score", [2, 3, 0, 1]), ("order", [0, 1, 2, 3])):
        place = tmp_path / policy
        assert samcli("convert", out, "--to", "labelmap", "-o", place, "--flatten", policy, "-q").code == 0
        expected = np.zeros((6, 8), int)
        for i in order:
            expected[mask_bits(first[i])] = i + 1
        assert (np.asarray(Image.open(place / "first.png")) == expected).all()


def mask_bits(mask):
    from samcli.masks import decode_rle

    return decode_rle(mask.segmentation)


def test_labels_number_categories(samcli, out, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\n\ncat\n")
    for labels in ("dog,cat", f"@{names}"):
        text = samcli("convert", out, "--to", "coco", "-o", "-", "-q", "--labels", labels).out
        assert [(c["id"], c["name"]) for c in json.loads(text)["categories"]] == [
            (1, "dog"), (2, "cat"), (3, "object"), (7, 'no: "1" #é☕'),
        ]  # fmt: skip
    place = tmp_path / "yolo"
    assert samcli("convert", out, "--to", "yolo", "-o", place, "-q", "--labels", "dog,cat").code == 0
    assert (place / "data.yaml").read_text().partition("names:\n")[2] == (
        '  0: "dog"\n  1: "cat"\n  2: "object"\n  3: "no: \\"1\\" #é☕"\n'
    )


def test_like_numbers_images_and_categories(samcli, out, tmp_path):
    like = tmp_path / "like.json"
    images = [{"id": 40, "file_name": "first.png"}, {"id": 50, "file_name": "ünï côde.png"}]
    like.write_text(json.dumps({"images": images, "categories": [{"id": 9, "name": "cat"}]}))
    place = tmp_path / "results.json"
    assert samcli("convert", out, "--to", "coco-results", "-o", place, "--like", like) == (
        3,
        "",
        "failed: folder/empty.png is not among the images of --like\n"
        f'note: not among the categories of {like}, so numbered after them: dog, no: "1" #é☕, object\n'
        f"2 images, 6 masks as coco-results in {place}; 1 failed\n",
    )
    assert [(r["image_id"], r["category_id"], r["score"]) for r in load(place)] == [
        (40, 9, 0.75), (40, 1, 0.875), (40, 7, 0.25), (40, 9, 0.5), (50, 7, 0.25), (50, 3, 0.5),
    ]  # fmt: skip


def test_two_photos_cannot_have_one_number(samcli, tmp_path):
    like = tmp_path / "like.json"
    like.write_text(json.dumps({"images": [{"id": 4, "file_name": "x.png"}], "categories": []}))
    out = write_records(tmp_path / "out", [record("a/x.png"), record("b/x.png")])
    place = tmp_path / "a.json"
    assert samcli("convert", out, "--to", "coco", "-o", place, "--like", like) == (
        3,
        "",
        "failed: b/x.png has the number 4 in --like, as a/x.png has\n"
        f"1 image, 0 masks as coco in {place}; 1 failed\n",
    )


def test_results_without_a_mask(samcli, tmp_path):
    out = write_records(tmp_path / "out", [record("a.png")])
    place = tmp_path / "a.json"
    assert samcli("convert", out, "--to", "coco-results", "-o", place) == (
        1,
        "",
        "error: there are no masks; COCO results of none cannot be loaded, so nothing is written\n",
    )
    assert tree(tmp_path) == ["out/a.json"]


def test_polygons_and_tight(samcli, tmp_path):
    empty = mask_of(encode_rle(np.zeros((6, 8), bool)), id=3)
    item = record("first.png", mask_of(encode_rle(RING), id=1), mask_of(encode_rle(DOT), id=2), empty)
    out, photos = write_records(tmp_path / "out", [item]), write_photos(tmp_path / "photos", [item])
    text = samcli("convert", out, "--to", "coco", "--polygons", "-o", "-", "-q").out
    kinds = [type(a["segmentation"]) for a in json.loads(text)["annotations"]]
    assert kinds == [list, list, dict]  # a mask without a pixel has no polygon
    place = tmp_path / "cut"
    words = ["--to", "cutout", "--tight", "-o", place, "--images", photos, "-q"]
    assert samcli("convert", out, *words) == (0, "", "")
    assert {path: Image.open(place / path).size for path in tree(place)} == {
        "first/1.png": (5, 4), "first/2.png": (1, 1),
    }  # fmt: skip


def test_folders_beside_photos_of_the_same_name(samcli, tmp_path):
    dot = mask_of(encode_rle(DOT), id=1)
    out = write_records(tmp_path / "out", [record("a.png", dot), record("a/b.png.png", dot)])
    place = tmp_path / "place"
    assert samcli("convert", out, "--to", "png", "-o", place, "-q") == (0, "", "")
    assert tree(place) == ["a/1.png", "a/b.png/1.png"]
    # The folder of masks cannot be replaced without those of the other photo, and so is not.
    assert samcli("convert", out, "--to", "png", "-o", place, "--overwrite") == (
        3,
        "",
        f"failed: a.png: cannot write {place / 'a'}: it holds b.png; choose another output\n"
        f"1 image, 1 mask as png in {place}; 1 failed\n",
    )
    assert tree(place) == ["a/1.png", "a/b.png/1.png"]


def test_links_that_lead_back(samcli, out, tmp_path):
    (out / "folder" / "up").symlink_to(out)
    (out / "again").symlink_to(out / "folder")
    place = tmp_path / "a.json"
    result = samcli("convert", out, "--to", "coco", "-o", place)
    assert result == (0, "", f"5 images, 8 masks as coco in {place}\n")


def test_coco_of_others(samcli, tmp_path):
    """Annotations first, numbers as floats, crowds, polygons, fields of others; boxes alone are no masks."""
    file = tmp_path / "instances.json"
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    crowd = {"size": [6, 8], "counts": [10, 2, 36]}
    annotations = [
        {"id": 5, "image_id": 7.0, "category_id": 2, "segmentation": [square], "iscrowd": 0, "extra": 1},
        {"id": 6, "image_id": 7, "category_id": 2, "segmentation": crowd, "iscrowd": 1},
        {"id": 7, "image_id": 8, "category_id": 2, "bbox": [1, 1, 2, 2], "segmentation": []},
        {"id": 8, "image_id": 9, "category_id": 2, "segmentation": [[0, 0, 1e9, 0, 5, 5]]},
        {"id": 9, "image_id": 10, "category_id": 2, "segmentation": {"size": [6, 8], "counts": "PPPPP"}},
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 6} for i in (7, 8, 9, 10)]
    file.write_text(
        json.dumps({"annotations": annotations, "images": images, "categories": [{"id": 2, "name": "x"}]})
    )
    place = tmp_path / "out"
    assert samcli("convert", file, "--to", "sa1b", "-o", place) == (
        3,
        "",
        f"failed: {file}: image 8.jpg: annotation 7 has no segmentation; "
        "boxes become masks with predict --boxes\n"
        f"failed: {file}: image 9.jpg: a polygon leads far out of its image\n"
        f"failed: {file}: image 10.jpg: a segmentation has no counts, or counts that are damaged\n"
        f"1 image, 2 masks as sa1b in {place}; 3 failed\n",
    )
    masks = read_record(place / "7.json").annotations
    assert [(m.area, m.category, m.category_id) for m in masks] == [(6, "x", 2), (2, "x", 2)]
    assert read_record(place / "7.json").image_id == image_id(Path("7.jpg"))


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Files of at most so many bytes, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["coco", "jsonl", "labelstudio", "sa1b", "labelme", "labelmap"])
def test_a_full_disk_leaves_nothing_half(samcli, tmp_path, name):
    masks = [mask_of(encode_rle(LARGE), id=i, category="x" * 50) for i in range(1, 400)]
    out = write_records(tmp_path / "out", [record("first.png", *masks)])
    place = tmp_path / "place"
    with limited(60):
        code, text, err = samcli("convert", out, "--to", name, "-o", place)
    assert (code, text) == (1, "")
    assert err.startswith(f"error: cannot write {place}/")
    assert err.endswith("; free space and run again\n")
    assert [path for path in tree(tmp_path) if not path.startswith("out/")] == []


def test_standard_output_that_is_full(samcli_process, out):
    done = samcli_process(f"samcli convert {out} --to coco -o - > /dev/full; echo $?")
    assert done.stdout == b"1\n"
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr
    assert samcli_process(f"samcli convert {out} --to jsonl -o - -q | head -c 1 > /dev/null").stderr == b""


def test_devices_are_written_to(samcli, out):
    assert samcli("convert", out, "--to", "coco", "-o", os.devnull) == (
        0,
        "",
        SUMMARY.format("coco", os.devnull),
    )


def test_records_go_before_the_pictures_beside_them(samcli, out):
    """As in the output of cutout, and of automask --format labelmap."""
    for name in ("first.cutout.png", "first.labelmap.png"):
        Image.new("RGBA" if "cutout" in name else "I;16", (4, 4)).save(out / name)
    code, text, err = samcli("convert", out, "--to", "jsonl", "-o", "-")
    assert (code, len(text.splitlines())) == (0, 3)
    assert err == "3 images, 6 masks as jsonl in standard output\n"


def test_a_folder_with_the_only_file_of_a_format(samcli, out, tmp_path):
    for name in ("coco", "coco-results", "jsonl", "labelstudio"):
        assert samcli("convert", out, "--to", name, "-o", tmp_path / name, "-q").code == 0
        back = samcli("convert", tmp_path / name, "--to", "sa1b", "-o", tmp_path / f"{name}2", "-q")
        assert (back.code, back.out) == (
            3 if name == "labelstudio" else 0,
            "",
        )  # one photo has no masks, no size


def test_numbers_without_names_stay_apart(samcli, tmp_path):
    masks = [mask_of(encode_rle(np.eye(4, dtype=bool)), id=i, category_id=n) for i, n in ((1, 18), (2, 44))]
    out = write_records(
        tmp_path / "out", [replace(record("a.png"), annotations=tuple(masks), width=4, height=4)]
    )
    assert samcli("convert", out, "--to", "coco", "-o", tmp_path / "a.json", "-q").code == 0
    data = load(tmp_path / "a.json")
    assert [a["category_id"] for a in data["annotations"]] == [18, 44]
    assert [c["name"] for c in data["categories"]] == ["category 18", "category 44"]
    words = [
        "--to",
        "coco",
        "-o",
        tmp_path / "b.json",
        "--labels",
        ",".join(f"c{i}" for i in range(1, 45)),
        "-q",
    ]
    assert samcli("convert", out, *words).code == 0
    assert [a["category_id"] for a in load(tmp_path / "b.json")["annotations"]] == [18, 44]


def test_results_get_the_names_of_their_dataset(samcli, out, tmp_path):
    assert samcli("convert", out, "--to", "coco", "-o", tmp_path / "set.json", "-q").code == 0
    assert samcli("convert", out, "--to", "coco-results", "-o", tmp_path / "r.json", "-q").code == 0
    words = ["--to", "coco", "-o", tmp_path / "back.json", "--like", tmp_path / "set.json", "-q"]
    assert samcli("convert", tmp_path / "r.json", *words).code == 0
    whole, back = load(tmp_path / "set.json"), load(tmp_path / "back.json")
    seen = {annotation["image_id"] for annotation in whole["annotations"]}
    assert back["images"] == [image for image in whole["images"] if image["id"] in seen]
    assert back["categories"] == whole["categories"]
    assert [a["category_id"] for a in back["annotations"]] == [a["category_id"] for a in whole["annotations"]]


def test_where_nothing_can_be_written_the_old_file_stays(samcli, out, tmp_path):
    like = tmp_path / "like.json"
    like.write_text(json.dumps({"images": [{"id": 1, "file_name": "other.png"}], "categories": []}))
    for name in ("coco", "coco-results"):
        place = tmp_path / f"{name}.json"
        place.write_text("old")
        code, text, err = samcli("convert", out, "--to", name, "-o", place, "--like", like, "--overwrite")
        assert (code, text) == (3, "")
        assert err.splitlines()[0] == "failed: first.png is not among the images of --like"
        assert place.read_text() == "old"


def test_maps_do_not_keep_the_classes_of_earlier_ones(samcli, out, tmp_path):
    place = tmp_path / "maps"
    assert samcli("convert", out, "--to", "labelmap", "-o", place, "--merge-category", "-q").code == 0
    assert (place / "classes.json").exists()
    assert samcli("convert", out, "--to", "labelmap", "-o", place, "--overwrite", "-q").code == 0
    assert not (place / "classes.json").exists()


def test_nothing_is_written_among_the_photos(samcli, out, photos):
    code, text, err = samcli(
        "convert", out, "--to", "palette", "-o", photos, "--images", photos, "--overwrite"
    )
    assert (code, text) == (1, "")
    assert err == f"error: {photos} lies in {photos}, which is read; choose a place of its own\n"


def test_yolo_has_its_own_photos_where_training_tools_look(samcli, tmp_path):
    (tmp_path / "photos/images").mkdir(parents=True)
    photo = tmp_path / "photos/images/a.png"
    Image.new("RGB", (3, 2)).save(photo)
    out = write_records(
        tmp_path / "out", [replace(record("images/a.png"), width=3, height=2, annotations=())]
    )
    place = tmp_path / "set"
    words = ["--to", "yolo", "-o", place, "--images", tmp_path / "photos", "-q"]
    assert samcli("convert", out, *words).code == 0
    copy = place / "images/images_/a.png"
    assert copy.read_bytes() == photo.read_bytes()
    assert not copy.samefile(photo)
    # As ultralytics looks for it: the last /images/ of the path becomes /labels/.
    label = "/labels/".join(str(copy).rsplit("/images/", 1))
    assert Path(label).with_suffix(".txt").exists()


def test_other_regions_of_label_studio(samcli, tmp_path):
    size = {"original_width": 10, "original_height": 20}
    polygon = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["cat"]}
    rectangle = {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 0, "rectanglelabels": ["dog"]}
    result = [
        {"type": "polygonlabels", "value": polygon, **size},
        {"type": "rectanglelabels", "value": rectangle, **size},
        {"type": "choices", "value": {"choices": ["x"]}},
    ]
    task = {
        "data": {"text": "hello", "image": "a.jpg"},
        "annotations": [{"was_cancelled": True, "result": []}, {"result": result}],
    }
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    assert (
        samcli("convert", tmp_path / "tasks.json", "--to", "coco", "-o", tmp_path / "a.json", "-q").code == 0
    )
    data = load(tmp_path / "a.json")
    assert [(a["bbox"], a["area"], a["category_id"]) for a in data["annotations"]] == [
        ([0, 0, 5, 10], 50, 1),
        ([5, 10, 2, 2], 4, 2),
    ]
    assert [image["file_name"] for image in data["images"]] == ["a.jpg"]


def test_failures_are_told_also_when_there_are_no_results(samcli, tmp_path):
    out = write_records(tmp_path / "out", [replace(record("a.png"), annotations=())])
    (out / "b.json").write_text("{")
    code, text, err = samcli("convert", out, "--to", "coco-results", "-o", tmp_path / "r.json")
    assert (code, text) == (1, "")
    failed, error = err.splitlines()
    assert failed.startswith(f"failed: {out}/b.json is not a samcli record: ")
    assert error == (
        "error: there are no masks; COCO results of none cannot be loaded, so nothing is written"
    )
    wrong = samcli("convert", out, "--to", "coco", "-o", tmp_path / "c.json", "--min-score", "nan")
    assert wrong == (2, "", "error: --min-score nan is not a finite number\n")
