"""What the documents show works: Python blocks, and the commands of README and guide."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samcli import weights

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/python-api.md"])
def test_python_blocks_run(
    document: str,
    pixels: np.ndarray,
    random_tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights.files, "installed_files", lambda spec: (random_tiny,))
    Image.fromarray(pixels).resize((200, 150)).save("photo.jpg")
    code = blocks(document, "python")
    assert code
    exec(compile("\n".join(code), document, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_commands_run(document: str, tmp_path: Path) -> None:
    """The `sh` blocks in turn, in one folder with photo.jpg and photos/, up to the first failing command."""
    shutil.copytree(ROOT / "examples", tmp_path / "photos")
    shutil.copy(ROOT / "examples" / "coffee.jpg", tmp_path / "photo.jpg")
    script = blocks(document, "sh")
    assert script
    programs = str(Path(sys.executable).parent)
    if shutil.which("jq") is None:
        programs += f"{os.pathsep}{jq_stand_in(tmp_path / 'bin')}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def jq_stand_in(folder: Path) -> Path:
    folder.mkdir()
    program = folder / "jq"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "jq.py"}" "$@"\n')
    program.chmod(0o755)
    return folder


def test_the_stand_in_for_jq_knows_what_the_documents_use(tmp_path: Path) -> None:
    mask = {"area": 5, "bbox": [1, 2, 3, 4], "predicted_iou": 0.5, "id": 1}
    answer = json.dumps({"id": 1, "masks": [mask]})
    jq = jq_stand_in(tmp_path / "bin") / "jq"
    script = "\n".join(block for name in ("README.md", "docs/guide.md") for block in blocks(name, "sh"))
    for compact, program in re.findall(r"\| jq (-c )?'([^']+)'", script):
        command = [jq, *(["-c"] if compact else []), program]
        done = subprocess.run(command, input=answer, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) in (mask["bbox"], {key: mask[key] for key in mask if key != "id"})


def links(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(document: Path) -> None:
    missing = [link for link in links(document) if not (document.parent / link).exists()]
    assert not missing


OTHERS = {
    "--formats",
    "--array",
    "--gres",
    "--cpus-per-task",
    "--time",
    "--signal",
    "--no-deps",
    "--turns",
    "--size",
    "--without",
    "--second",
    "--salient",
    "--proposals",
    "--elsewhere",
    "--masks",
    "--limit",
    "--seeds",
    "--rounds",
    "--report",
}
"""Options of other programs that the documents use."""


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_options_exist(document: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", (ROOT / document).read_text(encoding="utf-8")))
    known = set()
    for place in ("docs/cli.md", "samcli/train/__main__.py"):
        known |= set(re.findall(r"--[a-z][\w-]*", (ROOT / place).read_text(encoding="utf-8")))
    assert named <= known | OTHERS
