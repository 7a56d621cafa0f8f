"""COCO panoptic: every pixel belongs to at most one segment, which an RGB PNG numbers.

annotations/panoptic_all.json, annotations/panoptic_all/<name>.png
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcli.errors import SamcliError
from samcli.formats.atomic import new_file, write_bytes
from samcli.formats.files import groups, json_bytes, json_key, json_objects, open_picture
from samcli.formats.png import encode_png
from samcli.formats.select import label_map, mask_of, record_of
from samcli.formats.table import Categories, Export, Item, Photos, Unreadable, Write, relative
from samcli.masks import label_rles
from samcli.records import RLE, MaskRecord

_JSON = PurePosixPath("annotations/panoptic_all.json")
_OURS = ("predicted_iou", "stability_score", "phrase", "detector_score", "score")


@contextmanager
def write_coco_panoptic(place: Path, export: Export) -> Iterator[Write]:
    """The PNGs, and at the end the JSON. Segments are numbered from 1 in each image; 0 is unlabelled.

    With `export.merged` categories are stuff, else things. A mask that others hide is left out.
    """
    categories = export.categories()
    count = 0
    with new_file(place / _JSON) as file, tempfile.TemporaryFile() as rest:

        def write(item: Item) -> None:
            nonlocal count
            record = item.record
            number = export.image_number(record.file_name, count + 1)
            size = (record.height, record.width)
            labels = label_map(record.annotations, size, export.flatten)
            picture = f"{item.name}.png"
            write_bytes(place / _JSON.with_suffix("") / picture, encode_png(_to_rgb(labels)))
            image = {
                "id": number,
                "width": record.width,
                "height": record.height,
                "file_name": record.file_name,
            }
            annotation = {
                "image_id": number,
                "file_name": picture,
                "segments_info": list(_segments(record.annotations, labels, categories)),
            }
            for target, value in ((file, image), (rest, annotation)):
                target.write((b",\n  " if count else b"\n  ") + json_bytes(value))
            count += 1

        file.write(b'{"info": {"description": "masks converted by samcli"},\n "licenses": [],\n "images": [')
        yield write
        file.write(b'],\n "annotations": [')
        rest.seek(0)
        shutil.copyfileobj(rest, file, 2**20)
        kinds = [{**category, "isthing": int(not export.merged)} for category in categories.to_json()]
        file.write(b'],\n "categories": ' + json_bytes(kinds) + b"}\n")


def _segments(
    masks: tuple[MaskRecord, ...], labels: NDArray[np.uint16], categories: Categories
) -> Iterator[dict[str, Any]]:
    for number, rle in label_rles(labels).items():
        seen, mask = mask_of(rle), masks[number - 1]
        data = mask.to_json()
        yield {
            "id": number,
            "category_id": categories.number(mask),
            "area": seen.area,
            "bbox": list(seen.bbox),
            "iscrowd": 0,
            **{key: data[key] for key in _OURS if key in data},
        }


def read_coco_panoptic(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The images of a panoptic file, or of a folder that holds one, with the segments of their PNGs."""
    path = _find(place) if place.is_dir() else place
    categories = {json_key(c, "id"): str(c.get("name")) for c in json_objects(path, "categories")}
    with groups() as kept:
        kept.add((json_key(a, "image_id"), a) for a in json_objects(path, "annotations"))
        for image in json_objects(path, "images"):
            name = str(image.get("file_name"))
            try:
                inner = relative(name)
                found = kept.get(json_key(image, "id"))
                if not found:
                    raise SamcliError("it has no annotation")
                picture = path.with_suffix("") / relative(str(found[0]["file_name"]))
                try:
                    labels = _from_rgb(np.asarray(open_picture(picture).convert("RGB")))
                except SamcliError as error:
                    raise SamcliError(f"{picture}: {error}") from error
                rles = label_rles(labels)
                masks = [_mask(segment, rles, categories) for segment in found[0]["segments_info"]]
                height, width = labels.shape
                yield Item(
                    inner.with_suffix(""),
                    record_of(inner, (height, width), masks),
                )
            except SamcliError as error:
                yield Unreadable(name, f"{path}: image {name}: {error}")
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                yield Unreadable(name, f"{path}: image {name}: not a panoptic annotation: {error!r}")


def _find(place: Path) -> Path:
    found = sorted(place.glob("annotations/panoptic_*.json")) or sorted(place.glob("panoptic_*.json"))
    if len(found) != 1:
        raise SamcliError(f"{place} holds {len(found)} files panoptic_*.json; name one of them")
    return found[0]


def _mask(segment: dict[str, Any], rles: dict[int, RLE], categories: dict[str, str]) -> MaskRecord:
    number = int(segment["id"])
    if number not in rles:
        raise SamcliError(f"segment {number} is not in its picture")
    category = segment.get("category_id")
    mask = mask_of(
        rles[number],
        id=number,
        category=categories.get(json_key(segment, "category_id")),
        category_id=category if type(category) is int else None,
    )
    own = {key: segment[key] for key in _OURS if segment.get(key) is not None}
    return MaskRecord.from_json({**mask.to_json(), **own})


def _to_rgb(labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Numbers (H, W) as colours (H, W, 3): R + 256 G + 65536 B."""
    return np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=2).astype(np.uint8)


def _from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = rgb.astype(np.int64) @ np.array([1, 256, 65536])
    return numbers
