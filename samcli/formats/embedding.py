"""The head of an embedding file: what made it, of which image. Its tensors are for `samcli.predictor`."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from samcli.errors import SamcliError
from samcli.formats.record import Head, config_hash
from samcli.records import InputFile, Run

_START = b'{"__metadata__":{'


def stable(data: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted; the library's order is another each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_embedding_head(path: Path) -> Head | None:
    """What `samcli embed` wrote; None when there is no file, or half of one. Its input's size is not known.

    Raises SamcliError, naming the file, when it is something else.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, size))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise SamcliError(f"{path} cannot be read: {error.strerror}; choose another output") from error
    if len(text) < length < 2**20 and _START.startswith(text[: len(_START)]):
        return None  # half of one
    try:
        header = json.loads(text)
        known = header.pop("__metadata__")
        weights, config, image = known["weights_sha256"], {"dtype": known["dtype"]}, known["image_sha256"]
        run = Run("embed", "", known["model"], weights, config, config_hash("embed", weights, config))
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if size == 0:
            return None
        raise SamcliError(
            f"{path} is not an embedding that samcli wrote; choose another output, or add --overwrite"
        ) from error
    return Head(run, "", InputFile("", 0, image)) if size == 8 + length + max(ends, default=0) else None
