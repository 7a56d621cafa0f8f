"""Damaged and hostile files of every format: an exit code and lines for people, never a traceback."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from specimens import golden, write_photos

from samcli.formats.table import FORMATS

GOLDEN = Path(__file__).parents[1] / "golden"
LONGEST = sorted(FORMATS, key=len, reverse=True)
NUMBERS = [
    b"-1",
    b"0",
    b"1e999",
    b"1e300",
    b"NaN",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"9" * 25,
    b"99999",
    b"0.5",
]


def damaged(data: bytes, turn: random.Random) -> bytes:
    """Cut short, with bytes of another value, or with another value in place of a number."""
    kind = turn.randrange(4)
    if kind == 0:
        return data[: turn.randrange(len(data) + 1)]
    if kind == 1 and (digits := [i for i, byte in enumerate(data) if 48 <= byte <= 57]):
        start = end = turn.choice(digits)
        while data[end : end + 1].isdigit():
            end += 1
        return data[:start] + turn.choice(NUMBERS) + data[end:]
    changed = bytearray(data)
    for _ in range(1 if kind == 2 else 8):
        if changed:
            changed[turn.randrange(len(changed))] = turn.randrange(256)
    return bytes(changed)


def check(result, place: Path) -> None:
    code, out, err = result
    assert code in (0, 1, 3), err
    lines = err.splitlines()
    assert not re.search(r"unexpected \w+ in \w+\.py", err), err
    assert out == ""
    failed = [line for line in lines if line.startswith("failed: ")]
    if code == 0:
        assert not failed
    if code == 1:
        assert lines[-1].startswith("error: ")
        assert not place.exists()
    if code == 3:
        assert failed
    assert len(lines) == len(failed) + 1, err


@pytest.mark.parametrize("turns", [1, pytest.param(20, marks=pytest.mark.slow)])  # damages of each file
@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_damaged_files(case, turns, samcli, tmp_path):
    photos = write_photos(tmp_path / "photos", golden())
    turn = random.Random(case)
    number = 0
    for path in sorted(path for path in (GOLDEN / case).rglob("*") if path.is_file()):
        for _ in range(turns):
            number += 1
            source = shutil.copytree(GOLDEN / case, tmp_path / f"{number}")
            (source / path.relative_to(GOLDEN / case)).write_bytes(damaged(path.read_bytes(), turn))
            place = tmp_path / f"{number}.jsonl"
            how = ["--from", next(name for name in LONGEST if case.startswith(name))]
            how = how if turn.random() < 0.5 else []  # recognised
            check(samcli("convert", source, "--to", "jsonl", "-o", place, "--images", photos, *how), place)
            shutil.rmtree(source)
