"""What runs into a folder promise: resume, refusals, failures, inputs, shards, limits, progress, status."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, Samcli
from PIL import Image

from samcli import images
from samcli.errors import SamcliError
from samcli.formats.record import read_error, read_record
from samcli.predictor import load_embedding

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
KEPT = "choose another output, or replace it with --overwrite"
NO_IMAGE = (
    "is not an image that samcli reads; convert it to JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 or AVIF"
)


def paint(path: Path, shift: int) -> Path:
    """A picture that `shift` makes another one, of as many bytes."""
    y, x = np.mgrid[:60, :90]
    picture = np.stack([60 + x, 90 + y, np.full_like(x, 140)], axis=2).astype(np.uint8)
    picture[10:50, 10 + shift : 40 + shift] = (220, 60, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "BMP")
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder photos with a.bmp, b.bmp and sub/c.bmp, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for shift, name in enumerate(("a.bmp", "b.bmp", "sub/c.bmp")):
        paint(Path("photos") / name, 10 * shift)
    return Path("photos")


@pytest.fixture
def automask(samcli: Samcli, random_tiny: Path) -> Samcli:
    """`samcli automask` with a model and filters that let some masks through."""

    def run(*args: object, loose: tuple[str, ...] = LOOSE, **streams: Any) -> Result:
        return samcli("automask", *args, *loose, "-m", random_tiny, **streams)

    return run


@pytest.fixture
def embed(samcli: Samcli, random_tiny: Path) -> Samcli:
    def run(*args: object, **streams: Any) -> Result:
        return samcli("embed", *args, "-m", random_tiny, **streams)

    return run


@pytest.fixture
def predict(samcli: Samcli, random_tiny: Path) -> Samcli:
    def run(*args: object, **streams: Any) -> Result:
        return samcli("predict", *args, "-m", random_tiny, **streams)

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator finds nothing, at once: for what has nothing to do with masks."""
    monkeypatch.setattr("samcli.cli.automask.generate", lambda *_, **__: ())


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the model may not be used."""

    def used(*_: object, **__: object) -> None:
        raise AssertionError("the model was used")

    monkeypatch.setattr("samcli.cli.automask.generate", used)
    monkeypatch.setattr("samcli.predictor.Predictor.embed_many", used)
    monkeypatch.setattr("samcli.predictor.Predictor.embed", used)


def contents(folder: str) -> dict[str, bytes]:
    top = Path(folder)
    return {p.relative_to(top).as_posix(): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


def state(folder: str) -> dict[str, tuple[int, int, bytes]]:
    """Contents, and what shows that a file was written again."""
    top = Path(folder)
    found = {p.relative_to(top).as_posix(): p for p in sorted(top.rglob("*")) if p.is_file()}
    return {name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for name, p in found.items()}


def summary(result: Result) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(result.out)
    return line


def masks_in(*records: str) -> int:
    return sum(len(read_record(Path(record)).annotations) for record in records)


def break_decoding(monkeypatch: pytest.MonkeyPatch, reason: str = "out of memory; close something") -> None:
    def load(*_: object, **__: object) -> None:
        raise SamcliError(reason)

    monkeypatch.setattr(images, "load", load)


# Resume


@pytest.mark.usefixtures("photos")
def test_unchanged_images_are_skipped(automask: Samcli, request: pytest.FixtureRequest) -> None:
    assert automask("photos", "-o", "out").code == 0
    before = state("out")
    assert sorted(before) == ["a.json", "b.json", "sub/c.json"]
    Path("photos/a.bmp").touch()  # another time alone is no change
    request.getfixturevalue("no_model")
    result = automask("photos", "-o", "out", "--json")
    assert (result.code, result.err) == (0, "3 images in out done before, nothing to do\n")
    told = summary(result)
    assert (told["images"], told["done"], told["skipped"], told["masks"]) == (3, 0, 3, 0)
    assert state("out") == before


@pytest.mark.usefixtures("photos")
def test_unchanged_embeddings_are_skipped(embed: Samcli, request: pytest.FixtureRequest) -> None:
    assert embed("photos", "-o", "emb") == (0, "", "3 images in emb\n")
    before = state("emb")
    request.getfixturevalue("no_model")
    result = embed("photos", "-o", "emb", "--json")
    assert (result.code, result.err) == (0, "3 images in emb done before, nothing to do\n")
    assert (summary(result)["done"], summary(result)["skipped"]) == (0, 3)
    assert state("emb") == before


def test_a_changed_image_of_the_same_size_is_done_anew(automask: Samcli, photos: Path) -> None:
    automask("photos", "-o", "out")
    before, size = state("out"), (photos / "b.bmp").stat().st_size
    paint(photos / "b.bmp", 33)
    assert (photos / "b.bmp").stat().st_size == size
    result = automask("photos", "-o", "out", "--json")
    after = state("out")
    assert result.err == f"1 image, {masks_in('out/b.json')} masks in out; 2 done before\n"
    assert (result.code, summary(result)["done"], summary(result)["skipped"]) == (0, 1, 2)
    assert {name for name in after if after[name] != before.get(name)} == {"b.json"}
    automask("photos", "-o", "fresh")
    assert contents("out") == contents("fresh")


def test_a_changed_image_has_its_embedding_done_anew(embed: Samcli, photos: Path) -> None:
    embed("photos", "-o", "emb")
    before = state("emb")
    paint(photos / "b.bmp", 33)
    assert embed("photos", "-o", "emb") == (0, "", "1 image in emb; 2 done before\n")
    after = state("emb")
    assert {name for name in after if after[name] != before.get(name)} == {"b.safetensors"}
    assert load_embedding(Path("emb/b.safetensors")).image_sha256 == images.digest(photos / "b.bmp")[1]


def test_the_pictures_of_a_changed_image_that_nobody_asks_for_go(automask: Samcli, photos: Path) -> None:
    automask("photos", "-o", "out", "--overlay", "--format", "png")
    paint(photos / "a.bmp", 33)
    assert automask("photos", "-o", "out").code == 0
    names = list(contents("out"))
    assert [name for name in names if name.startswith("a")] == ["a.json"]
    assert {"b.overlay.jpg", "b.masks/metadata.csv", "sub/c.overlay.jpg"} <= set(names)


PICTURES = ("--overlay", "--format", "png", "--format", "labelmap")


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("gone", ["a.overlay.jpg", "a.labelmap.png", "a.masks", "all"])
def test_a_missing_picture_is_made_from_the_record_without_the_model(
    automask: Samcli, gone: str, request: pytest.FixtureRequest
) -> None:
    automask("photos/a.bmp", "-o", "out", *PICTURES)
    before = state("out")
    for path in list(Path("out").glob("a.*" if gone == "all" else gone)):
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        elif path.suffix != ".json":
            path.unlink()
    assert len(state("out")) < len(before)
    request.getfixturevalue("no_model")
    result = automask("photos/a.bmp", "-o", "out", *PICTURES)
    assert result == (0, "", "1 image in out done before, nothing to do\n")
    after = state("out")
    assert {name: data for name, (*_, data) in after.items()} == {n: d for n, (*_, d) in before.items()}
    assert after["a.json"] == before["a.json"]


@pytest.mark.usefixtures("photos")
def test_pictures_that_are_asked_for_later(automask: Samcli, request: pytest.FixtureRequest) -> None:
    automask("photos", "-o", "whole", *PICTURES)
    automask("photos", "-o", "out")
    request.getfixturevalue("no_model")
    assert automask("photos", "-o", "out", *PICTURES).code == 0
    assert contents("out") == contents("whole")
    assert masks_in("out/a.json") > 0


@pytest.mark.usefixtures("photos")
def test_a_picture_that_cannot_be_made_costs_no_record(automask: Samcli) -> None:
    automask("photos", "-o", "out")
    before = state("out")
    result = automask("photos", "-o", "out", "--overlay", "--max-pixels", "1k", "--json")
    assert (result.code, summary(result)["done"], len(summary(result)["failed"])) == (3, 0, 3)
    assert state("out") == before
    assert automask("photos", "-o", "out", "--overlay").code == 0
    assert len(contents("out")) == 6


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("kept", [0, 1, 11, 200, -1, -3])
def test_half_a_record_is_done_anew(automask: Samcli, kept: int) -> None:
    automask("photos/a.bmp", "-o", "out")
    record = Path("out/a.json")
    whole = record.read_bytes()
    record.write_bytes(whole[:kept])
    result = automask("photos/a.bmp", "-o", "out")
    assert result == (0, "", f"1 image, {masks_in('out/a.json')} masks in out\n")
    assert record.read_bytes() == whole


@pytest.mark.usefixtures("photos")
def test_an_empty_embedding_is_done_anew(embed: Samcli) -> None:
    embed("photos/a.bmp", "-o", "emb")
    whole = contents("emb")
    Path("emb/a.safetensors").write_bytes(b"")
    assert embed("photos/a.bmp", "-o", "emb") == (0, "", "1 image in emb\n")
    assert contents("emb") == whole


@pytest.mark.usefixtures("quick", "photos")
@pytest.mark.parametrize("before", [True, False])
def test_what_a_killed_run_left_goes_away(automask: Samcli, before: bool) -> None:
    if before:
        automask("photos", "-o", "out")
    for folder in (Path("out"), Path("out/sub")):
        (folder / ".samcli-tmp-0a1b" / "deep").mkdir(parents=True)
        (folder / ".samcli-tmp-0a1b" / "deep" / "0.png").touch()
        (folder / ".samcli-tmp-2c3d").write_bytes(b"half")
    (Path("out") / ".hidden").touch()
    assert automask("photos", "-o", "out").code == 0
    assert list(contents("out")) == [".hidden", "a.json", "b.json", "sub/c.json"]
    assert not list(Path("out").rglob(".samcli-tmp-*"))


# Another configuration, and files that are not ours


@pytest.fixture
def others(random_tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Other weights, under another name and under the same one."""
    from safetensors.torch import load_file, save_file

    weights = load_file(random_tiny)
    name = sorted(weights)[0]
    weights[name] = weights[name] + 0.01
    paths = tmp_path / "other.safetensors", tmp_path / "same" / random_tiny.name
    paths[1].parent.mkdir()
    for path in paths:
        save_file(weights, path)
    return paths


