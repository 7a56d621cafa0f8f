"""Fine-tuning of the decoder of any Sam."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import samcli as api
from samcli.errors import SamcliError
from samcli.masks import decode_rle, encode_rle, rle_area
from samcli.models.mask_decoder import MaskDecoder
from samcli.models.prompt_encoder import FOREGROUND, PADDING, TOP_LEFT, PromptEncoder
from samcli.models.sam import Sam
from samcli.models.small import build_tiny
from samcli.models.tiny_vit import TinyViT
from samcli.models.transformer import TwoWayTransformer
from samcli.models.vit import ImageEncoderViT
from samcli.predictor import Predictor
from samcli.train import decoder
from samcli.train.data import read_pack
from samcli.train.decoder import DecoderSamples, Features, draw, read_photos, train_decoder, views_of
from samcli.train.log import Progress
from samcli.train.loop import Draws, Stage, interact
from samcli.weights import MODELS, load_sam

SIDE = 128
SHORT = replace(
    decoder.CONFIG,
    stages=(Stage(side=0, images=6, batch=2),),
    warmup=1,
    bf16=False,
    save_every=1,
    log_every=1,
)


def small(architecture: str) -> Sam:
    """A network of the architecture's parts with random weights, for an input of SIDE pixels."""
    torch.manual_seed(0)
    if architecture == "tiny":
        return build_tiny(SIDE)
    encoder: TinyViT | ImageEncoderViT = (
        TinyViT(img_size=SIDE, out_chans=32)
        if architecture == "vit_t"
        else ImageEncoderViT(
            embed_dim=32, depth=4, num_heads=2, global_attn_indexes=(1, 3), img_size=SIDE, out_chans=32
        )
    )
    return Sam(
        encoder,
        PromptEncoder(32, (SIDE // 16,) * 2, (SIDE, SIDE), mask_in_chans=16),
        MaskDecoder(TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64), 32),
    )


@pytest.fixture(params=["vit_b"])
def base(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is fine-tuned is small; the architecture's name."""
    name: str = request.param

    def load(model: str, **_: object) -> Predictor:
        return Predictor(small(name), replace(MODELS["vit_b"], architecture=name), "0" * 64)

    monkeypatch.setattr(decoder, "load_predictor", load)
    dtypes = {n: t.dtype for n, t in small(name).state_dict().items()}
    monkeypatch.setattr(decoder, "stored_dtypes", lambda _: dtypes)
    return name


def tune(data: Path, out: Path, **options: Any) -> Path:
    given = {"model": None, "images": None, "config": SHORT, "report": lambda _: None, "note": lambda _: None}
    return train_decoder(data, out, **{**given, **options})


def excused(name: str) -> bool:
    """Softmax does not see a key's bias; of the three masks only the best ones learn."""
    return name.endswith("k_proj.bias") or "output_hypernetworks_mlps." in name


def changed(data: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((data / "annotations.json").read_text())
    change(content)
    (data / "annotations.json").write_text(json.dumps(content))


@pytest.fixture
def own(shapes: Path, tmp_path: Path) -> Path:
    """A copy of `shapes` with three photos, to change."""
    shutil.copytree(shapes, tmp_path / "own")

    def three(content: dict[str, Any]) -> None:
        content["images"] = content["images"][:3]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] <= 3]

    changed(tmp_path / "own", three)
    return tmp_path / "own"


@pytest.mark.parametrize("base", ["tiny", "vit_t", "vit_b"], indirect=True)
def test_decoder_and_prompt_encoder_change_and_the_encoder_does_not(
    base: str, shapes: Path, tmp_path: Path
) -> None:
    before = small(base).state_dict()
    path = tune(shapes, tmp_path)
    after = load_file(path)
    assert after.keys() == before.keys()
    frozen = [n for n in before if n.startswith("image_encoder.") or "gaussian" in n]
    assert [n for n in frozen if before[n].numpy().tobytes() != after[n].numpy().tobytes()] == []
    same = [n for n in before if n not in frozen and torch.equal(before[n], after[n])]
    assert [n for n in same if not excused(n)] == []
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["model"] == base
    assert not (tmp_path / "features").exists()


def test_the_gradient_stays_out_of_the_image_encoder(shapes: Path, tmp_path: Path) -> None:
    photos, shas = read_photos(shapes, None, tmp_path)
    predictor = Predictor(small("tiny"), MODELS["tiny"], "0" * 64)
    view = views_of(photos[0], 0, DecoderSamples(), SIDE, 0)[0]
    rng = np.random.default_rng(0)
    prompts = draw(view, DecoderSamples(prompts=16), predictor, rng)
    seen = Features(predictor, tmp_path / "features", shas).of(view)
    draws = Draws(0, torch.arange(16), 16)
    for loss, _ in interact(predictor.sam, seen, prompts, [True, False], SHORT, draws):
        loss.backward()
    reached = {n for n, p in predictor.sam.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n.split(".")[0] for n in reached} == {"prompt_encoder", "mask_decoder"}
    idle = {n for n, _ in predictor.sam.named_parameters() if not n.startswith("image_encoder.")} - reached
    assert [n for n in idle if not excused(n)] == []


@pytest.mark.parametrize("base", ["tiny"], indirect=True)
def test_it_learns_what_the_photos_show(base: str, shapes: Path, tmp_path: Path) -> None:
    log: list[Progress] = []
    config = replace(
        SHORT, stages=(Stage(side=0, images=240, batch=4),), lr=3e-3, log_every=10, save_every=99
    )
    tune(shapes, tmp_path, config=config, report=log.append)
    assert log[-1].loss < 0.75 * log[0].loss
    assert log[-1].iou_first > log[0].iou_first + 0.35


def test_a_stopped_run_continues_to_the_same_weights(base: str, shapes: Path, tmp_path: Path) -> None:
    whole = tune(shapes, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(shapes, tmp_path / "part", report=stop)
    kept = sorted((tmp_path / "part" / "features").iterdir())
    assert kept
    steps: list[int] = []
    part = tune(shapes, tmp_path / "part", report=lambda p: steps.append(p.step))
    assert steps == [2, 3]
    assert part.read_bytes() == whole.read_bytes()
    assert tune(shapes, tmp_path / "part", report=pytest.fail) == part  # it is finished


def test_other_data_is_not_continued(base: str, own: Path, tmp_path: Path) -> None:
    tune(own, tmp_path / "out")

    def moved(content: dict[str, Any]) -> None:
        mask = decode_rle(content["annotations"][0]["segmentation"])
        content["annotations"][0]["segmentation"] = encode_rle(np.roll(mask, 1, 1))

    changed(own, moved)
    with pytest.raises(SamcliError, match=r"another training configuration \(data_sha256 was "):
        tune(own, tmp_path / "out")
    tune(own, tmp_path / "other")


def test_features_are_kept_within_a_bound(
    base: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, shas = read_photos(shapes, None, tmp_path)
    size = 32 * (SIDE // 16) ** 2 * 4
    monkeypatch.setattr(decoder, "FEATURES_BYTES", 13 * size)
    features = Features(decoder.load_predictor("x"), tmp_path / "features", shas)
    assert features.views(len(photos), 16) == 2
    assert features.views(len(photos), 1) == 1
    assert features.views(1000, 16) == 1
    views = views_of(photos[0], 0, DecoderSamples(views=16), SIDE, 0)
    assert len(views) > 13
    first = [features.of(view).embedding for view in views]
    assert len(list((tmp_path / "features").iterdir())) == 13
    again = [features.of(view).embedding for view in views]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[2])


def test_views_and_prompts_agree_with_the_photo(own: Path, tmp_path: Path) -> None:
    """A click lies on its thing, a box about it, and the target is the thing as the model sees it."""
    photos, _ = read_photos(own, None, tmp_path)
    predictor = Predictor(small("tiny"), MODELS["tiny"], "0" * 64)
    samples = DecoderSamples(prompts=40, anywhere_share=0.2)
    views = views_of(photos[0], 0, samples, SIDE, 0)
    height, width = photos[0].objects[0]["size"]
    assert (views[0].window, views[0].mirrored, views[0].light) == ((0, 0, width, height), False, None)
    assert {view.mirrored for view in views} == {True, False}
    assert min(max(view.size) for view in views) < 0.7 * width
    for number, view in enumerate(views):
        prompts = draw(view, samples, predictor, np.random.default_rng(number))
        scale = SIDE / max(view.size)
        assert prompts.valid.tolist() == [[round(edge * scale) for edge in view.size]]
        assert not prompts.known.all()
        assert prompts.targets[prompts.known[:, 0], 0].flatten(1).any(1).all()
        for coords, labels, target, known in zip(
            prompts.coords, prompts.labels.tolist(), prompts.targets[:, 0], prompts.known[:, 0], strict=True
        ):
            cells = torch.nn.functional.max_pool2d(target[None].float(), 3, 1, 1)[0]  # a cell's tolerance
            x, y = (coords[0] / decoder.TARGET_STRIDE).long().tolist()
            if labels == [FOREGROUND, PADDING]:
                assert bool(cells[y, x]) == bool(known)
                assert coords[1].tolist() == [0, 0]
            else:
                assert labels[0] == TOP_LEFT
                ys, xs = torch.nonzero(target, as_tuple=True)
                middle = torch.stack([xs, ys], 1).float().mean(0) * decoder.TARGET_STRIDE
                assert (coords[0] < middle).all()
                assert (middle < coords[1]).all()
        wanted = np.zeros(view.size, bool)
        for k in view.objects:
            wanted |= view.mask(k)
        everything = prompts.targets[:, 0].amax(0).sum() * decoder.TARGET_STRIDE**2 / scale**2
        assert float(everything) == pytest.approx(wanted.sum(), rel=0.1)


def test_photos_without_anything_to_learn_are_left_out(base: str, own: Path, tmp_path: Path) -> None:
    def dot(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            if annotation["image_id"] == 1:
                mask = np.zeros(annotation["segmentation"]["size"], bool)
                mask[3, 3] = True
                annotation["segmentation"] = encode_rle(mask)

    changed(own, dot)
    said: list[str] = []
    tune(own, tmp_path / "out", note=said.append)
    assert said == ["vit_b: 3 photos with 6 masks, 1 of them without one to learn from; 16 views of each"]


def nothing(content: dict[str, Any]) -> None:
    content["annotations"] = []


def empty(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["segmentation"] = encode_rle(np.zeros(annotation["segmentation"]["size"], bool))


def damaged(content: dict[str, Any]) -> None:
    content["annotations"][0]["segmentation"]["counts"] = "11"


def unlike(content: dict[str, Any]) -> None:
    content["annotations"][0]["segmentation"] = encode_rle(np.ones((5, 7), bool))


def unknown(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 99


def missing(content: dict[str, Any]) -> None:
    content["images"][1]["file_name"] = "gone.png"


def no_mask(content: dict[str, Any]) -> None:
    content["annotations"][0]["segmentation"] = None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nothing, "own holds no annotated masks; add some to it"),
        (empty, "no mask in own can be learned at tiny's input of 320 pixels; they are empty, smaller than "
                "24 pixels there, or cover whole photos"),
        (damaged, "a mask of own/images/1.png: run-length encoding of size [94, 120] is damaged: not runs of "
                  "11280 pixels"),
        (unlike, "own/images/1.png is 120x94 pixels upright, but a mask of it 7x5; annotate the photo as it "
                 "is"),
        (unknown, "own/annotations.json is not a COCO instances file: 99 is missing or wrong"),
        (missing, "own/images/gone.png does not exist; name the folder of the photos with --images"),
        (no_mask, "own/annotations.json is not a COCO instances file: segmentation is missing or wrong"),
    ],
)  # fmt: skip
def test_bad_data_is_said_in_one_line(
    samcli: Callable[..., Any],
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], object],
    expected: str,
) -> None:
    changed(own, change)
    monkeypatch.chdir(tmp_path)
    result = samcli("train", "--recipe", "decoder", "--data", "own", "--device", "cpu")
    assert result == (1, "", f"error: {expected}\n")


def test_broken_files_are_said_in_one_line(
    samcli: Callable[..., Any], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "--recipe", "decoder", "--device", "cpu", "--data"]
    (own / "images" / "2.png").write_bytes(b"no picture")
    code, out, err = samcli(*command, "own")
    assert (code, out) == (1, "")
    assert err.startswith("error: own/images/2.png ")
    assert err.count("\n") == 1
    (own / "annotations.json").write_text('{"images": [')
    code, out, err = samcli(*command, "own")
    assert (code, out) == (1, "")
    assert err.startswith("error: own/annotations.json is not JSON: ")
    (own / "annotations.json").write_bytes(b"\xff\xfe\x00")
    assert samcli(*command, "own").err.startswith("error: own/annotations.json is not JSON: ")
    assert samcli(*command, "nowhere").err == (
        "error: nowhere holds no training data; expected folders (or tar files) with annotations.json\n"
    )


@pytest.mark.parametrize(
    ("recipe", "option", "recipes"),
    [
        ("salient", ("--rounds", "11"), "tiny or decoder"),
        ("tiny", ("--images", "photos"), "decoder"),
    ],
)
def test_options_of_other_recipes_are_refused(
    samcli: Callable[..., Any], own: Path, recipe: str, option: tuple[str, str], recipes: str
) -> None:
    code, out, err = samcli("train", "--recipe", recipe, "--data", own, *option)
    assert (code, out) == (2, "")
    assert f"goes with --recipe {recipes}; {recipe} takes none" in " ".join(err.split())


def test_the_command_tunes_tiny_and_predict_uses_it(
    samcli: Callable[..., Any], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `annotate`'s kind of dataset: the photos lie elsewhere, one of them on its side by EXIF."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoder, "CONFIG", replace(SHORT, stages=(Stage(side=0, images=8, batch=2),)))
    (own / "images").rename("photos")
    turned = Image.open("photos/2.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("photos/2.png", exif=exif)
    command = ["train", "--recipe", "decoder", "--data", "own", "--images", "photos", "-o", "runs/shapes"]
    code, out, err = samcli(*command, "--device", "cpu", "--dtype", "fp32", "--json")
    assert code == 0, err
    weights = "runs/shapes/model.safetensors"
    assert json.loads(out) == {"weights": weights, "recipe": "decoder", "steps": 4}
    assert err.startswith("tiny: 3 photos with 6 masks; 16 views of each\nstep 1/4  320 px  loss ")
    assert err.endswith(f"weights: {weights}\n")

    tiny, tuned = load_sam("tiny"), load_sam(weights)
    assert (tuned.spec.architecture, tuned.spec.automask) == ("tiny", tiny.spec.automask)
    stored = load_file(weights)
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    packaged = load_file(Path(api.__file__).parent / "data" / "tiny.safetensors")
    encoder = [n for n in packaged if n.startswith("image_encoder.")]
    assert all(packaged[n].numpy().tobytes() == stored[n].numpy().tobytes() for n in encoder)

    code, out, err = samcli("predict", "photos/1.png", "--point", "31,40", "-m", weights, "--json")
    assert code == 0, err
    assert json.loads(out)["masks"]
    code, _, err = samcli("automask", "photos/1.png", "-o", "all/", "-m", weights, "-q")
    assert code == 0, err
    head = json.loads(Path("all/1.json").read_text())["samcli"]
    assert (head["model"], head["weights_sha256"]) == ("model.safetensors", tuned.sha256)
    assert head["config"]["points_per_side"] == MODELS["tiny"].automask["points_per_side"]

    again = samcli(*command, "--device", "cpu", "--dtype", "fp32", "--seed", "1")
    assert again.code == 1
    assert "belongs to another training configuration (seed was 0, is now 1)" in again.err


def test_a_coco_file_and_a_checkpoint_file(
    samcli: Callable[..., Any], own: Path, random_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a dataset, as `annotate --split` writes it; a model in fp32 stays so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoder, "CONFIG", SHORT)
    (own / "annotations.json").rename(own / "train.json")
    command = ["train", "--recipe", "decoder", "--data", own / "train.json", "-m", random_tiny, "-o", "out"]
    code, _, err = samcli(*command, "--device", "cpu", "--dtype", "fp32", "--samples", "2")
    assert code == 0, err
    assert "step 1/1" in err
    before, after = load_file(random_tiny), load_file("out/model.safetensors")
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}


def test_polygons_and_several_packs(base: str, own: Path, tmp_path: Path) -> None:
    def square(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = [[20, 20, 60, 20, 60, 60, 20, 60]]

    data = tmp_path / "data"
    shutil.copytree(own, data / "one")
    shutil.copytree(own, data / "two")
    changed(data / "two", square)
    photos, shas = read_photos(data, None, tmp_path / "unpacked")
    assert len(photos) == 6
    assert len(shas) == 6
    assert rle_area(photos[3].objects[0]) == 1600
    assert [p.path.name for p in photos[:3]] == [p.path.name for p in read_pack(own)]


@pytest.mark.slow
def test_a_published_architecture_at_its_own_size(
    samcli: Callable[..., Any], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MobileSAM's, in the layout of its checkpoint, with random weights."""
    from samcli.models.registry import build_sam

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(build_sam("vit_t").state_dict(), "random.pt")
    command = ["train", "--recipe", "decoder", "--data", own, "-m", "random.pt", "-o", "out"]
    code, _, err = samcli(*command, "--device", "cpu", "--samples", "4")
    assert code == 0, err
    tuned = load_sam("out/model.safetensors")
    assert tuned.spec.architecture == "vit_t"
    code, out, err = samcli(
        "predict", own / "images" / "1.png", "--point", "31,40", "-m", "out/model.safetensors", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["masks"]
