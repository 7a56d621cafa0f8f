from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from samcli.errors import SamcliError
from samcli.models.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.small import build_tiny
from samcli.train.data import Pack, SampleConfig, read_pack
from samcli.train.loop import Progress, Stage, TrainConfig, correction, train

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
    part = load_file(path)
    assert part.keys() == whole.keys()
    assert all(torch.equal(part[name], whole[name]) for name in whole)


def test_another_configuration_is_not_continued(packs: list[Pack], tmp_path: Path) -> None:
    short = replace(CONFIG, stages=(Stage(side=48, images=4, batch=4),))
    train(build_tiny, packs, SampleConfig(), short, tmp_path, lambda _: None)
    with pytest.raises(
        SamcliError, match="belongs to another training configuration; choose another output folder"
    ):
        train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path, lambda _: None)


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
    where, what = correction(coords, labels, is_box, logits, wanted, torch.Generator().manual_seed(0))
    assert what.tolist() == [[FOREGROUND, FOREGROUND, PADDING], [BACKGROUND, TOP_LEFT, BOTTOM_RIGHT]]
    assert where[0, 0].tolist() == [5, 5]
    assert (where[0, 1] / 4).long().tolist() == [2, 1]
    assert where[0, 2].tolist() == [0, 0]
    assert (where[1, 0] / 4).long().tolist() == [0, 3]
    assert where[1, 1:].tolist() == [[1, 1], [9, 9]]
