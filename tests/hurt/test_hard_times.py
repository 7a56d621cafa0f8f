"""Runs that are killed, stopped, cramped and confused; what must hold afterwards. Slow: real processes."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samcli import images
from samcli.errors import SamcliError
from samcli.formats.record import read_record

pytestmark = pytest.mark.slow

QUICK = ("--points-per-side", "4", "--pred-iou-thresh", "0.2", "--stability-score-thresh", "0.5", "-q")
KILLS = 50


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Different pictures with something in them, as JPEG."""
    generator = np.random.default_rng(5)
    made = []
    for _ in range(30):
        y, x = np.mgrid[:120, :160]
        picture = np.stack([60 + x, 90 + y, np.full_like(x, 140)], axis=2).astype(np.uint8)
        for _ in range(4):
            cx, cy, r = generator.integers([10, 10, 8], [150, 110, 40])
            picture[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = generator.integers(0, 256, 3)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


@pytest.fixture
def photos(tmp_path: Path, pictures: list[bytes]) -> Path:
    """30 photos in two folders, two of them broken."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, data in enumerate(pictures):
        (folder / ("sub" if i % 3 == 0 else "") / f"{i:02}.jpg").write_bytes(data)
    (folder / "07.jpg").write_bytes(pictures[7][:900])
    (folder / "sub" / "15.jpg").write_bytes(b"")
    return folder


def start(out: Path, *args: object, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """`samcli automask photos -o out` in the folder of `out`, with pictures beside the records."""
    command = [sys.executable, "-m", "samcli", "automask", "photos", "-o", out.name, *QUICK]
    command += ["--overlay", "--format", "png", *map(str, args)]
    return subprocess.Popen(
        command,
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,  # noqa: PLW1509 - these tests have no threads
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def records(folder: Path) -> list[Path]:
    """The records so far; `Path.rglob` stumbles over folders that go away while a run works there."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [path for path in files if path.suffix == ".json" and not path.name.endswith(".error.json")]


def wait_for_records(out: Path, process: subprocess.Popen[str], count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(records(out)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.003)


@pytest.fixture
def undisturbed(photos: Path) -> tuple[dict[str, bytes], float]:
    """What a run writes that nothing happens to, and its seconds after the first record."""
    out = photos.parent / "undisturbed"
    process = start(out)
    wait_for_records(out, process)
    first = time.monotonic()
    code, _, err = finish(process)
    seconds = time.monotonic() - first
    assert (code, len(err.splitlines())) == (3, 2)
    files = tree(out)
    assert sum(name.endswith(".error.json") for name in files) == 2
    assert sum(name.endswith(".overlay.jpg") for name in files) == 28
    return files, seconds


def test_a_run_killed_at_any_time_can_be_resumed(
    photos: Path, undisturbed: tuple[dict[str, bytes], float], capsys: pytest.CaptureFixture[str]
) -> None:
    expected, seconds = undisturbed
    found, left_over = [], 0
    for i in range(KILLS):
        out = photos.parent / f"killed{i}"
        process = start(out)
        wait_for_records(out, process)
        time.sleep(seconds * i / KILLS)
        process.kill()
        process.communicate()
        found.append(len(records(out)))
        left_over += any(".samcli-tmp-" in str(path) for path in out.rglob("*"))
        for path in records(out):
            read_record(path)
        assert finish(start(out))[0] == 3
        assert tree(out) == expected, f"kill {i}, after {found[-1]} records"
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    with capsys.disabled():
        print(f"\n{KILLS} kills found {found} records of 28; {left_over} left temporary files")
    assert min(found) <= 3
    assert len(set(found)) >= 10


def test_a_run_that_is_told_to_stop_can_be_resumed(
    photos: Path, undisturbed: tuple[dict[str, bytes], float]
) -> None:
    expected, _ = undisturbed
    found = []
    for i in range(8):
        out = photos.parent / f"stopped{i}"
        process = start(out)
        wait_for_records(out, process, 1 + 3 * i)  # of 28
        process.send_signal(signal.SIGTERM)
        code, stdout, err = finish(process)
        assert (code, stdout, err.splitlines()[-1]) == (143, "", "error: stopped by SIGTERM")
        partial = tree(out)
        assert not [name for name in partial if ".samcli-tmp-" in name]
        assert partial.items() <= expected.items()
        found.append(len(records(out)))
        assert finish(start(out))[0] == 3
        assert tree(out) == expected
    assert len(set(found)) >= 4


def test_two_runs_into_one_folder_at_once(photos: Path, undisturbed: tuple[dict[str, bytes], float]) -> None:
    expected, _ = undisturbed
    out = photos.parent / "shared"
    for code, _, err in [finish(process) for process in [start(out), start(out), start(out)]]:
        assert code == 3, err
        assert err.count("failed: ") == 2, err
    assert tree(out) == expected


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False)
    if done.returncode:
        pytest.skip("only root can mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(
    photos: Path, undisturbed: tuple[dict[str, bytes], float]
) -> None:
    expected, _ = undisturbed
    out = photos.parent / "small"
    with mounted(out, "size=400k"):
        code, _, err = finish(start(out))
        assert code == 1
        last = err.splitlines()[-1]
        assert last.startswith("error: cannot write small/")
        assert last.endswith(": No space left on device; free space and run again")
        assert tree(out).items() <= expected.items()
        assert 0 < len(records(out)) < 28
        subprocess.run(["mount", "-o", "remount,size=40m", out], check=True)
        assert finish(start(out))[0] == 3
        assert tree(out) == expected


def test_a_limit_on_files_stops_the_run(photos: Path) -> None:
    out = photos.parent / "limited"
    code, _, err = finish(start(out, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))))
    assert code == 1
    assert err.splitlines()[-1].endswith(": File too large; free space and run again")
    assert all(len(data) <= 2000 for data in tree(out).values())
    assert not [name for name in tree(out) if ".samcli-tmp-" in name]


