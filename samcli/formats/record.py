"""The canonical record file: SA-1B's JSON with its provenance first, one mask a line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from samcli.errors import SamcliError
from samcli.formats.atomic import write_text
from samcli.records import SCHEMA, ImageRecord, InputFile, Run

UNHASHED = ("points_per_batch",)
"""What a configuration holds that changes no masks."""

_END = b"]}\n"  # of every record


def write_record(path: Path, record: ImageRecord) -> None:
    """Write a record atomically. Raises SamcliError when that fails."""
    write_text(path, record_text(record))


def record_text(record: ImageRecord) -> str:
    """The text of a record file: keys in the contract's order, each mask on a line of its own.

    The head stands alone on the first line, so that reading one line is enough to decide about resuming.
    """
    return _text(record, "annotations", [mask.to_json() for mask in record.annotations])


def write_rows(path: Path, record: ImageRecord, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write, atomically, what was measured in an image: the head of a record, then `rows` in place of masks.

    Raises SamcliError when that fails.
    """
    write_text(path, _text(record, "rows", rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote. Raises SamcliError, naming the file."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise SamcliError(f"{path} cannot be read ({error}); write it again with --overwrite") from error
    return rows


def _text(record: ImageRecord, name: str, parts: Sequence[Mapping[str, Any]]) -> str:
    data = record.to_json()
    head = f'"samcli": {_compact(data["samcli"])},\n ' if "samcli" in data else ""
    lines = ",".join(f"\n  {_compact(part)}" for part in parts)
    return f'{{{head}"image": {_compact(data["image"])},\n "{name}": [{lines}]}}\n'


def read_record(path: Path) -> ImageRecord:
    """Read a record file. Raises SamcliError, naming the file, when it is missing or not a record of ours."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SamcliError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise SamcliError(
            f"{path} is not a samcli record: {error}; write it again with --overwrite"
        ) from error
    try:
        return ImageRecord.from_json(data)
    except SamcliError as error:
        raise SamcliError(f"{path}: {error}") from error


class Head(NamedTuple):
    """What a record or a note of failure says before its masks.

    path: of the image, relative to its root. source: None when it could not be read. reason: why the image
    failed, "" in a record.
    """

    run: Run
    path: str
    source: InputFile | None
    reason: str = ""


def read_head(path: Path, *, lines: bool = False) -> Head | None:
    """Read the head of a record, no more than its first line; None when there is no record, or half of one.

    lines: the file is JSON Lines, and the head one of them. Raises SamcliError, naming the file, when it is
    something else.
    """
    try:
        with path.open("rb") as file:
            line = file.readline()
            end = b"}\n" if lines else _END
            file.seek(-min(file.seek(0, os.SEEK_END), len(end)), os.SEEK_END)
            whole = file.read() == end
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise SamcliError(f"{path} cannot be read: {error.strerror}; choose another output") from error
    start = b'{"samcli": '
    if not line.startswith(start[: len(line)]):
        raise SamcliError(f"{path} is not a record of samcli; choose another output, or add --overwrite")
    try:
        data = json.loads(line if lines else line.rstrip(b",\n") + b"}")
    except ValueError:
        return None
    if not isinstance(data.get("samcli"), dict):
        return None
    schema = data["samcli"].get("schema")
    if schema != SCHEMA:
        raise SamcliError(f"{path} has the record schema {schema}, unknown here; choose another output")
    return _head(data, "") if whole else None


def write_error(path: Path, run: Run, relative: PurePosixPath, source: InputFile | None, reason: str) -> None:
    """Write why an image failed, in place of its record and with the head it would have had.

    relative: the image's path relative to its root. source: the file, if it could be read.
    Raises SamcliError when that fails.
    """
    given = {"path": str(relative)} if source is None else asdict(source)
    head = {**run.to_json(), "input": given}
    write_text(path, f'{{"samcli": {_compact(head)},\n "error": {_compact(reason)}}}\n')


def read_error(path: Path) -> Head | None:
    """Read what `write_error` wrote; None when there is no such file, or another one."""
    try:
        data = json.loads(path.read_bytes())
        return _head(data, data["error"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def difference(old: Run, new: Run) -> str:
    """How `old` differs from `new` in what changes masks, for people; "" when it does not."""
    if old.config_hash == new.config_hash:
        return ""
    if old.command != new.command:
        return f"made by {old.command}, not {new.command}"
    if old.weights_sha256 != new.weights_sha256:
        other = f"made with the model {old.model}"
        return other + (", other weights of that name" if old.model == new.model else f", not {new.model}")
    changed = [name for name in {**new.config, **old.config} if old.config.get(name) != new.config.get(name)]
    if "prompts" in changed or not changed:
        return "made with other prompts"
    values = [f"{n} {_value(old, n)}, not {_value(new, n)}" for n in changed if n not in UNHASHED]
    return "made with " + "; ".join(values[:3]) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def brief(value: Any) -> str:
    """A configuration's value for people: of a long list no more than its beginning."""
    if isinstance(value, list) and len(value) > 5:
        return f"[{', '.join(map(repr, value[:3]))}, ... {len(value)} in all]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(run: Run, name: str) -> str:
    return brief(run.config.get(name, "unset"))


def _head(data: Any, reason: str) -> Head | None:
    try:
        head = dict(data["samcli"])
        if head.pop("schema") != SCHEMA:
            return None
        source = head.pop("input")
        read = InputFile(**source) if "sha256" in source else None
        return Head(Run(**head), str(source["path"]), read, str(reason))
    except (LookupError, TypeError, ValueError):
        return None


def config_hash(command: str, weights_sha256: str, config: Mapping[str, Any]) -> str:
    """sha256 of all that changes masks, as JSON with sorted keys and without spaces: the same for equal runs.

    config: the resolved values that change masks, precision and prompts included.
    """
    what = {"command": command, "weights_sha256": weights_sha256, "config": config}
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
