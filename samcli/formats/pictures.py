"""Masks as pictures, a file or a folder for each image: index maps, single masks, cut-outs.

Index maps number the masks of an image from 1; with merged categories they number these, the same in all
images, and classes.json says which is which.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samcli.errors import SamcliError
from samcli.formats.atomic import new_folder, write_bytes, write_text
from samcli.formats.files import load_json, mask_picture, open_picture, tree, walk
from samcli.formats.png import cutout, encode_png
from samcli.formats.select import label_map, mask_of, record_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write
from samcli.masks import decode_rle, encode_rle, label_rles
from samcli.records import ImageRecord, MaskRecord

CLASSES = "classes.json"
"""In a folder of maps of categories: {"1": name, ...}."""


def write_labelmap(place: Path, export: Export) -> AbstractContextManager[Write]:
    """`<name>.png`, 16-bit."""
    return _write_maps(place, export, ".png", 2**16 - 1, encode_png)


def write_tiff(place: Path, export: Export) -> AbstractContextManager[Write]:
    """`<name>.tif`, 16-bit, compressed."""

    def encode(labels: NDArray[np.uint16]) -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(labels)
        picture.save(buffer, "TIFF", compression="tiff_adobe_deflate")
        return buffer.getvalue()

    return _write_maps(place, export, ".tif", 2**16 - 1, encode)


def write_palette(place: Path, export: Export) -> AbstractContextManager[Write]:
    """`<name>.png`, 8-bit with the colours of Pascal VOC."""

    def encode(labels: NDArray[np.uint16]) -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(voc_palette().tobytes())
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    return _write_maps(place, export, ".png", 255, encode)


@contextmanager
def _write_maps(
    place: Path, export: Export, ending: str, most: int, encode: Callable[[NDArray[np.uint16]], bytes]
) -> Iterator[Write]:
    categories = export.categories()

    def write(item: Item) -> None:
        masks = item.record.annotations
        values = [categories.number(mask) for mask in masks] if export.merged else range(1, len(masks) + 1)
        if 0 in values:
            raise SamcliError(f"{item.name}: a category has the number 0, which is the background of a map")
        if max(values, default=0) > most:
            what = "categories" if export.merged else "masks"
            raise SamcliError(
                f"{item.name}: {max(values)} {what} do not fit a map of values up to {most}; filter them, "
                "or choose another format"
            )
        labels = label_map(masks, (item.record.height, item.record.width), export.flatten, values)
        write_bytes(place / f"{item.name}{ending}", encode(labels))

    yield write
    if export.merged:
        names = {str(category["id"]): category["name"] for category in categories.to_json()}
        write_text(place / CLASSES, json.dumps({"0": "", **names}, ensure_ascii=False, indent=1) + "\n")
    else:
        (place / CLASSES).unlink(missing_ok=True)  # of earlier maps


def voc_palette() -> NDArray[np.uint8]:
    """The colours of Pascal VOC (256, 3) RGB: the bits of an index, in turn, from the top of each channel."""
    index = np.arange(256)
    shifts = np.arange(8)[:, None]
    channels = [((index >> (3 * shifts + c) & 1) << (7 - shifts)).sum(axis=0) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def read_labelmap(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Index maps: a mask for each value above 0; also 8-bit grey and palette pictures."""
    return _read_maps(place, photos, (".png",))


