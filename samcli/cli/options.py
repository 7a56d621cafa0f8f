"""Options that mean one thing in every command, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, and folders searched for images at any depth.", metavar="IMAGES_OR_DIRS..."
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
        "--device", metavar="DEVICE", help="auto, cpu, mps, cuda or cuda:N; auto takes a GPU if there is one."
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
Embeddings = Annotated[
    Path | None,
    typer.Option("--embeddings", metavar="DIR", help="Use the embeddings that `samcli embed -o DIR` wrote."),
]