@pytest.mark.parametrize(
    ("args", "difference"),
    [
        ((*LOOSE, "--pred-iou-thresh", "0.5"), "made with pred_iou_thresh 0, not 0.5"),
        (
            (*LOOSE, "--points-per-side", "1", "--max-area", "25%"),
            "made with points_per_side 2, not 1; max_area 100%, not 25%",
        ),
        ((*LOOSE, "--dtype", "bf16"), "made with dtype fp32, not bf16"),
    ],
)
def test_automask_of_another_configuration_is_refused_before_work(
    automask: Samcli, photos: Path, args: tuple[str, ...], difference: str, request: pytest.FixtureRequest
) -> None:
    automask("photos", "-o", "out", "--overlay")
    before = state("out")
    paint(photos / "0.bmp", 3)
    request.getfixturevalue("no_model")
    refused = (1, "", f"error: out/a.json was {difference}; {KEPT}\n")
    assert automask("photos", "-o", "out", loose=args) == refused
    assert automask("photos/a.bmp", "-o", "out", loose=args) == refused
    assert automask("photos", "-o", "out", "--json", "--retry-failed", loose=args) == refused
    assert state("out") == before


def test_what_changes_no_mask_is_not_another_configuration(automask: Samcli, photos: Path) -> None:
    automask("photos", "-o", "out")
    args = ("--points-per-batch", "3", "--threads", "1", "--device", "cpu", "--max-pixels", "1M")
    result = automask("photos", "-o", "out", *args)
    assert result == (0, "", "3 images in out done before, nothing to do\n")


def test_embeddings_of_another_configuration_are_refused_before_work(
    samcli: Samcli,
    embed: Samcli,
    photos: Path,
    random_tiny: Path,
    others: tuple[Path, Path],
    request: pytest.FixtureRequest,
) -> None:
    embed("photos", "-o", "emb")
    before = state("emb")
    paint(photos / "0.bmp", 3)
    request.getfixturevalue("no_model")
    line = "error: emb/a.safetensors was made with {}; " + KEPT + "\n"
    assert embed("photos", "-o", "emb", "--dtype", "bf16") == (1, "", line.format("dtype fp32, not bf16"))
    name, same = random_tiny.name, "other weights of that name"
    assert samcli("embed", "photos", "-o", "emb", "-m", others[0]) == (
        1, "", line.format(f"the model {name}, not other.safetensors"),
    )  # fmt: skip
    assert samcli("embed", "photos", "-o", "emb", "-m", others[1]) == (
        1, "", line.format(f"the model {name}, {same}"),
    )  # fmt: skip
    assert state("emb") == before


def test_overwrite_replaces_embeddings(embed: Samcli, photos: Path) -> None:
    embed("photos", "-o", "emb", "--dtype", "bf16")
    assert embed("photos", "-o", "emb", "--overwrite") == (0, "", "3 images in emb\n")
    embed("photos", "-o", "fresh")
    read = [load_embedding(Path(folder) / "a.safetensors").features for folder in ("emb", "fresh")]
    assert read[0].dtype == read[1].dtype
    assert bool((read[0] == read[1]).all())


@pytest.mark.usefixtures("photos")
def test_other_prompts_are_refused_before_work(predict: Samcli, request: pytest.FixtureRequest) -> None:
    assert predict("photos/a.bmp", "--point", "30,30", "-o", "out/").code == 0
    before = state("out")
    request.getfixturevalue("no_model")
    refused = (1, "", f"error: out/a.json was made with other prompts; {KEPT}\n")
    assert predict("photos/a.bmp", "--point", "31,30", "-o", "out/") == refused
    assert predict("photos/a.bmp", "--point", "30,30,0", "-o", "out/") == refused
    lines = [
        '{"image": "photos/b.bmp", "points": [[1, 1]]}',
        '{"image": "photos/a.bmp", "box": [1, 1, 9, 9]}',
    ]
    Path("p.jsonl").write_text("\n".join(lines))
    assert predict("--prompts", "p.jsonl", "-o", "out/") == refused
    line = f"error: out/a.json was made with masks best, not all; {KEPT}\n"
    assert predict("photos/a.bmp", "--point", "30,30", "--all", "-o", "out/") == (1, "", line)
    assert state("out") == before


