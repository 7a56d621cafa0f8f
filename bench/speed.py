"""samcli and the reference side by side on the CPU: seconds, memory, and whether the masks are the same.

    python bench/speed.py [CASE ...] [--rounds N] [-o DIR] [--small] [--report]

Each round of a case runs every program once, each in a process of its own, taking turns at being the first;
before and after it a matrix product tells how much of the machine there is. A round during which it fell by
more than a fifth is discarded and done again, a few times at most. The outputs of every round go through
bench/gate.py.

A finished round is a file below DIR and is not run again, unless the case or samcli's code has changed: stop
at any time and go on later. (DIR also holds the weights; when bench/calibrated.py changes, remove it.) Then
docs/benchmarks.md and its picture are written from what is there; --report does only this. --small is a quick
look at the gate alone, in a temporary folder: the times mean nothing.

Ends with status 1 when outputs differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

# The masks' comparison and no torch here: a child's peak memory begins with its parent's.
import gate
import numpy as np

ROOT = Path(__file__).parents[1]
FALL = 0.8  # of the matrix product: below it a round does not count
TRIES = 3
NEAR_TENSORS = 1e-4  # difference of features and logits, as a share of the largest value
BOTH = ("samcli", "reference")
PACKAGES = ("samcli", "torch", "numpy", "pillow", "pycocotools", "segment-anything", "mobilesam-mirror")
PEERS = ("transformers", "onnxruntime")


@dataclass(frozen=True)
class Case:
    """One row of the table, or one point of a plot.

    job: as in bench/timed.py. model: an architecture. size: of the photo, (width, height). points: of the
    grid, per side. layers: of crops. count: of boxes. goal: what least and aim are ("faster" than the
    reference, "seconds", or times the "floor" of matrix products). memory: the largest share of the
    reference's peak. flops: billions, of the encoder. passes: in one process, their median counts.
    rounds: None as many as asked for. plot: the figure it belongs to, and where it stands.
    """

    name: str
    title: str
    job: str
    model: str = "vit_t"
    threads: int = 2
    size: tuple[int, int] = (1800, 1200)
    points: int = 0
    layers: int = 0
    count: int = 0
    sides: tuple[str, ...] = BOTH
    goal: str = ""
    least: float = 0
    aim: float = 0
    memory: float = 0
    flops: float = 0
    passes: int = 1
    rounds: int | None = None
    plot: tuple[str, float] | None = None


def automask(name: str, title: str, **more: Any) -> Case:
    return Case(name, f"everything mode, {title}", "automask", **({"points": 16} | more))


MOBILE, VIT_B = "MobileSAM architecture, 1800x1200", "ViT-B, 1800x1200"
TABLE = (
    automask("mobile-1", f"{MOBILE}, 1 thread", threads=1, goal="faster", least=6, aim=10, memory=1 / 3),
    automask("mobile-2", f"{MOBILE}, 2 threads", goal="faster", least=5, aim=8),
    Case("postprocess", "post-processing alone, 64 points, 1500x2250, 1 thread", "postprocess", threads=1,
         size=(2250, 1500), points=8, passes=3, goal="faster", least=50, aim=100),
    Case("tiny", "everything mode, `tiny`, its own defaults, 1800x1200, 2 threads", "tiny", "tiny",
         sides=("samcli",), passes=3, goal="seconds", least=3, aim=1),
    Case("encoder-vit_t", "TinyViT encoder alone, fp32, 2 threads", "encoder", passes=3, flops=77.5,
         sides=(*BOTH, "onnxruntime"), goal="floor", least=1.6, aim=1.3),
    Case("encoder-vit_b", "ViT-B encoder alone, fp32, 2 threads", "encoder", "vit_b", flops=944,
         sides=(*BOTH, "transformers", "onnxruntime"), goal="floor", least=1.6, aim=1.3),
    automask("vit_b", f"{VIT_B}, 2 threads", model="vit_b", goal="faster", least=3, aim=5),
    automask("vit_b-crops", f"{VIT_B}, 1 crop layer, 8x8 points, 2 threads", model="vit_b", points=8,
             layers=1, goal="faster", least=3, aim=5),
    Case("boxes", "1,000 box prompts on one image, ViT-B, 1200x800, 2 threads", "boxes", "vit_b",
         size=(1200, 800), count=1000, goal="faster", least=3, aim=6),
    Case("points", "64 points to low-res logits, ViT-B with its encoder, 2 threads", "points", "vit_b",
         sides=(*BOTH, "transformers"), rounds=3),
    Case("postprocess-2", "post-processing alone, 64 points, 1500x2250, 2 threads", "postprocess",
         size=(2250, 1500), points=8, passes=3),
    automask("mobile-1-full", f"{MOBILE}, 32x32 points, 1 thread", threads=1, points=32, rounds=1,
             goal="faster", least=6, aim=10, memory=1 / 3),
    automask("mobile-2-full", f"{MOBILE}, 32x32 points, 2 threads", points=32, rounds=1,
             goal="faster", least=5, aim=8),
    automask("vit_b-full", f"{VIT_B}, 32x32 points, 2 threads", model="vit_b", points=32, rounds=1,
             goal="faster", least=3, aim=5),
    automask("vit_b-crops-full", f"{VIT_B}, 1 crop layer, 32x32 points, 2 threads", model="vit_b", points=32,
             layers=1, rounds=1, goal="faster", least=3, aim=5),
)  # fmt: skip
SCALING = (
    *(automask(f"points-{n}", f"{n}x{n} points", points=n, rounds=1, plot=("points", n))
      for n in (2, 4, 8, 16, 24)),
    *(automask(f"size-{w}", f"photo of {w}x{w * 2 // 3}", size=(w, w * 2 // 3), points=8, rounds=1,
               plot=("size", w * (w * 2 // 3) / 1e6)) for w in (600, 1200, 1800, 2400, 3000)),
    *(Case(f"boxes-{n}", f"{n} boxes", "boxes", count=n, rounds=1, plot=("boxes", n))
      for n in (1, 10, 100, 300, 1000)),
    *(automask(f"threads-{n}", f"{n} threads", threads=n, points=8, rounds=1, plot=("threads", n))
      for n in range(1, min(4, os.cpu_count() or 1) + 1)),
)  # fmt: skip
SMALL = (
    automask("small", "3x3 points, 1 crop layer, 600x400", points=3, layers=1, size=(600, 400), rounds=1),
    Case("small-boxes", "6 boxes, 600x400", "boxes", count=6, size=(600, 400), rounds=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(case.name for case in TABLE + SCALING)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all when left out, of {names}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    cases = SMALL if args.small else TABLE + SCALING
    if unknown := set(args.cases) - {case.name for case in cases}:
        parser.error(f"unknown case {', '.join(sorted(unknown))}; known: {', '.join(c.name for c in cases)}")
    chosen = [case for case in cases if not args.cases or case.name in args.cases]
    if args.small:
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(look(chosen, Path(folder)))
    wrong = 0 if args.report else measure(chosen, args.output.resolve(), args.rounds)
    command = [sys.executable, Path(__file__).with_name("speed_page.py"), args.output]
    sys.exit(subprocess.run(command, check=False).returncode or wrong)


def look(cases: list[Case], folder: Path) -> int:
    """Compare the outputs of the cases in as few processes as will do. Returns as `measure`."""
    # Thresholds from the whole photo do for its crops, which spares encoding them.
    made = children([needs(case, folder) | {"layers": 0} for case in cases], 2)
    for case, some in zip(cases, made, strict=True):
        if some["settings"]:
            some["settings"]["crop_n_layers"] = case.layers
    sides = {}
    for side in BOTH:
        specs = [
            spec_of(case, side, some | {"warm": None}, folder)
            | {"output": str(folder / f"{case.name}-{side}")}
            for case, some in zip(cases, made, strict=True)
        ]
        sides[side] = children(specs, 2)
    wrong = 0
    for number, (case, some) in enumerate(zip(cases, made, strict=True)):
        runs = {side: answers[number] for side, answers in sides.items()}
        for side in BOTH:
            (folder / f"{case.name}-{side}").rename(folder / f"{side}.npz")
        found = {"case": asdict(case), "round": 1, "runs": runs, "gate": gates(case, some, folder, runs)}
        say(found)
        wrong |= failed(found)
    return wrong


def measure(cases: list[Case], folder: Path, rounds: int) -> int:
    """Run what is not there yet. Returns 1 when any outputs differ, else 0."""
    (folder / "rounds").mkdir(parents=True, exist_ok=True)
    wrong = 0
    for case in cases:
        made: dict[str, Any] | None = None
        for number in range(1, (case.rounds or rounds) + 1):
            file = folder / "rounds" / f"{case.name}-{number}.json"
            found = finished(file, case)
            if found is None:
                try:
                    made = made or child(needs(case, folder))
                    found = round_of(case, number, made, folder)
                except ChildProcessError as error:  # such as out of memory; the other cases go on
                    print(f"{case.name} {number}: {error}", file=sys.stderr)
                    wrong = 1
                    break
                if found is None:
                    print(
                        f"{case.name} {number}: discarded; run it again when the machine is calm",
                        file=sys.stderr,
                    )
                    wrong = 1
                    continue
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(found, indent=1) + "\n")
                partial.replace(file)
            say(found)
            wrong |= failed(found)
    return wrong


def failed(found: dict[str, Any]) -> bool:
    return any(not result["passed"] for result in found["gate"].values())


def finished(file: Path, case: Case) -> dict[str, Any] | None:
    """The round in a file, unless it is of another case or of code that is no more."""
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    code = found["runs"]["samcli"]["modules"]
    if found["case"] != json.loads(json.dumps(asdict(case))) or found["bench"] != own_code():
        return None
    for name, sha256 in code.items():
        module = ROOT / name
        if not module.exists() or hashlib.sha256(module.read_bytes()).hexdigest() != sha256:
            return None
    return found


@cache
def own_code() -> str:
    """Of what decides about times and outputs beside samcli, which a change of makes stale."""
    files = (Path(__file__).with_name(name) for name in ("timed.py", "gate.py", "calibrated.py"))
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return hashlib.sha256(b"".join(f.read_bytes() for f in files) + str(versions).encode()).hexdigest()


def needs(case: Case, folder: Path) -> dict[str, Any]:
    """What bench/timed.py is told to prepare for a case."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    spec = {name: getattr(case, name) for name in ("model", "size", "points", "layers", "sides", "threads")}
    places = {"folder": str(weights), "peers": str(folder / "peers")}
    return spec | places | {"job": "prepare", "runs": case.job}


