from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from samcli.errors import SamcliError
from samcli.models.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.sam import Sam
from samcli.models.small import build_tiny
from samcli.train.data import Pack, SampleConfig, read_pack
from samcli.train.guide import CHANNELS, write_guide
from samcli.train.log import Progress, append, cut, rows
from samcli.train.loop import Draws, Stage, TrainConfig, correction, schedule, ship, train
from samcli.train.processes import join_processes, share_norms
from samcli.train.recipe import train_tiny

CONFIG = TrainConfig(
    (Stage(side=48, images=8, batch=4), Stage(side=64, images=8, batch=4)),
    warmup=2, bf16=False, save_every=1, log_every=1,
)  # fmt: skip


@pytest.fixture
def packs(shapes: Path) -> list[Pack]:
    return [Pack("shapes", read_pack(shapes), 1.0, cutouts=False)]


def test_a_stopped_run_continues_to_the_same_weights(packs: list[Pack], tmp_path: Path) -> None:
    assert train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path / "whole", lambda _: None)
    whole = load_file(ship(tmp_path / "whole"))

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build_tiny, packs, SampleConfig(), CONFIG, tmp_path / "part", stop)
    steps: list[int] = []

    def go_on(minutes: float | None) -> bool:
        out = tmp_path / "part"
        return train(
            build_tiny, packs, SampleConfig(), CONFIG, out, lambda p: steps.append(p.step), minutes=minutes
        )

    assert not go_on(minutes=0)  # stops after a step
    assert steps == [3]  # which was reported before but not saved
    assert go_on(minutes=None)
    assert steps == [3, 4]
    assert [row["step"] for row in rows(tmp_path / "part" / "log.csv")] == ["1", "2", "3", "4"]
    assert Image.open(tmp_path / "part" / "log.png").width > 500
    part = load_file(ship(tmp_path / "part"))
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
    train_tiny(Path(data), Path(out), regions=True, config=CONFIG, report=lambda _: None, note=lambda _: None)


