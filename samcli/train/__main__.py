"""Training where little is installed: torch, numpy, OpenCV and Pillow.

    python -m samcli.train pack DATA PACKED     where samcli is installed
    python -m samcli.train run PACKED -o OUT    elsewhere, with this source tree alone
    python -m samcli.train ship OUT             where samcli is installed

`run` leaves what it learned in OUT/checkpoint.pt, goes on from there, and stops after `--minutes`. Several
processes: torchrun --nproc_per_node N -m samcli.train run ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samcli.errors import SamcliError
from samcli.train.log import Progress
from samcli.train.loop import load_checkpoint, ship, train
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
    pack.add_argument("out", type=Path)
    pack.add_argument("--no-regions", action="store_true", help="without what the edge teacher finds")
    pack.add_argument("--no-guide", action="store_true", help="without its features, which are large")
    pack.set_defaults(command=_pack)
    run = commands.add_parser("run", help="train the embedded model's architecture on packed data")
    run.add_argument("packed", type=Path)
    run.add_argument("-o", "--output", type=Path, required=True)
    run.add_argument("--start", type=Path, help="a checkpoint.pt to begin with")
    run.add_argument("--minutes", type=float, help="stop after so many")
    run.add_argument("--samples", type=int, help="photos to train on, in all")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--device", default="cpu")
    run.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    run.add_argument("--workers", type=int, default=0, help="processes that make samples")
    run.add_argument("--own-norms", action="store_true", help="as of samcli train")
    run.set_defaults(command=_run)
    shipped = commands.add_parser("ship", help="write OUT/model.safetensors from OUT/checkpoint.pt")
    shipped.add_argument("out", type=Path)
    shipped.set_defaults(command=lambda chosen: _note(f"weights: {ship(chosen.out)}"))
    return parser


def _pack(chosen: argparse.Namespace) -> None:
    regions = not chosen.no_regions
    guide = regions and not chosen.no_guide
    packs = gather(chosen.data, chosen.out, regions=regions, guide=guide, note=_note)
    write_packed(packs, chosen.out)


def _run(chosen: argparse.Namespace) -> None:
    config = replace(
        CONFIG,
        stages=scaled(chosen.samples, CONFIG.stages) if chosen.samples else CONFIG.stages,
        seed=chosen.seed,
        bf16=chosen.dtype == "bf16",
        workers=chosen.workers,
        share_norms=not chosen.own_norms,
        device=chosen.device,
    )
    start = load_checkpoint(chosen.start)["ema"] if chosen.start else None
    packs = read_packed(chosen.packed)
    train(started(start), packs, SAMPLES, config, chosen.output, _show, minutes=chosen.minutes)


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
