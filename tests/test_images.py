"""Every kind of good and bad picture, made here with Pillow, and the listing of folders."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from samcli import images
from samcli.errors import SamcliError, SamcliNote
from samcli.images import ImageFile, list_images, load, load_mask

# Four quarters, seen upright: red, green / blue, white; twice as wide as high, so that turns show.
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
QUARTERS = np.repeat(np.repeat(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8), 16, axis=0), 32, axis=1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(QUARTERS)


def ramp() -> np.ndarray:
    """16 rows of all values from 0 to 65535 in steps of 257."""
    return np.repeat((np.arange(256) * 257).astype(np.uint16)[None], 16, axis=0)


def refusal(source: Path | bytes, name: str | None = None) -> str:
    with pytest.raises(SamcliError) as caught:
        load(source, name=name)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]):
    """Whatever happens, nothing is printed and no warning but ours is seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", SamcliNote)
        yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# Good pictures


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("GIF", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG2000", {}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
    ],
)
def test_formats(kind, options, tolerance):
    pixels = load(encoded(picture(), kind, **options))
    assert pixels.dtype == np.uint8
    assert pixels.shape == QUARTERS.shape
    assert np.abs(pixels.astype(int) - QUARTERS).max() <= tolerance


def test_a_file_gives_what_its_bytes_give(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    assert (load(path) == QUARTERS).all()
    assert (load(str(path)) == load(path.read_bytes())).all()


def test_the_array_is_writable_and_contiguous():
    for data in (encoded(picture(), "PNG"), encoded(picture(), "PNG", exif=oriented(6))):
        pixels = load(data)
        pixels[0, 0] = 0
        assert pixels.flags.c_contiguous


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


STORED = {  # how a camera held that way stores the upright picture, by EXIF orientation
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS),
    7: QUARTERS.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(QUARTERS, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotated_is_upright(kind, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0}
    pixels = load(encoded(stored, kind, exif=oriented(orientation), **options))
    assert pixels.shape == QUARTERS.shape
    assert np.abs(pixels.astype(int) - QUARTERS).max() <= 8


def test_16_bit_grey_is_rotated_and_scaled():
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(ramp())))
    assert (load(encoded(stored, "PNG", exif=oriented(6)))[..., 0] == np.arange(256)).all()


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientation_is_ignored(value):
    assert load(encoded(picture(), "PNG", exif=oriented(value))).shape == QUARTERS.shape


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert load(data).shape == QUARTERS.shape


def test_grey():
    pixels = load(encoded(Image.fromarray(QUARTERS[..., 0]), "JPEG", quality=95))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 1] == pixels[..., 2]).all()
    assert abs(int(pixels[5, 5, 0]) - 255) <= 3


