"""Our networks against the reference's: the same names, and with the same random weights the same outputs."""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import STAND_INS, Reference
from torch import Tensor, nn

from samcli.models import vit
from samcli.models.prompt_encoder import BOTTOM_RIGHT, PADDING, TOP_LEFT
from samcli.models.registry import ARCHITECTURES, build_sam
from samcli.models.sam import ImageFeatures, Sam
from samcli.predictor import Embedding, Predictor
from samcli.records import Box, Prompt
from samcli.weights import MODELS

PUBLISHED = [name for name in ARCHITECTURES if name != "tiny"]
LEARNT_VECTORS = (
    "embed.weight",
    "iou_token.weight",
    "mask_tokens.weight",
    "pos_embed",
    "biases",
    "gaussian_matrix",
)
TOLERANCE = 1e-5  # of max|a - b| / max|b|, fp32


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Weights with which every part shows in the outputs: activations near 1, logits of about 3."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.ndim == 1:
            near_one = name.endswith((".weight", "iou_prediction_head.layers.2.bias"))  # norms, and real IoUs
            tensor.copy_(0.1 * noise + near_one)
        elif "rel_pos" in name:
            tensor.copy_(0.1 * noise)
        elif name.endswith(LEARNT_VECTORS) or "point_embeddings" in name:
            tensor.copy_(noise)
        else:
            gain = 1.6 if "hypernetworks" in name else 1.0  # three layers of it
            tensor.copy_(gain * noise * tensor[0].numel() ** -0.5)


def share_weights(ours: nn.Module, theirs: Any) -> None:
    """Random weights for both, in evaluation mode."""
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())  # strict
    ours.eval()
    theirs.eval()  # also refreshes the attention biases that MobileSAM's TinyViT caches


def test_the_stand_ins_are_gone_after_the_import(reference: Reference) -> None:
    assert all(sys.modules[name].__spec__ for name in STAND_INS if name in sys.modules)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_dtypes_and_epsilons(reference: Reference, name: str) -> None:
    with torch.device("cpu" if name == "vit_t" else "meta"):  # TinyViT reads numbers while it is built
        theirs = reference.build(name)
    with torch.device("meta"):
        ours = build_sam(name)
    assert describe(ours.state_dict()) == describe(theirs.state_dict())
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    assert epsilons(ours) == epsilons(theirs)  # too small to show in outputs of activations near 1


def describe(state: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}


def epsilons(network: Any) -> dict[str, float]:
    return {name: module.eps for name, module in network.named_modules() if hasattr(module, "eps")}


# Encoders


