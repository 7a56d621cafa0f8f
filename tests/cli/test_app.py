"""The program as a whole: help without torch, version, the reference, pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Samcli
from PIL import Image

import samcli as package
from samcli.cli.reference import reference
from samcli.formats.record import read_record

ROOT = Path(__file__).parents[2]
Process = Callable[..., subprocess.CompletedProcess[bytes]]

WITHOUT_TORCH = """
import sys
from samcli.cli import main
code = main(sys.argv[1:])
loaded = [name for name in ("torch", "cv2", "huggingface_hub", "transformers") if name in sys.modules]
sys.exit(f"loaded {loaded}" if loaded else code)
"""


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["automask", "--help"],
        ["train", "-h"],
        ["view", "-h"],
        ["models", "pull", "-h"],
    ],
)
def test_help_does_not_load_torch(args: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *args], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_does_not_load_torch() -> None:
    environment = {
        **os.environ,
        "_SAMCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": "samcli auto",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["automask"], "")


def test_version(samcli: Samcli) -> None:
    assert samcli("--version") == (0, f"samcli {package.__version__}\n", "")


def test_no_arguments_show_the_help(samcli: Samcli) -> None:
    code, out, err = samcli()
    assert (code, out.strip(), err) == (2, samcli("--help").out.strip(), "")


@pytest.mark.parametrize(
    "args", [["nonsense"], ["predict", "--nonsense"], ["automask", "x.png"], ["embed", "x.png"]]
)
def test_wrong_usage_is_exit_2(samcli: Samcli, args: list[str]) -> None:
    code, out, err = samcli(*args)
    assert (code, out) == (2, "")
    assert "Usage: samcli" in err


def test_no_images_are_wrong_usage(samcli: Samcli) -> None:
    line = "error: no images; name files or folders, or a list of them with --files-from\n"
    assert samcli("embed", "-o", "x") == (2, "", line)


def test_the_reference_in_docs_is_the_one_of_the_app() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "docs/cli.md is out of date: run `make docs`"


# Pipes and signals, in processes of their own


def test_a_pipe_in_and_a_picture_out(samcli_process: Process, photo: Path, random_tiny: Path) -> None:
    script = 'cat photo.png | samcli predict --point 30,30 -o - -m "$MODEL" > mask.png'
    done = samcli_process(script, MODEL=str(random_tiny))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    mask = np.asarray(Image.open(photo.parent / "mask.png"))
    assert (mask.shape, mask.dtype) == ((60, 90), np.uint8)


def test_json_into_another_program(samcli_process: Process, photo: Path, random_tiny: Path) -> None:
    reader = "import json, sys; print(json.load(sys.stdin)['masks'][0]['segmentation']['size'])"
    script = 'samcli predict photo.png --point 30,30 --json -m "$MODEL" | "$PYTHON" -c "$READER"'
    done = samcli_process(script, MODEL=str(random_tiny), READER=reader)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[60, 90]\n", b"")


def test_a_reader_that_leaves_ends_the_run_silently(
    samcli_process: Process, photo: Path, random_tiny: Path
) -> None:
    line = json.dumps({"image": "photo.png", "points": [[30, 30]]})
    (photo.parent / "prompts.jsonl").write_text(f"{line}\n" * 300)
    script = 'samcli predict --prompts prompts.jsonl -m "$MODEL" | head -c 1; echo " ${PIPESTATUS[0]}"'
    done = samcli_process(script, MODEL=str(random_tiny))
    assert (done.stdout, done.stderr) == (b"{ 141\n", b"")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_batch_with_whole_files(
    tmp_path: Path, pixels: np.ndarray, random_tiny: Path, signum: signal.Signals, code: int
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(200):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:03}.png")
    command = [sys.executable, "-m", "samcli", "automask", "photos", "-o", "out", "--points-per-side", "2"]
    process = subprocess.Popen(
        [*command, "-m", str(random_tiny)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 0 < len(names) < 200
    assert names == [f"{i:03}.json" for i in range(len(names))]
    for name in names:
        read_record(tmp_path / "out" / name)
    assert err.splitlines()[-1] == f"error: stopped by {signum.name}"
    assert err.splitlines()[-2].startswith(f"{len(names)} of 200 images, ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_said(
    samcli_process: Process, photo: Path, random_tiny: Path
) -> None:
    done = samcli_process(
        'samcli predict photo.png --point 30,30 -m "$MODEL" > /dev/full', MODEL=str(random_tiny)
    )
    line = b"error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("module", ["samcli.cli", "samcli.cli.app", "typer"])
def test_an_interrupt_while_modules_load_is_silent(module: str) -> None:
    script = f"""
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from samcli.__main__ import run
sys.exit(run())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_signal_ends_a_run_that_waits_for_its_image(tmp_path: Path, random_tiny: Path) -> None:
    command = [sys.executable, "-m", "samcli", "predict", "-", "--point", "5,5", "-m", str(random_tiny)]
    process = subprocess.Popen(
        [*command, "--json"], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(6)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert process.stdin
    assert process.stderr
    assert process.stderr.read() in (
        "error: stopped by SIGTERM\n",
        "",
    )  # nothing, if the model was still loading
    process.stdin.close()