def test_one_bit():
    data = encoded(Image.fromarray(QUARTERS[..., 0] > 0), "PNG")
    assert (load(data) == QUARTERS[..., :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = ramp().astype(np.int32) if kind == "PPM" else ramp()  # what Pillow writes as 16 bits
    pixels = load(encoded(Image.fromarray(values), kind))
    assert pixels.shape == (16, 256, 3)
    assert (pixels == np.arange(256)[:, None]).all()


def test_16_bit_rgb():
    header = b"P6\n2 1\n65535\n"
    pixels = load(header + struct.pack(">6H", 65535, 32896, 0, 257, 514, 65535))
    assert pixels.tolist() == [[[255, 128, 0], [1, 2, 255]]]


def png16_rgb(values: np.ndarray) -> bytes:
    """A PNG of 16-bit RGB, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_16_bit_rgb_png():
    pixels = load(png16_rgb(np.repeat(ramp()[..., None], 3, axis=2)))
    assert (pixels == np.arange(256)[:, None]).all()


def test_dark_16_bit_is_noted():
    values = (ramp() // 20).astype(np.uint16)
    with pytest.warns(SamcliNote, match=r"^scan\.png has 16-bit values that stay below 4096 and looks black"):
        load(encoded(Image.fromarray(values), "PNG"), name="scan.png")


def test_cmyk():
    pixels = load(encoded(picture().convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert np.abs(pixels.astype(int) - QUARTERS).max() <= 8


def test_cmyk_as_adobe_inverts_it():
    """Photoshop stores the inks inverted and says so in an APP14 segment; Pillow writes both itself."""
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in data[:64]
    raw = Image.open(io.BytesIO(data))
    raw.tile = [(*raw.tile[0][:3], ("CMYK", *raw.tile[0][3][1:]))]  # decode without undoing the inversion
    assert np.asarray(raw)[0, 0].tolist() != [0, 255, 255, 0]
    assert np.abs(load(data)[0, 0].astype(int) - RED).max() <= 8


def test_palette():
    assert (load(encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG")) == QUARTERS).all()


def with_alpha() -> Image.Image:
    """The quarters, the red one transparent and the green one half."""
    image = picture().convert("RGBA")
    alpha = np.full(QUARTERS.shape[:2], 255, np.uint8)
    alpha[:16, :32], alpha[:16, 32:] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_on_white(kind):
    pixels = load(encoded(with_alpha(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 40].tolist() == [127, 255, 127]
    assert pixels[20, 0].tolist() == list(BLUE)


def test_grey_with_alpha_lies_on_white():
    image = Image.merge("LA", [Image.new("L", (8, 8), 0), Image.linear_gradient("L").resize((8, 8))])
    pixels = load(encoded(image, "PNG"))
    assert (pixels[..., 0] == 255 - np.asarray(image)[..., 1]).all()


def test_palette_with_transparency_lies_on_white():
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    red = int(np.asarray(image)[0, 0])
    for transparency in (red, bytes(0 if i == red else 255 for i in range(256))):
        pixels = load(encoded(image, "PNG", transparency=transparency))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[20, 0].tolist() == list(BLUE)


def test_colour_key_lies_on_white():
    pixels = load(encoded(picture(), "PNG", transparency=RED))
    assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("kind", "unit"), [("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames"), ("TIFF", "pages")]
)
def test_animated_gives_its_first_frame_and_a_note(kind, unit):
    others = [Image.new("RGB", (64, 32), color) for color in ("black", "gray")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(), kind, save_all=True, append_images=others, **options)
    with pytest.warns(SamcliNote) as notes:
        pixels = load(data, name="party.gif")
    assert [str(n.message) for n in notes] == [f"party.gif has 3 {unit}; only the first is used"]
    assert notes[0].filename == __file__  # points at the caller
    assert (pixels == QUARTERS).all()


def test_the_second_picture_in_a_phone_photo_is_no_frame():
    data = encoded(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(data).shape == QUARTERS.shape


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 50), (1, 3000)])
def test_odd_sizes(width, height):
    pixels = load(encoded(Image.new("RGB", (width, height), RED), "PNG"))
    assert pixels.shape == (height, width, 3)
    assert (pixels == RED).all()


def test_path_with_spaces_and_unicode(tmp_path):
    path = tmp_path / "été à la plage" / "猫 & дом #1.png"
    path.parent.mkdir()
    path.write_bytes(encoded(picture(), "PNG"))
    assert (load(path) == QUARTERS).all()
    path.write_bytes(b"")
    assert refusal(path) == f"{path} is empty (0 bytes); copy or download it again"


def test_a_wrong_extension_does_not_matter(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert (load(path) == QUARTERS).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_when_pillow_heif_is_there(orientation):
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    heif.from_pillow(stored).save(buffer, quality=-1, exif=oriented(orientation).tobytes())
    assert np.abs(load(buffer.getvalue()).astype(int) - QUARTERS).max() <= 8


# Bad pictures


def test_missing(tmp_path):
    assert refusal(tmp_path / "no.jpg") == f"{tmp_path}/no.jpg does not exist; check the path"


def test_directory(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} is a folder; give an image file"


def test_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def forbidden(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert refusal(path) == f"{path} cannot be read: permission denied; change its permissions"


def test_a_file_used_as_a_folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = tmp_path / "a.jpg" / "b.jpg"
    assert refusal(path) == f"{path} cannot be read: Not a directory; check the path and the disk"


def test_nul_in_path():
    assert refusal(Path("a\0b.jpg")).startswith("'a\\x00b.jpg' cannot be read: ")


def test_empty(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert refusal(tmp_path / "a.jpg") == f"{tmp_path}/a.jpg is empty (0 bytes); copy or download it again"
    assert refusal(b"", "-") == "- is empty (0 bytes); copy or download it again"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM"])
def test_truncated(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    message = refusal(data[: len(data) * 2 // 3], "photo")
    assert message == "photo is truncated (its end is missing); copy or download it again"


def test_truncated_in_the_header():
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "JPEG2000"):
        message = refusal(encoded(picture(), kind)[:14], "photo")
        assert re.fullmatch("photo is truncated .*; copy or download it again", message)


def test_damaged():
    data = bytearray(encoded(picture(), "PNG"))
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 4] = b"\xff" * 4
    message = refusal(bytes(data), "photo.png")
    assert message.startswith("photo.png is damaged and cannot be decoded (")
    assert message.endswith("); copy or download it again")


def test_text_named_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("Buy milk\n" * 100)
    assert refusal(path) == (
        f"{path} is not an image that samcli reads; "
        "convert it to JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 or AVIF"
    )


def test_postscript_is_never_run():
    """Pillow's EPS reader would start Ghostscript."""
    assert "is not an image that samcli reads" in refusal(encoded(picture(), "EPS"))


def test_heic_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100
    assert refusal(data, "a.heic") == "a.heic is a HEIC image; to read it run: pip install 'samcli[heif]'"


def test_float_values_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    expected = "a.tif holds floating-point values of unknown range; convert it to 8 or 16 bits first"
    assert refusal(data, "a.tif") == expected


def test_32_bit_integers_are_refused():
    data = encoded(Image.fromarray(np.full((4, 4), 100_000, np.int32)), "TIFF")
    assert refusal(data, "a.tif") == "a.tif holds 32-bit integers; convert it to 8 or 16 bits first"


def test_lab_is_refused():
    data = encoded(Image.new("LAB", (4, 4)), "TIFF")
    assert refusal(data, "a.tif") == "a.tif is in the LAB colour space; convert it to RGB first"


def test_the_thumbnail_of_a_raw_file_is_refused():
    data = encoded(picture(), "TIFF", tiffinfo={254: 1})
    assert refusal(data, "a.nef") == (
        "a.nef shows only a thumbnail, as camera raw files do; convert it to JPEG first"
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more than its few bytes hold."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("width", "height", "million"),
    [(15000, 15000, 225), (60000, 60000, 3600), (2**31 - 1, 2**31 - 1, 4611686014132)],
)
def test_decompression_bombs_are_refused_before_decoding(width, height, million):
    assert refusal(bomb(width, height), "bomb.png") == (
        f"bomb.png is {width}x{height} pixels, {million} million; the limit is 200 million; "
        "resize it first, or raise the limit with --max-pixels"
    )


def test_max_pixels():
    data = encoded(picture(), "PNG")
    assert load(data, max_pixels=64 * 32).shape == QUARTERS.shape
    with pytest.raises(SamcliError, match=r"^the image is 64x32 pixels, 2048; the limit is 2000;"):
        load(data, max_pixels=2000)


@pytest.mark.parametrize(
    "limit", [1500, 500]
)  # pixels beyond which Pillow warns, and refuses at twice as many
def test_pillows_own_limit_is_not_seen(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        assert load(encoded(picture(), kind)).shape == QUARTERS.shape
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_is_put_back_after_threads():
    limit = Image.MAX_IMAGE_PIXELS
    data = encoded(picture(), "PNG")
    threads = [threading.Thread(target=lambda: [load(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusal(data[:-40])
    assert limit == Image.MAX_IMAGE_PIXELS


def test_any_damage_is_an_image_or_one_clear_line():
    """Cuts, gaps and flips in every format."""
    rng = np.random.default_rng(7)
    small = picture().resize((24, 12))
    sources = [
        encoded(small, kind, exif=oriented(6))
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
    ]
    sources.append(encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]))
    decoded, refused = 0, []
    for data in sources:
        for _ in range(60):
            damaged = bytearray(data)
            kind = rng.integers(3)
            if kind == 0:
                del damaged[rng.integers(1, len(data)) :]
            elif kind == 1:
                del damaged[(start := rng.integers(len(data))) : start + 8]
            else:
                for place in rng.integers(0, min(len(data), 300), 3):
                    damaged[place] = rng.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SamcliNote)
                try:
                    pixels = load(bytes(damaged), name="x", max_pixels=1_000_000)
                except SamcliError as error:
                    refused.append(str(error))
                else:
                    assert pixels.ndim == 3
                    decoded += 1
    assert decoded > 50
    assert len(refused) > 50
    assert all(line.startswith("x ") and "\n" not in line for line in refused)


# Provenance


def test_input_file_is_of_the_very_bytes(tmp_path):
    data = encoded(picture(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    source = images.input_file(images.read(tmp_path / "a.png"), PurePosixPath("sub/a.png"))
    assert (source.path, source.bytes, source.sha256) == ("sub/a.png", len(data), sha256(data).hexdigest())


# Mask pictures

SHAPE = np.zeros((20, 30), bool)
SHAPE[5:15, 8:25] = True


@pytest.mark.parametrize("high", [1, 3, 127, 128, 255])
def test_mask_of_two_values(high):
    assert (load_mask(encoded(Image.fromarray(SHAPE.astype(np.uint8) * high), "PNG")) == SHAPE).all()


def test_mask_of_one_bit():
    assert (load_mask(encoded(Image.fromarray(SHAPE), "PNG")) == SHAPE).all()


@pytest.mark.parametrize("high", [1, 300, 65535])
def test_mask_of_16_bits(high):
    mask = load_mask(encoded(Image.fromarray(SHAPE.astype(np.uint16) * high), "PNG"))
    assert (mask == SHAPE).all()


def test_mask_blurred_by_jpeg():
    data = encoded(Image.fromarray(SHAPE.astype(np.uint8) * 255), "JPEG", quality=60)
    assert (load_mask(data) == SHAPE).mean() > 0.99
    assert set(np.unique(load(data))) - {0, 255}, "the test means a mask with noise"


def test_mask_in_colour():
    pixels = np.zeros((*SHAPE.shape, 3), np.uint8)
    pixels[SHAPE] = (0, 0, 200)
    assert (load_mask(encoded(Image.fromarray(pixels), "PNG")) == SHAPE).all()


def test_mask_in_a_palette_counts_what_is_not_black():
    image = Image.fromarray(SHAPE.astype(np.uint8) + SHAPE.cumsum(axis=1).astype(bool))
    image.putpalette([0, 0, 0, 20, 0, 0, 240, 240, 240])
    assert (load_mask(encoded(image, "PNG")) == (np.asarray(image) > 0)).all()


def test_mask_of_a_cutout_is_its_alpha():
    pixels = np.full((*SHAPE.shape, 4), 255, np.uint8)
    pixels[..., 3] = SHAPE * 255
    assert (load_mask(encoded(Image.fromarray(pixels), "PNG")) == SHAPE).all()


def test_mask_with_opaque_alpha_is_its_colour():
    pixels = np.repeat((SHAPE * 255).astype(np.uint8)[..., None], 4, axis=2)
    pixels[..., 3] = 255
    assert (load_mask(encoded(Image.fromarray(pixels), "PNG")) == SHAPE).all()


def test_empty_mask():
    assert not load_mask(encoded(Image.new("L", (5, 4)), "PNG")).any()


def test_mask_is_upright():
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(SHAPE)).astype(np.uint8) * 255)
    assert (load_mask(encoded(stored, "PNG", exif=oriented(6))) == SHAPE).all()


def test_bad_mask():
    with pytest.raises(SamcliError, match=r"^m\.png is not an image that samcli reads"):
        load_mask(b"no mask", name="m.png")


# Listing


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(*paths: Path, root: Path | None = None, exclude: Path | None = None) -> list[str]:
    return [str(image.relative) for image in list_images(list(paths), root=root, output=exclude)]


def test_folder_is_its_own_root_sorted_and_filtered(tmp_path):
    tree(
        tmp_path,
        "b.JPG", "a.png", "sub/z.tiff", "sub/deep/y.webp", "a dir/x.jpeg", "notes.txt", "b.json", "jpg",
        ".hidden.jpg", ".git/c.jpg", "sub/.DS_Store", ".samcli-tmp-1.png",
    )  # fmt: skip
    assert listed(tmp_path) == ["a dir/x.jpeg", "a.png", "b.JPG", "sub/deep/y.webp", "sub/z.tiff"]
    first = next(iter(list_images([tmp_path])))
    assert first == ImageFile(tmp_path / "a dir/x.jpeg", PurePosixPath("a dir/x.jpeg"))


def test_files_are_taken_whatever_their_name_and_in_the_order_given(tmp_path):
    tree(tmp_path, "b.dat", ".a.jpg", "sub/c.jpg")
    assert listed(tmp_path / "sub/c.jpg", tmp_path / "b.dat", tmp_path / ".a.jpg") == [
        "c.jpg",
        "b.dat",
        ".a.jpg",
    ]


def test_a_missing_file_is_listed_and_fails_when_read(tmp_path):
    (image,) = list_images([tmp_path / "no.jpg"])
    assert refusal(image.path) == f"{tmp_path}/no.jpg does not exist; check the path"


def test_root_of_files(tmp_path, monkeypatch):
    tree(tmp_path, "day1/a.jpg", "day2/a.jpg")
    assert listed(tmp_path / "day1/a.jpg", tmp_path / "day2/a.jpg", root=tmp_path) == [
        "day1/a.jpg",
        "day2/a.jpg",
    ]
    monkeypatch.chdir(tmp_path / "day1")
    assert listed(Path("a.jpg"), root=Path("..")) == ["day1/a.jpg"]
    assert listed(Path("../day2/a.jpg"), root=Path("..")) == ["day2/a.jpg"]


def test_file_outside_the_root(tmp_path):
    tree(tmp_path, "a.jpg", "root/b.jpg")
    with pytest.raises(SamcliError) as caught:
        list_images([tmp_path / "a.jpg"], root=tmp_path / "root")
    assert str(caught.value) == (
        f"{tmp_path}/a.jpg lies outside the root {tmp_path}/root; give a root that holds it"
    )


def test_folder_without_images_is_refused_before_anything_is_listed(tmp_path):
    tree(tmp_path, "full/a.jpg", "empty/notes.txt")
    with pytest.raises(SamcliError) as caught:
        list_images([tmp_path / "full", tmp_path / "empty"])
    assert str(caught.value).startswith(
        f"{tmp_path}/empty holds no image; samcli looks for .apng .avif .bmp "
    )


def test_output_folder_is_left_out(tmp_path):
    tree(tmp_path, "a.jpg", "out/a.overlay.jpg", "out/a.masks/0.png")
    assert listed(tmp_path, exclude=tmp_path / "out") == ["a.jpg"]
    assert listed(tmp_path, exclude=tmp_path / "sub" / ".." / "out") == ["a.jpg"]
    assert len(listed(tmp_path)) == 3


def test_output_folder_that_appears_while_listing_is_left_out(tmp_path):
    tree(tmp_path, "a.jpg", "b.jpg")
    listing = list_images([tmp_path], output=tmp_path / "out")
    next(listing)
    tree(tmp_path, "out/a.overlay.jpg")
    assert [str(image.relative) for image in listing] == ["b.jpg"]


def test_results_written_beside_their_inputs_are_no_inputs(tmp_path):
    tree(
        tmp_path,
        "a.jpg", "a.overlay.jpg", "a.labelmap.png", "a.masks/0.png", "a.cutout/0.png",
        "sub/b.overlay.jpg", "sub/b.png",
    )  # fmt: skip
    for folder, exclude, expected in [
        (tmp_path, tmp_path, ["a.jpg", "sub/b.png"]),
        (tmp_path / "sub", tmp_path, ["b.png"]),
    ]:
        assert listed(folder, exclude=exclude) == expected


def test_loops_of_links_are_survived(tmp_path):
    tree(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "photos/sub/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/self").symlink_to(".")
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/broken.jpg").symlink_to("nowhere")
    assert listed(tmp_path / "photos") == ["a.jpg", "broken.jpg", "linked/c.jpg", "sub/b.jpg"]


def test_pipes_in_a_folder_are_left_out(tmp_path):
    tree(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert listed(tmp_path) == ["a.jpg"]


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    tree(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    listing = list_images([tmp_path])
    assert str(next(listing).relative) == "a.jpg"
    with pytest.raises(SamcliError) as caught:
        next(listing)
    assert str(caught.value) == (
        f"{tmp_path}/locked cannot be listed: Permission denied; change its permissions or leave it out"
    )


@pytest.mark.parametrize("orientation", range(10))
def test_the_size_from_the_header_is_that_of_the_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (7, 4)).save(path, exif=exif)
    assert images.size_of(path) == images.load(path).shape[:2]


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_has_no_size_fails_as_it_would_when_decoded(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(SamcliError) as header:
        images.size_of(path)
    with pytest.raises(SamcliError) as whole:
        images.load(path)
    assert str(header.value) == str(whole.value)


# Perceptual hashes


@pytest.mark.parametrize(
    ("name", "stated"),  # by imagehash 4.3.2's phash
    [
        ("animals/cat", "b15fe6465121175e"),
        ("astronaut", "c2924c5532bddfc8"),
        ("coffee", "bb8320376c0f3637"),
        ("coins", "e4d5b5a92b54523a"),
        ("rocket", "c0371bec1be51267"),
    ],
)
def test_perceptual_hashes_are_those_of_imagehash(name, stated):
    pixels = load(Path(__file__).parents[1] / "examples" / f"{name}.jpg")
    assert images.perceptual_hash(pixels) == stated


def test_a_copy_has_nearly_the_same_hash():
    def bits(pixels: np.ndarray) -> int:
        return int(images.perceptual_hash(pixels), 16)

    pixels = load(Path(__file__).parents[1] / "examples" / "coffee.jpg")
    smaller = Image.fromarray(pixels).resize((200, 133), Image.Resampling.BICUBIC)
    again = load(encoded(smaller, "JPEG", quality=40))
    assert (bits(pixels) ^ bits(again)).bit_count() <= 4
    assert (bits(pixels) ^ bits(np.ascontiguousarray(pixels[:, ::-1]))).bit_count() > 16
    flat = {images.perceptual_hash(np.full((50, side, 3), side, np.uint8)) for side in range(1, 256, 5)}
    assert flat == {"8000000000000000"}