def vit_pair(
    reference: Reference, side: int, window: int, dim: int, heads: int, depth: int, every: int
) -> tuple:
    """Our ViT and theirs; every so many blocks one is global."""
    indexes = list(range(every - 1, depth, every))
    ours = vit.ImageEncoderViT(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        global_attn_indexes=indexes,
        img_size=side,
        window_size=window,
    )
    theirs = reference.sam.modeling.ImageEncoderViT(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        global_attn_indexes=indexes,
        img_size=side,
        window_size=window,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
    )
    share_weights(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize(("side", "window"), [(320, 14), (336, 7), (224, 14)], ids=["padded", "even", "one"])
@torch.inference_mode()
def test_shallow_vit(reference: Reference, side: int, window: int) -> None:
    ours, theirs = vit_pair(reference, side, window, dim=96, heads=3, depth=4, every=2)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert error(ours(images).embedding, theirs(images)) <= TOLERANCE


@torch.enable_grad()
def test_vit_with_gradients_a_head_at_a_time(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = vit_pair(reference, 320, 14, dim=96, heads=3, depth=2, every=2)
    images = torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(vit, "BIAS_ELEMENTS", 1)
    assert error(ours(images).embedding, theirs(images)) <= TOLERANCE


@torch.inference_mode()
def test_vit_b_at_its_real_width_and_size(reference: Reference) -> None:
    """Three of the twelve blocks, the third global: all twelve take the reference half a minute."""
    ours, theirs = vit_pair(reference, 1024, 14, dim=768, heads=12, depth=3, every=3)
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    assert error(ours(images).embedding, theirs(images)) <= TOLERANCE


@pytest.mark.slow
@torch.inference_mode()
def test_whole_vit_b(reference: Reference) -> None:
    ours, theirs = build_sam("vit_b"), reference.build("vit_b")
    share_weights(ours, theirs)
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    assert error(ours.encode_image(images).embedding, theirs.image_encoder(images)) <= TOLERANCE


@torch.inference_mode()
def test_relative_positions_of_another_size_are_interpolated(reference: Reference) -> None:
    module = sys.modules["segment_anything.modeling.image_encoder"]
    ours = vit.Attention(64, 2, size=10)
    theirs = module.Attention(64, 2, use_rel_pos=True, input_size=(10, 10))
    share_weights(ours, theirs)
    x = torch.randn(2, 7, 13, 64, generator=torch.Generator().manual_seed(1))
    assert error(ours(x), theirs(x)) <= TOLERANCE


@pytest.fixture(scope="module")
def mobile(reference: Reference) -> tuple[Sam, Any]:
    ours, theirs = build_sam("vit_t"), reference.build("vit_t")
    share_weights(ours, theirs)
    return ours, theirs


@torch.inference_mode()
def test_whole_tiny_vit(mobile: tuple[Sam, Any]) -> None:
    ours, theirs = mobile
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    assert error(ours.encode_image(images).embedding, theirs.image_encoder(images)) <= TOLERANCE


# Prompts and masks


def points(*labels: int, prompts: int = 1) -> dict[str, Tensor]:
    """As many points per prompt as labels, anywhere in the frame."""
    generator = torch.Generator().manual_seed(10 * prompts + len(labels))
    coords = torch.rand(prompts, len(labels), 2, generator=generator) * 1024
    return {"coords": coords, "labels": torch.tensor([labels] * prompts)}


def boxes(prompts: int = 1) -> dict[str, Tensor]:
    corners = torch.rand(prompts, 2, 2, generator=torch.Generator().manual_seed(prompts)) * 1024
    return {"boxes": torch.cat([corners.amin(1), corners.amax(1)], 1)}


def masks(prompts: int = 1) -> dict[str, Tensor]:
    """Smooth low-res logits between -8 and 8."""
    coarse = torch.randn(prompts, 1, 8, 8, generator=torch.Generator().manual_seed(prompts))
    return {"masks": (4 * nn.functional.interpolate(coarse, (256, 256), mode="bilinear")).clamp(-8, 8)}


PROMPTS = {
    "one point": points(1),
    "several points": points(1, 1, 0),
    "background point": points(0),
    "box": boxes(),
    "box and points": points(1, 0) | boxes(),
    "mask and points": points(1, 1) | masks(),
    "mask and box": boxes() | masks(),
    "mask, box and point": points(0) | boxes() | masks(),
    "mask": masks(),
    "many points": points(1, prompts=6),
    "many boxes": boxes(11),
    "many boxes with points": points(1, 0, prompts=5) | boxes(5),
    "many points with a mask each": points(1, 0, prompts=4) | masks(4),
    "many points with one mask": points(1, 0, prompts=3) | masks(),
}


class Decoders:
    """Our prompt encoder and decoder and theirs, with the same weights, on the same image embedding."""

    def __init__(self, ours: Sam, theirs: Any) -> None:
        self.ours, self.theirs = ours, theirs
        self.embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))

    @torch.inference_mode()
    def answer(self, prompt: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
        """Our low-res logits and predicted IoU. A box is two corners; points alone get the padding token."""
        count = max(len(tensor) for tensor in prompt.values())
        coords = [prompt.get("coords", torch.zeros(count, 0, 2))]
        labels = [prompt.get("labels", torch.zeros(count, 0, dtype=torch.int64))]
        if "boxes" in prompt:
            coords.append(prompt["boxes"].view(count, 2, 2))
            labels.append(torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]] * count))
        elif "coords" in prompt:
            coords.append(torch.zeros(count, 1, 2))
            labels.append(torch.full((count, 1), PADDING))
        features = ImageFeatures(self.embedding)
        given = torch.cat(coords, 1), torch.cat(labels, 1), prompt.get("masks")
        return self.ours.decode(features, *given, multimask=multimask)

    @cache  # noqa: B019 - lives as long as the fixture
    @torch.inference_mode()
    def expected(self, kind: str, multimask: bool) -> tuple[Tensor, Tensor]:
        """Their low-res logits and predicted IoU."""
        prompt = PROMPTS[kind]
        coords = (prompt["coords"], prompt["labels"]) if "coords" in prompt else None
        sparse, dense = self.theirs.prompt_encoder(coords, prompt.get("boxes"), prompt.get("masks"))
        image_pe = self.theirs.prompt_encoder.get_dense_pe()
        answer: tuple[Tensor, Tensor] = self.theirs.mask_decoder(
            self.embedding, image_pe, sparse, dense, multimask
        )
        return answer


@pytest.fixture(scope="module")
def decoders(mobile: tuple[Sam, Any]) -> Decoders:
    return Decoders(*mobile)