@pytest.mark.usefixtures("photos")
def test_a_record_of_another_command_is_refused(
    automask: Samcli, predict: Samcli, request: pytest.FixtureRequest
) -> None:
    automask("photos", "-o", "out")
    before = state("out")
    request.getfixturevalue("no_model")
    line = f"error: out/a.json was made by automask, not predict; {KEPT}\n"
    assert predict("photos/a.bmp", "--point", "30,30", "-o", "out") == (1, "", line)
    assert state("out") == before


@pytest.mark.usefixtures("photos")
def test_overwrite_replaces_records_and_leaves_no_picture_of_old_ones(
    automask: Samcli, predict: Samcli
) -> None:
    automask("photos", "-o", "out", *PICTURES)
    other = (*LOOSE, "--points-per-side", "1")
    result = automask("photos", "-o", "out", "--overwrite", loose=other)
    assert (result.code, result.err.split(", ")[0]) == (0, "3 images")
    automask("photos", "-o", "fresh", loose=other)
    assert contents("out") == contents("fresh")
    assert (
        predict("photos/a.bmp", "--point", "9,9", "-o", "out", "--overwrite", "--format", "cutout").code == 0
    )
    assert "a.cutout/0.png" in contents("out")
    assert automask("photos", "-o", "out", "--overwrite", loose=other).code == 0
    assert contents("out") == contents("fresh")


@pytest.mark.usefixtures("photos")
def test_overwrite_works_on_everything_anew(automask: Samcli) -> None:
    automask("photos", "-o", "out")
    before = state("out")
    result = automask("photos", "-o", "out", "--overwrite", "--json")
    assert (summary(result)["done"], summary(result)["skipped"]) == (3, 0)
    after = state("out")
    assert {name: data for name, (*_, data) in after.items()} == {n: d for n, (*_, d) in before.items()}
    assert all(after[name] != before[name] for name in before)


@pytest.mark.usefixtures("photos", "no_model")
@pytest.mark.parametrize(
    "foreign", [b"{}", b'{"shapes": []}\n', b"[]", b"text", b'{\n  "samcli": 1\n}\n', b"\0" * 40]
)
def test_a_foreign_file_in_a_records_place_is_refused_and_not_touched(
    automask: Samcli, predict: Samcli, foreign: bytes
) -> None:
    Path("out").mkdir()
    Path("out/b.json").write_bytes(foreign)
    before = state("out")
    line = "error: out/b.json is not a record of samcli; choose another output, or add --overwrite\n"
    assert automask("photos", "-o", "out", *PICTURES) == (1, "", line)
    assert predict("photos/b.bmp", "--point", "1,1", "-o", "out") == (1, "", line)
    assert state("out") == before


@pytest.mark.usefixtures("quick", "photos")
def test_foreign_files_with_the_names_of_pictures_and_failures_stay(automask: Samcli) -> None:
    for name in ("a.masks/mine.txt", "b.overlay.jpg", "b.error.json", "sub/c.cutout/0.png"):
        path = Path("out", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = state("out")
    assert automask("photos", "-o", "out") == (0, "", "3 images, 0 masks in out\n")
    after = state("out")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"a.json", "b.json", "sub/c.json"}


@pytest.mark.usefixtures("photos", "no_model")
@pytest.mark.parametrize("foreign", [b"text", b"\x08\0\0\0\0\0\0\0{}      ", b'{"a": 1}' * 9])
def test_a_foreign_file_in_an_embeddings_place_is_refused_and_not_touched(
    embed: Samcli, foreign: bytes
) -> None:
    Path("emb").mkdir()
    Path("emb/b.safetensors").write_bytes(foreign)
    before = state("emb")
    line = (
        "error: emb/b.safetensors is not an embedding that samcli wrote; "
        "choose another output, or add --overwrite\n"
    )
    assert embed("photos", "-o", "emb") == (1, "", line)
    assert state("emb") == before


@pytest.mark.usefixtures("quick", "photos")
def test_overwrite_replaces_foreign_files_too(automask: Samcli) -> None:
    Path("out").mkdir()
    Path("out/b.json").write_text("text")
    assert automask("photos", "-o", "out", "--overwrite") == (0, "", "3 images, 0 masks in out\n")
    assert read_record(Path("out/b.json")).file_name == "b.bmp"


@pytest.mark.usefixtures("quick", "photos")
def test_a_piped_list_stops_at_what_may_not_be_replaced(automask: Samcli) -> None:
    Path("out").mkdir()
    Path("out/b.json").write_text("text")
    names = b"photos/a.bmp\nphotos/b.bmp\nphotos/sub/c.bmp\n"
    code, out, err = automask("--files-from", "-", "-o", "out", stdin=names)
    assert (code, out) == (1, "")
    line = "error: out/b.json is not a record of samcli; choose another output, or add --overwrite"
    assert err.splitlines()[-1] == line
    assert list(contents("out")) == ["a.json", "b.json"]
    assert Path("out/b.json").read_text() == "text"


# Failures


def test_a_failure_is_not_tried_again_but_listed(
    automask: Samcli, photos: Path, request: pytest.FixtureRequest
) -> None:
    (photos / "bad.bmp").write_bytes(b"no picture")
    listed = f"failed: photos/bad.bmp {NO_IMAGE}\n"
    first = automask("photos", "-o", "out")
    count = masks_in("out/a.json", "out/b.json", "out/sub/c.json")
    assert first == (3, "", f"{listed}3 of 4 images, {count} masks in out; 1 failed\n")
    failed = read_error(Path("out/bad.error.json"))
    assert failed is not None
    assert failed.source is not None
    assert (failed.run, failed.path, failed.reason) == (
        read_record(Path("out/a.json")).run, "bad.bmp", f"photos/bad.bmp {NO_IMAGE}",
    )  # fmt: skip
    assert (failed.source.bytes, failed.source.sha256) == images.digest(photos / "bad.bmp")
    before = state("out")
    request.getfixturevalue("no_model")
    break_decoding(request.getfixturevalue("monkeypatch"), "tried again")
    second = automask("photos", "-o", "out", "--json")
    note = "note: that one failed in an earlier run, not tried again; add --retry-failed to do so\n"
    assert (second.code, second.err) == (
        3, f"{listed}{note}0 of 1 image, 0 masks in out; 3 done before; 1 failed\n",
    )  # fmt: skip
    told = summary(second)
    assert (told["images"], told["done"], told["skipped"]) == (4, 0, 3)
    assert told["failed"] == [{"path": "photos/bad.bmp", "error": f"photos/bad.bmp {NO_IMAGE}"}]
    assert state("out") == before
    assert automask("photos", "-o", "out", "--quiet") == (3, "", listed)


