"""Figures of a model on COCO-format sets with ground truth: mIoU of clicks and boxes, at the original
resolution.

    python bench/dev_sets.py DIR... [-m MODEL] [--limit N]

Each DIR holds annotations.json and images/. The first click is the deepest pixel of the mask (maximum of
its distance transform), the next ones the deepest pixel of the largest error; each sees the logits before
it as mask prompt. Objects smaller than 32x32 pixels, and those marked iscrowd, are left out. Prints one
JSON line per set.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

import samcli
from samcli import images
from samcli.masks import decode_rle
from samcli.records import Box

CLICKS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--limit", type=int, help="photos per set")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    predictor = samcli.load(args.model, threads=args.threads)
    for folder in args.folders:
        print(
            json.dumps({"set": folder.name, "model": args.model, **figures(predictor, folder, args.limit)}),
            flush=True,
        )


def figures(predictor: samcli.Predictor, folder: Path, limit: int | None) -> dict[str, float | int]:
    data = json.loads((folder / "annotations.json").read_text())
    by_image: dict[int, list[dict]] = {}
    for annotation in data["annotations"]:
        if not annotation.get("iscrowd") and annotation["area"] >= 32 * 32:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    rows: list[dict[str, float]] = []
    for image in data["images"][:limit]:
        photo = images.load(folder / "images" / image["file_name"])
        embedding = predictor.embed(photo)
        for annotation in by_image.get(image["id"], []):
            truth = decode_rle(annotation["segmentation"])
            ignore = annotation.get("ignore")
            counted = ~decode_rle(ignore) if ignore else np.ones_like(truth)
            rows.append(one_object(predictor, embedding, truth, counted))
        print(f"\r{folder.name} {len(rows)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    keys = rows[0].keys()
    return {"objects": len(rows), **{k: round(float(np.mean([r[k] for r in rows])), 3) for k in keys}}


def one_object(
    predictor: samcli.Predictor, embedding: samcli.Embedding, truth: np.ndarray, counted: np.ndarray
) -> dict[str, float]:
    row: dict[str, float] = {}
    points, labels = [deepest(truth)], [1]
    single, three = (
        predictor.predict(embedding, samcli.Prompt(points), multimask=multimask)
        for multimask in (False, True)
    )
    row["click_single"] = iou(single.masks[0], truth, counted)
    row["click"] = iou(three.masks[0], truth, counted)
    each = [iou(mask, truth, counted) for mask in three.masks]
    row["oracle"] = max(each)
    row["predicted_iou_error"] = float(np.abs(three.predicted_iou - each).mean())
    answer = three
    for number in range(2, CLICKS + 1):
        wrong = (answer.masks[0] != truth) & counted
        point = deepest(wrong)
        points, labels = [*points, point], [*labels, int(truth[int(point[1]), int(point[0])])]
        answer = predictor.predict(embedding, samcli.Prompt(points, labels, mask=answer.low_res_logits[0]))
        row[f"clicks_{number}"] = iou(answer.masks[0], truth, counted)
    ys, xs = np.nonzero(truth)
    box = Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    row["box"] = iou(predictor.predict(embedding, samcli.Prompt(box=box)).masks[0], truth, counted)
    return row


def deepest(mask: np.ndarray) -> tuple[float, float]:
    """The centre (x, y) of the pixel furthest from the mask's outside, the image's border counting as
    outside.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def iou(mask: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> float:
    union = np.count_nonzero((mask | truth) & counted)
    return np.count_nonzero(mask & truth & counted) / union if union else 1.0


if __name__ == "__main__":
    main()
