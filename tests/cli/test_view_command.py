"""`samcli view` through the real `main`: what it finds, writes, refuses and says."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from conftest import Samcli
from PIL import Image

from samcli.formats.atomic import TEMPORARY
from samcli.formats.names import image_id
from samcli.formats.record import write_error, write_record
from samcli.masks import encode_rle
from samcli.records import ImageRecord, InputFile, MaskRecord, Run
from samcli.viz.gallery import MARK
from samcli.viz.overlay import overlay
from samcli.viz.sheet import CELL, neutral

RUN = Run("automask", "0.1.0", "tiny", "0" * 64, {}, "0" * 64)
SIZE = (60, 90)


def some_masks() -> tuple[MaskRecord, ...]:
    masks = []
    for number, (x, side) in enumerate(((5, 20), (40, 30)), start=1):
        bits = np.zeros(SIZE, bool)
        bits[5 : 5 + side, x : x + side] = True
        box = (x, 5, side, side)
        masks.append(MaskRecord(encode_rle(bits), box, side * side, 0.9, 0.8, number))
    return tuple(masks)


def record(
    path: str, size: tuple[int, int] = SIZE, masks: tuple[MaskRecord, ...] | None = None
) -> ImageRecord:
    source = InputFile(path, 1000, "0" * 64)
    found = some_masks() if masks is None else masks
    return ImageRecord(RUN, source, image_id(PurePosixPath(path)), size[1], size[0], path, found)


def fail(path: str, reason: str) -> None:
    write_error(Path("out", path).with_suffix(".error.json"), RUN, PurePosixPath(path), None, reason)


@pytest.fixture
def out(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder out with records of photos/a.png and photos/sub/b.jpg, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "sub/b.jpg"):
        write_record(Path("out", name).with_suffix(".json"), record(name))
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(Path("photos", name))
    return Path("out")


def images_of(page: Path | str) -> list[list[Any]]:
    """Name and kind of each image of a gallery, and why it failed."""
    text = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    match = re.search(r'id="index">(.*?)</script>', text, re.DOTALL)
    assert match
    return [[image[0], image[5], *image[7:]] for image in json.loads(match[1])["images"]]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_page_beside_the_records(samcli: Samcli, out: Path) -> None:
    result = samcli("view", "out", "--images", "photos")
    page = out / "gallery.html"
    size = f"{page.stat().st_size / 1e3:.0f} kB"
    assert result == (0, "", f"2 images, 4 masks in out/gallery.html ({size})\n")
    assert images_of(page) == [["a.png", "photo"], ["sub/b.jpg", "photo"]]
    assert page.read_bytes().startswith(MARK)
    assert files(out) == ["a.json", "gallery.html", "sub/b.json"]


def test_where_the_page_goes(samcli: Samcli, out: Path) -> None:
    assert samcli("view", "out", "--images", "photos", "-o", "new/page.html", "-q") == (0, "", "")
    code, text, err = samcli("view", "out", "--images", "photos", "-o", "-")
    assert (code, err) == (0, f"2 images, 4 masks ({len(text) / 1e3:.0f} kB)\n")
    assert text == Path("new/page.html").read_text()
    assert not (out / "gallery.html").exists()


def test_a_terminal_gets_no_page(samcli: Samcli, out: Path) -> None:
    line = "error: -o - writes a page, but standard output is a terminal; redirect it\n"
    assert samcli("view", "out", "-o", "-", terminal=True) == (2, "", line)


def test_failures_are_shown_and_no_failure_of_view(samcli: Samcli, out: Path) -> None:
    fail("sub/c.jpg", "sub/c.jpg is empty (0 bytes)")
    code, _, err = samcli("view", "out", "--images", "photos")
    assert code == 0
    assert err.startswith("3 images, 4 masks in out/gallery.html (")
    assert images_of(out / "gallery.html")[2] == ["sub/c.jpg", "failed", "sub/c.jpg is empty (0 bytes)"]


def test_a_record_of_an_image_called_error(samcli: Samcli, out: Path) -> None:
    write_record(out / "b.error.json", record("b.error.png"))
    assert samcli("view", "out", "-q").code == 0
    assert images_of(out / "gallery.html")[1] == ["b.error.png", "bare"]


def test_a_damaged_record_is_listed_and_the_others_are_shown(samcli: Samcli, out: Path) -> None:
    (out / "half.json").write_text('{"samcli": {"schema": 1')
    broken = record("rle.png").to_json()
    broken["annotations"][0]["segmentation"]["counts"] = "0000"
    (out / "rle.json").write_text(json.dumps(broken))
    code, _, err = samcli("view", "out", "--images", "photos", "-o", "g.html")
    half, rle, *rest = err.splitlines()
    assert code == 3
    assert half.startswith("failed: out/half.json is not a samcli record: ")
    assert rle.startswith("failed: out/rle.json: run-length encoding of size [60, 90] is damaged")
    assert rest[-1].startswith("4 images, 4 masks in g.html")
    kinds = [image[1] for image in images_of(Path("g.html"))]
    assert kinds == ["photo", "failed", "failed", "photo"]


def test_other_json_files_are_left_out(samcli: Samcli, out: Path) -> None:
    (out / "coco.json").write_text('{"images": []}')
    (out / "sub" / "empty.json").touch()
    (out / f"{TEMPORARY}123.json").write_text('{"samcli": 1}')
    code, _, err = samcli("view", "out", "--images", "photos")
    assert code == 0
    assert err.splitlines()[0] == "note: 2 .json files that samcli did not write are left out"
    assert err.splitlines()[1].startswith("2 images, 4 masks")


def test_files_of_sa1b_are_records_too(samcli: Samcli, out: Path) -> None:
    data = record("a.png").to_json()
    del data["samcli"]
    for mask in data["annotations"]:
        del mask["predicted_iou"], mask["stability_score"]
    (out / "a.json").write_text(json.dumps(data))
    code, _, err = samcli("view", "out", "--images", "photos")
    assert (code, err.count("\n")) == (0, 1)
    assert images_of(out / "gallery.html")[0] == ["a.png", "photo"]


# Photos


def test_photos_beside_their_records_are_found(samcli: Samcli, out: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(out / "a.png")
    code, _, err = samcli("view", "out")
    assert code == 0
    assert err.splitlines()[0] == "note: no photo beside 1 record of 2; show photos with --images DIR"
    assert images_of(out / "gallery.html") == [["a.png", "photo"], ["sub/b.jpg", "bare"]]


def test_overlays_stand_in_for_photos(samcli: Samcli, out: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(out / "sub" / "b.overlay.jpg")
    code, _, err = samcli("view", "out")
    assert code == 0
    assert err.splitlines()[:2] == [
        "note: no photo beside 1 record of 2; show photos with --images DIR",
        "note: 1 overlay shown for want of photos; show those with --images DIR",
    ]
    assert images_of(out / "gallery.html") == [["a.png", "bare"], ["sub/b.jpg", "drawn"]]


def test_missing_photos_are_no_failure(samcli: Samcli, out: Path) -> None:
    Path("photos/a.png").unlink()
    code, _, err = samcli("view", "out", "--images", "photos")
    assert code == 0
    assert err.splitlines()[0] == "note: 1 photo of 2 not in photos; masks are shown without"
    assert [image[1] for image in images_of(out / "gallery.html")] == ["bare", "photo"]


def test_a_broken_photo_is_listed_and_its_masks_are_shown(samcli: Samcli, out: Path) -> None:
    Path("photos/a.png").write_bytes(b"no picture")
    code, _, err = samcli("view", "out", "--images", "photos")
    assert code == 3
    assert err.splitlines()[0].startswith(
        "failed: out/a.json: photos/a.png is not an image that samcli reads;"
    )
    assert err.splitlines()[-1].startswith("2 images, 4 masks in")
    assert images_of(out / "gallery.html") == [["a.png", "bare"], ["sub/b.jpg", "photo"]]


def test_a_photo_of_another_size_is_not_shown(samcli: Samcli, out: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[:50]).save("photos/a.png")
    code, _, err = samcli("view", "out", "--images", "photos")
    assert code == 3
    assert err.splitlines()[0] == (
        "failed: out/a.json: photos/a.png is 90x50 pixels, but its record is of 90x60; "
        "show it with the photo that was segmented"
    )
    assert images_of(out / "gallery.html")[0] == ["a.png", "bare"]


def test_photos_are_upright_as_for_the_run(samcli: Samcli, out: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save("photos/a.png", exif=exif)
    assert samcli("view", "out", "--images", "photos").code == 0
    assert images_of(out / "gallery.html")[0] == ["a.png", "photo"]


@pytest.mark.parametrize("path", ["../secret.png", "/{here}/secret.png"])
def test_nothing_outside_the_folder_of_photos_is_read(
    samcli: Samcli, out: Path, pixels: np.ndarray, path: str
) -> None:
    Image.fromarray(pixels).save("secret.png")
    write_record(out / "a.json", record(path.format(here=Path.cwd())))
    assert samcli("view", "out", "--images", "photos").code == 0
    assert images_of(out / "gallery.html")[0] == ["secret.png", "bare"]


def test_large_photos_are_refused_from_their_header(samcli: Samcli, out: Path) -> None:
    code, _, err = samcli("view", "out", "--images", "photos", "--max-pixels", "5k")
    assert code == 3
    assert "the limit is 5000" in err.splitlines()[0]


# What is replaced, and what is refused


def test_only_our_own_page_is_replaced_unasked(samcli: Samcli, out: Path) -> None:
    args = ("view", "out", "--images", "photos", "-o", "page.html", "-q")
    assert samcli(*args).code == 0
    assert samcli(*args).code == 0
    Path("page.html").write_text("<p>my diary")
    line = (
        "error: page.html is there and not made by samcli view; choose another output, or add --overwrite\n"
    )
    assert samcli(*args) == (1, "", line)
    assert Path("page.html").read_text() == "<p>my diary"
    assert samcli(*args, "--overwrite").code == 0
    assert Path("page.html").read_bytes().startswith(MARK)


@pytest.mark.parametrize("where", ["sheet.png", "pictures/"])
def test_only_our_own_pictures_are_replaced_unasked(samcli: Samcli, out: Path, where: str) -> None:
    args = ("view", "out", "--images", "photos", "-o", where, "-q")
    path = Path("pictures/a.overlay.png") if where == "pictures/" else Path(where)
    assert samcli(*args).code == 0
    assert samcli(*args).code == 0
    path.write_bytes(b"mine")
    code, _, err = samcli(*args)
    kept = f"{path} is there and not made by samcli view; choose another output, or add --overwrite"
    if where == "pictures/":
        assert (code, err) == (3, f"failed: out/a.json: {kept}\n")
    else:
        assert (code, err) == (1, f"error: {kept}\n")
    assert path.read_bytes() == b"mine"
    assert samcli(*args, "--overwrite").code == 0
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["nowhere"], 1, "nowhere is not a folder; give the folder that was the output of a run"),
        (["out/a.json"], 1, "out/a.json is not a folder; give the folder that was the output of a run"),
        (["out", "--images", "nowhere"], 1, "nowhere is not a folder; give the folder of the photos"),
        (["out", "-o", "x.jpg"], 2, "-o x.jpg must end in .html or .png, or be a folder (end it in /)"),
        (
            ["out", "-o", "x.png", "--side", "100"],
            2,
            "--side is for the page; sheets and overlays have sizes of their own",
        ),
        (["out", "-o", "out/a.json/g.html"], 1, None),
    ],
)  # fmt: skip
def test_wrong_usage(samcli: Samcli, out: Path, args: list[str], code: int, line: str | None) -> None:
    result = samcli("view", *args)
    line = line or (
        "cannot write out/a.json/g.html: a file stands where a folder is needed; choose another output"
    )
    assert result == (code, "", f"error: {line}\n")


def test_a_full_disk_leaves_no_half_page(samcli: Samcli, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samcli("view", "out", "-q")
    before = (out / "gallery.html").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("samcli.viz.gallery.Gallery.add", full)
    code, _, err = samcli("view", "out", "--images", "photos")
    assert (code, err) == (1, "error: No space left on device\n")
    assert (out / "gallery.html").read_bytes() == before
    assert files(out) == ["a.json", "gallery.html", "sub/b.json"]


def test_an_empty_folder_gives_an_empty_page(samcli: Samcli, tmp_path: Path) -> None:
    code, _, err = samcli("view", tmp_path)
    assert code == 0
    assert err.startswith(f"0 images, 0 masks in {tmp_path}/gallery.html (")
    assert images_of(tmp_path / "gallery.html") == []
    line = "0 images, 0 masks: nothing to write\n"
    assert samcli("view", tmp_path, "-o", tmp_path / "sheet.png") == (0, "", line)
    assert not (tmp_path / "sheet.png").exists()


def test_names_that_are_no_text(samcli: Samcli, out: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("photos/a.png").rename(Path("photos", name))
    write_record(out / f"{name[:-4]}.json", record(name))
    (out / "a.json").unlink()
    code, _, err = samcli("view", "out", "--images", "photos")
    assert (code, err.count("\n")) == (0, 1)
    assert images_of(out / "gallery.html")[0] == [name, "photo"]


# Sheets and overlays


def test_a_contact_sheet(samcli: Samcli, out: Path) -> None:
    fail("sub/c.jpg", "sub/c.jpg is empty (0 bytes)")
    result = samcli("view", "out", "--images", "photos", "-o", "sheet.png")
    assert result == (0, "", "3 images, 4 masks in sheet.png\n")
    assert Image.open("sheet.png").width > 3 * CELL[0]


def test_more_images_than_a_sheet_holds(samcli: Samcli, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samcli.viz.sheet.COLUMNS", 1)
    monkeypatch.setattr("samcli.viz.sheet.ROWS", 1)
    result = samcli("view", "out", "--images", "photos", "-o", "all.png")
    assert result == (0, "", "2 images, 4 masks in all-1.png to all-2.png\n")
    assert files(Path()) == sorted(
        ["all-1.png", "all-2.png", "out/a.json", "out/sub/b.json", "photos/a.png", "photos/sub/b.jpg"]
    )


def test_overlays_in_a_tree(samcli: Samcli, out: Path, pixels: np.ndarray) -> None:
    fail("sub/c.jpg", "sub/c.jpg is empty (0 bytes)")
    result = samcli("view", "out", "--images", "photos", "-o", "pictures")
    assert result == (0, "", "3 images, 4 masks in pictures\n")
    assert files(Path("pictures")) == ["a.overlay.png", "sub/b.overlay.png"]
    drawn = np.asarray(Image.open("pictures/a.overlay.png"))
    assert (drawn == overlay(pixels, some_masks())).all()


def test_overlays_without_photos_are_on_a_neutral_ground(samcli: Samcli, out: Path) -> None:
    assert samcli("view", "out", "-o", "out", "-q").code == 0
    drawn = np.asarray(Image.open("out/a.overlay.png"))
    assert (drawn == overlay(neutral(SIZE), some_masks())).all()
    assert (drawn[0, 0] == neutral((1, 1))[0, 0]).all()
