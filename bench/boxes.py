"""What reading a detector's boxes takes, and which mask of a box is the better one.

    python bench/boxes.py memory [--images 100000] [--boxes 10]
    python bench/boxes.py masks PHOTOS INSTANCES.json [-m tiny]

`memory` writes COCO results of that size, reads them and finds their images; beside it what json.load takes.
`masks` answers the boxes of COCO instances by the single mask that SAM has for clear prompts, and by the best
of three by predicted IoU, and compares both with the annotated masks.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco
from pycocotools.coco import COCO

READ = """
import resource, sys, time
from pathlib import Path, PurePosixPath
way, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if way == "json":
    import json
    load = lambda: json.loads(path.read_bytes())
else:
    from samcli.formats.boxes import read_boxes
    load = lambda: read_boxes(path).match(PurePosixPath(f"{i:012d}.jpg") for i in range(count))
before, start = peak(), time.perf_counter()
held = load()
print(f"{peak() - before:.0f} MB, {time.perf_counter() - start:.1f} s")
"""


def look_at_memory(images: int, boxes: int) -> None:
    """The memory that reading results adds to a process, at its peak."""
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        with path.open("w") as file:
            for row in range(images * boxes):
                bbox = [round(random.uniform(1, 300), 3) for _ in range(4)]
                result = {"image_id": row // boxes, "category_id": row % 80 + 1, "bbox": bbox}
                result["score"] = round(random.random(), 5)
                file.write(f"{',' if row else '['}{json.dumps(result)}")
            file.write("]")
        print(f"{images} images, {boxes} boxes each, {path.stat().st_size / 1e6:.0f} MB of JSON")
        for way, name in (("samcli", "read and found"), ("json", "json.load alone")):
            command = [sys.executable, "-c", READ, way, str(path), str(images)]
            print(f"{name}: {subprocess.check_output(command, text=True).strip()}")


def compare_masks(photos: Path, instances: Path, model: str) -> None:
    """The mean IoU of both masks with the annotated one, by size as COCO has it."""
    import samcli
    from samcli import images

    dataset, predictor = COCO(str(instances)), samcli.load(model)
    rows = []
    for image in dataset.loadImgs(dataset.getImgIds()):
        things = dataset.loadAnns(dataset.getAnnIds(image["id"], iscrowd=False))
        if not things:
            continue
        embedding = predictor.embed(images.load(photos / image["file_name"]))
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (thing["bbox"] for thing in things)]
        prompts = [samcli.Prompt(box=samcli.Box(*box)) for box in boxes]
        answers = [predictor.predict(embedding, prompts, multimask=many) for many in (False, True)]
        for thing, one, three in zip(things, *answers, strict=True):
            truth = dataset.annToRLE(thing)
            masks = [coco.encode(np.asfortranarray(p.masks[0], np.uint8)) for p in (one, three)]
            rows.append([thing["area"], *coco.iou(masks, [truth], [0])[:, 0]])
    table = np.array(rows)
    for name, least, most in (
        ("all", 0, np.inf), ("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf),
    ):  # fmt: skip
        part = table[(table[:, 0] >= least) & (table[:, 0] < most)]
        single, best = part[:, 1:].mean(0)
        print(f"{name:7}{len(part):5} boxes   single {single:.3f}   best of three {best:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    memory = what.add_parser("memory")
    memory.add_argument("--images", type=int, default=100_000)
    memory.add_argument("--boxes", type=int, default=10)
    masks = what.add_parser("masks")
    masks.add_argument("photos", type=Path)
    masks.add_argument("instances", type=Path)
    masks.add_argument("-m", "--model", default="tiny")
    args = parser.parse_args()
    if args.what == "memory":
        look_at_memory(args.images, args.boxes)
    else:
        compare_masks(args.photos, args.instances, args.model)


if __name__ == "__main__":
    main()
