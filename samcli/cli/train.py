"""`samcli train`: the embedded model, its heads, or any model's decoder, from COCO-format data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samcli.cli.options import Device, ImagesFolder, Json, Model, Quiet, Threads
from samcli.cli.report import Report, UsageError, json_line, write_stdout

if TYPE_CHECKING:
    from samcli.train.loop import Progress


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            help="A folder with annotations.json (COCO instances) and images/, or one of such folders or "
            "tar files; for the recipe decoder also a COCO file.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for checkpoint, log and weights; runs/RECIPE when left out.",
        ),
    ] = None,
    recipe: Annotated[
        Literal["tiny", "salient", "detector", "decoder"],
        typer.Option(
            "--recipe",
            help="The embedded model's architecture; a head over it, for `cutout` or for `ground`; or the "
            "decoder of any model, to fit it to your photos.",
        ),
    ] = "tiny",
    model: Model = None,
    images: ImagesFolder = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, metavar="N", help="Photos to train on, in all; the recipe's when left out."
        ),
    ] = None,
    regions: Annotated[
        bool, typer.Option("--regions/--no-regions", help="Also teach regions that an edge network finds.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples and the first weights.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes that make samples.")
    ] = 0,
    dtype: Annotated[
        Literal["bf16", "fp32"], typer.Option("--dtype", help="Precision of the products.")
    ] = "bf16",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a small Sam, a head of the embedded one, or any model's decoder; run it again to continue.

    -m and --images are for the recipe decoder. Use the weights with `-m DIR/model.safetensors`. Several
    processes, for the recipe tiny: torchrun --nproc_per_node N -m samcli train ...
    """
    import torch

    from samcli.predictor import find_device
    from samcli.train import decoder, naming, salient
    from samcli.train.loop import TrainConfig
    from samcli.train.recipe import STAGES, scaled, train_tiny

    if recipe != "decoder":
        for name in ("images", "model"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(f"--{name} goes with --recipe decoder; {recipe} takes none")
    if threads:
        torch.set_num_threads(threads)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started: it alone reports
    report = Report(quiet=quiet or not first, json=json)
    folder = out or Path("runs") / recipe
    own = {"salient": salient.CONFIG, "detector": naming.CONFIG, "decoder": decoder.CONFIG}
    usual = own.get(recipe, TrainConfig(STAGES))
    config = replace(
        usual,
        stages=scaled(samples, usual.stages) if samples else usual.stages,
        seed=seed,
        workers=workers,
        bf16=dtype == "bf16",
        device=str(find_device(device)),
    )

    def show(progress: Progress) -> None:
        what = {"salient": None, "detector": "above absent words"}.get(recipe, "corrected")
        corrected = f", {what} {progress.iou_last:.3f}" if what else ""
        report.note(
            f"step {progress.step}/{progress.steps}  {progress.side} px  loss {progress.loss:.3f}  "
            f"IoU {progress.iou_first:.3f}{corrected}  "
            f"{progress.images_per_second:g} images/s"
        )

    if recipe == "salient":
        weights = salient.train_salient(data, folder, config=config, report=show, note=report.note)
    elif recipe == "detector":
        weights = naming.train_detector(data, folder, config=config, report=show, note=report.note)
    elif recipe == "decoder":
        weights = decoder.train_decoder(
            data, folder, model=model, images=images, config=config, report=show, note=report.note
        )
    else:
        weights = train_tiny(data, folder, regions=regions, config=config, report=show, note=report.note)
    report.note(f"weights: {weights}")
    if json and first:
        write_stdout(json_line({"weights": str(weights), "recipe": recipe, "steps": config.steps}))
