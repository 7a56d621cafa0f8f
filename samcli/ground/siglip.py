"""SigLIP 2, through transformers: which of many labels fit a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samcli.errors import SamcliError
from samcli.ground.pretrained import Place, in_batches, load_network, load_tokenizer, square, to_numpy
from samcli.ground.tagger import Limits, Tagged
from samcli.records import Tag

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
LABELS_AT_ONCE = 64


class Siglip:
    """See `Tagger`. A label's score is the network's own probability that it fits the photo, whatever the
    other labels are: the sigmoid of a scaled cosine. Labels come back as they were given.
    """

    def __init__(self, place: Place, labels: Sequence[str], limits: Limits) -> None:
        """Load it, and make of each label what images are compared with.

        Raises SamcliError when its files are not sound, transformers is missing, or a label does not fit.
        """
        self.name, self.sha256, self.images_per_call = place.name, place.sha256, place.images_per_call
        self._place, self._limits = place, limits
        self._labels = tuple(dict.fromkeys(labels))
        self._network = load_network(place, "SiglipModel")
        self._tokenizer = load_tokenizer(place, "PreTrainedTokenizerFast", (("tokenizer.json",),))
        self._picture = square(place, self._network.config.vision_config.image_size, MEAN, STD)
        self._meanings = self._meant(self._tokens())

    def tag(self, images: Sequence[NDArray[np.uint8]]) -> list[Tagged]:
        """See `Tagger`."""
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(images), self.images_per_call):
            group = images[start : start + self.images_per_call]
            found += in_batches(self._compare, torch.stack([self._picture(image) for image in group]))
        return [
            Tagged(self._limits(map(Tag, self._labels, scores.astype(float).tolist()))) for scores in found
        ]

    @torch.inference_mode()
    def _compare(self, pictures: Tensor) -> list[NDArray[np.float32]]:
        """Scores of all labels, (L,), for each picture, (B, 3, S, S)."""
        network = self._network
        with self._place.arithmetic():
            seen = network.get_image_features(pixel_values=pictures.to(self._place.device)).pooler_output
        alike = F.normalize(seen.float(), dim=-1) @ self._meanings.T
        return list(to_numpy((alike * network.logit_scale.exp() + network.logit_bias).sigmoid(), self._place))

    @torch.inference_mode()
    def _meant(self, tokens: Tensor) -> Tensor:
        """Tokens (L, T) to vectors (L, D) fp32 of length 1."""
        with self._place.arithmetic():
            parts = [
                self._network.get_text_features(input_ids=some.to(self._place.device)).pooler_output.float()
                for some in tokens.split(LABELS_AT_ONCE)
            ]
        return F.normalize(torch.cat(parts), dim=-1)

    def _tokens(self) -> Tensor:
        """The labels as sentences, (L, T): as in training in lower case, ended, filled up and not masked."""
        most: int = self._network.config.text_config.max_position_embeddings
        end, fill = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        if end is None or fill is None:
            raise SamcliError(f"the tokenizer in {self._place.folder} has no eos_token or pad_token")
        rows = []
        for label in self._labels:
            encoded: Any = self._tokenizer(
                sentence(label), add_special_tokens=False, split_special_tokens=True
            )
            ids = [*encoded["input_ids"], end]
            if len(ids) > most:
                raise SamcliError(
                    f"{self.name} cannot look for {label[:40]!r}: its sentence has {len(ids)} tokens, "
                    f"at most {most} fit"
                )
            rows.append([*ids, *[fill] * (most - len(ids))])
        return torch.tensor(rows)


def sentence(label: str) -> str:
    """What a label is compared as; the network was trained on captions in lower case."""
    return f"this is a photo of {' '.join(label.lower().split())}."
