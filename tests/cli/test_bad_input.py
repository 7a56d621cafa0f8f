"""Every kind of bad or odd input, with the exact words on stderr and the exit code."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Samcli
from PIL import Image, ImageOps


def png(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def animation(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", save_all=True, append_images=[picture.rotate(90), picture.rotate(180)])
    return buffer.getvalue()


def deep(picture: Image.Image) -> bytes:
    return png(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257))


def turned(picture: Image.Image) -> bytes:
    """The picture lying on its side, with the EXIF orientation (6) that makes viewers show it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)


def with_alpha(picture: Image.Image) -> bytes:
    picture = picture.convert("RGBA")
    picture.putalpha(200)
    return png(picture)


def bomb(picture: Image.Image) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


REFUSED: list[tuple[str, Callable[[Image.Image], bytes], str]] = [
    (
        "half.jpg",
        lambda p: jpeg(p)[:500],
        "half.jpg is truncated (its end is missing); copy or download it again",
    ),
    ("zero.jpg", lambda p: b"", "zero.jpg is empty (0 bytes); copy or download it again"),
    (
        "bomb.png",
        bomb,
        "bomb.png is 60000x60000 pixels, 3600 million; the limit is 200 million; "
        "resize it first, or raise the limit with --max-pixels",
    ),
    (
        "text.jpg",
        lambda p: b"no picture\n",
        "text.jpg is not an image that samcli reads; "
        "convert it to JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 or AVIF",
    ),
]


