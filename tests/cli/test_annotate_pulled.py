"""`samcli annotate` with a tagger and a detector from a hub: a process each, used offline, random weights.

What they say means nothing, but it must be the same every time, and things be named by words that were said.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import detectors
import pytest
import taggers
from PIL import Image
from server import running

from samcli.formats.record import read_record

Process = Callable[..., "subprocess.CompletedProcess[bytes]"]
LOW = "--box-threshold 0.05 --text-threshold 0 --tag-threshold 0"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with two of the examples and a damaged one, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos/sub").mkdir(parents=True)
    examples = Path(__file__).parents[2] / "examples"
    for name, target in (("coffee", "cup.jpg"), ("astronaut", "sub/who.jpg")):
        Image.open(examples / f"{name}.jpg").resize((300, 200)).save(Path("photos") / target)
    Path("photos/damaged.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return Path("photos")


@pytest.mark.parametrize(
    ("tagger", "kind", "labels"), [("blip", "blip", ""), ("siglip2", "siglip", "@500.txt")]
)
def test_from_a_hub_to_a_dataset(
    samcli_process: Process,
    random_detector: Callable[[str], Path],
    random_tagger: Callable[[str], Path],
    photos: Path,
    tagger: str,
    kind: str,
    labels: str,
) -> None:
    names = ["cat", "red car", "dog", "猫", *(f"thing {i}" for i in range(496))]
    Path("500.txt").write_text("\n".join(names), "utf-8")
    with running() as server:
        detectors.serve(server, random_detector("grounding-dino"), "grounding-dino-tiny")
        taggers.serve(server, random_tagger(kind), tagger)
        here = {
            "SAMCLI_HOME": str(Path("home").absolute()),
            "HF_HOME": str(Path("hf").absolute()),
            "HF_ENDPOINT": server.address,
            "HF_HUB_ETAG_TIMEOUT": "60",
            "HF_HUB_DOWNLOAD_TIMEOUT": "60",
            "OMP_NUM_THREADS": "1",
        }
        run = f"samcli annotate photos --tagger {tagger} --detector grounding-dino-tiny -m tiny {LOW} -q -o"
        given = f" --labels {labels}" if labels else ""
        missing = samcli_process(f"{run} set{given}", **here)
        assert (missing.returncode, missing.stdout) == (4, b"")
        assert missing.stderr.decode().endswith(f"samcli models pull {tagger}\n")
        pulled = samcli_process(
            f"samcli models pull {tagger} -q && samcli models pull grounding-dino-tiny -q", **here
        )
        assert pulled.returncode == 0, pulled.stderr
        server.files.clear()
        server.asked.clear()
        for name in ("set", "again"):
            done = samcli_process(f"{run} {name}{given}", **here, HF_HUB_OFFLINE="1")
            assert (done.returncode, done.stdout) == (3, b"")
            assert done.stderr.decode().startswith("failed: photos/damaged.jpg")
        assert server.asked == []

    dataset = json.loads(Path("set/annotations.json").read_text("utf-8"))
    assert [image["file_name"] for image in dataset["images"]] == ["cup.jpg", "sub/who.jpg"]
    for place in ("cup.json", "sub/who.json"):
        record = read_record(Path("set/records", place))
        assert record.run
        assert (record.run.config["tagger"], record.run.config["detector"]) == (tagger, "grounding-dino-tiny")
        words = [tag.word for tag in record.notes.tags]
        assert words
        assert {mask.category for mask in record.annotations} <= set(words)
        assert (record.notes.caption is not None) == (tagger == "blip")
        if labels:
            assert set(words) <= set(names)
            assert all(names[(mask.category_id or 0) - 1] == mask.category for mask in record.annotations)
    assert sum(len(read_record(path).annotations) for path in Path("set/records").rglob("[cw]*.json")) > 0
    for path in sorted(Path("set").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == Path("again", path.relative_to("set")).read_bytes(), path
