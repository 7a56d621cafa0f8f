"""Listing input images, and decoding them to upright RGB.

What a picture becomes, whatever its file says: (height, width, 3) uint8 RGB, rotated and flipped by its EXIF
orientation (so coordinates are those of the picture a viewer shows), the first frame or page of several,
16-bit values scaled to 8 bits, CMYK converted, and transparency laid on white, as browsers show it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from samcli.errors import RefusedError, SamcliError, SamcliNote
from samcli.records import InputFile

MAX_PIXELS = 200_000_000  # 600 MB as RGB; beyond it a header is more likely a trap than a photo

EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Names with these endings (in any case) are the images of a folder. A file given by name may have any."""

# Pillow's other readers stay out: some start programs (EPS) or accept almost any bytes.
_FORMATS = ("JPEG", "PNG", "WEBP", "MPO", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
_READABLE = "JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 or AVIF"
_ANIMATED = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8", b"\0\0\0\x0cjP")
_SUBFILE = 254  # TIFF tag NewSubfileType; bit 0: a reduced picture of another one in the file
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# What Pillow's readers raise on damaged files; all of them become one SamcliError.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)

# Pictures that samcli itself writes beside the records (samcli.formats.names): not inputs when a run's output
# folder is the folder it reads.
OUTPUT_SUFFIXES = (".overlay.jpg", ".overlay.png", ".labelmap.png", ".cutout.png")
OUTPUT_FOLDERS = (".masks", ".cutout")
DATASET = "dataset.json"  # in a dataset, lists what is made of its records: {"samcli": {"made": [...], ...}}

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class ImageFile:
    """An input image: where it lies, and its path relative to its root, which names its outputs.

    problem: one line, when it is known already that nothing may be written for it.
    """

    path: Path
    relative: PurePosixPath
    problem: str | None = None


def read(path: Path) -> bytes:
    """The bytes of an image file. Raises SamcliError, naming the file, when it is empty or unreadable."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SamcliError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise SamcliError(f"{path} is a folder; give an image file") from None
    except PermissionError:
        raise SamcliError(f"{path} cannot be read: permission denied; change its permissions") from None
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path and the disk") from error
    except ValueError as error:  # a NUL byte in the path
        raise SamcliError(f"{str(path)!r} cannot be read: {error}; check the path") from error
    if not data:
        raise SamcliError(f"{path} is empty (0 bytes); copy or download it again")
    return data


def digest(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, read in pieces. Raises OSError."""
    size, sha256 = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            size += len(piece)
            sha256.update(piece)
    return size, sha256.hexdigest()


def input_file(data: bytes, relative: PurePosixPath | str) -> InputFile:
    """Provenance of an image from the very bytes that are decoded. relative: path relative to its root."""
    return InputFile(str(relative), len(data), hashlib.sha256(data).hexdigest())


def load(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
    room: Callable[[int], None] = lambda size: None,
) -> NDArray[np.uint8]:
    """Decode an image to (height, width, 3) uint8 RGB, upright.

    source: a file, or its bytes. max_pixels: larger pictures are refused from their header, before decoding.
    name: what errors and notes call the image, the path when left out. room: called before decoding with the
    bytes that the pixels will take; may wait.
    Raises SamcliError, in one line with the name and the remedy, for whatever cannot be decoded. Warns with
    SamcliNote when there are more frames or pages than the first, which is the one used, and when 16-bit
    values leave the picture black.
    """
    name, data = _named(source, name)
    image = _decode(data, name, max_pixels, room)
    return _upright(_rgb(image, name), image)


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """What an image (H, W, 3) uint8 RGB looks like, as 64 bits in 16 hexadecimal digits.

    Copies that were resized or saved anew differ in few bits, other images in about half of them. It is the
    pHash of PyPI's `imagehash`: signs of the lowest 8 x 8 cosine frequencies of the grey image of 32 x 32
    pixels, against their median.
    """
    grey = Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    angles = np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1)
    cosines = np.cos(angles)
    # Rounded, or the hash of a picture of one colour would be one of rounding errors.
    lowest = (cosines @ np.asarray(grey, np.float64) @ cosines.T).round(6)
    bits = (lowest > np.median(lowest)).ravel()
    return np.packbits(bits).tobytes().hex()