def read_tiff(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Index maps as TIFF."""
    return _read_maps(place, photos, (".tif", ".tiff"))


read_palette = read_labelmap


def _read_maps(place: Path, photos: Photos | None, endings: tuple[str, ...]) -> Iterator[Item | Unreadable]:
    names: dict[str, str] = {}
    if (place / CLASSES).is_file():
        try:
            names = dict(load_json(place / CLASSES))
        except (SamcliError, TypeError, ValueError) as error:
            raise SamcliError(f"{place / CLASSES}: {error}") from error
    for path, name in tree(place, endings):
        try:
            image = open_picture(path)
            if image.mode not in ("L", "P", "I", "I;16", "I;16B", "1"):
                raise SamcliError(f"its mode is {image.mode}, no index map")
            labels = np.asarray(image)
            masks = [
                mask_of(
                    rle,
                    id=number if names else value,
                    category=names.get(str(value)),
                    category_id=value if names else None,
                )
                for number, (value, rle) in enumerate(label_rles(labels).items(), start=1)
            ]
            yield Item(name, _record(name, photos, labels.shape, masks))
        except SamcliError as error:
            yield Unreadable(str(path), f"{path}: {error}")


@contextmanager
def write_png(place: Path, export: Export) -> Iterator[Write]:
    """`<name>/<id>.png`, or `<id>_<category>.png`: 255 inside, 0 outside."""

    def write(item: Item) -> None:
        with new_folder(place / item.name) as folder:
            for file, mask in _files(item.record.annotations):
                (folder / file).write_bytes(encode_png(decode_rle(mask.segmentation)))

    yield write


def read_png(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Folders of pictures, a mask each: `<id>.png` or `<id>_<category>.png`, or any other name.

    Also reads cut-outs of full size. Without photos an image without masks has no known size, and fails.
    """
    if not place.is_dir():
        raise SamcliError(f"{place} is not a folder; give a folder with a folder of masks for each image")
    for name, entries, folders in walk(place):
        files = [entry for entry in entries if entry.endswith(".png")]
        if not files and (not name.name or folders):
            continue
        here = name if name.name else PurePosixPath(place.name)
        try:
            masks = [_from_png(place / name / file) for file in files]
            masks.sort(key=lambda mask: -1 if mask.id is None else mask.id)
            sizes = {(s[0], s[1]) for mask in masks if (s := mask.segmentation["size"])}
            if len(sizes) > 1:
                raise SamcliError("masks differ in size; cut-outs must not be --tight")
            if not sizes and photos is None:
                raise SamcliError("no masks, so no size; name the folder of the photos with --images")
            size = photos.size(photos.named(here)) if photos else sizes.pop()
            if sizes - {size}:
                raise SamcliError(f"masks are not of the photo's size {list(size)}")
            yield Item(here, _record(here, photos, size, masks))
        except SamcliError as error:
            yield Unreadable(str(place / name), f"{place / name}: {error}")


read_cutout = read_png


def _from_png(path: Path) -> MaskRecord:
    number, _, category = path.stem.partition("_")
    try:
        bits = mask_picture(path)
    except SamcliError as error:
        raise SamcliError(f"{path.name}: {error}") from error
    if number.isdecimal():
        return mask_of(encode_rle(bits), id=int(number), category=category or None)
    return mask_of(encode_rle(bits), category=path.stem)


@contextmanager
def write_cutout(place: Path, export: Export) -> Iterator[Write]:
    """`<name>/<id>.png`, or `<id>_<category>.png`: the photo where the mask is, transparent elsewhere.

    tight: only the mask's box.
    """

    def write(item: Item) -> None:
        record, photos = item.record, export.photos
        assert photos is not None
        pixels = photos.pixels(record.file_name)
        if pixels.shape[:2] != (record.height, record.width):
            height, width = pixels.shape[:2]
            raise SamcliError(
                f"{photos.path(record.file_name)} is {width}x{height} pixels, its masks are "
                f"{record.width}x{record.height}; give the photo that they were made of"
            )
        with new_folder(place / item.name) as folder:
            for file, mask in _files(record.annotations):
                rgba = cutout(pixels, [mask.segmentation])
                if export.tight:
                    x, y, width, height = (int(v) for v in mask.bbox)
                    rgba = rgba[y : y + height, x : x + width]
                if rgba.size:
                    (folder / file).write_bytes(encode_png(rgba))

    yield write


def _files(masks: Sequence[MaskRecord]) -> Iterator[tuple[str, MaskRecord]]:
    """Masks with the names of their files; each name once."""
    taken: set[str] = set()
    for number, mask in enumerate(masks, start=1):
        name = str(number if mask.id is None else mask.id)
        if mask.category is not None:
            plain = "".join("-" if c in '/\\:*?"<>|' or ord(c) < 32 else c for c in mask.category)
            name += f"_{plain.encode('utf-8', 'ignore')[:150].decode('utf-8', 'ignore')}"
        while name in taken:
            name += f"_{number}"
        taken.add(name)
        yield f"{name}.png", mask


def _record(
    name: PurePosixPath, photos: Photos | None, size: Sequence[int], masks: Sequence[MaskRecord]
) -> ImageRecord:
    file_name = photos.named(name) if photos else name.as_posix()
    return record_of(PurePosixPath(file_name), size, masks)
