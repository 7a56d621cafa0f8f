"""Figures of datasets as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from samcli.evaluate.figures import Figures
from samcli.viz.plot import LINE, SERIES, matplotlib_as_it_comes, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOFTWARE = "samcli evaluate"


def plots(figures: Mapping[str, Mapping[str, Figures]]) -> dict[str, bytes]:
    """Plots as PNG by the names of their files. figures: by protocol, then by dataset.

    The same figures give the same bytes; there is no plot of what was not measured.
    """
    found = {}
    with matplotlib_as_it_comes():
        if prompts := _having(figures, "prompts", "clicks"):
            found["clicks.png"] = _clicks(prompts)
        if everything := _having(figures, "everything", "ar_1000"):
            found["recall.png"] = _recall(everything)
        if edges := _having(figures, "edges", "curve"):
            found["edges.png"] = _edges(edges)
    return found


def _having(
    figures: Mapping[str, Mapping[str, Figures]], protocol: str, name: str
) -> dict[str, Mapping[str, Any]]:
    return {dataset: some for dataset, some in figures.get(protocol, {}).items() if some.get(name)}


def _clicks(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    def draw(axes: Axes) -> None:
        for (name, some), color in zip(figures.items(), _colors(len(figures)), strict=True):
            clicks = some["clicks"]
            axes.plot(range(1, len(clicks) + 1), clicks, marker="o", color=color, label=name)
            axes.axhline(some["box"], color=color, linewidth=0.8, linestyle="--")
        axes.set(xlabel="clicks (dashed: the true box instead)", ylabel="mean IoU", ylim=(0, 1))
        axes.set_xticks(range(1, 1 + max(len(some["clicks"]) for some in figures.values())))
        axes.grid(axis="y", color=LINE)

    return plot("Clicks, each at the middle of the largest error", draw, 4.2, SOFTWARE)


def _recall(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    counts = {"ar_10": "10 masks", "ar_100": "100", "ar_1000": "1000"}
    kinds = counts | {"ar_small": "small", "ar_medium": "medium", "ar_large": "large"}

    def draw(axes: Axes) -> None:
        wide = 0.8 / len(figures)
        colors = _colors(len(figures))
        for number, ((name, some), color) in enumerate(zip(figures.items(), colors, strict=True)):
            places = [i - 0.4 + (number + 0.5) * wide for i in range(len(kinds))]
            axes.bar(places, [some[kind] or 0 for kind in kinds], wide * 0.9, color=color, label=name)
        axes.set_xticks(range(len(kinds)), list(kinds.values()))
        axes.set(ylabel="average recall", ylim=(0, 1))
        axes.grid(axis="y", color=LINE)

    return plot("Everything mode: recall with so many masks, and of sizes with 1000", draw, 4.2, SOFTWARE)


def _edges(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    def draw(axes: Axes) -> None:
        for (name, some), color in zip(figures.items(), _colors(len(figures)), strict=True):
            recall, precision = zip(*some["curve"], strict=True)
            axes.plot(recall, precision, color=color, label=f"{name}, ODS {some['ods']:.3f}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
        axes.grid(color=LINE)

    return plot("Edges", draw, 5.5, SOFTWARE)


def _colors(count: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(count)]
