"""`samcli view`: what a run found, as a page, as contact sheets, or as overlays."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple

import typer

from samcli import batch
from samcli.batch import Room, Work
from samcli.cli import options
from samcli.cli.inputs import parse_pixels
from samcli.cli.photos import PhotoFolder
from samcli.cli.report import Report, UsageError, named, plural, say_error, say_failures, write_stdout
from samcli.dataset.build import records_in
from samcli.errors import LeftAloneError, SamcliError
from samcli.formats.atomic import new_file, write_bytes
from samcli.formats.files import tree
from samcli.formats.names import names_folder
from samcli.formats.record import Head, read_error, read_record
from samcli.images import MAX_PIXELS, load
from samcli.records import ImageRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.viz.gallery import Gallery
    from samcli.viz.sheet import Cell

# How records start, those of SA-1B too, and notes of failure
_OURS = re.compile(rb'\s*\{\s*"(samcli|image)"\s*:')


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="What a run wrote: a folder of records, at any depth.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR|-",
            help="A page (.html, - for standard output), contact sheets (.png), or a folder of overlays; "
            "OUT/gallery.html when left out.",
            show_default=False,
        ),
    ] = None,
    images: options.ImagesFolder = None,
    side: Annotated[
        int | None,
        typer.Option(
            "--side",
            min=64,
            max=4096,
            metavar="PIXELS",
            help="Long side of a picture in the page; by the number of images when left out.",
            show_default=False,
        ),
    ] = None,
    max_pixels: options.MaxPixels = f"{MAX_PIXELS // 10**6}M",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that samcli view has not made.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a run found: a page with all images, masks, scores, labels and failures, to look through.

    The page is one file that needs no network and no other file.
    """
    report = Report(quiet=quiet)
    where = _target(output, folder)
    if side and where.kind != "page":
        raise UsageError("--side is for the page; sheets and overlays have sizes of their own")
    if images and not images.is_dir():
        raise SamcliError(f"{images} is not a folder; give the folder of the photos")
    source = _Photos(images, parse_pixels(max_pixels))
    if not folder.is_dir():
        raise SamcliError(f"{folder} is not a folder; give the folder that was the output of a run")
    if where.kind != "overlays" and where.path:
        _check_replaceable(where.path, overwrite)
    found = _Found.look(records_in(folder))
    with ExitStack() as stack:
        sink = _sink(where, folder, found, side, overwrite, stack)
        with report.progress(len(found.items), "image") as progress:
            tally = batch.run(
                found.items,
                lambda device: Work(list, lambda item, room: sink.make(source.look(item, room))),
                sink,
                devices=("cpu",),
                progress=progress,
            )
        say_failures((str(f.item.path), f.reason) for f in tally.failures)
        if tally.stopped:
            say_error(tally.stopped[1])
            raise typer.Exit(tally.stopped[0])
        written = sink.close()
    if found.foreign:
        report.note(f"note: {plural(found.foreign, '.json files')} that samcli did not write are left out")
    for line in sink.notes(source):
        report.note(line)
    report.note(f"{plural(len(found.items), 'images')}, {plural(sink.masks, 'masks')}{written}")
    raise typer.Exit(tally.exit_code)


class _Target(NamedTuple):
    """What is written, and where; no path is standard output."""

    kind: Literal["page", "sheets", "overlays"]
    path: Path | None


def _target(output: str | None, folder: Path) -> _Target:
    if output is None:
        return _Target("page", folder / "gallery.html")
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError("-o - writes a page, but standard output is a terminal; redirect it")
        return _Target("page", None)
    path = Path(output)
    if names_folder(output):
        return _Target("overlays", path)
    kind = {".html": "page", ".htm": "page", ".png": "sheets"}.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"-o {output} must end in .html or .png, or be a folder (end it in /)")
    return _Target("page" if kind == "page" else "sheets", path)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    """Raise SamcliError when a file is there that is not one of ours, unless it may be replaced."""
    from samcli.viz.gallery import MARK
    from samcli.viz.sheet import PNG_MARK

    if overwrite or not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(256)
    if not start.startswith(MARK) and PNG_MARK not in start:
        raise SamcliError(
            f"{path} is there and not made by samcli view; choose another output, or add --overwrite"
        )


class _Item(NamedTuple):
    """A record, or a note of failure. name: the image's path, as people know it."""

    path: Path
    name: str
    failed: Head | None


