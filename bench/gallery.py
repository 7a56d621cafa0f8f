"""What the page of `samcli view` costs: time, memory, size, and how soon a browser can use it.

    python bench/gallery.py [--images 2000] [--masks 60] [--keep DIR]

Makes records of photos cut from examples/ with round masks, half of them labelled. The browser's part is left
out unless Playwright's Python package and Chromium (/usr/bin/chromium, or $CHROMIUM) are there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from samcli.formats.names import image_id
from samcli.formats.record import write_error, write_record
from samcli.masks import encode_rle
from samcli.records import ImageRecord, InputFile, MaskRecord, Run

EXAMPLES = Path(__file__).parents[1] / "examples"
LABELS = ("person", "dog", "bicycle", "traffic light", "cup", "tree", "window", "sky", "chair", "book")
RUN = Run("automask", "0.1.0", "made up", "0" * 64, {}, "0" * 64)
SIZE = (480, 640)  # (height, width)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def some_masks(generator: np.random.Generator, count: int) -> tuple[MaskRecord, ...]:
    """Ellipses with wavy edges, as large as everything mode finds them."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = []
    for number in range(1, count + 1):
        radius = 6 * 25 ** generator.random()
        at = generator.random(2) * SIZE
        angle = np.arctan2(y - at[0], x - at[1])
        edge = radius * (1 + 0.2 * np.sin(generator.integers(2, 9) * angle + generator.random()))
        bits = np.hypot(1.3 * (y - at[0]), x - at[1]) < edge
        if not bits.any():
            bits[int(at[0]), int(at[1])] = True
        rle = encode_rle(bits)
        score = round(float(generator.random()), 6)
        label = LABELS[generator.integers(len(LABELS))] if number % 2 else None
        box = tuple(float(v) for v in coco.toBbox(rle))
        stable = float(generator.random())
        masks.append(
            MaskRecord(rle, box, int(bits.sum()), score, stable, number, category=label, score=score)
        )
    return tuple(masks)


def make(folder: Path, images: int, masks: int, *, failed: int = 0) -> tuple[Path, Path]:
    """Write photos and their records, and notes of failure; the folders of both.

    Of the mask sets only 20 differ, for the sake of time.
    """
    generator = np.random.default_rng(0)
    photos, records = folder / "photos", folder / "records"
    sets = [some_masks(generator, masks) for _ in range(min(20, images))]
    originals = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.rglob("*.jpg"))]
    for i in range(images):
        name = PurePosixPath(f"part{i // 500}", f"{i:05}.jpg")
        original = originals[i % len(originals)]
        part = 0.5 + 0.5 * generator.random()
        wide, tall = int(part * original.width), int(part * original.height)
        left, top = (int(generator.random() * v) for v in (original.width - wide, original.height - tall))
        photo = original.crop((left, top, left + wide, top + tall)).resize(SIZE[::-1])
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(photos / name, quality=90)
        source = InputFile(str(name), (photos / name).stat().st_size, "0" * 64)
        record = ImageRecord(RUN, source, image_id(name), SIZE[1], SIZE[0], str(name), sets[i % len(sets)])
        write_record(records / name.with_suffix(".json"), record)
    for i in range(failed):
        name = PurePosixPath("broken", f"{i:05}.jpg")
        write_error(records / name.with_suffix(".error.json"), RUN, name, None, f"{name} is empty (0 bytes)")
    return photos, records


def made(photos: Path, records: Path, page: Path) -> tuple[float, float, str]:
    """Seconds and peak memory in MB of `samcli view`, and what it said."""
    script = (
        "import resource, sys; from samcli.cli import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, "view", records, "--images", photos, "-o", page],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, float(done.stdout), done.stderr.strip().splitlines()[-1]


USABLE = (
    """() => [...document.querySelectorAll('.tile img')].some((img) => img.complete && img.naturalWidth)"""
)
FILTER = """() => {
    const start = performance.now();
    const score = document.getElementById('score');
    score.value = 0.5;
    score.dispatchEvent(new Event('input', { bubbles: true }));
    document.body.offsetHeight;
    return performance.now() - start;
}"""


def look(page: Path) -> None:
    """Open the page in Chromium and print how long things take."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("in a browser: not measured, Playwright is not installed")
        return
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        tab.wait_for_function(USABLE)
        usable = time.perf_counter() - start
        filtering = tab.evaluate(FILTER)
        tab.wait_for_load_state("load")
        loaded = time.perf_counter() - start
        longest = tab.evaluate(FILTER)
        memory = tab.evaluate("performance.memory?.usedJSHeapSize ?? 0") / 1e6
        print(f"first pictures after {usable:.1f} s, all read after {loaded:.1f} s")
        print(f"a filter: {filtering:.0f} ms while it is read, {longest:.0f} ms later; heap {memory:.0f} MB")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--masks", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="make everything here, and leave it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place)
        photos, records = make(folder, args.images, args.masks, failed=args.images // 100)
        page = folder / "gallery.html"
        seconds, peak, said = made(photos, records, page)
        size = page.stat().st_size / 1e6
        print(f"{said.split(' in ')[0]}: {seconds:.0f} s, peak {peak:.0f} MB; page {size:.1f} MB")
        look(page)


if __name__ == "__main__":
    main()
