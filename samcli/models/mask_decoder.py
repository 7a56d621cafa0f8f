"""The mask decoder: prompt tokens and one image embedding become masks and predicted IoUs (SAM, section 3,
appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import Linear, linear
from samcli.models.transformer import CellImage, ImageView, Rows, TwoWayTransformer, add_shared

CPU_CELLS = 1024  # upscaled at once: with 256 channels 1 MiB, and four times as much after


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class MLP(nn.Module):
    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, "relu")
        out: Tensor = self.layers[-1](x)
        return out


class MaskDecoder(nn.Module):
    """Token 0 answers unambiguous prompts, tokens 1 to 3 the three readings of an ambiguous one.

    high_res_channels: channels of the encoder's finer maps (stride 8, stride 4), projected and added while
    upscaling, as SAM 2 does; empty for SAM's own encoders.
    """

    num_mask_tokens = 4

    def __init__(
        self,
        transformer: TwoWayTransformer,
        transformer_dim: int,
        *,
        upscale_channels: tuple[int, int] | None = None,
        high_res_channels: Sequence[int] = (),
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        first, second = upscale_channels or (transformer_dim // 4, transformer_dim // 8)
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, first, kernel_size=2, stride=2),
            LayerNorm2d(first),
            nn.GELU(),
            nn.ConvTranspose2d(first, second, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, second, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )
        if high_res_channels:
            coarse, fine = high_res_channels
            self.conv_s1 = nn.Conv2d(coarse, first, 1)
            self.conv_s0 = nn.Conv2d(fine, second, 1)

    def forward(
        self,
        image_embedding: Tensor,
        prompts: Tensor,
        *,
        image_pe: Tensor,
        dense: Tensor,
        high_res: Sequence[Tensor] = (),
        multimask: bool | None,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts over B images (B = 1 at inference); prompts of one image stand together, N / B
        each.

        image_embedding: (B, C, h, w). prompts: (N, T, C) sparse prompt embeddings. image_pe: (1, C, h, w).
        dense: (1 or N, C, h, w) mask-prompt embedding. high_res: (B, C8, 2h, 2w) and (B, C4, 4h, 4w), or
        empty. multimask: True for tokens 1-3, False for token 0, None for all four. Returns logits (N, M,
        4h, 4w) and predicted IoU (N, M), M = 3, 1 or 4.
        """
        image = self.see(image_embedding, dense, image_pe)
        answers = self.answer(image, prompts, multimask=multimask)
        size = (image_embedding.shape[-2], image_embedding.shape[-1])
        return self.draw(answers, range(len(prompts)), size, high_res), answers.iou

    def see(self, image_embedding: Tensor, dense: Tensor, image_pe: Tensor) -> CellImage:
        """The image as prompts see it first: embedding (B, C, h, w) and dense (1 or N, C, h, w) together."""
        shared = len(dense) == 1
        image = image_embedding + dense if shared else add_shared(image_embedding, dense)
        return CellImage(image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2))

    def answer(self, image: ImageView, prompts: Tensor, *, multimask: bool | None) -> Answers:
        """What N prompts (N, T, C) find; `draw` makes masks of it."""
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(prompts), -1, -1), prompts], 1)
        tokens, image = self.transformer(image, tokens)
        wanted = {True: range(1, 4), False: range(1), None: range(4)}[multimask]
        kernels = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], 1)
        head = self.iou_prediction_head  # may compute in a finer dtype than the rest
        iou = head(tokens[:, 0].to(head.layers[0].weight.dtype))[:, wanted.start : wanted.stop]
        return Answers(iou, kernels, image)

    def draw(
        self, answers: Answers, prompts: Sequence[int], size: tuple[int, int], high_res: Sequence[Tensor] = ()
    ) -> Tensor:
        """Logits (P, M, 4h, 4w) of P of the prompts, in order. size: (h, w) of the image embedding."""
        height, width = size
        cells = height * width
        layers = (self.conv_s1, self.conv_s0) if high_res else ()
        finer = [_by_cell(layer(map_), size) for layer, map_ in zip(layers, high_res, strict=True)]
        # On a CPU so much at once as its caches hold; what gradients need is kept anyway.
        on_cpu = answers.kernels.device.type == "cpu" and not torch.is_grad_enabled()
        budget = CPU_CELLS if on_cpu else len(prompts) * cells
        together, step = max(1, budget // cells), min(cells, max(1, budget))
        first, norm, second = self.upscaling_layers()
        drawn = []
        for i in range(0, len(prompts), together):
            rows = _index(prompts[i : i + together])
            kernels = answers.kernels[rows]
            own = [_of_images(map_, rows, len(answers.kernels)) for map_ in finer]
            coarse = answers.image.projection(*first, rows)
            parts = []
            for start in range(0, cells, step):
                where = slice(start, start + step)
                image = _upscaled(coarse(where), norm, second, [map_[:, where] for map_ in own])
                parts.append(kernels @ image.transpose(1, 2))
            logits = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
            logits = logits.unflatten(2, (height, width, 2, 2, 2, 2))  # cells, their quarters, those quarters
            drawn.append(logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*kernels.shape[:2], 4 * height, -1))
        if not drawn:
            return answers.kernels.new_zeros(0, answers.kernels.shape[1], 4 * height, 4 * width)
        return torch.cat(drawn)

    def upscaling_layers(self) -> tuple[tuple[Tensor, Tensor], LayerNorm2d, tuple[Tensor, Tensor]]:
        """The transposed convolutions, as weights (4 * out, in) and biases (4 * out) that make a cell's four
        quarters, row by row; and the norm between them.
        """
        up1, norm, _, up2, _ = self.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        return _as_linear(up1), norm, _as_linear(up2)


