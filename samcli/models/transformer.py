"""The two-way transformer between prompt tokens and image (SAM, section 3 "Mask decoder" and appendix A).

Tokens are few and image cells many. So wherever a projection of the image would only meet the tokens, the
tokens are multiplied by its weights instead: q . (W x) is (W^T q) . x. The results are the same but for
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import Linear, linear

Rows: TypeAlias = slice | list[int]


class Attention(nn.Module):
    """The weights of a multi-head attention whose inner width I may be smaller than the tokens' width C.

    Called, it attends among tokens; between tokens and image the `ImageView` of the image does it.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = embedding_dim // downsample_rate
        if inner % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide the inner width {inner}")
        self.num_heads = num_heads
        self.q_proj = Linear(embedding_dim, inner)
        self.k_proj = Linear(embedding_dim, inner)
        self.v_proj = Linear(embedding_dim, inner)
        self.out_proj = Linear(inner, embedding_dim)

    def heads(self, x: Tensor) -> Tensor:
        """(..., T, I) to (..., H, T, d), d = I / H."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(-3, -2)

    def answers(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) as values, each head through its part of the output projection but without its
        bias: (N, H * T, C). Weights over them give the attention's output.
        """
        per_head = self.out_proj.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)  # (H, d, C)
        answers: Tensor = (self.heads(self.v_proj(tokens)) @ per_head).flatten(1, 2)
        return answers

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (N, Tq, C); k, v: (N, Tk, C). Returns (N, Tq, C)."""
        q, k, v = self.heads(self.q_proj(q)), self.heads(self.k_proj(k)), self.heads(self.v_proj(v))
        out = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out_proj(out.transpose(1, 2).flatten(-2))
        return result


class MLPBlock(nn.Module):
    def __init__(self, embedding_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = Linear(embedding_dim, mlp_dim)
        self.lin2 = Linear(mlp_dim, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(self.lin1(x, "relu"))
        return out


class TwoWayAttentionBlock(nn.Module):
    """Token self-attention, token-to-image attention, MLP, image-to-token attention.

    The first block's self-attention replaces the tokens: no positional encoding and no residual.
    """

    def __init__(
        self, embedding_dim: int, num_heads: int, mlp_dim: int, downsample_rate: int, first: bool
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, downsample_rate)
        self.first = first

    def forward(self, tokens: Tensor, image: ImageView, token_pe: Tensor) -> tuple[Tensor, ImageView]:
        """tokens, token_pe: (N, T, C). Returns the tokens and the image as it is after this block."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + image.read(self.cross_attn_token_to_image, tokens + token_pe))
        tokens = self.norm3(tokens + self.mlp(tokens))
        return tokens, image.written(self, tokens + token_pe, tokens)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a final token-to-image attention."""

    def __init__(
        self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int, attention_downsample_rate: int = 2
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(embedding_dim, num_heads, mlp_dim, attention_downsample_rate, first=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    @property
    def blocks(self) -> list[TwoWayAttentionBlock]:
        """The layers, by their type."""
        return cast("list[TwoWayAttentionBlock]", list(self.layers))

    def forward(self, image: ImageView, tokens: Tensor) -> tuple[Tensor, ImageView]:
        """tokens: (N, T, C). Returns them and the image as each of the N prompts sees it at the end."""
        token_pe = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, token_pe)
        update = image.read(self.final_attn_token_to_image, tokens + token_pe)
        return self.norm_final_attn(tokens + update), image


class ImageView(Protocol):
    """An image in the two-way transformer: HW cells of C channels, in the end others for each of N prompts.

    `CellImage` holds the cells themselves, `lowrank.LowRankImage` what the prompts add to a shared image.
    """

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        """Token-to-image attention: tokens (N, T, C) ask, cells answer. Returns (N, T, C)."""

    def written(self, block: TwoWayAttentionBlock, keys: Tensor, values: Tensor) -> ImageView:
        """The image after the block's image-to-token attention (keys and values (N, T, C)) and norm."""

    def projection(self, weight: Tensor, bias: Tensor, prompts: Rows) -> Callable[[slice], Tensor]:
        """A linear layer (out, C) of the cells as some prompts see them in the end: it gives a range of cells
        as (prompts, cells, out).
        """


