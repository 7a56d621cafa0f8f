"""What bench/gpu.py can be held to without a card."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from samcli.masks import encode_rle


@pytest.fixture(scope="module")
def gpu(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("gpu")


def test_without_a_card_one_line_says_so_and_nothing_is_written(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "floor", "-o", str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert gpu.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: no CUDA card here, so nothing is measured; --device cpu --small tries the script\n"
    assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_named_with_the_command(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu.NEEDED, "floor", {"no_such_module": "no-such-package==1.0"})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "floor"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert gpu.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: not installed: no-such-package==1.0; run: pip install --no-deps --target DIR "
        "no-such-package==1.0, and add --vendor DIR"
    )


def test_figures_of_an_earlier_run_stay_only_on_the_same_card(gpu: ModuleType, tmp_path: Path) -> None:
    def bench() -> Any:
        started = gpu.Bench(tmp_path, torch.device("cpu"), True, 1, None, tmp_path)
        started.start()
        return started

    first = bench()
    first.row("a", 1.0, "s")
    first.detail("b", None, "s")
    again = bench()
    again.row("a", 2.0, "s", "< 3")
    assert [(row.name, row.value) for row in again.rows.values()] == [("a", 2.0)]
    assert list(bench().details) == ["b"]
    first.file.write_text(first.file.read_text().replace('"device": "cpu"', '"device": "another"'))
    assert bench().rows == {}


def test_matched_is_the_share_of_masks_that_are_found(gpu: ModuleType) -> None:
    def mask(left: int, right: int) -> dict[str, object]:
        bits = np.zeros((10, 200), bool)
        bits[:, left:right] = True
        return {"segmentation": encode_rle(bits)}

    truth = [mask(0, 100), mask(100, 200)]
    assert gpu.matched(truth, [mask(0, 96)]) == 50
    assert gpu.matched(truth, [mask(0, 94)]) == 0
    assert gpu.matched(truth, []) == 0
    assert gpu.matched([], truth) is None


def test_union_counts_time_that_intervals_share_once(gpu: ModuleType) -> None:
    assert gpu.union([(0, 2), (1, 3), (1, 2), (5, 6)]) == 4
