"""Promptable and batch image segmentation: Segment Anything over single images and whole directories.

    import samcli

    predictor = samcli.load("tiny")
    embedding = predictor.embed(image)  # (H, W, 3) uint8 RGB
    prediction = predictor.predict(embedding, samcli.Prompt(points=[(120, 80)]))
    masks = samcli.automask(predictor, image)
    masks = samcli.ground(predictor, samcli.load_detector("tiny", device="cpu"), image, ["a dog"])

What needs torch is loaded when first used, so that `import samcli` does not import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samcli.annotate import GroundConfig, ground
from samcli.automask import AutomaskConfig
from samcli.automask import generate as automask
from samcli.cutout import Cutout, CutoutConfig, cutout
from samcli.errors import SamcliError, SamcliNote
from samcli.records import Box, ImageRecord, MaskRecord, Prompt

if TYPE_CHECKING:
    from samcli.ground.load import load_detector, load_tagger
    from samcli.predictor import Embedding, Prediction, Predictor, load, load_embedding, save_embedding

__all__ = [
    "AutomaskConfig",
    "Box",
    "Cutout",
    "CutoutConfig",
    "Embedding",
    "GroundConfig",
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
    "ground",
    "load",
    "load_detector",
    "load_embedding",
    "load_tagger",
    "save_embedding",
]

__version__: str

_LAZY = {
    "Embedding": "samcli.predictor",
    "Prediction": "samcli.predictor",
    "Predictor": "samcli.predictor",
    "load": "samcli.predictor",
    "load_detector": "samcli.ground.load",
    "load_embedding": "samcli.predictor",
    "load_tagger": "samcli.ground.load",
    "save_embedding": "samcli.predictor",
}


def __getattr__(name: str) -> Any:
    """Resolve the lazy names (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("samcli")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'samcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
