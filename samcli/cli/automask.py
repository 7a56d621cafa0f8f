"""`samcli automask`: every mask of every image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from samcli.annotate import GroundConfig, detect, name_masks
from samcli.automask import PRESETS, AutomaskConfig, AutomaskSettings, generate
from samcli.cli import options
from samcli.cli.detector import Grounding, asked_for, refuse_unused
from samcli.cli.folder import run_images
from samcli.cli.inputs import parse_pixels
from samcli.cli.masking import Found, MaskWork, Seen, one_by_one
from samcli.cli.model import ModelOptions
from samcli.cli.pictures import NamedSink, Pictures, RecordSink
from samcli.cli.report import Report, UsageError
from samcli.images import MAX_PIXELS

if TYPE_CHECKING:
    from samcli.cli.masking import Look
    from samcli.predictor import Predictor


class Picture(str, Enum):
    """What can be written beside a record."""

    PNG = "png"
    LABELMAP = "labelmap"


_REFERENCE = AutomaskSettings()


def _setting(name: str, what: str, metavar: str) -> Any:
    """A generator parameter: what is left out is the model's own default, else the reference's."""
    default = getattr(_REFERENCE, name)
    return typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=metavar,
        help=f"{what} (default: the model's own, else {default:.4g}).",
        show_default=False,
        rich_help_panel="Generator",
    )


def _whole(name: str, what: str) -> Any:
    return _setting(name, what, "N")


def _share(name: str, what: str) -> Any:
    return _setting(name, what, "X")


def automask(
    output: options.OutputFolder,
    images: options.Images = [],  # noqa: B006 - Typer copies it
    format_: Annotated[
        list[Picture],
        typer.Option(
            "--format",
            metavar="png|labelmap",
            help="Also write <stem>.masks/ (a PNG for each mask, metadata.csv), or <stem>.labelmap.png.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - Typer copies it
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write <stem>.overlay.jpg.")] = False,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="TEXT",
            help="Name masks: phrases between dots or commas, which a detector looks for.",
            rich_help_panel="Detector",
        ),
    ] = None,
    labels: options.Phrases = None,
    detector: options.Detector = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    preset: Annotated[
        Literal["sa1b"] | None,
        typer.Option("--preset", help="sa1b: as the SA-1B dataset was made, with crops."),
    ] = None,
    points_per_side: Annotated[int | None, _whole("points_per_side", "Points on a side of the grid")] = None,
    points_per_batch: Annotated[int | None, _whole("points_per_batch", "Points decoded at once")] = None,
    pred_iou_thresh: Annotated[
        float | None, _share("pred_iou_thresh", "Keep masks of a predicted IoU above this")
    ] = None,
    stability_score_thresh: Annotated[
        float | None, _share("stability_score_thresh", "Keep masks at least this stable")
    ] = None,
    stability_score_offset: Annotated[
        float | None, _share("stability_score_offset", "Shift of the cut-off that stability is measured with")
    ] = None,
    box_nms_thresh: Annotated[
        float | None,
        _share("box_nms_thresh", "Drop the worse of two masks whose boxes overlap more than this"),
    ] = None,
    mask_nms_thresh: Annotated[
        float | None, _share("mask_nms_thresh", "Drop the worse of two masks that overlap more than this")
    ] = None,
    crop_n_layers: Annotated[
        int | None, _whole("crop_n_layers", "Layers of crops to look at too; layer i has 4**i of them")
    ] = None,
    crop_nms_thresh: Annotated[
        float | None, _share("crop_nms_thresh", "As --box-nms-thresh, between crops")
    ] = None,
    crop_overlap_ratio: Annotated[
        float | None, _share("crop_overlap_ratio", "Overlap of crops, a share of the short side")
    ] = None,
    crop_n_points_downscale_factor: Annotated[
        int | None, _whole("crop_n_points_downscale_factor", "Divides the points per side with each layer")
    ] = None,
    min_mask_region_area: Annotated[
        float | None,
        _share(
            "min_mask_region_area",
            "Fill holes and drop islands of fewer pixels, or of a smaller share below 1",
        ),
    ] = None,
    min_area: options.MinArea = None,
    max_area: options.MaxArea = None,
    flatten: options.FlattenOption = "area",
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
    """Find every mask of every image: prompts on a grid of points, and what remains after filtering.

    Writes DIR/<path below its root>/<stem>.json for each image, in SA-1B's schema.
    An image that fails leaves <stem>.error.json instead; the exit code then is 3.
    """
    report = Report(quiet=quiet, json=json)
    given = AutomaskConfig(
        points_per_side=points_per_side,
        points_per_batch=points_per_batch,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        stability_score_offset=stability_score_offset,
        box_nms_thresh=box_nms_thresh,
        mask_nms_thresh=mask_nms_thresh,
        crop_n_layers=crop_n_layers,
        crop_nms_thresh=crop_nms_thresh,
        crop_overlap_ratio=crop_overlap_ratio,
        crop_n_points_downscale_factor=crop_n_points_downscale_factor,
        min_mask_region_area=min_mask_region_area,
        min_area=min_area,
        max_area=max_area,
    )
    config = replace(PRESETS[preset] if preset else AutomaskConfig(), **given.given())
    inputs = options.inputs(images, output, files_from, null, root, keep_extension, include, exclude, shard)
    settings = ModelOptions(model, device, dtype, threads, elsewhere=ray is not None)
    limit = parse_pixels(max_pixels)
    grounding, names = None, {}
    if text is not None or labels is not None:
        if text is not None and labels is not None:
            raise UsageError("--text and --labels both say what to look for; choose one")
        looking = GroundConfig(box_threshold, text_threshold)
        grounding = Grounding(asked_for(text, labels), looking, detector, dtype)
        grounding.check()
        finder = grounding.known(settings.workers())
        grounding.say(report, finder)
        names = grounding.described(finder)
    else:
        refuse_unused(detector, box_threshold, text_threshold, needed="--text or --labels")
    known = settings.load(report)
    made_by = settings.run("automask", known, {**asdict(config.resolve(known.spec)), **names})
    kinds = {kind.value for kind in format_} | ({"overlay"} if overlay else set())
    pictures = Pictures(frozenset(kinds), flatten, limit)
    again = retry_failed or inputs.alone is not None
    kind = NamedSink if grounding else RecordSink
    sink = kind(output, keep_extension, overwrite, again, made_by, pictures)
    make_work = _MakeWork(settings, made_by, embeddings, keep_extension, limit, config, grounding)
    run = run_images(report, inputs, make_work, sink, known, options.cluster(ray, threads))
    raise typer.Exit(run.code)


@dataclass(frozen=True)
class _MakeWork(MaskWork):
    config: AutomaskConfig
    grounding: Grounding | None

    def look(self, predictor: Predictor) -> Look:
        everything = one_by_one(
            predictor,
            lambda pixels, embedding: generate(predictor, pixels, self.config, embedding=embedding),
        )
        asked = self.grounding
        if asked is None:
            return everything
        detector = asked.load(str(predictor.device))

        def named(seen: list[Seen]) -> list[Found]:
            found = detect(detector, [one.picture.pixels for one in seen], asked.phrases, asked.config)
            return [
                Found(name_masks(one.masks, boxes, asked.phrases))
                for one, boxes in zip(everything(seen), found, strict=True)
            ]

        return named
