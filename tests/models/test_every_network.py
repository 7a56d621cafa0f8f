"""What holds for every architecture: gradients, number formats, many images and prompts at once."""

from __future__ import annotations

import re

import pytest
import reduced
import torch
from torch import Tensor

from samcli.models.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.registry import ARCHITECTURES, build_sam
from samcli.models.sam import ImageFeatures, Sam

every_network = pytest.mark.parametrize("name", reduced.NAMES)

# The classifier that MobileSAM's file carries along takes no part.
UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.(weight|bias)")
# A bias of all keys adds the same to each logit of a query, and the softmax takes it away: its gradient is 0
# up to rounding.
WITHOUT_EFFECT = re.compile(r"mask_decoder\.transformer\..*\.k_proj\.bias")


def test_the_registry_names_its_architectures() -> None:
    assert [architecture.name for architecture in ARCHITECTURES.values()] == list(ARCHITECTURES)


@every_network
def test_the_reduced_networks_have_every_kind_of_parameter(name: str) -> None:
    with torch.device("meta"):
        whole = build_sam(name)
    assert whole.image_size == ARCHITECTURES[name].image_size
    assert kinds(reduced.build(name)) == kinds(whole)


def kinds(sam: Sam) -> set[str]:
    """Parameter names without the numbers of blocks."""
    return {re.sub(r"blocks\.\d+", "blocks.N", name) for name, _ in sam.named_parameters()}


@every_network
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """Two images, all labels, without and with masks, all four mask tokens."""
    sam = reduced.build(name).train()
    features = sam.encode_image(reduced.images(2))
    clicks = sam.decode(features, *reduced.prompts(4, BACKGROUND, FOREGROUND, PADDING), multimask=None)
    corners = reduced.prompts(4, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT)
    boxes = sam.decode(features, *corners, reduced.masks(4), multimask=None)
    generator = torch.Generator().manual_seed(3)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in (*clicks, *boxes))
    assert isinstance(loss, Tensor)
    loss.backward()

    gradients = {name: parameter.grad for name, parameter in sam.named_parameters()}
    without = {name for name, gradient in gradients.items() if gradient is None}
    assert without == {name for name in gradients if UNUSED.fullmatch(name)}
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
    largest = {
        name: float(gradient.abs().max()) for name, gradient in gradients.items() if gradient is not None
    }
    assert [name for name, value in largest.items() if not value and not WITHOUT_EFFECT.fullmatch(name)] == []


@every_network
@torch.inference_mode()
def test_several_images_are_decoded_as_each_alone(name: str) -> None:
    """The prompts of one image stand together; every mix of token layouts, masks and images."""
    sam = reduced.build(name).eval()
    features = sam.encode_image(reduced.images(2))
    coords, labels = reduced.prompts(6, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT)
    for masks in (None, reduced.masks(6)):
        together = sam.decode(features, coords, labels, masks, multimask=True)
        for image, rows in ((0, slice(0, 3)), (1, slice(3, 6))):
            alone = sam.decode(
                ImageFeatures(
                    features.embedding[image][None], tuple(map_[image][None] for map_ in features.high_res)
                ),
                coords[rows],
                labels[rows],
                None if masks is None else masks[rows],
                multimask=True,
            )
            for ours, expected in zip(together, alone, strict=True):
                torch.testing.assert_close(ours[rows], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_image_side_is_computed_once_for_all_prompts() -> None:
    sam = reduced.build("vit_b").eval()
    transformer = sam.mask_decoder.transformer
    rows: dict[str, int] = {}
    for name, layer in transformer.layers[0].named_modules():
        if name.startswith("cross") and name.endswith("_proj"):
            layer.register_forward_hook(lambda _, inputs, __, name=name: rows.update({name: len(inputs[0])}))
    features = sam.encode_image(reduced.images(1))
    sam.decode(features, *reduced.prompts(5, FOREGROUND, PADDING), multimask=True)
    image_side = {name: rows[name] for name in rows if re.search(r"to_image\.[kv]|to_token\.q", name)}
    assert image_side == {
        "cross_attn_token_to_image.k_proj": 1,
        "cross_attn_token_to_image.v_proj": 1,
        "cross_attn_image_to_token.q_proj": 1,
    }


def answers(sam: Sam, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits and predicted IoU of three boxes, computed there and returned as fp32 on the CPU."""
    sam = sam.eval().to(device, dtype)
    coords, labels = reduced.prompts(3, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT)
    with torch.inference_mode():
        features = sam.encode_image(reduced.images(1).to(device, dtype))
        logits, iou = sam.decode(features, coords.to(device), labels.to(device), multimask=True)
    assert (logits.dtype, iou.dtype, logits.device.type) == (dtype, dtype, device)
    return logits.float().cpu(), iou.float().cpu()


@every_network
def test_bf16_comes_near_fp32(name: str) -> None:
    """8 bits of mantissa through all layers: a twentieth of the logits' spread."""
    expected, expected_iou = answers(reduced.build(name), "cpu", torch.float32)
    logits, iou = answers(reduced.build(name), "cpu", torch.bfloat16)
    assert (logits - expected).abs().mean() < 0.05 * expected.std()
    assert (iou - expected_iou).abs().max() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_network
def test_cuda_comes_near_the_cpu(name: str, dtype: torch.dtype) -> None:
    expected, _ = answers(reduced.build(name), "cpu", torch.float32)
    logits, _ = answers(reduced.build(name), "cuda", dtype)
    assert (logits - expected).abs().mean() < (0.05 if dtype is torch.bfloat16 else 0.001) * expected.std()


@torch.inference_mode()
def test_tiny_vit_keeps_nothing_of_weights_it_had_before() -> None:
    """The reference caches attention biases in evaluation mode and goes on with them after loading others."""
    used, fresh = reduced.build("vit_t").eval(), reduced.build("vit_t").eval()
    for name, tensor in fresh.state_dict().items():
        if name.endswith("attention_biases"):
            tensor.normal_(generator=torch.Generator().manual_seed(4))
    before = used.encode_image(reduced.images(1)).embedding
    used.load_state_dict(fresh.state_dict())
    after = used.encode_image(reduced.images(1)).embedding
    assert torch.equal(after, fresh.encode_image(reduced.images(1)).embedding)
    assert not torch.allclose(after, before, atol=0.01)
