"""The app with its commands, and `main`, the one place where errors become lines and exit codes."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from samcli.batch import describe
from samcli.cli import report
from samcli.cli.annotate import annotate
from samcli.cli.automask import automask
from samcli.cli.convert import convert
from samcli.cli.cutout import cutout
from samcli.cli.embed import embed
from samcli.cli.evaluate import evaluate
from samcli.cli.ground import ground
from samcli.cli.models import app as models
from samcli.cli.predict import predict
from samcli.cli.status import status
from samcli.cli.train import train
from samcli.cli.view import view
from samcli.errors import SamcliError, SamcliNote

app = typer.Typer(
    name="samcli",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import samcli

        report.write_stdout(f"samcli {samcli.__version__}\n".encode())
        raise typer.Exit


@app.callback()
def samcli(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Segment your images: by points, boxes and masks, or everything at once (Segment Anything)."""


app.command()(predict)
app.command()(automask)
app.command()(ground)
app.command()(annotate)
app.command()(cutout)
app.command()(embed)
app.command()(status)
app.command()(convert)
app.command()(view)
app.add_typer(models)
app.command()(evaluate)
app.command()(train)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (sys.argv's when None) and return its exit code."""
    with _sigterm_exits(), warnings.catch_warnings():
        warnings.simplefilter("default", SamcliNote)
        warnings.showwarning = report.show_warning
        try:
            app(args=_with_values(sys.argv[1:] if args is None else args), prog_name="samcli")
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 0
        except SamcliError as error:
            report.say_error(str(error))
            return error.code
        except OSError as error:
            report.say_error(describe(error))
            return 1
    return 0


def _with_values(args: Sequence[str]) -> list[str]:
    """Give --ray, whose address may be left out, an empty one unless an address follows; Typer cannot."""
    given = list(args)
    for i, word in enumerate(given):
        following = given[i + 1] if i + 1 < len(given) else ""
        if word == "--ray" and not (following in ("auto", "local") or ":" in following):
            given[i] = "--ray="
    return given


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Let SIGTERM unwind, so that temporary files go; a batch replaces this while it runs."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
