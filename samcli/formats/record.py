"""The canonical record file: SA-1B's JSON with its provenance first, one mask a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samcli.errors import SamcliError
from samcli.formats.atomic import write_text
from samcli.records import ImageRecord, Run


def write_record(path: Path, record: ImageRecord) -> None:
    """Write a record atomically. Raises SamcliError when that fails."""
    write_text(path, record_text(record))


def record_text(record: ImageRecord) -> str:
    """The text of a record file: keys in the contract's order, each mask on a line of its own.

    The head stands alone on the first line, so that reading one line is enough to decide about resuming.
    """
    data = record.to_json()
    head, image = _compact(data["samcli"]), _compact(data["image"])
    masks = ",".join(f"\n  {_compact(mask)}" for mask in data["annotations"])
    return f'{{"samcli": {head},\n "image": {image},\n "annotations": [{masks}]}}\n'


def read_record(path: Path) -> ImageRecord:
    """Read a record file. Raises SamcliError, naming the file, when it is missing or not a record of ours."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SamcliError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except ValueError as error:
        raise SamcliError(
            f"{path} is not a samcli record: {error}; write it again with --overwrite"
        ) from error
    try:
        return ImageRecord.from_json(data)
    except SamcliError as error:
        raise SamcliError(f"{path}: {error}") from error


def write_error(path: Path, run: Run, relative: str, message: str) -> None:
    """Write why an image failed, in place of its record and with the head it would have had.

    relative: the image's path relative to its root. Raises SamcliError when that fails.
    """
    head = {**run.to_json(), "input": {"path": relative}}
    write_text(path, f'{{"samcli": {_compact(head)},\n "error": {_compact(message)}}}\n')


def config_hash(command: str, weights_sha256: str, config: Mapping[str, Any], dtype: str) -> str:
    """sha256 of all that changes masks, as JSON with sorted keys and without spaces: the same for equal runs.

    config: the resolved values that change masks, prompts included. dtype: of the network, such as "fp32".
    """
    what = {"command": command, "weights_sha256": weights_sha256, "config": config, "dtype": dtype}
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
