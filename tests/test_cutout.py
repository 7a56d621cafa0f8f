"""What stands out in a picture, its edges, and the pictures painted of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import samcli
from samcli import images, weights
from samcli.cutout import alpha, find, load_finder, paint
from samcli.errors import SamcliError, WeightsError
from samcli.masks import decode_rle

ROOT = Path(__file__).parent.parent
DEV = ROOT.parent / "shared" / "data" / "dev"


@pytest.fixture(scope="module")
def tiny() -> samcli.Predictor:
    return samcli.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def ball() -> tuple[np.ndarray, np.ndarray]:
    """A red ball on grass-green noise, (240, 320, 3), and where it is."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    picture = np.stack([70 + 0 * x, 120 + y // 8, 60 + 0 * x], -1) + rng.integers(-12, 12, (240, 320, 1))
    disc = (x - 170) ** 2 + (y - 125) ** 2 < 60**2
    shade = 1 - 0.4 * np.hypot(x - 150, y - 105)[..., None] / 90
    picture = np.where(disc[..., None], np.array([220, 50, 40]) * shade, picture)
    return np.clip(picture, 0, 255).astype(np.uint8), disc


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


# Finding


def test_an_evident_thing_is_cut_out(tiny: samcli.Predictor, ball: tuple[np.ndarray, np.ndarray]) -> None:
    picture, disc = ball
    cut = samcli.cutout(tiny, picture)
    assert cut.mask is not None
    bits = decode_rle(cut.mask.segmentation)
    assert iou(bits, disc) > 0.9
    assert cut.rgba.shape == (240, 320, 4)
    np.testing.assert_array_equal(cut.rgba[..., 3] > 127, bits)
    assert cut.mask.area == bits.sum()
    assert cut.mask.score == cut.mask.predicted_iou >= samcli.CutoutConfig().min_confidence


@pytest.mark.parametrize("enlarged", [1, 3])
def test_the_cup_of_the_example_is_cut_out(tiny: samcli.Predictor, enlarged: int) -> None:
    """Three times as large it is beyond the size at which edges are looked for."""
    photo = images.load(ROOT / "examples" / "coffee.jpg")
    large = np.asarray(Image.fromarray(photo).resize((600 * enlarged, 400 * enlarged)))
    mask = find(tiny, large)
    assert mask is not None
    assert mask.segmentation["size"] == [400 * enlarged, 600 * enlarged]
    bits = decode_rle(mask.segmentation)[::enlarged, ::enlarged]
    y, x = np.mgrid[:400, :600]
    saucer = ((x - 298) / 216) ** 2 + ((y - 205) / 187) ** 2 < 1
    assert iou(bits, saucer) > 0.8


def test_photos_with_ground_truth(tiny: samcli.Predictor) -> None:
    import json

    folder = DEV / "duts-heldout"
    if not folder.exists():
        pytest.skip("the development photos are not here")
    data = json.loads((folder / "annotations.json").read_text())
    truth = {a["image_id"]: decode_rle(a["segmentation"]) for a in data["annotations"]}
    finder, reached = load_finder(tiny), []
    for image in data["images"][:24]:
        mask = find(tiny, images.load(folder / "images" / image["file_name"]), finder=finder)
        reached.append(iou(decode_rle(mask.segmentation), truth[image["id"]]) if mask else 0.0)
    assert np.mean(reached) > 0.7


def test_nothing_stands_out_in_an_even_picture(tiny: samcli.Predictor) -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    cut = samcli.cutout(tiny, grey)
    assert cut.mask is None
    assert not cut.rgba.any()


def test_an_embedding_saves_the_first_look(
    tiny: samcli.Predictor, ball: tuple[np.ndarray, np.ndarray]
) -> None:
    picture, _ = ball
    finder = load_finder(tiny)
    assert find(tiny, picture, finder=finder, embedding=tiny.embed(picture)) == find(
        tiny, picture, finder=finder
    )


def test_another_model_cuts_out_what_tiny_found(
    tiny: samcli.Predictor, random_tiny: Path, ball: tuple[np.ndarray, np.ndarray]
) -> None:
    picture, _ = ball
    other = samcli.load(random_tiny, device="cpu")
    own, its = find(tiny, picture), find(other, picture, samcli.CutoutConfig(min_confidence=0))
    assert own is not None
    bits = decode_rle(own.segmentation)
    x, y, w, h = own.bbox
    embedding = other.embed(picture)
    prompt = samcli.Prompt(box=samcli.Box(x, y, x + w, y + h), mask=other.mask_prompt(embedding, bits))
    answer = other.predict(embedding, prompt)
    if its is None:
        assert not answer.masks[0].any()
    else:
        np.testing.assert_array_equal(decode_rle(its.segmentation), answer.masks[0])
        assert its.predicted_iou == pytest.approx(float(answer.predicted_iou[0]))


