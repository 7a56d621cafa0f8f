"""Label Studio: tasks with predictions, each mask a brush label.

Brush labels are run-length encoded in Label Studio's own way, that of thi.ng's rle-pack: a stream of bits
over RGBA values, row by row. After 32 bits with the number of values, 5 with the size of a value less one,
and four times 4 with sizes of lengths less one, come runs: a bit (1: one value repeated; 0: several
values), 2 bits that choose a size, the length less one, and the value or the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.formats.files import json_bytes, json_items
from samcli.formats.polygons import polygons_rle
from samcli.formats.select import category_of, mask_of, record_of, score_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write, relative
from samcli.masks import decode_rle, encode_rle
from samcli.records import RLE, ImageRecord, MaskRecord, check_size

FROM, TO = "tag", "image"  # the names of <BrushLabels> and <Image> in Label Studio's own templates
SIZES = (3, 4, 8, 16)
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels")
_OURS = ("predicted_iou", "stability_score", "point_coords", "crop_box", "phrase", "detector_score")


@contextmanager
def write_labelstudio(file: BinaryIO, export: Export) -> Iterator[Write]:
    """A list of tasks; `export.prefix` and the photo's path are its address."""
    first = True

    def write(item: Item) -> None:
        nonlocal first
        record = item.record
        scores = [score for mask in record.annotations if (score := score_of(mask)) is not None]
        prediction: dict[str, Any] = {
            "model_version": record.run.model if record.run else "unknown",
            "result": [_region(mask, i, record) for i, mask in enumerate(record.annotations, start=1)],
        }
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        address = _address(export.prefix, record.file_name)
        task = {"data": {"image": address}, "predictions": [prediction]}
        file.write((b"[\n " if first else b",\n ") + json_bytes(task))
        first = False

    yield write
    file.write(b"[]\n" if first else b"]\n")


def _region(mask: MaskRecord, number: int, record: ImageRecord) -> dict[str, Any]:
    data = mask.to_json()
    score = score_of(mask)
    return {
        "id": str(number if mask.id is None else mask.id),
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": encode_brush(decode_rle(mask.segmentation)),
            "brushlabels": [category_of(mask)],
        },
        **({} if score is None else {"score": score}),
        **({"meta": ours} if (ours := {key: data[key] for key in _OURS if key in data}) else {}),
    }


def read_labelstudio(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Tasks with the masks of their first annotation, or else of their first prediction.

    Brush labels, polygons and upright rectangles are masks; other regions are passed over.
    """
    for number, task in enumerate(json_items(place), start=1):
        name = f"task {number} of {place}"
        try:
            data = task["data"]
            path = _path(str(data[TO] if TO in data else next(iter(data.values()))))
            done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
            sets = done or task.get("predictions") or [{"result": []}]
            regions = [region for region in sets[0]["result"] if region.get("type") in _KINDS]
            masks = tuple(_mask(region, i) for i, region in enumerate(regions, start=1))
            sizes = {(mask.segmentation["size"][0], mask.segmentation["size"][1]) for mask in masks}
            if len(sizes) > 1:
                raise SamcliError("masks differ in size")
            if not sizes and photos is None:
                raise SamcliError("no masks, so no size; name the folder of the photos with --images")
            height, width = sizes.pop() if sizes else photos.size(str(path))  # type: ignore[union-attr]
            yield Item(
                path.with_suffix(""),
                record_of(path, (height, width), masks),
            )
        except SamcliError as error:
            yield Unreadable(name, f"{name}: {error}")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, StopIteration) as error:
            yield Unreadable(name, f"{name} is not as Label Studio writes it: {error!r}")


def _address(prefix: str, file_name: str) -> str:
    """Where the photo is; its path is quoted where Label Studio, or a server, takes it for part of an URL."""
    if "/?d=" in prefix or "://" in prefix:
        return prefix + quote(file_name, errors="surrogateescape")
    return prefix + file_name


def _path(address: str) -> PurePosixPath:
    """The photo's path in an address: what follows ?d= of local files, or the path below the server."""
    if "/?d=" in address:
        address = unquote(address.partition("?d=")[2], errors="surrogateescape")
    elif "://" in address:
        address = unquote(
            address.partition("://")[2].partition("/")[2].partition("?")[0], errors="surrogateescape"
        )
    return relative(address.lstrip("/"))


def _mask(region: dict[str, Any], number: int) -> MaskRecord:
    value = region["value"]
    size = check_size(region["original_height"], region["original_width"])
    labels = value.get(region["type"]) or [None]
    own = str(region.get("id", ""))
    score = region.get("score")
    mask = mask_of(
        _rle(region["type"], value, size),
        id=int(own) if own.isdecimal() else number,
        category=None if labels[0] is None else str(labels[0]),
        score=None if score is None else float(score),
    )
    meta = {key: v for key, v in (region.get("meta") or {}).items() if key in _OURS}
    return MaskRecord.from_json({**mask.to_json(), **meta})


def _rle(kind: str, value: dict[str, Any], size: tuple[int, int]) -> RLE:
    """The mask of a region; coordinates are hundredths of the image."""
    if kind == "brushlabels":
        return encode_rle(decode_brush(value["rle"], size))
    if kind == "polygonlabels":
        points = value["points"]
    else:
        if value.get("rotation"):
            raise SamcliError("a rectangle is turned; make it a polygon")
        x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
        points = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    height, width = size
    return polygons_rle([[v for x, y in points for v in (x * width / 100, y * height / 100)]], size)


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (H, W) as the bytes of a brush label: 255 in all four channels of what belongs to it."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * 4
    values = flat[ends - 1]
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    limits = [2**size for size in SIZES]
    for length, value in zip(lengths.tolist(), values.tolist(), strict=True):
        while length > 0:
            part = min(length, limits[-1])
            which = next(i for i, limit in enumerate(limits) if part <= limit)
            bits.append(f"1{which:02b}{part - 1:0{SIZES[which]}b}{'1' * 8 if value else '0' * 8}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of a brush label's bytes: where alpha is not 0. Raises SamcliError."""
    try:
        text = "".join(f"{byte:08b}" for byte in bytes(list(rle)))
        total, width = int(text[:32], 2), int(text[32:37], 2) + 1
        sizes = [int(text[i : i + 4], 2) + 1 for i in range(37, 53, 4)]
        if total != 4 * size[0] * size[1]:
            raise SamcliError(f"a brush label is not of its image's size {list(size)}")
        values = np.zeros(total, np.uint8)
        at, i = 53, 0
        while i < total:
            repeated, which = text[at] == "1", int(text[at + 1 : at + 3], 2)
            at += 3
            count = int(text[at : at + sizes[which]], 2) + 1
            at += sizes[which]
            if i + count > total:
                raise SamcliError("a brush label is longer than its image")
            if repeated:
                values[i : i + count] = int(text[at : at + width], 2) > 0
                at += width
            else:
                for k in range(i, i + count):
                    values[k] = int(text[at : at + width], 2) > 0
                    at += width
            i += count
    except (ValueError, IndexError, TypeError) as error:
        raise SamcliError("a brush label ends before its image does") from error
    return values.reshape(*size, 4)[:, :, 3].astype(bool)
