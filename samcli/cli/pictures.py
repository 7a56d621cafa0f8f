"""Records in a folder with pictures beside them, which are made again when they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samcli.batch import Room
from samcli.cli.folder import FolderSink
from samcli.cli.inputs import read_picture
from samcli.cli.masking import Masked
from samcli.formats.atomic import new_folder, write_bytes
from samcli.formats.names import OutputPaths
from samcli.formats.png import cutout, encode_jpeg, encode_png, write_masks_folder
from samcli.formats.record import read_record, write_record
from samcli.formats.select import Flatten, label_map
from samcli.images import ImageFile
from samcli.records import ImageRecord, MaskRecord, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

NOTHING_FOUND = 5  # exit code with --fail-empty


@dataclass(frozen=True)
class Pictures:
    """What to draw beside a record: any of png, labelmap, cutout, overlay. max_pixels: of an image that is
    decoded for it.
    """

    kinds: frozenset[str]
    flatten: Flatten
    max_pixels: int

    def wanted(self, paths: OutputPaths) -> list[Path]:
        """Where they lie."""
        places = {
            "png": paths.masks,
            "labelmap": paths.labelmap,
            "cutout": paths.cutout,
            "overlay": paths.overlay,
        }
        return [path for kind, path in places.items() if kind in self.kinds]

    def write(
        self,
        paths: OutputPaths,
        which: list[Path],
        record: ImageRecord,
        pixels: NDArray[np.uint8] | None,
    ) -> None:
        """Write some of them. pixels: (H, W, 3) uint8, for the overlay and cut-outs."""
        masks = record.annotations
        if paths.masks in which:
            write_masks_folder(paths.masks, masks)
        if paths.labelmap in which:
            labels = label_map(masks, (record.height, record.width), self.flatten)
            write_bytes(paths.labelmap, encode_png(labels))
        if paths.cutout in which:
            assert pixels is not None
            write_cutouts(paths.cutout, pixels, masks)
        if paths.overlay in which:
            assert pixels is not None
            write_bytes(paths.overlay, encode_jpeg(drawn(pixels, masks)))

    def complete(self, paths: OutputPaths, item: ImageFile, room: Room) -> None:
        """Make again what is missing beside the record."""
        missing = [path for path in self.wanted(paths) if not path.exists()]
        if missing:
            record, pixels = read_record(paths.record), None
            if paths.overlay in missing or paths.cutout in missing:
                pixels = read_picture(item, self.max_pixels, room).pixels
            self.write(paths, missing, record, pixels)


@dataclass
class RecordSink(FolderSink[ImageFile, Masked]):
    """Writes pictures, then the record: where there is a record, everything is there."""

    made_by: Run
    pictures: Pictures

    def image(self, item: ImageFile) -> ImageFile:
        return item

    def run(self, item: ImageFile) -> Run:
        return self.made_by

    def others(self, paths: OutputPaths) -> tuple[Path, ...]:
        return (paths.masks, paths.labelmap, paths.overlay, paths.cutout, paths.cutout_png)

    def store(self, paths: OutputPaths, item: ImageFile, result: Masked) -> dict[str, int]:
        self.pictures.write(paths, self.pictures.wanted(paths), result.record, result.pixels)
        write_record(paths.record, result.record)
        return {"masks": len(result.record.annotations)}

    def complete(self, paths: OutputPaths, item: ImageFile, room: Room) -> None:
        self.pictures.complete(paths, item, room)

    def holds(self, paths: OutputPaths) -> bool:
        return bool(read_record(paths.record).annotations)


@dataclass
class NamedSink(RecordSink):
    """Writes records of masks of which some have names."""

    counted = ("masks", "names")

    def store(self, paths: OutputPaths, item: ImageFile, result: Masked) -> dict[str, int]:
        names = sum(mask.category is not None for mask in result.record.annotations)
        return {**super().store(paths, item, result), "names": names}

    def holds(self, paths: OutputPaths) -> bool:
        return any(mask.category is not None for mask in read_record(paths.record).annotations)


def write_cutouts(folder: Path, pixels: NDArray[np.uint8], masks: Sequence[MaskRecord]) -> None:
    """Write `<i>.png`, a cut-out, for each mask. pixels: (H, W, 3) uint8."""
    with new_folder(folder) as temporary:
        for i, mask in enumerate(masks):
            (temporary / f"{i}.png").write_bytes(encode_png(cutout(pixels, [mask.segmentation])))


def drawn(pixels: NDArray[np.uint8], masks: Sequence[MaskRecord]) -> NDArray[np.uint8]:
    """The overlay of masks on their image, (H, W, 3) uint8; names are written where masks have them."""
    from samcli.viz.overlay import overlay  # slow to import

    named = any(mask.category for mask in masks)
    return overlay(pixels, masks if named else [mask.segmentation for mask in masks])
