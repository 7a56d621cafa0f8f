"""What `samcli convert` costs on many records, whether memory stays flat, and what polygons lose.

    python bench/convert.py cost [--count 100000] [--formats coco yolo ...] [--folder DIR]
    python bench/convert.py polygons RECORDS

cost: records of 10 masks on small images, a thousand in a folder, written to each format and read back from
it, at a tenth of them and at all; every run is a process of its own. Prints a row for each: seconds, peak
RSS, megabytes written.
polygons: the masks above 32x32 pixels of what a run wrote, read back as pycocotools, as supervision (if it is
installed) and as tools that cut coordinates down to pixels (ultralytics) do; mean and worst IoU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from samcli.formats.names import image_id
from samcli.formats.polygons import corner_polygons, fill_contours, pixel_contour, polygons_rle
from samcli.formats.record import write_record
from samcli.formats.select import mask_of
from samcli.formats.table import FORMATS
from samcli.formats.trees import read_sa1b
from samcli.masks import decode_rle, encode_rle
from samcli.records import ImageRecord, InputFile, MaskRecord, Run

SIZE = (96, 128)
MASKS = 10
KINDS = 200  # different records; more would only cost time
READ_BACK = ("coco", "coco-results", "coco-panoptic", "jsonl", "labelmap", "labelme", "labelstudio", "yolo")

# Not ru_maxrss, which a process inherits from the one that starts it.
MEASURED = """
import sys
from pathlib import Path
from samcli.cli import main
code = main(sys.argv[1:])
print(next(int(l.split()[1]) / 1024 for l in Path("/proc/self/status").open() if l.startswith("VmHWM")))
sys.exit(code)
"""


def samcli(*words: object) -> tuple[float, float]:
    """Seconds of a run of samcli, and its peak RSS in MB."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)], check=False, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"samcli {' '.join(map(str, words))}: {done.stderr}")
    return seconds, float(done.stdout.splitlines()[-1])


def kinds() -> Iterator[tuple[MaskRecord, ...]]:
    """Masks of an image: rough ellipses, some with a hole."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(KINDS):
        masks = []
        for number in range(1, MASKS + 1):
            centre, radius = random.random(2) * SIZE, random.uniform(4, 30, 2)
            distance = np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1])
            bits = (distance < 1 + random.normal(0, 0.05, SIZE)) & (distance > 0.3 * (number % 3 == 0))
            bits[int(min(centre[0], SIZE[0] - 1)), int(min(centre[1], SIZE[1] - 1))] = True
            score = float(random.random())
            mask = mask_of(encode_rle(bits), id=number, category=f"thing {number % 4}", score=score)
            masks.append(replace(mask, predicted_iou=score, stability_score=0.95))
        yield tuple(masks)


def make(records: Path, photos: Path, start: int, end: int) -> None:
    """Records and photos of these numbers, a thousand in a folder."""
    run = Run("automask", "0", "tiny", "0" * 64, {"points_per_side": 32}, "0" * 64)
    some = list(kinds())
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Image.new("RGB", SIZE[::-1]).save(file, "JPEG")
        photo = Path(file.name).read_bytes()
    for number in range(start, end):
        name = PurePosixPath(f"{number // 1000:04}/{number:07}.jpg")
        record = ImageRecord(
            run,
            InputFile(str(name), 1, "0" * 64),
            image_id(name),
            SIZE[1],
            SIZE[0],
            str(name),
            some[number % KINDS],
        )
        write_record(records / name.with_suffix(".json"), record)
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(photo)


def size(place: Path) -> float:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6


def cost(count: int, formats: list[str], folder: Path | None) -> None:
    rows: dict[str, dict[int, tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        records, photos, before = Path(work) / "records", Path(work) / "photos", 0
        for number in (count // 10, count):
            make(records, photos, before, number)
            before = number
            for name in formats:
                place = Path(work) / name
                place.mkdir()
                needs = FORMATS[name].needs_photos or FORMATS[name].read_needs_photos
                images = ("--images", photos) if needs else ()
                told = samcli("convert", records, "--to", name, "-o", place, "-q", *images)
                row(rows, f"to {name}", number, (*told, size(place)))
                if name in READ_BACK:
                    file = FORMATS[name].file
                    back = Path(work) / "back.jsonl"
                    source = place / file if file else place
                    told = samcli(
                        "convert", source, "--from", name, "--to", "jsonl", "-o", back, "-q", *images
                    )
                    row(rows, f"from {name}", number, (*told, back.stat().st_size / 1e6))
                    back.unlink()
                shutil.rmtree(place)
    print(f"| | {count // 10} | {count} | a record | growth |\n|---|---|---|---|---|")
    for what, (few, all_) in ((w, tuple(r.values())) for w, r in rows.items()):
        print(
            f"| {what} | {few[0]:.0f} s, {few[1]:.0f} MB | {all_[0]:.0f} s, {all_[1]:.0f} MB "
            f"| {1000 * all_[0] / count:.1f} ms | {all_[1] - few[1]:+.1f} MB |"
        )


def row(rows: dict[str, Any], what: str, number: int, told: tuple[float, float, float]) -> None:
    rows.setdefault(what, {})[number] = told
    print(
        f"{what:20} {number:7} {told[0]:8.1f} s {told[1]:7.1f} MB {told[2]:8.0f} MB written", file=sys.stderr
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def polygons(place: Path) -> None:
    found: dict[str, list[float]] = {}
    for item in read_sa1b(place, None):
        for mask in item.record.annotations:  # type: ignore[union-attr]
            if mask.area <= 32 * 32:
                continue
            bits = decode_rle(mask.segmentation)
            rings, contour = corner_polygons(bits), pixel_contour(bits)
            filled = polygons_rle([ring.ravel().tolist() for ring in rings], bits.shape)
            note = found.setdefault
            note("coco --polygons, pycocotools", []).append(iou(coco.decode(filled).astype(bool), bits))
            note("coco --polygons, drawn with its line", []).append(
                iou(fill_contours(rings, bits.shape), bits)
            )
            shares = (contour + 0.25) / bits.shape[::-1]
            shares = np.array([[float(f"{v:.7f}") for v in point] for point in shares])
            points = shares * bits.shape[::-1]
            note("yolo, cut down to pixels", []).append(iou(fill_contours([points], bits.shape), bits))
            note("yolo, rounded", []).append(iou(fill_contours([np.round(points)], bits.shape), bits))
            try:
                from supervision import polygon_to_mask
            except ImportError:
                continue
            wh = bits.shape[::-1]
            drawn = [polygon_to_mask(np.round(ring).astype(int), wh).astype(bool) for ring in rings]
            note("coco --polygons, supervision", []).append(iou(np.any(drawn, axis=0), bits))
            drawn_one = polygon_to_mask(np.round(points).astype(int), wh).astype(bool)
            note("yolo, supervision", []).append(iou(drawn_one, bits))
    print("| read back | masks | mean IoU | worst | below 0.99 |\n|---|---|---|---|---|")
    for what, values in found.items():
        below = sum(value < 0.99 for value in values)
        print(f"| {what} | {len(values)} | {np.mean(values):.5f} | {min(values):.4f} | {below} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    costs = what.add_parser("cost")
    costs.add_argument("--count", type=int, default=100_000)
    costs.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    costs.add_argument("--folder", type=Path, help="where the temporary folder goes")
    what.add_parser("polygons").add_argument("records", type=Path)
    args = parser.parse_args()
    if args.what == "cost":
        cost(args.count, args.formats, args.folder)
    else:
        polygons(args.records)


if __name__ == "__main__":
    main()
