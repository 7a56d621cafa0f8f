"""`samcli models`: which checkpoints there are, getting, verifying and locating them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from samcli.cli.options import Json, Quiet
from samcli.cli.report import Report, json_line, say_error, write_stdout
from samcli.errors import WeightsError

if TYPE_CHECKING:
    from samcli.weights import ModelSpec, Progress

app = typer.Typer(name="models")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json: Json = False) -> None:
    """List the known checkpoints; pull, verify and locate them."""
    if context.invoked_subcommand is not None:
        return
    from samcli.weights import MODELS

    if json:
        write_stdout(b"".join(json_line(_facts(spec)) for spec in MODELS.values()))
    else:
        write_stdout(_table(MODELS.values()).encode())


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names from `samcli models`.")],
    quiet: Quiet = False,
) -> None:
    """Download checkpoints into the cache and print their paths; what is there and sound is left alone."""
    from samcli import weights

    report = Report(quiet=quiet)

    def one(name: str) -> str:
        with _bar(name, report) as progress:
            return str(weights.pull(name, progress=progress))

    _each(names, one)


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

    def one(name: str) -> str:
        found = weights.verify(name)
        phrase = "part of samcli" if weights.MODELS[name].packaged else phrases[found.against]
        return f"{name}: sound, sha256 {found.sha256} ({phrase})"

    _each(names or [name for name, spec in weights.MODELS.items() if weights.find(spec)], one)


@app.command()
def path(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `samcli models`.")]) -> None:
    """Print where a checkpoint is installed."""
    from samcli import weights

    write_stdout(f"{weights.path(name)}\n".encode())


def _each(names: Iterable[str], one: Callable[[str], str]) -> None:
    """Print each name's line; failures do not keep the others from their turn, and end in their exit code."""
    from samcli.weights import spec_of

    specs = [spec_of(name) for name in dict.fromkeys(names)]
    failed = False
    for spec in specs:
        try:
            line = one(spec.name)
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


def _facts(spec: ModelSpec) -> dict[str, Any]:
    from samcli.weights import DEFAULT_MODEL, find

    file = find(spec)
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "bytes": file.stat().st_size if file else spec.bytes,
        "licence": spec.licence,
        "installed": file is not None,
        "default": spec.name == DEFAULT_MODEL,
        "file": str(file) if file else None,
        "sha256": spec.sha256,
        "sources": list(spec.urls),
        "summary": spec.summary,
    }


def _table(specs: Iterable[ModelSpec]) -> str:
    from rich.console import Console
    from rich.table import Table

    from samcli.weights import format_size

    table = Table("name", "architecture", "size", "licence", "installed", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for spec in specs:
        facts = _facts(spec)
        size = format_size(facts["bytes"]) if facts["bytes"] else "unknown"
        installed = "yes" if facts["installed"] else "no"
        table.add_row(spec.name, spec.architecture, size, spec.licence, installed)
    # Off a terminal the lines are for other programs: as wide as need be.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
