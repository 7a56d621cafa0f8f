"""`samcli convert` needs no torch, and imports none."""

from __future__ import annotations

import subprocess
import sys

import pytest
from specimens import golden, write_photos, write_records

from samcli.formats.table import FORMATS

pytestmark = pytest.mark.slow

WITHOUT = """
import sys
sys.modules["torch"] = None
from samcli.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", FORMATS)
def test_convert(name, tmp_path):
    records = write_records(tmp_path / "records", golden())
    photos = write_photos(tmp_path / "photos", golden())
    place = tmp_path / "place"
    place.mkdir()
    file = FORMATS[name].file
    back = tmp_path / "back.jsonl"
    for words in (
        ["convert", records, "--to", name, "-o", place],
        ["convert", place / file if file else place, "--from", name, "--to", "jsonl", "-o", back],
    ):
        command = [sys.executable, "-c", WITHOUT, *map(str, words), "--images", str(photos), "-q"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
