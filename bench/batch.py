"""What the batch engine costs beside the model, whether decoding overlaps it, and whether memory stays flat.

    python bench/batch.py time [--photos DIR] [--turns 4]
    python bench/batch.py memory [--counts 200 2000]
    python bench/batch.py large [--size 20000x15000]
    python bench/batch.py list [--count 100000]

Needs nothing but the package; photos default to examples/. Every run is a process of its own, one after the
other, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
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


ALONE = """
import json, sys, time
from pathlib import Path
import samcli
from samcli import images
command, folder, threads = sys.argv[1:]
photos = sorted(Path(folder).iterdir())
start = time.perf_counter()
pixels = [images.load(path) for path in photos]
decoding = time.perf_counter() - start
predictor = samcli.load(device="cpu", threads=int(threads))
work = samcli.automask if command == "automask" else lambda p, picture: p.embed(picture)
start = time.perf_counter()
for picture in pixels:
    work(predictor, picture)
print(json.dumps([time.perf_counter() - start, decoding]))
"""


def model_alone(command: str, folder: str, threads: int) -> tuple[float, float]:
    """Seconds of the model for decoded photos, and of decoding them, in a plain loop."""
    arguments = [sys.executable, "-c", ALONE, command, folder, str(threads)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    model, decoding = json.loads(done.stdout)
    return model, decoding


def compare_time(folder: Path, turns: int) -> None:
    """The engine against a plain loop over decoded photos: the best of a few runs each, taken in turn."""
    originals = sorted(path for path in folder.rglob("*.jpg"))
    head = ("threads", "photos", "wide", "decoding", "model", "engine", "over model")
    print(f"{'command':10}", *(f"{name:>10}" for name in head))
    for command, threads, copies, width in (
        ("automask", 2, 7, 0),
        ("embed", 1, 120, 0),
        ("embed", 2, 120, 0),
        ("embed", 2, 60, 3000),
    ):
        with tempfile.TemporaryDirectory() as place:
            photos = Path(place) / "photos"
            photos.mkdir()
            for i in range(copies):
                image = Image.open(originals[i % len(originals)]).convert("RGB")
                if width:
                    image = image.resize((width, width * image.height // image.width))
                image.save(photos / f"{i:04}.jpg", quality=90)
            alone, decode, whole = [], [], []
            for turn in range(turns):
                model, decoding = model_alone(command, str(photos), threads)
                options = ("-o", f"{place}/out{turn}", "--threads", str(threads), "--device", "cpu")
                summary, _ = measured(command, str(photos), *options)
                alone.append(model)
                decode.append(decoding)
                whole.append(summary["seconds"]["total"])  # type: ignore[index]
        model, decoding, engine = (min(v) for v in (alone, decode, whole))
        seconds = (f"{v:.2f} s" for v in (decoding, model, engine))
        row = (threads, copies, width or "as is", *seconds, f"{100 * (engine / model - 1):+.1f} %")
        print(f"{command:10}", *(f"{value:>10}" for value in row), flush=True)


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
    """Peak RSS and seconds for one large JPEG with 3x3 points, with the default limit on pixels."""
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            width, height = (int(edge) for edge in size.split("x"))
            photo = Path(place) / f"{size}.jpg"
            Image.open(EXAMPLES / "coffee.jpg").resize((width, height)).save(photo)
            start = time.perf_counter()
            summary, peak = measured("automask", str(photo), "-o", f"{place}/out", "--points-per-side", "3")
            told = str(summary.get("error", "")).replace(f"{place}/", "") or f"{summary['masks']} masks"
            print(f"{size}: {told}; peak {peak:.0f} MB, {time.perf_counter() - start:.0f} s")


def look_at_list(count: int) -> None:
    """Seconds and memory of going through a folder of many (empty) files before any work."""
    from samcli.cli.inputs import Inputs

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:07}.jpg").touch()
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        Inputs((folder,), Path(place) / "out").check(lambda image: None)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{count} images: {time.perf_counter() - start:.1f} s, {1024 * grown / count:.0f} bytes each")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    timed = what.add_parser("time")
    timed.add_argument("--photos", type=Path, default=EXAMPLES)
    timed.add_argument("--turns", type=int, default=4)
    what.add_parser("memory").add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    what.add_parser("list").add_argument("--count", type=int, default=100_000)
    large = ["6000x4000", "12000x8000", "16000x12000", "20000x15000"]
    what.add_parser("large").add_argument("--size", nargs="+", default=large)
    args = parser.parse_args()
    if args.what == "time":
        compare_time(args.photos, args.turns)
    elif args.what == "memory":
        compare_memory(args.counts)
    elif args.what == "list":
        look_at_list(args.count)
    else:
        look_at_large(args.size)


if __name__ == "__main__":
    main()
