"""Names of classes: of files that lie beside boxes, and of COCO's categories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samcli.errors import SamcliError
from samcli.formats.json_stream import JsonStream

_LEVELS = 3  # a dataset has data.yaml, and below it labels/train/ or train/labels/


@dataclass(frozen=True)
class Labels:
    """Names of classes, in order or by id.

    source: where they stand, for errors. ordered: by position, None where there is none; what the first one's
    id is, depends on where the ids come from. ids: names by id, when they have ids of their own.
    """

    source: str
    ordered: tuple[str | None, ...] = ()
    ids: Mapping[int, str] = field(default_factory=dict)

    def from_id(self, first: int) -> dict[int, str]:
        """The names by id. first: the id of the first one of an order."""
        return {
            **{i: name for i, name in enumerate(self.ordered, start=first) if name is not None},
            **self.ids,
        }


def read_labels(path: Path) -> Labels:
    """Read a data.yaml, the categories of COCO's JSON, or a name on each line. Raises SamcliError."""
    found = _read(path)
    if not (found.ordered or found.ids):
        raise SamcliError(f"{path} has no names of classes")
    return found


def beside(folder: Path) -> Labels | None:
    """The names in data.yaml or classes.txt, in a folder of labels or up to two above it; None without."""
    for place in [folder, *Path(os.path.abspath(folder)).parents][:_LEVELS]:  # noqa: PTH100 - as it is named
        for name in ("data.yaml", "classes.txt"):
            path = place / name
            if path.is_file():
                found = _read(path)
                if found.ordered or found.ids:
                    return found
    return None


def _read(path: Path) -> Labels:
    suffix = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig") as file:
            if suffix == ".json":
                return Labels(str(path), ids=_categories(JsonStream(file)))
            text = file.read()
    except OSError as error:
        raise SamcliError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise SamcliError(f"{path} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise SamcliError(f"{path} is not JSON: {error}") from error
    if suffix in (".yaml", ".yml"):
        return _of_yaml(path, text)
    return Labels(str(path), tuple(line.strip() or None for line in text.rstrip().splitlines()))


def _of_yaml(path: Path, text: str) -> Labels:
    import yaml  # slow to import

    try:
        data = yaml.load(text, Loader=yaml.BaseLoader)  # all text: a class may be called no, or 1.0
    except (yaml.YAMLError, RecursionError) as error:
        raise SamcliError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    names = data.get("names") if isinstance(data, dict) else None
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
    try:
        by_id = {int(key): _text(name) for key, name in pairs}
    except ValueError as error:
        raise SamcliError(f"names in {path} are neither a list of names nor names by number") from error
    ordered = sorted(by_id) == list(range(len(by_id)))
    if ordered:
        return Labels(str(path), tuple(by_id[i] for i in range(len(by_id))))
    return Labels(str(path), ids=by_id)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value


def _categories(json: JsonStream) -> dict[int, str]:
    """The categories of a COCO file."""
    found: dict[int, str] = {}
    for key in json.members():
        if key == "categories":
            values = json.value()
            for category in values if isinstance(values, list) else ():
                if isinstance(category, dict) and type(category.get("id")) is int:
                    found[category["id"]] = str(category.get("name", ""))
        else:
            json.skip()
    return found