@pytest.mark.usefixtures("quick", "photos")
def test_retry_failed_tries_again_and_success_clears(
    automask: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "out of memory; close something"
    listed = "".join(f"failed: photos/{name}: {reason}\n" for name in ("a.bmp", "b.bmp", "sub/c.bmp"))
    with monkeypatch.context() as patch:
        break_decoding(patch, reason)
        assert automask("photos", "-o", "out") == (
            3, "", f"{listed}0 of 3 images, 0 masks in out; 3 failed\n",
        )  # fmt: skip
        before = state("out")
        assert list(before) == ["a.error.json", "b.error.json", "sub/c.error.json"]
    note = "note: these failed in an earlier run, not tried again; add --retry-failed to do so\n"
    assert automask("photos", "-o", "out") == (
        3, "", f"{listed}{note}0 of 3 images, 0 masks in out; 3 failed\n",
    )  # fmt: skip
    assert state("out") == before
    assert automask("photos", "-o", "out", "--retry-failed") == (0, "", "3 images, 0 masks in out\n")
    assert list(contents("out")) == ["a.json", "b.json", "sub/c.json"]


@pytest.mark.usefixtures("quick")
def test_a_changed_file_is_tried_without_being_asked(automask: Samcli, photos: Path) -> None:
    (photos / "bad.bmp").write_bytes(b"no picture")
    (photos / "worse.bmp").write_bytes(b"no picture either")
    assert automask("photos", "-o", "out").code == 3
    (photos / "bad.bmp").write_bytes(b"no PICTURE")
    result = automask("photos", "-o", "out")
    listed = f"failed: photos/bad.bmp {NO_IMAGE}\nfailed: photos/worse.bmp {NO_IMAGE}\n"
    note = "note: 1 of these failed in an earlier run, not tried again; add --retry-failed to do so\n"
    assert result == (3, "", f"{listed}{note}0 of 2 images, 0 masks in out; 3 done before; 2 failed\n")
    paint(photos / "bad.bmp", 5)
    assert automask("photos", "-o", "out").err.endswith(
        "1 of 2 images, 0 masks in out; 3 done before; 1 failed\n"
    )
    names = [name for name in contents("out") if name.startswith(("bad", "worse"))]
    assert names == ["bad.json", "worse.error.json"]


@pytest.mark.usefixtures("quick")
def test_a_missing_file_is_tried_every_time(automask: Samcli, photos: Path) -> None:
    args = ("photos/a.bmp", "photos/late.bmp", "-o", "out")
    listed = "failed: photos/late.bmp does not exist; check the path\n"
    assert automask(*args) == (3, "", f"{listed}1 of 2 images, 0 masks in out; 1 failed\n")
    assert automask(*args) == (3, "", f"{listed}0 of 1 image, 0 masks in out; 1 done before; 1 failed\n")
    paint(photos / "late.bmp", 5)
    assert automask(*args) == (0, "", "1 image, 0 masks in out; 1 done before\n")
    assert list(contents("out")) == ["a.json", "late.json"]


def test_another_configuration_tries_failures_again(automask: Samcli, photos: Path) -> None:
    (photos / "bad.bmp").write_bytes(b"no picture")
    bad = ("photos/bad.bmp", "photos/gone.bmp", "-o", "out")
    automask(*bad)
    before = state("out")
    other = automask(*bad, loose=(*LOOSE, "--points-per-side", "1"))
    assert (other.code, "note:" in other.err) == (3, False)
    assert all(state("out")[name] != before[name] for name in before)


def test_a_failure_takes_the_old_record_and_its_pictures_away(automask: Samcli, photos: Path) -> None:
    automask("photos", "-o", "out", *PICTURES)
    (photos / "a.bmp").write_bytes(b"no picture")
    assert automask("photos", "-o", "out", *PICTURES).code == 3
    assert [name for name in contents("out") if name.startswith("a")] == ["a.error.json"]
    paint(photos / "a.bmp", 0)
    assert automask("photos", "-o", "out", *PICTURES).code == 0
    automask("photos", "-o", "fresh", *PICTURES)
    assert contents("out") == contents("fresh")


def test_an_image_alone_fails_as_the_command(automask: Samcli, photos: Path) -> None:
    (photos / "bad.bmp").write_bytes(b"no picture")
    line = f"error: photos/bad.bmp {NO_IMAGE}\n"
    assert automask("photos/bad.bmp", "-o", "out", "--json") == (1, "", line)
    assert list(contents("out")) == ["bad.error.json"]
    assert automask("photos/bad.bmp", "-o", "out").code == 1
    Path("list").write_text("photos/bad.bmp\n")
    assert automask("--files-from", "list", "-o", "new").code == 3


@pytest.mark.usefixtures("quick", "photos")
def test_a_failed_embedding_is_not_cleared_by_a_record(
    automask: Samcli, embed: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_decoding(patch)
        assert embed("photos", "-o", "out").code == 3
    before = contents("out")
    assert automask("photos", "-o", "out") == (0, "", "3 images, 0 masks in out\n")
    assert {name: data for name, data in contents("out").items() if "error" in name} == before
    assert len(contents("out")) == 6
    listed = "".join(
        f"failed: photos/{name}: out of memory; close something\n" for name in ("a.bmp", "b.bmp", "sub/c.bmp")
    )
    assert embed("photos", "-o", "out", "-q") == (3, "", listed)
    assert embed("photos", "-o", "out", "--retry-failed") == (0, "", "3 images in out\n")
    assert list(contents("out")) == [
        "a.json", "a.safetensors", "b.json", "b.safetensors", "sub/c.json", "sub/c.safetensors",
    ]  # fmt: skip


# Inputs


@pytest.fixture
def listed(automask: Samcli, photos: Path, quick: None) -> Samcli:
    """`samcli automask -o out` over a list of these bytes, by a file or by standard input."""

    def run(names: bytes, *args: object, piped: bool) -> Result:
        if piped:
            return automask("--files-from", "-", *args, "-o", "out", stdin=names)
        Path("list").write_bytes(names)
        return automask("--files-from", "list", *args, "-o", "out")

    return run


both_ways = pytest.mark.parametrize("piped", [False, True], ids=["file", "stdin"])


@both_ways
@pytest.mark.parametrize(
    "names",
    [
        b"photos/b.bmp\nphotos/sub/c.bmp\n",
        b"photos/b.bmp\nphotos/sub/c.bmp",
        b"\r\nphotos/b.bmp\r\n\r\nphotos/sub/c.bmp\r\n",
        b"\n  \nphotos/b.bmp\n\nphotos/sub/c.bmp\n\n",
    ],
    ids=["lines", "no end", "CRLF", "blank lines"],
)
def test_a_list_of_images(listed: Samcli, names: bytes, piped: bool) -> None:
    assert listed(names, piped=piped) == (0, "", "2 images, 0 masks in out\n")
    assert list(contents("out")) == ["b.json", "c.json"]


@pytest.mark.usefixtures("quick", "photos")
def test_a_list_from_another_process(automask: Samcli) -> None:
    """As `--files-from <(find ...)` of a shell: a pipe that has a name, and is read once."""
    reading, writing = os.pipe()
    os.write(writing, b"photos/b.bmp\nphotos/a.bmp\n")
    os.close(writing)
    try:
        result = automask("--files-from", f"/dev/fd/{reading}", "-o", "out")
    finally:
        os.close(reading)
    assert result == (0, "", "2 images, 0 masks in out\n")
    assert list(contents("out")) == ["a.json", "b.json"]


def test_a_list_that_ends_in_nul_without_being_said_so(listed: Samcli) -> None:
    names = b"photos/a.bmp\0photos/b.bmp\0"
    line = "'photos/a.bmp\\x00photos/b.bmp\\x00' holds a NUL; for a list that find -print0 wrote add -0\n"
    assert listed(names, piped=False) == (1, "", f"error: {line}")
    count = "0 of 1 image, 0 masks in out; 1 failed\n"
    assert listed(names, piped=True) == (3, "", f"failed: {line}{count}")
    assert not Path("out").exists()


@both_ways
def test_names_that_end_in_nul(listed: Samcli, photos: Path, piped: bool) -> None:
    names = ["new\nline.bmp", "back\r.bmp", " space .bmp", "-o.bmp", "\udcff.bmp", "end.bmp\r"]
    for name in names:
        paint(photos / name, 1)
    data = b"\0".join(os.fsencode(f"photos/{name}") for name in names) + b"\0\0photos/b.bmp"
    assert listed(data, "-0", piped=piped) == (0, "", "7 images, 0 masks in out\n")
    assert sorted(contents("out")) == sorted(f"{Path(name).stem}.json" for name in ("b.bmp", *names))
    assert {read_record(path).file_name for path in Path("out").iterdir()} == {"b.bmp", *names}


@both_ways
def test_a_list_goes_with_paths_and_an_image_named_twice_is_one(listed: Samcli, piped: bool) -> None:
    names = b"photos/b.bmp\nphotos/../photos/a.bmp\nphotos/sub/c.bmp\n./photos/b.bmp\n"
    result = listed(names, "photos", "photos/a.bmp", "--root", "photos", "--json", piped=piped)
    assert (result.code, result.err) == (0, "3 images, 0 masks in out\n")
    assert summary(result)["images"] == 3
    assert list(contents("out")) == ["a.json", "b.json", "sub/c.json"]


@both_ways
def test_a_root_names_the_outputs_of_a_list(listed: Samcli, photos: Path, piped: bool) -> None:
    names = f"{photos.resolve()}/a.bmp\nphotos/sub/c.bmp\n".encode()
    assert listed(names, "--root", ".", piped=piped) == (0, "", "2 images, 0 masks in out\n")
    assert list(contents("out")) == ["photos/a.json", "photos/sub/c.json"]
    assert read_record(Path("out/photos/sub/c.json")).file_name == "photos/sub/c.bmp"


@both_ways
def test_a_folder_in_a_list_fails_alone(listed: Samcli, piped: bool) -> None:
    result = listed(b"photos/a.bmp\nphotos/sub\nphotos/b.bmp\n", piped=piped)
    line = "failed: photos/sub is a folder; give an image file\n"
    assert result == (3, "", f"{line}2 of 3 images, 0 masks in out; 1 failed\n")
    assert list(contents("out")) == ["a.json", "b.json", "sub.error.json"]


def test_a_path_outside_the_root(listed: Samcli, photos: Path) -> None:
    names = b"photos/sub/c.bmp\nphotos/a.bmp\n"
    line = "photos/a.bmp lies outside the root photos/sub; give a root that holds it"
    assert listed(names, "--root", "photos/sub", piped=False) == (1, "", f"error: {line}\n")
    assert not Path("out").exists()
    assert listed(names, "--root", "photos/sub", piped=True) == (
        3, "", f"failed: {line}\n1 of 2 images, 0 masks in out; 1 failed\n",
    )  # fmt: skip
    assert list(contents("out")) == ["c.json"]
    alone = listed(b"", "photos/a.bmp", "--root", "photos/sub", "--quiet", piped=True)
    assert alone == (1, "", f"error: {line}\n")


def test_two_names_for_one_output_in_a_list_file_are_refused_before_work(
    listed: Samcli, photos: Path
) -> None:
    paint(photos / "sub" / "a.bmp", 9)
    names = b"photos/b.bmp\nphotos/a.bmp\nphotos/sub/a.bmp\n"
    line = (
        "error: photos/a.bmp and photos/sub/a.bmp would both write a.json; "
        "rename one, or name outputs by --root or --keep-extension\n"
    )
    assert listed(names, piped=False) == (1, "", line)
    assert not Path("out").exists()


def test_two_names_for_one_output_on_standard_input_the_second_fails_alone(
    listed: Samcli, photos: Path
) -> None:
    paint(photos / "sub" / "a.bmp", 9)
    (photos / "bad.bmp").write_bytes(b"no picture")
    paint(photos / "sub" / "bad.bmp", 9)
    assert listed(b"photos/a.bmp\nphotos/bad.bmp\n", piped=True).code == 3
    before = state("out")
    assert list(before) == ["a.json", "bad.error.json"]
    names = b"photos/a.bmp\nphotos/bad.bmp\nphotos/sub/a.bmp\nphotos/sub/bad.bmp\nphotos/b.bmp\n"
    result = listed(names, piped=True)
    remedy = "as an image before it; rename one, or name outputs by --root or --keep-extension\n"
    note = "note: 1 of these failed in an earlier run, not tried again; add --retry-failed to do so\n"
    assert result == (
        3,
        "",
        f"failed: photos/bad.bmp {NO_IMAGE}\n"
        f"failed: photos/sub/a.bmp would write a.json, {remedy}"
        f"failed: photos/sub/bad.bmp would write bad.json, {remedy}"
        f"{note}1 of 4 images, 0 masks in out; 1 done before; 3 failed\n",
    )
    after = state("out")
    assert list(after) == ["a.json", "b.json", "bad.error.json"]
    assert {name: after[name] for name in before} == before
    assert listed(names, "--overwrite", piped=True).code == 3
    assert read_record(Path("out/a.json")).input.sha256 == images.digest(photos / "a.bmp")[1]
    failed = read_error(Path("out/bad.error.json"))
    assert failed is not None
    assert failed.reason == f"photos/bad.bmp {NO_IMAGE}"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--include", "a.bmp"), ["a"]),
        (("--include", "?.bmp"), ["a", "b", "sub/c"]),
        (("--include", "sub"), ["sub/c"]),
        (("--include", "sub/"), ["sub/c"]),
        (("--include", "sub/*"), ["sub/c"]),
        (("--include", "./sub/c.bmp"), ["sub/c"]),
        (("--include", "a.*", "--include", "c.*"), ["a", "sub/c"]),
        (("--exclude", "a.bmp"), ["b", "sub/c"]),
        (("--exclude", "sub"), ["a", "b"]),
        (("--exclude", "*/c.bmp"), ["a", "b"]),
        (("--include", "[ab].bmp", "--exclude", "b*"), ["a"]),
    ],
)
@pytest.mark.usefixtures("quick", "photos")
def test_a_choice_from_a_folder(automask: Samcli, args: tuple[str, ...], expected: list[str]) -> None:
    count = "1 image" if len(expected) == 1 else f"{len(expected)} images"
    assert automask("photos", "-o", "out", *args) == (0, "", f"{count}, 0 masks in out\n")
    assert list(contents("out")) == [f"{name}.json" for name in expected]


