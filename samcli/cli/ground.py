"""`samcli ground`: masks of what a text names."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from samcli import batch
from samcli.annotate import GroundConfig, detect, name_masks, segment
from samcli.batch import Room, Work
from samcli.cli import options
from samcli.cli.detector import Grounding, asked_for, split_arguments
from samcli.cli.folder import FolderSink, nothing_found, run_images
from samcli.cli.given import GivenMasks, digest_of, given_masks
from samcli.cli.inputs import PIPED, Decoded, Inputs, parse_pixels, parse_shard, read_picture, shown
from samcli.cli.masking import Found, Masked, MaskWork, Seen, embedded, masked
from samcli.cli.model import Loaded, ModelOptions
from samcli.cli.outputs import Format, Target, one_picture, target
from samcli.cli.pictures import NOTHING_FOUND, NamedSink, Pictures, RecordSink, drawn
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, json_line, named, say_error, say_failures, write_stdout
from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.boxes import Detection
from samcli.formats.detections import entry, write_results
from samcli.formats.names import OutputPaths, names_folder
from samcli.formats.record import Head, read_head, write_record
from samcli.formats.select import Flatten
from samcli.images import EVERYTHING, MAX_PIXELS, Chosen, ImageFile
from samcli.records import InputFile, MaskRecord, Run

if TYPE_CHECKING:
    from samcli.cli.masking import Look
    from samcli.ground.detector import Detected
    from samcli.predictor import Predictor

TERMINAL = "standard input is a terminal; name a file, or pipe one in"


class Picture(str, Enum):
    """What can be written of masks besides the record."""

    OVERLAY = "overlay"
    CUTOUT = "cutout"
    PNG = "png"
    LABELMAP = "labelmap"


def ground(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="Images, and folders searched for images at any depth, or - for one on standard input; "
            "then what to look for, phrases between dots or commas.",
            metavar="[IMAGES_OR_DIRS...|-] TEXT",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    labels: options.Phrases = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR|-",
            help="A .png, .json or .jsonl file, a folder for records, or - for a PNG on standard output.",
        ),
    ] = None,
    format_: Annotated[
        list[Picture],
        typer.Option(
            "--format",
            metavar="cutout|overlay|png|labelmap",
            help="The picture to write instead of the mask; in a folder, beside the record (cutout and png: "
            "one for each mask). May be repeated there.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    overlay: Annotated[bool, typer.Option("--overlay", help="The same as --format overlay.")] = False,
    detector: options.Detector = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    nms: options.Nms = GroundConfig.nms,
    class_agnostic: options.ClassAgnostic = GroundConfig.class_agnostic,
    containment: options.Containment = GroundConfig.containment,
    max_detections: options.MaxDetections = GroundConfig.max_detections,
    tile: options.Tile = GroundConfig.tile,
    overlap: options.Overlap = GroundConfig.overlap,
    boxes_only: Annotated[
        bool,
        typer.Option(
            "--boxes-only", help="Only find the boxes, for `samcli predict --boxes` here or elsewhere."
        ),
    ] = False,
    masks_from: Annotated[
        Path | None,
        typer.Option(
            "--masks-from",
            metavar="FILE|DIR",
            help="Name the masks in there, in any format that `convert` reads, instead of making some.",
        ),
    ] = None,
    fail_empty: Annotated[
        bool, typer.Option("--fail-empty", help="Exit with 5 when nothing is found in any image.")
    ] = False,
    flatten: options.FlattenOption = "area",
    embeddings: options.Embeddings = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = [],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
    max_pixels: options.MaxPixels = f"{MAX_PIXELS // 10**6}M",
    root: options.Root = None,
    keep_extension: options.KeepExtension = False,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    shard: options.Shard = None,
    ray: options.Ray = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.DType = "fp32",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Find what a text names, and cut it out: a mask for each thing, with its phrase and score.

    Prints a record for each image, as a JSON line, or a table on a terminal.
    """
    report = Report(quiet=quiet, json=json)
    images, text = split_arguments(arguments, labels)
    phrases = asked_for(text, labels)
    if tile is None and overlap != GroundConfig.overlap:
        raise UsageError("--overlap is that of tiles; it goes with --tile")
    config = GroundConfig(
        box_threshold, text_threshold, nms, class_agnostic, containment, max_detections, tile, overlap
    )
    search = Search(
        images=tuple(images),
        grounding=Grounding(phrases, config, detector, dtype),
        settings=ModelOptions(model, device, dtype, threads, elsewhere=ray is not None),
        max_pixels=parse_pixels(max_pixels),
        output=output,
        formats=tuple(dict.fromkeys([kind.value for kind in format_] + ["overlay"] * overlay)),
        flatten=flatten,
        boxes_only=boxes_only,
        masks_from=masks_from,
        fail_empty=fail_empty,
        embeddings=embeddings,
        files_from=files_from,
        null=null,
        chosen=Chosen(tuple(include), tuple(exclude)),
        root=root,
        keep_extension=keep_extension,
        overwrite=overwrite,
        retry_failed=retry_failed,
        shard=shard,
        ray=ray,
    )
    raise typer.Exit(find(report, search))


