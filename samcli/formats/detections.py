"""Boxes as `ground --boxes-only` writes them: COCO's results, which `samcli.formats.boxes` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from samcli.formats.atomic import write_bytes
from samcli.formats.boxes import Detection
from samcli.formats.files import json_bytes
from samcli.formats.names import image_id
from samcli.records import InputFile, Run


def entry(image: PurePosixPath, box: Detection) -> dict[str, Any]:
    """A box in pixels as an entry of COCO's results, with names beside the numbers. image: below its root."""
    x, y, w, h = box.numbers
    return {
        "image_id": image_id(image),
        "file_name": image.as_posix(),
        "category_id": box.category_id,
        "category": box.category,
        "bbox": [x, y, w, h],
        "score": box.score,
    }


def write_results(
    path: Path, run: Run, source: InputFile, image: PurePosixPath, boxes: Sequence[Detection]
) -> None:
    """Write the boxes of an image as JSON Lines, after a line that says what made them of which file, for
    `samcli.formats.record.read_head`.

    Raises SamcliError when that fails.
    """
    given = {"path": source.path, "bytes": source.bytes, "sha256": source.sha256}
    lines = [{"samcli": {**run.to_json(), "input": given}}, *(entry(image, box) for box in boxes)]
    write_bytes(path, b"".join(json_bytes(line) + b"\n" for line in lines))