def test_two_things_are_two_prompts_and_one_mask(
    tiny: samcli.Predictor, random_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is prompted by its own box; a speck is not."""
    module = sys.modules["samcli.cutout"]
    bits = np.zeros((60, 90), bool)
    bits[10:30, 10:30] = bits[20:50, 60:80] = bits[2:4, 50:52] = True
    other = samcli.load(random_tiny, device="cpu")
    boxes = []
    predict = other.predict

    def watched(embedding: samcli.Embedding, prompts: object, **options: bool) -> object:
        if isinstance(prompts, samcli.Prompt):
            boxes.append(prompts.box.xyxy)
        return predict(embedding, prompts, **options)

    monkeypatch.setattr(other, "predict", watched)
    monkeypatch.setattr(module, "_find", lambda *_: module._Found(bits, 0.9, 0.9))
    find(other, np.zeros((60, 90, 3), np.uint8))
    assert boxes == [(10, 10, 30, 30), (60, 20, 80, 50)]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_confidence_is_a_share(value: float) -> None:
    with pytest.raises(SamcliError, match=r"min_confidence is .*; give a number from 0 to 1"):
        samcli.CutoutConfig(min_confidence=value)


def test_cutout_stays_a_function_when_its_module_is_imported() -> None:
    code = "import samcli, samcli.cutout; from samcli.cutout import paint; print(samcli.cutout.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("cutout\n", "")


# The head's file


@pytest.fixture
def head_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the head's file, which is loaded in its place."""
    copy = tmp_path / weights.SALIENT_FILE
    shutil.copy(weights.files.DATA / weights.SALIENT_FILE, copy)
    monkeypatch.setattr(weights.load, "_salient_file", lambda: copy)
    return copy


def test_the_head_fits_into_the_package() -> None:
    assert (ROOT / "samcli" / "data" / weights.SALIENT_FILE).stat().st_size < 1_700_000


def test_the_head_belongs_to_tinys_weights(tiny: samcli.Predictor, head_file: Path) -> None:
    assert load_finder(tiny).sha256 == weights.sha256_of(head_file)
    said = f"was trained over {tiny.weights_sha256}, but tiny is 0123; reinstall samcli$"
    with pytest.raises(WeightsError, match=said):
        weights.load_salient("0123")


def test_the_head_is_loaded_strictly(tiny: samcli.Predictor, head_file: Path) -> None:
    state = load_file(head_file)
    of = {"weights_sha256": tiny.weights_sha256}
    save_file({n: t for n, t in state.items() if n != "tokens"}, head_file, metadata=of)
    with pytest.raises(
        SamcliError, match=r"does not fit the salient head; keys 1 missing: tokens; reinstall samcli$"
    ):
        weights.load_salient(tiny.weights_sha256)
    save_file({**state, "more": torch.zeros(1)}, head_file, metadata=of)
    with pytest.raises(SamcliError, match="1 unexpected: more"):
        weights.load_salient(tiny.weights_sha256)
    head_file.write_bytes(head_file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"is damaged \(.*\); reinstall samcli"):
        weights.load_salient(tiny.weights_sha256)


# Edges and pictures


def test_more_than_half_opaque_is_the_mask(ball: tuple[np.ndarray, np.ndarray]) -> None:
    picture, disc = ball
    opacity = alpha(picture, disc)
    np.testing.assert_array_equal(opacity > 127, disc)
    assert np.count_nonzero((opacity > 0) & (opacity < 255)) > 100  # soft along the edge
    assert opacity[125, 170] == 255
    assert not opacity[:50].any()
    assert not alpha(picture, np.zeros_like(disc)).any()


def test_strips_and_tiles_leave_no_trace(
    ball: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["samcli.cutout"]
    picture, disc = ball
    small = disc[::2, ::2]
    whole = alpha(picture, disc), module._to_edges(picture, small, 4)
    monkeypatch.setattr(module, "STRIP", 320 * 7)
    monkeypatch.setattr(module, "TILE", 33)
    np.testing.assert_allclose(alpha(picture, disc).astype(int), whole[0], atol=1)
    assert iou(module._to_edges(picture, small, 4), whole[1]) > 0.999


def test_a_rough_mask_moves_to_the_edge(ball: tuple[np.ndarray, np.ndarray]) -> None:
    picture, disc = ball
    y, x = np.mgrid[:240, :320]
    rough = (x - 173) ** 2 + (y - 127) ** 2 < 60**2
    assert iou(rough, disc) < 0.93
    assert iou(sys.modules["samcli.cutout"]._to_edges(picture, rough, 8), disc) > 0.97


def test_tight_and_background(ball: tuple[np.ndarray, np.ndarray]) -> None:
    picture, disc = ball
    whole, tight = paint(picture, disc), paint(picture, disc, tight=True)
    assert not whole[whole[..., 3] == 0].any()  # nothing is left of what is not seen
    opaque = whole[..., 3] == 255
    np.testing.assert_array_equal(whole[opaque][:, :3], picture[opaque])
    rows, columns = whole[..., 3].any(1), whole[..., 3].any(0)
    np.testing.assert_array_equal(tight, whole[rows][:, columns])
    blue = paint(picture, disc, background=(0, 0, 255))
    assert blue.shape == (240, 320, 3)
    assert (blue[0, 0] == (0, 0, 255)).all()
    np.testing.assert_array_equal(blue[opaque], picture[opaque])
    nothing = np.zeros_like(disc)
    assert paint(picture, nothing, tight=True).shape == (240, 320, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_pictures_of_a_few_pixels(tiny: samcli.Predictor, size: tuple[int, int]) -> None:
    cut = samcli.cutout(tiny, np.full((*size, 3), 200, np.uint8), samcli.CutoutConfig(min_confidence=0))
    assert cut.rgba.shape == (*size, 4)