@dataclass(frozen=True)
class Search:
    """What the options of `ground` say, or those of `predict --text`. answers: lines are those of predict."""

    images: tuple[Path, ...]
    grounding: Grounding
    settings: ModelOptions
    max_pixels: int
    output: str | None = None
    formats: tuple[str, ...] = ()
    flatten: Flatten = "area"
    answers: bool = False
    boxes_only: bool = False
    masks_from: Path | None = None
    fail_empty: bool = False
    embeddings: Path | None = None
    files_from: Path | None = None
    null: bool = False
    chosen: Chosen = EVERYTHING
    root: Path | None = None
    keep_extension: bool = False
    overwrite: bool = False
    retry_failed: bool = False
    shard: str | None = None
    ray: str | None = None

    def target(self, report: Report) -> Target:
        """Where results go. Raises UsageError for what does not go together."""
        if self.boxes_only and (self.formats or self.embeddings or self.masks_from):
            raise UsageError("--boxes-only goes without --format, --overlay, --embeddings and --masks-from")
        if self.masks_from and self.embeddings:
            raise UsageError("--masks-from makes no masks, so it goes without --embeddings")
        terminal = sys.stdout.isatty()
        if self.output not in (None, "-") and names_folder(str(self.output)):
            if self.masks_from and self.masks_from.resolve() == Path(str(self.output)).resolve():
                raise UsageError(f"--masks-from and -o are both {self.output}; write to another folder")
            return target(self.output, None, json=report.json, terminal=terminal)
        options.only_in_folders(self.overwrite, self.retry_failed, self.shard, self.ray, self.settings.device)
        kinds: dict[str, Format] = {"cutout": "cutout", "overlay": "overlay"}
        if len(self.formats) > 1 or any(kind not in kinds for kind in self.formats):
            raise UsageError(f"--format {' and '.join(self.formats)} needs a folder: -o DIR/")
        kind = kinds[self.formats[0]] if self.formats else None
        where = target(self.output, kind, json=report.json, terminal=terminal)
        if self.boxes_only and where.kind == "png":
            raise UsageError("boxes are no picture; give -o a .json or .jsonl file, or a folder")
        return where

    def inputs(self, where: Target) -> Inputs | None:
        """The images; None for the one on standard input. Raises UsageError."""
        if STDIN in self.images:
            if len(self.images) > 1 or self.files_from is not None:
                raise UsageError("- is the image on standard input; name no other beside it")
            if where.kind == "folder":
                raise UsageError("an image on standard input goes to a file, or -o - for standard output")
            if sys.stdin.isatty():
                raise UsageError(TERMINAL)
            return None
        inputs = Inputs(
            self.images,
            where.path if where.kind == "folder" else None,
            self.files_from,
            self.null,
            self.root,
            self.keep_extension or where.kind != "folder",  # without outputs none can clash
            self.chosen,
            None if self.shard is None else parse_shard(self.shard),
        )
        single = where.kind == "png" or (where.kind == "json" and not self.boxes_only)
        if single and inputs.alone is None:
            what = f"{self.images[0]} is a folder" if len(self.images) == 1 else "these are several images"
            raise UsageError(f"{what}, but {where.name} holds one image; give -o a folder")
        return inputs

    @property
    def photos(self) -> Path | None:
        """The one folder that all images lie in, if there is one."""
        if self.root is not None or len(self.images) != 1 or self.files_from is not None:
            return self.root
        return self.images[0] if self.images[0].is_dir() else self.images[0].parent