@pytest.mark.slow
def test_two_processes_train_as_one_does(shapes: Path, tmp_path: Path) -> None:
    """In fp32 on gloo: the same losses, but for rounding, which grows with the steps.

    What the edge teacher would find lies there already: regions, and a guide.
    """
    found = json.loads((shapes / "annotations.json").read_text())
    for annotation in found["annotations"]:
        annotation["score"] = 0.5
    rng = np.random.default_rng(0)
    guide = [rng.normal(size=(15, 20, CHANNELS)).astype(np.float16) for _ in found["images"]]
    for name in ("one", "two"):
        (tmp_path / name / "regions").mkdir(parents=True)
        (tmp_path / name / "regions" / "shapes.json").write_text(json.dumps(found))
        (tmp_path / name / "guide").mkdir()
        write_guide([i["file_name"] for i in found["images"]], guide, tmp_path / name / "guide" / "shapes")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    subprocess.run(
        [sys.executable, *command, shapes.parent, tmp_path / "two"],
        check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _two_processes(str(shapes.parent), str(tmp_path / "one"))
    one, two = (rows(tmp_path / name / "log.csv") for name in ("one", "two"))
    assert [row["step"] for row in two] == ["1", "2", "3", "4"]
    ours, theirs = ([float(row["loss"]) for row in log] for log in (one, two))
    assert theirs[0] == pytest.approx(ours[0], rel=1e-4)
    assert theirs == pytest.approx(ours, rel=2e-2)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()


def _normalised(norm: nn.BatchNorm2d, x: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a normalisation makes of x, its gradients for a loss, and what it remembers."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * wanted).sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **grads, **dict(norm.named_buffers())}


def _inputs() -> tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, wanted = (torch.randn(6, 5, 4, 3, generator=generator) * 2 + 3 for _ in range(2))
    norm = nn.BatchNorm2d(5)
    norm.weight.data, norm.bias.data = torch.rand(5, generator=generator), torch.rand(5, generator=generator)
    return norm, x, wanted


def _two_norms(out: str) -> None:
    """What each process of the test below runs, on its half of the batch."""
    rank, _, _ = join_processes(replace(CONFIG, stages=(Stage(side=48, images=4, batch=4),)))
    norm, x, wanted = _inputs()
    share_norms(norm)
    save_file(_normalised(norm, x[rank::2].contiguous(), wanted[rank::2]), f"{out}.{rank}")


@pytest.mark.slow
def test_two_processes_normalise_as_one_does(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    subprocess.run([sys.executable, *command, tmp_path / "norm"], check=True, timeout=300)
    halves = [load_file(f"{tmp_path / 'norm'}.{rank}") for rank in range(2)]
    whole = _normalised(*_inputs())
    assert halves[0].keys() == whole.keys()
    for name, expected in whole.items():
        for rank, half in enumerate(halves):
            if name in ("y", "x"):
                torch.testing.assert_close(half[name], expected[rank::2])
            elif name.startswith(("running", "num")):
                torch.testing.assert_close(half[name], expected)
        if name in ("weight", "bias"):
            torch.testing.assert_close(halves[0][name] + halves[1][name], expected, rtol=1e-3, atol=1e-3)


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


def test_rounds_as_sam_was_trained() -> None:
    """8 of the 10 rounds after the first add a click; the last one does not, nor does one of the others."""
    stage = CONFIG.stages[0]
    orders = [schedule(stage, replace(CONFIG, rounds=11), Draws(i, torch.arange(1), 1)) for i in range(60)]
    assert all((len(order), sum(order), order[-1]) == (10, 8, False) for order in orders)
    assert {order.index(False) for order in orders} == set(range(9))
    few = [schedule(stage, CONFIG, Draws(i, torch.arange(1), 1)) for i in range(20)]
    assert {tuple(order) for order in few} == {(True,), (True, True)}
    assert schedule(stage, replace(CONFIG, rounds=1), Draws(0, torch.arange(1), 1)) == []


def test_numbers_do_not_depend_on_how_a_step_is_shared() -> None:
    whole = Draws(5, torch.arange(8), 8)
    shares = [Draws(5, torch.arange(rank, 8, 2), 8) for rank in range(2)]
    assert {draws.one() for draws in (whole, *shares)} == {Draws(5, torch.arange(1), 8).one()}
    numbers = whole.each(3)
    for rank, share in enumerate(shares):
        assert torch.equal(share.each(3), numbers[rank::2])


def test_parts_of_a_batch_add_up_but_for_the_normalisation(packs: list[Pack], tmp_path: Path) -> None:
    """Without BatchNorm's batch statistics parts would be the same; with them they come close."""
    config = replace(CONFIG, stages=(Stage(side=64, images=8, batch=4),), rounds=3)
    logs = []
    for parts in (1, 2):
        out = tmp_path / str(parts)
        train(build_tiny, packs, SampleConfig(), replace(config, accumulate=parts), out, lambda _: None)
        logs.append([float(row["loss"]) for row in rows(out / "log.csv")])
    assert len(logs[0]) == 2
    assert logs[1] == pytest.approx(logs[0], rel=0.3)


def test_a_dev_set_is_measured_at_every_checkpoint(packs: list[Pack], tmp_path: Path) -> None:
    seen = []

    def check(network: Sam) -> dict[str, float]:
        assert not network.training
        seen.append(network)
        return {"click": len(seen) / 10}

    train(build_tiny, packs, SampleConfig(), replace(CONFIG, save_every=2), tmp_path, lambda _: None, check)
    assert [(row["step"], row["click"]) for row in rows(tmp_path / "checks.csv")] == [
        ("2", "0.1"),
        ("4", "0.2"),
    ]


def test_a_table_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for step in (1, 2, 3):
        append(path, {"step": step, "loss": 0.5})
    with path.open("a") as file:
        file.write("4,0.")
    cut(path, 2)
    append(path, {"step": 3, "loss": 0.25})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.5\n3,0.25\n"
    cut(path, 0)
    assert not path.exists()


def test_a_correction_is_a_click_in_the_error_and_stands_before_padding_or_corners() -> None:
    logits = torch.full((2, 4, 4), -1.0)
    wanted = torch.zeros(2, 4, 4)
    wanted[0, 1, 2] = 1  # missed by the first prompt, a click
    logits[1, 3, 0] = 1  # too much for the second, a box
    coords = torch.tensor([[[5.0, 5], [0, 0]], [[1.0, 1], [9, 9]]])
    labels = torch.tensor([[FOREGROUND, PADDING], [TOP_LEFT, BOTTOM_RIGHT]])
    is_box = torch.tensor([False, True])
    valid = torch.tensor([[16, 16], [16, 16]])
    where, what = correction(coords, labels, is_box, logits, wanted, valid, 16, Draws(0, torch.arange(2), 2))
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
        where, _ = correction(*prompt, is_box, logits, wanted, valid, 16, Draws(0, torch.arange(200), 200))
        assert (where[:, 1] < torch.tensor([14, 9])).all()
        assert where[:, 1, 0].max() > 12
        assert where[:, 1, 1].max() > 8


if __name__ == "__main__":
    (_two_processes if len(sys.argv) > 2 else _two_norms)(*sys.argv[1:])
