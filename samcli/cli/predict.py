"""`samcli predict`: masks for points, boxes and masks, one prompt or many, on one image or many."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from samcli import batch
from samcli.cli import options
from samcli.cli.answers import Job, MakeWork, by_image, one_by_one
from samcli.cli.common import ModelOptions
from samcli.cli.outputs import Format, Outputs, check_room, target
from samcli.cli.prompts import STDIN, Request, from_lines, from_options
from samcli.cli.report import Report, UsageError, named, say_error, say_failures
from samcli.errors import SamcliError

TERMINAL = "standard input is a terminal; name a file, or pipe one in"
PROMPTS_PER_CALL = 64  # lines of one image that are answered together


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
    root: options.Root = None,
    keep_extension: options.KeepExtension = False,
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

    # In a list each prompt fails alone where it has a line of its own; elsewhere an image stands as a whole.
    alone = prompts is not None and where.has_lines
    jobs = one_by_one(requests) if alone else by_image(requests)
    if isinstance(jobs, list):
        check_room(where, jobs, root, keep_extension)
    settings = ModelOptions(model, device, dtype, threads)
    outputs = Outputs(
        where, settings, settings.load(report), report, every, root, keep_extension, logits, alone
    )
    tally = batch.run(
        report.progress(jobs, None, "prompt" if alone else "image"),
        MakeWork(settings, every, format_ is not None, embeddings, root, keep_extension),
        outputs,
        size=PROMPTS_PER_CALL if alone else 1,
        key=lambda job: job.image,
    )
    if prompts is None and tally.failures and not tally.stopped:
        job, reason = tally.failures[0]
        say_error(named(_name(job, alone), reason))
        raise typer.Exit(1)
    outputs.close(complete=not tally.stopped)
    say_failures((_name(job, alone), reason) for job, reason in tally.failures)
    if tally.stopped:
        say_error(tally.stopped[1])
    raise typer.Exit(tally.exit_code)


def _name(job: Job, alone: bool) -> str:
    image = "standard input" if job.image == STDIN else str(job.image)
    return f"prompt {jsonlib.dumps(job.requests[0].id)} of {image}" if alone else image


def _from_file(prompts: str, image: Path | None) -> Iterable[Request]:
    """The prompts of a file, all checked before work starts, or of standard input, each as it comes."""
    if prompts == "-":
        if image == STDIN:
            raise UsageError("the image and the prompts cannot both be standard input")
        return from_lines(sys.stdin.buffer, "standard input", image, piped=True)
    try:
        with Path(prompts).open("rb") as file:
            requests = list(from_lines(file, prompts, image))
    except OSError as error:
        raise SamcliError(f"{prompts} cannot be read: {error.strerror}; check the path") from error
    if sys.stdin.isatty() and any(request.image == STDIN for request in requests):
        raise UsageError(TERMINAL)
    return requests