def spec_of(case: Case, side: str, made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What bench/timed.py is told to run for one side of a case."""
    spec = {name: getattr(case, name) for name in ("job", "model", "threads", "count", "passes")}
    places = {"peers": str(folder / "peers"), "output": str(folder / f"{side}.npz")}
    return made | spec | places | {"side": side}


def round_of(case: Case, number: int, made: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """One round that counts; none when the machine was busy at every try."""
    for tries in range(1, TRIES + 1):
        load = os.getloadavg()[0]
        before = probe(case.threads, folder)
        runs = {}
        for turn in range(len(case.sides)):
            side = case.sides[(turn + number - 1) % len(case.sides)]
            runs[side] = child(spec_of(case, side, made, folder))
        after = probe(case.threads, folder)
        usual = usual_probe(case.threads, folder)
        if min(before["median"], after["median"]) >= FALL * max(usual, before["median"]):
            break
        print(f"  {case.name} {number}: the machine was busy, try {tries}", file=sys.stderr)
    else:
        return None
    return {
        "case": asdict(case),
        "round": number,
        "tries": tries,
        "bench": own_code(),
        "load": load,
        "probe": {"before": before, "after": after},
        "machine": machine(),
        "runs": runs,
        "gate": gates(case, made, folder, runs),
    }


def gates(
    case: Case, made: dict[str, Any], folder: Path, runs: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What the comparison of each program's output with the reference's says."""
    outputs = {side: folder / f"{side}.npz" for side, run in runs.items() if "skipped" not in run}
    found: dict[str, dict[str, Any]] = {}
    if "reference" in outputs:
        theirs = outputs["reference"]
        for side, file in outputs.items():
            if side == "reference":
                continue
            if case.job in ("encoder", "points"):
                found[side] = near(file, theirs)
            else:
                settings = None if case.job == "boxes" else made["settings"]
                result = gate.compare(json.loads(file.read_text()), json.loads(theirs.read_text()), settings)
                found[side] = result.as_dict()
    for file in outputs.values():
        file.unlink()
    return found


def near(file: Path, theirs: Path) -> dict[str, Any]:
    """The largest difference of arrays as a share of the largest value."""
    with np.load(file) as ours, np.load(theirs) as others:
        share = max(
            float(np.abs(ours[name] - others[name]).max() / np.abs(others[name]).max()) for name in others
        )
    faults = [f"values differ by {share:.2g} of the largest"] if share > NEAR_TENSORS else []
    return {"difference": share, "faults": faults, "passed": not faults}


def child(spec: dict[str, Any]) -> dict[str, Any]:
    (answer,) = children([spec], spec["threads"])
    return answer


def children(specs: list[dict[str, Any]], threads: int) -> list[dict[str, Any]]:
    """What bench/timed.py prints for specs that it runs one after the other."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("timed.py"), json.dumps(specs)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(f"{done.stderr}\nbench/timed.py failed with {json.dumps(specs)}")
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def probe(threads: int, folder: Path) -> dict[str, float]:
    """The speed of a matrix product now, kept in the folder."""
    found = child({"job": "probe", "threads": threads})
    with (folder / "probes.jsonl").open("a") as file:
        file.write(json.dumps({"threads": threads, **found}) + "\n")
    return found


def usual_probe(threads: int, folder: Path) -> float:
    """The median of all probes with so many threads; 0 when there are none."""
    file = folder / "probes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    speeds = [row["median"] for row in rows if row["threads"] == threads]
    return statistics.median(speeds) if speeds else 0.0


def machine() -> dict[str, Any]:
    """CPU and versions."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *PEERS):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "versions": versions}


def say(found: dict[str, Any]) -> None:
    """One line about a round."""
    runs, case = found["runs"], found["case"]
    parts = [
        f"{side} {run['seconds']:.2f} s, {run['rss'] / 1e6:.0f} MB"
        for side, run in runs.items()
        if "skipped" not in run
    ]
    if "reference" in runs:
        parts.append(f"{runs['reference']['seconds'] / runs['samcli']['seconds']:.2f}x")
    for side, result in found["gate"].items():
        parts.append("same" if result["passed"] else f"{side}: " + "; ".join(result["faults"][:3]))
    print(f"{case['name']} {found['round']}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
