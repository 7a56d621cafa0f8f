"""What `samcli convert` writes, for programs of others to read. They need no torch, and nor does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from specimens import many, write_photos, write_records

from samcli.cli import main
from samcli.records import ImageRecord

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def records() -> list[ImageRecord]:
    return many()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, records: list[ImageRecord]) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), records)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, records: list[ImageRecord]) -> Export:
    """The records in a format, by the command: `export("coco", "--polygons")` is the folder."""
    source = write_records(tmp_path_factory.mktemp("records"), records)

    def run(name: str, *options: object) -> Path:
        place = tmp_path_factory.mktemp(name)
        words = ["convert", source, "--to", name, "-o", place, *options]
        assert main([str(word) for word in words]) == 0
        return place

    return run
