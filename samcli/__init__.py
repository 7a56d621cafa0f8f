"""Promptable and batch image segmentation: Segment Anything over single images and whole directories.

    import samcli

    predictor = samcli.load("tiny")
    embedding = predictor.embed(image)  # (H, W, 3) uint8 RGB
    prediction = predictor.predict(embedding, samcli.Prompt(points=[(120, 80)]))
    masks = samcli.automask(predictor, image)

What needs torch is loaded when first used, so that `import samcli` does not import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samcli.automask import AutomaskConfig
from samcli.automask import generate as automask
from samcli.cutout import Cutout, CutoutConfig, cutout
from samcli.errors import SamcliError, SamcliNote
from samcli.records import Box, ImageRecord, MaskRecord, Prompt

if TYPE_CHECKING:
    from samcli.predictor import Embedding, Prediction, Predictor, load, load_embedding, save_embedding

__all__ = [
    "AutomaskConfig",
    "Box",
    "Cutout",
    "CutoutConfig",
    "Embedding",
    "ImageRecord",
    "MaskRecord",
    "Prediction",
    "Predictor",
    "Prompt",
    "SamcliError",
    "SamcliNote",
    "__version__",
    "automask",
    "cutout",
    "load",
    "load_embedding",
    "save_embedding",
]

__version__: str

_IN_PREDICTOR = {"Embedding", "Prediction", "Predictor", "load", "load_embedding", "save_embedding"}


def __getattr__(name: str) -> Any:
    """Resolve the lazy names (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("samcli")
    if name in _IN_PREDICTOR:
        return getattr(import_module("samcli.predictor"), name)
    raise AttributeError(f"module 'samcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
