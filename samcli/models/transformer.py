"""The two-way transformer between prompt tokens and image (SAM, section 3 "Mask decoder" and appendix A)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the tokens' width.

    Either side may be shared: q of batch B against k and v of batch N = B * P, or the other way round, where
    the N prompts are grouped by image. The shared side is projected once and never repeated.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = embedding_dim // downsample_rate
        if inner % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide the inner width {inner}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, inner)
        self.k_proj = nn.Linear(embedding_dim, inner)
        self.v_proj = nn.Linear(embedding_dim, inner)
        self.out_proj = nn.Linear(inner, embedding_dim)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (Bq, Tq, C); k, v: (Bk, Tk, C). Returns (max(Bq, Bk), Tq, C)."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        many, shared = max(len(q), len(k)), min(len(q), len(k))
        group = many // shared
        if len(q) == len(k):
            out = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
            out = out.transpose(1, 2).flatten(-2)
        elif len(k) == shared:  # the queries of all prompts of an image stand in one row
            tokens = q.shape[1]
            q = q.reshape(shared, group * tokens, -1)
            out = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
            out = out.transpose(1, 2).flatten(-2).reshape(many, tokens, -1)
        else:  # shared queries: one product against the keys of all prompts, softmax within each prompt
            tokens = k.shape[1]
            keys = self._heads(k.reshape(shared, group * tokens, -1))
            scores = (self._heads(q) @ keys.transpose(-1, -2)) * keys.shape[-1] ** -0.5
            weights = scores.unflatten(-1, (group, tokens)).softmax(-1)  # (B, heads, Tq, P, Tk)
            values = self._heads(v).unflatten(0, (shared, group)).transpose(1, 2)  # (B, heads, P, Tk, d)
            out = weights.transpose(2, 3) @ values  # (B, heads, P, Tq, d)
            out = out.permute(0, 2, 3, 1, 4).flatten(-2).flatten(0, 1)
        result: Tensor = self.out_proj(out)
        return result


class MLPBlock(nn.Module):
    def __init__(self, embedding_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
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

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """tokens, token_pe: (N, T, C); image: (B or N, HW, C); image_pe: (1, HW, C). Returns tokens and
        image, both N.
        """
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        image_keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image_keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        update = self.cross_attn_image_to_token(image_keys, tokens + token_pe, tokens)
        image = self.norm4(add_shared(image, update))
        return tokens, image


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

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image: (B or N, C, h, w); image_pe: (1, C, h, w); tokens: (N, T, C).

        Returns tokens (N, T, C) and the image (N, h * w, C) as each prompt sees it.
        """
        image, image_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        update = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + update), image


def add_shared(shared: Tensor, each: Tensor) -> Tensor:
    """Add (B, ...) to (N, ...) where the N are grouped by the B. Returns (N, ...)."""
    if len(shared) == len(each):
        return shared + each
    grouped: Tensor = each.unflatten(0, (len(shared), -1))
    return (shared.unsqueeze(1) + grouped).flatten(0, 1)