def find(report: Report, search: Search) -> int:
    """Find what was asked for, write or print it, and return the exit code."""
    where = search.target(report)
    inputs = search.inputs(where)
    search.grounding.check()
    job = _job(report, search)
    if where.kind == "folder":
        assert inputs is not None
        again = search.retry_failed or inputs.alone is not None
        given = where.path, search.keep_extension, search.overwrite, again
        pictures = Pictures(frozenset(search.formats), search.flatten, search.max_pixels)
        sink: FolderSink[ImageFile, Any]
        if search.boxes_only:
            sink = _BoxSink(*given, job.runs)
        elif search.masks_from:
            sink = _NamingSink(*given, job.runs.of(PIPED), pictures, job.runs)
        else:
            sink = RecordSink(*given, job.runs.of(PIPED), pictures)
        cluster = options.cluster(search.ray, search.settings.threads)
        run = run_images(report, inputs, job.work, sink, job.known, cluster)
        empty = search.fail_empty and not run.code and nothing_found(run, sink, inputs)
        return NOTHING_FOUND if empty else run.code

    alone = inputs is None or inputs.alone is not None
    stream = _Stream(where, report, search.flatten, search.boxes_only, search.answers, alone)
    total = 1 if inputs is None else inputs.check(lambda image: None)
    with report.progress(total, "image") as progress:
        items = [PIPED] if inputs is None else inputs
        tally = batch.run(items, job.work, stream, devices=job.known.devices, progress=progress)
    if alone and tally.failures and not tally.stopped:
        failure = tally.failures[0]
        say_error(named(shown(failure.item.path), failure.reason))
        return 1
    stream.close(complete=not tally.stopped)
    say_failures(stream.failed)
    if tally.stopped:
        say_error(tally.stopped[1])
    elif not stream.found and len(stream.failed) < tally.seen:
        phrases = search.grounding.phrases
        what = ", ".join(phrases) if len(phrases) <= 5 else f"any of {len(phrases)} phrases"
        report.note(f"note: nothing found for: {what}; a lower --box-threshold finds more")
    if search.fail_empty and not (tally.exit_code or stream.found):
        return NOTHING_FOUND
    return tally.exit_code


# Work


class Boxes(NamedTuple):
    """What the detector found in an image, numbered from 1, best first."""

    source: InputFile
    boxes: tuple[Detection, ...]


@dataclass(frozen=True)
class _Runs:
    """What makes each image's results. given: masks that are part of it."""

    settings: ModelOptions
    known: Loaded
    config: dict[str, Any]
    given: GivenMasks | None = None

    def of(self, image: ImageFile) -> Run:
        """What makes those of an image."""
        if self.given is None:
            return self.settings.run("ground", self.known, self.config)
        try:
            digest = digest_of(self.given.of(image))
        except SamcliError:  # said where the masks are needed
            digest = None
        hashed = {**self.config, "masks_sha256": digest}
        return self.settings.run(
            "ground", self.known, {**hashed, "masks_from": str(self.given.place)}, hashed
        )


class _Job(NamedTuple):
    work: batch.MakeWork[ImageFile, Any]
    known: Loaded
    runs: _Runs


def _job(report: Report, search: Search) -> _Job:
    """Load what is needed, to know it, and that it can be had."""
    grounding, settings = search.grounding, search.settings
    workers = settings.workers()
    detector = grounding.known(workers)
    config = grounding.described(detector)
    if not (search.boxes_only or search.masks_from):
        known = settings.load(report)
        grounding.say(report, detector)
        runs = _Runs(settings, known, config)
        masks = _GroundWork(
            settings, runs.of(PIPED), search.embeddings, search.keep_extension, search.max_pixels, grounding
        )
        return _Job(masks, known, runs)
    grounding.say(report, detector)
    alone = Loaded(detector.name, detector.sha256, workers.devices)
    if search.masks_from:
        given = given_masks(search.masks_from, search.photos, search.keep_extension)
        runs = _Runs(settings, alone, config, given)
        return _Job(_NameWork(grounding, settings, search.max_pixels, runs), alone, runs)
    runs = _Runs(settings, alone, {**config, "boxes_only": True})
    return _Job(_BoxWork(grounding, settings, search.max_pixels), alone, runs)


