"""`samcli ground` with Grounding DINO from a hub: pulled, verified, used offline; a process each.

Its weights are random, so what it finds means nothing; but it must be the same every time, and named by what
was asked for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import detectors
import pytest
from conftest import Samcli
from PIL import Image
from server import FileServer, running

from samcli.cli import detector as shared
from samcli.formats.record import read_record

NAME = "grounding-dino-tiny"
LOW = ("--box-threshold", "0.05", "--text-threshold", "0")
Process = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def hub(random_detector: Callable[[str], Path]) -> Iterator[FileServer]:
    with running() as server:
        detectors.serve(server, random_detector("grounding-dino"), NAME)
        yield server


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with two of the examples, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos/sub").mkdir(parents=True)
    examples = Path(__file__).parents[2] / "examples"
    for name, target in (("coffee", "cup.jpg"), ("astronaut", "sub/who.jpg")):
        Image.open(examples / f"{name}.jpg").resize((300, 200)).save(Path("photos") / target)
    return Path("photos")


def test_pulled_verified_and_used_offline(samcli_process: Process, hub: FileServer, photos: Path) -> None:
    here = {
        "SAMCLI_HOME": str(Path("home").absolute()),
        "HF_HOME": str(Path("hf").absolute()),
        "HF_ENDPOINT": hub.address,
        "OMP_NUM_THREADS": "1",
    }
    run = f"samcli ground photos 'a cat. red car, dog' --detector {NAME} {' '.join(LOW)} -m tiny -q -o"
    missing = samcli_process(f"{run} out", **here)
    assert (missing.returncode, missing.stdout) == (4, b"")
    assert missing.stderr.decode().endswith(f"samcli models pull {NAME}\n")
    assert hub.asked == []

    pulled = samcli_process(f"samcli models pull {NAME} -q && samcli models verify {NAME}", **here)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{NAME}: sound, " in pulled.stdout.decode()

    hub.files.clear()
    hub.asked.clear()
    for name in ("out", "again"):
        done = samcli_process(f"{run} {name}", **here, HF_HUB_OFFLINE="1")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert hub.asked == []
    phrases = ["a cat", "red car", "dog"]
    for place in ("cup.json", "sub/who.json"):
        record = read_record(Path("out") / place)
        assert record.run
        assert (record.run.model, record.run.config["detector"]) == ("tiny", NAME)
        assert record.annotations
        for mask in record.annotations:
            assert mask.category_id
            assert mask.category == mask.phrase == phrases[mask.category_id - 1]
        assert Path("out", place).read_bytes() == Path("again", place).read_bytes()


@pytest.fixture
def ground(
    samcli: Samcli, photos: Path, random_detector: Callable[[str], Path]
) -> Callable[..., list[dict[str, object]]]:
    """Run with the random detector's folder; returns the annotations of all images."""
    shared._detector.cache_clear()
    folder = random_detector("grounding-dino")

    def run(*args: object) -> list[dict[str, object]]:
        result = samcli("ground", *args, "--detector", folder, "-m", "tiny", "-q", *LOW)
        assert (result.code, result.err) == (0, "")
        return [mask for line in result.out.splitlines() for mask in json.loads(line)["annotations"]]

    return run


def test_separators_mean_the_same_and_spaces_do_not_separate(
    ground: Callable[..., list[dict[str, object]]],
) -> None:
    plain = ground("photos/cup.jpg", "a dog . red car")
    assert plain
    assert {mask["category"] for mask in plain} <= {"a dog", "red car"}
    for text in ("a dog, red car", "a dog\nred car.", " A dog. . red car ."):
        found = ground("photos/cup.jpg", text)
        assert [mask["segmentation"] for mask in found] == [mask["segmentation"] for mask in plain]
    found = ground("photos/cup.jpg", "--labels", "a dog,red car")
    assert found == plain


@pytest.mark.parametrize("kind", ["grounding-dino", "owlv2"])
def test_a_phrase_that_cannot_be_asked_for_ends_the_run(
    samcli: Samcli, photos: Path, random_detector: Callable[[str], Path], kind: str
) -> None:
    """It is no fault of the images."""
    shared._detector.cache_clear()
    said = {"grounding-dino": "cannot read '猫'", "owlv2": "cannot look for"}[kind]
    phrase = {"grounding-dino": "猫", "owlv2": "q" * 200}[kind]
    for options in ((), ("-o", "out"), ("--boxes-only", "-o", "boxes"), ("-o", "found.jsonl")):
        result = samcli(
            "ground",
            photos,
            f"cat, {phrase}",
            "--detector",
            random_detector(kind),
            "-m",
            "tiny",
            *options,
            "-q",
        )
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: ")
        assert said in result.err
        assert result.err.count("\n") == 1
    assert sorted(path.name for path in Path().rglob("*") if path.is_file()) == ["cup.jpg", "who.jpg"]


@pytest.mark.slow
def test_several_devices_share_the_images(
    samcli: Samcli, photos: Path, random_detector: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker loads detector and model for itself; what was found counts wherever that was."""
    options = ("--detector", random_detector("grounding-dino"), "-m", "tiny", "--threads", "1", *LOW)
    assert samcli("ground", photos, "a dog", "-o", "alone", "-q", *options).code == 0
    monkeypatch.setattr("samcli.predictor.find_devices", lambda name: ("cpu", "cpu"))
    for _ in range(2):  # the second time from the records
        many = samcli(
            "ground", photos, "a dog", "-o", "out", "-q", "--device", "all", "--fail-empty", *options
        )
        assert many == (0, "", "")
    for place in ("cup.json", "sub/who.json"):
        assert Path("out", place).read_bytes() == Path("alone", place).read_bytes()


def test_tiles_and_boxes(ground: Callable[..., list[dict[str, object]]]) -> None:
    assert ground("photos", "a dog", "--tile", "128", "--max-detections", "7")
    some = ground("photos/cup.jpg", "a dog", "--max-detections", "7")
    assert len(some) <= 7
