"""`samcli convert`: results in the formats of other tools, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from samcli.batch import Failure, Tally
from samcli.cli import options
from samcli.cli.inputs import stdin_pieces
from samcli.cli.photos import PhotoFolder
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, hang_up, json_line, plural, say_failures, write_stdout
from samcli.errors import SamcliError, StopError
from samcli.formats.atomic import new_file
from samcli.formats.coco import ids_of, named_by
from samcli.formats.files import Names, names
from samcli.formats.recognise import recognise
from samcli.formats.select import Selection, category_of
from samcli.formats.table import FORMATS, Export, Format, Item, Unreadable, Write
from samcli.formats.trees import read_lines
from samcli.records import MaskRecord

_KNOWN = ", ".join(FORMATS)


def convert(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="What a run wrote, or a file or folder of another format; - reads JSON Lines."
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"One of: {_KNOWN}.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE",
            help="A new file or folder; - is standard output, for formats of one file.",
        ),
    ],
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="What OUT is, where that is not recognised."),
    ] = None,
    images: options.ImagesFolder = None,
    min_area: options.MinArea = None,
    max_area: options.MaxArea = None,
    min_score: options.MinScore = None,
    category: Annotated[
        list[str],
        typer.Option(
            "--category",
            metavar="NAME",
            help="Only masks of this category. May be repeated.",
            rich_help_panel="Masks",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    merge_category: Annotated[
        bool,
        typer.Option(
            "--merge-category",
            help="The masks of a category become one: semantic maps.",
            rich_help_panel="Masks",
        ),
    ] = False,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="NAME",
            help="A mask of this category of all that no other covers.",
            rich_help_panel="Masks",
        ),
    ] = None,
    flatten: options.FlattenOption = "area",
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="coco: polygons instead of RLE.", rich_help_panel="Formats"),
    ] = False,
    tight: Annotated[
        bool,
        typer.Option("--tight", help="cutout: pictures of the size of the masks.", rich_help_panel="Formats"),
    ] = False,
    labels: options.Labels = None,
    like: options.Like = None,
    image_prefix: Annotated[
        str,
        typer.Option(
            "--image-prefix",
            metavar="TEXT",
            help="labelstudio: what leads to the photos, such as /data/local-files/?d=photos/",
            rich_help_panel="Formats",
        ),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder, or over a file, that is there already.")
    ] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write results in the format of another tool, or read them back.

    Whatever can be read can be written; docs/formats.md says what each format keeps.
    """
    report = Report(quiet=quiet, json=json)
    target = _format(to, "--to")
    selection = Selection(
        options.area(min_area, "--min-area"),
        options.area(max_area, "--max-area"),
        options.score(min_score),
        tuple(category),
        merge_category,
        background,
    )
    if json and output == STDIN:
        raise UsageError("-o - and --json both want standard output; choose one")
    if labels is not None and like is not None:
        raise UsageError("--labels and --like both number the categories; choose one")
    if target.needs_photos and images is None:
        raise UsageError(f"--to {to} needs the photos; name their folder with --images")
    if out == STDIN and from_ not in (None, "jsonl"):
        raise UsageError(f"--from {from_} cannot be read from standard input, which is JSON Lines")
    source = _format(from_, "--from") if from_ else FORMATS["jsonl" if out == STDIN else recognise(out)]
    photos = None if images is None else PhotoFolder(images)
    if images is not None and not images.is_dir():
        raise SamcliError(f"{images} is not a folder; give the folder that the photos lie in")
    image_ids = category_ids = None
    if like is not None:
        image_ids, category_ids = ids_of(like)
    export = Export(
        photos=photos,
        polygons=polygons,
        flatten=flatten,
        merged=merge_category,
        tight=tight,
        labels=options.labels(labels),
        image_ids=image_ids,
        category_ids=category_ids,
        prefix=image_prefix,
    )
    if source.file and (out / source.file).is_file():
        out /= source.file
    place = _place(output, target, out, images, overwrite)
    read_with = photos
    if source.read_needs_photos and photos is None:
        read_with = PhotoFolder(out / "images")
        if not (out / "images").is_dir():
            raise UsageError(f"--from {source.name} needs the photos; name their folder with --images")
    if out == STDIN:
        items = read_lines(stdin_pieces(b"\n"), "standard input", photos)
    else:
        items = source.read(out, read_with)
    if source.name == "coco-results" and image_ids is not None and category_ids is not None:
        items = named_by(items, image_ids, category_ids)
    first = next(items, None)
    if first is None:
        raise SamcliError(f"{out} holds nothing in the format {source.name}; check the path, or give --from")
    done = _Done(selection, category_ids, named=bool(source.file and target.file))
    try:
        with (
            report.progress(None, "image") as progress,
            names() as came,
            suppress(_NothingError),
            _writing(target, place, export) as write,
        ):
            for item in chain([first], items):
                done.take(item, came, write)
                progress(done.tally)
            if not done.tally.done:
                raise _NothingError  # what is there already stays
    finally:
        tally = done.tally
        say_failures((failure.item, failure.reason) for failure in tally.failures)
    where = "standard output" if output == STDIN else place
    if done.foreign:
        which = ", ".join(sorted(done.foreign)[:3]) + (", ..." if len(done.foreign) > 3 else "")
        report.note(f"note: not among the categories of {like}, so numbered after them: {which}")
    failed = f"; {len(tally.failures)} failed" if tally.failures else ""
    masks = plural(tally.counts["masks"], "masks")
    report.note(f"{plural(tally.done, 'images')}, {masks} as {to} in {where}{failed}")
    if json:
        summary = {
            "images": tally.done,
            "masks": tally.counts["masks"],
            "failed": [{"path": failure.item, "error": failure.reason} for failure in tally.failures],
            "from": source.name,
            "to": target.name,
            "output": str(place),
        }
        write_stdout(json_line(summary))
    raise typer.Exit(tally.exit_code)