class CellImage:
    """A `ImageView` that holds the cells: (B or N, HW, C), the N prompts grouped by the B images.

    position: (1, HW, C), the cells' positional encoding.
    """

    def __init__(self, cells: Tensor, position: Tensor) -> None:
        self._cells = cells
        self._position = position

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        queries = attention.heads(attention.q_proj(tokens))
        weights = self._scores(queries, attention.k_proj).softmax(-1)
        layer = attention.v_proj
        if len(self._cells) < len(tokens):
            out = values_by(weights, attention.heads(layer(self._cells)))
        else:
            cells = (weights.flatten(1, 2) @ self._cells).unflatten(1, queries.shape[1:3])  # (N, H, T, C)
            per_head = layer.weight.unflatten(0, (attention.num_heads, -1))
            out = cells @ per_head.transpose(1, 2) + attention.heads(layer.bias[None])
        result: Tensor = attention.out_proj(out.transpose(1, 2).flatten(2))
        return result

    def written(self, block: TwoWayAttentionBlock, keys: Tensor, values: Tensor) -> CellImage:
        attention = block.cross_attn_image_to_token
        asked = attention.heads(attention.k_proj(keys))
        weights = self._scores(asked, attention.q_proj).softmax(2).flatten(1, 2)  # (N, H * T, HW)
        update = torch.baddbmm(attention.out_proj.bias, weights.transpose(1, 2), attention.answers(values))
        return CellImage(block.norm4(add_shared(self._cells, update)), self._position)

    def projection(self, weight: Tensor, bias: Tensor, prompts: Rows) -> Callable[[slice], Tensor]:
        chosen = self._cells[prompts]
        return lambda cells: linear(chosen[:, cells], weight, bias)

    def _scores(self, tokens: Tensor, layer: nn.Linear) -> Tensor:
        """Scaled products of tokens (N, H, T, d) with the cells, which the layer projects to (..., H * d).
        Returns (N, H, T, HW).
        """
        count, heads, _, width = tokens.shape
        tokens = tokens * width**-0.5
        if len(self._cells) < count or count == 1:
            return scores_with(tokens, layer(self._cells + self._position))
        place = scores_with(tokens, layer(self._position))
        per_cell = (tokens @ layer.weight.unflatten(0, (heads, -1))).flatten(1, 2)  # (N, H * T, C)
        return torch.baddbmm(place.flatten(1, 2), per_cell, self._cells.transpose(1, 2)).view_as(place)


def scores_with(tokens: Tensor, keys: Tensor) -> Tensor:
    """Products of tokens (N, H, T, d) with the keys (B, HW, H * d) of their images. Returns (N, H, T, HW)."""
    heads, each, width = tokens.shape[1:]
    images = len(keys)
    rows = tokens.unflatten(0, (images, -1)).transpose(1, 2).flatten(2, 3)  # (B, H, G * T, d)
    columns = keys.unflatten(-1, (heads, width)).permute(0, 2, 3, 1)  # (B, H, d, HW)
    scores: Tensor = (rows @ columns).unflatten(2, (-1, each)).transpose(1, 2).flatten(0, 1)
    return scores


def values_by(weights: Tensor, values: Tensor) -> Tensor:
    """Sums of their image's values (B, H, HW, d) by weights (N, H, T, HW). Returns (N, H, T, d)."""
    each = weights.shape[2]
    rows = weights.unflatten(0, (len(values), -1)).transpose(1, 2).flatten(2, 3)
    sums: Tensor = (rows @ values).unflatten(2, (-1, each)).transpose(1, 2).flatten(0, 1)
    return sums


def add_shared(shared: Tensor, each: Tensor) -> Tensor:
    """Add (B, ...) to (N, ...) where the N are grouped by the B. Returns (N, ...)."""
    if len(shared) == len(each):
        return shared + each
    grouped: Tensor = each.unflatten(0, (len(shared), -1))
    return (shared.unsqueeze(1) + grouped).flatten(0, 1)
