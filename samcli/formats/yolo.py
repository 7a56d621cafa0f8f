"""YOLO segmentation: labels/<name>.txt with a contour for each mask, data.yaml, and images/ where known.

A line is `class x1 y1 x2 y2 ...`, all from 0 to 1. What reads these files cuts coordinates down to pixels, or
rounds them, and fills contours with their own lines. So contours run through the outermost pixels, a quarter
of a pixel from the pixel's corner: both ways give the mask that was written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from samcli.errors import SamcliError
from samcli.formats.atomic import new_file, write_text
from samcli.formats.class_names import beside
from samcli.formats.files import tree
from samcli.formats.polygons import fill_contours, pixel_contour
from samcli.formats.select import category_of, mask_of, record_of
from samcli.formats.table import Export, Item, Photos, Unreadable, Write
from samcli.masks import decode_window, encode_rle
from samcli.records import MaskRecord

QUARTER = 0.25


@contextmanager
def write_yolo(place: Path, export: Export) -> Iterator[Write]:
    """Labels, and at the end data.yaml. Photos that are known are copied into images/."""
    names = {name: i for i, name in enumerate(export.labels)}
    if export.category_ids is not None:
        by_number = sorted(export.category_ids, key=lambda name: export.category_ids[name])  # type: ignore[index]
        names = {name: i for i, name in enumerate(by_number)}

    def write(item: Item) -> None:
        record = item.record
        # The last "images" in a photo's path is what training tools replace by "labels".
        name = PurePosixPath(*(f"{part}_" if part == "images" else part for part in item.name.parts))
        lines = []
        for mask in record.annotations:
            x, y, bits = decode_window(mask.segmentation)
            contour = pixel_contour(bits)
            if len(contour):
                number = names.setdefault(category_of(mask), len(names))
                places = np.add(contour, (x + QUARTER, y + QUARTER)) / (record.width, record.height)
                lines.append(f"{number} " + " ".join(f"{v:.7f}" for v in places.ravel()) + "\n")
        if export.photos:
            photo = export.photos.path(record.file_name)
            _copy(photo, place / "images" / f"{name}{photo.suffix}")
        write_text(place / "labels" / f"{name}.txt", "".join(lines))

    yield write
    write_text(place / "data.yaml", data_yaml(place, {"train": "images", "val": "images"}, list(names)))


def data_yaml(place: Path, pictures: Mapping[str, str], names: Sequence[str]) -> str:
    """The text of data.yaml in the folder `place`. pictures: below it, by "train", "val" and "test"."""
    parts = "".join(f"{part}: {folder}\n" for part, folder in pictures.items())
    classes = "".join(f"  {i}: {_quoted(name)}\n" for i, name in enumerate(names))
    listed = f"\n{classes}" if classes else " {}\n"
    return f"path: {_quoted(str(place.resolve()))}\n{parts}names:{listed}"


def _quoted(text: str) -> str:
    """A text in YAML that no reader takes for anything else."""
    import yaml  # only some commands need it

    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)
    return quoted.rstrip("\n")


def _copy(photo: Path, target: Path) -> None:
    """Copy a photo: training tools mend pictures in place, so a link would not do."""
    if target.exists() and target.samefile(photo):
        return
    try:
        with photo.open("rb") as source, new_file(target) as copy:
            shutil.copyfileobj(source, copy, 2**20)
    except FileNotFoundError as error:
        raise SamcliError(f"{photo} cannot be read: {error.strerror}; check the path") from error


def read_yolo(place: Path, photos: Photos | None) -> Iterator[Item | Unreadable]:
    """The labels below `place`/labels, or below `place`. Sizes are those of the photos."""
    if not place.is_dir():
        raise SamcliError(f"{place} is not a folder; give the folder that holds data.yaml and labels/")
    assert photos is not None
    labels = place / "labels" if (place / "labels").is_dir() else place
    known = beside(labels)
    names = known.from_id(0) if known else {}
    for path, name in tree(labels, (".txt",)):
        if path.name == "classes.txt":
            continue
        try:
            file_name = photos.named(name)
            size = photos.size(file_name)
            masks: list[MaskRecord] = []
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if line.strip():
                    masks.append(_mask(line, number, size, names, len(masks) + 1))
            inner = PurePosixPath(file_name)
            yield Item(
                name,
                record_of(inner, size, masks),
            )
        except SamcliError as error:
            yield Unreadable(str(path), f"{path}: {error}")
        except (OSError, ValueError) as error:
            yield Unreadable(str(path), f"{path} cannot be read: {error}")


def _mask(line: str, number: int, size: tuple[int, int], names: dict[int, str], own: int) -> MaskRecord:
    fields = line.split()
    try:
        index, values = int(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        index, values = -1, []
    if index < 0 or not np.isfinite(values).all() or len(values) < 4 or np.abs(values).max() > 4:
        raise SamcliError(f"line {number} is not a class and numbers")
    if len(values) in (4, 5):
        raise SamcliError(f"line {number} is a box; boxes become masks with predict --boxes")
    if len(values) % 2:
        raise SamcliError(f"line {number} has an odd number of coordinates")
    contour = np.array(values).reshape(-1, 2) * (size[1], size[0])
    bits = fill_contours([contour], size)
    return mask_of(
        encode_rle(bits), id=own, category=names.get(index, f"class {index}"), category_id=index + 1
    )
