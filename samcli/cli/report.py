"""The one sink of the command line: data on stdout; notes, progress and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from samcli.batch import Tally
from samcli.errors import DiskFullError, SamcliError, SamcliNote

MADE = ("masks",)  # of what a run counts: how fast these come is worth a word
LINE_SECONDS = 30.0  # between lines of progress where there is no terminal


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

    @contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Callable[[Tally[Any]], None]]:
        """Show how a run goes, unless quiet: a bar on a terminal, elsewhere a line every `LINE_SECONDS`.

        total: items, None when nobody knows. unit: what they are.
        """
        if self.quiet:
            yield lambda tally: None
        elif sys.stderr.isatty():
            with tqdm(total=total, unit=unit, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
                yield _Bar(bar)
        else:
            yield _Lines(total, unit)


class _Bar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar
        self._start = time.monotonic()

    def __call__(self, tally: Tally[Any]) -> None:
        told = [f"{name} {rate:.3g}/s" for name, rate in _rates(tally, time.monotonic() - self._start)]
        told += [f"{len(tally.failures)} failed"] if tally.failures else []
        with suppress(OSError):
            self._bar.set_postfix_str(", ".join(told), refresh=False)
            self._bar.update(tally.seen - self._bar.n)


class _Lines:
    def __init__(self, total: int | None, unit: str) -> None:
        self._total, self._unit = total, unit
        self._start = self._said = time.monotonic()

    def __call__(self, tally: Tally[Any]) -> None:
        now = time.monotonic()
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        elapsed = now - self._start
        of = "" if self._total is None else f" of {self._total}"
        told = [f"{tally.seen}{of} {self._unit}s" if of else plural(tally.seen, f"{self._unit}s")]
        told += [f"{len(tally.failures)} failed"] if tally.failures else []
        told += [f"{rate:.3g} {name}/s" for name, rate in _rates(tally, elapsed)]
        worked = tally.seen - tally.skipped
        if self._total is not None and worked:
            left = max(0, self._total - tally.seen) * elapsed / worked
            told.append(f"about {tqdm.format_interval(left)} left")
        say(", ".join(told))


def _rates(tally: Tally[Any], seconds: float) -> list[tuple[str, float]]:
    counts = [(name, tally.counts[name]) for name in MADE if name in tally.counts]
    return [(name, count / seconds) for name, count in counts if seconds > 0]


def say(line: str) -> None:
    """A line on stderr, above a progress bar if there is one. Nobody to listen is no reason to fail."""
    with suppress(OSError):
        tqdm.write(line, file=sys.stderr)


def say_error(line: str) -> None:
    """The line that says why a command failed."""
    say(f"error: {line}")


def say_failures(failures: Iterable[tuple[str, str]]) -> None:
    """List what failed: (name, reason) each, a line each."""
    for name, reason in failures:
        say(f"failed: {named(name, reason)}")


def plural(count: int, names: str) -> str:
    """A number of things, given their plural in s: 1 mask, 2 masks."""
    return f"{count} {names.removesuffix('s') if count == 1 else names}"


def named(name: str, reason: str) -> str:
    """The reason with the name of what failed, unless it says it itself."""
    return reason if name in reason or repr(name) in reason else f"{name}: {reason}"


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