def test_an_output_that_is_read_only(photos: Path) -> None:
    out = photos.parent / "locked"
    with mounted(out, "ro"):
        code, stdout, err = finish(start(out))
        assert (code, stdout, list(out.iterdir())) == (1, "", [])
        assert err.splitlines()[-1].startswith("error: cannot write locked/")
        assert err.splitlines()[-1].endswith("the disk is read-only; choose another output")
        assert "Traceback" not in err


def test_a_folder_that_changes_while_the_run_goes_on(photos: Path, pictures: list[bytes]) -> None:
    """Files come, go, are renamed and replaced; the run ends well, and another one makes all good."""
    out = photos.parent / "changing"
    process = start(out)
    wait_for_records(out, process)
    chance = random.Random(3)
    for i in range(60):
        files = sorted(path for path in photos.rglob("*.jpg"))
        victim = chance.choice(files)
        match i % 4:
            case 0:
                (photos / f"new{i}.jpg").write_bytes(chance.choice(pictures))
            case 1:
                victim.unlink()
            case 2:
                victim.rename(victim.with_name(f"moved{i}.jpg"))
            case 3:
                victim.write_bytes(chance.choice(pictures))
        time.sleep(0.05)
    code, _, err = finish(process)
    assert code == 3
    assert "Traceback" not in err
    for line in err.splitlines():
        assert line.startswith("failed: "), err
    assert finish(start(out, "--retry-failed"))[0] in (0, 3)
    fresh = photos.parent / "fresh"
    finish(start(fresh))
    there = tree(out)
    for name, data in tree(fresh).items():
        assert there[name] == data, name


def damaged(data: bytes, chance: random.Random, kind: str) -> bytes:
    match kind:
        case "truncated":
            return data[: chance.randrange(1, len(data) - 200)]
        case "flipped":
            flipped = bytearray(data)
            for _ in range(30):
                flipped[chance.randrange(len(data) // 2)] ^= 1 << chance.randrange(8)
            return bytes(flipped)
        case "no image":
            return bytes(chance.randrange(256) for _ in range(chance.randrange(3000)))
    bomb = io.BytesIO()  # a PNG whose header says 60000 x 60000
    Image.new("1", (8, 8)).save(bomb, "PNG")
    header = bytearray(bomb.getvalue())
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    return bytes(header)


def test_corrupt_files_are_named_once_and_stop_nothing(tmp_path: Path, pictures: list[bytes]) -> None:
    chance, folder = random.Random(11), tmp_path / "photos"
    folder.mkdir()
    kinds = ("truncated", "flipped", "no image", "bomb")
    broken = set()
    for i in range(400):
        data, name = pictures[i % 30], f"{i:03}.jpg"
        if i % 33 == 7:  # 3 %
            data = damaged(data, chance, kinds[i // 33 % 4])
        (folder / name).write_bytes(data)
        try:
            images.load(folder / name)
        except SamcliError:
            broken.add(name)
    assert len(broken) >= 10
    out = tmp_path / "out"
    code, stdout, err = finish(start(out, "--json"))
    assert code == 3
    summary = json.loads(stdout)
    assert (summary["images"], summary["done"]) == (400, 400 - len(broken))
    assert {Path(failure["path"]).name for failure in summary["failed"]} == broken
    lines = err.splitlines()
    assert len(lines) == len(broken)
    for name in broken:
        assert sum(f"photos/{name}" in line for line in lines) == 1
    assert {p.name.removesuffix(".error.json") + ".jpg" for p in out.glob("*.error.json")} == broken
    assert {p.name.removesuffix(".json") + ".jpg" for p in records(out)} == {
        path.name for path in folder.iterdir()
    } - broken
