"""The files of a dataset: which are ours, and how they are written, all of them or none."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from samcli.errors import SamcliError, StopError
from samcli.formats.atomic import new_file, new_folder, write_text
from samcli.formats.coco import Instances, instances
from samcli.formats.files import json_bytes
from samcli.formats.table import FORMATS, Export, Format, Photos, Write
from samcli.formats.yolo import data_yaml
from samcli.images import DATASET

ANNOTATIONS = "annotations.json"
TO_REVIEW = "to_review.json"
LABELS = "labels"
OVERLAYS = "overlays"
REPORT = "report.html"
PARTS = ("train", "val", "test")
_POSSIBLE = {ANNOTATIONS, TO_REVIEW, LABELS, OVERLAYS, *(f"{part}.json" for part in PARTS), *FORMATS}

Note = Callable[[str], None]


def check_free(place: Path, wanted: Collection[str]) -> None:
    """Raise SamcliError when something stands where a file or folder is wanted that is not ours."""
    ours = made(place)
    new = set(wanted) - ours
    if not ours:
        new.add(REPORT)
    for name in sorted(new):
        if (place / name).exists():
            raise SamcliError(
                f"{place / name} is there already, and {DATASET} does not list it as samcli's; move it away, "
                "or choose another place"
            )


@contextmanager
def making(place: Path, wanted: Collection[str]) -> Iterator[None]:
    """Say that those are ours; at the end remove what an earlier build made and this one did not."""
    earlier = made(place)
    _write_made(place, earlier | set(wanted))
    yield
    for name in sorted(earlier - set(wanted)):
        path = place / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise SamcliError(f"{path}, of an earlier build, cannot be removed: {error.strerror}") from error
    _write_made(place, wanted)


def made(place: Path) -> set[str]:
    """Names of what earlier builds wrote. Raises SamcliError when the list of them is damaged."""
    try:
        data = json.loads((place / DATASET).read_bytes())
        return _POSSIBLE & set(data["samcli"]["made"])
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise SamcliError(
            f"{place / DATASET} is not what samcli wrote; remove it, or choose another place"
        ) from error


def _write_made(place: Path, names: Collection[str]) -> None:
    write_text(place / DATASET, json.dumps({"samcli": {"dataset": 1, "made": sorted(names)}}) + "\n")


class Annotations:
    """annotations.json and its parts, and to_review.json when there is one.

    parts: names; none when the dataset is not split. whole, part: what was written so far.
    """

    def __init__(self, whole: Instances, parts: Mapping[str, Instances], review: _Review | None) -> None:
        self.whole = whole
        self.parts = parts
        self._review = review

    def image(self, data: Mapping[str, Any], part: str) -> None:
        for out in self._to(part):
            out.image(data)

    def annotation(self, data: Mapping[str, Any], part: str) -> None:
        for out in self._to(part):
            out.annotation(data)

    def review(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        """Proposals of an image that are to review; their ids are given at the end."""
        if annotations:
            assert self._review is not None
            self._review.add(image, annotations)

    def finish(self, categories: list[dict[str, Any]], more: Mapping[str, Any], next_id: int) -> None:
        """Say what comes last. next_id: of the first annotation to review."""
        for out in (self.whole, *self.parts.values()):
            out.categories, out.more = categories, dict(more)
        if self._review:
            self._review.write(categories, more, next_id)

    def _to(self, part: str) -> list[Instances]:
        return [self.whole, self.parts[part]] if part else [self.whole]


class _Review:
    """Proposals to review, kept until the ids of the others are known."""

    def __init__(self, path: Path, info: Mapping[str, Any], licenses: Sequence[Any], kept: Any) -> None:
        self._path = path
        self._about = info, licenses
        self._kept = kept

    def add(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        self._kept.write(json_bytes([image, annotations]) + b"\n")

    def write(self, categories: list[dict[str, Any]], more: Mapping[str, Any], next_id: int) -> None:
        with new_file(self._path) as file, instances(file, *self._about) as out:
            out.categories, out.more = categories, dict(more)
            self._kept.seek(0)
            for line in self._kept:
                image, annotations = json.loads(line)
                out.image(image)
                for annotation in annotations:
                    out.annotation({**annotation, "id": next_id + out.annotations})


@contextmanager
def annotation_files(
    place: Path, parts: Sequence[str], review: bool, info: Mapping[str, Any], licenses: Sequence[Any]
) -> Iterator[Annotations]:
    """Write annotations.json and what belongs to it; all are put in place at the end, this one last."""
    with ExitStack() as stack:

        def opened(name: str) -> Instances:
            file = stack.enter_context(new_file(place / name))
            return stack.enter_context(instances(file, info, licenses))

        whole = opened(ANNOTATIONS)
        kept = None
        if review:
            kept = _Review(place / TO_REVIEW, info, licenses, stack.enter_context(tempfile.TemporaryFile()))
        yield Annotations(whole, {part: opened(f"{part}.json") for part in parts}, kept)


@contextmanager
def format_folder(
    place: Path,
    format_: Format,
    parts: Sequence[str],
    photos: Photos | None,
    numbers: Mapping[str, int],
    ids: Mapping[str, int],
    note: Note,
) -> Iterator[Mapping[str, Write]]:
    """Write a format into `place`/<its name>, which is replaced whole; with parts, a folder in it for each.

    numbers: of categories. ids: of the image that is being written. Gives what writes items, by part.
    """
    final = place / format_.name
    with new_folder(final, ours=True) as folder:
        with ExitStack() as stack:
            writers = {}
            for part in parts or ("",):
                own = folder / part
                (own / "images" if format_.name == "yolo" and photos else own).mkdir(
                    parents=True, exist_ok=True
                )
                export = Export(photos=photos, category_ids=numbers, image_ids=ids)
                writers[part] = stack.enter_context(_writing(format_, own, export, note))
            yield writers
        if format_.name == "yolo":  # which the folders of parts share, and which says where it will lie
            for part in parts:
                (folder / part / "data.yaml").unlink()
            pictures = {part: f"{part}/images" for part in parts} or {"train": "images", "val": "images"}
            names = sorted(numbers, key=lambda name: numbers[name])
            write_text(folder / "data.yaml", data_yaml(final, pictures, names))


@contextmanager
def _writing(format_: Format, place: Path, export: Export, note: Note) -> Iterator[Write]:
    """Write a format into a folder. What it cannot complete is noted, such as results of no masks."""
    whole = False
    try:
        if format_.file is None:
            with format_.write_folder(place, export) as write:
                yield write
                whole = True
        else:
            with new_file(place / format_.file) as file, format_.write_file(file, export) as write:
                yield write
                whole = True
    except StopError:
        raise
    except SamcliError as error:
        if not whole:
            raise
        note(f"{format_.name}: {error}")
