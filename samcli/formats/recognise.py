"""Which format a file or folder is of, from its names and the beginning of its files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from samcli.errors import SamcliError
from samcli.formats.files import open_picture, walk

LOOKED_AT = 2000  # events of a JSON file, files of a tree; enough for what decides


def recognise(place: Path) -> str:
    """The name of the format in `samcli.formats.table.FORMATS`. Raises SamcliError when nothing decides."""
    if not place.exists():
        raise SamcliError(f"{place} does not exist; check the path")
    found = _folder(place) if place.is_dir() else _file(place)
    if found is None:
        raise SamcliError(f"{place} is of no format that can be recognised; name it with --from")
    return found


def _folder(place: Path) -> str | None:
    if (place / "data.yaml").is_file() or (place / "classes.txt").is_file():
        return "yolo"
    if any(place.glob("annotations/panoptic_*.json")) or any(place.glob("panoptic_*.json")):
        return "coco-panoptic"
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
    return (place / folder / name for folder, files, _ in walk(place) for name in files)


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
    keys: set[str] = set()
    top = ""
    several = False  # annotations that say which image they are of
    for prefix, event, value in islice(_events(path), LOOKED_AT):
        if not top:
            top = event
        if event == "map_key" and (prefix == "" if top == "start_map" else prefix == "item"):
            keys.add(value)
        if event == "map_key" and prefix == "annotations.item" and value == "segments_info":
            return "coco-panoptic"
        several |= event == "map_key" and prefix == "annotations.item" and value == "image_id"
        if top == "start_map" and "samcli" in keys:
            return "sa1b"
    if top == "start_map":
        if "shapes" in keys:
            return "labelme"
        if "image" in keys:
            return "sa1b"
        return "coco" if several or keys & {"images", "categories", "licenses"} else None
    if "data" in keys:
        return "labelstudio"
    if "image_id" in keys:
        return "coco-results"
    return "amg" if top == "start_array" and (not keys or "segmentation" in keys) else None


def _events(path: Path) -> Iterator[tuple[str, str, Any]]:
    import ijson  # only some commands read such files

    try:
        with path.open("rb") as file:
            yield from ijson.parse(file, use_float=True)
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ijson.JSONError, UnicodeDecodeError):
        return
