"""`samcli status`: what an output folder holds, from what the runs left there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from samcli.cli import options
from samcli.cli.report import json_line, write_stdout
from samcli.dataset.build import records_in
from samcli.errors import SamcliError
from samcli.formats.atomic import TEMPORARY
from samcli.formats.embedding import read_embedding_head
from samcli.formats.names import BOXES
from samcli.formats.record import Head, brief, read_error, read_head
from samcli.records import Run


def status(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that was given as -o.")],
    json: options.Json = False,
) -> None:
    """Show what an output folder holds: how many images are done, what failed and why, and the configuration.

    Reads the heads of records and embeddings, so it may be asked at any time, also while runs go on.
    """
    if not output.is_dir():
        raise SamcliError(f"{output} is not a folder; give the folder that was the output of a run")
    found = _Found()
    for path in _files(records_in(output)):
        found.add(path)
    found.failed.sort(key=lambda failure: failure["path"])
    if json:
        write_stdout(json_line({"output": str(output), **found.to_json()}))
    else:
        write_stdout("".join(f"{line}\n" for line in found.lines()).encode("utf-8", "backslashreplace"))


@dataclass
class _Found:
    """The runs that wrote into a folder, by what they have in common; prompts are each image's own."""

    runs: dict[tuple[Any, ...], tuple[Run, dict[str, int]]] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    unfinished: int = 0
    foreign: int = 0

    def add(self, path: Path) -> None:
        """Count a file, whatever it is."""
        if path.name.startswith(TEMPORARY):
            self.unfinished += 1
            return
        kind, head = "done", None
        try:
            if path.name.endswith(".error.json") and (head := read_error(path)):
                kind = "failed"
            elif path.suffix == ".json":
                head = read_head(path)
            elif path.suffix == ".safetensors":
                head = read_embedding_head(path)
            elif path.name.endswith(BOXES):
                head = read_head(path, lines=True)
            else:
                return
        except SamcliError:
            self.foreign += 1
            return
        if head is None:
            self.unfinished += 1
            return
        self._count(head, kind)
        if kind == "failed":
            self.failed.append({"path": head.path, "command": head.run.command, "error": head.reason})

    def _count(self, head: Head, kind: str) -> None:
        run = head.run
        config = {name: value for name, value in run.config.items() if name != "prompts"}
        key = (run.command, run.model, run.weights_sha256, repr(sorted(config.items())))
        _, counts = self.runs.setdefault(key, (run, {"done": 0, "failed": 0}))
        counts[kind] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "done": sum(counts["done"] for _, counts in self.runs.values()),
            "failed": self.failed,
            "configurations": [
                {
                    "command": run.command,
                    "model": run.model,
                    "weights_sha256": run.weights_sha256,
                    "config": {name: value for name, value in run.config.items() if name != "prompts"},
                    **counts,
                }
                for run, counts in self._runs()
            ],
            "unfinished": self.unfinished,
            "other": self.foreign,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        for run, counts in self._runs():
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            yield f"{run.command} with {run.model}: {counts['done']} done{failed}"
            values = {name: value for name, value in run.config.items() if name != "prompts"}
            yield "  " + ", ".join(f"{name} {brief(value)}" for name, value in values.items())
        if not self.runs:
            yield "nothing done"
        for failure in self.failed:
            said = failure["path"] in failure["error"]
            yield "failed: " + (failure["error"] if said else f"{failure['path']}: {failure['error']}")
        if self.unfinished:
            yield f"{self.unfinished} unfinished files, of a run that goes on or was killed"
        if self.foreign:
            yield f"{self.foreign} .json or .safetensors files that are not samcli's results"

    def _runs(self) -> list[tuple[Run, dict[str, int]]]:
        return [self.runs[key] for key in sorted(self.runs)]


def _files(folder: Path) -> Iterator[Path]:
    """Every file, and every temporary folder."""
    try:
        with os.scandir(folder) as entries:
            listing = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SamcliError(f"{folder} cannot be listed: {error.strerror}; change its permissions") from error
    for entry in listing:
        path = Path(entry)
        if not entry.is_dir(follow_symlinks=False) or entry.name.startswith(TEMPORARY):
            yield path
        else:
            yield from _files(path)
