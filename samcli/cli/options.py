"""Options that mean one thing in every command, as annotated types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from samcli import batch
from samcli.cli.inputs import Inputs, parse_shard
from samcli.cli.report import UsageError
from samcli.errors import SamcliError
from samcli.formats.select import Flatten
from samcli.images import Chosen
from samcli.masks import Area, parse_area
from samcli.weights import DEFAULT_DETECTOR, DETECTOR_VARIABLE

Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, and folders searched for images at any depth.", metavar="[IMAGES_OR_DIRS...]"
    ),
]
FilesFrom = Annotated[
    Path | None,
    typer.Option(
        "--files-from",
        metavar="FILE|-",
        help="Also the images listed in FILE, or on standard input, one on each line.",
        rich_help_panel="Inputs",
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "-0",
        "--null",
        help="Names of --files-from end in NUL, as find -print0 writes them.",
        rich_help_panel="Inputs",
    ),
]
Include = Annotated[
    list[str],
    typer.Option(
        "--include",
        metavar="GLOB",
        help="Only images whose name, or path if there is a slash in it, fits. May be repeated.",
        rich_help_panel="Inputs",
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="No images or folders whose name, or path, fits. May be repeated.",
        rich_help_panel="Inputs",
    ),
]
MaxPixels = Annotated[
    str,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="Refuse larger images before they are decoded; 50M is 50 million pixels.",
        rich_help_panel="Inputs",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only part I, from 1, of N parts; each image is in one, by its path.",
        rich_help_panel="Runs",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Work on everything anew; replace what is there.", rich_help_panel="Runs"
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Try again also damaged files that have not changed since they failed.",
        rich_help_panel="Runs",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Work on a Ray cluster; without an address on that of this machine, started if there is none.",
        rich_help_panel="Runs",
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", envvar="SAMCLI_MODEL", metavar="NAME|FILE", show_default=False,
        help="A name from `samcli models`, or a checkpoint (.pth, .pt, .safetensors); tiny when left out.",
    ),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, mps, cuda, cuda:N, or all GPUs; auto takes a GPU if there is one.",
    ),
]
DType = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option("--dtype", help="Precision of the network; fp16 needs a GPU."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads; all cores when left out.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Name outputs by the paths of files below this folder, not by their names.",
    ),
]
KeepExtension = Annotated[
    bool, typer.Option("--keep-extension", help="Name outputs by full file names: a.jpg.json, not a.json.")
]
ImagesFolder = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="The folder that the photos lie in, as their paths begin there."
    ),
]
MinArea = Annotated[
    str | None,
    typer.Option(
        "--min-area",
        metavar="N|N%",
        help="Only masks of at least so many pixels, or such a share of the image.",
        rich_help_panel="Masks",
    ),
]
MaxArea = Annotated[
    str | None,
    typer.Option(
        "--max-area",
        metavar="N|N%",
        help="Only masks of at most so many pixels, or such a share of the image.",
        rich_help_panel="Masks",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score", metavar="X", help="Only masks of at least this score.", rich_help_panel="Masks"
    ),
]
FlattenOption = Annotated[
    Flatten,
    typer.Option(
        "--flatten",
        help="What lies on top where masks may not overlap: the smaller, the better, or the later.",
        rich_help_panel="Masks",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,...|@FILE",
        help="Names of the categories in their order, or a file with one on each line.",
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="FILE",
        help="A COCO dataset (instances) that numbers the images and categories.",
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        envvar=DETECTOR_VARIABLE,
        metavar="NAME|DIR",
        show_default=False,
        help="What finds the boxes: a name from `samcli models`, or a folder as transformers saves it; "
        f"{DEFAULT_DETECTOR} when left out.",
        rich_help_panel="Detector",
    ),
]
BoxThreshold = Annotated[
    float | None,
    typer.Option(
        "--box-threshold",
        metavar="X",
        show_default=False,
        help="Only boxes that score more than this, 0 to 1 (default: the detector's own).",
        rich_help_panel="Detector",
    ),
]
TextThreshold = Annotated[
    float | None,
    typer.Option(
        "--text-threshold",
        metavar="X",
        show_default=False,
        help="Grounding DINO: words of a phrase count above this, 0 to 1 (default: the detector's own).",
        rich_help_panel="Detector",
    ),
]
Nms = Annotated[
    float,
    typer.Option(
        "--nms",
        metavar="X",
        help="Drop the worse of two boxes of a phrase that overlap by a higher IoU; 1 keeps all.",
        rich_help_panel="Detector",
    ),
]
ClassAgnostic = Annotated[
    bool,
    typer.Option(
        "--class-agnostic",
        help="Boxes of different phrases drop each other too.",
        rich_help_panel="Detector",
    ),
]
Containment = Annotated[
    float | None,
    typer.Option(
        "--containment",
        metavar="X",
        help="Drop the worse of two boxes of which one holds more than this share of the other, such as "
        "0.8: parts of things, boxes around groups.",
        rich_help_panel="Detector",
    ),
]
MaxDetections = Annotated[
    int | None,
    typer.Option(
        "--max-detections",
        metavar="N",
        help="Only the N best of an image.",
        rich_help_panel="Detector",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="N",
        help="Also look at tiles of N x N pixels, for small things in large photos.",
        rich_help_panel="Detector",
    ),
]
Overlap = Annotated[
    float,
    typer.Option(
        "--overlap",
        metavar="X",
        help="Share of a tile that the next one shows too; more than the small things take up.",
        rich_help_panel="Detector",
    ),
]
Phrases = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,...|@FILE",
        help="What to look for: a comma list, or a file with one on each line.",
    ),
]
Embeddings = Annotated[
    Path | None,
    typer.Option("--embeddings", metavar="DIR", help="Use the embeddings that `samcli embed -o DIR` wrote."),
]


def inputs(
    images: Sequence[Path],
    output: Path,
    files_from: Path | None,
    null: bool,
    root: Path | None,
    keep_extension: bool,
    include: Sequence[str],
    exclude: Sequence[str],
    shard: str | None,
) -> Inputs:
    """What the options say of the input images. Raises UsageError."""
    return Inputs(
        tuple(images),
        output,
        files_from,
        null,
        root,
        keep_extension,
        Chosen(tuple(include), tuple(exclude)),
        None if shard is None else parse_shard(shard),
    )


def only_in_folders(
    overwrite: bool, retry_failed: bool, shard: str | None, ray: str | None, device: str
) -> None:
    """Refuse what is for runs into a folder. Raises UsageError."""
    if overwrite or retry_failed or shard is not None or ray is not None or device == "all":
        raise UsageError(
            "--overwrite, --retry-failed, --shard, --ray and --device all need a folder: -o DIR/"
        )


def area(text: str | None, option: str) -> Area | None:
    """What --min-area or --max-area says. Raises UsageError."""
    if text is None:
        return None
    try:
        return parse_area(text)
    except SamcliError as error:
        raise UsageError(f"{option} {error}") from error


def score(least: float | None) -> float | None:
    """What --min-score says. Raises UsageError."""
    if least is not None and not math.isfinite(least):
        raise UsageError(f"--min-score {least} is not a finite number")
    return least


def labels(text: str | None) -> tuple[str, ...]:
    """What --labels says: names, each once. Raises UsageError, or SamcliError for the file."""
    if text is None:
        return ()
    names = text.split(",")
    if text.startswith("@"):
        try:
            names = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SamcliError(f"{text[1:]} cannot be read: {reason}; check the path") from error
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--labels {text!r} " + ("names one category twice" if names else "names nothing"))
    return tuple(names)


def cluster(address: str | None, threads: int | None) -> batch.Ray | None:
    """What --ray says; a worker has as many CPUs as it may have threads, one if nobody says."""
    return None if address is None else batch.Ray(address or None, threads or 1)
