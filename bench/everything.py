"""Everything mode on photos with human partitions: mean best IoU per region, beside Felzenszwalb's regions.

    python bench/everything.py DIR [-m MODEL] [--limit N]

DIR holds annotations.json (each annotation with `annotator`) and images/, as the BSDS500 pack of the
developers. Every region of at least 1 % of the image counts, each annotator apart: its best IoU with any
mask. Felzenszwalb's regions (scikit-image) are tried at several scales; a single scale gives a partition,
so few masks; "same number" merges the scales until there are as many masks as ours. Prints one JSON line
per method.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from skimage.segmentation import felzenszwalb

import samcli
from samcli import images
from samcli.masks import decode_rle

SCALES = (50, 100, 200, 400, 800, 1600)
MIN_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--limit", type=int, help="photos")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    predictor = samcli.load(args.model, threads=args.threads)
    data = json.loads((args.folder / "annotations.json").read_text())
    rows: dict[str, list[tuple[float, int, float]]] = {}
    for number, image in enumerate(data["images"][: args.limit]):
        photo = images.load(args.folder / "images" / image["file_name"])
        size = photo.shape[0] * photo.shape[1]
        truths = [
            decode_rle(a["segmentation"])
            for a in data["annotations"]
            if a["image_id"] == image["id"] and a["area"] >= MIN_SHARE * size
        ]
        began = time.perf_counter()
        ours = [decode_rle(m.segmentation) for m in samcli.automask(predictor, photo)]
        seconds = time.perf_counter() - began
        rows.setdefault(args.model, []).append((best(truths, ours), len(ours), seconds))
        merged: list[np.ndarray] = []
        for scale in SCALES:
            labels = felzenszwalb(photo, scale=scale, sigma=0.8, min_size=int(0.002 * size))
            regions = [labels == k for k in range(labels.max() + 1)]
            rows.setdefault(f"felzenszwalb {scale}", []).append((best(truths, regions), len(regions), 0.0))
            merged = regions + merged  # coarse first
        same = merged[: len(ours)]
        rows.setdefault("felzenszwalb, coarse to fine, same number", []).append(
            (best(truths, same), len(same), 0.0)
        )
        print(f"\r{number + 1}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for method, values in rows.items():
        score, masks, seconds = np.mean(values, axis=0)
        line = {"method": method, "mean_best_iou": round(score, 3), "masks": round(masks, 1)}
        print(json.dumps(line | ({"seconds": round(seconds, 2)} if seconds else {})), flush=True)


def best(truths: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Mean over the true regions of the best IoU with any mask."""
    if not masks:
        return 0.0
    flat = np.stack([m.ravel() for m in masks]).astype(np.float32)
    true = np.stack([t.ravel() for t in truths]).astype(np.float32)
    shared = true @ flat.T
    union = true.sum(1)[:, None] + flat.sum(1)[None] - shared
    return float((shared / np.maximum(union, 1)).max(1).mean())


if __name__ == "__main__":
    main()
