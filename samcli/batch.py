"""Run work over many items: an item's failure is counted, never the end of the run.

Knows nothing of images and models. `make_work` (picklable, called once per worker) builds the work, the work
takes a few items and returns one result each, and `sink` alone knows what to do with them.
"""

from __future__ import annotations

import errno
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Generic, Protocol, TypeVar

from samcli.errors import DiskFullError, SamcliError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultIn = TypeVar("ResultIn", contravariant=True)

Work = Callable[[list[Item]], list[Result]]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no later item would fare better


class Sink(Protocol[ItemIn, ResultIn]):
    """Where results go. Both methods are called in input order, once per item."""

    def write(self, item: ItemIn, result: ResultIn) -> None:
        """Store the item's result. What this raises is the item's failure."""

    def fail(self, item: ItemIn, reason: str) -> None:
        """Store one line that says why the item failed. What this raises ends the run."""


@dataclass
class Tally(Generic[Item]):
    """How a run ended. failures: (item, one line why). stopped: (exit code, why) when it ended early."""

    done: int = 0
    failures: list[tuple[Item, str]] = field(default_factory=list)
    stopped: tuple[int, str] | None = None

    @property
    def exit_code(self) -> int:
        """0, 3 when items failed, or the code of what stopped the run."""
        if self.stopped:
            return self.stopped[0]
        return 3 if self.failures else 0


def run(
    items: Iterable[Item],
    make_work: Callable[[], Work[Item, Result]],
    sink: Sink[Item, Result],
    *,
    size: int = 1,
    key: Callable[[Item], object] | None = None,
) -> Tally[Item]:
    """Work through `items` in order and hand each result, or the reason of its failure, to `sink`.

    At most `size` neighbouring items go into one call of the work; with `key`, only neighbours with equal
    keys. A call that fails for several items is made again for each alone. SIGINT and SIGTERM let the call
    in flight finish, a second signal does not. A full disk stops the run, and so does a SamcliError of
    `make_work`, or of `items` (after the items before it are done): the tally says so.
    """
    tally: Tally[Item] = Tally()
    with _Signals() as signals:
        try:
            work = make_work()
            for group in _groups(items, size, key):
                with signals.deferred():
                    _do(group, work, sink, tally)
        except _Stop as stop:
            tally.stopped = (128 + stop.signum, f"stopped by {signal.Signals(stop.signum).name}")
        except SamcliError as error:
            tally.stopped = (error.code, str(error))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            tally.stopped = (1, describe(error))
    return tally


def describe(error: Exception) -> str:
    """One line for people: a SamcliError's text, an OSError's file and reason, or where a bug struck."""
    if isinstance(error, SamcliError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {text}"


def _do(group: list[Item], work: Work[Item, Result], sink: Sink[Item, Result], tally: Tally[Item]) -> None:
    try:
        results = work(group)
    except Exception as error:  # noqa: BLE001 - the one place where an item's failure is caught
        if len(group) > 1:
            for item in group:
                _do([item], work, sink, tally)
            return
        _fail(group[0], error, sink, tally)
        return
    for item, result in zip(group, results, strict=True):
        try:
            sink.write(item, result)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(item, error, sink, tally)
        else:
            tally.done += 1


def _fail(item: Item, error: Exception, sink: Sink[Item, Result], tally: Tally[Item]) -> None:
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL):
        raise error
    reason = describe(error)
    sink.fail(item, reason)
    tally.failures.append((item, reason))


def _groups(items: Iterable[Item], size: int, key: Callable[[Item], object] | None) -> Iterator[list[Item]]:
    group: list[Item] = []
    try:
        for item in items:
            if group and key and key(item) != key(group[0]):
                yield group
                group = []
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except SamcliError:
        if group:
            yield group
        raise
    if group:
        yield group


class _Stop(BaseException):
    def __init__(self, signum: int) -> None:
        self.signum = signum


class _Signals:
    """While entered, SIGINT and SIGTERM raise _Stop: at once, or at the end of a deferred block.

    Outside the main thread, where Python allows no handlers, nothing is installed; ignored signals stay so.
    """

    def __init__(self) -> None:
        self._old: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._busy = False
        self._pending = 0

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._old[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._pending:
            raise _Stop(self._pending)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._busy or self._pending:
            raise _Stop(signum)
        self._pending = signum
