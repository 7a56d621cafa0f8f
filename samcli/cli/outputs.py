"""Where the answers of `predict` go: lines, a table, one file, one picture, or a folder of records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.cli.answers import Answered, Job, described, hashed, located
from samcli.cli.common import ModelOptions, remove_stale
from samcli.cli.prompts import STDIN
from samcli.cli.report import Report, UsageError, json_line, write_stdout
from samcli.formats.atomic import new_folder, write_bytes
from samcli.formats.logits import save_logits
from samcli.formats.names import check_unique, image_id, output_paths
from samcli.formats.png import cutout, encode_jpeg, encode_png, label_map
from samcli.formats.record import write_error, write_record
from samcli.masks import decode_rle
from samcli.records import ImageRecord, MaskRecord, Run

if TYPE_CHECKING:
    from samcli.predictor import Predictor

Format = Literal["cutout", "overlay"]


class Target(NamedTuple):
    """Where answers go. kind: what is written. path: the file or folder, unused for standard output."""

    kind: Literal["lines", "table", "jsonl", "json", "png", "folder"]
    path: Path
    format: Format | None

    @property
    def has_lines(self) -> bool:
        """Each prompt has a line of its own, so that one can fail alone."""
        return self.kind in ("lines", "table", "jsonl")


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
    if output.endswith("/") or path.is_dir() or not path.suffix:
        return Target("folder", path, format_)
    kinds: dict[str, Literal["png", "json", "jsonl"]] = {".png": "png", ".json": "json", ".jsonl": "jsonl"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"-o {output} must end in .png, .json or .jsonl, or be a folder (end it in /)")
    if format_ and kind != "png":
        raise UsageError(f"--format {format_} is a picture; give -o a .png file or a folder")
    return Target(kind, path, format_)


def check_room(where: Target, jobs: list[Job], root: Path | None, keep_extension: bool) -> None:
    """Raise SamcliError when two images would go to one place."""
    if where.kind == "folder":
        images = [located(job.image, root) for job in jobs]
        check_unique(((i.path, i.relative) for i in images), keep_extension=keep_extension)
    elif where.kind in ("png", "json") and len(jobs) > 1:
        name = "standard output" if where.path == STDIN else where.path
        raise UsageError(f"the prompts are of {len(jobs)} images, but {name} holds one; give -o a folder")


@dataclass
class Outputs:
    """The sink of `predict`. every, keep_extension: as asked. echo: lines on standard output beside files.

    fail_lines: a failed prompt has a line too, with "error" instead of "masks". lines: kept for `close`.
    """

    where: Target
    settings: ModelOptions
    predictor: Predictor
    report: Report
    every: bool
    root: Path | None
    keep_extension: bool
    logits: Path | None
    fail_lines: bool
    lines: list[dict[str, Any]] = field(default_factory=list)

    def write(self, job: Job, done: Answered) -> None:
        kind, path = self.where.kind, self.where.path
        if kind == "folder":
            self._write_folder(job, done)
        elif kind == "json":
            write_record(path, self._record(job, done))
        elif kind == "png":
            self._write_png(job, done)
        if self.logits:
            save_logits(self.logits, np.concatenate([answer.logits for answer in done.answers]))
        for request, answer in zip(job.requests, done.answers, strict=True):
            masks = [mask.to_json() for mask in answer.masks]
            self._line({"id": request.id, "image": str(request.image), "masks": masks})

    def fail(self, job: Job, reason: str) -> None:
        if self.where.kind == "folder":
            image = located(job.image, self.root)
            paths = output_paths(self.where.path, image.relative, keep_extension=self.keep_extension)
            remove_stale(paths.record)
            write_error(paths.error, self._run(job), image.relative.as_posix(), reason)
        if self.fail_lines:
            for request in job.requests:
                self._line({"id": request.id, "image": str(request.image), "error": reason})

    def close(self, *, complete: bool) -> None:
        """Write what only the end of the run makes whole."""
        if self.where.kind == "table":
            print_table(self.lines)
        elif self.where.kind == "jsonl" and complete:
            write_bytes(self.where.path, b"".join(json_line(line) for line in self.lines))

    def _line(self, line: dict[str, Any]) -> None:
        if self.where.kind == "lines" or self.report.json:
            write_stdout(json_line(line))
        if self.where.kind in ("table", "jsonl"):
            self.lines.append(line)

    def _run(self, job: Job) -> Run:
        masks, prompts = "all" if self.every else "best", [described(r) for r in job.requests]
        return self.settings.run(
            "predict",
            self.predictor,
            {"masks": masks, "prompts": prompts},
            {"masks": masks, "prompts": [hashed(prompt) for prompt in prompts]},
        )

    def _record(self, job: Job, done: Answered) -> ImageRecord:
        """The record of an image: the masks of its prompts in order, numbered through."""
        relative = done.image.relative
        return ImageRecord(
            self._run(job),
            done.source,
            image_id(relative),
            done.size[1],
            done.size[0],
            relative.as_posix(),
            tuple(replace(mask, id=number) for number, mask in enumerate(_masks(done), start=1)),
        )

    def _write_folder(self, job: Job, done: Answered) -> None:
        paths = output_paths(self.where.path, done.image.relative, keep_extension=self.keep_extension)
        if self.where.format == "overlay":
            write_bytes(paths.overlay, encode_jpeg(_drawn(job, done)))
        elif self.where.format == "cutout":
            assert done.pixels is not None
            with new_folder(paths.cutout) as folder:
                for i, mask in enumerate(_masks(done)):
                    picture = cutout(done.pixels, [mask.segmentation])
                    (folder / f"{i}.png").write_bytes(encode_png(picture))
        write_record(paths.record, self._record(job, done))
        paths.error.unlink(missing_ok=True)

    def _write_png(self, job: Job, done: Answered) -> None:
        count = len(_masks(done))
        if self.where.format == "overlay":
            data = encode_png(_drawn(job, done))
        else:
            masks = [mask.segmentation for mask in _masks(done)]
            if self.where.format == "cutout":
                assert done.pixels is not None
                data = encode_png(cutout(done.pixels, masks))
                if count > 1:
                    self.report.note(f"note: {count} masks in one picture: the cut-out shows their union")
            elif count == 1:
                data = encode_png(decode_rle(masks[0]))
            else:
                data = encode_png(label_map(masks, done.size))
                self.report.note(
                    f"note: {count} masks in one picture: an index map, 0 background, 1 the first mask"
                )
        if self.where.path == STDIN:
            write_stdout(data)
        else:
            write_bytes(self.where.path, data)


def _masks(done: Answered) -> list[MaskRecord]:
    return [mask for answer in done.answers for mask in answer.masks]


def _drawn(job: Job, done: Answered) -> NDArray[np.uint8]:
    """The picture with the masks and the prompts."""
    from samcli.viz.overlay import overlay  # slow to import

    assert done.pixels is not None
    prompts = job.requests
    return overlay(
        done.pixels,
        [mask.segmentation for mask in _masks(done)],
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
    table = Table(
        "prompt", *(["image"] if several else []), "predicted IoU", "stability", "pixels", "x, y, w, h"
    )
    for line in lines:
        # Text, for names may look like Rich's markup
        name = [Text(str(line["id"])), *([Text(line["image"])] if several else [])]
        for mask in line.get("masks", []):
            table.add_row(
                *name,
                f"{mask['predicted_iou']:.3f}",
                f"{mask['stability_score']:.3f}",
                str(mask["area"]),
                ", ".join(f"{v:g}" for v in mask["bbox"]),
            )
        if "error" in line:
            table.add_row(*name, "failed")
    Console().print(table)
