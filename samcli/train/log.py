"""What a training run says of itself: a table of losses, a plot of it, figures of a dev set, checkpoints."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes, write_text
from samcli.viz.plot import LINE, SERIES, matplotlib_as_it_comes, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from samcli.train.loop import Stage, State

LOG, CHECKS, PLOT, CHECKPOINT = "log.csv", "checks.csv", "log.png", "checkpoint.pt"
SOFTWARE = "samcli train"


@dataclass(frozen=True)
class Progress:
    """One line of the log. Losses and IoU are means since the line before, over all processes."""

    step: int
    steps: int
    side: int
    lr: float
    loss: float
    iou_first: float  # of the default answer to the first prompt
    iou_last: float  # after the corrections
    images_per_second: float


Report = Callable[[Progress], None]
Check = Callable[[Any], Mapping[str, float]]
"""Measures a network on a dev set: figures by name."""


class Journal:
    """Counts the steps of a run, and writes OUT/log.csv and checkpoints as its configuration says.

    out: None where nothing is written, in all processes but the first. check: measures the averaged weights
    at every checkpoint, into OUT/checks.csv. tensorboard: also write its event files, below OUT.
    """

    def __init__(
        self,
        state: State[Any],
        out: Path | None,
        report: Report,
        *,
        check: Check | None = None,
        tensorboard: bool = False,
    ) -> None:
        self._state, self._out, self._report, self._check = state, out, report, check
        self._events = _events(out) if out and tensorboard else None
        self._restart()
        if out:
            for name in (LOG, CHECKS):
                cut(out / name, state.step)

    def begin(self, stage: Stage) -> None:
        """From here on steps are of this stage."""
        self._stage = stage
        self._restart()

    def _restart(self) -> None:
        self._sums, self._since, self._began = [0.0, 0.0, 0.0], 0, time.monotonic()

    def add(self, loss: float, iou_first: float, iou_last: float) -> None:
        """A step was done; the state counts it already."""
        if self._out is None:
            return
        state, config = self._state, self._state.config
        self._sums = [a + b for a, b in zip(self._sums, (loss, iou_first, iou_last), strict=True)]
        self._since += 1
        if state.step % config.log_every == 0:
            speed = round(self._since * self._stage.batch / (time.monotonic() - self._began), 1)
            means = [total / self._since for total in self._sums]
            mean, first, last = means
            line = Progress(state.step, config.steps, self._stage.side, state.lr(), mean, first, last, speed)
            append(self._out / LOG, asdict(line))
            self._tell("train", state.step, dict(zip(("loss", "iou_first", "iou_last"), means, strict=True)))
            self._report(line)
            self._restart()
        if state.step % config.save_every == 0:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, and measure on the dev set what it holds."""
        if self._out is None:
            return
        self._state.save(self._out / CHECKPOINT)
        began = time.monotonic()
        if self._check:
            figures = self._check(self._state.averaged())
            append(self._out / CHECKS, {"step": self._state.step, **figures})
            self._tell("dev", self._state.step, figures)
        self._began += time.monotonic() - began

    def end(self) -> None:
        """The last checkpoint, and a plot of the whole run."""
        if self._out is None:
            return
        last = rows(self._out / CHECKS)
        if not last or int(last[-1]["step"]) != self._state.step:
            self.save()
        if find_spec("matplotlib"):  # machines that only train have none
            write_bytes(self._out / PLOT, drawn(rows(self._out / LOG), rows(self._out / CHECKS)))
        if self._events:
            self._events.close()

    def _tell(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        if self._events:
            for name, value in figures.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


def _events(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SamcliError(
            "--tensorboard needs tensorboard; install it with: pip install tensorboard"
        ) from None
    return SummaryWriter(str(out))


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a table, which gets its head with the first one."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def rows(path: Path) -> list[dict[str, str]]:
    """The lines of a table that are whole; none when there is no table."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [row for row in csv.DictReader(io.StringIO(whole)) if None not in row.values()]


def cut(path: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again, and one that was cut off."""
    kept = [row for row in rows(path) if int(row["step"]) <= step]
    if kept:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(kept[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_text(path, text.getvalue())
    else:
        path.unlink(missing_ok=True)


def drawn(log: Sequence[Mapping[str, str]], checks: Sequence[Mapping[str, str]]) -> bytes:
    """Losses and IoU of a run over its steps, as PNG."""

    def draw(axes: Axes) -> None:
        steps = [int(row["step"]) for row in log]
        loss = [float(row["loss"]) for row in log]
        names = {"iou_first": "IoU, first prompt", "iou_last": "IoU, corrected"}
        for (name, label), color in zip(names.items(), SERIES[:2], strict=True):
            axes.plot(steps, [float(row[name]) for row in log], color=color, linewidth=1, label=label)
        figures = [name for name in (checks[0] if checks else {}) if name != "step"]
        for number, name in enumerate(figures, start=2):
            points = [(int(row["step"]), float(row[name])) for row in checks]
            color = SERIES[number % len(SERIES)]
            axes.plot(*zip(*points, strict=True), color=color, marker="o", label=f"dev: {name}")
        axes.set(xlabel="step", ylabel="IoU", ylim=(0, 1))
        axes.grid(axis="y", color=LINE)
        other = axes.twinx()
        other.plot(steps, loss, color="#8a8f98", linewidth=1)
        other.set_ylabel("loss (grey)")
        other.spines[["top", "right", "left"]].set_visible(False)

    with matplotlib_as_it_comes():
        return plot("Training", draw if log else None, 4.2, SOFTWARE)
