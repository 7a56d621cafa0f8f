"""Overlays of what a dataset holds, drawn again only where it changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from samcli.formats.atomic import write_bytes
from samcli.formats.files import json_bytes
from samcli.formats.png import encode_jpeg
from samcli.formats.table import Photos
from samcli.records import ImageRecord, MaskRecord

_MARK = b"samcli annotate "
_START = b"\xff\xd8\xff\xfe"  # a JPEG whose first segment is a comment


def draw(path: Path, record: ImageRecord, masks: Sequence[MaskRecord], photos: Photos) -> None:
    """Write the overlay of masks on a record's photo, unless it is there: of this photo, with these masks.

    What it shows stands in the JPEG's comment, as a hash. Raises SamcliError for a photo that is gone.
    """
    photo = record.input.sha256 if record.input else ""
    shown = hashlib.sha256(json_bytes([photo, *(mask.to_json() for mask in masks)])).hexdigest()
    comment = _MARK + shown.encode()
    head = _START + (len(comment) + 2).to_bytes(2, "big") + comment
    if _begins_with(path, head):
        return
    from samcli.viz.overlay import overlay  # slow to import

    picture = encode_jpeg(overlay(photos.pixels(record.file_name), masks))
    write_bytes(path, head + picture[2:])


def is_ours(path: Path) -> bool:
    """Whether `draw` wrote a file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_START) + 2 + len(_MARK)).endswith(_MARK)
    except OSError:
        return False


def _begins_with(path: Path, head: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False
