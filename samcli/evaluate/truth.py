"""Datasets with ground truth: COCO instances files, and folders of them in the layouts that are published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from samcli.errors import SamcliError
from samcli.formats.coco import to_rle
from samcli.formats.files import load_json
from samcli.masks import rle_area
from samcli.records import RLE, check_size

FILES = ("annotations.json", "_annotations_min1cat.coco.json", "_annotations.coco.json")
"""What a dataset's folder may call its COCO file: ours, SegInW's, Roboflow's."""
SPLITS = ("valid", "val", "test")
"""Folders that may hold the part of a dataset to evaluate on."""
LAYOUT = "annotations.json with images/ beside it, or folders with valid/_annotations_min1cat.coco.json"


@dataclass(frozen=True)
class Thing:
    """Something annotated in a photo.

    category: its id in the file. crowd: it stands for several. ignore: pixels that count neither way, or
    None. annotator: who drew it, where several people drew a whole partition each. groups: what else the file
    says of it or its photo in a word or number, such as a breed.
    """

    id: int
    category: int
    segmentation: RLE
    area: int
    crowd: bool = False
    ignore: RLE | None = None
    annotator: int | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Photo:
    """A photo of a dataset. relative: as the file names it. size: (height, width)."""

    number: int
    path: Path
    relative: PurePosixPath
    size: tuple[int, int]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Dataset:
    """Photos with what is in them. categories: names by id. photos: by their path as the file names it."""

    name: str
    file: Path
    categories: Mapping[int, str]
    photos: Mapping[PurePosixPath, Photo]

    @property
    def partitions(self) -> bool:
        """Whether people drew whole partitions, each their own."""
        return any(thing.annotator is not None for photo in self.photos.values() for thing in photo.things)


def find_datasets(places: Sequence[Path]) -> dict[str, Path]:
    """The COCO files that places name, by a name for each: files, folders of a dataset, or folders of those.

    Raises SamcliError for a place that has none, and for two of one name.
    """
    found: dict[str, Path] = {}
    for place in places:
        for name, file in _datasets_in(place):
            other = found.setdefault(name, file)
            if other != file:
                raise SamcliError(f"{other} and {file} are both called {name}; evaluate one at a time")
    return found


def _datasets_in(place: Path) -> Iterator[tuple[str, Path]]:
    if place.is_file():
        generic = place.name in FILES
        yield (place.resolve().parent.name if generic else place.stem), place
        return
    if not place.is_dir():
        raise SamcliError(f"{place} does not exist; give a dataset: {LAYOUT}")
    alone = _file_in(place)
    if alone:
        yield place.resolve().name, alone
        return
    below = [(folder.name, _file_in(folder)) for folder in sorted(place.iterdir()) if folder.is_dir()]
    if not any(file for _, file in below):
        raise SamcliError(f"{place} holds no dataset; expected {LAYOUT}")
    yield from ((name, file) for name, file in below if file)


def _file_in(folder: Path) -> Path | None:
    places = (folder, *(folder / split for split in SPLITS))
    return next((place / name for place in places for name in FILES if (place / name).is_file()), None)


def read_dataset(name: str, file: Path, images: Path | None = None) -> Dataset:
    """Read a COCO instances file, as a whole. images: where the photos lie; None finds `images/` beside the
    file, or the file's own folder.

    Things without a mask, or with an empty one, are left out. Raises SamcliError, naming the file, for what
    is missing or malformed.
    """
    try:
        data = load_json(file)
        listed = _objects(data, "images")
        categories = {_whole(c, "id"): str(c.get("name", "")) for c in _objects(data, "categories")}
        things: dict[int, list[dict[str, Any]]] = {}
        for annotation in _objects(data, "annotations"):
            things.setdefault(_whole(annotation, "image_id"), []).append(annotation)
        folder = images or _images_beside(file, listed)
        photos: dict[PurePosixPath, Photo] = {}
        for image in listed:
            photo = _photo(image, things.get(_whole(image, "id"), []), folder)
            if photo.relative in photos:
                raise SamcliError(f"lists the image {photo.relative} twice; remove one")
            photos[photo.relative] = photo
    except SamcliError as error:
        raise SamcliError(f"{file}: {error}") from error
    return Dataset(name, file, categories, photos)


def _images_beside(file: Path, listed: list[dict[str, Any]]) -> Path:
    folders = (file.parent / "images", file.parent)
    for image in listed:
        for folder in folders:
            if (folder / str(image.get("file_name"))).exists():
                return folder
    raise SamcliError("none of its images is beside it, nor in images/; name their folder with --images")


def _photo(image: dict[str, Any], annotations: list[dict[str, Any]], folder: Path) -> Photo:
    name = image.get("file_name")
    relative = PurePosixPath(name) if isinstance(name, str) and name else PurePosixPath("..")
    if relative.is_absolute() or ".." in relative.parts:
        raise SamcliError(f"image {image.get('id')} has the file_name {name!r}; give a path below the images")
    size = check_size(image.get("height"), image.get("width"))
    groups = _groups(image, ("id", "width", "height", "file_name", "license", "coco_url", "flickr_url"))
    things = tuple(thing for one in annotations if (thing := _thing(one, size, groups)))
    return Photo(_whole(image, "id"), folder / relative, relative, size, things)


def _thing(data: dict[str, Any], size: tuple[int, int], of_photo: dict[str, str]) -> Thing | None:
    if not data.get("segmentation"):
        return None
    try:
        rle = to_rle(data["segmentation"], size)
        ignore = to_rle(data["ignore"], size) if isinstance(data.get("ignore"), (dict, list)) else None
    except SamcliError as error:
        raise SamcliError(f"annotation {data.get('id')}: {error}") from error
    area = rle_area(rle)
    if not area:
        return None
    annotator = _whole(data, "annotator") if "annotator" in data else None
    known = ("id", "image_id", "category_id", "area", "iscrowd", "annotator", "score", "ignore")
    groups = of_photo | _groups(data, known)
    crowd = bool(data.get("iscrowd")) or (data.get("ignore") in (1, True))
    return Thing(_whole(data, "id"), _whole(data, "category_id"), rle, area, crowd, ignore, annotator, groups)


def _groups(data: dict[str, Any], known: Sequence[str]) -> dict[str, str]:
    """What a file says besides, in words and whole numbers."""
    return {
        name: str(value)
        for name, value in data.items()
        if name not in known and isinstance(value, (str, int)) and not isinstance(value, bool)
    }


def _objects(data: Any, name: str) -> list[dict[str, Any]]:
    values = data.get(name) if isinstance(data, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise SamcliError(f"is not a COCO instances file: it has no list of {name}")
    return values


def _whole(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise SamcliError(f"{name} of {str(data)[:60]} is not a whole number")
    return value