@dataclass(frozen=True)
class _GroundWork(MaskWork):
    grounding: Grounding

    def look(self, predictor: Predictor) -> Look:
        detector, asked = self.grounding.load(str(predictor.device)), self.grounding

        def look(seen: list[Seen]) -> list[Found]:
            found = detect(detector, [one.picture.pixels for one in seen], asked.phrases, asked.config)
            # An image with nothing in it needs no embedding.
            embeddings = embedded(
                predictor, [one for one, boxes in zip(seen, found, strict=True) if len(boxes)]
            )
            return [
                Found(segment(predictor, next(embeddings), boxes, asked.phrases) if len(boxes) else ())
                for boxes in found
            ]

        return look


@dataclass(frozen=True)
class _DetectWork:
    """Builds work that needs no SAM: what the detector finds becomes `result`."""

    grounding: Grounding
    settings: ModelOptions
    max_pixels: int

    def result(self, item: ImageFile, picture: Decoded, found: Detected) -> Any:
        raise NotImplementedError

    def __call__(self, device: str) -> Work[ImageFile, Any]:
        from samcli.predictor import find_device, use_threads

        if self.settings.threads is not None:
            use_threads(self.settings.threads)
        detector, asked = self.grounding.load(str(find_device(device))), self.grounding

        def read(item: ImageFile, room: Room) -> tuple[ImageFile, Decoded]:
            return item, read_picture(item, self.max_pixels, room)

        def compute(seen: list[tuple[ImageFile, Decoded]]) -> list[Any]:
            found = detect(detector, [picture.pixels for _, picture in seen], asked.phrases, asked.config)
            return [self.result(*one, boxes) for one, boxes in zip(seen, found, strict=True)]

        return Work(compute, read, detector.images_per_call)


@dataclass(frozen=True)
class _BoxWork(_DetectWork):
    def result(self, item: ImageFile, picture: Decoded, found: Detected) -> Boxes:
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.phrases.tolist(), strict=True)
        boxes = [
            Detection(
                number,
                (x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)),  # of hundredths, as they were
                category_id=place + 1,
                category=self.grounding.phrases[place],
                score=score,
            )
            for number, ((x0, y0, x1, y1), score, place) in enumerate(rows, start=1)
        ]
        return Boxes(picture.source, tuple(boxes))


@dataclass(frozen=True)
class _NameWork(_DetectWork):
    runs: _Runs

    def result(self, item: ImageFile, picture: Decoded, found: Detected) -> Masked:
        assert self.runs.given is not None
        masks = [_nameless(mask) for mask in self.runs.given.of(item)]
        height, width = picture.pixels.shape[:2]
        for mask in masks:
            if mask.segmentation["size"] != [height, width]:
                h, w = mask.segmentation["size"]
                raise SamcliError(
                    f"{self.runs.given.place} has masks of {w}x{h} pixels for {item.path}, which has "
                    f"{width}x{height}; give the masks of this image"
                )
        names = name_masks(masks, found, self.grounding.phrases)
        return masked(item, picture, self.runs.of(item), Found(names))


def _nameless(mask: MaskRecord) -> MaskRecord:
    """A mask without what an earlier detector said of it: all names are of one list of phrases."""
    score = mask.score if mask.detector_score is None else mask.predicted_iou
    return replace(mask, category_id=None, category=None, phrase=None, detector_score=None, score=score)


# Sinks


@dataclass
class _NamingSink(NamedSink):
    runs: _Runs

    def run(self, item: ImageFile) -> Run:
        return self.runs.of(item)


