"""`samcli predict`: masks for points, boxes and masks, one prompt or many, on one image or many."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from samcli import batch
from samcli.cli import options
from samcli.cli.answers import MakeWork, by_image, in_order
from samcli.cli.folder import run_folder
from samcli.cli.inputs import parse_pixels, parse_shard, stdin_pieces
from samcli.cli.model import ModelOptions
from samcli.cli.outputs import Asked, Folder, Format, Stream, check_room, image_name, target
from samcli.cli.prompts import STDIN, Request, from_lines, from_options
from samcli.cli.report import Report, UsageError, named, say_error, say_failures
from samcli.errors import SamcliError
from samcli.images import MAX_PIXELS

TERMINAL = "standard input is a terminal; name a file, or pipe one in"


def predict(
    image: Annotated[
        Path | None, typer.Argument(metavar="[IMAGE|-]", help="The image; - or nothing is standard input.")
    ] = None,
    point: Annotated[
        list[str],
        typer.Option(
            metavar="X,Y[,LABEL]",
            help="A point; label 1 foreground (default), 0 background. Repeated: one prompt together.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    box: Annotated[
        list[str],
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="A box. Repeated: a prompt each; a single one joins the points.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A mask to refine: a black and white picture, or what --logits saved."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", help="JSON Lines, a prompt each: id, image, points, labels, box, mask."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All three masks of a prompt, not only the best.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR|-",
            help="A .png, .json or .jsonl file, a folder for records, or - for a PNG on standard output.",
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format", help="The picture to write instead of the mask; in a folder, beside the record."
        ),
    ] = None,
    logits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the low-res logits, for --mask next time.")
    ] = None,
    embeddings: options.Embeddings = None,
    max_pixels: options.MaxPixels = f"{MAX_PIXELS // 10**6}M",
    root: options.Root = None,
    keep_extension: options.KeepExtension = False,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    shard: options.Shard = None,
    ray: options.Ray = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.DType = "fp32",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Segment what you point at: masks for points, boxes, or a rough mask.

    Coordinates are pixels of the upright image, (0, 0) its top-left corner.
    Prints a JSON line for each prompt, or a table on a terminal.
    """
    report = Report(quiet=quiet, json=json)
    where = target(output, format_, json=json, terminal=sys.stdout.isatty())
    if sys.stdin.isatty() and (prompts == "-" or image == STDIN or not (image or prompts)):
        raise UsageError(TERMINAL)
    if prompts is None:
        requests: Iterable[Request] = from_options(image or STDIN, point, box, mask)
    elif point or box or mask or logits:
        raise UsageError("--prompts goes without --point, --box, --mask and --logits")
    else:
        requests = _from_file(prompts, image)

    in_folder = where.kind == "folder"
    if not in_folder and (
        overwrite or retry_failed or shard is not None or ray is not None or device == "all"
    ):
        raise UsageError(
            "--overwrite, --retry-failed, --shard, --ray and --device all need a folder: -o DIR/"
        )
    if (ray is not None or device == "all") and (json or image == STDIN):
        raise UsageError("with --ray or --device all neither standard input nor --json can be used")

    # In a list each prompt fails alone where it has a line of its own; elsewhere an image stands as a whole.
    alone = prompts is not None and where.has_lines
    jobs = in_order(requests, root) if alone else by_image(requests, root)
    if isinstance(jobs, list):
        check_room(where, jobs, keep_extension)
        part = None if shard is None else parse_shard(shard)
        jobs = [job for job in jobs if part is None or job.image in part]
    limit = parse_pixels(max_pixels)
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    known = settings.load(report)
    asked = Asked(where, settings, known, every, json, logits, limit)
    make_work = MakeWork(settings, every, format_ is not None, embeddings, keep_extension, limit)
    if in_folder:
        folder = Folder(where.path, keep_extension, overwrite, retry_failed or prompts is None, asked)
        assert isinstance(jobs, list)
        for job in jobs:
            if not job.image.problem:
                folder.allow(job)
        cluster = options.cluster(ray, threads)
        alone = prompts is None
        run = run_folder(report, jobs, len(jobs), make_work, folder, known, cluster, alone=alone)
        raise typer.Exit(run.code)

    stream = Stream(asked, report)
    total = len(jobs) if isinstance(jobs, list) else None
    with report.progress(total, "image") as progress:
        tally = batch.run(jobs, make_work, stream, devices=known.devices, progress=progress)
    if prompts is None and tally.failures and not tally.stopped:
        say_error(named(image_name(tally.failures[0].item), tally.failures[0].reason))
        raise typer.Exit(1)
    stream.close(complete=not tally.stopped)
    say_failures(stream.failed)
    if tally.stopped:
        say_error(tally.stopped[1])
    raise typer.Exit(tally.exit_code or (3 if stream.failed else 0))


def _from_file(prompts: str, image: Path | None) -> Iterable[Request]:
    """The prompts of a file, all checked before work starts, or of standard input, each as it comes."""
    if prompts == "-":
        if image == STDIN:
            raise UsageError("the image and the prompts cannot both be standard input")
        return from_lines(stdin_pieces(b"\n"), "standard input", image, piped=True)
    try:
        with Path(prompts).open("rb") as file:
            requests = list(from_lines(file, prompts, image))
    except OSError as error:
        raise SamcliError(f"{prompts} cannot be read: {error.strerror}; check the path") from error
    if sys.stdin.isatty() and any(request.image == STDIN for request in requests):
        raise UsageError(TERMINAL)
    return requests
