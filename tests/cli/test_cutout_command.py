"""`samcli cutout`, through the real `main`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Samcli
from PIL import Image

import samcli as package
from samcli import weights
from samcli.formats.record import read_record
from samcli.masks import decode_rle
from samcli.weights import salient_sha256

TINY = ("-m", "tiny")
EMPTY = "note: nothing stands out in {}, the cut-out is empty; --min-confidence 0 cuts out the best guess\n"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ball.png, photos/sub/cup.jpg and photos/grey.png, in the current
    folder.
    """
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    (folder / "sub").mkdir(parents=True)
    y, x = np.mgrid[:120, :160]
    ball = np.where(((x - 80) ** 2 + (y - 60) ** 2 < 30**2)[..., None], (220, 50, 40), (70, 130, 60))
    Image.fromarray(ball.astype(np.uint8)).save(folder / "ball.png")
    cup = Image.open(Path(__file__).parents[2] / "examples" / "coffee.jpg")
    cup.resize((300, 200)).save(folder / "sub" / "cup.jpg")
    Image.new("RGB", (160, 120), (128, 128, 128)).save(folder / "grey.png")
    return folder


def files(folder: str | Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def test_a_folder_becomes_cut_outs_and_records(samcli: Samcli, photos: Path) -> None:
    result = samcli("cutout", "photos", "-o", "out", *TINY)
    assert result == (0, "", "3 images, 2 cutouts in out\n")
    assert list(files("out")) == [
        "ball.cutout.png", "ball.json", "grey.cutout.png", "grey.json", "sub/cup.cutout.png", "sub/cup.json",
    ]  # fmt: skip
    record = read_record(Path("out/sub/cup.json"))
    assert (record.run.command, record.run.model) == ("cutout", "tiny")
    assert record.run.config == {
        "min_confidence": package.CutoutConfig().min_confidence,
        "salient_sha256": salient_sha256(),
        "dtype": "fp32",
    }
    (mask,) = record.annotations
    assert (mask.id, mask.score) == (1, mask.predicted_iou)
    with Image.open("out/sub/cup.cutout.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (300, 200))
        np.testing.assert_array_equal(np.asarray(picture)[..., 3] > 127, decode_rle(mask.segmentation))
    assert read_record(Path("out/grey.json")).annotations == ()
    with Image.open("out/grey.cutout.png") as picture:
        assert picture.size == (160, 120)
        assert not np.asarray(picture).any()


def test_one_image_to_a_file_or_through_pipes(samcli: Samcli, photos: Path) -> None:
    assert samcli("cutout", "photos/ball.png", "-o", "out", *TINY).code == 0
    assert samcli("cutout", "photos/ball.png", "-o", "sub/cut.png", *TINY) == (0, "", "")
    piped = samcli("cutout", "-", "-o", "-", *TINY, stdin=(photos / "ball.png").read_bytes())
    assert (piped.code, piped.err) == (0, "")
    assert piped.raw == Path("sub/cut.png").read_bytes() == Path("out/ball.cutout.png").read_bytes()


def test_json_is_the_record_of_one_image_and_the_summary_of_many(samcli: Samcli, photos: Path) -> None:
    code, out, err = samcli("cutout", "photos/ball.png", "-o", "cut.png", "--json", *TINY)
    assert (code, err) == (0, "")
    assert samcli("cutout", "photos", "-o", "out", *TINY).code == 0
    assert json.loads(out) == json.loads(Path("out/ball.json").read_text())
    code, out, _ = samcli("cutout", "photos", "-o", "again", "--json", "-q", *TINY)
    summary = json.loads(out)
    assert (code, summary["images"], summary["cutouts"], summary["output"]) == (0, 3, 2, "again")


def test_tight_and_background(samcli: Samcli, photos: Path) -> None:
    assert samcli("cutout", "photos/ball.png", "-o", "whole.png", *TINY).code == 0
    result = samcli("cutout", "photos/ball.png", "-o", "cut.png", "--tight", "--background", "#0000ff", *TINY)
    assert result == (0, "", "")
    with Image.open("cut.png") as cut, Image.open("whole.png") as whole:
        left, top, right, bottom = whole.getchannel("A").getbbox()
        assert (cut.mode, cut.size) == ("RGB", (right - left, bottom - top))
        assert cut.size < (80, 80)
        assert cut.getpixel((0, 0))[2] > 200


def test_a_missing_or_other_picture_is_painted_from_the_record(
    samcli: Samcli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert samcli("cutout", "photos", "-o", "out", *TINY).code == 0
    before = files("out")
    Path("out/ball.cutout.png").unlink()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(sys.modules["samcli.cli.cutout"], "find", never)
    done = (0, "", "3 images in out done before, nothing to do\n")
    assert samcli("cutout", "photos", "-o", "out", *TINY) == done
    assert files("out") == before
    assert samcli("cutout", "photos", "-o", "out", "--tight", *TINY) == done
    with Image.open("out/ball.cutout.png") as picture:
        assert picture.size < (100, 100)
    assert samcli("cutout", "photos", "-o", "out", *TINY) == done
    assert files("out") == before


def test_another_configuration_is_refused(samcli: Samcli, photos: Path) -> None:
    assert samcli("cutout", "photos/ball.png", "-o", "out", *TINY).code == 0
    result = samcli("cutout", "photos/ball.png", "-o", "out", "--min-confidence", "0.9", *TINY)
    assert result == (
        1,
        "",
        "error: out/ball.json was made with min_confidence 0.9, not 0.9; ".replace(
            "0.9,", f"{package.CutoutConfig().min_confidence:g},"
        )
        + "choose another output, or replace it with --overwrite\n",
    )
    replaced = samcli("cutout", "photos/ball.png", "-o", "out", "--min-confidence", "1", "--overwrite", *TINY)
    assert replaced == (0, "", "1 image, 0 cutouts in out\n")


def test_cut_outs_are_no_inputs(samcli: Samcli, photos: Path) -> None:
    for expected in ("3 images, 2 cutouts in photos\n", "3 images in photos done before, nothing to do\n"):
        assert samcli("cutout", "photos", "-o", "photos", *TINY) == (0, "", expected)


def test_nothing_found(samcli: Samcli, photos: Path) -> None:
    grey = photos / "grey.png"
    assert samcli("cutout", grey, "-o", "a.png", *TINY) == (0, "", EMPTY.format(grey))
    assert samcli("cutout", grey, "-o", "a.png", "--fail-empty", "-q", *TINY) == (5, "", "")
    piped = samcli("cutout", "-", "-o", "b.png", *TINY, stdin=grey.read_bytes())
    assert piped == (0, "", EMPTY.format("standard input"))
    for _ in range(2):  # the second time from the records
        assert samcli("cutout", grey, "-o", "out", "--fail-empty", "-q", *TINY).code == 5
        assert samcli("cutout", photos, "-o", "all", "--fail-empty", "-q", *TINY).code == 0


def test_another_model_cuts_out(samcli: Samcli, photos: Path, random_tiny: Path) -> None:
    code, out, err = samcli("cutout", "photos/ball.png", "-o", "out", "-m", random_tiny)
    assert (code, out) == (0, "")
    assert err.endswith("in out\n")
    run = read_record(Path("out/ball.json")).run
    assert run.weights_sha256 == weights.sha256_of(random_tiny)
    assert run.config["salient_sha256"] == salient_sha256()


@pytest.mark.parametrize("model", ["tiny", "random"])
def test_saved_embeddings_are_used(samcli: Samcli, photos: Path, random_tiny: Path, model: str) -> None:
    name = random_tiny if model == "random" else model
    assert samcli("embed", "photos/ball.png", "-o", "emb", "-q", "-m", name).code == 0
    for output, more in (("a", ()), ("b", ("--embeddings", "emb"))):
        assert samcli("cutout", "photos/ball.png", "-o", output, "-q", "-m", name, *more).code == 0
    assert files("a") == files("b")
    missing = samcli("cutout", "photos/grey.png", "-o", "c.png", "--embeddings", "emb", "-q", "-m", name)
    assert missing.code == 1
    assert missing.err.startswith("error: emb/grey.safetensors does not exist; write it with: samcli embed ")


def test_a_failure_in_a_folder_is_left_beside_the_others(samcli: Samcli, photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff no photo")
    result = samcli("cutout", "photos", "-o", "out", *TINY)
    assert (result.code, result.out) == (3, "")
    assert result.err.endswith("3 of 4 images, 2 cutouts in out; 1 failed\n")
    assert json.loads(Path("out/bad.error.json").read_text())["samcli"]["command"] == "cutout"


def test_a_head_of_other_weights_is_one_line(
    samcli: Samcli, photos: Path, monkeypatch: pytest.MonkeyPatch, random_tiny: Path
) -> None:
    tiny = weights.load_sam("tiny").sha256
    monkeypatch.setattr(weights.files, "installed_files", lambda spec: (random_tiny,))
    result = samcli("cutout", "photos/ball.png", "-o", "cut.png")
    assert (result.code, result.out) == (4, "")
    assert result.err.splitlines()[-1].startswith("error: ")
    assert f"salient.safetensors was trained over {tiny}, but tiny is " in result.err
    assert result.err.endswith("; reinstall samcli\n")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (
            ("photos", "-o", "cut.png"),
            2,
            "photos is a folder, but cut.png holds one picture; give -o a folder",
        ),
        (
            ("photos/ball.png", "photos/grey.png", "-o", "-"),
            2,
            "2 images are named, but standard output holds one picture; give -o a folder",
        ),
        (
            ("photos/ball.png", "-o", "cut.jpg"),
            2,
            "-o cut.jpg must end in .png, be - for standard output, or a folder (end it in /)",
        ),
        (
            ("photos/ball.png", "-o", "cut.png", "--overwrite"),
            2,
            "-o cut.png is for one named image; give a folder for lists and runs: -o DIR/",
        ),
        (("-o", "cut.png"), 2, "no image; name one, or - for standard input"),
        (
            ("-", "-o", "out"),
            2,
            "an image on standard input needs -o FILE.png, or -o - for standard output",
        ),
        (
            ("photos/ball.png", "-o", "cut.png", "--background", "blurple"),
            2,
            "--background 'blurple' is no colour; give one such as white or #ff8800",
        ),
        (
            ("photos/ball.png", "-o", "-", "--json"),
            2,
            "-o - and --json both want standard output; choose one",
        ),
        (("no.jpg", "-o", "cut.png"), 1, "no.jpg does not exist; check the path"),
        (
            ("photos/ball.png", "-o", "cut.png", "--min-confidence", "3"),
            1,
            "min_confidence is 3; give a number from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    samcli: Samcli, photos: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    assert samcli("cutout", *args, *TINY) == (code, "", f"error: {said}\n")
    assert not Path("cut.png").exists()


def test_terminals(samcli: Samcli, photos: Path) -> None:
    assert samcli("cutout", "-", "-o", "cut.png", terminal=True) == (
        2,
        "",
        "error: standard input is a terminal; name a file, or pipe one in\n",
    )
    assert samcli("cutout", "photos/ball.png", "-o", "-", terminal=True) == (
        2,
        "",
        "error: -o - writes a PNG, but standard output is a terminal; redirect it, or name a file\n",
    )


def test_bad_standard_input(samcli: Samcli, photos: Path) -> None:
    code, out, err = samcli("cutout", "-", "-o", "-", *TINY, stdin=b"no picture")
    assert (code, out) == (1, "")
    assert err.startswith("error: standard input ")
    assert err.count("\n") == 1


def test_the_png_is_whole(samcli: Samcli, photos: Path) -> None:
    piped = samcli("cutout", "photos/ball.png", "-o", "-", *TINY)
    with Image.open(io.BytesIO(piped.raw)) as picture:
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGBA")
