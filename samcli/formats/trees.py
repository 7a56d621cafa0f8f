"""Records and SAM's own outputs as trees of files, and records as JSON Lines.

sa1b: the canonical record, which is SA-1B's file with samcli's provenance; SA-1B's own are read, too.
amg: what the reference's amg.py writes with --convert-to-rle. amg-png: what it writes without.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from samcli.errors import SamcliError
from samcli.formats.atomic import write_text
from samcli.formats.files import folders_with, json_bytes, load_json, mask_picture, tree
from samcli.formats.png import write_masks_folder
from samcli.formats.record import read_error, read_record, record_text
from samcli.formats.select import mask_of, record_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write, relative
from samcli.masks import encode_rle
from samcli.records import ImageRecord, MaskRecord

_AMG = ("predicted_iou", "point_coords", "stability_score", "crop_box")


def read_sa1b(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The records below a folder, or of one file; notes of failure (.error.json) are none."""
    for path, name in tree(place, (".json",)):
        if name.name.endswith(".error") and read_error(path):
            continue
        try:
            yield Item(name, read_record(path))
        except SamcliError as error:
            yield Unreadable(str(path), str(error))


@contextmanager
def write_sa1b(place: Path, export: Export) -> Iterator[Write]:
    """`<name>.json` for each image."""
    yield lambda item: write_text(place / f"{item.name}.json", record_text(item.record))


