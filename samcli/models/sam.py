"""One `Sam`: any image encoder, the prompt encoder and the mask decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.models.mask_decoder import MaskDecoder
from samcli.models.prompt_encoder import PromptEncoder

PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet, RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)


class ImageFeatures(NamedTuple):
    """What every image encoder returns.

    embedding: (B, C, h, w). high_res: finer maps, (B, C8, 2h, 2w) then (B, C4, 4h, 4w); empty for SAM's own
    encoders.
    """

    embedding: Tensor
    high_res: tuple[Tensor, ...] = ()


class Sam(nn.Module):
    """Segment Anything: encode an image once, decode any number of prompts against it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        *,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.prompt_encoder.input_image_size[0]

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalise, then zero-pad right and bottom.

        images: (B, 3, h, w) RGB in 0..255, long side already `image_size`. Returns (B, 3, S, S) in the
        mean's dtype.
        """
        images = (images - self.pixel_mean) / self.pixel_std
        height, width = images.shape[-2:]
        return F.pad(images, (0, self.image_size - width, 0, self.image_size - height))

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """images: (B, 3, S, S) from `preprocess`. Returns the features every prompt shares."""
        embedding, high_res = self.image_encoder(images)
        # Encoders that work channels last hand it on: an embedding is laid out as one from a file is, so that
        # both decode to the same bits.
        return ImageFeatures(embedding.contiguous(), tuple(finer.contiguous() for finer in high_res))

    def decode(
        self,
        features: ImageFeatures,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        multimask: bool | None,
    ) -> tuple[Tensor, Tensor]:
        """Answer N prompts over B images; the prompts of one image stand together, N / B each (B = 1 at
        inference).

        coords: (N, T, 2) float (x, y) in pixels of the model frame. labels: (N, T) int as in `PromptEncoder`.
        masks: (1 or N, 1, 4h, 4w) low-res logits or None. multimask: True for tokens 1-3, False for token 0,
        None for all four. Returns low-res logits (N, M, 4h, 4w) and predicted IoU (N, M).
        """
        sparse, dense = self.prompt_encoder(coords, labels, masks)
        logits, iou = self.mask_decoder(
            features.embedding,
            sparse,
            image_pe=self.prompt_encoder.get_dense_pe().to(sparse.dtype),
            dense=dense,
            high_res=features.high_res,
            multimask=multimask,
        )
        return logits, iou