@dataclass
class _BoxSink(FolderSink[ImageFile, Boxes]):
    """Writes `<stem>.boxes.jsonl` for each image."""

    runs: _Runs

    counted = ("detections",)

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.runs.of(item)

    def main(self, paths: OutputPaths) -> Path:
        return paths.boxes

    def head(self, path: Path) -> Head | None:
        return read_head(path, lines=True)

    def store(self, paths: OutputPaths, item: ImageFile, result: Boxes) -> dict[str, int]:
        write_results(paths.boxes, self.run(item), result.source, item.relative, result.boxes)
        return {"detections": len(result.boxes)}

    def holds(self, paths: OutputPaths) -> bool:
        with paths.boxes.open("rb") as file:
            return len(file.readlines(2**20)) > 1


@dataclass
class _Stream:
    """The sink for everything but folders: lines, a table, one file, or one picture.

    answers: lines are those of predict. alone: there is one image, which fails without a line.
    found: something was. failed: (name, reason) in order. kept, rows: lines of a file, or rows of a table,
    for `close`.
    """

    where: Target
    report: Report
    flatten: Flatten
    boxes_only: bool
    answers: bool
    alone: bool
    found: bool = False
    failed: list[tuple[str, str]] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def done(self, item: ImageFile, room: Room) -> bool:
        return False

    def write(self, item: ImageFile, result: Masked | Boxes) -> dict[str, int]:
        if isinstance(result, Boxes):
            self.found |= bool(result.boxes)
            self._rows(item, map(_box_row, result.boxes))
            for box in result.boxes:
                self._line(entry(item.relative, box))
            return {}
        record, pixels = result
        masks = record.annotations
        self.found |= any(mask.category for mask in masks)
        self._rows(item, map(_mask_row, masks))
        if self.where.kind == "json":
            write_record(self.where.path, record)
        elif self.where.kind == "png":
            size = record.height, record.width
            kind = self.where.format
            self.where.write(
                one_picture(
                    self.report, kind, masks, size, pixels, lambda: drawn(pixels, masks), self.flatten
                )
            )
        if self.answers:
            plain = [mask.to_json() for mask in masks]
            self._line({"id": 1, "image": str(item.path), "masks": plain})
        else:
            self._line(record.to_json())
        return {}

    def fail(self, item: ImageFile, reason: str, error: Exception) -> None:
        self.failed.append((shown(item.path), reason))
        if not (self.boxes_only or self.alone):
            which = {"id": 1} if self.answers else {}
            self._line({**which, "image": str(item.path), "error": reason})

    def close(self, *, complete: bool) -> None:
        """Write what only the end of the run makes whole."""
        if self.where.kind == "table" and self.rows:
            _print_table(self.rows, boxes=self.boxes_only, several=not self.alone)
        elif self.where.kind == "jsonl" and complete:
            write_bytes(self.where.path, b"".join(self.kept))
        elif self.where.kind == "json" and complete and self.boxes_only:
            write_bytes(self.where.path, b"[" + b",\n ".join(map(bytes.rstrip, self.kept)) + b"]\n")

    def _line(self, line: dict[str, Any]) -> None:
        data = json_line(line)
        if self.where.kind == "lines" or self.report.json:
            write_stdout(data)
        if self.where.kind == "jsonl" or (self.where.kind == "json" and self.boxes_only):
            self.kept.append(data)

    def _rows(self, item: ImageFile, rows: Iterable[tuple[str, ...]]) -> None:
        if self.where.kind == "table":
            self.rows += [(shown(item.path), *row) for row in rows]


def _mask_row(mask: MaskRecord) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    extent = ", ".join(f"{v:g}" for v in mask.bbox)
    return (
        mask.category or "",
        number(mask.detector_score),
        number(mask.predicted_iou),
        str(mask.area),
        extent,
    )


def _box_row(box: Detection) -> tuple[str, ...]:
    return (box.category or "", f"{box.score:.3f}", ", ".join(f"{v:g}" for v in box.numbers))


def _print_table(rows: list[tuple[str, ...]], *, boxes: bool, several: bool) -> None:
    """What was found, for people: a row for each; the image's name only where there may be several."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first = 0 if several else 1
    columns = ("image", "what", "score", *(() if boxes else ("predicted IoU", "pixels")), "x, y, w, h")
    table = Table()
    for column in columns[first:]:
        table.add_column(column, overflow="fold")  # not cut short: names are for the next command
    for row in rows:
        table.add_row(*map(Text, row[first:]))  # Text, for names may look like Rich's markup
    Console().print(table)
