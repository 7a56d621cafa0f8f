"""`samcli predict`, through the real `main`: prompts, outputs, rounds, lists of prompts, embeddings."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, Samcli
from PIL import Image
from pycocotools import mask as coco

from samcli import weights
from samcli.cli import model
from samcli.formats.logits import load_logits
from samcli.formats.record import read_record
from samcli.predictor import Predictor


def answers(result: Result) -> list[dict[str, Any]]:
    assert (result.code, result.err) == (0, "")
    return [json.loads(line) for line in result.out.splitlines()]


def picture(data: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data))


@pytest.fixture
def predict(samcli: Samcli, random_tiny: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Samcli:
    """`samcli predict` with a model, in the folder of photo.png."""
    monkeypatch.chdir(photo.parent)

    def run(*args: object, **streams: Any) -> Result:
        return samcli("predict", *args, "-m", random_tiny, **streams)

    return run


def test_a_point_gives_a_line_with_the_best_mask(predict: Samcli) -> None:
    (answer,) = answers(predict("photo.png", "--point", "30,30"))
    assert (answer["id"], answer["image"]) == (1, "photo.png")
    (mask,) = answer["masks"]
    assert list(mask) == [
        "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "score",
    ]  # fmt: skip
    bits = coco.decode(mask["segmentation"])
    rows, columns = bits.any(1).nonzero()[0], bits.any(0).nonzero()[0]
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    assert (bits.shape, mask["area"], mask["bbox"]) == ((60, 90), bits.sum(), box)
    assert mask["point_coords"] == [[30.0, 30.0]]


def test_all_gives_three_masks_by_falling_iou_the_default_being_the_first(predict: Samcli) -> None:
    (every,) = answers(predict("photo.png", "--point", "30,30", "--all"))
    scores = [mask["predicted_iou"] for mask in every["masks"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    (best,) = answers(predict("photo.png", "--point", "30,30"))
    assert best["masks"] == every["masks"][:1]


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        (["--point", "30,30", "--point", "5,5,0"], 1),
        (["--point", "30,30", "--point", "5,5,0", "--box", "10,10,50,50"], 1),
        (["--box", "10,10,50,50", "--box", "60,10,80,50"], 2),
        (["--mask", "drawn.png"], 1),
        (["--mask", "drawn.png", "--box", "10,10,50,50", "--box", "60,10,80,50"], 2),
    ],
)
def test_points_are_one_prompt_and_each_box_is_one(predict: Samcli, prompt: list[str], count: int) -> None:
    Image.fromarray(np.pad(np.full((20, 30), 255, np.uint8), ((20, 20), (30, 30)))).save("drawn.png")
    lines = answers(predict("photo.png", *prompt))
    assert [line["id"] for line in lines] == list(range(1, count + 1))
    assert [len(line["masks"]) for line in lines] == [1] * count


def test_labels_matter(predict: Samcli) -> None:
    one = answers(predict("photo.png", "--point", "30,30", "--point", "5,5,0"))
    other = answers(predict("photo.png", "--point", "30,30", "--point", "5,5,1"))
    assert one[0]["masks"][0]["predicted_iou"] != other[0]["masks"][0]["predicted_iou"]


@pytest.mark.parametrize("name", [["-"], []])
def test_an_image_from_standard_input(predict: Samcli, photo: Path, name: list[str]) -> None:
    piped = answers(predict(*name, "--point", "30,30", stdin=photo.read_bytes()))
    named = answers(predict("photo.png", "--point", "30,30"))
    assert piped[0]["image"] == "-"
    assert piped[0]["masks"] == named[0]["masks"]


@pytest.mark.parametrize("args", [["--point", "1,1"], ["-", "--point", "1,1"], ["--prompts", "-"]])
def test_a_terminal_gives_no_input(predict: Samcli, args: list[str]) -> None:
    line = "error: standard input is a terminal; name a file, or pipe one in\n"
    assert predict(*args, terminal=True) == (2, "", line)


def test_nothing_on_standard_input(predict: Samcli) -> None:
    line = "error: standard input is empty (0 bytes); copy or download it again\n"
    assert predict("--point", "1,1") == (1, "", line)
    assert predict("--prompts", "-") == (0, "", "")


def test_standard_input_is_read_once(predict: Samcli, photo: Path) -> None:
    other, piped = '{"image": "photo.png", "points": [[3, 3]]}', '{"image": "-", "points": [[30, 30]]}'
    Path("p.jsonl").write_text(f"{piped}\n{piped}\n{other}\n{piped}\n")
    lines = answers(predict("--prompts", "p.jsonl", stdin=photo.read_bytes()))
    assert lines[0]["masks"] == lines[1]["masks"]
    assert lines[3]["masks"][0]["bbox"] == lines[0]["masks"][0]["bbox"]
    code, _, err = predict("--prompts", "p.jsonl", stdin=b"junk")
    reason = "standard input is not an image that samcli reads; convert it to"
    assert (code, err.count(reason)) == (3, 3)
    line = "error: standard input is a terminal; name a file, or pipe one in\n"
    assert predict("--prompts", "p.jsonl", terminal=True) == (2, "", line)


def test_a_terminal_gets_a_table_unless_json(predict: Samcli) -> None:
    code, out, err = predict("photo.png", "--box", "10,10,50,50", "--point", "30,30", terminal=True)
    assert (code, err) == (0, "")
    assert "predicted IoU" in out
    assert len(answers(predict("photo.png", "--point", "30,30", "--json", terminal=True))) == 1


def test_a_table_shows_names_as_they_are(predict: Samcli, photo: Path) -> None:
    Path("[b]").mkdir()
    Path("[b]/x.png").write_bytes(photo.read_bytes())
    Path("p.jsonl").write_text(
        '{"id": "[/x]", "image": "photo.png", "points": [[3, 3]]}\n'
        '{"image": "[b]/x.png", "points": [[3, 3]]}\n'
    )
    code, out, err = predict("--prompts", "p.jsonl", terminal=True)
    assert (code, err) == (0, "")
    assert "[/x]" in out
    assert "[b]/x.png" in out


# Outputs


def test_o_dash_is_the_mask_as_png(predict: Samcli) -> None:
    (answer,) = answers(predict("photo.png", "--point", "30,30"))
    result = predict("photo.png", "--point", "30,30", "-o", "-")
    assert (result.code, result.err) == (0, "")
    assert np.array_equal(picture(result.raw) > 0, coco.decode(answer["masks"][0]["segmentation"]) > 0)


def test_cutout_and_overlay_pictures(predict: Samcli, pixels: np.ndarray) -> None:
    mask = picture(predict("photo.png", "--point", "30,30", "-o", "-").raw)
    cut = picture(predict("photo.png", "--point", "30,30", "-o", "-", "--format", "cutout").raw)
    assert np.array_equal(cut[..., 3], mask)
    assert np.array_equal(cut[..., :3], pixels * (mask > 0)[..., None])
    assert predict("photo.png", "--point", "30,30", "-o", "x.png", "--format", "overlay") == (0, "", "")
    assert picture(Path("x.png")).shape == (60, 90, 3)


def test_several_masks_in_one_picture_are_said(predict: Samcli) -> None:
    boxes = ["--box", "10,10,50,50", "--box", "60,10,80,50"]
    code, out, err = predict("photo.png", *boxes, "-o", "x.png")
    assert (code, out) == (0, "")
    assert err == "note: 2 masks in one picture: an index map, 0 background, 1 the first mask\n"
    index = picture(Path("x.png"))
    assert set(np.unique(index)) <= {0, 1, 2}
    err = predict("photo.png", *boxes, "-o", "y.png", "--format", "cutout").err
    assert err == "note: 2 masks in one picture: the cut-out shows their union\n"
    assert np.array_equal(picture(Path("y.png"))[..., 3] > 0, index > 0)
    assert predict("photo.png", *boxes, "-o", "x.png", "--quiet").err == ""


def test_json_and_jsonl_files(predict: Samcli) -> None:
    boxes = ["--box", "10,10,50,50", "--box", "60,10,80,50"]
    lines = answers(predict("photo.png", *boxes))
    assert predict("photo.png", *boxes, "-o", "x.jsonl") == (0, "", "")
    assert [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()] == lines
    assert answers(predict("photo.png", *boxes, "-o", "x.json", "--json")) == lines
    record = read_record(Path("x.json"))
    assert [mask.id for mask in record.annotations] == [1, 2]
    assert [mask.area for mask in record.annotations] == [line["masks"][0]["area"] for line in lines]
    assert (record.run.command, record.height, record.width, record.file_name) == (
        "predict",
        60,
        90,
        "photo.png",
    )
    assert record.run.config == {
        "masks": "best",
        "prompts": [{"id": 1, "box": [10.0, 10.0, 50.0, 50.0]}, {"id": 2, "box": [60.0, 10.0, 80.0, 50.0]}],
        "dtype": "fp32",
    }


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["-o", "x.tif"], "-o x.tif must end in .png, .json or .jsonl, or be a folder (end it in /)"),
        (["--format", "cutout"], "--format needs -o: a .png file, a folder, or - for standard output"),
        (
            ["-o", "x.json", "--format", "cutout"],
            "--format cutout is a picture; give -o a .png file or a folder",
        ),
        (["-o", "-", "--json"], "-o - and --json both want standard output; choose one"),
    ],
)
def test_outputs_that_make_no_sense(predict: Samcli, args: list[str], line: str) -> None:
    assert predict("photo.png", "--point", "1,1", *args) == (2, "", f"error: {line}\n")


def test_no_picture_on_a_terminal(predict: Samcli) -> None:
    line = "-o - writes a PNG, but standard output is a terminal; redirect it, or name a file"
    assert predict("photo.png", "--point", "1,1", "-o", "-", terminal=True) == (2, "", f"error: {line}\n")


# Rounds


def test_saved_logits_start_the_next_round(predict: Samcli) -> None:
    boxes = ["--box", "10,10,50,50", "--box", "60,10,80,50"]
    first = answers(predict("photo.png", *boxes, "--logits", "l.safetensors"))
    assert len(load_logits(Path("l.safetensors"))) == 2
    second = answers(predict("photo.png", *boxes, "--mask", "l.safetensors"))
    assert [a["masks"] for a in first] != [a["masks"] for a in second]
    one = answers(predict("photo.png", *boxes[2:], "--logits", "one.safetensors"))
    assert len(answers(predict("photo.png", *boxes, "--mask", "one.safetensors"))) == 2
    again = answers(predict("photo.png", *boxes[2:], "--mask", "one.safetensors"))
    for alone, together in ((one[0], first[1]), (again[0], second[1])):
        scores = [answer["masks"][0]["predicted_iou"] for answer in (alone, together)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_logits_of_all_masks_are_no_prompt(predict: Samcli) -> None:
    predict("photo.png", "--point", "30,30", "--all", "--logits", "l.safetensors")
    line = "photo.png: l.safetensors holds 3 masks, not one a prompt; save them without --all"
    assert predict("photo.png", "--mask", "l.safetensors") == (1, "", f"error: {line}\n")


# Lists of prompts


@pytest.fixture
def listed(photo: Path, pixels: np.ndarray) -> list[dict[str, Any]]:
    """Prompts over photo.png and b/photo.png, written to prompts.jsonl."""
    (photo.parent / "b").mkdir()
    Image.fromarray(pixels[:, ::-1]).save(photo.parent / "b" / "photo.png")
    lines: list[dict[str, Any]] = [
        {"id": "first", "image": "photo.png", "points": [[30, 30]]},
        {"id": {"any": 1}, "image": "photo.png", "points": [[30, 30], [5, 5]], "labels": [1, 0]},
        {"image": "b/photo.png", "box": [10, 10, 50, 50], "mask": None},
        {"id": None, "image": "photo.png", "box": [10, 10, 50, 50], "points": [[20, 20]]},
    ]
    (photo.parent / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_prompts_are_answered_in_order_with_one_embedding_for_neighbours(
    predict: Samcli, listed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []
    embed = Predictor.embed

    def counted(self: Predictor, image: np.ndarray, **options: Any) -> Any:
        embedded.append(image.shape)
        return embed(self, image, **options)

    monkeypatch.setattr(Predictor, "embed", counted)
    lines = answers(predict("--prompts", "prompts.jsonl"))
    assert [line["id"] for line in lines] == ["first", {"any": 1}, 3, None]
    assert [line["image"] for line in lines] == [line["image"] for line in listed]
    assert len(embedded) == 3
    (alone,) = answers(predict("photo.png", "--point", "20,20", "--box", "10,10,50,50"))
    assert lines[3]["masks"][0]["predicted_iou"] == pytest.approx(
        alone["masks"][0]["predicted_iou"], abs=1e-4
    )
    assert lines[3]["masks"][0]["bbox"] == alone["masks"][0]["bbox"]


def test_prompts_from_standard_input_for_one_image(predict: Samcli) -> None:
    text = b'{"points": [[30, 30]]}\n{"box": [10, 10, 50, 50]}\n'
    lines = answers(predict("photo.png", "--prompts", "-", stdin=text))
    assert [(line["id"], line["image"]) for line in lines] == [(1, "photo.png"), (2, "photo.png")]


def test_a_bad_line_on_standard_input_stops_after_those_before_it(predict: Samcli) -> None:
    line = b'{"image": "photo.png", "points": [[30, 30]]}\n'
    text = line + b"nonsense\n" + line
    code, out, err = predict("--prompts", "-", stdin=text)
    assert (code, len(out.splitlines())) == (1, 1)
    assert err == "error: line 2 of standard input: not JSON: Expecting value, column 1\n"


def test_a_prompt_that_fails_is_one_line_of_many(predict: Samcli) -> None:
    text = b"".join(
        json.dumps(line).encode() + b"\n"
        for line in (
            {"image": "photo.png", "points": [[30, 30]]},
            {"image": "photo.png", "points": [[300, 30]]},
            {"image": "photo.png", "points": [[3, 3]]},
            {"id": "x", "image": "gone.png", "points": [[3, 3]]},
        )
    )
    code, out, err = predict("--prompts", "-", stdin=text)
    lines = [json.loads(line) for line in out.splitlines()]
    outside = "point 300,30 lies outside the image, which is 90x60 pixels"
    assert code == 3
    assert ["masks" in line for line in lines] == [True, False, True, False]
    assert lines[1] == {"id": 2, "image": "photo.png", "error": outside}
    assert lines[3] == {"id": "x", "image": "gone.png", "error": "gone.png does not exist; check the path"}
    assert err == (
        f"failed: prompt 2 of photo.png: {outside}\n"
        'failed: prompt "x" of gone.png: gone.png does not exist; check the path\n'
    )


def test_a_folder_gets_a_record_for_each_image(predict: Samcli, listed: list[dict[str, Any]]) -> None:
    assert predict("--prompts", "prompts.jsonl", "-o", "out/", "--root", ".", "--format", "overlay") == (
        0,
        "",
        "2 images, 4 masks in out\n",
    )
    files = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
    assert files == ["b/photo.json", "b/photo.overlay.jpg", "photo.json", "photo.overlay.jpg"]
    record = read_record(Path("out/photo.json"))
    assert [prompt["id"] for prompt in record.run.config["prompts"]] == ["first", {"any": 1}, None]
    assert len(record.annotations) == 3
    again = predict("--prompts", "prompts.jsonl", "-o", "out", "--root", ".", "--format", "cutout")
    assert again == (0, "", "2 images in out done before, nothing to do\n")
    assert sorted(path.name for path in Path("out/photo.cutout").iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_folder_notes_the_images_that_fail(predict: Samcli) -> None:
    Path("prompts.jsonl").write_text(
        '{"image": "photo.png", "points": [[300, 30]]}\n{"image": "photo.png", "points": [[3, 3]]}\n'
    )
    code, out, err = predict("--prompts", "prompts.jsonl", "-o", "out/")
    line = "point 300,30 lies outside the image, which is 90x60 pixels"
    assert (code, out, err) == (
        3,
        "",
        f"failed: photo.png: {line}\n0 of 1 image, 0 masks in out; 1 failed\n",
    )
    assert [path.name for path in Path("out").iterdir()] == ["photo.error.json"]
    assert json.loads(Path("out/photo.error.json").read_text())["error"] == line
    assert predict("photo.png", "--point", "3,3", "-o", "out/") == (0, "", "1 image, 1 mask in out\n")
    assert [path.name for path in Path("out").iterdir()] == ["photo.json"]


def test_what_names_a_prompt_leaves_the_hash(predict: Samcli, photo: Path) -> None:
    Image.new("1", (90, 60), 1).save("m.png")
    Path("n.png").write_bytes(Path("m.png").read_bytes())
    hashes = []
    for line in (
        {"id": "a", "points": [[3, 3]], "mask": "m.png"},
        {"id": "b", "points": [[3, 3]], "mask": "n.png"},
        {"id": "a", "points": [[3, 4]], "mask": "m.png"},
    ):
        Path("p.jsonl").write_text(json.dumps(line))
        assert predict("photo.png", "--prompts", "p.jsonl", "-o", "out/", "--overwrite").code == 0
        hashes.append(read_record(Path("out/photo.json")).run.config_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_mask_that_cannot_be_read_fails_its_image_only(
    predict: Samcli, listed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict("photo.png", "--point", "3,3", "-o", "out/").code == 0
    Path("m.png").touch()
    for line in listed:
        line["mask"] = "m.png" if line["image"] == "photo.png" else None
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in listed))
    read_bytes = Path.read_bytes

    def refused(self: Path) -> bytes:
        if self.name == "m.png":
            raise PermissionError(13, "Permission denied", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refused)
    code, _, err = predict("--prompts", "p.jsonl", "-o", "out", "--root", ".", "--overwrite")
    assert (code, err.count("m.png cannot be read: permission denied")) == (3, 1)
    names = sorted(path.name for path in Path("out").rglob("*.json"))
    assert names == ["photo.error.json", "photo.json"]
    assert Path("out/b/photo.json").exists()  # and the stale out/photo.json is gone


def test_images_that_would_share_an_output_are_refused(predict: Samcli, listed: list[dict[str, Any]]) -> None:
    code, out, err = predict("--prompts", "prompts.jsonl", "-o", "out/")
    line = (
        "photo.png and b/photo.png would both write photo.json; "
        "rename one, or name outputs by --root or --keep-extension"
    )
    assert (code, out, err) == (1, "", f"error: {line}\n")
    line = "the prompts are of 2 images, but x.png holds one; give -o a folder"
    assert predict("--prompts", "prompts.jsonl", "-o", "x.png") == (2, "", f"error: {line}\n")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--point", "1,1"], "--prompts goes without --point, --box, --mask and --logits"),
        (["--logits", "l.safetensors"], "--prompts goes without --point, --box, --mask and --logits"),
    ],
)
def test_prompts_stand_alone(predict: Samcli, args: list[str], line: str) -> None:
    assert predict("--prompts", "p.jsonl", *args) == (2, "", f"error: {line}\n")


def test_image_and_prompts_cannot_share_standard_input(predict: Samcli) -> None:
    line = "the image and the prompts cannot both be standard input"
    assert predict("-", "--prompts", "-") == (2, "", f"error: {line}\n")
    text = b'{"image": "-", "points": [[1, 1]]}\n'
    assert predict("--prompts", "-", stdin=text) == (1, "", f"error: line 1 of standard input: {line}\n")
    line = "gone.jsonl cannot be read: No such file or directory; check the path"
    assert predict("--prompts", "gone.jsonl") == (1, "", f"error: {line}\n")


# Embeddings and the default model


def test_saved_embeddings_give_the_same_masks(predict: Samcli, samcli: Samcli, random_tiny: Path) -> None:
    fresh = answers(predict("photo.png", "--point", "30,30"))
    command = f"samcli embed photo.png -o emb -m {random_tiny}"
    line = f"emb/photo.safetensors does not exist; write it with: {command}"
    assert predict("photo.png", "--point", "30,30", "--embeddings", "emb") == (1, "", f"error: {line}\n")
    assert samcli("embed", "photo.png", "-o", "emb", "-m", random_tiny) == (0, "", "1 image in emb\n")
    assert answers(predict("photo.png", "--point", "30,30", "--embeddings", "emb")) == fresh
    cut = predict("photo.png", "--point", "30,30", "--embeddings", "emb", "-o", "-", "--format", "cutout")
    assert picture(cut.raw).shape == (60, 90, 4)


def test_an_embedding_of_another_image_is_refused(
    predict: Samcli, samcli: Samcli, random_tiny: Path, pixels: np.ndarray
) -> None:
    samcli("embed", "photo.png", "-o", "emb", "-m", random_tiny)
    Image.fromarray(pixels[::-1]).save("photo.png")
    code, out, err = predict("photo.png", "--point", "30,30", "--embeddings", "emb")
    assert (code, out) == (1, "")
    assert err.startswith("error: photo.png: emb/photo.safetensors is the embedding of another image")


def test_a_note_names_stronger_models_only_when_none_was_chosen(
    samcli: Samcli, photo: Path, random_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.files, "installed_files", lambda spec: (random_tiny,))
    model._predictor.cache_clear()
    note = "note: using the embedded model tiny; stronger with -m: mobile_sam, vit_b, vit_l, vit_h\n"
    assert samcli("predict", photo, "--point", "3,3").err == note
    assert samcli("predict", photo, "--point", "3,3", "-q").err == ""
    assert samcli("predict", photo, "--point", "3,3", "-m", "tiny").err == ""
    monkeypatch.setenv("SAMCLI_MODEL", "tiny")
    assert samcli("predict", photo, "--point", "3,3").err == ""
    model._predictor.cache_clear()
