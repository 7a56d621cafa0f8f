"""`samcli automask`: every mask of every image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from samcli.automask import PRESETS, AutomaskConfig, AutomaskSettings, generate
from samcli.cli import options
from samcli.cli.common import (
    Decoded,
    ImageSink,
    ModelOptions,
    list_inputs,
    read_picture,
    run_images,
    saved_embedding,
)
from samcli.cli.report import Report
from samcli.formats.atomic import write_bytes
from samcli.formats.names import OutputPaths, image_id
from samcli.formats.png import encode_jpeg, encode_png, label_map, write_masks_folder
from samcli.formats.record import write_record
from samcli.records import ImageRecord

if TYPE_CHECKING:
    from samcli.batch import Work
    from samcli.images import ImageFile
    from samcli.records import Run


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
    images: options.Images,
    output: options.OutputFolder,
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
    max_mask_area: Annotated[
        float | None, _share("max_mask_area", "Drop masks of more than this share of the image")
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
        max_mask_area=max_mask_area,
    )
    config = replace(PRESETS[preset] if preset else AutomaskConfig(), **given.given())
    inputs = list_inputs(images, root=root, out=output, keep_extension=keep_extension)
    settings = ModelOptions(model, device, dtype, threads)
    predictor = settings.load(report)
    resolved = config.resolve(predictor.spec)
    values = asdict(resolved)
    hashed = {name: value for name, value in values.items() if name != "points_per_batch"}
    run = settings.run("automask", predictor, values, hashed)
    store = _Store(frozenset(format_), overlay)
    sink = ImageSink(output, keep_extension, run, store, lambda paths: paths.record)
    code = run_images(
        report,
        images,
        inputs,
        _MakeWork(settings, resolved, run, embeddings, keep_extension),
        sink,
        store.counts,
    )
    raise typer.Exit(code)


class _Result(NamedTuple):
    record: ImageRecord
    picture: Decoded


@dataclass(frozen=True)
class _MakeWork:
    settings: ModelOptions
    config: AutomaskConfig
    run: Run
    embeddings: Path | None
    keep_extension: bool

    def __call__(self) -> Work[ImageFile, _Result]:
        predictor = self.settings.predictor()

        def look(item: ImageFile) -> _Result:
            picture = read_picture(item)
            embedding = None
            if self.embeddings:
                embedding = saved_embedding(
                    self.embeddings, item, picture.source, self.settings, self.keep_extension
                )
            masks = generate(predictor, picture.pixels, self.config, embedding=embedding)
            height, width = picture.pixels.shape[:2]
            name = item.relative.as_posix()
            record = ImageRecord(
                self.run, picture.source, image_id(item.relative), width, height, name, annotations=masks
            )
            return _Result(record, picture)

        return lambda items: [look(item) for item in items]


@dataclass
class _Store:
    """Writes pictures, then the record: where there is a record, everything is there."""

    formats: frozenset[Picture]
    overlay: bool
    masks: int = 0

    def __call__(self, paths: OutputPaths, result: _Result) -> None:
        record, pixels = result.record, result.picture.pixels
        if Picture.PNG in self.formats:
            write_masks_folder(paths.masks, record.annotations)
        if Picture.LABELMAP in self.formats:
            labels = label_map([mask.segmentation for mask in record.annotations], pixels.shape[:2])
            write_bytes(paths.labelmap, encode_png(labels))
        if self.overlay:
            from samcli.viz.overlay import overlay  # slow to import

            drawn = overlay(pixels, [mask.segmentation for mask in record.annotations])
            write_bytes(paths.overlay, encode_jpeg(drawn))
        write_record(paths.record, record)
        self.masks += len(record.annotations)

    def counts(self) -> dict[str, int]:
        return {"masks": self.masks}