@both_ways
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--include", "sub"), ["sub/c"]),
        (("--include", "sub/c*"), ["sub/c"]),
        (("--exclude", "[bc].bmp"), ["a"]),
        (("--exclude", "sub"), ["a", "b"]),
    ],
)
def test_a_choice_from_a_list(
    listed: Samcli, args: tuple[str, ...], expected: list[str], piped: bool
) -> None:
    names = b"photos/b.bmp\nphotos/a.bmp\nphotos/sub/c.bmp\n"
    assert listed(names, "--root", "photos", *args, piped=piped).code == 0
    assert list(contents("out")) == [f"{name}.json" for name in expected]


@pytest.mark.usefixtures("quick", "photos")
def test_a_choice_from_files(automask: Samcli) -> None:
    files = ("photos/a.bmp", "photos/b.bmp", "photos/sub/c.bmp")
    assert automask(*files, "-o", "out", "--exclude", "b.bmp").err == "2 images, 0 masks in out\n"
    assert list(contents("out")) == ["a.json", "c.json"]
    result = automask(*files, "-o", "two", "--root", "photos", "--include", "sub/*")
    assert result.err == "1 image, 0 masks in two\n"
    assert list(contents("two")) == ["sub/c.json"]


@pytest.mark.usefixtures("photos", "no_model")
@pytest.mark.parametrize("args", [("--include", "*.jpg"), ("--exclude", "*.bmp"), ("--exclude", "*")])
def test_a_folder_of_which_nothing_is_left(automask: Samcli, args: tuple[str, ...]) -> None:
    line = "error: photos holds no image that --include and --exclude leave\n"
    assert automask("photos", "-o", "out", *args) == (1, "", line)
    assert not Path("out").exists()


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("args", "terminal", "line"),
    [
        ((), False, "no images; name files or folders, or a list of them with --files-from"),
        (("photos", "-0"), False, "-0 goes with --files-from"),
        (
            ("--files-from", "-"),
            True,
            "--files-from - reads standard input, which is a terminal; pipe a list in",
        ),
    ],
)
@pytest.mark.parametrize("command", ["automask", "embed"])
def test_inputs_that_make_no_sense(
    samcli: Samcli, command: str, args: tuple[str, ...], terminal: bool, line: str
) -> None:
    assert samcli(command, *args, "-o", "out", terminal=terminal) == (2, "", f"error: {line}\n")
    assert not Path("out").exists()


