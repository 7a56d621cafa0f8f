from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from samcli.errors import SamcliError
from samcli.models.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.small import build_tiny
from samcli.train.data import Pack, SampleConfig, read_pack
from samcli.train.loop import Progress, Stage, TrainConfig, correction, join_processes, train
from samcli.train.recipe import train_tiny

CONFIG = TrainConfig(
    (Stage(side=48, images=8, batch=4), Stage(side=64, images=8, batch=4)),
    warmup=2, bf16=False, save_every=1, log_every=1,
)  # fmt: skip


@pytest.fixture
def packs(shapes: Path) -> list[Pack]:
    return [Pack("shapes", read_pack(shapes), 1.0, cutouts=False)]


def test_a_stopped_run_continues_to_the_same_weights(packs: list[Pack], tmp_path: Path) -> None:
    whole = load_file(train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path / "whole", lambda _: None))

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path / "part", stop)
    assert not (tmp_path / "part" / "model.safetensors").exists()
    steps: list[int] = []
    path = train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path / "part", lambda p: steps.append(p.step))
    assert steps == [3, 4]  # step 3 was reported but not saved
    lines = (tmp_path / "part" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    part = load_file(path)
    assert part.keys() == whole.keys()
    assert all(torch.equal(part[name], whole[name]) for name in whole)


def test_another_configuration_is_not_continued(packs: list[Pack], tmp_path: Path) -> None:
    short = replace(CONFIG, stages=(Stage(side=48, images=4, batch=4),))
    train(build_tiny, packs, SampleConfig(), short, tmp_path, lambda _: None)
    train(
        build_tiny, packs, SampleConfig(), replace(short, log_every=5, save_every=7), tmp_path, lambda _: None
    )
    fewer = [packs[0]._replace(photos=packs[0].photos[1:])]
    for config, samples, data, expected in (
        (
            replace(short, seed=1),
            SampleConfig(),
            packs,
            r"\(seed was 0, is now 1\); choose another output folder",
        ),
        (CONFIG, SampleConfig(), packs, r"\(stages was "),
        (short, SampleConfig(box_share=0.5), packs, r"\(samples.box_share was 0.35, is now 0.5\)"),
        (short, SampleConfig(), fewer, r"\(pack shapes was 6 photos .*, is now 5 photos with 10 objects"),
    ):
        with pytest.raises(SamcliError, match="another training configuration " + expected):
            train(build_tiny, data, samples, config, tmp_path, lambda _: None)


def test_processes_that_do_not_divide_a_batch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SamcliError, match=r"3 processes cannot share a batch of 4 \(48 px\)"):
        join_processes(CONFIG)


def _two_processes(data: str, out: str) -> None:
    """What each process of the test below runs."""
    train_tiny(
        Path(data), Path(out), regions=False, config=CONFIG, report=lambda _: None, note=lambda _: None
    )


@pytest.mark.slow
def test_two_processes_share_the_batches(shapes: Path, tmp_path: Path) -> None:
    """Only about equal to one process: BatchNorm sees, and the log tells of, a process's own half."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    subprocess.run(
        [sys.executable, *command, shapes.parent, tmp_path / "two"],
        check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _two_processes(str(shapes.parent), str(tmp_path / "one"))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(tensor.isfinite().all() for tensor in weights[1].values())


def test_it_learns_two_shapes(packs: list[Pack], tmp_path: Path) -> None:
    """The default answer to the first prompt gets far better in 60 small steps."""
    config = replace(
        CONFIG, stages=(Stage(side=64, images=360, batch=6),), warmup=10, save_every=1000, log_every=10
    )
    log: list[Progress] = []
    samples = SampleConfig(whole_share=1.0, anywhere_share=0.0)
    train(build_tiny, packs, samples, config, tmp_path, log.append)
    assert log[-1].loss < 0.5 * log[0].loss
    assert log[-1].iou_first > 0.4


def test_a_correction_is_a_click_in_the_error_and_stands_before_padding_or_corners() -> None:
    logits = torch.full((2, 4, 4), -1.0)
    wanted = torch.zeros(2, 4, 4)
    wanted[0, 1, 2] = 1  # missed by the first prompt, a click
    logits[1, 3, 0] = 1  # too much for the second, a box
    coords = torch.tensor([[[5.0, 5], [0, 0]], [[1.0, 1], [9, 9]]])
    labels = torch.tensor([[FOREGROUND, PADDING], [TOP_LEFT, BOTTOM_RIGHT]])
    is_box = torch.tensor([False, True])
    valid = torch.tensor([[16, 16], [16, 16]])
    where, what = correction(
        coords, labels, is_box, logits, wanted, valid, 16, torch.Generator().manual_seed(0)
    )
    assert what.tolist() == [[FOREGROUND, FOREGROUND, PADDING], [BACKGROUND, TOP_LEFT, BOTTOM_RIGHT]]
    assert where[0, 0].tolist() == [5, 5]
    assert (where[0, 1] / 4).long().tolist() == [2, 1]
    assert where[0, 2].tolist() == [0, 0]
    assert (where[1, 0] / 4).long().tolist() == [0, 3]
    assert where[1, 1:].tolist() == [[1, 1], [9, 9]]


def test_no_correction_falls_into_the_padding() -> None:
    """The whole map is wrong, but the photo is 9 x 14 pixels; then nothing is wrong."""
    valid = torch.tensor([[9, 14]]).expand(200, 2)
    prompt = torch.zeros(200, 2, 2), torch.tensor([[FOREGROUND, PADDING]]).expand(200, 2)
    logits, is_box = torch.full((200, 4, 4), 1.0), torch.zeros(200, dtype=torch.bool)
    for wanted in (torch.zeros(200, 4, 4), torch.ones(200, 4, 4)):
        where, _ = correction(*prompt, is_box, logits, wanted, valid, 16, torch.Generator().manual_seed(0))
        assert (where[:, 1] < torch.tensor([14, 9])).all()
        assert where[:, 1, 0].max() > 12
        assert where[:, 1, 1].max() > 8


if __name__ == "__main__":
    _two_processes(*sys.argv[1:])
