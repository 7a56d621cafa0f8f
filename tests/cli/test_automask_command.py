"""`samcli automask` and `samcli embed` over folders, through the real `main`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, Samcli
from PIL import Image, ImageOps

from samcli.automask import AutomaskConfig
from samcli.formats.record import config_hash, read_record
from samcli.formats.select import label_map
from samcli.predictor import load_embedding
from samcli.weights import MODELS

LOOSE = (
    "--points-per-side",
    "2",
    "--pred-iou-thresh",
    "0",
    "--stability-score-thresh",
    "0",
    "--box-nms-thresh",
    "1",
)


@pytest.fixture
def photos(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder photos with a.png, b.jpg and sub/a.png, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(folder / "b.jpg")
    Image.fromarray(pixels[::-1]).save(folder / "sub" / "a.png")
    return folder


@pytest.fixture
def automask(samcli: Samcli, random_tiny: Path) -> Samcli:
    """`samcli automask` with a model and filters that let some masks through."""

    def run(*args: object, loose: tuple[str, ...] = LOOSE, **streams: Any) -> Result:
        return samcli("automask", *args, *loose, "-m", random_tiny, **streams)

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_a_mirrored_tree_of_records(
    automask: Samcli, photos: Path, random_tiny: Path
) -> None:
    result = automask("photos", "-o", "out")
    assert (result.code, result.out) == (0, "")
    assert files(Path("out")) == ["a.json", "b.json", "sub/a.json"]
    records = [read_record(path) for path in sorted(Path("out").rglob("*.json"))]
    count = sum(len(record.annotations) for record in records)
    assert count >= 3
    assert result.err == f"3 images, {count} masks in out\n"
    record = read_record(Path("out/sub/a.json"))
    assert (record.input.path, record.file_name) == ("sub/a.png", "sub/a.png")
    assert record.input.bytes == (photos / "sub" / "a.png").stat().st_size
    assert len({record.image_id for record in records}) == 3
    settings = AutomaskConfig(
        points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    ).resolve(MODELS["tiny"])
    assert record.run.config == {
        **{name: getattr(settings, name) for name in AutomaskConfig.__dataclass_fields__},
        "dtype": "fp32",
    }
    run = record.run
    assert (run.command, run.model) == ("automask", random_tiny.name)
    hashed = {name: value for name, value in run.config.items() if name != "points_per_batch"}
    assert len(hashed) == len(run.config) - 1
    assert run.config_hash == config_hash("automask", run.weights_sha256, hashed)
    mask = record.annotations[0]
    assert (mask.id, mask.crop_box, len(mask.point_coords or ())) == (1, (0, 0, 90, 60), 1)


def test_runs_are_equal_byte_for_byte(automask: Samcli, photos: Path) -> None:
    automask("photos", "-o", "one")
    automask("photos", "-o", "two")
    assert [(Path("one") / f).read_bytes() for f in files(Path("one"))] == [
        (Path("two") / f).read_bytes() for f in files(Path("two"))
    ]


def test_pictures_lie_beside_the_record(automask: Samcli, photos: Path) -> None:
    assert (
        automask(photos / "a.png", "-o", "out", "--overlay", "--format", "png", "--format", "labelmap").code
        == 0
    )
    masks = read_record(Path("out/a.json")).annotations
    pngs = [f"a.masks/{i}.png" for i in range(len(masks))]
    assert files(Path("out")) == sorted(
        ["a.json", "a.labelmap.png", "a.overlay.jpg", "a.masks/metadata.csv", *pngs]
    )
    rows = list(csv.DictReader(Path("out/a.masks/metadata.csv").read_text().splitlines()))
    assert [int(row["area"]) for row in rows] == [mask.area for mask in masks]
    assert (np.asarray(Image.open("out/a.masks/0.png")) > 0).sum() == masks[0].area
    labels = np.asarray(Image.open("out/a.labelmap.png"))
    assert labels.shape == (60, 90)
    assert set(np.unique(labels)) <= set(range(len(masks) + 1))
    assert Image.open("out/a.overlay.jpg").size == (90, 60)


def test_what_lies_on_top_of_a_label_map_can_be_chosen(automask: Samcli, photos: Path) -> None:
    maps = {}
    for policy in ("area", "score", "order"):
        args = ("--format", "labelmap", "--flatten", policy, "-q")
        assert automask(photos / "a.png", "-o", policy, *args) == (0, "", "")
        record = read_record(Path(policy, "a.json"))
        maps[policy] = np.asarray(Image.open(f"{policy}/a.labelmap.png"))
        expected = label_map(record.annotations, (60, 90), policy)
        assert np.array_equal(maps[policy], expected)
    assert not np.array_equal(maps["area"], maps["score"])


def test_failures_are_listed_noted_and_cleared_by_success(
    automask: Samcli, photos: Path, pixels: np.ndarray
) -> None:
    (photos / "sub" / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.png").touch()
    result = automask("photos", "-o", "out", "--json")
    assert result.code == 3
    reasons = {
        "photos/empty.png": "photos/empty.png is empty (0 bytes); copy or download it again",
        "photos/sub/bad.jpg": "photos/sub/bad.jpg is not an image that samcli reads; "
        "convert it to JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 or AVIF",
    }
    summary = json.loads(result.out)
    masks, seconds = summary.pop("masks"), summary.pop("seconds")
    assert list(seconds) == ["total", "read", "compute", "write"]
    assert seconds["total"] >= seconds["compute"] > 0
    assert summary == {
        "images": 5,
        "done": 3,
        "skipped": 0,
        "model": "random.safetensors",
        "device": "cpu",
        "failed": [{"path": path, "error": reason} for path, reason in reasons.items()],
        "output": "out",
    }
    listed = "".join(f"failed: {reason}\n" for reason in reasons.values())
    assert result.err == f"{listed}3 of 5 images, {masks} masks in out; 2 failed\n"
    assert [name for name in files(Path("out")) if "error" in name] == [
        "empty.error.json",
        "sub/bad.error.json",
    ]
    error = json.loads(Path("out/sub/bad.error.json").read_text())
    assert (error["samcli"]["input"]["path"], error["error"]) == (
        "sub/bad.jpg",
        reasons["photos/sub/bad.jpg"],
    )
    Image.fromarray(pixels).save(photos / "sub" / "bad.jpg")
    Image.fromarray(pixels).save(photos / "empty.png")
    assert automask("photos", "-o", "out").code == 0
    assert not list(Path("out").rglob("*.error.json"))
    (photos / "empty.png").write_bytes(b"")
    assert automask("photos", "-o", "out").code == 3
    assert [name for name in files(Path("out")) if name.startswith("empty")] == ["empty.error.json"]


def test_an_image_named_twice_is_one(automask: Samcli, photos: Path) -> None:
    result = automask("photos/b.jpg", "photos", "photos/b.jpg", "-o", "out", "--json")
    assert json.loads(result.out)["images"] == 3


def test_exif_turns_the_picture_first(automask: Samcli, photos: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    stored.save("turned.jpg", exif=exif)
    shown = ImageOps.exif_transpose(Image.open("turned.jpg"))
    assert shown.size == (90, 60)
    shown.save("shown.png")
    assert automask("turned.jpg", "shown.png", "-o", "out").code == 0
    turned, upright = (read_record(Path(f"out/{name}.json")) for name in ("turned", "shown"))
    assert (turned.width, turned.height) == (90, 60)
    assert turned.annotations == upright.annotations


def test_inputs_that_would_share_an_output_are_refused_before_work(
    automask: Samcli, photos: Path, pixels: np.ndarray
) -> None:
    Image.fromarray(pixels).save(photos / "a.webp")
    line = (
        "photos/a.png and photos/a.webp would both write a.json; "
        "rename one, or name outputs by --root or --keep-extension"
    )
    assert automask("photos", "-o", "out") == (1, "", f"error: {line}\n")
    assert not Path("out").exists()
    assert automask("photos", "-o", "out", "--keep-extension").code == 0
    assert files(Path("out")) == ["a.png.json", "a.webp.json", "b.jpg.json", "sub/a.png.json"]


def test_files_are_named_below_their_root(automask: Samcli, photos: Path) -> None:
    both = (photos / "a.png", photos / "sub" / "a.png")
    assert automask(*both, "-o", "out").code == 1
    assert automask(*both, "-o", "out", "--root", photos).code == 0
    assert files(Path("out")) == ["a.json", "sub/a.json"]


def test_an_output_folder_among_the_inputs_is_no_input(automask: Samcli, photos: Path) -> None:
    for out in ("photos/out", "photos/out", "photos", "photos"):
        result = automask("photos", "-o", out, "--overlay", "--format", "labelmap", "--overwrite")
        assert result.err.startswith("3 images, ")
    records = [name for name in files(photos) if name.endswith(".json")]
    assert records == ["a.json", "b.json", "out/a.json", "out/b.json", "out/sub/a.json", "sub/a.json"]


def test_nothing_found_is_success_with_an_empty_list(automask: Samcli, photos: Path) -> None:
    result = automask("photos", "-o", "out", loose=("--points-per-side", "1", "--pred-iou-thresh", "100"))
    assert result == (0, "", "3 images, 0 masks in out\n")
    assert read_record(Path("out/a.json")).annotations == ()


def test_a_preset_gives_way_to_what_is_said(automask: Samcli, photos: Path) -> None:
    loose = ("--points-per-side", "1", "--pred-iou-thresh", "100", "--max-area", "50%")
    assert automask(photos / "a.png", "-o", "out", "--preset", "sa1b", loose=loose).code == 0
    config = read_record(Path("out/a.json")).run.config
    expected = {
        "points_per_side": 1, "pred_iou_thresh": 100.0, "min_area": "0", "max_area": "50%",
        "crop_n_layers": 2, "crop_n_points_downscale_factor": 2,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected


def test_settings_that_make_no_sense(automask: Samcli, photos: Path) -> None:
    line = "error: points_per_side is 0; give a number from 1 to 1024\n"
    assert automask("photos", "-o", "out", loose=("--points-per-side", "0")) == (1, "", line)


def test_an_empty_folder(automask: Samcli, photos: Path) -> None:
    Path("empty").mkdir()
    code, out, err = automask("empty", "-o", "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: empty holds no image; samcli looks for .apng .avif")


def test_an_output_that_cannot_be_written(automask: Samcli, photos: Path) -> None:
    Path("out").write_text("a file")
    code, out, err = automask("photos", "-o", "out")
    assert (code, out) == (1, "")
    assert err == "error: out is a file; give a folder for the results\n"
    assert automask("photos", "-o", "out/deeper").err == err


def test_embeddings_of_a_folder_serve_automask(
    automask: Samcli, samcli: Samcli, photos: Path, random_tiny: Path
) -> None:
    result = samcli("embed", "photos", "-o", "emb", "-m", random_tiny, "--json")
    assert (result.code, result.err) == (0, "3 images in emb\n")
    summary = json.loads(result.out)
    assert (summary["images"], summary["done"], summary["failed"], summary["output"]) == (3, 3, [], "emb")
    assert files(Path("emb")) == ["a.safetensors", "b.safetensors", "sub/a.safetensors"]
    line = automask("photos", "-o", "none", "--embeddings", "none", "--keep-extension").err.splitlines()[2]
    assert line == (
        "failed: none/sub/a.png.safetensors does not exist; write it with: "
        f"samcli embed photos/sub/a.png -o none --root photos --keep-extension -m {random_tiny}"
    )
    automask("photos", "-o", "fresh")
    assert automask("photos", "-o", "saved", "--embeddings", "emb").code == 0
    for name in files(Path("fresh")):
        assert (Path("fresh") / name).read_bytes() == (Path("saved") / name).read_bytes()
    assert load_embedding(Path("emb/a.safetensors")).original_size == (60, 90)


def test_embed_notes_failures_too(samcli: Samcli, photos: Path, random_tiny: Path) -> None:
    (photos / "bad.jpg").touch()
    line = "photos/bad.jpg is empty (0 bytes); copy or download it again"
    result = samcli("embed", "photos", "-o", "emb", "-m", random_tiny)
    assert result == (3, "", f"failed: {line}\n3 of 4 images in emb; 1 failed\n")
    assert json.loads(Path("emb/bad.error.json").read_text())["error"] == line


def test_quiet_says_failures_only(automask: Samcli, photos: Path) -> None:
    (photos / "bad.jpg").touch()
    result = automask("photos", "-o", "out", "--quiet")
    assert result == (3, "", "failed: photos/bad.jpg is empty (0 bytes); copy or download it again\n")