class _NothingError(Exception):
    """No image could be written."""


@dataclass
class _Done:
    """What has been converted. known: the categories of --like, and foreign those that it does not have.

    named: images are known by their whole name, not by that of their files.
    """

    selection: Selection
    known: Mapping[str, int] | None
    named: bool
    tally: Tally[str] = field(default_factory=Tally)
    foreign: set[str] = field(default_factory=set)

    def take(self, item: Item | Unreadable, came: Names, write: Write) -> None:
        """Write an image, or count it as failed. came: the names so far."""
        try:
            if isinstance(item, Unreadable):
                raise SamcliError(item.reason)
            self._check_new(item, came)
            record = self.selection.apply(item.record)
            write(item._replace(record=record))
        except StopError:
            raise
        except SamcliError as error:
            name = item.name if isinstance(item, Unreadable) else item.record.file_name
            self.tally.failures.append(Failure(str(name), str(error)))
        else:
            self.tally.done += 1
            self.tally.counts["masks"] += len(record.annotations)
            if self.known is not None:
                self.foreign |= {
                    category_of(m) for m in record.annotations if self._is_foreign(m, self.known)
                }

    def _check_new(self, item: Item, came: Names) -> None:
        if self.named and not came.add(item.record.file_name):
            raise SamcliError("it came before; masks of one image must stand together, or images be renamed")
        if not self.named and not came.add(str(item.name)):
            raise SamcliError(f"another image is called {item.name}, too, but for its ending; rename one")

    @staticmethod
    def _is_foreign(mask: MaskRecord, known: Mapping[str, int]) -> bool:
        if mask.category is None and mask.category_id in known.values():
            return False
        return category_of(mask) not in known


def _format(name: str, option: str) -> Format:
    if name not in FORMATS:
        raise UsageError(f"{option} {name!r} is unknown; known: {_KNOWN}")
    return FORMATS[name]


def _place(output: Path, target: Format, source: Path, photos: Path | None, overwrite: bool) -> Path:
    """The file or folder to write. Raises SamcliError when it is taken, or lies where is read from."""
    if output == STDIN:
        if target.file is None:
            raise UsageError(f"{target.name} is a folder of files; give -o a folder")
        return output
    place = output
    if target.file is not None and (output.is_dir() or not (output.suffix or output.exists())):
        place = output / target.file
    above = (place.resolve(), *place.resolve().parents)
    for read in (source, photos):
        if read is not None and read != STDIN and read.is_dir() and read.resolve() in above:
            raise SamcliError(f"{place} lies in {read}, which is read; choose a place of its own")
    taken = place.is_dir() and any(place.iterdir()) if target.file is None else place.is_file()
    if taken and not overwrite:
        raise SamcliError(f"{place} is there already; choose another place, or add --overwrite")
    if target.file is None and place.exists() and not place.is_dir():
        raise SamcliError(f"{place} is a file; {target.name} needs a folder")
    return place


@contextmanager
def _writing(target: Format, place: Path, export: Export) -> Iterator[Write]:
    if target.file is None:
        with target.write_folder(place, export) as write:
            yield write
    elif place == STDIN:
        try:
            with target.write_file(sys.stdout.buffer, export) as write:
                yield write
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            hang_up()
    else:
        with new_file(place) as file, target.write_file(file, export) as write:
            yield write
