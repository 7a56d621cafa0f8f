"""`samcli cutout`: the thing that stands out in each image, as a transparent PNG."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from samcli.batch import Room, Work
from samcli.cli import options
from samcli.cli.folder import FolderSink, run_images
from samcli.cli.inputs import Decoded, decode, listed_file, parse_pixels, read_picture, read_stdin
from samcli.cli.model import Model, ModelOptions, images_at_once, saved_embedding
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, json_line, write_stdout
from samcli.cutout import COLOUR, CutoutConfig, find, load_finder, paint
from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.names import OutputPaths, image_id
from samcli.formats.png import encode_png, png_said
from samcli.formats.record import read_record, write_record
from samcli.images import MAX_PIXELS, ImageFile, input_file
from samcli.masks import decode_rle
from samcli.records import ImageRecord, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.cutout import Finder
    from samcli.predictor import Embedding, Predictor

NOTHING_FOUND = 5  # exit code


def cutout(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|FILE.png|-",
            help="Folder for the results; for one image also a .png file, or - for standard output.",
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, and folders searched for images at any depth; - is one on standard input.",
            metavar="[IMAGES_OR_DIRS...|-]",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    tight: Annotated[bool, typer.Option("--tight", help="Crop the picture to the thing.")] = False,
    background: Annotated[
        str | None,
        typer.Option(
            "--background", metavar="COLOUR", help="A colour (white, #ff8800) instead of transparency."
        ),
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option(
            "--min-confidence",
            metavar="X",
            help="Least predicted IoU, 0 to 1; below it the cut-out is empty. 0 always cuts something out.",
        ),
    ] = CutoutConfig.min_confidence,
    fail_empty: Annotated[
        bool, typer.Option("--fail-empty", help="Exit with 5 when nothing stands out in any image.")
    ] = False,
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
    """Cut out what stands out in each image, without any prompt.

    Writes DIR/<path below its root>/<stem>.cutout.png for each image, and <stem>.json, its mask.
    The embedded model finds the thing; another model (-m) then cuts it out.
    """
    report = Report(quiet=quiet, json=json)
    config, look = CutoutConfig(min_confidence), _Look(tight, _colour(background))
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    limit = parse_pixels(max_pixels)
    if not _is_folder(output):
        chosen = (files_from, null, include, exclude, overwrite, retry_failed, shard, ray)
        if any(chosen) or device == "all":
            raise UsageError(f"-o {output} is for one named image; give a folder for lists and runs: -o DIR/")
        one = _One(_only(images, output), output, settings, config, look, limit)
        raise typer.Exit(one.run(report, embeddings, root, keep_extension, fail_empty=fail_empty))
    if STDIN in images:
        raise UsageError("an image on standard input needs -o FILE.png, or -o - for standard output")
    inputs = options.inputs(
        images, Path(output), files_from, null, root, keep_extension, include, exclude, shard
    )
    known = settings.load(report)
    run = _run(settings, known, config)
    again = retry_failed or inputs.alone is not None
    sink = _Sink(Path(output), keep_extension, overwrite, again, run, look, limit, fail_empty)
    make_work = _MakeWork(settings, config, run, embeddings, keep_extension, limit)
    code = run_images(report, inputs, make_work, sink, known, options.cluster(ray, threads))
    raise typer.Exit(NOTHING_FOUND if fail_empty and not (code or sink.found) else code)


@dataclass(frozen=True)
class _Look:
    """How a picture is painted; changes no masks."""

    tight: bool
    background: COLOUR | None

    @property
    def said(self) -> str:
        """Noted in the picture, so that one painted otherwise is known."""
        colour = "" if self.background is None else " on #{:02x}{:02x}{:02x}".format(*self.background)
        return f"cutout{' tight' if self.tight else ''}{colour}"

    def png(self, record: ImageRecord, pixels: NDArray[np.uint8]) -> bytes:
        import numpy as np

        mask = np.zeros(pixels.shape[:2], bool)
        for found in record.annotations:
            mask |= decode_rle(found.segmentation)
        painted = paint(pixels, mask, tight=self.tight, background=self.background)
        return encode_png(painted, said=self.said)


class _Seen(NamedTuple):
    item: ImageFile
    picture: Decoded
    embedding: Embedding | None


class _Result(NamedTuple):
    record: ImageRecord
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _MakeWork:
    settings: ModelOptions
    config: CutoutConfig
    run: Run
    embeddings: Path | None
    keep_extension: bool
    max_pixels: int

    def __call__(self, device: str) -> Work[ImageFile, _Result]:
        predictor = self.settings.predictor(device)
        finder = _finder(predictor)

        def read(item: ImageFile, room: Room) -> _Seen:
            picture = read_picture(item, self.max_pixels, room)
            embedding = None
            if self.embeddings:
                embedding = saved_embedding(
                    self.embeddings, item, picture.source, self.settings, predictor, self.keep_extension
                )
            return _Seen(item, picture, embedding)

        def compute(seen: list[_Seen]) -> list[_Result]:
            fresh = [one.picture.pixels for one in seen if one.embedding is None]
            embedded = iter(predictor.embed_many(fresh) if len(fresh) > 1 else [None] * len(fresh))
            return [look(one, one.embedding or next(embedded)) for one in seen]

        def look(seen: _Seen, embedding: Embedding | None) -> _Result:
            return _Result(_record(seen, self.run, predictor, self.config, finder, embedding), seen[1].pixels)

        return Work(compute, read, images_at_once(predictor))


def _record(
    seen: _Seen,
    run: Run,
    predictor: Predictor,
    config: CutoutConfig,
    finder: Finder,
    embedding: Embedding | None,
) -> ImageRecord:
    source, pixels = seen.picture
    height, width = pixels.shape[:2]
    found = find(predictor, pixels, config, finder=finder, embedding=embedding)
    relative = seen.item.relative
    masks = () if found is None else (found,)
    return ImageRecord(run, source, image_id(relative), width, height, relative.as_posix(), masks)


@dataclass
class _Sink(FolderSink[ImageFile, _Result]):
    """Writes the picture, then the record: where there is a record, everything is there.

    found: something stood out in an image, of this run or, where fail_empty asks for it, an earlier one.
    """

    made_by: Run
    look: _Look
    max_pixels: int
    fail_empty: bool
    found: bool = field(default=False, init=False)

    counted = ("cutouts",)

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.made_by

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        return (paths.cutout_png, paths.masks, paths.labelmap, paths.overlay, paths.cutout)

    def store(self, paths: OutputPaths, item: ImageFile, result: _Result) -> dict[str, int]:
        write_bytes(paths.cutout_png, self.look.png(result.record, result.pixels))
        write_record(paths.record, result.record)
        self.found |= bool(result.record.annotations)
        return {"cutouts": len(result.record.annotations)}

    def complete(self, paths: OutputPaths, item: ImageFile, room: Room) -> None:
        missing = png_said(paths.cutout_png) != self.look.said
        if missing or (self.fail_empty and not self.found):
            record = read_record(paths.record)
            self.found |= bool(record.annotations)
            if missing:
                pixels = read_picture(item, self.max_pixels, room).pixels
                write_bytes(paths.cutout_png, self.look.png(record, pixels))


@dataclass(frozen=True)
class _One:
    """One image to one picture."""

    path: Path
    output: str
    settings: ModelOptions
    config: CutoutConfig
    look: _Look
    max_pixels: int

    def run(
        self,
        report: Report,
        embeddings: Path | None,
        root: Path | None,
        keep_extension: bool,
        *,
        fail_empty: bool,
    ) -> int:
        """Cut out, write, and return the exit code."""
        if report.json and self.output == "-":
            raise UsageError("-o - and --json both want standard output; choose one")
        item, picture = self._read(root)
        known = self.settings.load(report)
        predictor = self.settings.predictor(known.devices[0])
        embedding = None
        if embeddings:
            embedding = saved_embedding(
                embeddings, item, picture.source, self.settings, predictor, keep_extension
            )
        seen = _Seen(item, picture, embedding)
        run = _run(self.settings, known, self.config)
        record = _record(seen, run, predictor, self.config, _finder(predictor), embedding)
        data = self.look.png(record, picture.pixels)
        if self.output == "-":
            write_stdout(data)
        else:
            write_bytes(Path(self.output), data)
        if report.json:
            write_stdout(json_line(record.to_json()))
        if not record.annotations:
            name = "standard input" if self.path == STDIN else self.path
            report.note(
                f"note: nothing stands out in {name}, the cut-out is empty; "
                "--min-confidence 0 cuts out the best guess"
            )
        return NOTHING_FOUND if fail_empty and not record.annotations else 0

    def _read(self, root: Path | None) -> tuple[ImageFile, Decoded]:
        if self.path == STDIN:
            item, data = ImageFile(STDIN, PurePosixPath("stdin")), read_stdin()
            source = input_file(data, item.relative)
            return item, Decoded(
                source, decode(data, source, "standard input", self.max_pixels, lambda size: None)
            )
        item = listed_file(self.path, root)
        if item.problem:
            raise SamcliError(item.problem)
        return item, read_picture(item, self.max_pixels)


def _only(images: list[Path], output: str) -> Path:
    """The one image for an output that is one picture. Raises UsageError."""
    where = "standard output" if output == "-" else output
    if not images:
        raise UsageError("no image; name one, or - for standard input")
    if len(images) > 1 or images[0].is_dir():
        what = f"{images[0]} is a folder" if images[0].is_dir() else f"{len(images)} images are named"
        raise UsageError(f"{what}, but {where} holds one picture; give -o a folder")
    if images[0] == STDIN and sys.stdin.isatty():
        raise UsageError("standard input is a terminal; name a file, or pipe one in")
    if output == "-" and sys.stdout.isatty():
        raise UsageError("-o - writes a PNG, but standard output is a terminal; redirect it, or name a file")
    return images[0]


def _is_folder(output: str) -> bool:
    """Whether -o names a folder rather than a picture. Raises UsageError for a picture of another kind."""
    path = Path(output)
    if output != "-" and (output.endswith("/") or path.is_dir() or not path.suffix):
        return True
    if output != "-" and path.suffix.lower() != ".png":
        raise UsageError(f"-o {output} must end in .png, be - for standard output, or a folder (end it in /)")
    return False


def _colour(text: str | None) -> COLOUR | None:
    """A colour by name, or as #rrggbb. Raises UsageError."""
    from PIL import ImageColor

    if text is None:
        return None
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UsageError(f"--background {text!r} is no colour; give one such as white or #ff8800") from None
    return red, green, blue


def _run(settings: ModelOptions, model: Model, config: CutoutConfig) -> Run:
    """What makes the records. The salient head is part of it, whichever model cuts out."""
    from samcli.weights import salient_sha256

    return settings.run("cutout", model, {**asdict(config), "salient_sha256": salient_sha256()})


@lru_cache(maxsize=1)
def _finder(predictor: Predictor) -> Finder:
    return load_finder(predictor)
