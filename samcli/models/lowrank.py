"""An image that many prompts share, in the two-way transformer, without a copy of its cells for each prompt.

What a prompt adds to the cells is small: in each block a cell takes in a weighted sum of H * T vectors (H
heads, T tokens: 56 for a click) and is normalised. So a prompt always sees the cells as

    scale * base + weights^T basis + constant

where base (C, HW) and constant (C) are the same for all prompts, scale (HW) and weights (K, HW) belong to
the prompt's cells, and basis (K, C) to the prompt. All that the transformer asks of the cells is linear, so
it is asked of the base once per image, and of the rest with K columns instead of C. Even the norm needs only
a cell's mean, which is linear, and its variance, which is quadratic in the same few numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samcli.models.layers import linear
from samcli.models.mask_decoder import MaskDecoder
from samcli.models.transformer import Attention, Rows, TwoWayAttentionBlock, scores_with, values_by


class SharedDecoder:
    """A mask decoder's weights, rearranged for an image that prompts share.

    A copy of the weights: make it anew when they change. For inference only.
    """

    def __init__(self, decoder: MaskDecoder, image_pe: Tensor) -> None:
        """image_pe: (1, C, h, w)."""
        dtype = decoder.iou_token.weight.dtype
        place = image_pe[0].flatten(1).T.float()  # (HW, C)
        rows: list[Tensor] = []  # of one matrix that gives all the maps of an image
        offsets: list[Tensor] = []
        # The base after some norms is weight @ cells + start; a block's basis vectors go through the norms
        # after it as the columns of `earlier` do.
        weight = torch.eye(place.shape[1], device=place.device)
        start = constant = torch.zeros_like(place[0])
        earlier: list[Tensor] = []
        levels: list[_Level] = []
        self._heads = decoder.transformer.final_attn_token_to_image.num_heads
        self._channels = place.shape[1]
        self._outputs = 1 + decoder.num_mask_tokens

        def ask(matrix: Tensor) -> None:
            rows.append(matrix @ weight)
            offsets.append(matrix @ start)

        def seen(layer: nn.Linear) -> Tensor:
            ask(layer.weight.float())
            return nn.functional.linear(place + constant, layer.weight.float(), layer.bias.float())[None].to(
                dtype
            )

        def read(attention: Attention) -> tuple[Tensor, Tensor]:
            keys = seen(attention.k_proj)
            layer = attention.v_proj
            ask(layer.weight.float())
            return keys, nn.functional.linear(constant, layer.weight.float(), layer.bias.float()).to(dtype)

        for block in decoder.transformer.blocks:
            keys, values = read(block.cross_attn_token_to_image)
            attention, norm = block.cross_attn_image_to_token, block.norm4
            asks = seen(attention.q_proj)
            added = constant + attention.out_proj.bias.float()
            if not earlier:
                start = start + added
            else:
                earlier.append(added[:, None])
            earlier.append(attention.out_proj.weight.float())
            weight, start, *earlier = (x - x.mean(0) for x in (weight, start, *earlier))
            ask(torch.eye(len(weight), device=place.device))
            for columns in earlier:
                ask(columns.T / len(columns))  # a mean over channels: sums can leave 16 bits
            gain = norm.weight.float()
            weight, *earlier = (gain[:, None] * x for x in (weight, *earlier))
            start = gain * start
            levels.append(_Level(keys, values, constant.to(dtype), asks, added.to(dtype)))
            constant = norm.bias.float()
        keys, values = read(decoder.transformer.final_attn_token_to_image)
        levels.append(_Level(keys, values, constant.to(dtype)))
        ask(decoder.upscaling_layers()[0][0].float())
        self._levels = tuple(levels)
        self._sizes = [len(matrix) for matrix in rows]
        self._weight, self._offset = torch.cat(rows).to(dtype), torch.cat(offsets).to(dtype)[:, None]

    def pays(self, tokens: int) -> bool:
        """Whether this is less work than with cells, for prompts of so many tokens."""
        return 2 * self._heads * (tokens + self._outputs) <= self._channels

    def see(self, image: Tensor) -> LowRankImage:
        """The image as prompts see it first: its embedding with what no mask prompt adds, (1, C, h, w)."""
        cells = image[0].flatten(1)
        maps = iter(linear(self._weight, cells.T.contiguous()).add_(self._offset).split(self._sizes))
        maps_of = []
        for number in range(len(self._levels)):
            keys, values = (next(maps).T[None] for _ in range(2))
            if number < len(self._levels) - 1:
                asks = next(maps).T[None]
                energy = next(maps).float().square().mean(0)
                shared = tuple(next(maps).T[None] for _ in range(2 * number + 1))
                maps_of.append(_LevelMaps(keys, values, asks, energy, shared))
            else:
                maps_of.append(_LevelMaps(keys, values, upscaled=next(maps).T.contiguous()))
        channels, count = cells.shape
        return LowRankImage(
            tuple(zip(self._levels, maps_of, strict=True)),
            scale=cells.new_ones(1, count),
            weights=cells.new_zeros(1, 0, count),
            basis=cells.new_zeros(1, 0, channels),
        )


@dataclass(frozen=True)
class _Level:
    """What the weights give for the image after some blocks.

    keys, asks: (1, HW, I), what place and constant add to the keys of the next reading and to the image's
    queries of the next block. values: (I), what they add to what is read. constant: (C). added: (C), it and
    the bias of the next block's attention.
    """

    keys: Tensor
    values: Tensor
    constant: Tensor
    asks: Tensor | None = None
    added: Tensor | None = None


@dataclass(frozen=True)
class _LevelMaps:
    """What the base of one image gives after some blocks.

    keys, values, asks: (1, HW, I). energy: (HW) float32, mean squares of the next norm's centred input.
    shared: its mean products with the basis vectors: for each block's heads (1, HW, I), from the second block
    on preceded by what was added, (1, HW, 1). upscaled: (HW, out), in the end.
    """

    keys: Tensor
    values: Tensor
    asks: Tensor | None = None
    energy: Tensor | None = None
    shared: tuple[Tensor, ...] = ()
    upscaled: Tensor | None = None


@dataclass(frozen=True)
class LowRankImage:
    """A `ImageView` of a shared image, as N prompts see it; N is 1 as long as all see the same.

    scale: (N, HW). weights: (N, K, HW). basis: (N, K, C). answered: of each block passed the values of its
    tokens, (N, H, T, d), which the basis is made of.
    """

    levels: tuple[tuple[_Level, _LevelMaps], ...]
    scale: Tensor
    weights: Tensor
    basis: Tensor
    answered: tuple[Tensor, ...] = ()

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        level, maps = self.levels[0]
        queries = attention.heads(attention.q_proj(tokens))
        weights = self._scores(queries, attention.k_proj, maps.keys, level.keys).softmax(-1)
        of_basis = attention.heads(self.basis @ attention.v_proj.weight.T)  # (N, H, K, d)
        own = (weights.flatten(1, 2) @ self.weights.transpose(1, 2)).unflatten(1, weights.shape[1:3])
        values = values_by(weights * self.scale[:, None, None], attention.heads(maps.values))
        values = values + own @ of_basis
        result: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2) + level.values)
        return result

    def written(self, block: TwoWayAttentionBlock, keys: Tensor, values: Tensor) -> LowRankImage:
        level, maps = self.levels[0]
        assert level.asks is not None
        assert level.added is not None
        assert maps.asks is not None
        assert maps.energy is not None
        attention, norm = block.cross_attn_image_to_token, block.norm4
        asked = attention.heads(attention.k_proj(keys))
        weights = self._scores(asked, attention.q_proj, maps.asks, level.asks).softmax(2).flatten(1, 2)
        answered = (*self.answered, attention.heads(attention.v_proj(values)))
        basis = attention.answers(values)
        if self.answered:  # the first block's bias went into the base
            count = len(weights)
            weights = torch.cat([self.weights, weights.new_ones(count, 1, weights.shape[2]), weights], 1)
            basis = torch.cat([self.basis, level.added.expand(count, 1, -1), basis], 1)
        basis = basis - basis.mean(-1, keepdim=True)
        shared = []  # products of basis and base
        for number, map_ in enumerate(maps.shared):
            if number % 2:
                shared.append(map_.transpose(1, 2).expand(len(weights), -1, -1))
            else:
                shared.append(scores_with(answered[number // 2], map_).flatten(1, 2))
        # The variance is a small difference of large sums: in fp32, as norms compute it.
        exact, scale = weights.float(), self.scale.float()
        gram = basis.float() @ basis.float().transpose(1, 2) / basis.shape[-1]
        products = torch.baddbmm(torch.cat(shared, 1).float().mul_(2 * scale[:, None]), gram, exact)
        energy = maps.energy * scale**2 + products.mul_(exact).sum(1)
        smaller = (energy.clamp_(min=0) + norm.eps).rsqrt().to(weights.dtype)
        return LowRankImage(
            self.levels[1:], self.scale * smaller, weights * smaller[:, None], basis * norm.weight, answered
        )

    def projection(self, weight: Tensor, bias: Tensor, prompts: Rows) -> Callable[[slice], Tensor]:
        ((level, maps),) = self.levels
        upscaled = maps.upscaled
        assert upscaled is not None
        basis = weight @ self.basis[prompts].transpose(1, 2)  # (P, out, K)
        scale, weights = self.scale[prompts], self.weights[prompts]
        added = bias + weight @ level.constant

        def project(cells: slice) -> Tensor:
            own = weights[:, :, cells].transpose(1, 2)
            if len(own) == 1:  # as on a CPU
                image = linear(own[0].contiguous(), basis[0], added)[None]
            else:
                image = torch.baddbmm(added, own, basis.transpose(1, 2))
            return image.addcmul_(upscaled[cells], scale[:, cells, None])

        return project

    def _scores(self, tokens: Tensor, layer: nn.Linear, base: Tensor, place: Tensor) -> Tensor:
        """Scaled products of tokens (N, H, T, d) with the cells, projected by the layer. base, place: (1, HW,
        H * d), what base and place give. Returns (N, H, T, HW).
        """
        heads, width = tokens.shape[1], tokens.shape[3]
        tokens = tokens * width**-0.5
        of_basis = (self.basis @ layer.weight.T).unflatten(-1, (heads, width)).permute(0, 2, 3, 1)
        own = ((tokens @ of_basis).flatten(1, 2) @ self.weights).unflatten(1, tokens.shape[1:3])
        scores: Tensor = own.addcmul_(scores_with(tokens, base), self.scale[:, None, None])
        return scores + scores_with(tokens, place)
