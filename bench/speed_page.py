"""Writes docs/benchmarks.md and its picture from the rounds that bench/speed.py left in a folder.

    python bench/speed_page.py DIR

Every number in the page is read from the folder or is a goal of `speed.TABLE`. What is not there is said to
be not measured. DIR/gpu.json, of bench/gpu.py, is {"device": ..., "rows": [{"name", "value", "unit",
"target"}, ...]}.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import calibrated
import gate
import speed
from speed import SCALING, TABLE, Case

DOCS = speed.ROOT / "docs"
PICTURE = "images/benchmarks.png"
AXES = {
    "points": ("points per side", "everything mode, 1800x1200, 2 threads"),
    "size": ("megapixels of the photo", "everything mode, 8x8 points, 2 threads"),
    "boxes": ("boxes on one photo", "box prompts, 1800x1200, 2 threads"),
    "threads": ("threads", "everything mode, 8x8 points, 1800x1200"),
}
COLOURS = {"samcli": "#0072b2", "reference": "#d55e00"}
NOT_MEASURED = "not measured"

Round = dict[str, Any]


def main() -> None:
    folder = Path(sys.argv[1])
    rounds = {case.name: read(folder, case) for case in TABLE + SCALING}
    pictured = draw(rounds, DOCS / PICTURE)
    every = [found for some in rounds.values() for found in some]
    sections = [
        HEAD,
        machine(every, folder),
        "## The table\n\n" + table(rounds) + TABLE_NOTES,
        "## The same outputs\n\n" + outputs(rounds),
        "## Other programs\n\n" + peers(rounds),
        "## How it scales\n\n" + (scaling(rounds) if pictured else f"{NOT_MEASURED.capitalize()}.\n"),
        "## On a GPU\n\n" + gpu(folder / "gpu.json"),
        METHOD,
    ]
    (DOCS / "benchmarks.md").write_text("\n".join(sections), encoding="utf-8")
    print(DOCS / "benchmarks.md")


def read(folder: Path, case: Case) -> list[Round]:
    """The rounds of a case as it is now and of samcli's code as it is now."""
    files = sorted((folder / "rounds").glob(f"{case.name}-*.json"))
    own = [file for file in files if file.stem.rpartition("-")[0] == case.name]
    return [found for file in own if (found := speed.finished(file, case))]


def seconds(some: list[Round], side: str) -> list[float]:
    return [r["runs"][side]["seconds"] for r in some if "seconds" in r["runs"].get(side, {})]


def measured(case: Case, some: list[Round]) -> list[float]:
    """What the goal is about, of each round: a ratio, seconds, or times the floor."""
    ours = seconds(some, "samcli")
    if case.goal == "seconds":
        return ours
    if case.goal == "floor":
        return times_floor(case, some, "best")
    return [theirs / mine for mine, theirs in zip(ours, seconds(some, "reference"), strict=True)]


def times_floor(case: Case, some: list[Round], how: str) -> list[float]:
    """Times the seconds that the encoder takes at the speed of a matrix product. how: "best", or by what."""

    def speed_of(probe: dict[str, Any]) -> float:
        return float(probe["best"] if how == "best" else probe["each"][how])

    peaks = [max(speed_of(r["probe"][when]) for when in ("before", "after")) for r in some]
    return [t / (case.flops / peak) for t, peak in zip(seconds(some, "samcli"), peaks, strict=True)]


def verdict(case: Case, value: float) -> str:
    """Which goal the median reaches."""
    if not case.goal:
        return ""
    better = value.__ge__ if case.goal == "faster" else value.__le__
    return "aim" if better(case.aim) else "yes" if better(case.least) else "**no**"