@dataclass
class _Found:
    """The records of a folder, at any depth, sorted by path; foreign: other .json files."""

    items: list[_Item] = field(default_factory=list)
    foreign: int = 0

    @classmethod
    def look(cls, folder: Path) -> _Found:
        found = cls()
        for path, name in sorted(tree(folder, (".json",))):
            found._add(path, name.parent)
        return found

    def _add(self, path: Path, relative: PurePosixPath) -> None:
        try:
            with path.open("rb") as file:
                ours = _OURS.match(file.read(256))
        except OSError:
            ours = None if path.name.endswith(".error.json") else _OURS.match(b'{"image":')  # fails when read
        if not ours:
            self.foreign += 1
            return
        failed = read_error(path) if path.name.endswith(".error.json") else None
        name = PurePosixPath(failed.path).name if failed else path.name.removesuffix(".json")
        self.items.append(_Item(path, str(relative / name), failed))


class _Looked(NamedTuple):
    """What there is to see of an item.

    record: None for a failure. pixels: (H, W, 3) uint8 RGB of the record's size. drawn: its masks are drawn
    into the pixels. problem: one line, when there is a photo that could not be used.
    """

    name: str
    record: ImageRecord | None = None
    pixels: NDArray[np.uint8] | None = None
    drawn: bool = False
    problem: str = ""


@dataclass(frozen=True)
class _Photos:
    """Where photos are looked for: below `folder`, else beside their records."""

    folder: Path | None
    max_pixels: int

    def look(self, item: _Item, room: Room) -> _Looked:
        """Read a record and its photo, or the overlay that stands in for it. Raises SamcliError."""
        if item.failed:
            return _Looked(item.name, problem=item.failed.reason)
        record = read_record(item.path)
        given = PurePosixPath(record.input.path if record.input else record.file_name)
        looked = _Looked(str(PurePosixPath(item.name).parent / given.name), record)
        overlay = item.path.with_name(f"{item.path.name.removesuffix('.json')}.overlay.jpg")
        places = [(item.path.with_name(given.name) if given.name else None, False), (overlay, True)]
        if self.folder:
            try:
                places[0] = (PhotoFolder(self.folder).path(given.as_posix()), False)
            except SamcliError:  # not there, or outside
                places[0] = (None, False)
        for path, drawn in places:
            if path is None or not path.is_file():
                continue
            try:
                pixels = load(path, max_pixels=self.max_pixels, room=room)
            except SamcliError as error:
                looked = looked._replace(problem=looked.problem or str(error))
                continue
            height, width = pixels.shape[:2]
            if (height, width) == (record.height, record.width):
                return looked._replace(pixels=pixels, drawn=drawn)
            line = (
                f"{path} is {width}x{height} pixels, but its record is of {record.width}x{record.height}; "
                "show it with the photo that was segmented"
            )
            looked = looked._replace(problem=looked.problem or line)
        return looked


@dataclass
class _Sink:
    """Where what was made of the images goes, in their order.

    seen: how many images there are of each kind. masks: how many they show.
    """

    seen: Counter[str] = field(default_factory=Counter, init=False)
    masks: int = field(default=0, init=False)

    def make(self, looked: _Looked) -> _Made:
        """Turn an image into what is written of it; called in several threads."""
        raise NotImplementedError

    def store(self, item: _Item, made: Any) -> None:
        """Write that, or keep it."""
        raise NotImplementedError

    def failed(self, item: _Item, reason: str) -> None:
        """A record that could not be read."""

    def close(self) -> str:
        """Write what is left; returns where it all is, for the last line."""
        raise NotImplementedError

    def done(self, item: _Item, room: Room) -> bool:
        return False

    def write(self, item: _Item, result: _Made) -> dict[str, int]:
        self.store(item, result.content)
        self.seen[result.kind] += 1
        self.masks += result.masks
        if result.problem:
            raise LeftAloneError(result.problem)  # shown without its photo, yet told
        return {"masks": result.masks}

    def fail(self, item: _Item, reason: str, error: Exception) -> None:
        self.failed(item, named(str(item.path), reason))

    def notes(self, source: _Photos) -> Iterator[str]:
        """What the user should know of the photos."""
        bare, drawn, all_ = self.seen["bare"], self.seen["drawn"], sum(self.seen.values())
        if bare and source.folder:
            yield f"note: {plural(bare, 'photos')} of {all_} not in {source.folder}; masks are shown without"
        elif bare:
            yield f"note: no photo beside {plural(bare, 'records')} of {all_}; show photos with --images DIR"
        if drawn:
            yield f"note: {plural(drawn, 'overlays')} shown for want of photos; show those with --images DIR"


class _Made(NamedTuple):
    """What became of an image. content: what the sink stores. problem: as of `_Looked`, of its photo."""

    content: Any
    kind: str
    masks: int
    problem: str


def _made(looked: _Looked, content: Any) -> _Made:
    if looked.record is None:
        return _Made(content, "failed", 0, "")
    kind = "bare" if looked.pixels is None else "drawn" if looked.drawn else "photo"
    return _Made(content, kind, len(looked.record.annotations), looked.problem)


