"""The salient head: what stands out in a picture, told from tiny's features without any prompt.

Tiny's own mask decoder trained further, with learned tokens where a prompt's would be. The image encoder
stays as it is, so an embedding serves prompts and the head alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samcli.models.mask_decoder import MaskDecoder
from samcli.models.sam import ImageFeatures, Sam
from samcli.models.transformer import TwoWayTransformer

TOKENS = 4


class SalientDecoder(MaskDecoder):
    """A mask decoder with a single mask token: there is one answer."""

    num_mask_tokens = 1


class SalientHead(nn.Module):
    """Learned tokens (1, T, C) and a dense prompt (1, C, 1, 1), and the decoder they are for.

    Built with fresh weights; the shapes are those of `build_tiny`.
    """

    def __init__(self, width: int = 128, high_res_channels: tuple[int, int] = (80, 40)) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, TOKENS, width) / 2)
        self.dense = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.decoder = SalientDecoder(
            TwoWayTransformer(depth=2, embedding_dim=width, num_heads=4, mlp_dim=512),
            width,
            upscale_channels=(64, 32),
            high_res_channels=high_res_channels,
            iou_head_hidden_dim=128,
        )

    def begin_from(self, sam: Sam) -> None:
        """Take over the decoder of a trained tiny, its first mask token, and its prompt encoder's answer to
        no prompt at all.
        """
        wanted = self.decoder.state_dict()
        given = sam.mask_decoder.state_dict()
        # what counts mask tokens keeps the first rows: the token, and its output of the IoU head
        self.decoder.load_state_dict({name: given[name][: len(wanted[name])] for name in wanted})
        coords, labels = torch.zeros(1, 1, 2), torch.full((1, 1), -1)
        with torch.no_grad():
            _, dense = sam.prompt_encoder(coords, labels, None)
            self.dense.copy_(dense.mean((0, 2, 3)).reshape(self.dense.shape))

    def forward(self, features: ImageFeatures, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """features: of B images, (B, C, h, w) and finer. image_pe: (1, C, h, w), the model's dense positions.

        Returns low-res logits (B, 4h, 4w) and predicted IoU (B,).
        """
        height, width = features.embedding.shape[-2:]
        logits, iou = self.decoder(
            features.embedding,
            self.tokens.expand(len(features.embedding), -1, -1),
            image_pe=image_pe,
            dense=self.dense.expand(1, -1, height, width),
            high_res=features.high_res,
            multimask=False,
        )
        return logits[:, 0], iou[:, 0]