@pytest.mark.usefixtures("photos", "no_model")
def test_a_list_that_is_not_there(automask: Samcli) -> None:
    line = "error: none.txt cannot be read: No such file or directory; check the path\n"
    assert automask("--files-from", "none.txt", "-o", "out") == (1, "", line)
    assert automask("photos", "--files-from", "none.txt", "-o", "out") == (1, "", line)
    assert not Path("out").exists()


@both_ways
def test_an_empty_list_is_success(listed: Samcli, piped: bool) -> None:
    assert listed(b"\n", piped=piped) == (0, "", "0 images, 0 masks in out\n")


# Shards


def test_shards_together_are_a_whole_run(automask: Samcli, photos: Path) -> None:
    for number in range(5):
        paint(photos / "sub" / f"{number}.bmp", 2 * number)
    (photos / "bad.bmp").write_bytes(b"no picture")
    assert automask("photos", "-o", "whole", "--overlay").code == 3
    union: set[str] = set()
    for part in (1, 2, 3):
        before = state("out")
        result = automask("photos", "-o", "out", "--overlay", "--shard", f"{part}/3", "--json")
        after = state("out")
        assert {name: after[name] for name in before} == before
        added = {name for name in set(after) - set(before) if name.endswith(".json")}
        assert len(added) == summary(result)["images"]
        assert added.isdisjoint(union)
        union |= added
    assert contents("out") == contents("whole")
    assert len(union) == 9
    again = automask("photos", "-o", "out", "--overlay", "--retry-failed")
    assert again.err.endswith("0 of 1 image, 0 masks in out; 8 done before; 1 failed\n")


@pytest.mark.usefixtures("quick")
def test_more_files_move_none_to_another_shard(automask: Samcli, photos: Path) -> None:
    def shards(root: str) -> dict[str, int]:
        found = {}
        for part in (1, 2, 3):
            automask("photos", "-o", f"{root}{part}", "--shard", f"{part}/3")
            found.update(dict.fromkeys(contents(f"{root}{part}"), part))
        return found

    few = shards("few")
    assert len(few) == 3
    for number in range(9):
        paint(photos / f"a{number}.bmp", number)
    many = shards("many")
    assert len(many) == 12
    assert set(many.values()) == {1, 2, 3}
    assert {name: many[name] for name in few} == few


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "/", "a/b", "1/3/5", "-1/3", "1.0/3", " 1/3"])
def test_shards_that_are_none(automask: Samcli, text: str) -> None:
    line = f"error: --shard {text!r} is not i/n with i from 1 to n, such as 1/8\n"
    assert automask("photos", "-o", "out", "--shard", text) == (2, "", line)
    assert not Path("out").exists()


@pytest.mark.usefixtures("quick", "photos")
def test_an_empty_shard_is_success(automask: Samcli) -> None:
    results = [automask("photos/a.bmp", "-o", "out", "--shard", f"{part}/2") for part in (1, 2)]
    assert sorted(results) == [(0, "", "0 images, 0 masks in out\n"), (0, "", "1 image, 0 masks in out\n")]


# Limits, devices, clusters


@pytest.mark.usefixtures("quick", "photos")
def test_large_images_are_refused(automask: Samcli, embed: Samcli) -> None:
    one = automask("photos/a.bmp", "-o", "out", "--max-pixels", "1k")
    assert (one.code, one.out) == (1, "")
    assert one.err.startswith("error: photos/a.bmp is 90x60 pixels, ")
    assert one.err.endswith("; resize it first, or raise the limit with --max-pixels\n")
    assert one.err.count("\n") == 1
    many = embed("photos", "-o", "out", "--max-pixels", "5399")
    assert many.code == 3
    lines = many.err.splitlines()
    assert [line.split(" is 90x60 pixels, ")[0] for line in lines[:3]] == [
        "failed: photos/a.bmp", "failed: photos/b.bmp", "failed: photos/sub/c.bmp",
    ]  # fmt: skip
    assert lines[3:] == ["0 of 3 images in out; 3 failed"]