@pytest.mark.parametrize(("name", "make", "line"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_a_bad_file_given_alone_is_one_line_and_exit_1(
    samcli: Samcli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pixels: np.ndarray,
    random_tiny: Path,
    name: str,
    make: Callable[[Image.Image], bytes],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(make(Image.fromarray(pixels)))
    assert samcli("predict", name, "--point", "5,5", "-m", random_tiny) == (1, "", f"error: {line}\n")
    assert samcli("automask", name, "-o", "out", "-m", random_tiny) == (1, "", f"error: {line}\n")
    error = json.loads(Path("out", name).with_suffix(".error.json").read_text())
    assert error["error"] == line


def test_an_unreadable_file(
    samcli: Samcli, photo: Path, random_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root reads whatever the mode says
    code, out, err = samcli("predict", photo, "--point", "5,5", "-m", random_tiny)
    assert (code, out) == (1, "")
    assert err == f"error: {photo} cannot be read: permission denied; change its permissions\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("missing.jpg", "missing.jpg does not exist; check the path"),
        ("folder", "folder is a folder; give an image file"),
    ],
)
def test_what_is_no_file(
    samcli: Samcli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_tiny: Path, name: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert samcli("predict", name, "--point", "5,5", "-m", random_tiny) == (1, "", f"error: {line}\n")


READ: list[tuple[str, Callable[[Image.Image], bytes], tuple[int, int], str]] = [
    ("animated.gif", animation, (60, 90), "note: animated.gif has 3 frames; only the first is used\n"),
    ("cmyk.jpg", lambda p: jpeg(p.convert("CMYK")), (60, 90), ""),
    ("deep.png", deep, (60, 90), ""),
    ("palette.png", lambda p: png(p.quantize(16)), (60, 90), ""),
    ("grey.png", lambda p: png(p.convert("L")), (60, 90), ""),
    ("alpha.png", with_alpha, (60, 90), ""),
    ("turned.png", turned, (60, 90), ""),
    ("one.png", lambda p: png(p.crop((0, 0, 1, 1))), (1, 1), ""),
    ("long.png", lambda p: png(p.resize((20000, 50))), (50, 20000), ""),
    ("mit Leerzeichen und 猫.png", png, (60, 90), ""),
]


@pytest.mark.parametrize(("name", "make", "size", "err"), READ, ids=[name for name, _, _, _ in READ])
def test_an_odd_picture_is_read(
    samcli: Samcli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pixels: np.ndarray,
    random_tiny: Path,
    name: str,
    make: Callable[[Image.Image], bytes],
    size: tuple[int, int],
    err: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(make(Image.fromarray(pixels)))
    result = samcli("predict", name, "--point", "0.5,0.5", "-m", random_tiny)
    assert (result.code, result.err) == (0, err)
    answer = json.loads(result.out)
    assert answer["image"] == name
    assert answer["masks"][0]["segmentation"]["size"] == list(size)


def test_coordinates_are_those_of_the_upright_picture(
    samcli: Samcli, tmp_path: Path, pixels: np.ndarray, photo: Path, random_tiny: Path
) -> None:
    rotated = tmp_path / "rotated.png"
    rotated.write_bytes(turned(Image.fromarray(pixels)))
    masks = [
        json.loads(samcli("predict", path, "--point", "85,5", "-m", random_tiny).out)["masks"]
        for path in (photo, rotated)
    ]
    assert masks[0] == masks[1]
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.jpg", exif=exif)
    ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")).save(tmp_path / "shown.png")
    boxes = [
        json.loads(samcli("predict", tmp_path / name, "--box", "60,10,80,50", "-m", random_tiny).out)["masks"]
        for name in ("turned.jpg", "shown.png")
    ]
    assert boxes[0] == boxes[1]


PROMPTS = [
    (["--point", "200,3"], 1, "photo.png: point 200,3 lies outside the image, which is 90x60 pixels"),
    (["--point=-1,3"], 1, "photo.png: point -1,3 lies outside the image, which is 90x60 pixels"),
    (
        ["--box", "200,200,300,300"],
        1,
        "photo.png: box 200,200,300,300 lies outside the image, which is 90x60 pixels",
    ),
    (["--box", "5,5,5,9"], 1, "box 5,5,5,9 is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"),
    (["--box", "9,5,5,9"], 1, "box 9,5,5,9 is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"),
    (["--box", "0,0,inf,9"], 1, "box 0,0,inf,9 has a value that is not a finite number"),
    (["--point", "nan,3"], 1, "point nan,3 has a value that is not a finite number"),
    (["--point", "3,4,2"], 1, "label 2 is unknown; use 1 for foreground and 0 for background"),
    (["--point", "3,4,0.5"], 2, "the label of --point '3,4,0.5' is not 1 (foreground) or 0 (background)"),
    (["--point", "3"], 2, "--point '3' is not x,y or x,y,label"),
    (["--point", "a,b"], 2, "--point 'a,b' is not x,y or x,y,label"),
    (["--box", "1,2,3"], 2, "--box '1,2,3' is not x0,y0,x1,y1"),
    ([], 2, "no prompt; give --point, --box, --mask or --prompts"),
    (
        ["--point", "1,2", "--box", "1,2,3,4", "--box", "2,3,4,5"],
        2,
        "--point goes with at most one --box; for more prompts at once use --prompts",
    ),
    (["--mask", "nothing.png"], 1, "photo.png: nothing.png does not exist; check the path"),
    (
        ["--mask", "small.png"],
        1,
        "photo.png: small.png: the mask is 9x6 but the image 90x60 pixels; give a mask of the image's size",
    ),
]


@pytest.mark.parametrize(
    ("prompt", "code", "line"), PROMPTS, ids=[" ".join(p) or "none" for p, _, _ in PROMPTS]
)
def test_a_bad_prompt(
    samcli: Samcli,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_tiny: Path,
    prompt: list[str],
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(photo.parent)
    Image.new("1", (9, 6), 1).save("small.png")
    assert samcli("predict", "photo.png", *prompt, "-m", random_tiny) == (code, "", f"error: {line}\n")


LINES = [
    (
        '{"image": "photo.png", "points": [[1, 2]], "labels": [1, 0]}',
        "1 points but 2 labels; give one label per point",
    ),
    ('{"image": "photo.png", "points": [[NaN, 2]]}', "point nan,2 has a value that is not a finite number"),
    (
        '{"image": "photo.png", "box": [1, 1, 1, 1]}',
        "box 1,1,1,1 is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1",
    ),
    ('{"image": "photo.png", "box": [1, 1]}', "box must be [x0, y0, x1, y1]"),
    ('{"image": "photo.png", "points": [1, 2]}', "points must be [[x, y], ...]"),
    ('{"image": "photo.png", "points": [["1", 2]]}', "points must be [[x, y], ...]"),
    ('{"image": "photo.png", "points": [[1, 2]], "labels": 1}', "labels must be [1, 0, ...]"),
    ('{"image": "photo.png", "points": [[1, 2]], "labels": [true]}', "labels must be [1, 0, ...]"),
    ('{"image": 3, "points": [[1, 2]]}', "image must be a path"),
    ('{"image": "photo.png"}', "the prompt is empty; give a point, a box or a mask"),
    (
        '{"image": "photo.png", "point": [1, 2]}',
        "unknown key 'point'; known: id, image, points, labels, box, mask",
    ),
    ('{"points": [[1, 2]]}', 'no image; name one as "image", or for all lines on the command line'),
    ("[1, 2]", 'not a JSON object; write {"image": ..., "points": [[x, y]]} or the like'),
    ("{", "not JSON: Expecting property name enclosed in double quotes, column 2"),
    (f'{{"image": "photo.png", "points": [[1{400 * "0"}, 2]]}}', "a coordinate is too large"),
    (f'{{"image": "photo.png", "box": [0, 0, 1{400 * "0"}, 2]}}', "a coordinate is too large"),
    (f'{{"image": "photo.png", "points": [[1{5000 * "0"}, 2]]}}', "a number has too many digits"),
    (100_000 * "[", "lists or objects are nested too deeply"),
    *(
        (
            f'{{"id": {id_}, "image": "photo.png", "points": [[1, 2]]}}',
            "id must hold finite numbers only, and be nested at most 32 deep",
        )
        for id_ in ("NaN", "[-Infinity]", '{"a": 1e400}', 33 * "[" + 33 * "]")
    ),
]


@pytest.mark.parametrize(("text", "line"), LINES, ids=[line[:60] for _, line in LINES])
def test_a_bad_line_is_named_by_its_number_before_any_work(
    samcli: Samcli, photo: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("prompts.jsonl").write_text(f'{{"image": "photo.png", "points": [[1, 2]]}}\n\n{text}\n')
    expected = (1, "", f"error: line 3 of prompts.jsonl: {line}\n")
    assert samcli("predict", "--prompts", "prompts.jsonl", "-m", "loaded too late to matter") == expected


def test_an_unknown_model_names_the_known_ones(samcli: Samcli, photo: Path, tmp_path: Path) -> None:
    code, out, err = samcli("embed", photo, "-o", tmp_path / "out", "-m", "nope")
    assert (code, out) == (1, "")
    assert err.startswith("error: unknown model 'nope'; known: tiny, mobile_sam, vit_b, vit_l, vit_h")


def test_missing_weights_name_the_command(samcli: Samcli, photo: Path, tmp_path: Path) -> None:
    code, out, err = samcli("automask", photo, "-o", tmp_path / "out", "-m", "vit_b")
    assert (code, out) == (4, "")
    assert err == "error: vit_b is not installed; get it (358 MB) with: samcli models pull vit_b\n"
