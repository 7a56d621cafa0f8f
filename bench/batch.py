"""What the batch engine costs beside the model, whether decoding overlaps it, and whether memory stays flat.

    python bench/batch.py time [--photos DIR] [--count 60]
    python bench/batch.py memory [--counts 200 2000]
    python bench/batch.py large [--size 20000x15000]

Needs nothing but the package; photos default to examples/. Every run is a process of its own, one after the
other, on the CPU with all its cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def measured(*args: str) -> tuple[dict[str, float], float]:
    """Run samcli with --json; its summary and its peak RSS in MB."""
    script = (
        "import resource, sys; from samcli.cli import main; code = main(sys.argv[1:]);"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024; print(peak); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args, "--json"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        return {"code": done.returncode, "error": done.stderr.strip().splitlines()[-1]}, 0.0
    summary, peak = done.stdout.splitlines()
    return json.loads(summary), float(peak)


def model_alone(command: str, photos: list[Path]) -> tuple[float, float]:
    """Seconds of the model for decoded photos, and of decoding them, each alone in a plain loop."""
    import samcli
    from samcli import images

    start = time.perf_counter()
    pixels = [images.load(path) for path in photos]
    decoding = time.perf_counter() - start
    predictor = samcli.load()
    work = samcli.automask if command == "automask" else lambda p, picture: p.embed(picture)
    work(predictor, pixels[0])
    start = time.perf_counter()
    for picture in pixels:
        work(predictor, picture)
    return time.perf_counter() - start, decoding


def compare_time(folder: Path, count: int) -> None:
    """The engine against a plain loop over decoded photos: the best of five runs each, taken in turn."""
    originals = sorted(path for path in folder.rglob("*.jpg"))
    head = ("photos", "wide", "decoding", "model", "engine", "over model")
    print(f"{'command':10}", *(f"{name:>10}" for name in head))
    for command, copies, width in (
        ("automask", count // 8, 0),
        ("embed", count * 4, 0),
        ("embed", count, 3000),
    ):
        with tempfile.TemporaryDirectory() as place:
            photos = []
            for i in range(copies):
                photo = Path(place) / "photos" / f"{i:04}.jpg"
                photo.parent.mkdir(exist_ok=True)
                image = Image.open(originals[i % len(originals)]).convert("RGB")
                if width:
                    image = image.resize((width, width * image.height // image.width))
                image.save(photo, quality=90)
                photos.append(photo)
            alone, decode, whole = [], [], []
            for turn in range(5):
                model, decoding = model_alone(command, photos)
                out = f"{place}/out{turn}"
                summary, _ = measured(command, f"{place}/photos", "-o", out)
                alone.append(model)
                decode.append(decoding)
                whole.append(summary["seconds"]["total"])  # type: ignore[index]
        model, decoding, engine = (min(v) for v in (alone, decode, whole))
        share = 100 * (engine / model - 1)
        row = (
            copies,
            width or "as is",
            *(f"{v:.2f} s" for v in (decoding, model, engine)),
            f"{share:+.1f} %",
        )
        print(f"{command:10}", *(f"{value:>10}" for value in row))


def compare_memory(counts: list[int]) -> None:
    """Peak RSS after few and after many small images: 4x4 points, the embedded model."""
    peaks = []
    with tempfile.TemporaryDirectory() as place:
        folder, generator = Path(place) / "photos", np.random.default_rng(0)
        folder.mkdir()
        for i in range(max(counts)):
            noise = generator.integers(0, 256, (8, 12, 3)).astype(np.uint8)
            Image.fromarray(noise).resize((240, 160)).save(folder / f"{i:05}.jpg")
        for count in counts:
            names = Path(place) / "list"
            names.write_text("".join(f"{folder}/{i:05}.jpg\n" for i in range(count)))
            out = f"{place}/out{count}"
            options = ("--points-per-side", "4", "--pred-iou-thresh", "0.1", "--overlay")
            summary, peak = measured("automask", "--files-from", str(names), "-o", out, *options)
            peaks.append(peak)
            seconds = summary["seconds"]["total"]  # type: ignore[index]
            print(f"{count:6} images: peak {peak:7.1f} MB, {summary['masks']} masks, {seconds:.0f} s")
    print(f"change: {100 * (peaks[-1] / peaks[0] - 1):+.1f} %")


def look_at_large(sizes: list[str]) -> None:
    """Peak RSS and seconds for one large JPEG, with the default limit on pixels."""
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            width, height = (int(edge) for edge in size.split("x"))
            photo = Path(place) / f"{size}.jpg"
            Image.open(EXAMPLES / "coffee.jpg").resize((width, height)).save(photo)
            start = time.perf_counter()
            summary, peak = measured("automask", str(photo), "-o", f"{place}/out")
            told = summary.get("error") or f"{summary['masks']} masks"
            print(f"{size}: {told}; peak {peak:.0f} MB, {time.perf_counter() - start:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    timed = what.add_parser("time")
    timed.add_argument("--photos", type=Path, default=EXAMPLES)
    timed.add_argument("--count", type=int, default=60)
    what.add_parser("memory").add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    large = ["6000x4000", "12000x8000", "16000x12000", "20000x15000"]
    what.add_parser("large").add_argument("--size", nargs="+", default=large)
    args = parser.parse_args()
    if args.what == "time":
        compare_time(args.photos, args.count)
    elif args.what == "memory":
        compare_memory(args.counts)
    else:
        look_at_large(args.size)


if __name__ == "__main__":
    main()
