"""What the embedded tagger may say of its own accord: the things that it learned photos of. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.errors import WeightsError


class Name(NamedTuple):
    """A thing. word: what it is called. also: its other names. kinds: words for what it is a kind of."""

    word: str
    also: tuple[str, ...]
    kinds: tuple[str, ...]


def kinds_of(names: Sequence[Name]) -> NDArray[np.bool_]:
    """(N, N), whether the first thing is a kind of the second."""
    own = [{name.word, *name.also} for name in names]
    return np.array([[bool(own[b] & set(name.kinds)) for b in range(len(names))] for name in names])


@cache
def read_thing_names(path: Path) -> tuple[Name, ...]:
    """Read a file that `write_thing_names` wrote. Raises WeightsError when it is missing or damaged."""
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Name(word, tuple(also), tuple(kinds)) for word, also, kinds in lists)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); reinstall samcli") from error


def write_thing_names(path: Path, names: Sequence[Name]) -> None:
    """Write names as JSON, a line each."""
    lines = ",\n".join(json.dumps(name, ensure_ascii=False) for name in names)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
