"""`samcli models`: which models, detectors and taggers there are, getting, verifying and locating them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from samcli.cli.options import Json, Quiet
from samcli.cli.report import Report, json_line, say_error, write_stdout
from samcli.errors import WeightsError

if TYPE_CHECKING:
    from samcli.weights import Progress, Spec

app = typer.Typer(name="models")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json: Json = False) -> None:
    """List the known models, detectors and taggers; pull, verify and locate them."""
    if context.invoked_subcommand is not None:
        return
    from samcli.weights import all_specs

    specs = all_specs()
    write_stdout(b"".join(json_line(_facts(spec)) for spec in specs) if json else _table(specs).encode())


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names from `samcli models`.")],
    quiet: Quiet = False,
) -> None:
    """Download checkpoints into the cache and print their paths; what is there and sound is left alone."""
    from samcli import weights

    report = Report(quiet=quiet)

    def one(spec: Spec) -> str:
        with _bar(spec.name, report) as progress:
            return str(weights.pull(spec, progress=progress))

    _each(_named(names), one)


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names from `samcli models`; all installed ones when left out."),
    ] = None,
) -> None:
    """Compute the sha256 of installed checkpoints and compare it with the published or recorded one."""
    from samcli import weights

    phrases = {
        "published": "as published",
        "recorded": "as first pulled",
        "nothing": "recorded now; none is published",
    }

    def one(spec: Spec) -> str:
        found = weights.verify(spec)
        phrase = f"the {_kind(spec)}, part of samcli" if spec.packaged else phrases[found.against]
        return f"{spec.name}: sound, sha256 {found.sha256} ({phrase})"

    _each(_named(names) if names else [spec for spec in weights.all_specs() if weights.find(spec)], one)


@app.command()
def path(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `samcli models`.")]) -> None:
    """Print where a checkpoint is installed: its file, or the folder of its files."""
    from samcli import weights

    write_stdout(f"{weights.path(name)}\n".encode())


def _named(names: Iterable[str]) -> list[Spec]:
    """The table's entries of these names. Raises SamcliError for an unknown one."""
    from samcli.weights import specs_of

    return [spec for name in dict.fromkeys(names) for spec in specs_of(name)]


def _each(specs: Iterable[Spec], one: Callable[[Spec], str]) -> None:
    """Print each one's line; failures do not keep the others from their turn, and end in their exit code."""
    failed = False
    for spec in specs:
        try:
            line = one(spec)
        except WeightsError as error:
            say_error(str(error))
            failed = True
        else:
            write_stdout(f"{line}\n".encode())
    if failed:
        raise typer.Exit(WeightsError.code)


@contextmanager
def _bar(name: str, report: Report) -> Iterator[Progress]:
    """A byte-counting progress bar on a terminal's stderr, unless quiet."""
    hidden = report.quiet or not sys.stderr.isatty()
    with tqdm(
        desc=name, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr, disable=hidden, leave=False
    ) as bar:

        def progress(done: int, total: int | None) -> None:
            if bar.total is None and total is not None:
                bar.initial = bar.n = done  # what an earlier call received is no speed of this one
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _facts(spec: Spec) -> dict[str, Any]:
    from samcli.weights import DEFAULT_DETECTOR, DEFAULT_MODEL, DEFAULT_TAGGER, ModelSpec, find

    place, kind = find(spec), _kind(spec)
    defaults = {"model": DEFAULT_MODEL, "detector": DEFAULT_DETECTOR, "tagger": DEFAULT_TAGGER}
    sizes = [_size(place, part.file) if place else part.bytes for part in spec.parts]
    return {
        "name": spec.name,
        "kind": kind,
        "architecture": spec.architecture if isinstance(spec, ModelSpec) else spec.kind,
        "bytes": None if None in sizes else sum(size or 0 for size in sizes),
        "licence": spec.licence,
        "installed": place is not None,
        "default": spec.name == defaults[kind],
        "file": str(place) if place else None,
        "sha256": spec.parts[0].sha256 if len(spec.parts) == 1 else None,
        "sources": [url for part in spec.parts for url in part.urls],
        "summary": spec.summary,
    }


def _kind(spec: Spec) -> str:
    """What it is to the user."""
    from samcli.weights import DetectorSpec, ModelSpec

    if isinstance(spec, ModelSpec):
        return "model"
    return "detector" if isinstance(spec, DetectorSpec) else "tagger"


def _size(place: Path, part: str) -> int:
    """Bytes of a part of what is installed there."""
    return (place / Path(part).name if place.is_dir() else place).stat().st_size


def _table(specs: Iterable[Spec]) -> str:
    """Models and, each below an empty line, detectors and taggers."""
    from rich.console import Console
    from rich.table import Table

    from samcli.weights import format_size

    table = Table("name", "architecture", "size", "licence", "installed", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    kind = ""
    for facts in map(_facts, specs):
        if kind not in ("", facts["kind"]):
            table.add_row()
            table.add_row(f"{facts['kind']}s")
        kind = facts["kind"]
        size = format_size(facts["bytes"]) if facts["bytes"] else "unknown"
        installed = "yes" if facts["installed"] else "no"
        table.add_row(facts["name"], facts["architecture"], size, facts["licence"], installed)
    # Off a terminal the lines are for other programs: as wide as need be.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
