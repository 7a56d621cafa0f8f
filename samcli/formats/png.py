"""Masks as pictures: single masks, label maps, cut-outs, and folders like those of SAM's amg.py."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from samcli.formats.atomic import new_folder, write_text
from samcli.masks import decode_rle
from samcli.records import RLE, MaskRecord

METADATA = (
    "id", "area", "bbox_x0", "bbox_y0", "bbox_w", "bbox_h", "point_input_x", "point_input_y",
    "predicted_iou", "stability_score", "crop_box_x0", "crop_box_y0", "crop_box_w", "crop_box_h",
)  # fmt: skip
"""Columns of metadata.csv, named as amg.py names them."""


_KEYWORD = "samcli"  # of the PNG text chunk


def encode_png(
    pixels: NDArray[np.bool_] | NDArray[np.uint8] | NDArray[np.uint16], *, said: str | None = None
) -> bytes:
    """PNG bytes of (H, W) bool as 0 and 255, of (H, W) uint8 or uint16, or of RGB(A) (H, W, 3 or 4) uint8.

    said: how the picture was made, for `png_said`.
    """
    buffer, notes = io.BytesIO(), PngInfo()
    if said is not None:
        notes.add_text(_KEYWORD, said)
    if pixels.dtype == bool:  # runs pack masks as well as anything else, and in half the time
        picture = Image.fromarray(pixels.astype(np.uint8) * 255)
        picture.save(buffer, "PNG", compress_type=zlib.Z_RLE, compress_level=1, pnginfo=notes)
    else:
        Image.fromarray(pixels).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def png_said(path: Path) -> str | None:
    """What `encode_png` noted in a file; None when there is no such file or note."""
    try:
        with Image.open(path) as picture:
            said = picture.info.get(_KEYWORD)
            return None if said is None else str(said)
    except (OSError, ValueError, SyntaxError):
        return None


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of an RGB picture (H, W, 3) uint8, for people to look at."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def cutout(image: NDArray[np.uint8], masks: Sequence[RLE | NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """The picture where any mask is, transparent black elsewhere: (H, W, 4) uint8 RGBA of the image's size.

    image: (H, W, 3) uint8. masks: (H, W) each.
    """
    inside = np.zeros(image.shape[:2], bool)
    for mask in masks:
        inside |= _bits(mask)
    return np.dstack([image, np.full_like(image[:, :, 0], 255)]) * inside[:, :, None]


def _bits(mask: RLE | NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask if isinstance(mask, np.ndarray) else decode_rle(mask)


def write_masks_folder(folder: Path, masks: Sequence[MaskRecord], *, inclusive: bool = False) -> None:
    """Write `<i>.png` (0 and 255) for every mask and metadata.csv, as one folder that replaces an older one.

    inclusive: width and height of the bbox are one less than the extent, as amg.py's. point_input is the
    mask's first point; what a mask does not have is left empty. Raises SamcliError when that fails.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(METADATA)
    with new_folder(folder) as temporary:
        for i, mask in enumerate(masks):
            (temporary / f"{i}.png").write_bytes(encode_png(decode_rle(mask.segmentation)))
            x, y, width, height = mask.bbox
            box = (x, y, width - inclusive, height - inclusive)
            point = mask.point_coords[0] if mask.point_coords else ("", "")
            crop = mask.crop_box or ("", "", "", "")
            scores = ["" if score is None else score for score in (mask.predicted_iou, mask.stability_score)]
            rows.writerow([i, mask.area, *box, *point, *scores, *crop])
        write_text(temporary / "metadata.csv", table.getvalue())
