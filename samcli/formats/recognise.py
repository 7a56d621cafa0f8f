"""Which format a file or folder is of, from its names and the beginning of its files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from samcli.errors import SamcliError
from samcli.formats.files import open_picture, walk
from samcli.formats.json_stream import JsonStream
from samcli.formats.table import FORMATS

LOOKED_AT = 2000  # files of a tree
_DECIDING = {"samcli": "sa1b", "shapes": "labelme"}


def recognise(place: Path) -> str:
    """The name of the format in `samcli.formats.table.FORMATS`. Raises SamcliError when nothing decides."""
    if not place.exists():
        raise SamcliError(f"{place} does not exist; check the path")
    found = _folder(place) if place.is_dir() else _file(place)
    if found is None:
        raise SamcliError(f"{place} is of no format that can be recognised; name it with convert --from")
    return found


def _folder(place: Path) -> str | None:
    if (place / "data.yaml").is_file() or (place / "classes.txt").is_file():
        return "yolo"
    if any(place.glob("annotations/panoptic_*.json")) or any(place.glob("panoptic_*.json")):
        return "coco-panoptic"
    for format_ in FORMATS.values():
        if format_.file and (place / format_.file).is_file() and _file(place / format_.file) == format_.name:
            return format_.name
    for path in islice(_files(place), LOOKED_AT):
        if path.name == "metadata.csv":
            return "amg-png"
        if path.suffix in (".tif", ".tiff"):
            return "tiff"
        if path.suffix == ".json" and not path.name.endswith(".error.json"):
            found = _file(path)
            if found in ("sa1b", "amg", "labelme"):
                return found
        if path.suffix == ".png":
            found = _picture(path)
            if found:
                return found
    return None


def _files(place: Path) -> Iterator[Path]:
    """JSON first in each folder: pictures may lie beside records."""
    for folder, files, _ in walk(place):
        for name in sorted(files, key=lambda name: not name.endswith(".json")):
            yield place / folder / name


def _picture(path: Path) -> str | None:
    if (path.parent / "metadata.csv").is_file():
        return "amg-png"
    try:
        mode = open_picture(path).mode
    except SamcliError:
        return None
    return {
        "I;16": "labelmap",
        "I": "labelmap",
        "P": "palette",
        "L": "png",
        "1": "png",
        "RGBA": "cutout",
    }.get(mode)


def _file(path: Path) -> str | None:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return "jsonl"
    if path.suffix.lower() != ".json":
        return {".tif": "tiff", ".tiff": "tiff"}.get(path.suffix.lower()) or (
            _picture(path) if path.suffix == ".png" else None
        )
    if path.name.startswith("panoptic_"):
        return "coco-panoptic"
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _json(JsonStream(file))
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError):
        return None


def _json(stream: JsonStream) -> str | None:
    start = stream.peek()
    if start == "[":
        first = next(stream.elements(), {"segmentation": None})  # an image without masks
        kinds = {"data": "labelstudio", "image_id": "coco-results", "segmentation": "amg"}
        return next((kind for key, kind in kinds.items() if isinstance(first, dict) and key in first), None)
    keys: set[str] = set()
    for key in stream.members():
        keys.add(key)
        if key in _DECIDING:
            return _DECIDING[key]
        if key == "annotations" and stream.peek() == "[":
            elements = stream.elements()
            first = next(elements, None)
            if isinstance(first, dict):
                return (
                    "coco-panoptic" if "segments_info" in first else "coco" if "image_id" in first else "sa1b"
                )
            for _ in elements:
                pass
        else:
            stream.skip()
    return "coco" if keys & {"images", "categories", "licenses"} else "sa1b" if "image" in keys else None
