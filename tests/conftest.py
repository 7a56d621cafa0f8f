"""Shared fixtures: the command line in process and as a process, a model with random weights, a photo."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from samcli.cli import main

BENCH = Path(__file__).parents[1] / "bench"


class Result(NamedTuple):
    """How a command ended. out: text; bytes that are no UTF-8 come back with `raw`."""

    code: int
    out: str
    err: str

    @property
    def raw(self) -> bytes:
        return self.out.encode("utf-8", "surrogateescape")


class _Stream(io.TextIOWrapper):
    """A standard stream over bytes, which may pass for a terminal."""

    def __init__(self, data: bytes = b"", *, errors: str = "surrogateescape", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors=errors, write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8", "surrogateescape")


Samcli = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's environment and cache out of the tests."""
    for name in [name for name in os.environ if name.startswith("SAMCLI_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAMCLI_HOME", str(tmp_path_factory.getbasetemp() / "samcli-home"))


@pytest.fixture
def samcli(monkeypatch: pytest.MonkeyPatch) -> Samcli:
    """Run the real `main` in this process: `code, out, err = samcli("predict", photo, ...)`.

    stdin: bytes to read. terminal: pretend that standard input and output are one.
    """

    def run(*args: object, stdin: bytes = b"", terminal: bool = False) -> Result:
        out, err = _Stream(terminal=terminal), _Stream(errors="backslashreplace")  # as Python opens stderr
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as Python does outside of pytest
            patch.setattr(sys, "stdin", _Stream(stdin, terminal=terminal))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in args])
        return Result(code, out.text(), err.text())

    return run


@pytest.fixture
def samcli_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a bash script in which `samcli` is the command line, in tmp_path: for pipes and signals."""

    def run(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        function = 'samcli() { "$PYTHON" -m samcli "$@"; }\n'
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{function}{script}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def random_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file of the architecture `tiny` with random weights: any mask, but always the same."""
    import torch
    from safetensors.torch import save_file

    from samcli.models.registry import build_sam

    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("models") / "random.safetensors"
    save_file(build_sam("tiny").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def random_detector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a detector of random weights: `random_detector("grounding-dino")`, see detectors.KINDS.

    Without transformers the test skips, except in CI, where it fails.
    """
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if os.environ.get("CI") != "true":
            pytest.importorskip("transformers")
        import detectors

        if kind not in made:
            made[kind] = detectors.KINDS[kind](tmp_path_factory.mktemp("detectors") / kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def random_tagger(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tagger of random weights, see taggers.KINDS; skips as `random_detector` does."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if os.environ.get("CI") != "true":
            pytest.importorskip("transformers")
            pytest.importorskip("textblob")
        import taggers

        if kind not in made:
            made[kind] = taggers.KINDS[kind](tmp_path_factory.mktemp("taggers") / kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """A small picture with two things in it, (60, 90, 3) uint8 RGB."""
    y, x = np.mgrid[:60, :90]
    picture = np.stack([60 + x, 90 + y, np.full_like(x, 140)], axis=2).astype(np.uint8)
    picture[(x - 30) ** 2 + (y - 30) ** 2 < 15**2] = (220, 60, 40)
    picture[10:50, 60:80] = (40, 160, 60)
    return picture


@pytest.fixture
def photo(tmp_path: Path, pixels: np.ndarray) -> Path:
    """`pixels` as a PNG file."""
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], ModuleType]:
    """Import a script of bench/, which is no package, by its name."""

    def get(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return get
