"""What annotating a few photos buys: mIoU on other photos of the kind against the number of photos that the
decoder was fine-tuned on.

    python bench/data_engine.py DIR -o OUT [-m tiny] [--counts 0,1,2,4,8,12] [--seeds 3] [--samples N]
        [--elsewhere DIR] [--everything]

DIR holds annotations.json (COCO instances) and images/. The photos in the order of their file names: the
first half (rounded up) may be annotated, the others are measured on. A seed shuffles the first half, and N
photos are the first N of it, so more photos include the fewer. What a person would annotate is taken from the
ground truth. Each fine-tuning is `samcli train --recipe decoder` with its defaults.

Measured are all annotated things, of whatever size: the mean IoU of the default mask for a click on the
deepest pixel, and for the true box; with --everything also what share of the things everything mode finds (a
mask with IoU of at least 0.5, each mask for one thing), and what share of its masks are things. The mean is
over the photos, each being the mean over its things. --elsewhere: a set of other things in the same form, to
see what is lost there (clicks and boxes; things of at least 32x32 pixels).

Writes OUT/curve.json and OUT/curve.png, and the weights of the runs below OUT. Run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np

import samcli
from samcli import images
from samcli.evaluate.metrics import deepest, iou
from samcli.masks import decode_rle
from samcli.records import Box, Prompt

LEAST_ELSEWHERE = 32 * 32  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--counts", default="0,1,2,4,8,12")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="of each fine-tuning; the recipe's when left out")
    parser.add_argument("--elsewhere", type=Path)
    parser.add_argument("--limit", type=int, help="photos of --elsewhere")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    annotated, measured = halves(args.folder)
    file = args.output / "curve.json"
    args.output.mkdir(parents=True, exist_ok=True)
    rows = json.loads(file.read_text())["runs"] if file.exists() else []
    done = {(row["photos"], row["seed"]) for row in rows}
    for seed in range(args.seeds):
        for count in map(int, args.counts.split(",")):
            if (count, seed) in done or (count == 0 and seed) or count > len(annotated):
                continue
            row = {"photos": count, "seed": seed}
            model = args.model
            if count:
                chosen = random.Random(seed).sample(annotated, len(annotated))[:count]
                run = args.output / f"{count}-{seed}"
                model, row["train_seconds"] = tuned(args, run, args.folder, chosen, seed)
                row["masks"] = sum(len(masks) for _, masks in chosen)
            predictor = samcli.load(model, threads=args.threads)
            row |= figures(predictor, measured, args.everything)
            if args.elsewhere:
                there = figures(predictor, things(args.elsewhere, LEAST_ELSEWHERE)[: args.limit], False)
                row |= {f"elsewhere_{name}": value for name, value in there.items()}
            print(json.dumps(row), flush=True)
            rows.append(row)
            about = {
                "model": args.model,
                "set": args.folder.name,
                "measured_photos": len(measured),
                "elsewhere": args.elsewhere.name if args.elsewhere else None,
                "threads": args.threads or os.cpu_count(),
            }
            file.write_text(json.dumps({**about, "runs": rows}, indent=1) + "\n")
    plot(json.loads(file.read_text()), args.output / "curve.png")


Photo = tuple[Path, list[dict]]


def things(folder: Path, least: int = 1) -> list[Photo]:
    """Photos and their annotations of at least `least` pixels, in the order of their file names."""
    data = json.loads((folder / "annotations.json").read_text())
    return [
        (folder / "images" / image["file_name"], found)
        for image in sorted(data["images"], key=lambda image: image["file_name"])
        if (
            found := [
                a
                for a in data["annotations"]
                if a["image_id"] == image["id"] and not a.get("iscrowd") and a["area"] >= least
            ]
        )
    ]


def halves(folder: Path) -> tuple[list[Photo], list[Photo]]:
    photos = things(folder)
    middle = (len(photos) + 1) // 2
    return photos[:middle], photos[middle:]


def tuned(
    args: argparse.Namespace, run: Path, folder: Path, chosen: list[Photo], seed: int
) -> tuple[str, float]:
    """Fine-tune on the chosen photos with the command; the weights, and the seconds it took."""
    from samcli.cli import main as command

    data = json.loads((folder / "annotations.json").read_text())
    names = {path.name for path, _ in chosen}
    kept = [image for image in data["images"] if image["file_name"] in names]
    ids = {image["id"] for image in kept}
    data |= {"images": kept, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}
    shutil.rmtree(run, ignore_errors=True)  # of a run that was stopped: its seconds are not known
    run.mkdir(parents=True)
    (run / "annotations.json").write_text(json.dumps(data))
    words = ["train", "--recipe", "decoder", "-m", args.model, "--data", run, "--images", folder / "images"]
    words += ["-o", run, "--seed", seed, "-q"]
    words += ["--samples", args.samples] if args.samples else []
    words += ["--threads", args.threads] if args.threads else []
    began = time.perf_counter()
    if code := command([str(word) for word in words]):
        sys.exit(code)
    return str(run / "model.safetensors"), round(time.perf_counter() - began, 1)


def figures(predictor: samcli.Predictor, photos: list[Photo], everything: bool) -> dict[str, float]:
    rows = []
    for path, drawn in photos:
        photo = images.load(path)
        embedding = predictor.embed(photo)
        truths = [decode_rle(annotation["segmentation"]) for annotation in drawn]
        counted = [
            ~decode_rle(a["ignore"]) if a.get("ignore") else np.ones_like(t)
            for a, t in zip(drawn, truths, strict=True)
        ]
        clicks = [Prompt([deepest(truth)[:2]], [1]) for truth in truths]
        row = {
            name: np.mean(
                [
                    iou(answer.masks[0], truth, where)
                    for answer, truth, where in zip(
                        predictor.predict_each(embedding, prompts), truths, counted, strict=True
                    )
                ]
            )
            for name, prompts in (("click", clicks), ("box", [Prompt(box=box_of(t)) for t in truths]))
        }
        if everything:
            found = [decode_rle(mask.segmentation) for mask in samcli.automask(predictor, photo)]
            hits = matched(truths, found)
            row |= {"found": hits / len(truths), "right": hits / max(len(found), 1), "made": len(found)}
        rows.append(row)
        print(f"\r{len(rows)}/{len(photos)} photos", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def box_of(mask: np.ndarray) -> Box:
    ys, xs = np.nonzero(mask)
    return Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))


def matched(truths: list[np.ndarray], masks: list[np.ndarray], least: float = 0.5) -> int:
    """How many things have a mask of their own with at least that IoU; the best pairs are matched first."""
    if not masks:
        return 0
    a = np.stack([t.ravel() for t in truths]).astype(np.float32)
    b = np.stack([m.ravel() for m in masks]).astype(np.float32)
    shared = a @ b.T
    each = shared / (a.sum(1)[:, None] + b.sum(1)[None] - shared)
    count = 0
    while each.max() >= least:
        i, j = np.unravel_index(int(each.argmax()), each.shape)
        each[i, :], each[:, j] = -1, -1
        count += 1
    return count


def plot(results: dict, file: Path) -> None:
    """The mean over the seeds, and from the least to the most, against the number of photos."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = results["runs"]
    counts = sorted({row["photos"] for row in rows})
    lines = {
        "box": ("a box", "#0072b2"),
        "click": ("one click", "#d55e00"),
        "found": ("everything mode: share found (IoU ≥ 0.5)", "#009e73"),
        "elsewhere_click": (f"one click, {results['elsewhere']} (not trained on)", "#7f7f7f"),
    }
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    places = range(len(counts))
    for name, (label, colour) in lines.items():
        values = [[row[name] for row in rows if row["photos"] == n and name in row] for n in counts]
        if not all(values):
            continue
        style = "--" if name.startswith("elsewhere") else "-"
        axes.plot(places, [np.mean(v) for v in values], style, color=colour, marker="o", ms=4, label=label)
        axes.fill_between(
            places, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0
        )
    axes.set(
        xticks=list(places),
        xticklabels=[str(n) for n in counts],
        ylim=(0, 1),
        xlabel="photos annotated",
        ylabel="mean IoU, share found" if any("found" in row for row in rows) else "mean IoU",
        title=f"{results['model']} on {results['set']}: {results['measured_photos']} photos measured on",
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
