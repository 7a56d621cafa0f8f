"""Figures of text detectors on COCO-format sets with ground truth: does a name find the thing it names?

    python bench/ground.py COCO PETS [--detector NAME]... [--salient] [--limit N]

Each DIR holds annotations.json and images/. A photo is asked for one name at a time; boxes are cut out by
the embedded model. Prints a JSON line for each set and detector:

- recall: objects of which some mask has an IoU of at least 0.5, of a name that the photo has; mean over
  names with at least 8 objects in the set.
- ap50: average precision at IoU 0.5 of the masks (pycocotools), each name on the photos that have it.
- right, wrong, none: photos with two or more of these names, asked for each: the best mask lies mostly on
  an object of that name, of another name, or on none, or there is no mask.
- absent: names that a photo does not have (200 pairs, drawn with a fixed seed), share with any mask.
- other: with two names in the set (cat, dog), the photos asked for the one they do not have.

`--salient` adds what ignores the name: the salient thing, whatever was asked for. `--proposals` adds the
other way to use the same network: automatic masks, each compared with the word as a region.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

if TYPE_CHECKING:
    import torch

LEAST_OBJECTS = 8  # of a name, for its figures to count
ABSENT = 200  # pairs of a photo and a name that it does not have
ALSO_ABSENT = ["horse", "bicycle", "car", "pizza", "banana", "laptop", "clock", "umbrella", "chair", "bottle"]
"""Names that are added where a set has few of its own."""

Answers = list[tuple[dict, float]]  # RLE and score, best first
Ask = Callable[[str], Answers]
Prepare = Callable[[np.ndarray], Ask]
"""Looks at a photo (H, W, 3) uint8, and then answers names."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--detector", action="append", default=[], help="default: tiny")
    parser.add_argument("--salient", action="store_true", help="also the salient thing, whatever is asked")
    parser.add_argument(
        "--proposals", action="store_true", help="also automatic masks, compared with the word"
    )
    parser.add_argument("--limit", type=int, help="photos per set")
    args = parser.parse_args()
    ways: dict[str, tuple[Prepare, float]] = {}
    for name in args.detector or ["tiny"]:
        ways[name] = detector(name)
    if args.salient:
        ways["salient thing"] = salient()
    if args.proposals:
        ways["proposals"] = proposals()
    for folder in args.folders:
        for name, (prepare, threshold) in ways.items():
            line = {"set": folder.name, "detector": name, **figures(prepare, threshold, folder, args.limit)}
            print(json.dumps(line), flush=True)


def detector(name: str) -> tuple[Prepare, float]:
    import samcli
    from samcli.annotate import GroundConfig, detect, segment

    predictor, found_by = samcli.load(), samcli.load_detector(name, device="cpu")
    config = GroundConfig(box_threshold=0.02)

    def prepare(photo: np.ndarray) -> Ask:
        embedding = predictor.embed(photo)

        def ask(phrase: str) -> Answers:
            (found,) = detect(found_by, [photo], [phrase], config)
            masks = segment(predictor, embedding, found, [phrase])
            return [(mask.segmentation, float(mask.score or 0)) for mask in masks]

        return ask

    return prepare, found_by.thresholds.box


def salient() -> tuple[Prepare, float]:
    import samcli
    from samcli.cutout import CutoutConfig, find, load_finder

    predictor = samcli.load()
    finder = load_finder(predictor)

    def prepare(photo: np.ndarray) -> Ask:
        mask = find(predictor, photo, CutoutConfig(0), finder=finder)
        answers = [(mask.segmentation, float(mask.score or 0))] if mask else []
        return lambda phrase: answers

    return prepare, CutoutConfig.min_confidence


def proposals() -> tuple[Prepare, float]:
    """Automatic masks; the mean of the word head's cells within each is compared with the word."""
    import torch

    import samcli
    from samcli.automask import AutomaskConfig, generate
    from samcli.ground.tiny import SIDE, TinyDetector
    from samcli.masks import decode_rle, mask_nms

    predictor, found_by = samcli.load(), samcli.load_detector("tiny", device="cpu")
    assert isinstance(found_by, TinyDetector)
    head, vocabulary = found_by._head, found_by.vocabulary
    config = AutomaskConfig(points_per_side=16, pred_iou_thresh=0.2, stability_score_thresh=0.6)

    @torch.inference_mode()
    def prepare(photo: np.ndarray) -> Ask:
        masks = [mask for mask in generate(predictor, photo, config) if mask.area]
        cells = head.look(found_by._sam.image_encoder.stages(found_by._input(photo))).cells[0]
        rles = [mask.segmentation for mask in masks]
        shares = torch.stack([share(decode_rle(rle), SIDE) for rle in rles]) if masks else None
        quality = np.array([mask.predicted_iou for mask in masks])

        @torch.inference_mode()
        def ask(phrase: str) -> Answers:
            if shares is None:
                return []
            vector = torch.from_numpy(vocabulary.vectors[[vocabulary.place(phrase)]]).float()
            meant = head.meant(shares @ cells / shares.sum(1, keepdim=True).clamp(min=0.5))
            alike = head.scale[0].exp() * meant @ head.words(vector)[0] + head.bias[0]
            scores = np.sqrt(alike.sigmoid().numpy() * quality.clip(0, 1))
            return [(rles[i], float(scores[i])) for i in mask_nms(rles, scores, 0.5)]

        return ask

    return prepare, 0.3


