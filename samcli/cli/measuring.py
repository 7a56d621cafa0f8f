"""The protocols of `samcli evaluate`: what is done with each photo, what is kept of it, what it comes to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from samcli import images
from samcli.annotate import GroundConfig, detect, segment
from samcli.automask import AutomaskConfig, generate
from samcli.batch import MakeWork
from samcli.cli.detector import Grounding
from samcli.cli.folder import FolderSink
from samcli.cli.inputs import Decoded
from samcli.cli.masking import Found, ImageWork, MaskWork, Seen, embedded, masked, one_by_one
from samcli.cli.model import Model, ModelOptions
from samcli.cli.pictures import Pictures, RecordSink
from samcli.cli.report import Report
from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.files import load_json
from samcli.formats.names import OutputPaths, output_paths
from samcli.formats.png import encode_png
from samcli.formats.record import read_record, read_rows, write_rows
from samcli.formats.select import mask_of
from samcli.images import ImageFile
from samcli.masks import parse_area
from samcli.records import Box, ImageRecord, MaskRecord, Prompt, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.cli.masking import Look
    from samcli.evaluate.figures import Figures
    from samcli.evaluate.truth import Dataset, Photo, Thing
    from samcli.predictor import Embedding, Predictor

    Rows = list[dict[str, Any]]

MOST_BOXES = 100  # of a photo, that a detector's answers are measured by (SegInW)


@dataclass(frozen=True)
class Source:
    """A dataset to evaluate on; picklable, so that every worker can read it itself.

    sha256: of the file. least: the area, as `parse_area` takes it, below which things do not count for
    prompts.
    """

    name: str
    file: Path
    sha256: str
    images: Path | None
    least: str | None

    def read(self) -> Dataset:
        """The dataset, read once in a process. Raises SamcliError."""
        return _dataset(self)

    def chosen(self, photo: Photo) -> list[Thing]:
        """The things of a photo that prompts are made of."""
        least = parse_area(self.least).pixels(photo.size) if self.least else 0
        return [thing for thing in photo.things if not thing.crowd and thing.area >= least]

    def of(self, item: ImageFile, picture: Decoded) -> Photo:
        """The photo of an item. Raises SamcliError when it is of another size than its annotations."""
        photo = self.read().photos[item.relative]
        height, width = picture.pixels.shape[:2]
        if photo.size != (height, width):
            said = f"{photo.size[1]}x{photo.size[0]}"
            raise SamcliError(f"the photo is of {width}x{height} pixels, but {self.file} says {said}")
        return photo


@lru_cache(maxsize=1)
def _dataset(source: Source) -> Dataset:
    from samcli.evaluate.truth import read_dataset

    return read_dataset(source.name, source.file, source.images)


@dataclass(frozen=True)
class Setting:
    """What a protocol works with: a dataset, the model, and what the command was told."""

    source: Source
    model: Model
    settings: ModelOptions
    embeddings: Path | None
    keep_extension: bool
    max_pixels: int
    seed: int
    by: tuple[str, ...]
    generator: AutomaskConfig
    boxes: Path | None
    detector: str | None

    def run(self, protocol: str, config: dict[str, Any], *, of_truth: bool = True) -> Run:
        """The head of what a protocol writes. of_truth: the annotations decide about it."""
        truth = {"truth_sha256": self.source.sha256} if of_truth else {}
        return self.settings.run("evaluate", self.model, {"protocol": protocol, **truth, **config})

    def common(self, run: Run) -> tuple[ModelOptions, Run, Path | None, bool, int]:
        """What every work begins with."""
        return self.settings, run, self.embeddings, self.keep_extension, self.max_pixels

    def record_sink(self, run: Run) -> MakeSink:
        """Makes a sink for masks."""
        none = Pictures(frozenset(), "area", self.max_pixels)
        return lambda out, overwrite, again: RecordSink(out, self.keep_extension, overwrite, again, run, none)

    def rows_sink(self, run: Run) -> MakeSink:
        """Makes a sink for what is measured in numbers."""
        return lambda out, overwrite, again: _RowsSink(out, self.keep_extension, overwrite, again, run)

    def items(self) -> Iterator[ImageFile]:
        """The photos, in the dataset's order."""
        return (ImageFile(photo.path, path) for path, photo in self.source.read().photos.items())

    def records(self, folder: Path) -> Iterator[tuple[Photo, ImageRecord]]:
        """The records in a folder, of those photos that have one."""
        return ((photo, read_record(path)) for photo, path in self._written(folder))

    def rows(self, folder: Path) -> dict[PurePosixPath, Rows]:
        """What was measured, of those photos of which there is something."""
        return {photo.relative: read_rows(path) for photo, path in self._written(folder)}

    def _written(self, folder: Path) -> Iterator[tuple[Photo, Path]]:
        for relative, photo in self.source.read().photos.items():
            path = output_paths(folder, relative, keep_extension=self.keep_extension).record
            if path.exists():
                yield photo, path


