"""`samcli cutout` on photos with one salient thing each, beside what needs no learning.

    python bench/cutout.py DIR

DIR holds images/ and annotations.json (COCO instances; the union of a photo's masks is the thing). Prints a
JSON line for each way: mean IoU, mean IoU within a band around the true edge (2 % of the long side to either
side), photos in which nothing was found, seconds a photo. `--without` adds our cut-out without the second
look and without the step to the photo's edges; `--second MODEL` lets a model cut out what was found, as with
-m, and prompted by boxes alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

import samcli
from samcli import images
from samcli.cutout import find, load_finder
from samcli.masks import decode_rle

CENTRE = 0.8  # of the width and of the height: the box that grabCut gets
BAND = 0.02  # of the long side

inside = sys.modules["samcli.cutout"]  # `samcli.cutout` itself is the function
Way = Callable[[np.ndarray], np.ndarray | None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="photos")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--min-confidence", type=float, default=samcli.CutoutConfig.min_confidence)
    parser.add_argument("--without", action="store_true", help="also ours with parts left out")
    parser.add_argument("--second", metavar="MODEL", help="also with this model cutting out")
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    photos = load_photos(args.folder, args.limit)
    for name, way in ways(args).items():
        print(json.dumps({"set": args.folder.name, "way": name, **figures(way, photos)}), flush=True)


def ways(args: argparse.Namespace) -> dict[str, Way]:
    config = samcli.CutoutConfig(args.min_confidence)
    tiny = samcli.load("tiny", threads=args.threads)
    finder = load_finder(tiny)

    def ours(image: np.ndarray) -> np.ndarray | None:
        mask = find(tiny, image, config, finder=finder)
        return None if mask is None else decode_rle(mask.segmentation)

    def changed(name: str, value: object) -> Way:
        def way(image: np.ndarray) -> np.ndarray | None:
            with mock.patch(f"samcli.cutout.{name}", value):
                return ours(image)

        return way

    found: dict[str, Way] = {"cutout": ours}
    if args.without:
        found["cutout without the second look"] = changed("LOOK_SHARE", 0)
        found["cutout without the photo's edges"] = changed("_to_edges", only_resized)
    if args.second:
        second = samcli.load(args.second)

        def cut(image: np.ndarray) -> np.ndarray | None:
            thing = inside._find(finder, image, None)
            if thing.confidence < config.min_confidence or not thing.mask.any():
                return None
            return inside._cut(second, second.embed(image), thing).mask

        def by_boxes(image: np.ndarray) -> np.ndarray | None:
            with mock.patch.object(second, "mask_prompt", return_value=None):
                return cut(image)

        found[f"{args.second} prompted by boxes and masks"] = cut
        found[f"{args.second} prompted by boxes"] = by_boxes
    if not args.only_ours:
        found["a rule over automatic masks"] = lambda image: rule(tiny, image)
        found[f"grabCut from the central {CENTRE:.0%} of width and height"] = grab_cut
        found["all white"] = lambda image: np.ones(image.shape[:2], bool)
    return found


def load_photos(folder: Path, limit: int | None) -> list[tuple[Path, np.ndarray, np.ndarray]]:
    """Each photo's file, its thing, and what of it counts."""
    data = json.loads((folder / "annotations.json").read_text())
    masks: dict[int, list[dict]] = {}
    for annotation in data["annotations"]:
        masks.setdefault(annotation["image_id"], []).append(annotation)
    photos = []
    for image in data["images"]:
        mine = masks.get(image["id"], [])
        if mine and (limit is None or len(photos) < limit):
            thing = np.logical_or.reduce([decode_rle(a["segmentation"]) for a in mine])
            ignored = [decode_rle(a["ignore"]) for a in mine if a.get("ignore")]
            counted = ~np.logical_or.reduce(ignored) if ignored else np.ones_like(thing)
            photos.append((folder / "images" / image["file_name"], thing, counted))
    return photos


def figures(way: Way, photos: list[tuple[Path, np.ndarray, np.ndarray]]) -> dict[str, float | int]:
    rows, nothing, seconds = [], 0, 0.0
    for number, (path, thing, counted) in enumerate(photos, 1):
        image = images.load(path)
        start = time.perf_counter()
        mask = way(image)
        seconds += time.perf_counter() - start
        if mask is None:
            nothing += 1
            mask = np.zeros_like(thing)
        rows.append((iou(mask, thing, counted), iou(mask, thing, counted & band(thing))))
        print(f"\r{number} of {len(photos)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    whole, edge = np.mean(rows, axis=0)
    return {
        "photos": len(photos),
        "mean_iou": round(float(whole), 3),
        "mean_iou_edge": round(float(edge), 3),
        "nothing_found": nothing,
        "seconds": round(seconds / len(photos), 3),
    }


def iou(mask: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> float:
    union = np.count_nonzero((mask | truth) & counted)
    return np.count_nonzero(mask & truth & counted) / union if union else 1.0


def band(thing: np.ndarray) -> np.ndarray:
    """Pixels near the edge of a mask; the picture's border is no edge."""
    reach = max(2, round(BAND * max(thing.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    bits = thing.astype(np.uint8)
    return cv2.dilate(bits, kernel) > cv2.erode(bits, kernel)


def only_resized(image: np.ndarray, mask: np.ndarray, radius: int) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5


def rule(predictor: samcli.Predictor, image: np.ndarray) -> np.ndarray | None:
    """The automatic mask that is best by predicted IoU, size, nearness to the centre, and distance from the
    border.
    """
    height, width = image.shape[:2]
    best, best_score = None, 0.0
    for record in samcli.automask(predictor, image):
        mask = decode_rle(record.segmentation)
        share = record.area / mask.size
        if not 0.01 < share < 0.8:
            continue
        ys, xs = np.nonzero(mask)
        off = np.hypot(ys.mean() / height - 0.5, xs.mean() / width - 0.5)
        rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
        score = record.predicted_iou * share**0.5 * float(np.exp(-((off / 0.25) ** 2))) * (1 - rim) ** 4
        if score > best_score:
            best, best_score = mask, score
    return best


def grab_cut(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    w, h = int(width * CENTRE), int(height * CENTRE)
    labels = np.zeros((height, width), np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(image[..., ::-1]),
        labels,
        ((width - w) // 2, (height - h) // 2, w, h),
        background,
        foreground,
        5,
        cv2.GC_INIT_WITH_RECT,
    )
    return (labels & 1) > 0


if __name__ == "__main__":
    main()
