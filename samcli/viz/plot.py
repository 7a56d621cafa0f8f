"""Plots as PNG, in one look."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 144
TEXT, FAINT, LINE = "#17191d", "#596069", "#d9dce2"
SERIES = ("#1f5fd0", "#cf7a00", "#2f8f5b", "#b03a8c", "#5f7d72", "#8a5a2b", "#3aa0b5", "#7a4fd0")
"""Colours that are told apart, also by those who see few."""


@contextmanager
def matplotlib_as_it_comes() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's matplotlibrc says, and without its talk.

    It logs when it looks through the system's fonts, and when it finds no place to keep what it saw; it then
    makes one below the temporary folder by itself.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({"font.size": 10, "text.color": TEXT, "axes.edgecolor": LINE})
            yield
    finally:
        log.setLevel(level)


def plot(title: str, draw: Callable[[Axes], None] | None, tall: float, software: str) -> bytes:
    """A picture of `tall` inches as PNG, said to be made by `software`. draw: fills the axes; without it the
    picture says that there is nothing. Within `matplotlib_as_it_comes` the same plot gives the same bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, tall), dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.14)  # inches
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    if draw is None:
        axes.set_axis_off()
        axes.text(0, 0.6, "There are none.", color=FAINT, fontsize=12)
    else:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelcolor=FAINT)
        axes.xaxis.label.set_color(FAINT)
        axes.yaxis.label.set_color(FAINT)
        axes.set_axisbelow(True)
        draw(axes)
        handles, _ = axes.get_legend_handles_labels()
        if len(handles) > 1:
            axes.legend(loc="best", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": software})
    return buffer.getvalue()
