"""The head of an embedding file: what made it, of which image. Its tensors are for `samcli.predictor`."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from samcli.errors import SamcliError
from samcli.formats.record import Head, config_hash
from samcli.records import InputFile, Run


def stable(data: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted; the library's order is another each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_embedding_head(path: Path) -> Head | None:
    """What `samcli embed` wrote; None when there is no file, or an empty one. Size and path are not known.

    Raises SamcliError, naming the file, when it is something else.
    """
    try:
        if path.stat().st_size == 0:
            return None
        with safe_open(path, framework="numpy") as file:
            known = file.metadata() or {}
        weights, config = known["weights_sha256"], {"dtype": known["dtype"]}
        run = Run("embed", "", known["model"], weights, config, config_hash("embed", weights, config))
        return Head(run, "", InputFile("", 0, known["image_sha256"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise SamcliError(
            f"{path} cannot be read: {error.strerror or error}; choose another output"
        ) from error
    except (SafetensorError, KeyError) as error:
        raise SamcliError(
            f"{path} is not an embedding that samcli wrote; choose another output, or add --overwrite"
        ) from error
