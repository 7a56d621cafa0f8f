"""The word head: what a word names in a picture, told from tiny's features (SAM, section 7.5, in small).

A branch of its own makes meanings of tiny's features at stride 8; a word's vector is compared with each
cell, and the word, the comparison and the features go to a copy of tiny's mask decoder, which answers with
the mask of all that the word names and with how sure it is. The image encoder stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.layers import ConvBN
from samcli.models.mask_decoder import MaskDecoder
from samcli.models.salient import SalientDecoder, SalientHead
from samcli.models.sam import Sam
from samcli.models.small import GlobalBlock, InvertedResidual, SmallEncoder, SmallFeatures
from samcli.models.transformer import TwoWayTransformer

WORD_SIDE = 256  # pixels; input side that the head was trained at


class Meanings(NamedTuple):
    """What the head makes of B images: cells (B, h * w, C) of stride 16, and the features for the decoder."""

    cells: Tensor
    features: SmallFeatures


class WordHead(nn.Module):
    """Built with fresh weights; the shapes are those of `build_tiny`.

    word_channels: numbers of a word's vector. meaning: of what words and cells are compared in.
    """

    def __init__(
        self,
        *,
        word_channels: int = 64,
        width: int = 192,
        depths: tuple[int, int] = (4, 4),
        meaning: int = 128,
        decoder_width: int = 128,
        tokens: int = 4,
        word_tokens: int = 2,
        high_res_channels: tuple[int, int] = (80, 40),
        stage8_channels: int = 80,
    ) -> None:
        super().__init__()
        convolutions, attention = depths
        self.down = ConvBN(stage8_channels, width, 3, 2)
        self.convs = nn.Sequential(*(InvertedResidual(width) for _ in range(convolutions)))
        self.attention = nn.Sequential(*(GlobalBlock(width, 6) for _ in range(attention)))
        self.norm = nn.LayerNorm(width)
        self.meaning = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, meaning))
        self.word = nn.Sequential(nn.Linear(word_channels, 256), nn.GELU(), nn.Linear(256, meaning))
        self.word_skip = nn.Linear(word_channels, meaning)
        # of the comparison with a region, and with a cell: exp(scale) * cosine + bias
        self.scale = nn.Parameter(torch.full((2,), 2.5))
        self.bias = nn.Parameter(torch.full((2,), -6.0))
        self.mix = nn.Conv2d(width, decoder_width, 1)
        self.likeness = nn.Sequential(nn.Conv2d(1, 32, 1), nn.GELU(), nn.Conv2d(32, decoder_width, 1))
        self.say = nn.Sequential(
            nn.Linear(meaning, 256), nn.GELU(), nn.Linear(256, word_tokens * decoder_width)
        )
        self.word_tokens = word_tokens
        self.tokens = nn.Parameter(torch.randn(1, tokens, decoder_width) / 2)
        self.dense = nn.Parameter(torch.zeros(1, decoder_width, 1, 1))
        self.decoder: MaskDecoder = SalientDecoder(
            TwoWayTransformer(depth=2, embedding_dim=decoder_width, num_heads=4, mlp_dim=512),
            decoder_width,
            upscale_channels=(64, 32),
            high_res_channels=high_res_channels,
            iou_head_hidden_dim=128,
        )

    @torch.no_grad()
    def begin_from(self, sam: Sam, salient: SalientHead) -> None:
        """Take over tiny's deep layers, and the salient head's decoder with its tokens."""
        encoder = sam.image_encoder
        assert isinstance(encoder, SmallEncoder)
        down, *convs = encoder.stage16
        self.down.load_state_dict(down.state_dict())
        for ours, theirs in zip(self.convs, convs, strict=False):
            ours.load_state_dict(theirs.state_dict())
        for ours, theirs in zip(self.attention, encoder.attention, strict=False):
            ours.load_state_dict(theirs.state_dict())
        self.decoder.load_state_dict(salient.decoder.state_dict())
        self.tokens.copy_(salient.tokens)
        self.dense.copy_(salient.dense)
        for layer in (self.mix, self.likeness[2]):  # so that the decoder first works as it did
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            layer.weight.mul_(0.1)
            layer.bias.zero_()
        last = self.decoder.iou_prediction_head.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(4)  # an IoU from 0 to 1 becomes the logit of a score
        last.bias.sub_(1.5)

    def look(self, features: SmallFeatures) -> Meanings:
        """features: of B images."""
        x = self.attention(self.convs(self.down(features.stage8)))
        return Meanings(self.norm(x.flatten(2).transpose(1, 2)), features)

    def words(self, vectors: Tensor) -> Tensor:
        """(N, word_channels) vectors of words to (N, meaning), of length 1."""
        vectors = F.normalize(vectors, dim=-1)
        return F.normalize(self.word(vectors) + self.word_skip(vectors), dim=-1)

    def meant(self, cells: Tensor) -> Tensor:
        """Cells, or means of cells, (..., C) to (..., meaning), of length 1."""
        return F.normalize(self.meaning(cells), dim=-1)

    def forward(self, meanings: Meanings, image_pe: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """meanings: of B images. image_pe: (1, C, h, w), the model's dense positions. words: (N, meaning),
        those of one image together, N / B each.

        Returns logits (N, 4h, 4w) of the mask of all that the word names, the score's logit (N,), and the
        comparison with each cell, logits (N, h, w).
        """
        cells, features = meanings
        height, width = features.embedding.shape[-2:]
        count, each = len(words), len(words) // len(cells)
        alike = self.meant(cells) @ words.unflatten(0, (-1, each)).transpose(1, 2)  # (B, h * w, N / B)
        alike = self.scale[1].exp() * alike + self.bias[1]
        alike = alike.transpose(1, 2).reshape(count, 1, height, width)
        embedding = features.embedding + self.mix(cells.transpose(1, 2).unflatten(-1, (height, width)))
        said = self.say(words).unflatten(-1, (self.word_tokens, -1))
        logits, score = self.decoder(
            embedding,
            torch.cat([self.tokens.expand(count, -1, -1), said], 1),
            image_pe=image_pe,
            dense=self.dense + self.likeness(alike / 4),
            high_res=features.high_res,
            multimask=False,
        )
        return logits[:, 0], score[:, 0], alike[:, 0]
