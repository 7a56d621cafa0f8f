"""Annotations that were there before: a COCO instances file that proposals are added to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from samcli.errors import SamcliError
from samcli.formats.coco import about, to_rle
from samcli.formats.files import Groups, groups, json_bytes, json_members
from samcli.formats.owners import Owners, plain
from samcli.records import RLE, check_size

_LISTS = ("images", "annotations", "categories")


class Known(NamedTuple):
    """An annotation of an image. segmentation: of its box where it has no mask."""

    segmentation: RLE
    category: str
    crowd: bool
    only_box: bool


class Base:
    """An instances file, whole as it is, on disk while it is used.

    info, licenses, more: what it says besides. categories: its list, and numbers, by name. last_image,
    last_annotation: the highest ids. only_boxes: annotations without a mask.
    """

    def __init__(self, path: Path, images: Groups, annotations: Groups) -> None:
        self.path = path
        self.info: dict[str, Any] = about("annotated by samcli")
        self.licenses: list[Any] = []
        self.more: dict[str, Any] = {}
        self.categories: list[dict[str, Any]] = []
        self.numbers: dict[str, int] = {}
        self.last_image = self.last_annotation = self.only_boxes = 0
        self._images = images
        self._annotations = annotations
        self._names: dict[str, int] = {}  # plain file name: id
        self._category: dict[int, str] = {}
        self._paths: dict[int, str] = {}  # of images that have a record
        self._ids: dict[str, int] = {}
        self._read()

    def _read(self) -> None:
        ids: set[int] = set()
        of: set[int] = set()

        def image(data: dict[str, Any]) -> str:
            number, name = self._id(data, "id", "an image"), data.get("file_name")
            if not isinstance(name, str) or not name:
                raise SamcliError(f"{self.path}: image {number} has no file_name")
            if number in ids or plain(name) in self._names:
                raise SamcliError(f"{self.path} lists image {number}, {name}, twice; remove one")
            ids.add(number)
            self._names[plain(name)] = number
            self.last_image = max(self.last_image, number)
            return str(number)

        def annotation(data: dict[str, Any]) -> str:
            self.last_annotation = max(self.last_annotation, self._id(data, "id", "an annotation"))
            own = self._id(data, "image_id", f"annotation {data['id']}")
            of.add(own)
            used.add(self._id(data, "category_id", f"annotation {data['id']}"))
            self.only_boxes += not data.get("segmentation")
            return str(own)

        used: set[int] = set()
        seen: set[str] = set()
        for key, value in json_members(self.path, _LISTS):
            seen.add(key)
            if key in _LISTS:
                if not isinstance(value, dict):
                    raise SamcliError(f"{self.path}: an element of {key} is not a JSON object")
                try:
                    json_bytes(value)
                except ValueError as error:  # Python writes NaN and infinity, which are no JSON
                    raise SamcliError(
                        f"{self.path}: an element of {key} has a number that is none"
                    ) from error
            if key == "images":
                self._images.put(image(value), value)
            elif key == "annotations":
                self._annotations.put(annotation(value), value)
            elif key == "categories":
                number = self._id(value, "id", "a category")
                if number in self._category:
                    raise SamcliError(f"{self.path} lists category {number} twice; remove one")
                self.categories.append(value)
                self._category[number] = str(value.get("name", ""))
                self.numbers.setdefault(self._category[number], number)
            elif key == "info" and isinstance(value, dict):
                self.info = value
            elif key == "licenses" and isinstance(value, list):
                self.licenses = value
            elif key not in ("info", "licenses"):
                self.more[key] = value
        if not {"images", "annotations"} <= seen and not ids:
            raise SamcliError(f"{self.path} lists no images; give COCO instances, such as annotations.json")
        self._images.index()
        self._annotations.index()
        for what, missing in (("image", of - ids), ("category", used - self._category.keys())):
            if missing:
                raise SamcliError(
                    f"{self.path} has annotations of {what} {min(missing)}, which it does not list; add it"
                )

    def _id(self, data: dict[str, Any], name: str, what: str) -> int:
        value = data.get(name)
        if type(value) is not int or value < 0:
            raise SamcliError(f"{self.path}: {name} of {what} is not a whole number: {value!r}")
        return value

    def match(self, paths: Iterable[str]) -> None:
        """Find the images that are among these, by path or by a file name that only one has.

        Raises SamcliError when several could be meant.
        """
        owners = Owners(self._names, str(self.path))
        for path in paths:
            owners.look(PurePosixPath(path))
        self._paths = owners.found()
        self._ids = {path: number for number, path in self._paths.items()}

    def number(self, path: str) -> int | None:
        """The id of the image that a record is of; None when it is new."""
        return self._ids.get(path)

    def images(self) -> Iterator[tuple[dict[str, Any], str, bool]]:
        """Every image as it is listed, its path, and whether there is a record of that path."""
        for _, image in self._images.items():
            path = self._paths.get(image["id"])
            yield image, path or image["file_name"], path is not None

    def image(self, number: int) -> dict[str, Any]:
        """An image as it is listed."""
        image: dict[str, Any] = self._images.get(str(number))[0]
        return image

    def annotations(self) -> Iterator[dict[str, Any]]:
        """Every annotation as it is, in the file's order."""
        return (annotation for _, annotation in self._annotations.items())

    def sides(self, image: dict[str, Any]) -> list[tuple[str, float | None]]:
        """Of each annotation of an image the category, and its share of the image where that is known."""
        found: list[tuple[str, float | None]] = []
        for annotation in self._annotations.get(str(image["id"])):
            area, box = annotation.get("area"), annotation.get("bbox")
            share = None
            try:
                pixels = float(area if isinstance(area, (int, float)) else box[2] * box[3])
                share = pixels / (float(image["width"]) * float(image["height"]))
            except (LookupError, TypeError, ValueError, ArithmeticError):
                pass
            found.append((self._category[annotation["category_id"]], share))
        return found

    def known(self, number: int, size: tuple[int, int] | None = None) -> tuple[tuple[int, int], list[Known]]:
        """Size (height, width) and annotations of an image, those that have a mask or a box.

        size: of the photo. Raises SamcliError, naming the file, when it is not what the file says, or when
        an annotation cannot be read.
        """
        image = self.image(number)
        said = image.get("height"), image.get("width")
        try:
            if said == (None, None) and size:
                said = size
            own = check_size(*said)
            if size and size != own:
                raise SamcliError(
                    f"the photo is of {size[1]}x{size[0]} pixels, not {own[1]}x{own[0]}; mend one"
                )
            found = []
            for annotation in self._annotations.get(str(number)):
                known = self._one(annotation, own)
                found += [known] if known else []
        except SamcliError as error:
            raise SamcliError(f"{self.path}: image {number}: {error}") from error
        return own, found

    def _one(self, data: dict[str, Any], size: tuple[int, int]) -> Known | None:
        segmentation, box = data.get("segmentation"), data.get("bbox")
        try:
            if segmentation:
                rle = to_rle(segmentation, size)
            elif box:
                x, y, width, height = box
                rle = to_rle([[x, y, x + width, y, x + width, y + height, x, y + height]], size)
            else:
                return None
        except (SamcliError, TypeError, ValueError) as error:
            raise SamcliError(f"annotation {data['id']}: {error}") from error
        return Known(rle, self._category[data["category_id"]], data.get("iscrowd") == 1, not segmentation)


@contextmanager
def open_base(path: Path) -> Iterator[Base]:
    """Read an instances file of any size. Raises SamcliError, naming it and what is malformed."""
    with groups() as images, groups() as annotations:
        yield Base(path, images, annotations)