@pytest.mark.parametrize("multimask", [True, False], ids=["multimask", "single"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts(decoders: Decoders, kind: str, multimask: bool) -> None:
    expected_logits, expected_iou = decoders.expected(kind, multimask)
    logits, iou = decoders.answer(PROMPTS[kind], multimask)
    assert expected_logits.std() > 1
    assert error(logits, expected_logits) <= TOLERANCE
    assert error(iou, expected_iou) <= TOLERANCE
    assert ((logits > 0) != (expected_logits > 0)).float().mean() <= 1e-5


def test_masks_differ_between_prompts_and_tokens(decoders: Decoders) -> None:
    """Else the comparisons above would say little."""
    drawn = torch.cat([decoders.expected(kind, True)[0].flatten(0, 1) for kind in PROMPTS]) > 0
    drawn = drawn.flatten(1).float()
    share = (drawn @ (1 - drawn).T + (1 - drawn) @ drawn.T) / drawn.shape[
        1
    ]  # of pixels where two masks differ
    assert share[~torch.eye(len(drawn), dtype=torch.bool)].min() > 0.01


# The whole path, from a photo to masks

PHOTO = Path(__file__).parents[2] / "examples" / "palace.jpg"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(427, 611, 3) uint8 RGB: both sides odd, and neither scales to a whole number."""
    return np.array(Image.open(PHOTO).convert("RGB"))[:, :611]


@pytest.fixture(scope="module")
def predictors(
    mobile: tuple[Sam, Any], photo: np.ndarray, reference: Reference
) -> tuple[Predictor, Embedding, Any]:
    """Ours with its embedding of the photo, and theirs with the photo set."""
    ours, theirs = mobile
    predictor, sam_predictor = (
        Predictor(ours, MODELS["mobile_sam"], "0" * 64),
        reference.mobile.SamPredictor(theirs),
    )
    sam_predictor.set_image(photo)
    return predictor, predictor.embed(photo), sam_predictor


def test_photo_to_embedding(predictors: tuple[Predictor, Embedding, Any]) -> None:
    _, embedding, theirs = predictors
    assert embedding.original_size == theirs.original_size == (427, 611)
    assert embedding.input_size == theirs.input_size == (716, 1024)
    assert error(embedding.features, theirs.features) <= TOLERANCE


LOGITS = masks()["masks"][0, 0].numpy()
PHOTO_PROMPTS = {
    "point": Prompt(points=[(301.5, 120.25)]),
    "points": Prompt(points=[(17, 400), (590, 33), (300, 200)], labels=[1, 1, 0]),
    "box": Prompt(box=Box(40.5, 61, 333, 290.75)),
    "box and points": Prompt(points=[(99, 100), (50, 280)], labels=[1, 0], box=Box(0, 0, 611, 427)),
    "mask and point": Prompt(points=[(210, 301)], mask=LOGITS),
    "mask and box": Prompt(box=Box(5, 6, 100, 107), mask=LOGITS),
    "other box": Prompt(box=Box(310, 100, 600, 420)),
}


@pytest.mark.parametrize("multimask", [True, False], ids=["multimask", "single"])
def test_photo_to_masks(predictors: tuple[Predictor, Embedding, Any], multimask: bool) -> None:
    """All prompts in one call of ours, one call each of theirs; ours come sorted by predicted IoU."""
    predictor, embedding, theirs = predictors
    answers = predictor.predict(embedding, list(PHOTO_PROMPTS.values()), multimask=multimask)
    for kind, prompt, ours in zip(PHOTO_PROMPTS, PHOTO_PROMPTS.values(), answers, strict=True):
        drawn, iou, logits = theirs.predict(
            point_coords=np.array(prompt.points) if prompt.points else None,
            point_labels=np.array(prompt.labels) if prompt.points else None,
            box=np.array(prompt.box.xyxy) if prompt.box else None,
            mask_input=None if prompt.mask is None else prompt.mask[None],
            multimask_output=multimask,
        )
        order = np.argsort(-iou, kind="stable")
        assert error(torch.from_numpy(ours.low_res_logits), torch.from_numpy(logits[order])) <= TOLERANCE, (
            kind
        )
        assert error(torch.from_numpy(ours.predicted_iou), torch.from_numpy(iou[order])) <= TOLERANCE, kind
        assert ours.masks.shape == drawn.shape == (3 if multimask else 1, 427, 611)
        assert (ours.masks != drawn[order]).mean() <= 1e-5, kind
        assert 0.01 < drawn.mean() < 0.99, kind
