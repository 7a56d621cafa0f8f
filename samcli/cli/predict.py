"""`samcli predict`: masks for points, boxes and masks, one prompt or many, on one image or many."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from samcli import batch
from samcli.annotate import GroundConfig
from samcli.cli import options
from samcli.cli.answers import Job, MakeWork, by_image, in_order
from samcli.cli.boxes import BoxJobs, box_jobs, count_boxes
from samcli.cli.detector import Grounding, asked_for, refuse_unused
from samcli.cli.folder import run_folder
from samcli.cli.ground import TERMINAL, Search, find
from samcli.cli.inputs import Inputs, parse_pixels, parse_shard, stdin_pieces
from samcli.cli.model import ModelOptions
from samcli.cli.outputs import OUTSIDE, Asked, Folder, Format, Stream, check_room, image_name, target
from samcli.cli.prompts import STDIN, Request, from_lines, from_options
from samcli.cli.report import Report, UsageError, named, say_error, say_failures
from samcli.errors import SamcliError
from samcli.images import MAX_PIXELS, Chosen


def predict(
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGE|-]",
            help="The image; - or nothing is standard input. With --boxes also a folder of images.",
        ),
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
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Boxes of another detector, a prompt each: COCO's JSON, or a folder of YOLO's .txt files.",
            rich_help_panel="Boxes of a detector",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What to look for, phrases between dots or commas: `samcli ground`, which has more options.",
            rich_help_panel="Detector",
        ),
    ] = None,
    detector: options.Detector = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Only boxes that score at least this.",
            rich_help_panel="Boxes of a detector",
        ),
    ] = None,
    labels: options.Labels = None,
    like: options.Like = None,
    include: options.Include = [],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
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
    if text is not None:
        if (
            point
            or box
            or mask
            or prompts
            or boxes
            or every
            or logits
            or labels
            or like
            or min_score is not None
        ):
            without = "--all, --logits, --labels, --like and --min-score"
            raise UsageError(f"--text goes without other prompts, and without {without}")
        search = Search(
            images=(STDIN if image is None else image,),
            grounding=Grounding(
                asked_for(text, None), GroundConfig(box_threshold, text_threshold), detector, dtype
            ),
            settings=ModelOptions(model, device, dtype, threads, elsewhere=ray is not None),
            max_pixels=parse_pixels(max_pixels),
            output=output,
            formats=() if format_ is None else (format_,),
            answers=True,
            embeddings=embeddings,
            chosen=Chosen(tuple(include), tuple(exclude)),
            root=root,
            keep_extension=keep_extension,
            overwrite=overwrite,
            retry_failed=retry_failed,
            shard=shard,
            ray=ray,
        )
        raise typer.Exit(find(report, search))
    refuse_unused(detector, box_threshold, text_threshold, needed="--text")
    where = target(output, format_, json=json, terminal=sys.stdout.isatty())
    part = None if shard is None else parse_shard(shard)
    if boxes is not None:
        if point or box or mask or prompts or logits:
            raise UsageError("--boxes goes without --point, --box, --mask, --prompts and --logits")
        if image is None or image == STDIN:
            raise UsageError("--boxes needs an image, or a folder of images, by name")
        if labels is not None and like is not None:
            raise UsageError("--labels and --like both name the categories; choose one")
        min_score = options.score(min_score)
    elif min_score is not None or labels is not None or like is not None or include or exclude:
        raise UsageError(
            "--min-score, --labels and --like go with --boxes, --include and --exclude also with --text"
        )
    if sys.stdin.isatty() and (prompts == "-" or image == STDIN or not (image or prompts)):
        raise UsageError(TERMINAL)
    requests: Iterable[Request] = []
    if prompts is not None:
        if point or box or mask or logits:
            raise UsageError("--prompts goes without --point, --box, --mask and --logits")
        requests = _from_file(prompts, image)
    elif boxes is None:
        requests = from_options(image or STDIN, point, box, mask)

    in_folder = where.kind == "folder"
    if not in_folder:
        options.only_in_folders(overwrite, retry_failed, shard, ray, device)
    if (ray is not None or device == "all") and (json or image == STDIN):
        raise UsageError("with --ray or --device all neither standard input nor --json can be used")

    jobs: Iterable[Job]
    if boxes is not None:
        assert image is not None
        if where.kind in ("png", "json") and image.is_dir():
            raise UsageError(f"{image} is a folder, but {where.name} holds one image; give -o a folder")
        inputs = Inputs(
            (image,),
            where.path if in_folder else None,
            root=root,
            keep_extension=keep_extension or not in_folder,  # without outputs none can clash
            chosen=Chosen(tuple(include), tuple(exclude)),
            shard=part,
        )
        jobs = box_jobs(report, boxes, inputs, labels, like, min_score, lines=where.has_lines)
        alone = jobs.alone
    else:
        # In a list each prompt fails alone where it has a line; elsewhere an image stands as a whole.
        in_turn = prompts is not None and where.has_lines
        jobs = in_order(requests, root) if in_turn else by_image(requests, root)
        alone = prompts is None
    if isinstance(jobs, list):
        check_room(where, jobs, keep_extension)
        jobs = [job for job in jobs if part is None or job.image in part]
    limit = parse_pixels(max_pixels)
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    known = settings.load(report)
    asked = Asked(where, settings, known, every, json, logits, limit)
    make_work = MakeWork(
        settings, every, format_ is not None, logits is not None, embeddings, keep_extension, limit
    )
    if in_folder:
        folder = Folder(where.path, keep_extension, overwrite, retry_failed or alone, asked)
        if isinstance(jobs, BoxJobs):
            total = jobs.check(folder.allow)
        else:
            assert isinstance(jobs, list)
            total = len(jobs)
            for job in jobs:
                if not job.image.problem:
                    folder.allow(job)
        cluster = options.cluster(ray, threads)
        run = run_folder(report, jobs, total, make_work, folder, known, cluster, alone=alone)
        if run.tally:
            _say_outside(report, run.tally)
        raise typer.Exit(run.code)

    stream = Stream(asked, report)
    total = len(jobs) if isinstance(jobs, list) else None
    with report.progress(total, "image") as progress:
        tally = batch.run(jobs, make_work, stream, devices=known.devices, progress=progress)
    _say_outside(report, tally)
    if alone and tally.failures and not tally.stopped:
        say_error(named(image_name(tally.failures[0].item), tally.failures[0].reason))
        raise typer.Exit(1)
    stream.close(complete=not tally.stopped)
    say_failures(stream.failed)
    if tally.stopped:
        say_error(tally.stopped[1])
    raise typer.Exit(tally.exit_code or (3 if stream.failed else 0))


def _say_outside(report: Report, tally: batch.Tally[Job]) -> None:
    if count := tally.counts[OUTSIDE]:
        report.note(f"note: {count_boxes(count)} outside of the images left out")


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
