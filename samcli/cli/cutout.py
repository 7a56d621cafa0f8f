"""`samcli cutout`: the thing that stands out in each image, as a transparent PNG."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samcli.batch import Room
from samcli.cli import options
from samcli.cli.folder import FolderSink, nothing_found, run_images
from samcli.cli.inputs import PIPED, Decoded, listed_file, parse_pixels, read_picture, shown
from samcli.cli.masking import Masked, MaskWork, masked, one_by_one
from samcli.cli.model import Model, ModelOptions
from samcli.cli.pictures import NOTHING_FOUND
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, json_line, write_stdout
from samcli.cutout import COLOUR, CutoutConfig, find, load_finder, paint
from samcli.formats.atomic import write_bytes
from samcli.formats.names import OutputPaths, names_folder
from samcli.formats.png import encode_png, png_said
from samcli.formats.record import read_record, write_record
from samcli.images import MAX_PIXELS, ImageFile
from samcli.masks import decode_rle
from samcli.records import ImageRecord, MaskRecord, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.cli.masking import Look
    from samcli.predictor import Embedding, Predictor


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
        path = _only(images, output)
        if json and output == "-":
            raise UsageError("-o - and --json both want standard output; choose one")
        item, picture = _read(path, root, limit)
        known = settings.load(report)
        work = _MakeWork(settings, _run(settings, known, config), embeddings, keep_extension, limit, config)
        raise typer.Exit(_one(report, work, known, item, picture, look, output, fail_empty=fail_empty))
    if STDIN in images:
        raise UsageError("an image on standard input needs -o FILE.png, or -o - for standard output")
    inputs = options.inputs(
        images, Path(output), files_from, null, root, keep_extension, include, exclude, shard
    )
    known = settings.load(report)
    made_by = _run(settings, known, config)
    again = retry_failed or inputs.alone is not None
    sink = _Sink(Path(output), keep_extension, overwrite, again, made_by, look, limit)
    make_work = _MakeWork(settings, made_by, embeddings, keep_extension, limit, config)
    run = run_images(report, inputs, make_work, sink, known, options.cluster(ray, threads))
    empty = fail_empty and not run.code and nothing_found(run, sink, inputs)
    raise typer.Exit(NOTHING_FOUND if empty else run.code)


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


@dataclass(frozen=True)
class _MakeWork(MaskWork):
    config: CutoutConfig

    def look(self, predictor: Predictor) -> Look:
        finder = load_finder(predictor)

        def look(pixels: NDArray[np.uint8], embedding: Embedding | None) -> tuple[MaskRecord, ...]:
            found = find(predictor, pixels, self.config, finder=finder, embedding=embedding)
            return () if found is None else (found,)

        return one_by_one(predictor, look)


@dataclass
class _Sink(FolderSink[ImageFile, Masked]):
    """Writes the picture, then the record: where there is a record, everything is there."""

    made_by: Run
    look: _Look
    max_pixels: int

    counted = ("cutouts",)

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.made_by

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        return (paths.cutout_png, paths.masks, paths.labelmap, paths.overlay, paths.cutout)

    def store(self, paths: OutputPaths, item: ImageFile, result: Masked) -> dict[str, int]:
        write_bytes(paths.cutout_png, self.look.png(result.record, result.pixels))
        write_record(paths.record, result.record)
        return {"cutouts": len(result.record.annotations)}

    def complete(self, paths: OutputPaths, item: ImageFile, room: Room) -> None:
        if png_said(paths.cutout_png) != self.look.said:
            record, pixels = read_record(paths.record), read_picture(item, self.max_pixels, room).pixels
            write_bytes(paths.cutout_png, self.look.png(record, pixels))

    def holds(self, paths: OutputPaths) -> bool:
        return bool(read_record(paths.record).annotations)


def _one(
    report: Report,
    work: _MakeWork,
    known: Model,
    item: ImageFile,
    picture: Decoded,
    look: _Look,
    output: str,
    *,
    fail_empty: bool,
) -> int:
    """Cut out of one image, write one picture, and return the exit code."""
    predictor = work.settings.predictor(known.devices[0])
    seen = work.seen(item, picture, predictor)
    (found,) = work.look(predictor)([seen])
    record = masked(item, picture, work.run, found).record
    data = look.png(record, picture.pixels)
    if output == "-":
        write_stdout(data)
    else:
        write_bytes(Path(output), data)
    if report.json:
        write_stdout(json_line(record.to_json()))
    if not record.annotations:
        report.note(
            f"note: nothing stands out in {shown(item.path)}, the cut-out is empty; "
            "--min-confidence 0 cuts out the best guess"
        )
    return NOTHING_FOUND if fail_empty and not record.annotations else 0


def _read(path: Path, root: Path | None, max_pixels: int) -> tuple[ImageFile, Decoded]:
    item = PIPED if path == STDIN else listed_file(path, root)
    return item, read_picture(item, max_pixels)


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
    if output != "-" and names_folder(output):
        return True
    if output != "-" and Path(output).suffix.lower() != ".png":
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
