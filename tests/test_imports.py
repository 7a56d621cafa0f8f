"""Holds the import table of the architecture: who may know whom, by walking every file of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import samcli

PACKAGE = Path(samcli.__file__).parent

CHAIN = (
    {"__main__"},
    {"cli"},
    {"annotate", "automask", "batch", "cutout", "dataset", "train", "evaluate", "export", "review"},
    {"predictor", "ground"},
    {"upscale"},
    {"weights"},
    {"models"},
    {"geometry", "masks"},
    {"records"},
    {"errors"},
)
"""One way: a room knows only rooms of later links. The package itself, samcli/__init__.py, only hands out."""

BESIDE = {"formats", "viz", "images"}
"""They know records, and the run-length side of masks, but not each other; models and below know none."""

NEVER = {
    "batch": {"models", "predictor"},
    "models": {"records", "images"},
    "ground": {"automask", "cli", "predictor"},
}

TORCH_FREE = {"dataset", "records", "images", "formats", "viz", "batch", "masks", "geometry", "errors"}
FOR_PEOPLE = {"typer", "rich", "tqdm"}
NETWORK = {"socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "huggingface_hub"}
FILES = {"os", "io", "pathlib", "shutil", "tempfile", "safetensors", "json", "pickle", "PIL", "cv2"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "samcli":
                yield from ((node.lineno, f"samcli.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def typing_only(tree: ast.AST) -> set[int]:
    """Lines inside `if TYPE_CHECKING:`."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or 0) + 1)
    }


def known_rooms(name: str) -> set[str]:
    """The rooms that a room may import, itself included."""
    if name in BESIDE:
        return {name, "records", "errors", "masks"}
    (link,) = (i for i, rooms in enumerate(CHAIN) if name in rooms)
    later = set().union({name}, *CHAIN[link + 1 :])
    beside = BESIDE if link < CHAIN.index({"models"}) else set()
    return (later | beside) - NEVER.get(name, set())


def problems(path: Path) -> list[str]:
    here = room(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hints = typing_only(tree)
    found = []
    for line, name in imports(tree):
        top, _, rest = name.partition(".")
        inner = rest.split(".")[0]
        if top == "samcli":
            is_room = inner and ((PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").exists())
            if here != "__init__" and is_room and inner not in known_rooms(here):
                found.append((line, f"{here} may not know {inner}"))
        elif line in hints:
            continue
        elif top == "torch" and here in TORCH_FREE:
            found.append((line, f"{here} is free of torch"))
        elif top in FOR_PEOPLE and here != "cli":
            found.append((line, f"{top} belongs to cli"))
        elif top in NETWORK and name != "urllib.parse" and here not in {"weights", "review"}:
            found.append((line, f"{here} may not use the network ({name})"))
        elif top in FILES and here == "models":
            found.append((line, f"models may not use files ({name})"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and here != "cli":
                found.append((node.lineno, "printing belongs to cli"))
            if node.func.id == "open" and here == "models":
                found.append((node.lineno, "models may not open files"))
    return [f"{path.relative_to(PACKAGE.parent)}:{line}: {what}" for line, what in found]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    assert problems(path) == []


def test_every_room_has_its_place():
    rooms = {room(path) for path in MODULES} - {"__init__"}
    assert rooms <= set().union(*CHAIN, BESIDE)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("models/x.py", "from samcli.records import Box", "models may not know records"),
        ("models/x.py", "from pathlib import Path", "models may not use files (pathlib)"),
        ("models/x.py", "open('a')", "models may not open files"),
        ("masks.py", "def f():\n    import torch.nn", "masks is free of torch"),
        ("images.py", "from samcli.formats import png", "images may not know formats"),
        ("formats/x.py", "from samcli import predictor", "formats may not know predictor"),
        ("predictor.py", "from samcli.cli.app import app", "predictor may not know cli"),
        ("predictor.py", "import urllib.request", "predictor may not use the network (urllib.request)"),
        ("automask.py", "print(1)", "printing belongs to cli"),
        ("train/x.py", "from tqdm import tqdm", "tqdm belongs to cli"),
        ("batch.py", "import samcli.predictor", "batch may not know predictor"),
        ("ground/x.py", "from samcli.predictor import load", "ground may not know predictor"),
    ],
)
def test_the_walk_finds_what_it_should(tmp_path, monkeypatch, name, source, expected):
    for module in MODULES:
        copy = tmp_path / module.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert any(line.endswith(expected) for line in problems(path))


def test_what_only_type_checkers_read_may_name_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "masks.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n")
    assert problems(path) == []


def test_torch_free_rooms_load_without_torch():
    names = [
        ".".join(("samcli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in MODULES
        if room(path) in TORCH_FREE
    ]
    code = f"import sys\nfor name in {names}: __import__(name)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
