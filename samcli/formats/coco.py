"""COCO instances and results: one JSON file for all images, written and read piece by piece.

Every mask is a compressed RLE unless polygons are asked for. Annotations carry the record's other fields
(score, predicted_iou, ...) under their own names, which other readers pass over.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.formats.files import groups, json_bytes, json_key, json_objects
from samcli.formats.polygons import corner_polygons, polygons_rle
from samcli.formats.select import mask_of, record_of, score_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write, relative
from samcli.masks import check_rle, decode_window
from samcli.records import RLE, ImageRecord, MaskRecord, check_size, is_counts

_OURS = ("predicted_iou", "stability_score", "point_coords", "crop_box", "phrase", "detector_score", "score")


class Instances:
    """An instances file that is being written, a thing at a time; what it says last may come up to the end.

    categories: as COCO lists them. more: members of the file besides.
    """

    def __init__(self, file: BinaryIO, rest: BinaryIO) -> None:
        self.categories: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}
        self.images = self.annotations = 0  # so far
        self._file = file
        self._rest = rest  # annotations, which come after all images

    def image(self, data: Mapping[str, Any]) -> None:
        """Add an entry of "images"."""
        self._file.write((b",\n  " if self.images else b"\n  ") + json_bytes(data))
        self.images += 1

    def annotation(self, data: Mapping[str, Any]) -> None:
        """Add an entry of "annotations"."""
        self._rest.write((b",\n  " if self.annotations else b"\n  ") + json_bytes(data))
        self.annotations += 1


@contextmanager
def instances(file: BinaryIO, info: Mapping[str, Any], licenses: Sequence[Any] = ()) -> Iterator[Instances]:
    """Write an instances file piece by piece into an open file; the end of the context completes it.

    info: an object of the file, as `about` makes one.
    """
    with tempfile.TemporaryFile() as rest:
        file.write(b'{"info": ' + json_bytes(info) + b',\n "licenses": ' + json_bytes(list(licenses)))
        file.write(b',\n "images": [')
        out = Instances(file, rest)
        yield out
        file.write(b'],\n "annotations": [')
        rest.seek(0)
        shutil.copyfileobj(rest, file, 2**20)
        file.write(b'],\n "categories": ' + json_bytes(out.categories))
        for name, value in out.more.items():
            file.write(b",\n " + json_bytes(name) + b": " + json_bytes(value))
        file.write(b"}\n")


def about(description: str) -> dict[str, str]:
    """What COCO calls the info of a dataset; some readers want all of it."""
    return {"description": description, "version": "1.0", "contributor": "", "url": ""}


@contextmanager
def write_coco(file: BinaryIO, export: Export) -> Iterator[Write]:
    """Images, annotations and categories, numbered from 1, or as in the dataset that `export` names."""
    categories = export.categories()
    with instances(file, about("masks converted by samcli")) as out:

        def write(item: Item) -> None:
            record = item.record
            own = export.image_number(record.file_name, out.images + 1)
            annotations = [
                coco_annotation(mask, i, own, categories.number(mask), polygons=export.polygons)
                for i, mask in enumerate(record.annotations, start=out.annotations + 1)
            ]
            out.image(coco_image(record, own))
            for annotation in annotations:
                out.annotation(annotation)

        yield write
        out.categories = categories.to_json()


def coco_image(record: ImageRecord, number: int) -> dict[str, Any]:
    """A record's entry among the images."""
    return {
        "id": number,
        "width": record.width,
        "height": record.height,
        "file_name": record.file_name,
    }


def coco_annotation(
    mask: MaskRecord, number: int, image: int, category: int, *, polygons: bool = False
) -> dict[str, Any]:
    """A mask's entry among the annotations: its RLE unless polygons are wanted, and the record's fields."""
    data = mask.to_json()
    segmentation: Any = data["segmentation"]
    if polygons:
        # A mask without a pixel has no polygons; as RLE it can be read.
        x, y, bits = decode_window(mask.segmentation)
        rings = corner_polygons(bits)
        segmentation = [np.add(ring, (x, y)).ravel().tolist() for ring in rings] or segmentation
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": mask.area,
        "bbox": data["bbox"],
        "iscrowd": 0,
        **{key: data[key] for key in _OURS if key in data},
    }


