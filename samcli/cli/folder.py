"""Runs over images into a folder: what is done already, what is written, what is said."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from samcli import batch, images
from samcli.batch import Room, Tally
from samcli.cli.inputs import BadBytesError, Inputs, shown
from samcli.cli.model import Loaded
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, json_line, named, plural, say_error, say_failures, write_stdout
from samcli.errors import LeftAloneError, SamcliError, StopError
from samcli.formats.atomic import clean_up
from samcli.formats.names import OutputPaths, output_paths
from samcli.formats.record import Head, difference, read_error, read_head, write_error
from samcli.images import ImageFile
from samcli.records import Run

_OF_THE_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)  # other items may do better

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class FolderSink(Generic[Item, Result]):
    """Results of images in a folder, resumable. What is done is decided by heads of records, not by memory.

    Subclasses say what the outputs are. overwrite: work on everything anew. retry_failed: also on files whose
    very bytes could not be decoded in an earlier run. counted: what `store` counts.
    """

    counted: ClassVar[tuple[str, ...]] = ("masks",)

    out: Path
    keep_extension: bool
    overwrite: bool
    retry_failed: bool
    _cleaned: set[Path] = field(default_factory=set, init=False, repr=False)

    # What a subclass says

    def image(self, item: Item) -> ImageFile:
        """The item's image."""
        raise NotImplementedError

    def run(self, item: Item) -> Run:
        """What makes the item's outputs."""
        raise NotImplementedError

    def main(self, paths: OutputPaths) -> Path:
        """The output that is written last and says that all is done."""
        return paths.record

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        """Outputs that go with the main one, written by this run or an earlier one."""
        return ()

    def head(self, path: Path) -> Head | None:
        """What the main output says of its making; None when it is not there. Raises SamcliError."""
        return read_head(path)

    def store(self, paths: OutputPaths, item: Item, result: Result) -> Mapping[str, int]:
        """Write the outputs, the main one last. Returns what to count."""
        raise NotImplementedError

    def complete(self, paths: OutputPaths, item: Item, room: Room) -> None:
        """Make again what is missing beside the main output."""

    def holds(self, paths: OutputPaths) -> bool:
        """Whether the main output, which is there, holds anything that was found."""
        raise NotImplementedError

    # What the engine, and a look before it starts, ask for

    def allow(self, item: Item) -> None:
        """Raise StopError when the item's output is there, of another configuration, and to be kept."""
        self._earlier(item)

    def done(self, item: Item, room: Room) -> bool:
        image = self.image(item)
        if image.problem:
            raise LeftAloneError(image.problem)
        paths = self.paths(item)
        if paths.record.parent not in self._cleaned:
            self._cleaned.add(paths.record.parent)
            clean_up(paths.record.parent)
        head = self._earlier(item)
        failed = None if self.overwrite or self.retry_failed else read_error(paths.error)
        if failed and (failed.source is None or failed.run.config_hash != self.run(item).config_hash):
            failed = None
        if image.path == STDIN or not (head or failed):
            return False
        sha256 = _sha256(image)
        if head and head.source and head.source.sha256 == sha256:
            try:
                self.complete(paths, item, room)
            except StopError:
                raise
            except SamcliError as error:
                raise LeftAloneError(str(error)) from error  # the record is as good as before
            return True
        if failed and failed.source and failed.source.sha256 == sha256:
            raise LeftAloneError(failed.reason, earlier=True)
        return False

    def write(self, item: Item, result: Result) -> Mapping[str, int]:
        paths, run = self.paths(item), self.run(item)
        if self.others(paths):
            self._remove_earlier(paths)
        counts = self.store(paths, item, result)
        failed = read_error(paths.error)
        if failed and failed.run.command == run.command:
            paths.error.unlink(missing_ok=True)
        return counts

    def fail(self, item: Item, reason: str, error: Exception) -> None:
        paths, run, image = self.paths(item), self.run(item), self.image(item)
        self._remove_earlier(paths, also_main=True)  # it must not pass for done
        source = error.source if isinstance(error, BadBytesError) else None
        try:
            write_error(paths.error, run, image.relative, source, reason)
        except SamcliError as failed:
            cause = failed.__cause__
            if not (isinstance(cause, OSError) and cause.errno in _OF_THE_NAME):
                raise  # else the list at the end has to do

    def _remove_earlier(self, paths: OutputPaths, *, also_main: bool = False) -> None:
        """Remove what an earlier run made for an image, if one did; first what goes with the main output.

        So at no time a main output stands beside pictures of another one. Without such pictures it stays, to
        be replaced at once, unless also_main.
        """
        main = self.main(paths)
        try:
            if self.head(main) is None:
                return
        except SamcliError:
            if not self.overwrite:
                return
        others = [path for path in self.others(paths) if os.path.lexists(path)]
        for path in others:
            _remove(path)
        if others or also_main:
            _remove(main)

    def paths(self, item: Item) -> OutputPaths:
        """Where the item's outputs lie."""
        return output_paths(self.out, self.image(item).relative, keep_extension=self.keep_extension)

    def _earlier(self, item: Item) -> Head | None:
        if self.overwrite:
            return None
        path = self.main(self.paths(item))
        try:
            head = self.head(path)
        except SamcliError as error:
            raise StopError(str(error)) from error
        other = head and difference(head.run, self.run(item))
        if other:
            raise StopError(f"{path} was {other}; choose another output, or replace it with --overwrite")
        return head