def share(mask: np.ndarray, side: int) -> torch.Tensor:
    """How much of each cell of the head's padded input a mask (H, W) covers, (cells,)."""
    import torch

    from samcli.geometry import resized_size

    height, width = resized_size(mask.shape, side)
    padded = np.zeros((side, side), np.float32)
    padded[:height, :width] = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    return torch.from_numpy(padded.reshape(side // 16, 16, side // 16, 16).mean((1, 3)).reshape(-1))


def figures(prepare: Prepare, threshold: float, folder: Path, limit: int | None) -> dict[str, float | int]:
    from samcli import images

    data = json.loads((folder / "annotations.json").read_text())
    photos = data["images"][:limit]
    names = {category["id"]: category["name"].lower() for category in data["categories"]}
    objects: dict[int, list[tuple[str, dict]]] = {photo["id"]: [] for photo in photos}
    for annotation in data["annotations"]:
        if annotation["image_id"] in objects and not annotation.get("iscrowd"):
            name = names[annotation["category_id"]]
            objects[annotation["image_id"]].append((name, annotation["segmentation"]))
    counts = Counter(name for found in objects.values() for name, _ in found)
    counted = sorted(name for name, count in counts.items() if count >= LEAST_OBJECTS)
    absent = absent_pairs(objects, sorted({*counts, *(ALSO_ABSENT if len(counts) < 20 else ())}))
    recall: dict[str, list[bool]] = {name: [] for name in counted}
    answered: list[tuple[int, str, Answers]] = []
    choice: Counter[str] = Counter()
    false_alarms, other = [], []
    for photo in photos:
        here = objects[photo["id"]]
        mine = [name for name in counted if any(name == n for n, _ in here)]
        ask = prepare(images.load(folder / "images" / photo["file_name"]))
        for name in mine:
            answers = ask(name)
            answered.append((photo["id"], name, answers))
            sure = [rle for rle, score in answers if score > threshold]
            recall[name] += [best_iou(sure, rle) >= 0.5 for n, rle in here if n == name]
            if len(mine) > 1:
                choice[chosen(sure, name, here)] += 1
        false_alarms += [any(s > threshold for _, s in ask(name)) for name in absent[photo["id"]]]
        if len(counted) == 2 and len(mine) == 1:
            (wrong,) = set(counted) - set(mine)
            other.append(any(score > threshold for _, score in ask(wrong)))
        print(f"\r{folder.name} {len(answered)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    line = {
        "photos": len(photos),
        "names": len(counted),
        "recall": mean([mean(found) for found in recall.values()]),
        "ap50": mean([ap50(objects, answered, name) for name in counted]),
        "absent": mean(false_alarms),
    }
    if choice:
        line |= {kind: round(choice[kind] / choice.total(), 3) for kind in ("right", "wrong", "none")}
        line["asked of several"] = choice.total()
    if other:
        line["other"] = mean(other)
    return line


def absent_pairs(objects: dict[int, list[tuple[str, dict]]], names: Sequence[str]) -> dict[int, list[str]]:
    """Names by photo that it has no object of."""
    rng = np.random.default_rng(0)
    pairs: dict[int, list[str]] = {photo: [] for photo in objects}
    ids = list(objects)
    for _ in range(ABSENT):
        photo = ids[int(rng.integers(len(ids)))]
        rest = [name for name in names if name not in {n for n, _ in objects[photo]}]
        pairs[photo].append(rest[int(rng.integers(len(rest)))])
    return pairs


def best_iou(found: list[dict], truth: dict) -> float:
    return float(mask_api.iou(found, [truth], [0]).max()) if found else 0.0


def chosen(sure: list[dict], name: str, here: list[tuple[str, dict]]) -> str:
    """What the best mask lies on: the object that holds most of it, at least half."""
    if not sure:
        return "none"
    inside = mask_api.iou(sure[:1], [rle for _, rle in here], [1] * len(here))[0]  # shares of the mask
    if inside.max() < 0.5:
        return "none"
    best = {here[i][0] for i in np.flatnonzero(inside > inside.max() - 1e-9)}
    return "right" if name in best else "wrong"


def ap50(
    objects: dict[int, list[tuple[str, dict]]], answered: list[tuple[int, str, Answers]], name: str
) -> float:
    asked = [(photo, answers) for photo, asked, answers in answered if asked == name]
    truth, found, sizes = [], [], {}
    for photo, answers in asked:
        for n, rle in objects[photo]:
            sizes[photo] = rle["size"]
            if n == name:
                area = float(mask_api.area(rle))
                entry = {"id": len(truth) + 1, "image_id": photo, "category_id": 1, "iscrowd": 0}
                box = list(mask_api.toBbox(rle))
                truth.append({**entry, "segmentation": rle, "area": area, "bbox": box})
        found += [
            {"image_id": photo, "category_id": 1, "segmentation": r, "score": s} for r, s in answers[:100]
        ]
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": photo, "height": h, "width": w} for photo, (h, w) in sizes.items()],
            "categories": [{"id": 1}],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, 0, 0, -1]  # recall steps; all areas, 100 detections
    return float(precision[precision > -1].mean())


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3) if len(values) else 0.0


if __name__ == "__main__":
    main()