def read_jsonl(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The records of JSON Lines; a line that is none is said by its number."""
    try:
        file = place.open("rb")
    except OSError as error:
        raise SamcliError(f"{place} cannot be read: {error.strerror}; check the path") from error
    with file:
        yield from read_lines(file, str(place), photos)


def read_lines(
    lines: Iterable[bytes], source: str, photos: Photos | None = None
) -> Iterator[Item | Unreadable]:
    """The records of JSON Lines that come one by one, or the answers that predict prints.

    Neighbouring answers of one image are one item. source: what errors call the lines.
    """
    answers: list[dict[str, Any]] = []  # of one image
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {source}"
        found: Item | Unreadable | None = None
        data: Any = None
        try:
            data = json.loads(line.strip())
            if not isinstance(data, dict):
                raise SamcliError("not a JSON object")
            if "error" in data:
                raise SamcliError(f"an earlier failure: {data['error']}")
            if "masks" not in data:
                record = ImageRecord.from_json(data)
                found = Item(relative(record.file_name).with_suffix(""), record)
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            found = Unreadable(where, f"{where}: not JSON: {reason}")
        except SamcliError as error:
            found = Unreadable(where, f"{where}: {error}")
        if answers and (found or data.get("image") != answers[0].get("image")):
            yield _answered(answers, f"answers before {where}", photos)
            answers = []
        if found:
            yield found
        else:
            answers.append(data)
    if answers:
        yield _answered(answers, f"the last answers of {source}", photos)


def _answered(answers: list[dict[str, Any]], where: str, photos: Photos | None) -> Item | Unreadable:
    """An image with the masks of all its prompts, numbered through."""
    image = PurePosixPath(str(answers[0].get("image")))
    try:
        outside = image.is_absolute() or ".." in image.parts
        path = relative(image.name if outside else image.as_posix())
        masks = [MaskRecord.from_json(mask) for answer in answers for mask in answer["masks"]]
        sizes = {(mask.segmentation["size"][0], mask.segmentation["size"][1]) for mask in masks}
        if not sizes and photos:
            sizes = {photos.size(path.as_posix())}
        if len(sizes) != 1:
            unknown = "no masks, so no size; name the folder of the photos with --images"
            raise SamcliError("masks differ in size" if sizes else unknown)
        numbered = [replace(mask, id=number) for number, mask in enumerate(masks, start=1)]
        return Item(path.with_suffix(""), record_of(path, sizes.pop(), numbered))
    except (SamcliError, TypeError) as error:
        return Unreadable(str(image), f"{where}: {image}: {error}")


@contextmanager
def write_jsonl(file: BinaryIO, export: Export) -> Iterator[Write]:
    """A record on each line."""

    def write(item: Item) -> None:
        file.write(json_bytes(item.record.to_json()) + b"\n")
        file.flush()

    yield write


def read_amg(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """JSON lists of masks; without photos an image without masks has no known size, and fails."""
    for path, name in tree(place, (".json",)):
        try:
            data = load_json(path)
            if not isinstance(data, list):
                raise SamcliError("not a list of masks")
            masks = [_from_amg(mask, number) for number, mask in enumerate(data, start=1)]
            file_name = photos.named(name) if photos else name.as_posix()
            if masks:
                height, width = masks[0].segmentation["size"]
            elif photos:
                height, width = photos.size(file_name)
            else:
                raise SamcliError("no masks, so no size; name the folder of the photos with --images")
            if any(mask.segmentation["size"] != [height, width] for mask in masks):
                raise SamcliError("masks differ in size")
            yield Item(name, record_of(PurePosixPath(file_name), (height, width), masks))
        except SamcliError as error:
            yield Unreadable(str(path), f"{path}: {error}")


def _from_amg(data: Any, number: int) -> MaskRecord:
    """A mask; the bbox is measured anew, for amg.py's is one less than the extent."""
    if not isinstance(data, dict):
        raise SamcliError("a mask is not a JSON object")
    own = {k: v for k, v in data.items() if k in MaskRecord.__dataclass_fields__}
    mask = MaskRecord.from_json({"id": number, **own})
    x, y, width, height = mask_of(mask.segmentation).bbox
    return MaskRecord.from_json({**mask.to_json(), "bbox": [x, y, width, height]})


@contextmanager
def write_amg(place: Path, export: Export) -> Iterator[Write]:
    """`<name>.json`: a list of masks. Their bbox is amg.py's, one less in width and height than in ours."""

    def write(item: Item) -> None:
        masks: list[dict[str, Any]] = []
        for mask in item.record.annotations:
            data = mask.to_json()
            x, y, width, height = mask.bbox
            own = {"segmentation": data["segmentation"], "area": mask.area}
            own["bbox"] = [x, y, max(0, width - 1), max(0, height - 1)]
            own |= {key: data[key] for key in _AMG if key in data}
            masks.append(own)
        write_text(place / f"{item.name}.json", json.dumps(masks))

    yield write


def read_amg_png(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """Folders with metadata.csv and the PNGs that it lists."""
    for folder, name in folders_with(place, "metadata.csv"):
        try:
            with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            masks = []
            for row in rows:
                number = int(row["id"])
                mask = mask_of(encode_rle(mask_picture(folder / f"{number}.png")), id=number + 1)
                masks.append(MaskRecord.from_json({**mask.to_json(), **_from_row(row)}))
        except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
            yield Unreadable(str(folder), f"{folder}: not what amg.py writes: {error}")
            continue
        except SamcliError as error:
            yield Unreadable(str(folder), f"{folder}: {error}")
            continue
        file_name = photos.named(name) if photos else name.as_posix()
        try:
            sizes = {tuple(mask.segmentation["size"]) for mask in masks}
            if len(sizes) > 1:
                raise SamcliError("masks differ in size")
            if not sizes and not photos:
                raise SamcliError("no masks, so no size; name the folder of the photos with --images")
            height, width = sizes.pop() if sizes else photos.size(file_name)  # type: ignore[union-attr]
            yield Item(name, record_of(PurePosixPath(file_name), (height, width), masks))
        except SamcliError as error:
            yield Unreadable(str(folder), f"{folder}: {error}")


def _from_row(row: dict[str, str]) -> dict[str, Any]:
    """What metadata.csv says of a mask besides its extent; empty fields are unknown."""
    values: dict[str, Any] = {
        key: float(row[key]) for key in ("predicted_iou", "stability_score") if row.get(key)
    }
    if row.get("point_input_x"):
        values["point_coords"] = [[float(row["point_input_x"]), float(row["point_input_y"])]]
    if row.get("crop_box_x0"):
        values["crop_box"] = [float(row[f"crop_box_{key}"]) for key in ("x0", "y0", "w", "h")]
    return values


@contextmanager
def write_amg_png(place: Path, export: Export) -> Iterator[Write]:
    """`<name>/<i>.png` and `<name>/metadata.csv`, whose bbox is amg.py's, one less than the extent."""

    def write(item: Item) -> None:
        write_masks_folder(place / item.name, item.record.annotations, inclusive=True)

    yield write
