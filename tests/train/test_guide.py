"""What a teacher says of photos reaches the cells of the scenes that show them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from samcli.errors import SamcliError
from samcli.models.small import build_tiny
from samcli.train import data
from samcli.train.data import Pack, PromptDataset, SampleConfig, read_pack
from samcli.train.edges import EdgeTeacher
from samcli.train.guide import BASIS, CHANNELS, Guide, GuideTeacher, load_basis, make_guide, write_guide
from samcli.train.log import rows
from samcli.train.loop import GUIDE, Stage, TrainConfig, load_checkpoint, ship, train


def _places(height: int, width: int) -> np.ndarray:
    """Features that say where in the photo they are: (x, y) in 0..1 and zeros."""
    said = np.zeros((height, width, CHANNELS), np.float16)
    said[..., 0] = (np.arange(width) + 0.5) / width
    said[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
    return said


@pytest.fixture
def ramps(tmp_path: Path) -> list[Pack]:
    """A photo whose red says how far right a pixel is and whose green how far down, and such features."""
    folder = tmp_path / "ramps"
    (folder / "images").mkdir(parents=True)
    height, width = 240, 320
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = 255 * (np.arange(width) + 0.5) / width
    photo[..., 1] = (255 * (np.arange(height) + 0.5) / height)[:, None]
    Image.fromarray(photo).save(folder / "images" / "ramp.png")
    polygon = [60, 50, 250, 60, 240, 200, 80, 190]
    about = {"image_id": 1, "category_id": 1, "segmentation": [polygon], "id": 1, "iscrowd": 0}
    image = {"id": 1, "file_name": "ramp.png", "height": height, "width": width}
    (folder / "annotations.json").write_text(json.dumps({"images": [image], "annotations": [about]}))
    write_guide(["ramp.png"], [_places(15, 20)], tmp_path / "guide")
    return [Pack("ramps", read_pack(folder, guide=Guide(tmp_path / "guide")), 1.0, cutouts=False)]


def test_cells_hear_of_the_place_that_they_show(ramps: list[Pack], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "recolour", lambda image, _: image)
    dataset = PromptDataset(ramps, SampleConfig(side=128), seed=0, length=40)
    mirrored, shown, silent = 0, 0, 0
    for i in range(40):
        batch = dataset[i]
        height, width = batch.valid[0].tolist()
        means = torch.nn.functional.avg_pool2d(batch.images[0].float(), 16)[:2] / 255
        guide = batch.guide[0].float()
        known = ~guide[0].isnan()
        assert torch.equal(known, ~guide.isnan().any(0))
        silent += not known.any()
        if not known.any():
            continue
        assert known.nonzero().max(0).values.tolist() == [(height - 9) // 16, (width - 9) // 16]
        inside = (slice(None), slice(0, height // 16), slice(0, width // 16))  # cells without padding
        # features stand in cells of 1/20 of the photo, and are constant beyond the outermost middles
        assert (guide[:2][inside] - means[inside]).abs().max() < 0.03
        mirrored += bool(guide[0, 0, 0] > guide[0, 0, 1])
        shown += 1
    assert 0 < mirrored < shown
    assert silent  # zoomed in too far


def test_pasted_things_hide_what_was_said(shapes: Path, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(1, 7)]
    write_guide(names, [_places(6, 8) for _ in names], tmp_path / "guide")
    one = json.loads((shapes / "annotations.json").read_text())
    one["annotations"] = one["annotations"][::2]  # cut-outs have one object
    (tmp_path / "one.json").write_text(json.dumps(one))
    photos = read_pack(tmp_path / "one.json", images=shapes / "images", guide=Guide(tmp_path / "guide"))
    config = SampleConfig(side=64, whole_share=1.0, paste_share=1.0, max_pasted=1)
    plain, pasted = (
        PromptDataset([Pack("shapes", photos, 1.0, cutouts=cut)], config, seed=1, length=6)
        for cut in (False, True)
    )
    quiet = [[int(d[i].guide[0, 0].isnan().sum()) for i in range(6)] for d in (plain, pasted)]
    assert sum(quiet[1]) > sum(quiet[0])


def test_the_encoder_learns_what_the_teacher_says(ramps: list[Pack], tmp_path: Path) -> None:
    config = TrainConfig(
        (Stage(side=64, images=240, batch=6),),
        warmup=5, bf16=False, log_every=4, guide_weight=1000.0, focal=False,
    )  # fmt: skip
    train(build_tiny, ramps, SampleConfig(whole_share=1.0), config, tmp_path / "out", lambda _: None)
    losses = [float(row["loss"]) for row in rows(tmp_path / "out" / "log.csv")]
    assert losses[-1] < 0.2 * losses[0]
    assert any(name.startswith(GUIDE) for name in load_checkpoint(tmp_path / "out" / "checkpoint.pt")["ema"])
    assert load_file(ship(tmp_path / "out")).keys() == build_tiny(64).state_dict().keys()


def test_all_packs_have_a_guide_or_none(ramps: list[Pack], shapes: Path, tmp_path: Path) -> None:
    packs = [*ramps, Pack("shapes", read_pack(shapes), 1.0, cutouts=False)]
    config = TrainConfig((Stage(side=48, images=4, batch=4),))
    with pytest.raises(SamcliError, match="some packs of the training data have a teacher's features"):
        train(build_tiny, packs, SampleConfig(), config, tmp_path / "out", lambda _: None)


def test_a_photo_in_a_folder_is_known_by_its_whole_name(ramps: list[Pack], tmp_path: Path) -> None:
    folder = tmp_path / "ramps"
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "ramp.png").rename(folder / "images" / "sub" / "ramp.png")
    text = (folder / "annotations.json").read_text().replace('"ramp.png"', '"sub/ramp.png"')
    (folder / "annotations.json").write_text(text)
    write_guide(["sub/ramp.png"], [_places(15, 20)], tmp_path / "other")
    (photo,) = read_pack(folder, guide=Guide(tmp_path / "other"))
    assert photo.features().shape == (15, 20, CHANNELS)
    (late,) = read_pack(folder, guide=Guide(tmp_path / "guide"))
    with pytest.raises(SamcliError, match=r"guide does not know the photo sub/ramp\.png, which came later"):
        late.features()


def test_a_pack_without_photos_has_no_guide(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('{"images": [], "annotations": []}')
    assert make_guide(tmp_path, tmp_path / "guide", lambda _: None) is None
    (tmp_path / "annotations.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(SamcliError, match="is not a COCO instances file: 'file_name' is missing"):
        make_guide(tmp_path, tmp_path / "guide", lambda _: None)


def test_features_are_found_once_and_in_one_basis(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an untrained network of the teacher's shape; its weights cannot be had in a test."""
    torch.manual_seed(0)
    teacher = EdgeTeacher().eval()
    for conv in teacher.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(conv.weight)
    monkeypatch.setattr(EdgeTeacher, "load", lambda: teacher)
    said: list[str] = []
    guide = make_guide(shapes, tmp_path / "guide" / "shapes", said.append)
    assert said == ["shapes: features of 6 photos"]
    features = [guide[f"{number}.png"].astype(np.float32) for number in range(1, 7)]
    heights = [round((90 + 4 * number) * 320 / 120 / 16) for number in range(1, 7)]
    assert [f.shape for f in features] == [(height, 20, CHANNELS) for height in heights]
    for block in (slice(0, 64), slice(64, None)):
        assert np.mean([np.mean(f[..., block] ** 2) for f in features]) == pytest.approx(1, abs=0.1)
    # the same photo, in the basis on disk
    again = GuideTeacher(teacher, load_basis(tmp_path / "guide" / BASIS))(
        data.read_photo(shapes / "images" / "3.png")
    )
    assert np.abs(again.astype(np.float32) - features[2]).max() < 0.05
    make_guide(shapes, tmp_path / "guide" / "shapes", said.append)
    assert len(said) == 1
