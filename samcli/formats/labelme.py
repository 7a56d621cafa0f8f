"""LabelMe: a JSON file for each image, with a shape for each mask.

Masks are written as shapes of the type "mask": the box, whose second corner is its last pixel, and a PNG of
what is inside. The record's other fields stand beside, where LabelMe keeps them.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.formats.atomic import write_text
from samcli.formats.files import load_json, open_picture, tree
from samcli.formats.png import encode_png
from samcli.formats.polygons import polygons_rle
from samcli.formats.select import category_of, mask_of, record_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write, relative
from samcli.masks import decode_rle, decode_window, encode_rle
from samcli.records import MaskRecord, check_size

VERSION = "5.5.0"  # of the format: the first with masks is 5.2
_OURS = ("id", "predicted_iou", "stability_score", "point_coords", "crop_box", "category_id", "phrase",
         "detector_score", "score")  # fmt: skip


@contextmanager
def write_labelme(place: Path, export: Export) -> Iterator[Write]:
    """`<name>.json`. imagePath leads to the photo when `export` knows where it is, else it is its name."""

    def write(item: Item) -> None:
        record = item.record
        target = place / f"{item.name}.json"
        image = PurePosixPath(record.file_name).name
        if export.photos:
            photo, folder = map(os.path.realpath, (export.photos.path(record.file_name), target.parent))
            image = Path(os.path.relpath(photo, folder)).as_posix()
        data: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [shape for mask in record.annotations for shape in _shape(mask)],
            "imagePath": image,
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        write_text(target, json.dumps(data, ensure_ascii=False, indent=1) + "\n")

    yield write


def _shape(mask: MaskRecord) -> Iterator[dict[str, Any]]:
    x, y, bits = decode_window(mask.segmentation)
    height, width = bits.shape
    if not width:
        return  # LabelMe has no shape without pixels
    data = mask.to_json()
    yield {
        "label": category_of(mask),
        "points": [[float(x), float(y)], [float(x + width - 1), float(y + height - 1)]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(encode_png(bits)).decode("ascii"),
        **{key: data[key] for key in _OURS if key in data},
    }


def read_labelme(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Masks, polygons, rectangles and circles; shapes of one label and group_id are one thing.

    Points and lines have no area and are passed over.
    """
    for path, name in tree(place, (".json",)):
        try:
            data = load_json(path)
            if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
                raise SamcliError("not a file of LabelMe")
            size = (data.get("imageHeight"), data.get("imageWidth"))
            if None in size:
                raise SamcliError("it lacks imageHeight and imageWidth")
            height, width = check_size(*size)
            image = relative(Path(str(data.get("imagePath") or name.name).replace("\\", "/")).name)
            inner = name.parent / image
            masks = tuple(_masks(data["shapes"], (height, width)))
            yield Item(name, record_of(inner, (height, width), masks))
        except SamcliError as error:
            yield Unreadable(str(path), f"{path}: {error}")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            yield Unreadable(str(path), f"{path}: a shape is not as LabelMe writes it: {error}")


def _masks(shapes: Sequence[dict[str, Any]], size: tuple[int, int]) -> Iterator[MaskRecord]:
    things: dict[Any, list[dict[str, Any]]] = {}
    for i, shape in enumerate(shapes):
        group = shape.get("group_id")
        things.setdefault(("alone", i) if group is None else (group, shape["label"]), []).append(shape)
    number = 0
    for members in things.values():
        drawn = [bits for shape in members if (bits := _bits(shape, size)) is not None]
        if not drawn:
            continue
        number += 1
        union = np.logical_or.reduce(drawn)
        mask = mask_of(encode_rle(union), id=number, category=str(members[0]["label"]))
        own = {key: members[0][key] for key in _OURS if members[0].get(key) is not None}
        yield MaskRecord.from_json({**mask.to_json(), **own})


def _bits(shape: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The pixels of a shape; None when it has no area."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type") or "polygon"
    if kind == "mask":
        (x0, y0), (x1, y1) = points
        left, top = round(x0), round(y0)
        height, width = round(y1) - top + 1, round(x1) - left + 1
        inside = np.asarray(open_picture(io.BytesIO(base64.b64decode(shape["mask"]))).convert("L")) > 0
        fits = min(left, top) >= 0 and left + width <= size[1] and top + height <= size[0]
        if not fits or inside.shape != (height, width):
            raise SamcliError("a mask does not fit its box, or the box the image")
        bits = np.zeros(size, bool)
        bits[top : top + height, left : left + width] = inside
        return bits
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle":
        (x0, y0), (x1, y1) = points
        radius = math.hypot(x1 - x0, y1 - y0)
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        return np.asarray((x - x0) ** 2 + (y - y0) ** 2 <= radius**2)
    elif kind != "polygon":
        return None
    return decode_rle(polygons_rle([[v for point in points for v in point]], size))
