"""The fast ways of inference give what torch's own layers give, which gradients are taken through."""

from __future__ import annotations

import pytest
import reduced
import torch
import torch.nn.functional as F
from torch import Tensor

from samcli.models import layers
from samcli.models.layers import Activation, ConvBN, by_rows, linear
from samcli.models.tiny_vit import MBConv

ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "relu": F.relu}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == expected.shape
    expected = expected.detach()
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 3, 500], ids="{} rows".format)
@torch.inference_mode()
def test_linear(rows: int, activation: Activation) -> None:
    """Few rows are below what oneDNN is called for."""
    x, weight, bias = noise(2, rows, 96), noise(130, 96, seed=1), noise(130, seed=2)
    assert (x.numel() * 130 >= layers.ONEDNN_PRODUCTS) == (rows == 500)
    expected = ACTIVATIONS[activation](F.linear(x.double(), weight.double(), bias.double())).float()
    assert error(linear(x, weight, bias, activation), expected) <= 1e-6


@torch.inference_mode()
def test_linear_takes_any_strides() -> None:
    """oneDNN itself would ignore those of a bias."""
    x = noise(96, 400).T[:, 3:]
    for weight in (noise(128, 200)[:, :93], noise(93, 128).T, noise(1, 93).expand(128, 93)):
        for bias in (None, noise(256)[::2], noise(1).expand(128)):
            expected = x.double() @ weight.T.double() + (0 if bias is None else bias.double())
            assert error(linear(x, weight, bias), expected.float()) <= 1e-6


def lively(block: ConvBN | MBConv) -> None:
    """Statistics and scales as training leaves them, none at its first value."""
    for number, (name, tensor) in enumerate(block.state_dict().items()):
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise(*tensor.shape, seed=number).abs())
        elif tensor.is_floating_point():
            tensor.add_(0.3 * noise(*tensor.shape, seed=number))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("names", [("0", "1"), ("c", "bn")])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"),
    [(3, 8, 3, 2, 1), (16, 16, 3, 1, 16), (16, 16, 3, 2, 16), (16, 40, 1, 1, 1)],
    ids=["stem", "depthwise", "depthwise with stride", "pointwise"],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["planes", "pixels"])
def test_folded_normalisation(
    memory: torch.memory_format,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    groups: int,
    names: tuple[str, str],
    activation: Activation,
) -> None:
    block = ConvBN(inputs, outputs, kernel, stride, groups, activation, names).eval()
    lively(block)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    x = noise(2, inputs, 37, 51, seed=9).contiguous(memory_format=memory)
    expected = block(x)
    assert expected.requires_grad
    conv, norm = (block.get_submodule(name) for name in names)
    torch.testing.assert_close(expected, ACTIVATIONS[activation](norm(conv(x))))
    with torch.inference_mode():
        assert error(block(x), expected) <= 1e-5
    after = block.state_dict()
    assert list(after) == [f"{names[0]}.weight", *(f"{names[1]}.{key}" for key in norm.state_dict())]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@torch.no_grad()
def test_new_weights_count_at_once() -> None:
    """Nothing folded is kept from one call to the next."""
    block, x = ConvBN(4, 6, 3).eval(), noise(1, 4, 9, 9)
    block(x)
    lively(block)
    conv, norm = block.children()
    assert error(block(x), norm(conv(x))) <= 1e-5


@torch.no_grad()
def test_training_mode_learns_statistics_without_gradients_too() -> None:
    block, x = ConvBN(4, 6, 3).train(), noise(2, 4, 9, 9)
    conv, norm = block.children()
    y = block(x)
    assert y.mean().abs() < 1e-5
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * conv(x).mean((0, 2, 3)))


@pytest.mark.parametrize("height", [1, 28, 29, 61])
def test_inverted_bottleneck_in_bands(height: int) -> None:
    block = MBConv(8, 32).eval()
    lively(block)
    x = noise(2, 8, height, 11, seed=5)
    expected = block(x)
    assert expected.requires_grad
    with torch.inference_mode():
        assert error(block(x), expected) <= 1e-5


def test_by_rows_makes_bands() -> None:
    bands = []
    x = noise(2, 7, 5, 3)
    assert torch.equal(by_rows(lambda band: bands.append(band.shape[1]) or 2 * band, x, 3), 2 * x)
    assert bands == [3, 3, 1]


@pytest.mark.parametrize("name", reduced.NAMES)
def test_inference_encodes_as_training_sees_it(name: str) -> None:
    sam = reduced.build(name).eval()
    for number, (key, tensor) in enumerate(sam.image_encoder.state_dict().items()):
        if key.endswith(("bias", "running_mean", "biases")) or "rel_pos" in key:
            tensor.copy_(0.2 * noise(*tensor.shape, seed=number))
    images = reduced.images(2)
    expected = sam.encode_image(images)
    assert expected.embedding.requires_grad
    with torch.inference_mode():
        features = sam.encode_image(images)
    assert error(features.embedding, expected.embedding) <= 1e-5
    for ours, theirs in zip(features.high_res, expected.high_res, strict=True):
        assert error(ours, theirs) <= 1e-5


@torch.inference_mode(False)
def test_what_is_exported_has_torchs_own_operations() -> None:
    """Else no other program could read it."""
    layer = layers.Linear(512, 512).eval()
    with torch.no_grad():
        assert layers.has_onednn(torch.zeros(64, 512))
        program = torch.export.export(layer, (torch.zeros(64, 512),))
    assert "mkldnn" not in str(program.graph)
