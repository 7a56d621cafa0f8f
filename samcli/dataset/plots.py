"""A dataset's report as pictures: plots of its classes, scores and sizes, as PNG."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.dataset.summary import BINS, Summary
from samcli.viz.plot import FAINT, LINE, TEXT, matplotlib_as_it_comes, plot
from samcli.viz.text import DOTS, letters_for, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOFTWARE = "samcli annotate"
"""Stands in every PNG of a report, and tells our pictures from others."""

MOST_BARS = 40  # classes in a plot; the bars of more would be too thin
MOST_LETTERS = 36  # of a class's name; those of East Asia are twice as wide

COLORS = {"accepted": "#1f5fd0", "existing": "#5f7d72", "to review": "#cf7a00", "annotations": "#1f5fd0"}
"""As in report.css in the light."""


def plots(summary: Summary) -> dict[str, bytes]:
    """The plots as PNG, by the names of their files. The same summary gives the same bytes."""
    with matplotlib_as_it_comes():
        return {
            "classes.png": _classes(summary),
            "scores.png": _scores(summary),
            "sizes.png": _sizes(summary),
        }


def _classes(summary: Summary) -> bytes:
    """How many annotations each class has, and how many are to review; the most frequent on top."""
    shown = [one for one in summary.classes if one.accepted + one.existing + one.to_review][:MOST_BARS]
    names = [_letters(_short(one.name)) for one in shown]
    count = len(summary.classes)
    note = f"{count:,} {'class' if count == 1 else 'classes'}"
    if len(shown) < count:
        note = f"the {len(shown)} most frequent of {note}"

    def draw(axes: Axes) -> None:
        places = range(len(shown))
        parts = {
            "accepted": [one.accepted for one in shown],
            "existing": [one.existing for one in shown],
            "to review": [one.to_review for one in shown],
        }
        _stacked(parts, lambda values, bottom, **look: axes.barh(places, values, 0.7, left=bottom, **look))
        axes.set_yticks(list(places), [text for text, _ in names])
        for label, (_, font) in zip(axes.get_yticklabels(), names, strict=True):
            label.set_parse_math(False)  # a $ is a letter
            label.set_fontproperties(font)
        ends = [one.accepted + one.existing + one.to_review for one in shown]
        for place, (one, end) in enumerate(zip(shown, ends, strict=True)):
            said = f"{one.accepted + one.existing:,}" + (f" + {one.to_review:,}" if one.to_review else "")
            axes.text(end + max(ends) / 100, place, said, va="center", color=FAINT, fontsize=9)
        axes.set(xlim=(0, max(ends) * 1.12), ylim=(len(shown) - 0.4, -0.6))
        axes.grid(axis="x", color=LINE)
        axes.tick_params(axis="y", labelcolor=TEXT)
        axes.xaxis.set_major_locator(_whole_numbers())

    return _picture(
        f"Annotations per class: {note}",
        draw if shown else None,
        tall=max(2.4, 1.3 + 0.26 * len(shown)),
    )


def _scores(summary: Summary) -> bytes:
    def draw(axes: Axes) -> None:
        _histogram(axes, {"accepted": summary.scores, "to review": summary.review_scores})
        axes.set(xlabel="score", ylabel="proposals")

    some = any(summary.scores) or any(summary.review_scores)
    return _picture("Scores of the proposals", draw if some else None)


def _sizes(summary: Summary) -> bytes:
    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        _histogram(axes, {"annotations": summary.sizes})
        axes.set(xlabel="side: the square root of the share of the image", ylabel="annotations")
        axes.xaxis.set_major_formatter(PercentFormatter(1))

    return _picture("Sizes of the annotations", draw if any(summary.sizes) else None)


def _histogram(axes: Axes, parts: Mapping[str, Sequence[int]]) -> None:
    """Stacked bars of BINS equal parts of 0 to 1."""
    left = [i / BINS for i in range(BINS)]
    _stacked(
        parts,
        lambda values, bottom, **look: axes.bar(
            left, values, 0.92 / BINS, bottom=bottom, align="edge", **look
        ),
    )
    axes.set_xlim(0, 1)
    axes.grid(axis="y", color=LINE)
    axes.yaxis.set_major_locator(_whole_numbers())


def _stacked(parts: Mapping[str, Sequence[int]], bars: Callable[..., Any]) -> None:
    """Bars on one another. parts: counts by what they are of, a key of COLORS."""
    bottom: Sequence[int] | None = None
    for label, values in parts.items():
        if any(values):
            bottom = bottom or [0] * len(values)
            bars(values, bottom, color=COLORS[label], label=label)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, integer=True)


def _picture(title: str, draw: Callable[[Axes], None] | None, tall: float = 4.2) -> bytes:
    return plot(title, draw, tall, SOFTWARE)


def _short(name: str) -> str:
    """A class's name on one line, cut to MOST_LETTERS."""
    name, wide = plain(name, 10 * MOST_LETTERS), 0
    for end, letter in enumerate(name):
        wide += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if wide > MOST_LETTERS:
            return name[:end] + DOTS
    return name


def _letters(text: str) -> tuple[str, Any]:
    """The text and a font that can draw it: matplotlib's own, or what `letters_for` finds."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, get_font

    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    path: str | Path = own
    letters = get_font(str(own))
    if not all(letters.get_char_index(ord(letter)) for letter in text):
        text, other = letters_for(text, 16)
        path = own if text.isascii() else other.path
    return text, FontProperties(fname=path)
