"""Records of annotate, drawn by hand: boxes of pixels in small images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from samcli.formats.names import image_id
from samcli.formats.record import write_record
from samcli.formats.select import mask_of
from samcli.masks import encode_rle
from samcli.records import RLE, ImageRecord, InputFile, MaskRecord, Notes, Run

SIZE = (20, 30)  # height, width
CONFIG = {"tagger": "blip", "detector": "tiny", "box_threshold": 0.2, "text_threshold": None, "nms": 0.7}
RUN = Run("annotate", "0.0.0", "vit_h", "0" * 64, CONFIG, "1" * 64)

NOTHING = Notes()


def rle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> RLE:
    """The pixels of a box."""
    bits = np.zeros(size, bool)
    bits[y0:y1, x0:x1] = True
    return encode_rle(bits)


def box(
    category: str | None, score: float | None, *xyxy: int, size: tuple[int, int] = SIZE, id: int | None = None
) -> MaskRecord:
    """A mask of all pixels of a box."""
    x0, y0, x1, y1 = xyxy
    return mask_of(rle(x0, y0, x1, y1, size), id=id, category=category, score=score)


def image(name: str, *masks: MaskRecord, notes: Notes = NOTHING, size: tuple[int, int] = SIZE) -> ImageRecord:
    """A record as annotate writes it."""
    source = InputFile(name, 100, "2" * 64)
    number = image_id(PurePosixPath(name))
    return ImageRecord(RUN, source, number, size[1], size[0], name, masks, notes)


def write(place: Path, *records: ImageRecord) -> Path:
    """Write records where a build looks for them."""
    for record in records:
        write_record(place / "records" / PurePosixPath(record.file_name).with_suffix(".json"), record)
    (place / "records").mkdir(parents=True, exist_ok=True)
    return place
