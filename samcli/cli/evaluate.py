"""`samcli evaluate`: how good a model is on datasets with ground truth, by published protocols."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samcli.automask import AutomaskConfig
from samcli.cli import measuring, options
from samcli.cli.detector import refuse_unused
from samcli.cli.folder import run_folder
from samcli.cli.inputs import parse_pixels
from samcli.cli.measuring import Measurement, Setting, Source
from samcli.cli.model import Model, ModelOptions
from samcli.cli.report import Report, UsageError, json_line, write_stdout
from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.files import load_json
from samcli.formats.names import check_unique
from samcli.images import MAX_PIXELS
from samcli.masks import parse_area

if TYPE_CHECKING:
    from samcli.evaluate.figures import Figures


class Protocol(str, Enum):
    """What can be measured."""

    PROMPTS = "prompts"
    EVERYTHING = "everything"
    EDGES = "edges"
    BOXES = "boxes"
    TEXT = "text"


REPORT = "evaluation.json"
MEAN = "mean"  # of datasets, beside their names
_PRECISION = {
    "things": "things",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
}
SHOWN: dict[str, dict[str, str]] = {
    "prompts": {
        "things": "things", "click": "1 click", "oracle": "best of 3", "clicks.2": "3 clicks",
        "clicks.8": "9 clicks", "clicks_to_90": "to 90 %", "box": "box",
    },
    "everything": {
        "photos": "photos", "masks": "masks", "ar_10": "AR@10", "ar_100": "AR@100", "ar_1000": "AR@1000",
        "best_iou": "best IoU", "covering_label_map": "covering", "boundary_f": "edges' F",
    },
    "edges": {"photos": "photos", "ods": "ODS", "ois": "OIS", "ap": "AP", "r50": "R50"},
    "boxes": _PRECISION,
    "text": _PRECISION,
}  # fmt: skip
"""What the table of a protocol says, by the names of figures."""


def evaluate(
    datasets: Annotated[
        list[Path],
        typer.Argument(
            help="COCO instances files, folders with annotations.json and images/, or folders of these.",
            metavar="DATASETS...",
        ),
    ],
    output: options.OutputFolder,
    protocol: Annotated[
        list[Protocol],
        typer.Option(
            "--protocol",
            "-p",
            metavar="prompts|everything|edges|boxes|text",
            help="What to measure; may be repeated. prompts: clicks and boxes. everything: recall, and "
            "partitions found again. edges: as people drew them. boxes: AP of masks from given boxes. "
            "text: AP of what the categories' names find.",
        ),
    ] = [Protocol.PROMPTS],  # noqa: B006 - Typer copies it
    images: options.ImagesFolder = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Of the protocol boxes: COCO results; the true boxes when left out.",
        ),
    ] = None,
    by: Annotated[
        list[str],
        typer.Option(
            "--by", metavar="KEY", help="Of prompts: also tell apart what the file calls so, such as breed."
        ),
    ] = [],  # noqa: B006
    min_area: options.MinArea = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of random clicks and noise.")] = 0,
    points_per_side: Annotated[
        int | None,
        typer.Option("--points-per-side", metavar="N", help="Of everything mode.", show_default=False),
    ] = None,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option("--pred-iou-thresh", metavar="X", help="Of everything mode.", show_default=False),
    ] = None,
    stability_score_thresh: Annotated[
        float | None,
        typer.Option("--stability-score-thresh", metavar="X", help="Of everything mode.", show_default=False),
    ] = None,
    detector: options.Detector = None,
    embeddings: options.Embeddings = None,
    max_pixels: options.MaxPixels = f"{MAX_PIXELS // 10**6}M",
    keep_extension: options.KeepExtension = False,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.DType = "fp32",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure a model on datasets with ground truth, in COCO's format.

    Writes DIR/evaluation.json, plots, and what was found in each photo, so that a stopped run goes on.
    """
    from samcli.evaluate.truth import find_datasets

    report = Report(quiet=quiet, json=json)
    files = find_datasets(datasets)
    if images and len(files) > 1:
        raise UsageError("--images is for one dataset; leave it out, or evaluate one at a time")
    if min_area:
        parse_area(min_area)
    asked = list(dict.fromkeys(each.value for each in protocol))
    if boxes and "boxes" not in asked:
        raise UsageError("--boxes goes with --protocol boxes")
    if boxes and len(files) > 1:
        raise UsageError("--boxes is for one dataset; evaluate one at a time")
    if "text" not in asked:
        refuse_unused(detector, needed="--protocol text")
    generator = AutomaskConfig(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
    )
    if generator.given() and "everything" not in asked:
        raise UsageError("--points-per-side and the thresholds go with --protocol everything")
    settings, limit = ModelOptions(model, device, dtype, threads), parse_pixels(max_pixels)
    sources = [
        Source(name, file, measuring.file_sha256(file), images, min_area) for name, file in files.items()
    ]
    _check_groups(by, sources)
    known = settings.load(report)
    figures: dict[str, dict[str, Figures]] = {name: {} for name in asked}
    code = 0
    for source in sources:
        setting = Setting(
            source,
            known,
            settings,
            embeddings,
            keep_extension,
            limit,
            seed,
            tuple(by),
            generator,
            boxes,
            detector,
        )
        check_unique(((i.path, i.relative) for i in setting.items()), keep_extension=keep_extension)
        for each in asked:
            what = measuring.text(setting, report) if each == "text" else MEASURED[each](setting)
            place = output / source.name / each
            report.note(f"{source.name}: {each}")
            ended = _run(report, setting, what, place, overwrite, retry_failed)
            if ended not in (0, 3):
                raise typer.Exit(ended)
            code = max(code, ended)
            figures[each][source.name] = what.figures(place)
    _finish(output, known, figures, report)
    raise typer.Exit(code)


