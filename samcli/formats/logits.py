"""Low-resolution logits between rounds of prompts: safetensors with one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes


def save_logits(path: Path, logits: NDArray[np.float32]) -> None:
    """Write logits (N, h, w) fp32, atomically. Raises SamcliError when that fails."""
    write_bytes(path, safetensors.numpy.save({"logits": np.ascontiguousarray(logits, dtype=np.float32)}))


def load_logits(path: Path) -> NDArray[np.float32]:
    """Read logits (N, h, w) fp32, as `save_logits` wrote them. Raises SamcliError for anything else."""
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
    except FileNotFoundError:
        raise SamcliError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype numpy does not have
        raise SamcliError(f"{path} is not a logits file ({error}); write one with --logits") from error
    logits = tensors.get("logits")
    if logits is None or logits.ndim != 3 or logits.dtype != np.float32 or not np.isfinite(logits).all():
        raise SamcliError(
            f"{path} has no `logits` of shape (N, h, w) with finite fp32 values; write some with --logits"
        )
    return logits
