"""Run work over many items: an item's failure is counted, never the end of the run.

Knows nothing of images and models. `make_work` builds the work, once in every worker: this process, a process
for each device, or the actors of a Ray cluster. In a worker, threads read items ahead, the work computes in
one place, and a thread writes behind, all three at once:

    items -> sink.done? -> work.read (threads) -> work.compute (one thread) -> sink.write (one thread)

The sink alone knows when an item is done already and where results go.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from samcli.errors import LeftAloneError, SamcliError, SamcliNote, StopError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultIn = TypeVar("ResultIn", contravariant=True)

Room = Callable[[int], None]
"""Waits until so many bytes may be held for the item; called before holding them."""

ROOM = 2**29  # bytes held for items between reading and writing; a larger item is held alone
READERS = 4  # threads that read ahead, at most; on a CPU all but one only while the work waits
RAY_ITEMS = 16  # in one call of a Ray actor

LEAVE_SECONDS = 1.0  # for a thread that reads to come to an end with the run, if it can
THREADS = "samcli-batch"  # name of threads that may outlive a run, waiting for input

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no later item would fare better


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What a worker does with items.

    compute: takes what `read` gave for a few items and returns one result each, in one thread.
    read: makes an item ready, in several threads, ahead. size: the most items of one call of compute.
    """

    compute: Callable[[list[Any]], list[Result]]
    read: Callable[[Item, Room], Any]
    size: int = 1


MakeWork = Callable[[str], Work[Item, Result]]
"""Builds the work for a device. Picklable, so that it can be called where the worker is."""


class Sink(Protocol[ItemIn, ResultIn]):
    """Where results go. `write` and `fail` are called from one thread, in input order within a worker."""

    def done(self, item: ItemIn, room: Room) -> bool:
        """Whether the item needs no work; called in several threads. What this raises is the item's failure.

        LeftAloneError fails the item without a call of `fail`; StopError ends the run.
        """

    def write(self, item: ItemIn, result: ResultIn) -> Mapping[str, int]:
        """Store the item's result and return what to count, such as {"masks": 12}. Raises as `done` does."""

    def fail(self, item: ItemIn, reason: str, error: Exception) -> None:
        """Store one line that says why the item failed. What this raises ends the run."""


@dataclass(frozen=True)
class Failure(Generic[Item]):
    """An item that failed. earlier: in an earlier run; it was not tried again."""

    item: Item
    reason: str
    earlier: bool = False


