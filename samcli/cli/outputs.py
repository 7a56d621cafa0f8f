"""Where the answers of `predict` go: lines, a table, one file, one picture, or a folder of records."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.batch import Room
from samcli.cli.answers import Answer, Answered, Job, run_of
from samcli.cli.folder import FolderSink
from samcli.cli.inputs import read_picture, shown
from samcli.cli.model import Model, ModelOptions
from samcli.cli.pictures import write_cutouts
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, json_line, write_stdout
from samcli.formats.atomic import write_bytes
from samcli.formats.logits import save_logits
from samcli.formats.names import OutputPaths, check_unique, image_id, names_folder
from samcli.formats.png import cutout, encode_jpeg, encode_png
from samcli.formats.record import read_record, write_record
from samcli.formats.select import Flatten, label_map
from samcli.images import ImageFile
from samcli.masks import decode_rle
from samcli.records import ImageRecord, MaskRecord, Run

Format = Literal["cutout", "overlay"]
OUTSIDE = "boxes outside"
"""What the sinks count besides masks, if there are any."""


class Target(NamedTuple):
    """Where answers go. kind: what is written. path: the file or folder, unused for standard output."""

    kind: Literal["lines", "table", "jsonl", "json", "png", "folder"]
    path: Path
    format: Format | None

    @property
    def has_lines(self) -> bool:
        """Each prompt has a line of its own, so that one can fail alone."""
        return self.kind in ("lines", "table", "jsonl")

    @property
    def name(self) -> str:
        """What it is called."""
        return "standard output" if self.path == STDIN else str(self.path)

    def write(self, data: bytes) -> None:
        """Write the whole of it."""
        if self.path == STDIN:
            write_stdout(data)
        else:
            write_bytes(self.path, data)


def target(output: str | None, format_: Format | None, *, json: bool, terminal: bool) -> Target:
    """Where -o says that answers go. terminal: standard output is one. Raises UsageError."""
    if output == "-":
        if json:
            raise UsageError("-o - and --json both want standard output; choose one")
        if terminal:
            raise UsageError(
                "-o - writes a PNG, but standard output is a terminal; redirect it, or name a file"
            )
        return Target("png", STDIN, format_)
    if output is None:
        if format_:
            raise UsageError("--format needs -o: a .png file, a folder, or - for standard output")
        return Target("table" if terminal and not json else "lines", STDIN, None)
    path = Path(output)
    if names_folder(output):
        return Target("folder", path, format_)
    kinds: dict[str, Literal["png", "json", "jsonl"]] = {".png": "png", ".json": "json", ".jsonl": "jsonl"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"-o {output} must end in .png, .json or .jsonl, or be a folder (end it in /)")
    if format_ and kind != "png":
        raise UsageError(f"--format {format_} is a picture; give -o a .png file or a folder")
    return Target(kind, path, format_)


def check_room(where: Target, jobs: list[Job], keep_extension: bool) -> None:
    """Raise SamcliError when two images would go to one place."""
    if where.kind == "folder":
        images = [job.image for job in jobs if not job.image.problem]
        check_unique(((i.path, i.relative) for i in images), keep_extension=keep_extension)
    elif where.kind in ("png", "json") and len(jobs) > 1:
        raise UsageError(
            f"the prompts are of {len(jobs)} images, but {where.name} holds one; give -o a folder"
        )


@dataclass(frozen=True)
class Asked:
    """What of the command line shapes the outputs. every: all three masks of each prompt."""

    where: Target
    settings: ModelOptions
    model: Model
    every: bool
    json: bool
    logits: Path | None
    max_pixels: int

    def run(self, job: Job) -> Run:
        return run_of(job, self.every, self.settings, self.model)

    def record(self, job: Job, done: Answered) -> ImageRecord:
        """The record of an image: the masks of its prompts in order, numbered through."""
        relative = job.image.relative
        return ImageRecord(
            self.run(job),
            done.source,
            image_id(relative),
            done.size[1],
            done.size[0],
            relative.as_posix(),
            tuple(replace(mask, id=number) for number, mask in enumerate(_masks(done), start=1)),
        )

    def beside(self, job: Job, done: Answered) -> None:
        """Write what was asked for besides: logits, and lines on standard output."""
        if self.logits:
            kept = [a.logits for a in done.answers if isinstance(a, Answer) and a.logits is not None]
            save_logits(self.logits, np.concatenate(kept))
        if self.json and self.where.kind != "lines":
            for line in _lines(job, done):
                write_stdout(json_line(line))


@dataclass
class Stream:
    """The sink of `predict` for everything but folders: lines, a table, or one file.

    failed: prompts that failed, (name, reason), in order. lines: kept for `close`.
    """

    asked: Asked
    report: Report
    failed: list[tuple[str, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def done(self, item: Job, room: Room) -> bool:
        return False

    def write(self, item: Job, result: Answered) -> dict[str, int]:
        where = self.asked.where
        if where.kind == "json":
            write_record(where.path, self.asked.record(item, result))
        elif where.kind == "png":
            self._write_png(item, result)
        self.asked.beside(item, result)
        for line in _lines(item, result):
            self._line(line)
            if "error" in line:
                self.failed.append((prompt_name(line["id"], item), line["error"]))
        return _outside(result)

    def fail(self, item: Job, reason: str, error: Exception) -> None:
        if item.alone:
            for request in item.requests:
                self._line({"id": request.id, "image": str(item.image.path), "error": reason})
        if item.alone and not any(request.detection for request in item.requests):
            self.failed += [(prompt_name(request.id, item), reason) for request in item.requests]
        else:
            self.failed.append((str(item.image.path), reason))

    def close(self, *, complete: bool) -> None:
        """Write what only the end of the run makes whole."""
        where = self.asked.where
        if where.kind == "table":
            print_table(self.lines)
        elif where.kind == "jsonl" and complete:
            write_bytes(where.path, b"".join(json_line(line) for line in self.lines))

    def _line(self, line: dict[str, Any]) -> None:
        if self.asked.where.kind == "lines":
            write_stdout(json_line(line))
        elif self.asked.where.has_lines:
            self.lines.append(line)

    def _write_png(self, job: Job, done: Answered) -> None:
        where, masks = self.asked.where, _masks(done)
        data = one_picture(
            self.report, where.format, masks, done.size, done.pixels, lambda: _drawn(job, masks, done.pixels)
        )
        where.write(data)


@dataclass
class Folder(FolderSink[Job, Answered]):
    """The sink of `predict` for folders: a record for each image, and maybe a picture."""

    asked: Asked

    def image(self, item: Job) -> ImageFile:
        return item.image

    def run(self, item: Job) -> Run:
        return self.asked.run(item)

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        return (paths.masks, paths.labelmap, paths.overlay, paths.cutout, paths.cutout_png)

    def done(self, item: Job, room: Room) -> bool:
        if self.asked.logits:  # they are not kept beside the record
            self.allow(item)
            return False
        return super().done(item, room)

    def store(self, paths: OutputPaths, item: Job, result: Answered) -> dict[str, int]:
        record = self.asked.record(item, result)
        self._picture(paths, item, record, result.pixels)
        self.asked.beside(item, result)
        write_record(paths.record, record)
        return {"masks": len(record.annotations), **_outside(result)}

    def complete(self, paths: OutputPaths, item: Job, room: Room) -> None:
        wanted = {"overlay": paths.overlay, "cutout": paths.cutout}.get(self.asked.where.format or "")
        if wanted and not wanted.exists():
            pixels = read_picture(item.image, self.asked.max_pixels, room).pixels
            self._picture(paths, item, read_record(paths.record), pixels)

    def _picture(
        self, paths: OutputPaths, job: Job, record: ImageRecord, pixels: NDArray[np.uint8] | None
    ) -> None:
        if self.asked.where.format == "overlay":
            write_bytes(paths.overlay, encode_jpeg(_drawn(job, list(record.annotations), pixels)))
        elif self.asked.where.format == "cutout":
            assert pixels is not None
            write_cutouts(paths.cutout, pixels, record.annotations)


def one_picture(
    report: Report,
    format_: Format | None,
    masks: Sequence[MaskRecord],
    size: tuple[int, int],
    pixels: NDArray[np.uint8] | None,
    overlay: Callable[[], NDArray[np.uint8]],
    flatten: Flatten = "area",
) -> bytes:
    """The PNG of all masks of an image of `size` (height, width); a note says how several become one."""
    count = len(masks)
    if format_ == "overlay":
        return encode_png(overlay())
    if format_ == "cutout":
        assert pixels is not None
        if count > 1:
            report.note(f"note: {count} masks in one picture: the cut-out shows their union")
        return encode_png(cutout(pixels, [mask.segmentation for mask in masks]))
    if count > 1:
        report.note(f"note: {count} masks in one picture: an index map, 0 background, 1 the first mask")
        return encode_png(label_map(masks, size, flatten))
    return encode_png(decode_rle(masks[0].segmentation) if masks else np.zeros(size, bool))


def prompt_name(prompt_id: Any, job: Job) -> str:
    """What a failed prompt is called."""
    return f"prompt {jsonlib.dumps(prompt_id)} of {image_name(job)}"


def image_name(job: Job) -> str:
    """What the image of a job is called."""
    return shown(job.image.path)


def _lines(job: Job, done: Answered) -> Iterator[dict[str, Any]]:
    for request, answer in zip(job.requests, done.answers, strict=True):
        line = {"id": request.id, "image": str(request.image)}
        if isinstance(answer, str):
            yield {**line, "error": answer}
        else:
            yield {**line, "masks": [mask.to_json() for mask in answer.masks]}


def _outside(done: Answered) -> dict[str, int]:
    """The boxes that lie outside the image, to be counted where there are some."""
    count = sum(isinstance(answer, Answer) and not answer.masks for answer in done.answers)
    return {OUTSIDE: count} if count else {}


def _masks(done: Answered) -> list[MaskRecord]:
    return [mask for answer in done.answers if isinstance(answer, Answer) for mask in answer.masks]


def _drawn(job: Job, masks: list[MaskRecord], pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The picture with the masks and the prompts."""
    from samcli.viz.overlay import overlay  # slow to import

    assert pixels is not None
    prompts = [r for r in (r.within((pixels.shape[0], pixels.shape[1])) for r in job.requests) if r]
    return overlay(
        pixels,
        [mask.segmentation for mask in masks],
        points=[point for r in prompts for point in r.points],
        labels=[label for r in prompts for label in (r.labels or (1,) * len(r.points))],
        boxes=[r.box for r in prompts if r.box],
    )


def print_table(lines: list[dict[str, Any]]) -> None:
    """Answers for people: a row for each mask."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    several = len({line["image"] for line in lines}) > 1
    classes = any("category_id" in mask for line in lines for mask in line.get("masks", []))
    first = ["prompt", *(["image"] if several else []), *(["class"] if classes else [])]
    table = Table(*first, "predicted IoU", "stability", "pixels", "x, y, w, h")
    for line in lines:
        # Text, for names may look like Rich's markup
        name = [Text(str(line["id"])), *([Text(line["image"])] if several else [])]
        for mask in line.get("masks", []):
            category = Text(str(mask.get("category", mask.get("category_id", ""))))
            table.add_row(
                *name,
                *([category] if classes else []),
                f"{mask['predicted_iou']:.3f}",
                f"{mask['stability_score']:.3f}",
                str(mask["area"]),
                ", ".join(f"{v:g}" for v in mask["bbox"]),
            )
        if "error" in line:
            table.add_row(*name, *([""] if classes else []), "failed")
    Console().print(table)
