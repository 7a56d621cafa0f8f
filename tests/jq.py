"""What the documents use of jq, for machines without it: `[-c] '.a[0].b | {c, d}'`."""

from __future__ import annotations

import json
import re
import sys
from typing import Any


def query(program: str, value: Any) -> Any:
    """Apply paths and object constructions of plain names, joined by pipes."""
    for part in (part.strip() for part in program.split("|")):
        if part.startswith("{"):
            value = {name: value[name] for name in re.findall(r"\w+", part)}
            continue
        if not re.fullmatch(r"(\.\w+|\[\d+\])+", part):
            raise SystemExit(f"jq: not known here: {part}")
        for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", part):
            value = value[name] if name else value[int(index)]
    return value


if __name__ == "__main__":
    *options, program = sys.argv[1:]
    for line in sys.stdin:
        print(json.dumps(query(program, json.loads(line)), indent=None if "-c" in options else 2))
