"""Training of the salient head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from samcli.cli import main
from samcli.errors import SamcliError
from samcli.models.salient import SalientHead
from samcli.train import salient
from samcli.train.data import read_pack
from samcli.train.log import Progress
from samcli.train.loop import Stage
from samcli.train.salient import SalientDataset, SalientSamples, collate, look, salient_loss, train_salient
from samcli.weights import load_sam

SIDE = 64
SHORT = replace(
    salient.CONFIG, stages=(Stage(side=SIDE, images=6, batch=2),), bf16=False, save_every=1, log_every=1
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model at another input size, so that a step takes no time."""

    def small(name: str) -> object:
        loaded = load_sam(name)
        prompts = loaded.sam.prompt_encoder
        prompts.image_embedding_size, prompts.input_image_size = (SIDE // 16,) * 2, (SIDE, SIDE)
        return loaded

    monkeypatch.setattr(salient, "load_sam", small)


def test_the_gradient_reaches_every_parameter(shapes: Path) -> None:
    sam, head = salient.load_sam("tiny").sam, SalientHead()
    head.begin_from(sam)
    dataset = SalientDataset(read_pack(shapes), SalientSamples(side=SIDE), length=3)
    views = collate([dataset[i] for i in range(3)])
    logits, predicted = look(sam, head, views)
    assert (logits.shape, predicted.shape) == ((3, SIDE // 4, SIDE // 4), (3,))
    loss, _ = salient_loss(logits, predicted, views)
    loss.backward()
    idle = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias shifts all scores of a query alike, which softmax does not see
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []
    assert all(parameter.grad is None for parameter in sam.parameters())


def test_it_begins_as_tinys_decoder_without_a_prompt(shapes: Path) -> None:
    sam, head = salient.load_sam("tiny").sam, SalientHead()
    head.begin_from(sam)
    given = sam.mask_decoder.state_dict()
    for name, tensor in head.decoder.state_dict().items():
        assert torch.equal(tensor, given[name][: len(tensor)]), name


def test_views(shapes: Path) -> None:
    photos = read_pack(shapes)
    plain = SalientDataset(photos, SalientSamples(side=SIDE), plain=True)
    assert len(plain) == len(photos)
    views = plain[0]
    assert views.valid.tolist() == [[50, 64]]  # of 94 x 120 pixels
    assert views.targets.shape == (1, SIDE // 2, SIDE // 2)
    assert not views.targets[0, 25:].any()
    both = np.logical_or.reduce([salient.decode_rle(rle) for rle in photos[0].objects])
    assert float(views.targets.sum()) == pytest.approx(both.sum() * (64 / 120) ** 2 / 4, rel=0.05)
    never = SalientDataset(photos, SalientSamples(side=SIDE, zoom_share=0, nothing_share=1), length=20)
    assert sum(bool(never[i].targets.any()) for i in range(20)) <= 10  # where no window is found, all of it
    near = SalientDataset(photos, SalientSamples(side=SIDE, zoom_share=1, nothing_share=0), length=20)
    assert np.mean([float(near[i].targets.mean()) for i in range(20)]) > float(views.targets.mean())
    again = SalientDataset(photos, SalientSamples(side=SIDE), length=20)
    assert all(torch.equal(a, b) for a, b in zip(again[7], again[7], strict=True))


def test_a_stopped_run_continues_to_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    def run(out: str, report: object) -> Path:
        return train_salient(shapes.parent, tmp_path / out, config=SHORT, report=report, note=lambda _: None)

    whole = run("whole", lambda _: None)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("part", stop)
    part = run("part", lambda _: None)
    one, two = load_file(whole), load_file(part)
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(SamcliError, match="another training configuration"):
        train_salient(
            shapes.parent, tmp_path / "part", config=replace(SHORT, lr=1.0), report=lambda _: None,
            note=lambda _: None,
        )  # fmt: skip


def test_data_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "annotations.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(SamcliError, match=r"holds no annotated photos; add some to it$"):
        train_salient(tmp_path, tmp_path / "out", config=SHORT, report=lambda _: None, note=lambda _: None)


def test_the_command_trains(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(salient, "CONFIG", SHORT)
    command = ["train", "--recipe", "salient", "--data", str(shapes.parent), "--dtype", "fp32"]
    assert main([*command, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert "step 3/3  64 px  loss " in err
    assert "held out: 1 photos, mean IoU " in err
    assert err.endswith("weights: runs/salient/salient.safetensors\n")
    head = SalientHead()
    with safe_open("runs/salient/salient.safetensors", framework="pt") as stored:
        assert stored.metadata()["weights_sha256"] == load_sam("tiny").sha256
        assert set(stored.keys()) == head.state_dict().keys()


def test_the_command_begins_with_a_head(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMCLI_MODEL", "vit_b")  # is for commands that use a model
    monkeypatch.setattr(salient, "CONFIG", SHORT)
    command = [
        "train",
        "--recipe",
        "salient",
        "--data",
        str(shapes.parent),
        "--dtype",
        "fp32",
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    monkeypatch.setattr(salient, "CONFIG", replace(SHORT, lr=0.0))
    assert main([*command, "-m", "runs/salient/salient.safetensors", "-o", "same"]) == 0
    first, same = load_file("runs/salient/salient.safetensors"), load_file("same/salient.safetensors")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert main([*command, "-o", "other"]) == 0
    other = load_file("other/salient.safetensors")
    assert not all(torch.equal(first[name], other[name]) for name in first)
    capsys.readouterr()
    assert main([*command, "-m", "tiny", "-o", "none"]) == 1
    assert capsys.readouterr().err == (
        "error: tiny holds no weights that this recipe can begin with; give what an earlier run of it wrote\n"
    )
