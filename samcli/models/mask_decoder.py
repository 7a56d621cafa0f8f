"""The mask decoder: prompt tokens and one image embedding become masks and predicted IoUs (SAM, section 3,
appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.transformer import TwoWayTransformer, add_shared


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
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
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
        h, w = image_embedding.shape[-2:]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(prompts), -1, -1), prompts], 1)
        shared = len(dense) == 1
        image = image_embedding + dense if shared else add_shared(image_embedding, dense)
        tokens, image = self.transformer(image, image_pe, tokens)
        image = image.transpose(1, 2).unflatten(-1, (h, w))
        image = self._upscale(image, high_res)

        wanted = {True: range(1, 4), False: range(1), None: range(4)}[multimask]
        kernels = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], 1)
        logits = (kernels @ image.flatten(2)).unflatten(-1, image.shape[-2:])
        iou = self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
        return logits, iou

    def _upscale(self, image: Tensor, high_res: Sequence[Tensor]) -> Tensor:
        if not high_res:
            out: Tensor = self.output_upscaling(image)
            return out
        up1, norm, act1, up2, act2 = self.output_upscaling
        coarse, fine = high_res
        image = act1(norm(add_shared(self.conv_s1(coarse), up1(image))))
        activated: Tensor = act2(add_shared(self.conv_s0(fine), up2(image)))
        return activated