def _check_groups(by: Sequence[str], sources: Sequence[Source]) -> None:
    """Raises UsageError for a group that no dataset knows."""
    if not by:
        return
    known = {
        group
        for source in sources
        for photo in source.read().photos.values()
        for thing in photo.things
        for group in thing.groups
    }
    for key in by:
        if key not in known:
            have = f"they have {', '.join(sorted(known))}" if known else "there are no such keys in the files"
            raise UsageError(f"--by {key}: no image or annotation has it; {have}")


MEASURED = {
    "prompts": measuring.prompts,
    "everything": measuring.everything,
    "edges": measuring.edges,
    "boxes": measuring.boxes,
}


def _run(
    report: Report, setting: Setting, what: Measurement, place: Path, overwrite: bool, retry_failed: bool
) -> int:
    """Measure what is not measured yet. Returns the exit code."""
    sink = what.sink(place, overwrite, retry_failed)
    total = 0
    for item in setting.items():
        sink.allow(item)
        total += 1
    run = run_folder(report, setting.items(), total, what.make_work, sink, setting.model, None, alone=False)
    return run.code


def _finish(output: Path, model: Model, figures: Mapping[str, Mapping[str, Figures]], report: Report) -> None:
    """Write the figures and their plots, and say them on stdout."""
    from samcli.evaluate.plots import plots

    earlier = _earlier(output, model)
    figures = {name: {**earlier.get(name, {}), **figures.get(name, {})} for name in {**earlier, **figures}}
    with_means = {name: {**some, **_mean(name, some)} for name, some in figures.items()}
    said = {"model": model.name, "weights_sha256": model.weights_sha256, "figures": with_means}
    write_bytes(output / REPORT, json_line(said))
    for name, png in plots(figures).items():
        write_bytes(output / name, png)
    if report.json or not sys.stdout.isatty():
        write_stdout(json_line(said))
    else:
        write_stdout(_tables(with_means).encode())


def _earlier(output: Path, model: Model) -> dict[str, dict[str, Figures]]:
    """What was measured before with this model in the folder, by protocol and dataset; nothing else's."""
    try:
        said = load_json(output / REPORT)
        if said["weights_sha256"] == model.weights_sha256:
            return {
                protocol: {name: some for name, some in each.items() if name != MEAN}
                for protocol, each in said["figures"].items()
                if protocol in SHOWN
            }
    except (SamcliError, LookupError, TypeError, AttributeError):
        pass
    return {}


def _mean(protocol: str, figures: Mapping[str, Figures]) -> dict[str, Figures]:
    """The mean AP over datasets, as SegInW reports it; nothing for one dataset, or another protocol."""
    if protocol not in ("text", "boxes") or len(figures) < 2:
        return {}
    names = [name for name in SHOWN[protocol] if name != "things"]
    mean: Figures = {}
    for name in names:
        values = [some[name] for some in figures.values() if some[name] is not None]
        mean[name] = sum(values) / len(values) if values else None
    return {MEAN: mean}


def _tables(figures: Mapping[str, Mapping[str, Figures]]) -> str:
    """A table for each protocol: a line for each dataset."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    with console.capture() as captured:
        for protocol, some in figures.items():
            shown = {
                name: title
                for name, title in SHOWN[protocol].items()
                if any(_value(one, name) is not None for one in some.values())
            }
            table = Table(protocol, *shown.values(), box=None, pad_edge=False)
            for column in table.columns[1:]:
                column.justify = "right"
            for dataset, one in some.items():
                table.add_row(dataset, *(_written(_value(one, name)) for name in shown))
            console.print(table)
            console.print()
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().splitlines())


def _value(figures: Figures, name: str) -> Any:
    """A figure; name.N is number N of a list."""
    name, _, number = name.partition(".")
    value = figures.get(name)
    return value[int(number)] if number and value else value


def _written(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}" if value <= 1 else f"{value:.1f}"
