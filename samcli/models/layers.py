"""Linear layers, and convolutions with batch normalisation, by the fastest way; weights and keys as torch's.

torch multiplies fp32 matrices with MKL, which on CPUs other than Intel's uses half of their vector units
(Zen 5, one thread: 95 against 200 GF/s). oneDNN, which torch ships for convolutions, has no such limit, and
applies the activation while a result is in the cache. So it computes the linear layers too, in fp32 on a CPU
when no gradients are asked for; elsewhere torch's own functions do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "gelu", "relu"]

ONEDNN_PRODUCTS = 1 << 20  # multiplications below which calling oneDNN costs more than it saves


def has_onednn(x: Tensor) -> bool:
    """Whether oneDNN may compute what follows from x: fp32 on a CPU, without gradients, not for export."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and _there()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


@cache
def _there() -> bool:
    """Whether this torch has oneDNN with the operations that its compiler uses, and so no public name."""
    operations = torch.ops.mkldnn
    names = ("_linear_pointwise", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(operations, name) for name in names)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """x: (..., K), weight: (N, K), bias: (N,). Returns activation(x @ weight.T + bias), (..., N)."""
    if x.numel() * len(weight) >= ONEDNN_PRODUCTS and has_onednn(x):
        # it has only a slow way for other strides of a weight, and ignores those of a bias
        bias = None if bias is None else bias.contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.contiguous(), bias, activation, [], "none")
        return y
    return _activate(F.linear(x, weight, bias), activation)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        return linear(x, self.weight, self.bias, activation)


class ConvBN(nn.Sequential):
    """A convolution without bias that keeps the size (but for the stride), batch normalisation, activation.

    In evaluation mode without gradients the normalisation is folded into the convolution's weights, on every
    call: they are few, and nothing can grow stale.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
        names: tuple[str, str] = ("0", "1"),
    ) -> None:
        """names: of the convolution and the normalisation in the state dict."""
        super().__init__()
        self.names = names
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module(names[0], conv)
        self.add_module(names[1], nn.BatchNorm2d(outputs))
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        conv, norm = (getattr(self, name) for name in self.names)
        if self.training or torch.is_grad_enabled():
            return _activate(norm(conv(x)), self.activation)
        scale = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
        bias = (norm.bias.float() - norm.running_mean.float() * scale).to(x.dtype)
        weight = (conv.weight.float() * scale[:, None, None, None]).to(x.dtype)
        where = conv.stride, conv.padding, conv.dilation, conv.groups
        if not has_onednn(x):
            return _activate(F.conv2d(x, weight, bias, *where), self.activation)
        stride, padding, dilation, groups = where
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, stride, dilation, groups, self.activation, [], "none"
        )
        return y


def by_rows(f: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """f(x), on a CPU so many rows at a time that what f makes on the way stays in the cache.

    x: (B, h, w, C). f: such that a row of its output depends on rows of the same band only.
    """
    if x.device.type != "cpu":
        return f(x)
    return torch.cat([f(band) for band in x.split(rows, 1)], 1)


def _activate(x: Tensor, activation: Activation) -> Tensor:
    if activation == "gelu":
        return F.gelu(x)
    return F.relu(x) if activation == "relu" else x
