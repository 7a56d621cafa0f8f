"""Taggers from a hub: pulled and verified by a process, used offline by another; damaged, missing, listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import taggers
from conftest import Samcli
from server import FileServer, running

from samcli import weights
from samcli.errors import SamcliError, WeightsError
from samcli.ground.load import load_tagger

Process = Callable[..., "subprocess.CompletedProcess[bytes]"]
KINDS = {"blip": "blip", "florence-2": "florence-2", "siglip2": "siglip"}

USE = """
import socket, sys
def refuse(*args, **options): raise AssertionError('the network was used')
socket.socket.connect = refuse
import numpy
from samcli.ground.load import load_tagger
labels = ['cat', '猫'] if sys.argv[1] == 'siglip2' else None
tagger = load_tagger(sys.argv[1], device='cpu', labels=labels, threshold=0)
image = numpy.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=numpy.uint8)
(tagged,) = tagger.tag([image])
print(tagger.name, tagger.sha256, len(tagged.tags), tagged.caption)
"""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_pulled_verified_and_used_offline(
    samcli_process: Process,
    server: FileServer,
    random_tagger: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    taggers.serve(server, random_tagger(KINDS[name]), name)
    here = {
        "SAMCLI_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": server.address,
        "HF_HUB_ETAG_TIMEOUT": "60",  # for a busy machine
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "OMP_NUM_THREADS": "1",
    }
    pulled = samcli_process(f"samcli models pull {name} -q && samcli models verify {name}", **here)
    assert pulled.returncode == 0, pulled.stderr
    sound = re.search(rf"^{name}: sound, sha256 (\w+) \(as first pulled\)$", pulled.stdout.decode(), re.M)
    assert sound
    (tmp_path / "use.py").write_text(USE)
    server.files.clear()
    server.asked.clear()
    uses = [samcli_process(f'"$PYTHON" use.py {name}', **here, HF_HUB_OFFLINE="1") for _ in range(2)]
    for used in uses:
        assert (used.returncode, used.stderr) == (0, b"")
    assert uses[0].stdout == uses[1].stdout
    said, sha256, count, *caption = uses[0].stdout.decode().split()
    assert (said, sha256) == (name, sound[1])
    assert int(count) > 0 if name == "siglip2" else caption
    assert server.asked == []


@pytest.mark.parametrize("name", KINDS)
def test_not_installed(samcli: Samcli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    line = f"{name} is not installed; get it with: samcli models pull {name}"
    assert samcli("models", "path", name) == (4, "", f"error: {line}\n")
    with pytest.raises(WeightsError) as caught:
        load_tagger(name, device="cpu", labels=["cat"] if name == "siglip2" else None)
    assert (str(caught.value), caught.value.code) == (line, 4)


class TestLaidThereByHand:
    @pytest.fixture(autouse=True)
    def folder(
        self, random_tagger: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        monkeypatch.setenv("SAMCLI_HOME", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        folder = tmp_path / "weights" / "blip"
        folder.mkdir(parents=True)
        for file in weights.TAGGERS["blip"].files:
            (folder / file).write_bytes((random_tagger("blip") / file).read_bytes())
        return folder

    def test_listed(self, samcli: Samcli, folder: Path) -> None:
        facts = [json.loads(line) for line in samcli("models", "--json").out.splitlines()]
        (mine,) = (one for one in facts if one["name"] == "blip")
        assert (mine["kind"], mine["file"], mine["default"]) == ("tagger", str(folder), False)
        assert [one["name"] for one in facts if one["kind"] == "tagger" and one["default"]] == ["tiny"]
        assert re.search(r"^blip +blip +\d+ MB +BSD-3-Clause +yes$", samcli("models").out, re.M)

    def test_damaged_later(self, folder: Path) -> None:
        weights.verify("blip")
        file = folder / "pytorch_model.bin"
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(
            WeightsError, match=r"pytorch_model\.bin is damaged: \d+ bytes, not \d+; get it anew"
        ):
            load_tagger("blip", device="cpu")

    def test_damaged_from_the_start(self, folder: Path) -> None:
        file = folder / "pytorch_model.bin"
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(SamcliError, match=rf"^{folder} cannot be loaded as a tagger: .*$"):
            load_tagger("blip", device="cpu")

    def test_a_login_page(self, folder: Path) -> None:
        (folder / "pytorch_model.bin").write_bytes(b"<html>please log in</html>")
        with pytest.raises(
            WeightsError, match=r"pytorch_model\.bin is damaged: it is not a file of weights; get"
        ):
            weights.verify("blip")

    def test_weights_that_run_code_are_refused(self, folder: Path, tmp_path: Path) -> None:
        """They are unpickled, but nothing in them is called."""
        import torch

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (tmp_path / "touched",)

        torch.save({"weights": Evil()}, folder / "pytorch_model.bin")
        with pytest.raises(
            SamcliError, match=r"pytorch_model\.bin is refused: it holds more than tensors, and"
        ):
            load_tagger("blip", device="cpu")
        assert not (tmp_path / "touched").exists()


def test_a_tagger_is_no_model_and_no_detector(samcli: Samcli, photo: Path) -> None:
    code, out, err = samcli("embed", photo, "-o", "out", "-m", "blip")
    assert (code, out) == (1, "")
    assert err.startswith("error: blip is a tagger, it draws no masks; known models: tiny, ")


def test_help_and_listing_import_nothing_heavy() -> None:
    code = (
        "import sys; from samcli.cli import main; main(['models']); main(['--help'])\n"
        "print({'transformers', 'torch', 'textblob'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_the_table() -> None:
    for name, spec in weights.TAGGERS.items():
        assert name == spec.name
        assert spec.packaged != bool(spec.repository)
        assert 0 <= spec.threshold < 1
        assert spec.most > 0
        assert spec.takes_labels or not spec.chooses
        if not spec.packaged:
            assert "config.json" in spec.files
            assert len({"model.safetensors", "pytorch_model.bin"} & set(spec.files)) == 1
            assert re.fullmatch(r"[\w-]+/[\w-]+", spec.repository)


def test_the_docs_table_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "annotate.md").read_text(encoding="utf-8")
    for spec in weights.TAGGERS.values():
        source = "packaged" if spec.packaged else f"`{spec.repository}`"
        limits = f"{spec.threshold:g} / {spec.most}"
        assert f"| `{spec.name}` | {source} | {spec.licence} | {limits} | {spec.summary} |\n" in text
