"""The batch runner with plain numbers as items: failures, groups, order, signals, full disks."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from samcli import batch
from samcli.errors import SamcliError, WeightsError


@dataclass
class Sink:
    """Keeps what it is given, in order; raises `broken` on writing item 13."""

    log: list[tuple[int, object]] = field(default_factory=list)
    broken: Exception = field(default_factory=lambda: SamcliError("13 cannot be written"))

    def write(self, item: int, result: int) -> None:
        if item == 13:
            raise self.broken
        self.log.append((item, result))

    def fail(self, item: int, reason: str) -> None:
        self.log.append((item, reason))


@dataclass
class Square:
    """Squares; refuses negative items; remembers the calls."""

    calls: list[list[int]] = field(default_factory=list)

    def __call__(self) -> batch.Work[int, int]:
        return self.work

    def work(self, items: list[int]) -> list[int]:
        self.calls.append(list(items))
        if any(i < 0 for i in items):
            raise SamcliError("a negative number")
        return [i * i for i in items]


def test_results_and_failures_reach_the_sink_in_input_order() -> None:
    sink, square = Sink(), Square()
    tally = batch.run([3, -1, 13, 4], square, sink)
    assert sink.log == [(3, 9), (-1, "a negative number"), (13, "13 cannot be written"), (4, 16)]
    assert (tally.done, tally.failures, tally.exit_code) == (
        2,
        [(-1, "a negative number"), (13, "13 cannot be written")],
        3,
    )
    assert square.calls == [[3], [-1], [13], [4]]


def test_nothing_to_do_is_success() -> None:
    tally = batch.run([], Square(), Sink())
    assert (tally.done, tally.failures, tally.stopped, tally.exit_code) == (0, [], None, 0)


def test_neighbours_with_one_key_share_a_call() -> None:
    square = Square()
    batch.run([1, 2, 10, 11, 12, 3], square, Sink(), size=2, key=lambda i: i // 10)
    assert square.calls == [[1, 2], [10, 11], [12], [3]]


def test_a_failing_group_is_tried_again_one_by_one() -> None:
    sink, square = Sink(), Square()
    tally = batch.run([1, -2, 3], square, sink, size=3)
    assert square.calls == [[1, -2, 3], [1], [-2], [3]]
    assert sink.log == [(1, 1), (-2, "a negative number"), (3, 9)]
    assert tally.exit_code == 3


def test_bad_items_stop_the_run_after_those_before_them() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise SamcliError("line 3 is bad")

    sink = Sink()
    tally = batch.run(items(), Square(), sink, size=8)
    assert sink.log == [(1, 1), (2, 4)]
    assert (tally.stopped, tally.exit_code) == ((1, "line 3 is bad"), 1)


def test_missing_weights_stop_before_the_first_item() -> None:
    def make_work() -> batch.Work[int, int]:
        raise WeightsError("no weights")

    sink = Sink()
    tally = batch.run([1], make_work, sink)
    assert (tally.stopped, sink.log) == ((4, "no weights"), [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_run(code: int) -> None:
    sink = Sink(broken=OSError(code, os.strerror(code), "out/13.json"))
    tally = batch.run([1, 13, 2], Square(), sink)
    assert sink.log == [(1, 1)]
    assert tally.stopped == (1, f"out/13.json: {os.strerror(code)}")


def test_a_sink_that_cannot_note_a_failure_ends_the_run() -> None:
    class Deaf(Sink):
        def fail(self, item: int, reason: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "out/x.error.json")

    with pytest.raises(PermissionError):
        batch.run([-1, 2], Square(), Deaf())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SamcliError("x.jpg is empty"), "x.jpg is empty"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: No such file or directory"),
        (MemoryError(), "unexpected MemoryError in test_batch.py:LINE: "),
        (KeyError("a\nb"), "unexpected KeyError in test_batch.py:LINE: 'a\\nb'"),
        (ValueError("first\nsecond"), "unexpected ValueError in test_batch.py:LINE: first"),
    ],
)
def test_a_failure_is_told_in_one_line(error: Exception, line: str) -> None:
    def work(items: list[int]) -> list[int]:
        raise error

    tally = batch.run([1], lambda: work, Sink())
    number = work.__code__.co_firstlineno + 1
    assert tally.failures == [(1, line.replace("LINE", str(number)))]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_item_in_flight_finish(signum: signal.Signals, code: int) -> None:
    def work(items: list[int]) -> list[int]:
        if items == [2]:
            os.kill(os.getpid(), signum)
        return items

    before = signal.getsignal(signum)
    sink = Sink()
    tally = batch.run([1, 2, 3], lambda: work, sink)
    assert sink.log == [(1, 1), (2, 2)]
    assert (tally.done, tally.exit_code, tally.stopped) == (2, code, (code, f"stopped by {signum.name}"))
    assert signal.getsignal(signum) is before


def test_a_second_signal_stops_at_once() -> None:
    def work(items: list[int]) -> list[int]:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return items

    sink = Sink()
    assert batch.run([1], lambda: work, sink).exit_code == 143
    assert sink.log == []


def test_a_signal_while_waiting_for_items_stops_at_once() -> None:
    def items() -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        yield 2

    sink = Sink()
    assert batch.run(items(), Square(), sink).exit_code == 130
    assert sink.log == [(1, 1)]


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        def work(items: list[int]) -> list[int]:
            os.kill(os.getpid(), signal.SIGINT)
            return items

        assert batch.run([1, 2], lambda: work, Sink()).done == 2
    finally:
        signal.signal(signal.SIGINT, before)
