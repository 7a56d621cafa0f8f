"""The batch runner with plain numbers as items: failures, groups, order, bounds, signals, workers."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from samcli import batch
from samcli.errors import LeftAloneError, SamcliError, SamcliNote, StopError, WeightsError


@dataclass
class Sink:
    """Keeps what it is given, in order; raises `broken` on writing item 13, and takes item 7 for done."""

    log: list[tuple[int, object]] = field(default_factory=list)
    broken: Exception = field(default_factory=lambda: SamcliError("13 cannot be written"))

    def done(self, item: int, room: batch.Room) -> bool:
        if item == 66:
            raise LeftAloneError("66 is left alone", earlier=True)
        return item == 7

    def write(self, item: int, result: int) -> dict[str, int]:
        if item == 13:
            raise self.broken
        self.log.append((item, result))
        return {"digits": len(str(result))}

    def fail(self, item: int, reason: str, error: Exception) -> None:
        self.log.append((item, reason))


@dataclass
class Square:
    """Squares, taking up to `size` items at once; refuses negative items; remembers the calls."""

    size: int = 1
    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, device: str) -> batch.Work[int, int]:
        return batch.Work(self.compute, self.read, self.size)

    def read(self, item: int, room: batch.Room) -> int:
        room(3)
        if item == 404:
            raise SamcliError("404 cannot be read")
        return item

    def compute(self, items: list[int]) -> list[int]:
        self.calls.append(list(items))
        if any(i < 0 for i in items):
            raise SamcliError("a negative number")
        return [i * i for i in items]


def failures(tally: batch.Tally[int]) -> list[tuple[int, str]]:
    return [(failure.item, failure.reason) for failure in tally.failures]


def work_of(compute: Callable[[list[int]], list[int]]) -> batch.MakeWork[int, int]:
    return lambda device: batch.Work(compute, lambda item, room: item)


def test_results_and_failures_reach_the_sink_in_input_order() -> None:
    sink, square = Sink(), Square()
    tally = batch.run([3, -1, 13, 404, 4], square, sink)
    reasons = [(-1, "a negative number"), (13, "13 cannot be written"), (404, "404 cannot be read")]
    assert sink.log == [(3, 9), *reasons, (4, 16)]
    assert (tally.done, tally.skipped, failures(tally), tally.exit_code) == (2, 0, reasons, 3)
    assert square.calls == [[3], [-1], [13], [4]]
    assert tally.counts == {"digits": 3}
    assert set(tally.seconds) == {"read", "compute", "write"}


def test_nothing_to_do_is_success() -> None:
    tally = batch.run([], Square(), Sink())
    assert (tally.done, tally.failures, tally.stopped, tally.exit_code) == (0, [], None, 0)


def test_what_is_done_or_left_alone_reaches_neither_work_nor_sink() -> None:
    sink, square = Sink(), Square()
    tally = batch.run([7, 66, 2], square, sink)
    assert (tally.done, tally.skipped, tally.seen) == (1, 1, 3)
    assert tally.failures == [batch.Failure(66, "66 is left alone", earlier=True)]
    assert (sink.log, square.calls, tally.exit_code) == ([(2, 4)], [[2]], 3)


@dataclass
class SlowSquare(Square):
    """Takes its time for the first item; those after it come only then, and are ready when it is done."""

    size: int = 3

    def compute(self, items: list[int]) -> list[int]:
        results = super().compute(items)
        if len(self.calls) == 1:
            time.sleep(0.3)
        return results

    def items(self, *items: int) -> Iterator[int]:
        yield items[0]
        while not self.calls:
            time.sleep(0.01)
        yield from items[1:]


def test_items_that_are_ready_share_a_call() -> None:
    sink, square = Sink(), SlowSquare()
    batch.run(square.items(1, 2, 7, 3, 4, 5, 6), square, sink)
    assert square.calls == [[1], [2, 3, 4], [5, 6]]
    assert [item for item, _ in sink.log] == [1, 2, 3, 4, 5, 6]


def test_a_failing_group_is_tried_again_one_by_one() -> None:
    sink, square = Sink(), SlowSquare()
    tally = batch.run(square.items(0, 1, -2, 3), square, sink)
    assert square.calls == [[0], [1, -2, 3], [1], [-2], [3]]
    assert sink.log == [(0, 0), (1, 1), (-2, "a negative number"), (3, 9)]
    assert tally.exit_code == 3


def test_reading_computing_and_writing_go_on_at_once() -> None:
    """Each stage waits for the others, of other items: one after the other they would never meet."""
    meeting = threading.Barrier(3, timeout=20)

    def stage(item: int) -> int:
        if item == {"read": 3, "compute": 2, "write": 1}[threading.current_thread().stage]:  # type: ignore[attr-defined]
            meeting.wait()
        return item

    def read(item: int, room: batch.Room) -> int:
        threading.current_thread().stage = "read"  # type: ignore[attr-defined]
        return stage(item)

    def compute(items: list[int]) -> list[int]:
        threading.current_thread().stage = "compute"  # type: ignore[attr-defined]
        return [stage(item) for item in items]

    class Meeting(Sink):
        def write(self, item: int, result: int) -> dict[str, int]:
            threading.current_thread().stage = "write"  # type: ignore[attr-defined]
            stage(item)
            return super().write(item, result)

    assert batch.run([1, 2, 3, 4], lambda device: batch.Work(compute, read), Meeting()).done == 4


@pytest.mark.parametrize(
    ("reading", "computing", "size", "several"),
    [(0.03, 0.0, 1, True), (0.001, 0.02, 1, False), (0.005, 0.04, 4, True)],
)
def test_readers_help_while_the_work_waits_or_leaves_the_cpu_alone(
    reading: float, computing: float, size: int, several: bool
) -> None:
    lock, now, most = threading.Lock(), 0, []

    def read(item: int, room: batch.Room) -> int:
        nonlocal now
        with lock:
            now += 1
            most.append(now)
        time.sleep(reading)
        with lock:
            now -= 1
        return item

    def compute(items: list[int]) -> list[int]:
        time.sleep(computing)
        return items

    assert batch.run(range(100, 140), lambda device: batch.Work(compute, read, size), Sink()).done == 40
    assert (sum(count > 1 for count in most) > 20) == several


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken = 0
    ahead = []

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 200:
            taken += 1
            yield taken

    def compute(group: list[int]) -> list[int]:
        time.sleep(0.002)
        ahead.append(taken - group[0])
        return group

    assert batch.run(items(), work_of(compute), Sink()).seen == 200
    assert max(ahead) <= batch.READERS + 3


def test_an_item_is_worked_on_before_the_next_one_comes() -> None:
    """As when someone types the names."""
    sink = Sink()

    def items() -> Iterator[int]:
        for i in range(1, 4):
            yield i
            deadline = time.monotonic() + 20
            while len(sink.log) < i and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(sink.log) == i

    assert batch.run(items(), Square(), sink).done == 3


def test_bytes_are_bounded_and_an_item_above_the_bound_is_held_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ROOM", 100)
    held, most = {}, []
    lock = threading.Lock()

    def read(item: int, room: batch.Room) -> int:
        room(item)
        with lock:
            held[item] = True
            most.append(sorted(held))
        time.sleep(0.002)
        return item

    class Giving(Sink):
        def write(self, item: int, result: int) -> dict[str, int]:
            with lock:
                del held[item]
            return {}

    items = [60, 50, 30, 20, 10, 500, 5, 400, 300, 95, 6, 4, 3, 2]
    make_work: batch.MakeWork[int, int] = lambda device: batch.Work(lambda group: group, read)  # noqa: E731
    assert batch.run(items, make_work, Giving()).done == len(items)
    assert all(sum(together) <= 100 or len(together) == 1 for together in most)
    assert any(len(together) > 1 for together in most)


def test_room_may_be_taken_by_the_sink_and_again_by_the_work() -> None:
    class Asking(Sink):
        def done(self, item: int, room: batch.Room) -> bool:
            room(5)
            return False

    assert batch.run([1, 2, 3], Square(), Asking()).done == 3


def test_a_reader_that_waits_does_not_hold_up_a_signal() -> None:
    never = threading.Event()

    def read(item: int, room: batch.Room) -> int:
        if item == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            never.wait(20)
        return item

    start = time.monotonic()
    tally = batch.run([1, 2, 3], lambda device: batch.Work(lambda group: group, read), Sink())
    assert (tally.exit_code, time.monotonic() - start < 10) == (143, True)
    never.set()


def test_bad_items_stop_the_run_after_those_before_them() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise SamcliError("line 3 is bad")

    sink = Sink()
    tally = batch.run(items(), Square(size=8), sink)
    assert sink.log == [(1, 1), (2, 4)]
    assert (tally.stopped, tally.exit_code) == ((1, "line 3 is bad"), 1)


def test_missing_weights_stop_before_the_first_item() -> None:
    def make_work(device: str) -> batch.Work[int, int]:
        raise WeightsError("no weights")

    sink = Sink()
    tally = batch.run([1], make_work, sink)
    assert (tally.stopped, sink.log) == ((4, "no weights"), [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_run(code: int) -> None:
    sink = Sink(broken=OSError(code, os.strerror(code), "out/13.json"))
    tally = batch.run([1, 13, *range(20, 400)], Square(), sink)
    assert sink.log == [(1, 1)]
    assert tally.stopped == (1, f"out/13.json: {os.strerror(code)}")


def test_a_stop_error_while_looking_stops_the_run_after_those_before_it() -> None:
    class Careful(Sink):
        def done(self, item: int, room: batch.Room) -> bool:
            if item == 3:
                raise StopError("3 is of another configuration")
            return False

    sink = Careful()
    tally = batch.run([1, 2, 3, 4, 5], Square(), sink)
    assert sink.log == [(1, 1), (2, 4)]
    assert tally.stopped == (1, "3 is of another configuration")


def test_a_sink_that_cannot_note_a_failure_ends_the_run() -> None:
    class Deaf(Sink):
        def fail(self, item: int, reason: str, error: Exception) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "out/x.error.json")

    with pytest.raises(PermissionError):
        batch.run([-1, 2], Square(), Deaf())


def test_a_reader_that_leaves_ends_the_run() -> None:
    class Closed(Sink):
        def write(self, item: int, result: int) -> dict[str, int]:
            raise SystemExit(141)

    with pytest.raises(SystemExit):
        batch.run(range(1000), Square(), Closed())


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

    tally = batch.run([1], work_of(work), Sink())
    number = work.__code__.co_firstlineno + 1
    assert failures(tally) == [(1, line.replace("LINE", str(number)))]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_item_in_flight_finish(signum: signal.Signals, code: int) -> None:
    def work(items: list[int]) -> list[int]:
        if items == [2]:
            os.kill(os.getpid(), signum)
            time.sleep(0.05)
        return items

    before = signal.getsignal(signum)
    sink = Sink()
    tally = batch.run([1, 2, 3], work_of(work), sink)
    assert sink.log == [(1, 1), (2, 2)]
    assert (tally.done, tally.exit_code, tally.stopped) == (2, code, (code, f"stopped by {signum.name}"))
    assert signal.getsignal(signum) is before


def test_a_second_signal_stops_at_once() -> None:
    def work(items: list[int]) -> list[int]:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        return items

    sink = Sink()
    start = time.monotonic()
    assert batch.run([1], work_of(work), sink).exit_code == 143
    assert (sink.log, time.monotonic() - start < 10) == ([], True)


def test_what_is_being_written_is_finished_before_a_signal_ends_the_run() -> None:
    class Slow(Sink):
        def write(self, item: int, result: int) -> dict[str, int]:
            if item == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)
            return super().write(item, result)

    sink = Slow()
    tally = batch.run([1, 2, 3, 4, 5, 6], Square(), sink)
    assert sink.log[0] == (1, 1)
    assert len(sink.log) == tally.done
    assert tally.exit_code == 143


def test_a_signal_while_waiting_for_items_stops_at_once() -> None:
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        while not sink.log:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        never.wait(20)
        yield 2

    sink = Sink()
    start = time.monotonic()
    assert batch.run(items(), Square(), sink).exit_code == 130
    assert (sink.log, time.monotonic() - start < 10) == ([(1, 1)], True)
    never.set()


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        def work(items: list[int]) -> list[int]:
            os.kill(os.getpid(), signal.SIGINT)
            return items

        assert batch.run([1, 2], work_of(work), Sink()).done == 2
    finally:
        signal.signal(signal.SIGINT, before)


# Workers in processes of their own: what they get must be picklable, so it stands here.


@dataclass
class Files:
    """Writes results into a folder, where they can be seen from here."""

    folder: Path

    def done(self, item: int, room: batch.Room) -> bool:
        return (self.folder / str(item)).exists()

    def write(self, item: int, result: int) -> dict[str, int]:
        if item == 13:
            raise StopError("the disk is full")
        (self.folder / str(item)).write_text(str(result))
        return {"files": 1}

    def fail(self, item: int, reason: str, error: Exception) -> None:
        (self.folder / f"{item}.error").write_text(reason)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def make_square(device: str) -> batch.Work[int, int]:
    warnings.warn(f"working on {device}", SamcliNote, stacklevel=1)

    def compute(items: list[int]) -> list[int]:
        if items == [-9]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return [item * item for item in items]

    def read(item: int, room: batch.Room) -> int:
        if item < 0 and item != -9:
            raise SamcliError(f"{item} is negative")
        return item

    return batch.Work(compute, read)


def make_slow(device: str) -> batch.Work[int, int]:
    def compute(items: list[int]) -> list[int]:
        time.sleep(30 if items[0] >= 1000 else 0.5)
        return items

    return batch.Work(compute, lambda item, room: item)


def make_nothing(device: str) -> batch.Work[int, int]:
    raise WeightsError("no weights")


def test_several_devices_share_the_items(tmp_path: Path) -> None:
    sink, seen = Files(tmp_path), []
    (tmp_path / "3").touch()
    items = [1, -2, 3, -4, *range(50, 90)]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        tally = batch.run(
            items, make_square, sink, devices=("a", "b"), progress=lambda tally: seen.append(tally.seen)
        )
    assert {str(note.message) for note in notes} == {"working on a", "working on b"}
    assert (tally.done, tally.skipped, tally.counts, tally.exit_code) == (41, 1, {"files": 41}, 3)
    assert failures(tally) == [(-2, "-2 is negative"), (-4, "-4 is negative")]
    assert seen == list(range(1, 45))
    assert (tmp_path / "60").read_text() == "3600"
    assert sink.names() == {str(i) for i in items if i > 0} | {"-2.error", "-4.error"}


@pytest.mark.parametrize(
    ("items", "make_work", "stopped"),
    [
        ([*range(20, 300), 13, *range(300, 900)], make_square, (1, "the disk is full")),
        ([1, 2], make_nothing, (4, "no weights")),
        (
            [1, -9, *range(20, 900)],
            make_square,
            (1, "the worker of a was killed by signal 9; run again to go on where it ended"),
        ),
    ],
)
def test_what_stops_a_worker_stops_all(
    tmp_path: Path, items: list[int], make_work: batch.MakeWork[int, int], stopped: tuple[int, str]
) -> None:
    tally = batch.run(items, make_work, Files(tmp_path), devices=("a", "a"))
    assert tally.stopped == stopped
    written = len(list(tmp_path.iterdir()))
    assert written - 1 <= tally.done <= written < len(items) - 1  # a killed worker may not have said all


def test_bad_items_stop_the_workers_after_those_before_them(tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise SamcliError("line 3 is bad")

    tally = batch.run(items(), make_square, Files(tmp_path), devices=("a", "b"))
    assert (tally.done, tally.stopped) == (2, (1, "line 3 is bad"))


def test_what_stops_a_worker_is_noticed_while_the_items_wait(tmp_path: Path) -> None:
    never = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 13)
        never.wait(30)

    start = time.monotonic()
    tally = batch.run(items(), make_square, Files(tmp_path), devices=("a", "b"))
    assert (tally.stopped, time.monotonic() - start < 20) == ((1, "the disk is full"), True)
    never.set()


def test_a_second_signal_kills_workers(tmp_path: Path) -> None:
    def progress(tally: batch.Tally[int]) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    start = time.monotonic()
    tally = batch.run([1, 1000, 1001], make_slow, Files(tmp_path), devices=("a", "b"), progress=progress)
    assert (tally.exit_code, time.monotonic() - start < 15) == (143, True)
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_a_signal_lets_workers_finish_what_they_have_in_work(tmp_path: Path) -> None:
    def progress(tally: batch.Tally[int]) -> None:
        if tally.seen == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    tally = batch.run(range(100, 2000), make_square, Files(tmp_path), devices=("a", "b"), progress=progress)
    assert tally.stopped == (143, "stopped by SIGTERM")
    assert 20 <= tally.done == len(list(tmp_path.iterdir())) < 100
    assert not multiprocessing.active_children()
