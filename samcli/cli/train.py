"""`samcli train`: the embedded model, its heads, or any model's decoder, from COCO-format data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samcli.cli.options import Device, ImagesFolder, Json, Quiet, Threads
from samcli.cli.report import Report, UsageError, json_line, write_stdout

if TYPE_CHECKING:
    from samcli.train.log import Progress

ONLY = {
    "images": ("decoder",),
    "teacher": ("distill",),
    "rounds": ("tiny", "decoder"),
    "dev": ("tiny", "decoder", "distill"),
    "accumulate": ("tiny",),
    "minutes": ("tiny",),
    "freeze_encoder": ("tiny",),
    "norms": ("tiny",),
}
"""Recipes that take an option; those that are not here take it all."""


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            help="A folder with annotations.json (COCO instances) and images/, or one of such folders or "
            "tar files; for decoder also a COCO file; for distill any folder of photos.",
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
        Literal["tiny", "salient", "detector", "decoder", "distill"],
        typer.Option(
            "--recipe",
            help="The embedded model's architecture; a head over it, for `cutout` or for `ground`; the "
            "decoder of any model, to fit it to your photos; or a small encoder after a large Sam's.",
        ),
    ] = "tiny",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="SAMCLI_MODEL",
            show_envvar=False,
            metavar="NAME|FILE",
            show_default=False,
            help="What to begin with: for decoder any model, tiny when left out; for tiny its own weights "
            "and for a head an earlier one, fresh ones when left out; for distill a model whose encoder "
            "goes on.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="NAME|FILE", help="For distill: the model to learn from."),
    ] = None,
    images: ImagesFolder = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, metavar="N", help="Photos to train on, in all; the recipe's when left out."
        ),
    ] = None,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions/--no-regions",
            help="Also teach what an edge network finds: regions, and what it says of each place.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples and the first weights.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes that make samples.")
    ] = 0,
    dtype: Annotated[
        Literal["bf16", "fp32"], typer.Option("--dtype", help="Precision of the products.")
    ] = "bf16",
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            metavar="N",
            help="Of each simulated interaction, the first prompt included; 11 as SAM was trained, two or "
            "three when left out.",
        ),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", min=1, metavar="N", help="Parts of a batch, one after the other: less memory."
        ),
    ] = 1,
    norms: Annotated[
        Literal["shared", "own"],
        typer.Option(
            "--norms",
            help="Of several processes: batch normalisation over all of them, as one alone would, or over "
            "each one's share, which is faster.",
        ),
    ] = "shared",
    freeze_encoder: Annotated[
        bool,
        typer.Option(
            "--freeze-encoder",
            help="With -m: the image encoder stays as it is, and what was learned over it remains good.",
        ),
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0, metavar="N", help="Stop after so many of training; run it again to go on."
        ),
    ] = None,
    dev: Annotated[
        Path | None,
        typer.Option(
            "--dev",
            metavar="DIR",
            help="A dataset, as --data, that is measured at every checkpoint: OUT/checks.csv.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log as event files of TensorBoard.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a small Sam, a head of the embedded one, or any model's decoder; run it again to continue.

    Use the weights with `-m DIR/model.safetensors`. Several
    processes, for the recipe tiny: torchrun --nproc_per_node N -m samcli train ...
    """
    import torch

    from samcli.cli.dev import checker
    from samcli.predictor import find_device
    from samcli.train import decoder, distill, naming, salient
    from samcli.train.recipe import CONFIG, scaled, train_tiny
    from samcli.weights import load_sam

    for name, recipes in ONLY.items():
        source = context.get_parameter_source(name)
        if recipe not in recipes and source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise UsageError(f"--{option} goes with --recipe {' or '.join(recipes)}; {recipe} takes none")
    if (source := context.get_parameter_source("model")) is not None and source.name == "ENVIRONMENT":
        model = model if recipe == "decoder" else None  # others begin with what is named here, or afresh
    if recipe == "distill" and teacher is None:
        raise UsageError("--recipe distill needs a model to learn from; name it with --teacher")
    if freeze_encoder and model is None:
        raise UsageError("--freeze-encoder goes with -m, which says whose encoder it is")
    if threads:
        torch.set_num_threads(threads)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started: it alone reports
    report = Report(quiet=quiet or not first, json=json)
    folder = out or Path("runs") / recipe
    modules = {"salient": salient, "detector": naming, "decoder": decoder, "distill": distill}
    usual = modules[recipe].CONFIG if recipe in modules else CONFIG
    config = replace(
        usual,
        stages=scaled(samples, usual.stages) if samples else usual.stages,
        seed=seed,
        workers=workers,
        bf16=dtype == "bf16",
        rounds=rounds,
        share_norms=norms == "shared",
        freeze_encoder=freeze_encoder,
        accumulate=accumulate,
        tensorboard=tensorboard,
        device=str(find_device(device)),
    )

    check = checker(dev, model or teacher) if dev and first else None

    def show(progress: Progress) -> None:
        what = {"salient": None, "distill": None, "detector": "above absent words"}.get(recipe, "corrected")
        corrected = f", {what} {progress.iou_last:.3f}" if what else ""
        report.note(
            f"step {progress.step}/{progress.steps}  {progress.side} px  loss {progress.loss:.3f}  "
            f"IoU {progress.iou_first:.3f}{corrected}  "
            f"{progress.images_per_second:g} images/s"
        )

    weights: Path | None
    if recipe == "salient":
        weights = salient.train_salient(
            data, folder, config=config, report=show, note=report.note, start=Path(model) if model else None
        )
    elif recipe == "detector":
        weights = naming.train_detector(
            data, folder, config=config, report=show, note=report.note, start=Path(model) if model else None
        )
    elif recipe == "distill":
        weights = distill.train_distilled(
            data,
            folder,
            teacher=str(teacher),
            model=model,
            config=config,
            report=show,
            note=report.note,
            check=check,
        )
    elif recipe == "decoder":
        weights = decoder.train_decoder(
            data,
            folder,
            model=model,
            images=images,
            config=config,
            report=show,
            note=report.note,
            check=check,
        )
    else:
        start = load_sam(model)[0].state_dict() if model else None
        weights = train_tiny(
            data,
            folder,
            regions=regions,
            config=config,
            report=show,
            note=report.note,
            check=check,
            start=start,
            minutes=minutes,
        )
    report.note(f"weights: {weights}" if weights else "stopped by --minutes; run it again to go on")
    if json and first:
        path = None if weights is None else str(weights)
        write_stdout(json_line({"weights": path, "recipe": recipe, "steps": config.steps}))
