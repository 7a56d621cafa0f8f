"""`samcli annotate`: a folder becomes a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samcli.annotate import GroundConfig, label, segment
from samcli.cli import options
from samcli.cli.detector import Grounding, asked_for
from samcli.cli.folder import run_folder, summary_of
from samcli.cli.inputs import Inputs, parse_pixels
from samcli.cli.masking import Found, MaskWork, Seen, embedded
from samcli.cli.model import ModelOptions
from samcli.cli.photos import ListedPhotos, PhotoFolder
from samcli.cli.pictures import NOTHING_FOUND, Pictures, RecordSink
from samcli.cli.report import Report, UsageError, json_line, plural, say_failures, write_stdout
from samcli.cli.tagger import Tagging
from samcli.dataset.build import RECORDS, Plan, build, check
from samcli.dataset.curate import Curation, read_class_scores
from samcli.dataset.existing import open_base
from samcli.dataset.outputs import REPORT
from samcli.dataset.summary import Summary
from samcli.errors import SamcliError
from samcli.formats.table import Photos
from samcli.images import MAX_PIXELS

if TYPE_CHECKING:
    from samcli.cli.masking import Look
    from samcli.predictor import Predictor

_BUILD = {
    "output", "rebuild", "images_folder", "min_area", "max_area", "min_score", "class_thresholds",
    "confident", "base", "split", "format_", "label_json", "skip_duplicates", "overlay", "labels",
    "fail_empty", "max_pixels", "quiet", "json",
}  # fmt: skip
"""Parameters that matter to what is made of records."""


def annotate(
    context: typer.Context,
    images: options.Images = [],  # noqa: B006 - Typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the dataset.")
    ] = None,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            "--rebuild",
            metavar="DIR",
            help="Make this dataset anew from its records, without any model: after a crash, with other "
            "options of the panels Dataset and Masks.",
        ),
    ] = None,
    labels: options.Phrases = None,
    tagger: Annotated[
        str | None,
        typer.Option(
            "--tagger",
            metavar="NAME|DIR",
            help="What says the words for each image: a name from `samcli models`, or a folder as "
            "transformers saves it; tiny when there are no --labels either.",
            rich_help_panel="Tagger",
        ),
    ] = None,
    tag_threshold: Annotated[
        float | None,
        typer.Option(
            "--tag-threshold",
            metavar="X",
            min=0,
            max=1,
            show_default=False,
            help="Only words that score at least this (default: the tagger's own).",
            rich_help_panel="Tagger",
        ),
    ] = None,
    max_tags: Annotated[
        int | None,
        typer.Option(
            "--max-tags",
            metavar="N",
            min=1,
            show_default=False,
            help="Only the N best words of an image (default: the tagger's own).",
            rich_help_panel="Tagger",
        ),
    ] = None,
    detector: options.Detector = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    nms: options.Nms = GroundConfig.nms,
    class_agnostic: options.ClassAgnostic = GroundConfig.class_agnostic,
    containment: options.Containment = GroundConfig.containment,
    max_detections: options.MaxDetections = GroundConfig.max_detections,
    tile: options.Tile = GroundConfig.tile,
    overlap: options.Overlap = GroundConfig.overlap,
    class_thresholds: Annotated[
        Path | None,
        typer.Option(
            "--class-thresholds",
            metavar="FILE",
            help="Least scores of single categories: lines of `name: 0.4` (YAML or JSON).",
            rich_help_panel="Dataset",
        ),
    ] = None,
    min_score: options.MinScore = None,
    min_area: options.MinArea = None,
    max_area: options.MaxArea = None,
    confident: Annotated[
        float | None,
        typer.Option(
            "--confident",
            metavar="X",
            help="Things of a lower score go to to_review.json instead.",
            rich_help_panel="Dataset",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="FILE",
            help="A COCO dataset (instances) of these photos: it is kept, only what it lacks is added.",
            rich_help_panel="Dataset",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="X,Y[,Z]",
            help="Also write train.json, val.json and test.json: shares of the photos, by their paths.",
            rich_help_panel="Dataset",
        ),
    ] = None,
    format_: Annotated[
        list[str],
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Also write the dataset in this format of `samcli convert`, into a folder of its name. May "
            "be repeated.",
            rich_help_panel="Dataset",
        ),
    ] = [],  # noqa: B006
    label_json: Annotated[
        bool,
        typer.Option(
            "--label-json",
            help="Also write a label.json for each image, as Grounded SAM's demo does.",
            rich_help_panel="Dataset",
        ),
    ] = False,
    skip_duplicates: Annotated[
        bool,
        typer.Option(
            "--skip-duplicates",
            help="Of photos that look alike take only the first; they are reported anyway.",
            rich_help_panel="Dataset",
        ),
    ] = False,
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay/--no-overlay", help="Draw what was found on each photo.", rich_help_panel="Dataset"
        ),
    ] = True,
    images_folder: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="With --rebuild: the folder that the photos lie in, for pictures of them.",
            rich_help_panel="Dataset",
        ),
    ] = None,
    fail_empty: Annotated[
        bool, typer.Option("--fail-empty", help="Exit with 5 when the dataset has no annotations.")
    ] = False,
    embeddings: options.Embeddings = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = [],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
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
    """Make a dataset of a folder: a tagger says words, a detector finds them, the model cuts them out.

    Writes DIR/records/, and from these DIR/annotations.json (COCO instances) and DIR/report.html.
    """
    report = Report(quiet=quiet, json=json)
    if (output is None) == (rebuild is None):
        raise UsageError("give -o DIR for the dataset; or --rebuild DIR to make one anew from its records")
    limit = parse_pixels(max_pixels)
    labelled = () if labels is None else asked_for(None, labels)
    wanted = partial(
        Plan,
        curation=Curation(
            min_score=options.score(min_score),
            class_scores={} if class_thresholds is None else read_class_scores(class_thresholds),
            min_area=options.area(min_area, "--min-area"),
            max_area=options.area(max_area, "--max-area"),
            confident=confident,
        ),
        base=base,
        split=None if split is None else _shares(split),
        formats=tuple(dict.fromkeys(format_)),
        skip_duplicates=skip_duplicates,
        label_json=label_json,
        overlays=overlay,
        labels=labelled,
    )
    if rebuild is not None:
        _refuse_models(context)
        photos = None if images_folder is None else _folder(images_folder, limit)
        made = _make(report, rebuild, wanted(photos=photos), frozenset())
        if json:
            write_stdout(json_line(_told(made, rebuild)))
        raise typer.Exit(_code(made, fail_empty))
    assert output is not None
    if images_folder is not None:
        raise UsageError("--images goes with --rebuild; the photos are the arguments here")
    if tile is None and overlap != GroundConfig.overlap:
        raise UsageError("--overlap is that of tiles; it goes with --tile")
    config = GroundConfig(
        box_threshold, text_threshold, nms, class_agnostic, containment, max_detections, tile, overlap
    )
    inputs = options.inputs(images, output, files_from, null, root, keep_extension, include, exclude, shard)
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    _refuse_photos(images, output)
    plan = wanted(photos=_photos(inputs, limit))
    check(output, plan)
    if base is not None:  # before hours of work
        with open_base(base):
            pass
    tagging = Tagging(labelled, tagger, tag_threshold, max_tags, dtype)
    tagging.check()
    grounding = Grounding(labelled if tagging.fixed else (), config, detector, dtype)
    grounding.check()
    workers = settings.workers()
    words, finder = tagging.known(workers), grounding.known(workers)
    tagging.say(report)
    grounding.say(report, finder)
    known = settings.load(report)
    described = grounding.described(finder)
    del described["phrases"]  # labels say it
    made_by = settings.run("annotate", known, {**tagging.described(words), **described})
    work = _MakeWork(settings, made_by, embeddings, keep_extension, limit, tagging, grounding)
    again = retry_failed or inputs.alone is not None
    nothing_beside = Pictures(frozenset(), "area", limit)
    sink = RecordSink(output / RECORDS, keep_extension, overwrite, again, made_by, nothing_beside)
    total = inputs.check(sink.allow)
    cluster = options.cluster(ray, threads)
    run = run_folder(report, inputs, total, work, sink, known, cluster, alone=inputs.alone is not None)
    if run.tally is None:
        raise typer.Exit(run.code)
    told = summary_of(run, run.tally, sink, known, cluster)
    code = run.code
    if run.tally.stopped or shard is not None:
        next_ = "when the other parts are done" if shard is not None else "run again, or for what is done"
        report.note(f"note: records only; {next_}: samcli annotate --rebuild {output}")
    else:
        listed = frozenset((f.item.relative.as_posix(), f.reason) for f in run.tally.failures)
        made = _make(report, output, plan, listed)
        told |= _told(made, output)
        code = code or _code(made, fail_empty)
    if json:
        write_stdout(json_line(told))
    raise typer.Exit(code)


# Words, boxes, masks


@dataclass(frozen=True)
class _MakeWork(MaskWork):
    tagging: Tagging
    grounding: Grounding

    def look(self, predictor: Predictor) -> Look:
        device = str(predictor.device)
        tagger, detector = self.tagging.load(device), self.grounding.load(device)
        config, numbers = self.grounding.config, {name: i for i, name in enumerate(self.tagging.labels, 1)}

        def look(seen: list[Seen]) -> list[Found]:
            pixels = [one.picture.pixels for one in seen]
            said = label(tagger, detector, pixels, self.tagging.labels, config)
            # An image with nothing in it needs no embedding.
            embeddings = embedded(
                predictor, [one for one, words in zip(seen, said, strict=True) if len(words.found)]
            )
            return [
                Found(
                    tuple(
                        replace(mask, category_id=numbers.get(mask.category or ""))
                        for mask in segment(predictor, next(embeddings), found, phrases)
                    )
                    if len(found)
                    else (),
                    notes,
                )
                for phrases, found, notes in said
            ]

        return look


# The dataset


def _told(made: Summary, place: Path) -> dict[str, Any]:
    """What --json says of a dataset."""
    return {
        "dataset": str(place),
        "dataset_images": made.images,
        "annotations": made.accepted + made.existing,
        "categories": len(made.classes),
        "to_review": made.to_review,
        "existing": made.existing,
        "dropped": dict(made.dropped),
        "duplicates": [list(group) for group in made.duplicates],
        "failures": [{"path": path, "error": reason} for path, reason in made.failures],
    }


def _code(made: Summary, fail_empty: bool) -> int:
    """The exit code for a dataset."""
    if made.failures:
        return 3
    return NOTHING_FOUND if fail_empty and not (made.accepted or made.existing) else 0


def _make(report: Report, place: Path, plan: Plan, listed: frozenset[tuple[str, str]]) -> Summary:
    """Make the dataset of the records in `place`, with its report, and say what it holds.

    listed: failures, paths and reasons, that the user was told already.
    """
    from samcli.dataset.report import write_report  # imports OpenCV

    made = build(place, plan, lambda line: report.note(f"note: {line}"))
    write_report(place, made, plan.photos)
    say_failures(failure for failure in made.failures if failure not in listed)
    classes = len(made.classes)
    told = [
        plural(made.images, "images"),
        f"{plural(made.accepted + made.existing, 'annotations')} of "
        + ("1 category" if classes == 1 else f"{classes} categories"),
    ]
    told += [f"{made.to_review} to review"] if made.to_review else []
    dropped = sum(made.dropped.values())
    told += [f"{dropped} left out"] if dropped else []
    alike = sum(len(group) - 1 for group in made.duplicates)
    told += [f"{plural(alike, 'photos')} like others{' left out' * made.skipped}"] if alike else []
    told += [f"{len(made.failures)} failed"] if made.failures else []
    report.note(f"{', '.join(told)}; see {place / REPORT}")
    return made


def _photos(inputs: Inputs, limit: int) -> Photos | None:
    """Where the photos are; None when nobody can say any more."""
    folders = [path for path in inputs.paths if path.is_dir()]  # each is its own root, whatever --root says
    if inputs.root is not None and not folders:
        return PhotoFolder(inputs.root, limit)
    if len(inputs.paths) == 1 and inputs.files_from is None:
        (path,) = inputs.paths
        return PhotoFolder(path if folders else path.parent, limit)
    if inputs.once:
        return None
    return ListedPhotos({image.relative.as_posix(): image.path for image in inputs}, limit)


def _folder(path: Path, limit: int) -> PhotoFolder:
    if not path.is_dir():
        raise SamcliError(f"{path} is not a folder; give the folder that the photos lie in")
    return PhotoFolder(path, limit)


def _refuse_photos(images: Sequence[Path], output: Path) -> None:
    """Refuse a dataset among its photos: its own pictures would be taken for photos. Raises SamcliError."""
    place = os.path.realpath(output)
    if any(path.is_dir() and os.path.realpath(path) == place for path in images):
        raise SamcliError(
            f"{output} holds the photos; give the dataset a folder of its own, such as {output / 'dataset'}"
        )


def _refuse_models(context: typer.Context) -> None:
    """Refuse what --rebuild cannot change. Raises UsageError."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _BUILD:
            name = max(parameter.opts, key=len)
            raise UsageError(
                f"--rebuild goes without {name}, it uses no model; see the panels Dataset and Masks"
            )


def _shares(text: str) -> tuple[float, ...]:
    """What --split says. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text!r} is not shares, such as 0.8,0.1,0.1") from None
