"""Training where little is installed: torch, numpy, OpenCV and Pillow.

    python -m samcli.train pack DATA PACKED     where samcli is installed, with its extra `train`
    python -m samcli.train run PACKED -o OUT    elsewhere, with this source tree alone
    python -m samcli.train ship OUT             where samcli is installed

`run` leaves what it learned in OUT/checkpoint.pt, goes on from there, and stops after `--minutes`. Several
processes: torchrun --nproc_per_node N -m samcli.train run ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from samcli.errors import SamcliError
from samcli.train.log import Progress
from samcli.train.loop import averaged, fingerprint, ship, train
from samcli.train.packed import read_packed, write_packed
from samcli.train.recipe import CONFIG, SAMPLES, gather, scaled, started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.command(chosen)
    except SamcliError as error:
        _note(str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m samcli.train", description="Training where little is installed."
    )
    commands = parser.add_subparsers(required=True)
    pack = commands.add_parser("pack", help="training data as arrays, with what the edge teacher finds")
    pack.add_argument("data", type=Path, help="as `samcli train --data`")
    pack.add_argument("packed", type=Path)
    pack.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("runs/tiny"),
        help="where what the edge teacher finds is kept, as `samcli train` does; runs/tiny when left out",
    )
    pack.add_argument("--no-regions", action="store_true", help="without what the edge teacher finds")
    pack.add_argument("--no-guide", action="store_true", help="without its features, which are large")
    pack.set_defaults(command=_pack)
    run = commands.add_parser("run", help="train the embedded model's architecture on packed data")
    run.add_argument("packed", type=Path)
    run.add_argument("-o", "--output", type=Path, required=True)
    run.add_argument("--start", type=Path, help="a checkpoint.pt to begin with")
    run.add_argument("--minutes", type=float, help="stop after so many of training")
    run.add_argument("--samples", type=_count(1), help="photos to train on, in all")
    run.add_argument("--seed", type=_count(0), default=0)
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    run.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    run.add_argument("--workers", type=_count(0), default=0, help="processes that make samples")
    run.add_argument("--own-norms", action="store_true", help="as of samcli train")
    run.set_defaults(command=_run)
    shipped = commands.add_parser("ship", help="write OUT/model.safetensors from OUT/checkpoint.pt")
    shipped.add_argument("out", type=Path)
    shipped.set_defaults(command=lambda chosen: _note(f"weights: {ship(chosen.out)}"))
    return parser


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
        return int(text)

    return count


def _pack(chosen: argparse.Namespace) -> None:
    regions = not chosen.no_regions
    guide = regions and not chosen.no_guide
    packs = gather(chosen.data, chosen.output, regions=regions, guide=guide, note=_note)
    write_packed(packs, chosen.packed)


def _run(chosen: argparse.Namespace) -> None:
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SamcliError("there is no CUDA device here; use --device cpu")
    config = replace(
        CONFIG,
        stages=scaled(chosen.samples, CONFIG.stages) if chosen.samples else CONFIG.stages,
        seed=chosen.seed,
        bf16=chosen.dtype == "bf16",
        workers=chosen.workers,
        share_norms=not chosen.own_norms,
        device=chosen.device,
    )
    start = averaged(chosen.start) if chosen.start else None
    packs = read_packed(chosen.packed)
    begun = None if start is None else fingerprint(start)
    train(started(start), packs, SAMPLES, config, chosen.output, _show, minutes=chosen.minutes, begun=begun)


def _show(progress: Progress) -> None:
    _note(
        f"step {progress.step}/{progress.steps}  {progress.side} px  loss {progress.loss:.3f}  "
        f"IoU {progress.iou_first:.3f}, corrected {progress.iou_last:.3f}  "
        f"{progress.images_per_second:g} images/s"
    )


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