@pytest.mark.usefixtures("quick", "photos")
@pytest.mark.parametrize("text", ["5400", "5.4k", "6K", "0.01M", "1m", "2G", "1e4"])
def test_limits_that_let_the_images_pass(automask: Samcli, text: str) -> None:
    result = automask("photos/a.bmp", "-o", "out", "--max-pixels", text)
    assert result == (0, "", "1 image, 0 masks in out\n")


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("text", ["", "0", "-5", "k", "M", "0.5", "many", "1T", "inf", "nan", "infG", "1 2"])
@pytest.mark.parametrize("command", ["automask", "embed"])
def test_limits_that_are_none(samcli: Samcli, command: str, text: str) -> None:
    line = f"error: --max-pixels {text!r} is not a number of pixels, such as 100M\n"
    assert samcli(command, "photos", "-o", "out", f"--max-pixels={text}") == (2, "", line)
    assert not Path("out").exists()


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("ray", [("--ray",), ("--ray", "auto"), ("--ray", "127.0.0.1:1")])
def test_ray_without_ray(
    automask: Samcli, embed: Samcli, ray: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = "error: Ray is not installed; run: pip install 'samcli[ray]'\n"
    assert automask("photos", "-o", "out", "--quiet", *ray) == (1, "", line)
    assert embed(*ray, "photos", "-o", "out", "--quiet") == (1, "", line)
    assert not Path("out").exists()


@pytest.mark.usefixtures("photos")
def test_all_devices_where_there_is_none(
    automask: Samcli, embed: Samcli, predict: Samcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = "error: --device all means all GPUs, but there is none; leave it out, or use --shard\n"
    assert automask("photos", "-o", "out", "--device", "all") == (1, "", line)
    assert embed("photos", "-o", "out", "--device", "all") == (1, "", line)
    assert predict("photos/a.bmp", "--point", "1,1", "-o", "out", "--device", "all") == (1, "", line)
    assert not Path("out").exists()


# What is said


def test_progress_without_a_terminal_is_plain_lines(
    automask: Samcli, embed: Samcli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcli.cli.report.LINE_SECONDS", 0)
    (photos / "bad.bmp").touch()
    code, out, err = automask("photos", "-o", "out")
    assert (code, out) == (3, "")
    lines, last = err.splitlines()[:4], err.splitlines()[4:]
    number, left = r"[\d.e+]+", r"about \d\d:\d\d left"
    for line, told in zip(
        lines,
        [
            f"1 of 4 images, {number} masks/s, {left}",
            f"2 of 4 images, {number} masks/s, {left}",
            f"3 of 4 images, 1 failed, {number} masks/s, {left}",
            f"4 of 4 images, 1 failed, {number} masks/s, about 00:00 left",
        ],
        strict=True,
    ):
        assert re.fullmatch(told, line)
    assert len(last) == 2
    assert last[0].startswith("failed: photos/bad.bmp is empty")
    piped = embed("--files-from", "-", "-o", "emb", stdin=b"photos/a.bmp\nphotos/b.bmp\n")
    assert (piped.code, piped.out) == (0, "")
    assert re.fullmatch(r"1 images?\n2 images\n2 images in emb\n", piped.err)
    listed = "failed: photos/bad.bmp is empty (0 bytes); copy or download it again\n"
    assert automask("photos", "-o", "quiet", "--quiet") == (3, "", listed)


@pytest.mark.usefixtures("photos")
def test_no_progress_within_the_first_seconds(automask: Samcli) -> None:
    assert automask("photos", "-o", "out").err.count("\n") == 1


@pytest.mark.usefixtures("photos")
def test_the_summary(automask: Samcli, embed: Samcli) -> None:
    told = summary(automask("photos", "-o", "out", "--json"))
    assert list(told) == [
        "images", "done", "skipped", "failed", "masks", "seconds", "model", "device", "output",
    ]  # fmt: skip
    seconds = told.pop("seconds")
    assert list(seconds) == ["total", "read", "compute", "write"]
    assert all(isinstance(value, float) and value >= 0 for value in seconds.values())
    assert told == {
        "images": 3,
        "done": 3,
        "skipped": 0,
        "failed": [],
        "masks": masks_in("out/a.json", "out/b.json", "out/sub/c.json"),
        "model": "random.safetensors",
        "device": "cpu",
        "output": "out",
    }
    result = embed("photos", "-o", "out", "--json")
    assert list(summary(result)) == [
        "images", "done", "skipped", "failed", "seconds", "model", "device", "output",
    ]  # fmt: skip
    assert result.raw.count(b"\n") == 1


# status


@pytest.fixture
def holding(automask: Samcli, embed: Samcli, photos: Path) -> dict[str, Any]:
    """The folder out with two records, a failure, three embeddings, and more; the records' configuration."""
    embed("photos", "-o", "out")
    (photos / "b.bmp").write_bytes(b"no picture")
    automask("photos", "-o", "out", *PICTURES)
    Path("out/a.masks/x.json").write_text("in a folder of masks")
    Path("out/sub/notes.json").write_text("{}")
    Path("out/weights.safetensors").write_bytes(b"weights")
    Path("out/plain.txt").touch()
    Path("out/.samcli-tmp-1").touch()
    Path("out/sub/.samcli-tmp-2").mkdir()
    Path("out/sub/.samcli-tmp-2/a.json").touch()
    Path("out/half.json").write_bytes(Path("out/a.json").read_bytes()[:-5])
    return dict(read_record(Path("out/a.json")).run.config)


def test_status(samcli: Samcli, holding: dict[str, Any]) -> None:
    values = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in holding.items())
    assert values.startswith("points_per_side 2, ")
    assert values.endswith(", dtype fp32")
    assert samcli("status", "out") == (
        0,
        "automask with random.safetensors: 2 done, 1 failed\n"
        f"  {values}\n"
        "embed with random.safetensors: 3 done\n"
        "  dtype fp32\n"
        f"failed: photos/b.bmp {NO_IMAGE}\n"
        "3 unfinished files, of a run that goes on or was killed\n"
        "3 .json or .safetensors files that are not samcli's results\n",
        "",
    )


def test_status_for_machines(samcli: Samcli, holding: dict[str, Any]) -> None:
    result = samcli("status", "out", "--json")
    assert (result.code, result.err, result.out.count("\n")) == (0, "", 1)
    record = read_record(Path("out/a.json")).run
    common = {"model": "random.safetensors", "weights_sha256": record.weights_sha256}
    expected = {
        "output": "out",
        "done": 5,
        "failed": [{"path": "b.bmp", "command": "automask", "error": f"photos/b.bmp {NO_IMAGE}"}],
        "configurations": [
            {"command": "automask", **common, "config": holding, "done": 2, "failed": 1},
            {"command": "embed", **common, "config": {"dtype": "fp32"}, "done": 3, "failed": 0},
        ],
        "unfinished": 3,
        "other": 3,
    }
    assert json.loads(result.out) == expected
    assert list(json.loads(result.out)) == list(expected)


def test_status_is_of_the_folder_as_it_is(samcli: Samcli, holding: dict[str, Any]) -> None:
    before = state("out")
    samcli("status", "out")
    assert state("out") == before


def test_status_of_folders_without_results(samcli: Samcli, photos: Path) -> None:
    assert samcli("status", "photos") == (0, "nothing done\n", "")
    for name in ("none", "photos/a.bmp"):
        line = f"error: {name} is not a folder; give the folder that was the output of a run\n"
        assert samcli("status", name) == (1, "", line)


def test_prompts_of_a_folder_are_one_configuration_in_its_status(
    samcli: Samcli, predict: Samcli, photos: Path
) -> None:
    for name in ("a", "b"):
        predict(photos / f"{name}.bmp", "--point", "30,30", "--point", f"1,{len(name)}", "-o", "out")
    assert samcli("status", "out") == (
        0, "predict with random.safetensors: 2 done\n  masks best, dtype fp32\n", "",
    )  # fmt: skip


# Lists of prompts into a folder


@pytest.fixture
def prompts(photos: Path) -> Path:
    """p.jsonl: two prompts for a.bmp, not after each other, one for b.bmp and one for sub/c.bmp."""
    lines = [
        {"id": "one", "image": "photos/a.bmp", "points": [[30, 30]]},
        {"id": "two", "image": "photos/b.bmp", "box": [10, 10, 50, 50]},
        {"id": "three", "image": "photos/sub/c.bmp", "points": [[30, 30], [2, 2]], "labels": [1, 0]},
        {"id": "four", "image": "photos/a.bmp", "points": [[70, 20]]},
    ]
    path = Path("p.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_prompts_into_a_folder_resume(
    predict: Samcli, prompts: Path, photos: Path, request: pytest.FixtureRequest
) -> None:
    args = ("--prompts", prompts, "-o", "out/")
    assert predict(*args) == (0, "", "3 images, 4 masks in out\n")
    assert list(contents("out")) == ["a.json", "b.json", "c.json"]
    record = read_record(Path("out/a.json"))
    assert [p["id"] for p in record.run.config["prompts"]] == ["one", "four"]
    assert [mask.id for mask in record.annotations] == [1, 2]
    before = state("out")
    paint(photos / "a.bmp", 37)
    assert predict(*args) == (0, "", "1 image, 2 masks in out; 2 done before\n")
    after = state("out")
    assert {name for name in after if after[name] != before[name]} == {"a.json"}
    request.getfixturevalue("no_model")
    assert predict(*args) == (0, "", "3 images in out done before, nothing to do\n")
    assert predict(*args, "--format", "overlay") == (0, "", "3 images in out done before, nothing to do\n")
    assert "c.overlay.jpg" in contents("out")


def test_prompts_into_a_folder_in_shards(predict: Samcli, prompts: Path) -> None:
    args = ("--prompts", prompts, "--root", "photos")
    assert predict(*args, "-o", "whole/").code == 0
    assert list(contents("whole")) == ["a.json", "b.json", "sub/c.json"]
    counts = [len(contents("out"))]
    for part in (1, 2, 3):
        assert predict(*args, "-o", "out/", "--shard", f"{part}/3").code == 0
        counts.append(len(contents("out")))
    assert counts == sorted(counts)
    assert contents("out") == contents("whole")


def test_prompts_into_a_folder_note_failures(
    predict: Samcli, prompts: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--prompts", prompts, "-o", "out/")
    listed = "".join(
        f"failed: photos/{name}: out of memory; close something\n" for name in ("a.bmp", "b.bmp", "sub/c.bmp")
    )
    with monkeypatch.context() as patch:
        break_decoding(patch)
        assert predict(*args) == (3, "", f"{listed}0 of 3 images, 0 masks in out; 3 failed\n")
    assert list(contents("out")) == ["a.error.json", "b.error.json", "c.error.json"]
    note = "note: these failed in an earlier run, not tried again; add --retry-failed to do so\n"
    assert predict(*args) == (3, "", f"{listed}{note}0 of 3 images, 0 masks in out; 3 failed\n")
    assert predict(*args, "--retry-failed") == (0, "", "3 images, 4 masks in out\n")
    assert list(contents("out")) == ["a.json", "b.json", "c.json"]


@pytest.mark.parametrize(
    "option", [["--overwrite"], ["--retry-failed"], ["--shard", "1/2"], ["--ray"], ["--device", "all"]]
)
@pytest.mark.parametrize("output", [[], ["-o", "a.json"], ["-o", "a.jsonl"], ["-o", "a.png"], ["-o", "-"]])
def test_options_of_folders_need_one(
    predict: Samcli, prompts: Path, option: list[str], output: list[str]
) -> None:
    line = "error: --overwrite, --retry-failed, --shard, --ray and --device all need a folder: -o DIR/\n"
    assert predict("--prompts", prompts, *option, *output) == (2, "", line)
    assert not list(Path().glob("a.*"))


# Odd names and files


def test_folders_in_a_list_fail_alone(embed: Samcli, photos: Path) -> None:
    text = b".\n..\n/\nphotos\nphotos/a.bmp\n"
    result = embed("--files-from", "-", "--root", "photos", "-o", "out", stdin=text)
    folders = [line for line in result.err.splitlines() if line.endswith("is a folder; give an image file")]
    assert (result.code, len(folders)) == (3, 4)
    assert [name for name in contents("out") if name.endswith(".safetensors")] == ["a.safetensors"]


def test_half_an_embedding_is_done_anew(embed: Samcli, photos: Path) -> None:
    embed("photos/a.bmp", "-o", "out")
    path = Path("out/a.safetensors")
    whole = path.read_bytes()
    for length in (0, 4, 8, 12, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert embed("photos/a.bmp", "-o", "out") == (0, "", "1 image in out\n")
        assert path.read_bytes() == whole


def test_a_record_of_another_schema_is_not_touched(automask: Samcli, photos: Path) -> None:
    automask("photos/a.bmp", "-o", "out")
    path = Path("out/a.json")
    later = path.read_text().replace('"schema": 1', '"schema": 2')
    path.write_text(later)
    line = "error: out/a.json has the record schema 2, unknown here; choose another output\n"
    assert automask("photos/a.bmp", "-o", "out") == (1, "", line)
    assert path.read_text() == later


def test_an_image_is_not_standard_input(automask: Samcli, photos: Path) -> None:
    line = "error: - is no image here; for names on standard input use --files-from -\n"
    assert automask("-", "-o", "out") == (2, "", line)


def test_names_that_are_too_long_stop_nothing(automask: Samcli, photos: Path) -> None:
    data = (photos / "a.bmp").read_bytes()
    for name in ("a" * 251, "b" * 245, "c" * 240):
        (photos / f"{name}.bmp").write_bytes(data)
    result = automask("photos", "-o", "out", "--overlay")
    assert result.code == 3
    assert result.err.count("the name is too long; choose a shorter output") == 2
    assert {"a.json", "b.json"} <= contents("out").keys()


def test_a_list_with_a_byte_order_mark(automask: Samcli, photos: Path) -> None:
    Path("list").write_bytes(b"\xef\xbb\xbfphotos/a.bmp\r\n")
    assert automask("--files-from", "list", "-o", "out").code == 0


def test_processes_of_several_devices_write_what_one_does(
    automask: Samcli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "bad.bmp").touch()
    with monkeypatch.context() as patch:
        patch.setattr("samcli.predictor.find_devices", lambda name: ("cpu", "cpu"))
        options = (*PICTURES, "--threads", str(torch.get_num_threads()))  # another number, other roundings
        result = automask("photos", "-o", "two", "--device", "all", "--json", *options)
    assert (result.code, summary(result)["device"]) == (3, "cpu,cpu")
    assert automask("photos", "-o", "one", *options).code == 3
    assert contents("two") == contents("one")
