"""The prompt encoder: points and boxes become sparse tokens, masks a dense embedding (SAM, section 3,
appendix A).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samcli.models.mask_decoder import LayerNorm2d

PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of positions in [0, 1] x [0, 1]."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_pos_feats))

    def encode(self, coords: Tensor) -> Tensor:
        """coords: (..., 2) in 0..1, (x, y). Returns (..., 2 * num_pos_feats)."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * coords - 1) @ matrix.to(coords.dtype))
        return torch.cat([angles.sin(), angles.cos()], -1)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the cell centres of a (height, width) grid. Returns (C, height, width) fp32."""
        h, w = size
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)
        return self.encode(grid).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Points carry a label; a box is its two corners as points labelled 2 and 3.

    Labels: -1 padding (position zeroed), 0 background, 1 foreground, 2 top-left and 3 bottom-right corner.

    dense_by_prompt: whether the dense embedding depends on points and boxes too.
    """

    dense_by_prompt = False

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """The positional encoding of the image embedding's cells, (1, C, h, w) fp32."""
        pe: Tensor = self.pe_layer(self.image_embedding_size)[None]
        return pe

    def forward(self, coords: Tensor, labels: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """coords: (N, T, 2) float (x, y) in pixels of the padded model frame. labels: (N, T) int.
        masks: (1 or N, 1, 4h, 4w) low-res logits, or None.

        Returns sparse (N, T, C) and dense (1 or N, C, h, w), in the dtype of the weights.
        """
        return self._sparse(coords, labels), self._dense(coords, labels, masks)

    def _sparse(self, coords: Tensor, labels: Tensor) -> Tensor:
        height, width = self.input_image_size
        x, y = (coords.float() + 0.5).unbind(-1)
        position = self.pe_layer.encode(torch.stack([x / width, y / height], -1))
        position = torch.where((labels == PADDING)[..., None], 0.0, position)
        weights = [e.get_parameter("weight") for e in (self.not_a_point_embed, *self.point_embeddings)]
        kinds = torch.cat(weights)
        return position.to(kinds.dtype) + kinds[labels + 1]

    def _dense(self, coords: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None:
            h, w = self.image_embedding_size
            return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, h, w)
        dense: Tensor = self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))
        return dense