@dataclass(frozen=True)
class Answers:
    """What N prompts found. iou: (N, M) predicted IoU. kernels: (N, M, c) weights that make logits of the
    image's upscaled cells. image: as the prompts see it.
    """

    iou: Tensor
    kernels: Tensor
    image: ImageView


def _upscaled(x: Tensor, norm: LayerNorm2d, second: tuple[Tensor, Tensor], finer: Sequence[Tensor]) -> Tensor:
    """Sixteen vectors for each of some cells as P prompts see them: (P, cells * 16, c).

    The transposed convolutions have kernels of 2 and strides of 2, so cells do not mix: each is a matrix
    product. x: what the first makes, (P, cells, 4 * C8). second: weight and bias of the other. finer: (1 or
    P, cells, 4 * C8) and (1 or P, cells, 16 * C4), or empty.
    """
    if finer:
        x = x + finer[0]
    x = x.unflatten(-1, (4, -1))
    x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = linear(x, *second, "none" if finer else "gelu").flatten(2)
    if finer:
        x = F.gelu(x + finer[1])
    upscaled: Tensor = x.unflatten(-1, (16, -1)).flatten(1, 2)
    return upscaled


def _as_linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.ConvTranspose2d)
    assert layer.bias is not None
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2), layer.bias.repeat(4)


def _by_cell(map_: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, f * h, f * w), f = 2 or 4, to (B, h * w, f * f * c) as the upscaling has it: a cell's quarters,
    and theirs, row by row.
    """
    batch, channels = map_.shape[:2]
    halvings = (map_.shape[-1] // size[1]).bit_length() - 1
    twos = [2] * halvings
    x = map_.reshape(batch, channels, size[0], *twos, size[1], *twos)
    rows, columns = range(3, 3 + halvings), range(4 + halvings, 4 + 2 * halvings)
    order = [0, 2, 3 + halvings, *(axis for pair in zip(rows, columns, strict=True) for axis in pair), 1]
    return x.permute(order).flatten(3).flatten(1, 2)


def _index(rows: Sequence[int]) -> Rows:
    """Neighbouring rows as a slice, which copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if list(rows) == list(range(first, last + 1)) else list(rows)


def _of_images(map_: Tensor, rows: Rows, prompts: int) -> Tensor:
    """From maps (B, ...) of images those of some of the prompts, grouped by image; (1, ...) if B is 1."""
    if len(map_) == 1:
        return map_
    return map_.repeat_interleave(prompts // len(map_), 0)[rows]