@dataclass
class Tally(Generic[Item]):
    """How a run goes, or went.

    done: items worked on with success. skipped: items that were done already. counts: summed over what the
    sink returned. seconds: spent in "read", "compute" and "write", summed over threads and workers.
    stopped: (exit code, why) when the run ended early.
    """

    done: int = 0
    skipped: int = 0
    failures: list[Failure[Item]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    stopped: tuple[int, str] | None = None

    @property
    def seen(self) -> int:
        """Items that have come to an end."""
        return self.done + self.skipped + len(self.failures)

    @property
    def exit_code(self) -> int:
        """0, 3 when items failed, or the code of what stopped the run."""
        if self.stopped:
            return self.stopped[0]
        return 3 if self.failures else 0


@dataclass(frozen=True)
class Ray:
    """A Ray cluster to work on. address: as ray.init takes it; None starts one here, or finds RAY_ADDRESS.

    cpus: for each worker. A cluster with GPUs gets a worker for each GPU, another one as many as its CPUs
    are enough for.
    """

    address: str | None = None
    cpus: int = 1


def run(
    items: Iterable[Item],
    make_work: MakeWork[Item, Result],
    sink: Sink[Item, Result],
    *,
    devices: Sequence[str] = ("auto",),
    ray: Ray | None = None,
    progress: Callable[[Tally[Item]], None] = lambda tally: None,
) -> Tally[Item]:
    """Work through `items`, which may come slowly, and hand each result or failure to `sink`.

    One device is worked on in this process; for several, each gets a process of its own. With `ray`, workers
    are the cluster's, for the first device. A call of the work that fails for several items is made again for
    each alone. progress: called after each item.

    SIGINT and SIGTERM let what is being computed and written finish, a second signal does not (on Ray the
    first ends the workers). A StopError, a full disk, a SamcliError of `make_work`, or of `items` (after the
    items before it are done) stop the run: the tally says so. What goes to other processes must be picklable.
    """
    tally: Tally[Item] = Tally()
    order: list[int] = []

    def add(index: int, item: Item, report: _Report) -> None:
        if report.kind == "failed":
            tally.failures.append(Failure(item, report.reason, report.earlier))
            order.append(index)
        elif report.kind == "done":
            tally.done += 1
        else:
            tally.skipped += 1
        tally.counts.update(report.counts)
        tally.seconds.update(report.seconds)
        progress(tally)

    with _Signals() as signals:
        try:
            numbered = enumerate(items)
            if ray:
                _run_on_ray(numbered, make_work, sink, add, ray, devices[0])
            elif len(devices) == 1:
                _Pipeline(make_work(devices[0]), sink, add, signals.deferred).run(numbered)
            else:
                _run_in_processes(numbered, make_work, sink, add, devices, signals)
        except _Stop as stop:
            tally.stopped = (128 + stop.signum, f"stopped by {signal.Signals(stop.signum).name}")
        except SamcliError as error:
            tally.stopped = (error.code, str(error))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            tally.stopped = (1, describe(error))
    tally.failures = [tally.failures[i] for i in sorted(range(len(order)), key=order.__getitem__)]
    return tally


def describe(error: BaseException) -> str:
    """One line for people: a SamcliError's text, an OSError's file and reason, or where a bug struck."""
    if isinstance(error, SamcliError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {text}"


class _Report(NamedTuple):
    """What came of an item."""

    kind: Literal["done", "skipped", "failed"]
    seconds: dict[str, float]
    counts: Mapping[str, int] = {}
    reason: str = ""
    earlier: bool = False


def _ended(code: int, why: str) -> SamcliError:
    """What stopped a worker elsewhere."""
    error = SamcliError(why)
    error.code = code
    return error


def _code_and_line(error: Exception) -> tuple[int, str]:
    """The exit code of what stops a run, and one line about it."""
    return error.code if isinstance(error, SamcliError) else 1, describe(error)


def _ends_run(error: BaseException) -> bool:
    return isinstance(error, StopError) or (isinstance(error, OSError) and error.errno in _FULL)


class _Entry(Generic[Item]):
    """An item on its way through the pipeline."""

    def __init__(self, turn: int, index: int, item: Item) -> None:
        self.turn, self.index, self.item = turn, index, item
        self.ready = threading.Event()
        self.loaded: Any = None
        self.result: Any = None
        self.skipped = False
        self.error: Exception | None = None
        self.seconds: dict[str, float] = {}

    @property
    def needs_work(self) -> bool:
        return self.error is None and not self.skipped


class _ClosedError(Exception):
    """The run ends while a reader waits."""


class _Room:
    """Shares a number of bytes among items by their turn, so that the oldest waits for no younger one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._turn = 0
        self._passed: set[int] = set()
        self._closed = False
        self._changed = threading.Condition()

    def take(self, turn: int, amount: int) -> None:
        """Wait until the items before have had their turn and the bytes fit, or nothing else is held."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._may_hold(turn, amount))
            if self._closed:
                raise _ClosedError
            self._held[turn] = max(amount, self._held.get(turn, 0))
            self.skip(turn)

    def skip(self, turn: int) -> None:
        """The item has had its turn."""
        with self._changed:
            if turn >= self._turn:
                self._passed.add(turn)
            while self._turn in self._passed:
                self._passed.remove(self._turn)
                self._turn += 1
            self._changed.notify_all()

    def give(self, turn: int) -> None:
        """The item's bytes are free again."""
        with self._changed:
            self._held.pop(turn, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Let everyone who waits leave."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _may_hold(self, turn: int, amount: int) -> bool:
        if turn < self._turn:  # it had its turn; what it holds may be more
            return True
        free = not self._held or sum(self._held.values()) + amount <= self._limit
        return self._turn == turn and free


class _Pipeline(Generic[Item, Result]):
    """Reads ahead, computes in the thread that calls `run`, writes behind.

    report: called for every item, from the writing thread. uninterrupted: holds signals off. stopped: asked
    before every call of the work.
    """

    def __init__(
        self,
        work: Work[Item, Result],
        sink: Sink[Item, Result],
        report: Callable[[int, Item, _Report], None],
        uninterrupted: Callable[[], AbstractContextManager[None]] = nullcontext,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._work, self._sink, self._report = work, sink, report
        self._uninterrupted, self._stopped = uninterrupted, stopped
        self._readers = max(2, min(READERS, os.cpu_count() or 1))
        self._window = threading.Semaphore(self._readers + 2 * work.size)  # items from listing to writing
        self._unread: queue.SimpleQueue[_Entry[Item] | None] = queue.SimpleQueue()
        self._room = _Room(ROOM)
        self._ahead: queue.SimpleQueue[_Entry[Item] | None] = queue.SimpleQueue()
        self._head: _Entry[Item] | None = None
        self._listed = False
        self._behind: queue.SimpleQueue[_Entry[Item] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._starving = threading.Event()
        self._broken_items: BaseException | None = None
        self._broken_output: BaseException | None = None

    def run(self, items: Iterator[tuple[int, Item]]) -> None:
        """Work until the items end, or something ends the run: that is raised when all is written."""
        # Daemons: one that waits for input, or for a disk that does not answer, does not hold up the end.
        writer = threading.Thread(target=self._write, daemon=True)
        others = [threading.Thread(target=self._list, args=(items,), name=THREADS, daemon=True)]
        others += [
            threading.Thread(target=self._read_all, args=(number > 0,), name=THREADS, daemon=True)
            for number in range(self._readers)
        ]
        try:
            with self._uninterrupted():
                for thread in (writer, *others):
                    thread.start()
            self._compute()
        finally:
            with self._uninterrupted():
                self._stop()
                self._behind.put(None)
                writer.join()
                deadline = time.monotonic() + LEAVE_SECONDS
                for thread in others:
                    thread.join(max(0.0, deadline - time.monotonic()))
        for error in (self._broken_output, self._broken_items):
            if error:
                raise error

    def _stop(self) -> None:
        self._stopping.set()
        self._room.close()
        self._window.release()  # whoever lists need not wait any more
        self._starving.set()
        for _ in range(self._readers):
            self._unread.put(None)
        self._ahead.put(None)

    def _list(self, items: Iterator[tuple[int, Item]]) -> None:
        try:
            for turn, (index, item) in enumerate(items):
                self._window.acquire()
                if self._stopping.is_set():
                    return
                entry = _Entry(turn, index, item)
                self._unread.put(entry)
                self._ahead.put(entry)
        except BaseException as error:  # noqa: BLE001 - raised again where the run ends
            if not self._stopping.is_set():
                self._broken_items = error
        finally:
            self._ahead.put(None)

    def _read_all(self, helps: bool) -> None:
        """Read one after the other; a helper only while a work that needs the CPU waits."""
        while not self._stopping.is_set():
            if helps and self._work.size == 1:  # work that takes several items is a GPU's
                self._starving.wait()
            entry = self._unread.get()
            if entry is None:
                return
            self._read(entry)

    def _read(self, entry: _Entry[Item]) -> None:
        waited = 0.0

        def room(amount: int) -> None:
            nonlocal waited
            start = time.perf_counter()
            self._room.take(entry.turn, amount)
            waited += time.perf_counter() - start

        start = time.perf_counter()
        try:
            entry.skipped = self._sink.done(entry.item, room)
            if not entry.skipped:
                entry.loaded = self._work.read(entry.item, room)
        except Exception as error:  # noqa: BLE001 - the item's failure
            entry.error = error
        finally:
            entry.seconds["read"] = time.perf_counter() - start - waited
            self._room.skip(entry.turn)
            entry.ready.set()

    def _compute(self) -> None:
        while not self._stopped() and (group := self._next_group()):
            with self._uninterrupted():
                self._compute_group([entry for entry in group if entry.needs_work])
                for entry in group:
                    if entry.error and _ends_run(entry.error):
                        raise entry.error
                    self._behind.put(entry)

    def _next_group(self) -> list[_Entry[Item]]:
        """The oldest item, when it is ready, and those behind it that are ready too. Empty: no more."""
        group: list[_Entry[Item]] = []
        while sum(entry.needs_work for entry in group) < self._work.size:
            if self._head is None and not self._listed:
                with suppress(queue.Empty):
                    self._head = self._ahead.get(block=not group)
                    self._listed = self._head is None
            if self._head is None or self._stopping.is_set() or (group and not self._head.ready.is_set()):
                break
            if not self._head.ready.is_set():
                self._starving.set()
                self._head.ready.wait()
                self._starving.clear()
            group.append(self._head)
            self._head = None
        return group

    def _compute_group(self, entries: list[_Entry[Item]]) -> None:
        if not entries:
            return
        start = time.perf_counter()
        try:
            results = self._work.compute([entry.loaded for entry in entries])
            for entry, result in zip(entries, results, strict=True):
                entry.result = result
        except Exception as error:  # noqa: BLE001 - the item's failure, once it is clear which item it is
            if len(entries) == 1:
                entries[0].error, entries[0].loaded = error, None
            else:
                for entry in entries:
                    self._compute_group([entry])
                return
        for entry in entries:
            entry.loaded = None
            entry.seconds["compute"] = (time.perf_counter() - start) / len(entries)

    def _write(self) -> None:
        while (entry := self._behind.get()) is not None:
            try:
                if not self._broken_output:
                    self._store(entry)
            except BaseException as error:  # noqa: BLE001 - raised again where the run ends
                self._broken_output = error
                self._stop()
            entry.result = entry.error = None  # an error's traceback holds on to pixels
            self._room.give(entry.turn)
            self._window.release()

    def _store(self, entry: _Entry[Item]) -> None:
        start = time.perf_counter()
        counts: Mapping[str, int] = {}
        if entry.needs_work:
            try:
                counts = self._sink.write(entry.item, entry.result)
            except Exception as error:  # noqa: BLE001 - the item's failure
                entry.error = error
        failure, reason = entry.error, ""
        if failure:
            if _ends_run(failure):
                raise failure
            reason = describe(failure)
            if not isinstance(failure, LeftAloneError):
                self._sink.fail(entry.item, reason, failure)
        entry.seconds["write"] = time.perf_counter() - start
        kind: Literal["done", "skipped", "failed"] = (
            "failed" if failure else "skipped" if entry.skipped else "done"
        )
        earlier = isinstance(failure, LeftAloneError) and failure.earlier
        self._report(entry.index, entry.item, _Report(kind, entry.seconds, counts, reason, earlier))


class _Worker(Generic[Item]):
    """A worker process, as its parent sees it. given: the items it has not reported on yet."""

    def __init__(self, make_work: MakeWork[Item, Result], sink: Sink[Item, Result], device: str) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.device = device
        self.talk, theirs = context.Pipe()
        their_stop, self.stop = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_serve, args=(theirs, their_stop, make_work, sink, device), daemon=True
        )
        self.given: dict[int, Item] = {}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it knows what to do with them
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that either side reads the end of the file when the other is gone
        their_stop.close()

    def give(self, pair: tuple[int, Item] | None) -> None:
        """Hand over an item, or say that there are no more."""
        if pair:
            self.given[pair[0]] = pair[1]
        with suppress(OSError):  # a worker that has died is noticed where it is listened to
            self.talk.send(pair)


class _Ahead(Generic[Item]):
    """Takes items in a thread of its own, one ahead, so that nobody else waits for them."""

    def __init__(self, items: Iterator[tuple[int, Item]]) -> None:
        self.bell, self._rings = multiprocessing.Pipe(duplex=False)
        self._taken: queue.SimpleQueue[tuple[int, Item] | BaseException | None] = queue.SimpleQueue()
        self._wanted = threading.Semaphore()
        threading.Thread(target=self._take, args=(items,), name=THREADS, daemon=True).start()

    def get(self) -> tuple[int, Item] | None:
        """The next item, when the bell can be read; None at their end. Raises what the items raised."""
        self.bell.recv()
        self._wanted.release()
        taken = self._taken.get()
        if isinstance(taken, BaseException):
            raise taken
        return taken

    def _take(self, items: Iterator[tuple[int, Item]]) -> None:
        last: BaseException | None = None
        try:
            for pair in items:
                self._wanted.acquire()
                self._taken.put(pair)
                self._rings.send(None)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            last = error
        self._taken.put(last)
        with suppress(OSError):
            self._rings.send(None)


def _run_in_processes(
    items: Iterator[tuple[int, Item]],
    make_work: MakeWork[Item, Result],
    sink: Sink[Item, Result],
    add: Callable[[int, Item, _Report], None],
    devices: Sequence[str],
    signals: _Signals,
) -> None:
    """Give items to a process per device, each as it asks for one."""
    workers: list[_Worker[Item]] = []
    hungry: list[_Worker[Item]] = []
    ahead = _Ahead(items)
    listed = False
    end: BaseException | None = None

    def stop(error: BaseException | None) -> None:
        """No more items; with an error, what was given and is not begun is dropped too."""
        nonlocal listed, end
        listed, end = True, end or error
        for worker in workers:
            with suppress(OSError):
                if error:
                    worker.stop.send(None)
        for worker in hungry:
            worker.give(None)
        hungry.clear()

    def feed() -> None:
        nonlocal end
        try:
            pair = ahead.get()
        except SamcliError as error:
            stop(None)
            end = end or error
        else:
            if pair:
                hungry.pop(0).give(pair)
            else:
                stop(None)

    def listen(worker: _Worker[Item]) -> None:
        try:
            kind, *content = worker.talk.recv()
        except (EOFError, OSError):
            workers.remove(worker)
            if worker in hungry:
                hungry.remove(worker)
            worker.process.join()
            if code := worker.process.exitcode:
                how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
                stop(StopError(f"the worker of {worker.device} was {how}; run again to go on where it ended"))
            return
        if kind == "report":
            index, report = content
            add(index, worker.given.pop(index), report)
        elif kind == "note":
            warnings.warn(content[0], SamcliNote, stacklevel=2)
        elif kind == "stop":
            stop(_ended(*content))
        elif listed:
            worker.give(None)
        else:
            hungry.append(worker)

    try:
        with signals.deferred():
            workers += [_Worker(make_work, sink, device) for device in devices]
        while workers:
            try:
                bells = [ahead.bell] if hungry and not listed else []
                ready = wait([*bells, *(worker.talk for worker in workers)])
                with signals.deferred():
                    for worker in [worker for worker in workers if worker.talk in ready]:
                        listen(worker)
                    if ahead.bell in ready and hungry and not listed:
                        feed()
            except _Stop as error:
                if signals.insisted:
                    raise
                stop(error)
    finally:
        for worker in workers:
            worker.process.kill()
    if end:
        raise end


def _serve(
    talk: Connection,
    stop: Connection,
    make_work: MakeWork[Item, Result],
    sink: Sink[Item, Result],
    device: str,
) -> None:
    """A worker process: asks for items and reports on them until there are no more, or its parent is gone."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # the parent says when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    lock = threading.Lock()

    def say(*message: Any) -> None:
        with lock, suppress(OSError):
            talk.send(message)

    def items() -> Iterator[tuple[int, Item]]:
        while True:
            say("next")
            try:
                pair = talk.recv()
            except (EOFError, OSError):
                return
            if pair is None:
                return
            yield pair

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, SamcliNote):
            say("note", str(message))

    warnings.simplefilter("default", SamcliNote)
    warnings.showwarning = show
    try:
        _Pipeline(
            make_work(device), sink, lambda i, item, report: say("report", i, report), stopped=stop.poll
        ).run(items())
    except Exception as error:  # noqa: BLE001 - said by the parent
        say("stop", *_code_and_line(error))


class _Actor(Generic[Item, Result]):
    """What Ray Data calls with batches of pickled items."""

    def __init__(self, make_work: MakeWork[Item, Result], sink: Sink[Item, Result], device: str) -> None:
        self._sink = sink
        self._broken: tuple[int, str] | None = None
        try:
            self._work = make_work(device)
        except Exception as error:  # noqa: BLE001 - said by who waits for the reports
            self._broken = _code_and_line(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        reports: list[tuple[int, _Report | str]] = [] if self._broken is None else [self._broken]
        items = ((int(i), pickle.loads(item)) for i, item in zip(batch["index"], batch["item"], strict=True))
        if not reports:
            try:
                _Pipeline(self._work, self._sink, lambda i, _, report: reports.append((i, report))).run(items)
            except Exception as error:  # noqa: BLE001 - as above
                reports.append(_code_and_line(error))
        return {"report": [pickle.dumps(report) for report in reports]}


def _run_on_ray(
    items: Iterator[tuple[int, Item]],
    make_work: MakeWork[Item, Result],
    sink: Sink[Item, Result],
    add: Callable[[int, Item, _Report], None],
    cluster: Ray,
    device: str,
) -> None:
    """Let Ray Data's actors work. The list of items is held in memory, on the machine that starts the run."""
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ImportError:
        raise SamcliError("Ray is not installed; run: pip install 'samcli[ray]'") from None
    listed = [item for _, item in items]
    if not listed:
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address=cluster.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        except ConnectionError as error:
            raise SamcliError(f"no Ray cluster answers at {cluster.address}; check the address") from error
    try:
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        context = DataContext.get_current()
        context.enable_progress_bars = False
        largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        if cluster.cpus > largest:
            raise SamcliError(f"a worker wants {cluster.cpus} CPUs, but no node has more than {largest}")
        count = max(1, min(gpus or cpus // cluster.cpus, len(listed)))
        size = max(1, min(RAY_ITEMS, len(listed) // (4 * count)))
        rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(listed)]
        reports = from_items(rows, override_num_blocks=min(len(rows), max(8 * count, len(rows) // 1000)))
        reports = reports.map_batches(
            _Actor,
            fn_constructor_args=(make_work, sink, device),
            compute=ActorPoolStrategy(size=count),
            batch_size=size,
            num_cpus=cluster.cpus,
            num_gpus=1 if gpus else None,
            max_restarts=0,  # an item that kills its worker would kill the next one too
            max_task_retries=0,
        )
        for row in reports.iter_rows():
            index, report = pickle.loads(row["report"])
            if isinstance(report, str):
                raise _ended(index, report)
            add(index, listed[index], report)
    except ray.exceptions.RayError as error:
        raise SamcliError(f"the Ray cluster failed: {describe(error)}") from error
    finally:
        if started:
            ray.shutdown()


class _Stop(BaseException):
    def __init__(self, signum: int) -> None:
        self.signum = signum


class _Signals:
    """While entered, SIGINT and SIGTERM raise _Stop: at once, or at the end of a deferred block.

    A second signal raises it at once in any case. Outside the main thread, where Python allows no handlers,
    nothing is installed; ignored signals stay so.
    """

    def __init__(self) -> None:
        self._old: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._busy = False
        self._first = 0
        self._raised = False
        self.insisted = False  # there was a second one

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
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
        if self._first and not self._raised:
            self._raised = True
            raise _Stop(self._first)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.insisted, self._first = bool(self._first), self._first or signum
        if self.insisted or not self._busy:
            self._raised = True
            raise _Stop(signum)
