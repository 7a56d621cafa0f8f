"""What needs no learning, on the datasets and by the protocols of `samcli evaluate`.

    python bench/yardsticks.py DATASET... -o OUT [--min-area N] [--masks EVALUATION]

Boxes: the filled true box, and OpenCV's grabCut from it (5 iterations). Where people drew partitions also
everything mode: Felzenszwalb's regions (each of several scales by itself, and all scales from coarse to fine
up to as many masks as samcli found, whose output folder EVALUATION names) and SLIC's superpixels (several
numbers), both of scikit-image. Writes OUT/yardsticks.json, and prints a JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb, slic

from samcli import images
from samcli.evaluate.figures import of_everything
from samcli.evaluate.metrics import iou
from samcli.evaluate.truth import Dataset, Photo, find_datasets, read_dataset
from samcli.formats.record import read_record
from samcli.formats.select import mask_of, record_of
from samcli.masks import decode_rle, label_rles, mask_bbox
from samcli.records import RLE, ImageRecord

SCALES = (50, 100, 200, 400, 800, 1600)
PIXELS = (25, 50, 100, 200, 400)  # superpixels
ITERATIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--min-area", type=int, default=0, help="pixels of things that count")
    parser.add_argument("--masks", type=Path, help="what samcli evaluate -p everything wrote")
    args = parser.parse_args()
    found = []
    for name, file in find_datasets(args.datasets).items():
        dataset = read_dataset(name, file)
        methods = boxes(dataset, args.min_area)
        if dataset.partitions:
            methods |= partitions(dataset, args.masks)
        for method, figures in methods.items():
            found.append({"dataset": name, "method": method, **figures})
            print(json.dumps(found[-1]), flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "yardsticks.json").write_text(json.dumps(found, indent=1) + "\n")


def boxes(dataset: Dataset, min_area: int) -> dict[str, dict[str, float]]:
    """Mean IoU of masks from true boxes."""
    rows = []
    for number, photo in enumerate(dataset.photos.values(), start=1):
        pixels = images.load(photo.path)
        for thing in photo.things:
            if thing.crowd or thing.area < min_area:
                continue
            truth = decode_rle(thing.segmentation)
            counted = ~decode_rle(thing.ignore) if thing.ignore else None
            x, y, w, h = mask_bbox(truth)
            filled = np.zeros_like(truth)
            filled[y : y + h, x : x + w] = True
            cut = grab_cut(pixels, (x, y, w, h))
            rows.append((iou(filled, truth, counted), iou(cut, truth, counted)))
        print(f"\r{dataset.name} {number}", end="", file=sys.stderr)
    print(file=sys.stderr)
    means = np.mean(rows, axis=0)
    names = ("filled box", "grabCut from the box")
    return {n: {"things": len(rows), "box": float(v)} for n, v in zip(names, means, strict=True)}


def grab_cut(pixels: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The foreground in a box (x, y, w, h), (H, W); nothing where OpenCV gives up."""
    labels = np.zeros(pixels.shape[:2], np.uint8)
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(
            cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), labels, box, *colours, ITERATIONS, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:  # a box as large as the photo leaves no background
        x, y, w, h = box
        labels[y : y + h, x : x + w] = cv2.GC_FGD
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def partitions(dataset: Dataset, masks: Path | None) -> dict[str, dict[str, float]]:
    """Figures of everything mode for regions that need no learning."""
    regions: dict[str, dict[PurePosixPath, list[RLE]]] = {}
    for path, photo in dataset.photos.items():
        pixels = images.load(photo.path)
        merged: list[RLE] = []
        for scale in SCALES:
            least = int(0.002 * photo.size[0] * photo.size[1])
            own = parts(felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=least))
            regions.setdefault(f"Felzenszwalb, scale {scale}", {})[path] = own
            merged = own + merged  # coarse first
        for count in PIXELS:
            regions.setdefault(f"SLIC, {count}", {})[path] = parts(slic(pixels, count, start_label=0))
        if masks:
            record = (masks / dataset.name / "everything" / path).with_suffix(".json")
            same = merged[: len(read_record(record).annotations)]
            regions.setdefault("Felzenszwalb, coarse to fine, as many masks as samcli", {})[path] = same
    return {method: of_everything(dataset, records(dataset, each)) for method, each in regions.items()}


def parts(labels: NDArray[np.integer]) -> list[RLE]:
    return list(label_rles(labels + 1).values())


def records(dataset: Dataset, regions: dict[PurePosixPath, list[RLE]]) -> Iterator[tuple[Photo, ImageRecord]]:
    """Regions as records; the larger ones score more, for want of anything better."""
    for path, rles in regions.items():
        photo = dataset.photos[path]
        pixels = photo.size[0] * photo.size[1]
        masks = [mask_of(rle) for rle in rles]
        scored = [mask_of(m.segmentation, score=m.area / pixels) for m in masks]
        yield photo, record_of(path, photo.size, scored)


if __name__ == "__main__":
    main()
