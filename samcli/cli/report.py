"""The one sink of the command line: data on stdout; notes, progress and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TextIO, TypeVar

from tqdm import tqdm

from samcli.errors import DiskFullError, SamcliError, SamcliNote

Item = TypeVar("Item")


class UsageError(SamcliError):
    """Options that do not go together, or a missing argument that Typer cannot see."""

    code = 2


class Report:
    """What a command says. quiet: no notes and no progress. json: machine-readable stdout."""

    def __init__(self, *, quiet: bool, json: bool = False) -> None:
        self.quiet = quiet
        self.json = json
        if quiet:
            warnings.simplefilter("ignore", SamcliNote)

    def note(self, line: str) -> None:
        """Say something worth knowing, unless quiet."""
        if not self.quiet:
            say(line)

    def progress(self, items: Iterable[Item], total: int | None, unit: str) -> Iterator[Item]:
        """Pass items through a progress bar, which shows on a terminal and unless quiet."""
        hidden = self.quiet or not sys.stderr.isatty()
        return iter(tqdm(items, total=total, unit=unit, file=sys.stderr, disable=hidden, leave=False))


def say(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)


def say_error(line: str) -> None:
    """The line that says why a command failed."""
    say(f"error: {line}")


def say_failures(failures: Iterable[tuple[str, str]]) -> None:
    """List what failed: (name, reason) each, a line each."""
    for name, reason in failures:
        say(f"failed: {named(name, reason)}")


def named(name: str, reason: str) -> str:
    """The reason with the name of what failed, unless it says it itself."""
    return reason if name in reason else f"{name}: {reason}"


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """`warnings.showwarning` for the command line: the library's notes are one line each."""
    if issubclass(category, SamcliNote):
        say(f"note: {message}")
    else:
        say(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def json_line(value: Any) -> bytes:
    """A JSON line in UTF-8; what UTF-8 lacks (file names that are not text) leaves as JSON's escapes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def write_stdout(data: bytes) -> None:
    """Bytes on stdout, flushed; ends the program quietly, as SIGPIPE would, when nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        hang_up()
    except OSError as error:
        raise DiskFullError(f"cannot write to standard output: {error.strerror}") from error


def hang_up() -> NoReturn:
    """Leave with the code of SIGPIPE, and nothing for the interpreter to flush into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(141)