def check_pixels(image: NDArray[np.uint8]) -> None:
    """Raise SamcliError unless an array is (H, W, 3) uint8, and not empty."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise SamcliError(
            f"an image array is {image.shape} {image.dtype}; give (height, width, 3) uint8, RGB"
        )


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an image as `load` gives it, from its header. Raises SamcliError."""
    try:
        file = path.open("rb")
    except OSError:
        read(path)  # says why
        raise
    try:
        with _quiet_pillow, file:
            Image.init()
            image: Image.Image
            try:
                image = Image.open(file, formats=[f for f in _FORMATS if f in Image.OPEN])
            except UnidentifiedImageError:  # says why, or reads what another package can
                image = _opened(read(path), str(path))
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except _DAMAGED as error:
        raise SamcliError(f"{path} is damaged and cannot be decoded; copy or download it again") from error


def load_mask(
    source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> NDArray[np.bool_]:
    """Read a binary mask picture to (height, width) bool, upright; True is the thing.

    A picture with transparent parts (a cut-out) means its alpha: above half. Otherwise a pixel counts by its
    brightest channel: above half of the range (> 127 in 8 bits), or above 0 when none is above half, so that
    0/255, 0/1 and masks blurred by JPEG all read as meant. In a palette picture whatever is not black counts.
    Raises SamcliError as `load` does.
    """
    name, data = _named(source, name)
    image = _decode(data, name, max_pixels)
    values, half = _mask_values(image, name)
    above = values > half
    return _upright(above if above.any() else values > 0, image)


@dataclass(frozen=True)
class Chosen:
    """Which images to take, by patterns as of `fnmatch` ("*.jpg"), in which * also stands for "/".

    A pattern with a slash is held against the path below the root, others against each name in that path, so
    that a folder's name stands for all that is in it. include: at least one must fit, when there are any.
    exclude: none may fit.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __contains__(self, relative: PurePosixPath) -> bool:
        return not self.excludes(relative) and (not self.include or _fits(relative, self.include))

    def excludes(self, relative: PurePosixPath) -> bool:
        """Whether a file, or all of a folder, is out."""
        return _fits(relative, self.exclude)


EVERYTHING = Chosen()


def list_images(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    output: Path | None = None,
    chosen: Chosen = EVERYTHING,
) -> Iterator[ImageFile]:
    """The images of files and folders, in the order given; folders recursively, sorted by name, as a stream.

    A folder is its own root. A file's root is `root`, or its parent when that is None; a file is taken
    whatever its name, and also when it does not exist (reading it then fails, alone). Left out of folders are
    hidden names, names without one of EXTENSIONS, the folder `output` (where the run writes), what `samcli
    annotate` made in datasets, and loops of links; when `output` is such a folder itself or holds it, the
    pictures a run writes are left out by their names. Of what remains, only what is `chosen` is listed.
    Raises SamcliError at once when a folder holds no image or a file lies outside `root`, and later when a
    folder cannot be listed.
    """
    folders = [path for path in paths if path.is_dir()]
    for folder in folders:
        if next(_walk(folder, output, chosen), None) is None:
            if chosen != EVERYTHING and next(_walk(folder, output, EVERYTHING), None):
                raise SamcliError(f"{folder} holds no image that --include and --exclude leave")
            raise SamcliError(f"{folder} holds no image; samcli looks for {' '.join(EXTENSIONS)}")
    files = {path: located(path, root) for path in paths if path not in folders}
    return (
        image
        for path in paths
        for image in ([files[path]] if path in files else _walk(path, output, chosen))
        if path not in files or image.relative in chosen
    )


def located(path: Path, root: Path | None = None) -> ImageFile:
    """A file and its path below `root`, or below its parent. Raises SamcliError when it lies outside."""
    if root is None:
        return ImageFile(path, PurePosixPath(path.name))
    try:
        # abspath, not resolve: a link inside the root keeps its own name
        inside = Path(os.path.abspath(path)).relative_to(os.path.abspath(root))  # noqa: PTH100
    except ValueError:
        raise SamcliError(f"{path} lies outside the root {root}; give a root that holds it") from None
    return ImageFile(path, PurePosixPath(inside.as_posix()))


def _fits(relative: PurePosixPath, patterns: Sequence[str]) -> bool:
    path = relative.as_posix()
    return any(
        fnmatchcase(path, pattern.removeprefix("./").strip("/"))
        if "/" in pattern.rstrip("/")
        else any(fnmatchcase(name, pattern.rstrip("/")) for name in relative.parts)
        for pattern in patterns
    )


def _walk(folder: Path, output: Path | None, chosen: Chosen) -> Iterator[ImageFile]:
    top = os.path.realpath(folder)
    out = None if output is None else os.path.realpath(output)
    shared = out is not None and Path(top).is_relative_to(out)

    def ours(name: str, suffixes: tuple[str, ...]) -> bool:
        return shared and name.endswith(suffixes)

    def visit(place: Path, relative: PurePosixPath, above: frozenset[str]) -> Iterator[ImageFile]:
        try:
            with os.scandir(place) as entries:
                listing = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise SamcliError(
                f"{place} cannot be listed: {error.strerror}; change its permissions or leave it out"
            ) from error
        made = _made(place) if any(entry.name == DATASET for entry in listing) else set()
        for entry in listing:
            path, below = place / entry.name, relative / entry.name
            if entry.is_dir():
                real = os.path.realpath(path)
                if not (
                    real in above
                    or real == out
                    or entry.name in made
                    or ours(entry.name, OUTPUT_FOLDERS)
                    or chosen.excludes(below)
                ):
                    yield from visit(path, below, above | {real})
            elif (
                path.suffix.lower() in EXTENSIONS
                and (entry.is_file() or entry.is_symlink())  # a broken link fails when read, with a line
                and not ours(entry.name, OUTPUT_SUFFIXES)
                and below in chosen
            ):
                yield ImageFile(path, below)

    return visit(folder, PurePosixPath(), frozenset({top}))


def _made(folder: Path) -> set[str]:
    """The folders that `samcli annotate` made in a dataset's, whose pictures are no photos."""
    try:
        made = json.loads((folder / DATASET).read_bytes())["samcli"]["made"]
        return {"report", *(name for name in made if isinstance(name, str))}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()  # of another program


def _named(source: str | Path | bytes, name: str | None) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name = name or "the image"
        if not source:
            raise SamcliError(f"{name} is empty (0 bytes); copy or download it again")
        return name, source
    return name or str(source), read(Path(source))


def _note(line: str) -> None:
    warnings.warn(line, SamcliNote, stacklevel=4)  # points at the caller of `load`


def _decode(
    data: bytes, name: str, max_pixels: int, room: Callable[[int], None] = lambda size: None
) -> Image.Image:
    """The first frame, loaded, in its own mode. Every way a file can be bad leaves as one SamcliError."""
    frames, unit = 1, ""
    try:
        with _quiet_pillow:
            image = _opened(data, name)
            width, height = image.size
            if width * height > max_pixels:
                raise RefusedError(
                    f"{name} is {width}x{height} pixels, {_count(width * height)}; the limit is "
                    f"{_count(max_pixels)}; resize it first, or raise the limit with --max-pixels"
                )
            room(3 * width * height)
            if isinstance(image, TiffImageFile) and image.tag_v2.get(_SUBFILE, 0) & 1:
                raise SamcliError(
                    f"{name} shows only a thumbnail, as camera raw files do; convert it to JPEG first"
                )
            if image.format in _ANIMATED:
                frames, unit = getattr(image, "n_frames", 1), _ANIMATED[image.format]
                image.seek(0)
            image.load()
    except MemoryError as error:
        raise RefusedError(f"{name} needs more memory than there is; resize it first") from error
    except _DAMAGED as error:
        if any(sign in str(error).lower() for sign in ("truncated", "only got", "end of file")):
            raise SamcliError(
                f"{name} is truncated (its end is missing); copy or download it again"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SamcliError(
            f"{name} is damaged and cannot be decoded ({reason}); copy or download it again"
        ) from error
    if frames > 1:
        _note(f"{name} has {frames} {unit}; only the first is used")
    return image


def _count(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} million" if pixels >= 10**6 else str(pixels)


class _QuietPillow:
    """Silences Pillow while any thread of ours decodes: our own size limit and messages stand in for its own.

    Pillow keeps its limit, and Python its warning filters, for the whole process, so the first thread in sets
    them and the last one out puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None
                log, handler = logging.getLogger("PIL"), logging.NullHandler()  # else Python prints to stderr
                log.addHandler(handler)
                self._restore.callback(log.removeHandler, handler)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()


_quiet_pillow = _QuietPillow()


def _opened(data: bytes, name: str) -> Image.Image:
    Image.init()
    try:
        return Image.open(BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
            return _opened_heif(data, name)
        if data.startswith(_SIGNATURES) or data[4:12] == b"ftypavif":
            raise SamcliError(f"{name} is truncated or damaged; copy or download it again") from None
        raise SamcliError(f"{name} is not an image that samcli reads; convert it to {_READABLE}") from None


def _opened_heif(data: bytes, name: str) -> Image.Image:
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError:
        raise RefusedError(f"{name} is a HEIC image; to read it run: pip install 'samcli[heif]'") from None
    image: Image.Image = pillow_heif.HeifImageFile(BytesIO(data))
    return image


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Pixels as (height, width, 3) uint8, not yet upright."""
    if _is_deep(image):
        deep = _deep_values(image, name)
        if deep.size > 1 and 0 < deep.max() < 4096:
            _note(
                f"{name} has 16-bit values that stay below 4096 and looks black; stretch them to 65535 first"
            )
        grey = ((deep.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(canvas)
    return np.asarray(_convertible(image, name).convert("RGB"))


def _mask_values(image: Image.Image, name: str) -> tuple[NDArray[np.uint16], int]:
    """Values of a mask picture, (height, width), with half of their range; not yet upright."""
    if _is_deep(image):
        return _deep_values(image, name), 32767
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha.astype(np.uint16), 127
    brightest = np.asarray(_convertible(image, name).convert("RGB")).max(axis=2)
    return brightest.astype(np.uint16), 0 if image.mode == "P" else 127


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _deep_values(image: Image.Image, name: str) -> NDArray[np.uint16]:
    """16-bit grey values; Pillow 10 and 11 hold those of PNG and PGM files in 32 bits."""
    values = np.asarray(image)
    if image.mode == "I" and (image.format not in ("PNG", "PPM") or values.min() < 0 or values.max() > 65535):
        raise SamcliError(f"{name} holds 32-bit integers; convert it to 8 or 16 bits first")
    return values.astype(np.uint16)


def _convertible(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise SamcliError(
            f"{name} holds floating-point values of unknown range; convert it to 8 or 16 bits first"
        )
    if image.mode == "LAB":
        raise SamcliError(f"{name} is in the LAB colour space; convert it to RGB first")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 (upright) to 8; from 5 on height and width change places."""
    try:
        with _quiet_pillow:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        orientation = 1  # damaged EXIF is no reason to lose the picture
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: NDArray[Pixel], image: Image.Image) -> NDArray[Pixel]:
    """Apply the EXIF orientation of `image` to its pixels (height, width, ...)."""
    orientation = _orientation(image)
    quarters = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)  # counter-clockwise
    turned = np.rot90(pixels, quarters)
    if orientation in (2, 4):
        turned = turned[:, ::-1]
    elif orientation in (5, 7):
        turned = turned[::-1]
    return np.require(turned, requirements=["C_CONTIGUOUS", "WRITEABLE"])  # Pillow's own memory is read-only