def _sink(
    where: _Target, folder: Path, found: _Found, side: int | None, overwrite: bool, stack: ExitStack
) -> _Sink:
    if where.kind == "overlays":
        assert where.path
        return _Overlays(where.path, records_in(folder), overwrite)
    if where.kind == "sheets":
        assert where.path
        return _Sheets(where.path, len(found.items), overwrite)
    from samcli.viz.gallery import Gallery, side_for

    file, near = None, None
    if where.path:
        file = stack.enter_context(new_file(where.path))
        near = where.path.parent if where.path.is_file() or not where.path.exists() else None
    spool = stack.enter_context(tempfile.TemporaryFile(dir=near))  # noqa: SIM115
    title = folder.resolve().name or str(folder)
    return _Page(Gallery(title, spool), side or side_for(len(found.items)), file, where.path)


@dataclass
class _Page(_Sink):
    """The gallery."""

    gallery: Gallery
    side: int
    file: BinaryIO | None
    path: Path | None

    def make(self, looked: _Looked) -> _Made:
        from samcli.viz.gallery import Shown, show

        record = looked.record
        if record is None:
            return _made(looked, Shown(looked.name, "failed", problem=looked.problem))
        size = record.height, record.width
        shown = show(
            looked.name, record.annotations, size, looked.pixels, self.side, drawn=looked.drawn,
        )  # fmt: skip
        return _made(looked, shown)

    def store(self, item: _Item, made: Any) -> None:
        self.gallery.add(made)

    def failed(self, item: _Item, reason: str) -> None:
        from samcli.viz.gallery import Shown

        self.gallery.add(Shown(item.name, "failed", problem=reason))

    def close(self) -> str:
        size = 0
        for piece in self.gallery.pieces():
            size += len(piece)
            write: Callable[[bytes], Any] = self.file.write if self.file else write_stdout
            write(piece)
        return f" in {self.path} ({_bytes(size)})" if self.path else f" ({_bytes(size)})"


@dataclass
class _Sheets(_Sink):
    """Contact sheets: one, or as many as the images need."""

    path: Path
    total: int
    overwrite: bool
    _cells: list[Cell] = field(default_factory=list, init=False)
    _written: int = field(default=0, init=False)

    def make(self, looked: _Looked) -> _Made:
        from samcli.viz.sheet import Cell, drawn_small, neutral

        record = looked.record
        if record is None:
            return _made(looked, Cell(looked.name, looked.problem))
        pixels = neutral((record.height, record.width)) if looked.pixels is None else looked.pixels
        picture = drawn_small(pixels, () if looked.drawn else record.annotations)
        return _made(looked, Cell(looked.name, plural(len(record.annotations), "masks"), picture))

    def store(self, item: _Item, made: Any) -> None:
        from samcli.viz.sheet import COLUMNS, ROWS

        self._cells.append(made)
        if len(self._cells) == COLUMNS * ROWS:
            self._write()

    def failed(self, item: _Item, reason: str) -> None:
        from samcli.viz.sheet import Cell

        self.store(item, Cell(item.name, reason))

    def _write(self) -> None:
        from samcli.viz.sheet import COLUMNS, ROWS, marked_png, sheet

        if self._cells:
            self._written += 1
            path = self.path
            if self.total > COLUMNS * ROWS:
                path = path.with_stem(f"{path.stem}-{self._written}")
                _check_replaceable(path, self.overwrite)
            write_bytes(path, marked_png(sheet(self._cells)))
            self._cells.clear()

    def close(self) -> str:
        self._write()
        if self._written == 0:
            return ": nothing to write"
        if self._written == 1:
            return f" in {self.path}"
        stem = self.path.with_stem(f"{self.path.stem}-1")
        return f" in {stem} to {self.path.with_stem(f'{self.path.stem}-{self._written}').name}"


@dataclass
class _Overlays(_Sink):
    """Each image with its masks, in a mirrored tree."""

    out: Path
    folder: Path
    overwrite: bool

    def make(self, looked: _Looked) -> _Made:
        from samcli.viz.overlay import overlay
        from samcli.viz.sheet import marked_png, neutral

        record = looked.record
        if record is None:
            return _made(looked, None)
        pixels = neutral((record.height, record.width)) if looked.pixels is None else looked.pixels
        return _made(looked, marked_png(overlay(pixels, () if looked.drawn else record.annotations)))

    def store(self, item: _Item, made: Any) -> None:
        if made is not None:
            stem = item.path.name.removesuffix(".json")
            path = self.out / item.path.parent.relative_to(self.folder) / f"{stem}.overlay.png"
            _check_replaceable(path, self.overwrite)
            write_bytes(path, made)

    def close(self) -> str:
        return f" in {self.out}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size / 1e3:.0f} kB"
