"""`samcli models`: listing, pulling, verifying, locating; exit codes and lines exactly."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from server import FileServer, running

from samcli import weights
from samcli.weights import ModelSpec

Samcli = Callable[..., tuple[int, str, str]]

MODELS = "tiny, mobile_sam, vit_b, vit_l, vit_h, sam-vit-base, sam-vit-large, sam-vit-huge"
DETECTORS = "grounding-dino-tiny, grounding-dino-base, mm-grounding-dino-tiny, owlv2"
NAMES = f"{MODELS}, {DETECTORS}, blip, florence-2, siglip2"
BODY = np.random.default_rng(0).bytes(500_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, empty also where huggingface_hub keeps its own; no waiting between tries."""
    monkeypatch.setenv("SAMCLI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights.download, "PAUSE", 0.0)
    return tmp_path / "home"


@pytest.fixture
def demo(home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model named demo in the table, served at the URL returned."""
    url = server.add("/demo.pth", BODY)
    spec = ModelSpec("demo", "tiny", "demo.pth", (url,), SHA256, len(BODY), "CC0", "for tests")
    monkeypatch.setitem(weights.MODELS, "demo", spec)
    return url


def test_list(samcli: Samcli, home: Path) -> None:
    code, out, err = samcli("models")
    assert (code, err) == (0, "")
    rows = [re.split(r" {2,}", line) for line in out.splitlines()]
    assert rows[0] == ["name", "architecture", "size", "licence", "installed"]
    others = ["", "detectors", *weights.DETECTORS, "", "taggers", *weights.TAGGERS]
    assert [row[0] for row in rows[1:]] == [*weights.MODELS, *others]
    assert ["blip", "blip", "unknown", "BSD-3-Clause", "no"] in rows
    assert ["owlv2", "owlv2", "unknown", "Apache-2.0", "no"] in rows
    assert ["vit_h", "vit_h", "2.4 GB", "Apache-2.0", "no"] in rows
    assert ["sam-vit-base", "vit_b", "unknown", "Apache-2.0", "no"] in rows
    assert not home.exists()


def test_list_on_a_terminal(samcli: Samcli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = samcli("models", terminal=True)
    assert code == 0
    assert len(out.splitlines()) == len(weights.all_specs()) + 5


def test_list_for_programs(samcli: Samcli, home: Path, demo: str) -> None:
    samcli("models", "pull", "demo")
    code, out, err = samcli("models", "--json")
    assert (code, err) == (0, "")
    facts = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert list(facts) == list(dict.fromkeys(spec.name for spec in weights.all_specs()))
    assert facts["demo"] == {
        "name": "demo",
        "kind": "model",
        "architecture": "tiny",
        "bytes": len(BODY),
        "licence": "CC0",
        "installed": True,
        "default": False,
        "file": str(home / "weights" / "demo.pth"),
        "sha256": SHA256,
        "sources": [demo],
        "summary": "for tests",
    }
    assert facts["tiny"]["default"]
    assert (facts["sam-vit-huge"]["bytes"], facts["sam-vit-huge"]["sha256"]) == (None, None)


def test_pull_then_path_and_verify(samcli: Samcli, home: Path, demo: str) -> None:
    file = home / "weights" / "demo.pth"
    assert samcli("models", "pull", "demo") == (0, f"{file}\n", "")
    assert file.read_bytes() == BODY
    assert samcli("models", "path", "demo") == (0, f"{file}\n", "")
    sound = f"demo: sound, sha256 {SHA256} (as published)\n"
    assert samcli("models", "verify", "demo") == (0, sound, "")
    code, out, err = samcli("models", "verify")
    assert (code, err) == (0, "")
    assert sound in out


def test_a_model_a_detector_and_a_tagger_of_one_name(samcli: Samcli) -> None:
    assert samcli("models", "path", "tiny") == (0, f"{weights.path('tiny')}\n", "")
    if weights.find(weights.DETECTORS["tiny"]):
        rows = samcli("models", "verify", "tiny").out.splitlines()
        ends = [row.rpartition(" (")[2] for row in rows]
        assert ends == [f"the {kind}, part of samcli)" for kind in ("model", "detector", "tagger")]


def test_verify_names_the_damage_and_the_remedy(samcli: Samcli, home: Path, demo: str) -> None:
    samcli("models", "pull", "demo")
    file = home / "weights" / "demo.pth"
    file.write_bytes(bytes(len(BODY)))
    zeros = hashlib.sha256(bytes(len(BODY))).hexdigest()
    assert samcli("models", "verify", "demo") == (
        4,
        "",
        f"error: {file} is damaged: its sha256 is {zeros}, not the published {SHA256}; "
        "get it anew with: samcli models pull demo\n",
    )
    code, out, err = samcli("models", "pull", "demo")
    assert (code, out) == (0, f"{file}\n")
    assert (
        err
        == f"note: {file} is damaged: its sha256 is {zeros}, not the published {SHA256}; getting it anew\n"
    )


def test_not_installed(samcli: Samcli, home: Path) -> None:
    line = "error: vit_h is not installed; get it (2.4 GB) with: samcli models pull vit_h\n"
    assert samcli("models", "path", "vit_h") == (4, "", line)
    assert samcli("models", "verify", "vit_h") == (4, "", line)


def test_a_command_with_missing_weights(samcli: Samcli, home: Path, photo: Path, tmp_path: Path) -> None:
    line = "error: vit_b is not installed; get it (358 MB) with: samcli models pull vit_b\n"
    assert samcli("embed", photo, "-o", tmp_path / "out", "-m", "vit_b") == (4, "", line)


def test_a_command_with_an_unknown_model(samcli: Samcli, home: Path, photo: Path, tmp_path: Path) -> None:
    assert samcli("embed", photo, "-o", tmp_path / "out", "-m", "nope") == (
        1,
        "",
        f"error: unknown model 'nope'; known: {MODELS}; or give a checkpoint file\n",
    )


@pytest.mark.parametrize("command", ["pull", "verify", "path"])
def test_unknown_name(samcli: Samcli, home: Path, command: str) -> None:
    line = f"error: unknown model 'nope'; known: {NAMES}\n"
    assert samcli("models", command, "nope") == (1, "", line)


def test_an_unknown_name_stops_before_anything_is_downloaded(
    samcli: Samcli, home: Path, demo: str, server: FileServer
) -> None:
    assert samcli("models", "pull", "demo", "nope")[0] == 1
    assert server.asked == []


def test_one_that_fails_does_not_keep_the_others(
    samcli: Samcli, home: Path, demo: str, server: FileServer
) -> None:
    broken = ModelSpec("broken", "tiny", "b.pth", (server.address + "/b.pth",), SHA256, len(BODY), "CC0", "")
    weights.MODELS["broken"] = broken
    try:
        result = samcli("models", "pull", "broken", "demo")
    finally:
        del weights.MODELS["broken"]
    assert result == (
        4,
        f"{home / 'weights' / 'demo.pth'}\n",
        f"error: broken could not be downloaded; tried {server.address}/b.pth: HTTP 404 Not Found\n",
    )


def test_retries_are_notes_that_quiet_silences(
    samcli: Samcli, home: Path, demo: str, server: FileServer
) -> None:
    server.files["/demo.pth"].cuts = [1000]
    file = home / "weights" / "demo.pth"
    note = f"note: {demo}: the connection ended after 1000 of {len(BODY)} bytes; trying again\n"
    assert samcli("models", "pull", "demo") == (0, f"{file}\n", note)
    file.unlink()
    server.files["/demo.pth"].cuts = [1000]
    assert samcli("models", "pull", "demo", "--quiet") == (0, f"{file}\n", "")


def test_progress_shows_on_a_terminal(server: FileServer, tmp_path: Path) -> None:
    """The real program with stderr on a pseudo-terminal, through a mirror of the user's own."""
    body = safetensors.numpy.save({"a": np.zeros(3 << 18, np.float32)})
    server.add("/mirror/sam-vit-base.safetensors", body, pause=0.4)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns, pixels
    environment = {
        **os.environ,
        "SAMCLI_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "SAMCLI_MODELS_MIRROR": server.address + "/mirror",
    }
    command = [sys.executable, "-m", "samcli", "models", "pull", "sam-vit-base"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=follower, check=False)
    os.set_blocking(leader, False)
    shown = os.read(leader, 100_000).decode()  # while the other end is open: closing it drops what is unread
    os.close(follower)
    os.close(leader)
    assert (done.returncode, done.stdout.decode()) == (
        0,
        f"{tmp_path}/home/weights/sam-vit-base.safetensors\n",
    )
    assert "sam-vit-base: " in shown
    assert "/3.00M [" in shown