def _sha256(image: ImageFile) -> str:
    """Of the image file as it is now. Raises LeftAloneError when it cannot be read: what is there stays."""
    try:
        return images.digest(image.path)[1]
    except (OSError, ValueError):
        try:
            images.read(image.path)
        except SamcliError as error:
            raise LeftAloneError(str(error)) from error
        raise


def _remove(path: Path) -> None:
    """Remove an output; of a folder only what samcli put there."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            if inner.name == "metadata.csv" or (inner.suffix == ".png" and inner.stem.isdecimal()):
                inner.unlink(missing_ok=True)
        with suppress(OSError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def run_images(
    report: Report,
    inputs: Inputs,
    make_work: batch.MakeWork[ImageFile, Result],
    sink: FolderSink[ImageFile, Result],
    model: Loaded,
    ray: batch.Ray | None,
) -> FolderRun:
    """Work through the images and say how it went; with --json, as a summary.

    Raises SamcliError before any work when two images would share an output, or outputs of another
    configuration are in the way.
    """
    total = inputs.check(sink.allow)
    run = run_folder(report, inputs, total, make_work, sink, model, ray, alone=inputs.alone is not None)
    if report.json and run.tally and (run.tally.seen or not run.tally.stopped):
        write_stdout(json_line(summary_of(run, run.tally, sink, model, ray)))
    return run


def summary_of(
    run: FolderRun,
    tally: Tally[ImageFile],
    sink: FolderSink[ImageFile, Any],
    model: Loaded,
    ray: batch.Ray | None,
) -> dict[str, Any]:
    """What --json says of a run. tally: the run's."""
    seconds = {name: round(float(tally.seconds[name]), 3) for name in ("read", "compute", "write")}
    return {
        "images": tally.seen,
        "done": tally.done,
        "skipped": tally.skipped,
        "failed": [{"path": str(f.item.path), "error": f.reason} for f in tally.failures],
        **{name: tally.counts[name] for name in sink.counted},
        "seconds": {"total": round(run.seconds, 3), **seconds},
        "model": model.name,
        "device": "ray" if ray else ",".join(model.devices),
        "output": str(sink.out),
    }


def nothing_found(run: FolderRun, sink: FolderSink[ImageFile, Any], inputs: Inputs) -> bool:
    """Whether a run that ended well, or earlier ones that it went on with, found nothing in any image.

    What a sink counts last is what it found. Earlier results of a list that cannot be read again are not
    looked at; they pass for something.
    """
    if run.tally is None or run.tally.counts[sink.counted[-1]]:
        return False
    if not run.tally.skipped:
        return True
    return not inputs.once and not any(sink.holds(sink.paths(image)) for image in inputs)


class FolderRun(NamedTuple):
    """How a run into a folder ended. tally: None when its only image failed."""

    code: int
    tally: Tally[Any] | None
    seconds: float


def run_folder(
    report: Report,
    items: Iterable[Item],
    total: int | None,
    make_work: batch.MakeWork[Item, Result],
    sink: FolderSink[Item, Result],
    model: Loaded,
    ray: batch.Ray | None,
    *,
    alone: bool,
) -> FolderRun:
    """Work through items and say on stderr how it went.

    total: how many there are, if that is known. alone: the only image was named; it fails as the command's
    error.
    """
    place = next((path for path in (sink.out, *sink.out.parents) if path.exists()), sink.out)
    if place.exists() and not place.is_dir():
        raise SamcliError(f"{place} is a file; give a folder for the results")
    start = time.monotonic()
    with report.progress(total, "image") as progress:
        tally = batch.run(items, make_work, sink, devices=model.devices, ray=ray, progress=progress)
    seconds = time.monotonic() - start

    def name(failure: batch.Failure[Item]) -> str:
        return shown(sink.image(failure.item).path)

    if tally.failures and not tally.stopped and alone:
        say_error(named(name(tally.failures[0]), tally.failures[0].reason))
        return FolderRun(1, None, seconds)
    say_failures((name(failure), failure.reason) for failure in tally.failures)
    earlier = sum(failure.earlier for failure in tally.failures)
    if earlier:
        whole = earlier == len(tally.failures)
        which = "that one" if whole and earlier == 1 else "these" if whole else f"{earlier} of these"
        report.note(f"note: {which} failed in an earlier run, not tried again; add --retry-failed to do so")
    if tally.seen or not tally.stopped:
        report.note(_line(tally, total, sink.out, sink.counted))
    if tally.stopped:
        say_error(tally.stopped[1])
    return FolderRun(tally.exit_code, tally, seconds)


def _line(tally: Tally[Any], total: int | None, out: Path, counted: tuple[str, ...]) -> str:
    total = tally.seen if total is None else total
    if total and tally.skipped == total:
        return f"{plural(total, 'images')} in {out} done before, nothing to do"
    left = total - tally.skipped
    done = plural(left, "images") if tally.done == left else f"{tally.done} of {plural(left, 'images')}"
    counts = "".join(f", {plural(tally.counts[name], name)}" for name in counted)
    before = f"; {tally.skipped} done before" if tally.skipped else ""
    failed = f"; {len(tally.failures)} failed" if tally.failures else ""
    return f"{done}{counts} in {out}{before}{failed}"