def table(rounds: dict[str, list[Round]]) -> str:
    lines = [
        "| case | at least | aim | median | worst | reached | samcli | reference | peak memory, samcli | "
        "reference | rounds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in TABLE:
        unit = {"seconds": " s", "floor": "x floor"}.get(case.goal, "x")
        goals = [f"{case.least:g}{unit}", f"{case.aim:g}{unit}"] if case.goal else ["", ""]
        some = rounds[case.name]
        if not some:
            lines.append(f"| {case.title} | {' | '.join(goals)} | {NOT_MEASURED} | | | | | | | |")
            continue
        values = measured(case, some)
        middle = statistics.median(values)
        worst = (max if case.goal in ("seconds", "floor") else min)(values)
        sides = [seconds(some, side) for side in speed.BOTH]
        peaks = [[r["runs"][side]["rss"] for r in some if side in r["runs"]] for side in speed.BOTH]
        reached = verdict(case, middle)
        if case.memory:
            share = statistics.median(a / b for a, b in zip(*peaks, strict=True))
            goals[0] += f", memory at most {case.memory:.2f}x"
            reached += f"; memory {share:.2f}x" + ("" if share <= case.memory else " **no**")
        by_torch = ""
        if case.goal == "floor":
            by_torch = f" ({statistics.median(times_floor(case, some, 'torch.mm')):.2f}x by torch.mm)"
        cells = [
            case.title,
            *goals,
            f"**{middle:.2f}{unit}**{by_torch}",
            f"{worst:.2f}{unit}",
            reached,
            *(f"{statistics.median(side):.2f} s" if side else "" for side in sides),
            *(f"{statistics.median(side) / 2**30:.2f} GiB" if side else "" for side in peaks),
            f"{len(some)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def outputs(rounds: dict[str, list[Round]]) -> str:
    """What the gate found in all rounds, scaling runs included."""
    lines = [
        "| case | masks of samcli | of the reference | median mask, of the photo | equal to the pixel | "
        "most pixels another differs by | only one has, near a threshold | passed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    tensors = []
    whole = equal_in_all = 0
    for case in TABLE + SCALING:
        results = [r["gate"]["samcli"] for r in rounds[case.name] if "samcli" in r["gate"]]
        if not results:
            continue
        last, passed = results[-1], f"{sum(g['passed'] for g in results)} of {len(results)}"
        if "difference" in results[0]:
            share = max(g["difference"] for g in results)
            tensors.append(f"- {case.title}: {share:.1e} of the largest value; passed {passed}")
            continue
        pairs = [g["equal"] + len(g["differing"]) for g in results]
        whole, equal_in_all = whole + pairs[-1], equal_in_all + last["equal"]
        share = min(g["equal"] / max(n, 1) for g, n in zip(results, pairs, strict=True))
        most = max(max(g["differing"], default=0) for g in results)
        lines.append(
            f"| {case.title} | {last['ours']} | {last['theirs']} | {100 * last['area']:.2g} % | "
            f"{100 * share:.1f} % | {most} | {max(g['excused'] for g in results)} | {passed} |"
        )
    if len(lines) == 2 and not tensors:
        return f"{NOT_MEASURED.capitalize()}.\n"
    text = "\n".join(lines) + "\n"
    if whole:
        text += (
            f"\nOf the {whole:,} masks of all these cases, each counted once, "
            f"{100 * equal_in_all / whole:.2f} % are equal to the pixel.\nWhere there are fewer than a "
            "hundred, a single one that differs by a pixel is too many.\n"
        )
    if tensors:
        text += (
            "\nLargest difference of what comes out, where that is no masks:\n\n" + "\n".join(tensors) + "\n"
        )
    return text + OUTPUT_NOTES


def peers(rounds: dict[str, list[Round]]) -> str:
    lines = ["| case | program | seconds, median | samcli is | largest difference |", "|---|---|---|---|---|"]
    for case in TABLE:
        if len(case.sides) < 3 or not rounds[case.name]:
            continue
        some = rounds[case.name]
        for side in case.sides:
            times = seconds(some, side)
            if not times:
                why = some[0]["runs"].get(side, {}).get("skipped", NOT_MEASURED)
                lines.append(f"| {case.title} | {side} | {why} | | |")
                continue
            paired = [b / a for a, b in zip(seconds(some, "samcli"), times, strict=True)]
            ratio = "" if side == "samcli" else f"{statistics.median(paired):.2f}x as fast"
            differences = [r["gate"][side]["difference"] for r in some if side in r["gate"]]
            apart = f"{max(differences):.1e}" if differences else ""
            lines.append(f"| {case.title} | {side} | {statistics.median(times):.2f} | {ratio} | {apart} |")
    return ("\n".join(lines) if len(lines) > 2 else f"{NOT_MEASURED.capitalize()}.") + "\n"


def scaling(rounds: dict[str, list[Round]]) -> str:
    text = f"![Seconds of samcli and of the reference]({PICTURE})\n\n"
    text += "MobileSAM's architecture; one round each, seconds:\n\n"
    text += "| | samcli | reference | ratio |\n|---|---|---|---|\n"
    for case in SCALING:
        for found in rounds[case.name]:
            mine, theirs = (found["runs"][side]["seconds"] for side in speed.BOTH)
            text += f"| {case.title} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.1f}x |\n"
    return text


def draw(rounds: dict[str, list[Round]], file: Path) -> bool:
    """Plot seconds against what grows, both axes logarithmic. Returns whether there was anything to plot."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for case in SCALING:
        for found in rounds[case.name]:
            assert case.plot
            name, place = case.plot
            for side in speed.BOTH:
                of = lines.setdefault(name, {}).setdefault(side, [])
                of.append((place, found["runs"][side]["seconds"]))
    if not lines:
        return False
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for axis, (name, (label, title)) in zip(axes.flat, AXES.items(), strict=True):
        for side, points in lines.get(name, {}).items():
            x, y = zip(*sorted(points), strict=True)
            axis.plot(x, y, "-o", color=COLOURS[side], ms=5, label=side)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds", title=title)
        places = sorted({x for points in lines.get(name, {}).values() for x, _ in points})
        axis.set_xticks(places, [f"{x:g}" if x >= 10 or x == int(x) else f"{x:.2g}" for x in places])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25, which="both")
        if name in lines:
            axis.legend(frameon=False)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110, facecolor="white")
    plt.close(figure)
    return True


def machine(every: list[Round], folder: Path) -> str:
    if not every:
        return f"## The machine\n\n{NOT_MEASURED.capitalize()}.\n"
    about = every[-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    loads = [found["load"] for found in every]
    others = {json.dumps(found["machine"]["versions"], sort_keys=True) for found in every}
    probes = []
    for threads in sorted({found["case"]["threads"] for found in every}):
        own = [r["probe"][when] for r in every if r["case"]["threads"] == threads for when in r["probe"]]
        probes.append(
            f"{statistics.median(p['median'] for p in own):.0f} GF/s at {threads} "
            f"thread{'s' if threads > 1 else ''} (best by "
            + ", by ".join(f"{name} {max(p['each'][name] for p in own):.0f}" for name in own[0]["each"])
            + ")"
        )
    return (
        f"## The machine\n\n- {about['cpu']}, {about['cores']} cores\n- {versions}\n"
        + ("" if len(others) == 1 else "- versions changed between rounds; these are the last ones\n")
        + f"- 1-minute load before the rounds: {min(loads):.1f} to {max(loads):.1f}, median "
        f"{statistics.median(loads):.1f}\n- matrix products of 2048x2048, fp32: {'; '.join(probes)}\n"
    )


def gpu(file: Path) -> str:
    if not file.exists():
        return f"{NOT_MEASURED.capitalize()}: `python bench/gpu.py` needs a card.\n"
    found = json.loads(file.read_text())
    lines = [f"{found['device']}\n", "| | measured | goal |", "|---|---|---|"]
    for row in found["rows"]:
        value = row["value"]
        shown = NOT_MEASURED if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value}"
        lines.append(f"| {row['name']} | {shown} {row['unit'] or ''} | {row['target'] or ''} |")
    return "\n".join(lines) + "\n"


HEAD = """# Benchmarks

samcli beside the reference package, `segment-anything` (for MobileSAM's architecture `mobilesam-mirror`):
fp32 on the CPU, the same weights, the same photo, the same outputs. `make bench` wrote this page from its
results.
"""

TABLE_NOTES = """
*median* and *worst* are over the rounds: how many times faster samcli is than the reference in the same
round; seconds; or how many times the seconds that the encoder's floating-point operations would take at the
best speed of a matrix product in the same round, by torch.mm or by oneDNN (samcli's linear layers use the
latter; on CPUs other than Intel's it is up to twice as fast, and part of every ratio here). *reached* is
about the median: yes, the aim, or no. Seconds and memory are medians; memory is the peak of the whole
process, with Python, torch and the model in it. Everything mode is with 16x16 points where nothing else is
said.
"""

OUTPUT_NOTES = f"""
Passed means: at least {100 * gate.EQUAL_SHARE:g} % of the masks equal to the pixel and with
equal boxes, the others at most {gate.MOST_PIXELS} pixels off, and a mask that only one side has within
{gate.NEAR:g} of a threshold (predicted IoU, stability, overlap of boxes). Features and logits: at most
{speed.NEAR_TENSORS:g} of the largest value apart.
"""

METHOD = f"""## How it is measured

- Every run is a process of its own, and samcli and the reference take turns at being the first. Importing,
  loading the model, decoding the photo's file and a first small pass over another photo come before the clock
  starts. Encoding the photo is within it: nothing timed reads an embedding or a result made before.
- *Everything mode* ends with the records and their RLEs on both sides. *Box prompts*: the reference takes 64
  boxes a call of `SamPredictor.predict_torch` and gives boolean arrays; samcli gives mask after mask by
  `predict_each`. *Post-processing alone* begins with what the decoder answered to 8x8 points, recorded
  before, and ends with the records.
- The weights are random, from a fixed seed, then scaled and shifted so that masks are local and differ in
  size and in predicted IoU (bench/calibrated.py); every mask comes out of the real network. Thresholds are
  quantiles of what the decoder says about the photo: {100 * calibrated.PASS_IOU:g} % of the masks pass the
  predicted IoU, {100 * calibrated.PASS_STABILITY:g} % of those the stability, and the overlap of boxes leaves
  about {calibrated.MASKS}. With trained weights the ratios may differ: the more masks fail the predicted IoU,
  the more samcli saves.
- The photo is examples/{calibrated.PHOTO.name}, scaled with Pillow.
- A matrix product before and after each round tells how much of the machine there is; a round during which it
  fell below {100 * speed.FALL:g} % of the usual is discarded and done again, {speed.TRIES} times at most.
- The reference runs without torchvision: its two box functions are stand-ins in Python
  (tests/oracle/reference.py), a small part of its time.

Run it again; stopped, it goes on where it was:

    make bench

One case, and the page from what is there:

    python bench/speed.py mobile-1 --rounds 5
    python bench/speed.py --report

Not measured: trained weights, macOS and Windows, other CPUs, more threads than there are cores, bf16 on the
CPU, and the time to import and to load a model.
"""

if __name__ == "__main__":
    main()