MakeSink = Callable[[Path, bool, bool], FolderSink[ImageFile, Any]]
"""Makes the sink, given its folder, and whether to overwrite and to try again what failed."""


class Measurement(NamedTuple):
    """A protocol on a dataset. figures: of what lies in the sink's folder."""

    make_work: MakeWork[ImageFile, Any]
    sink: MakeSink
    figures: Callable[[Path], Figures]


class Measured(NamedTuple):
    """What was measured in an image. picture: to look at, (H, W) uint8, or None."""

    record: ImageRecord
    rows: Rows
    picture: NDArray[np.uint8] | None


Rowed = tuple["Rows", "NDArray[np.uint8] | None"]


@dataclass(frozen=True)
class _RowsWork(ImageWork[Rowed, Measured]):
    """Builds work that measures each image by itself."""

    source: Source

    @abstractmethod
    def rows(self, predictor: Predictor, photo: Photo, embedding: Embedding) -> Rowed:
        """What is measured in a photo, and a picture of it."""

    def look(self, predictor: Predictor) -> Callable[[list[Seen]], list[Rowed]]:
        return lambda seen: [
            self.rows(predictor, self.source.of(one.item, one.picture), embedding)
            for one, embedding in zip(seen, embedded(predictor, seen), strict=True)
        ]

    def result(self, one: Seen, answer: Rowed) -> Measured:
        empty = masked(one.item, one.picture, self.run, Found(()))
        return Measured(empty.record, *answer)


@dataclass
class _RowsSink(FolderSink[ImageFile, Measured]):
    """Writes what was measured in each image, and `<stem>.png` where there is a picture of it."""

    counted = ("things",)

    made_by: Run

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.made_by

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        return (paths.record.with_suffix(".png"),)

    def store(self, paths: OutputPaths, item: ImageFile, result: Measured) -> dict[str, int]:
        if result.picture is not None:
            write_bytes(paths.record.with_suffix(".png"), encode_png(result.picture))
        write_rows(paths.record, result.record, result.rows)
        return {"things": len(result.rows)}

    def holds(self, paths: OutputPaths) -> bool:
        return bool(read_rows(paths.record))


# Prompts


def prompts(setting: Setting) -> Measurement:
    """Clicks and boxes made from the truth."""
    from samcli.evaluate.figures import of_prompts

    run = setting.run("prompts", {"seed": setting.seed, "min_area": setting.source.least})
    work = _Prompts(*setting.common(run), setting.source, setting.seed)
    return Measurement(
        work,
        setting.rows_sink(run),
        lambda folder: of_prompts(setting.source.read(), setting.rows(folder), setting.by),
    )


@dataclass(frozen=True)
class _Prompts(_RowsWork):
    seed: int

    def rows(self, predictor: Predictor, photo: Photo, embedding: Embedding) -> Rowed:
        from samcli.evaluate.prompts import answers

        return answers(predictor, embedding, self.source.chosen(photo), self.seed), None


# Edges


def edges(setting: Setting) -> Measurement:
    """Edges from masks, beside those that people drew."""
    from samcli.evaluate.figures import of_edges
    from samcli.evaluate.metrics import check_scipy

    check_scipy()
    if not setting.source.read().partitions:
        raise SamcliError(
            f"{setting.source.file} has no annotators, so nobody's edges; give human partitions, each "
            "annotation with a whole number `annotator`"
        )
    run = setting.run("edges", {})
    return Measurement(
        _Edges(*setting.common(run), setting.source),
        setting.rows_sink(run),
        lambda folder: of_edges(setting.rows(folder)),
    )


class _Edges(_RowsWork):
    def rows(self, predictor: Predictor, photo: Photo, embedding: Embedding) -> Rowed:
        from samcli.evaluate.edges import count_edges, edge_map, mask_logits
        from samcli.evaluate.figures import annotated_boundaries

        strength = edge_map(mask_logits(predictor, embedding), photo.size)
        counts = count_edges(strength, annotated_boundaries(photo))
        return [asdict(count) for count in counts], (255 * strength).round().astype("uint8")


# Masks


def everything(setting: Setting) -> Measurement:
    """Recall of everything mode, and of partitions that people drew."""
    from samcli.evaluate.figures import of_everything
    from samcli.evaluate.metrics import check_scipy

    if setting.source.read().partitions:
        check_scipy()
    config = asdict(setting.generator.resolve(setting.model.spec))
    run = setting.run("everything", config, of_truth=False)
    return Measurement(
        _Everything(*setting.common(run), setting.generator),
        setting.record_sink(run),
        lambda folder: of_everything(setting.source.read(), setting.records(folder)),
    )


@dataclass(frozen=True)
class _Everything(MaskWork):
    generator: AutomaskConfig

    def look(self, predictor: Predictor) -> Look:
        return one_by_one(
            predictor,
            lambda pixels, embedding: generate(predictor, pixels, self.generator, embedding=embedding),
        )