def read_coco(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The images of an instances file in its order, with their annotations; crowds become plain masks."""
    categories = {json_key(c, "id"): str(c.get("name", "")) for c in json_objects(place, "categories")}
    with groups() as kept:
        kept.add((json_key(a, "image_id"), a) for a in json_objects(place, "annotations"))
        for image in json_objects(place, "images"):
            name = str(image.get("file_name", image.get("id")))
            try:
                path = relative(name)
                size = check_size(image.get("height"), image.get("width"))
                masks = [
                    _mask(annotation, size, number, categories)
                    for number, annotation in enumerate(kept.get(json_key(image, "id")), start=1)
                ]
                yield Item(path.with_suffix(""), record_of(path, size, masks))
            except SamcliError as error:
                yield Unreadable(name, f"{place}: image {name}: {error}")


def _mask(data: dict[str, Any], size: tuple[int, int], number: int, categories: dict[str, str]) -> MaskRecord:
    category = json_key(data, "category_id")
    segmentation = data.get("segmentation")
    if not segmentation:
        raise SamcliError(
            f"annotation {data.get('id')} has no segmentation; boxes become masks with predict --boxes"
        )
    own = {key: data[key] for key in _OURS if data.get(key) is not None}
    mask = mask_of(
        to_rle(segmentation, size),
        id=number,
        category=categories.get(category),
        category_id=data["category_id"] if type(data.get("category_id")) is int else None,
    )
    return MaskRecord.from_json({**mask.to_json(), **own}) if own else mask


def to_rle(segmentation: Any, size: tuple[int, int]) -> RLE:
    """COCO's segmentation in an image of (height, width) as compressed RLE. Raises SamcliError."""
    if isinstance(segmentation, list):
        polygons = segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation]
        try:
            return polygons_rle(polygons, size)
        except (TypeError, ValueError, OverflowError) as error:
            raise SamcliError("a polygon is not a list of numbers") from error
    if not isinstance(segmentation, dict) or segmentation.get("size") != list(size):
        raise SamcliError(f"a segmentation is not of the image's size {list(size)}")
    counts = segmentation.get("counts")
    try:
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise SamcliError("the counts of an RLE do not add up to the image")
            counts = coco.frPyObjects(segmentation, *size)["counts"].decode("ascii")
    except (TypeError, ValueError, OverflowError) as error:
        raise SamcliError("the counts of an RLE are not numbers") from error
    if not is_counts(counts):
        raise SamcliError("a segmentation has no counts, or counts that are damaged")
    rle: RLE = {"size": list(size), "counts": counts}
    check_rle(rle)
    return rle


@contextmanager
def write_coco_results(file: BinaryIO, export: Export) -> Iterator[Write]:
    """A list of masks with scores, without boxes, whose areas COCOeval would take; 1 for want of a score.

    Images and categories are numbered as `write_coco` numbers them.
    """
    categories = export.categories()
    count = 0
    first = True

    def write(item: Item) -> None:
        nonlocal count, first
        count += 1
        image = export.image_number(item.record.file_name, count)
        for mask in item.record.annotations:
            score = score_of(mask)
            result = {
                "image_id": image,
                "category_id": categories.number(mask),
                "segmentation": mask.to_json()["segmentation"],
                "score": 1.0 if score is None else score,
            }
            file.write((b"[\n " if first else b",\n ") + json_bytes(result))
            first = False

    yield write
    if first:
        raise SamcliError("there are no masks; COCO results of none cannot be loaded, so nothing is written")
    file.write(b"]\n")


def read_coco_results(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The results by image, named by image_id; what they are of only the dataset knows."""
    with groups() as kept:
        kept.add((json_key(result, "image_id"), result) for result in json_objects(place))
        for key in kept.keys():  # noqa: SIM118 - not a dict
            name = str(json.loads(key))
            try:
                path = relative(name)
                results = kept.get(key)
                size = _size(results[0])
                masks = [_mask(result, size, number, {}) for number, result in enumerate(results, start=1)]
                file_name = PurePosixPath(photos.named(path)) if photos else path
                yield Item(path, record_of(file_name, size, masks))
            except SamcliError as error:
                yield Unreadable(name, f"{place}: image {name}: {error}")


def _size(result: dict[str, Any]) -> tuple[int, int]:
    segmentation = result.get("segmentation")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not (isinstance(size, list) and len(size) == 2):
        raise SamcliError("a result has no RLE; boxes become masks with predict --boxes")
    return check_size(*size)


def named_by(
    items: Iterator[Item | Unreadable], images: Mapping[str, int], categories: Mapping[str, int]
) -> Iterator[Item | Unreadable]:
    """What `read_coco_results` gives, with the names of the dataset that the results are of."""
    files = {str(number): name for name, number in images.items()}
    names = {number: name for name, number in categories.items()}
    for item in items:
        file_name = None if isinstance(item, Unreadable) else files.get(item.name.as_posix())
        if isinstance(item, Unreadable) or file_name is None:
            yield item
            continue
        path = relative(file_name)
        masks = [
            replace(mask, category=None if mask.category_id is None else names.get(mask.category_id))
            for mask in item.record.annotations
        ]
        size = item.record.height, item.record.width
        yield Item(path.with_suffix(""), record_of(path, size, masks))


def ids_of(place: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers of images by file name, and of categories by name, in an instances file.

    Raises SamcliError.
    """
    images = {str(i.get("file_name")): _whole(i, "id") for i in json_objects(place, "images")}
    categories = {str(c.get("name")): _whole(c, "id") for c in json_objects(place, "categories")}
    if not images:
        raise SamcliError(f"{place} lists no images; give the annotations of a COCO dataset")
    return images, categories


def _whole(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int or value < 0:
        raise SamcliError(f"{name} is not a whole number: {value!r}")
    return value