def boxes(setting: Setting) -> Measurement:
    """Masks of boxes that a detector, or the truth, gave."""
    given = (setting.boxes, file_sha256(setting.boxes)) if setting.boxes else None
    if given:
        given_boxes(*given)  # to refuse a bad file before any work
    run = setting.run("boxes", {"boxes_sha256": given[1] if given else None})
    return _precision(setting, run, _Boxes(*setting.common(run), setting.source, given))


def file_sha256(path: Path) -> str:
    """Raises SamcliError for a file that cannot be read."""
    try:
        return images.digest(path)[1]
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error


@dataclass(frozen=True)
class _Boxes(MaskWork):
    source: Source
    given: tuple[Path, str] | None  # and its sha256

    def look(self, predictor: Predictor) -> Look:
        return lambda seen: [
            Found(self._masks(predictor, self.source.of(one.item, one.picture), embedding))
            for one, embedding in zip(seen, embedded(predictor, seen), strict=True)
        ]

    def _masks(self, predictor: Predictor, photo: Photo, embedding: Embedding) -> tuple[MaskRecord, ...]:
        given = self._given(photo)
        names = self.source.read().categories
        answered = predictor.predict_each(embedding, [Prompt(box=one.box) for one in given], multimask=False)
        masks = []
        for number, (one, answer) in enumerate(zip(given, answered, strict=True), start=1):
            (mask,) = answer.records()
            score = mask.predicted_iou if one.score is None else one.score
            name = names.get(one.category)
            masks.append(replace(mask, id=number, category_id=one.category, category=name, score=score))
        return tuple(masks)

    def _given(self, photo: Photo) -> list[_Given]:
        if self.given:
            return [one for one in given_boxes(*self.given).get(photo.number, []) if one.overlaps(photo.size)]
        found = []
        for thing in photo.things:
            if not thing.crowd:
                x, y, width, height = mask_of(thing.segmentation).bbox
                found.append(_Given(Box(x, y, x + width, y + height), thing.category, None))
        return found


class _Given(NamedTuple):
    """A box of a photo. score: of the detector; None for a true box."""

    box: Box
    category: int
    score: float | None

    def overlaps(self, size: tuple[int, int]) -> bool:
        """Whether any of it lies in an image of `size`."""
        x0, y0, x1, y1 = self.box.xyxy
        return x1 > 0 and y1 > 0 and x0 < size[1] and y0 < size[0]


@lru_cache(maxsize=1)
def given_boxes(path: Path, sha256: str) -> dict[int, list[_Given]]:
    """COCO results with boxes, by image id; of each image the best 100. Raises SamcliError.

    sha256: of the file, so that another one of its name is read anew.
    """
    try:
        rows = load_json(path)
        if not isinstance(rows, list):
            raise SamcliError("is not COCO results: not a list")
        found: dict[int, list[_Given]] = {}
        for row in rows:
            x, y, width, height = (float(v) for v in row["bbox"])
            if width > 0 and height > 0:
                box = Box(x, y, x + width, y + height)
                one = _Given(box, int(row["category_id"]), float(row["score"]))
                found.setdefault(int(row["image_id"]), []).append(one)
    except SamcliError as error:
        raise SamcliError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise SamcliError(
            f"{path} is not COCO results with image_id, category_id, bbox and score ({error})"
        ) from error
    return {
        number: sorted(some, key=lambda one: -(one.score or 0))[:MOST_BOXES] for number, some in found.items()
    }


def text(setting: Setting, report: Report) -> Measurement:
    """Masks of what the names of the categories find."""
    names = tuple(dict.fromkeys(name for name in setting.source.read().categories.values() if name))
    looking = GroundConfig(box_threshold=0.0, nms=1.0, max_detections=MOST_BOXES)
    grounding = Grounding(names, looking, setting.detector, setting.settings.dtype)
    grounding.check()
    finder = grounding.known(setting.settings.workers())
    grounding.say(report, finder)
    run = setting.run("text", grounding.described(finder), of_truth=False)
    return _precision(setting, run, _Text(*setting.common(run), setting.source, grounding))


@dataclass(frozen=True)
class _Text(MaskWork):
    source: Source
    grounding: Grounding

    def look(self, predictor: Predictor) -> Look:
        asked = self.grounding
        detector = asked.load(str(predictor.device))
        categories = self.source.read().categories.items()
        numbers = {name: number for number, name in reversed(list(categories))}  # of equal names the first

        def find(seen: list[Seen]) -> list[Found]:
            found = detect(detector, [one.picture.pixels for one in seen], asked.phrases, asked.config)
            masks = [
                segment(predictor, embedding, boxes, asked.phrases)
                for boxes, embedding in zip(found, embedded(predictor, seen), strict=True)
            ]
            return [
                Found(tuple(replace(mask, category_id=numbers[mask.category or ""]) for mask in some))
                for some in masks
            ]

        return find


def _precision(setting: Setting, run: Run, work: MaskWork) -> Measurement:
    from samcli.evaluate.figures import of_masks

    return Measurement(
        work,
        setting.record_sink(run),
        lambda folder: of_masks(setting.source.read(), setting.records(folder)),
    )
