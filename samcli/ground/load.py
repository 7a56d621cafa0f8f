"""Detectors by their names, or from a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.errors import SamcliError
from samcli.ground.detector import Detector, Thresholds
from samcli.ground.vocabulary import read_vocabulary
from samcli.weights import (
    DETECTORS,
    WEIGHTS_FILE,
    WORDS_FILE,
    DetectorSpec,
    Installed,
    hash_given,
    installed,
    resolve_detector,
    sha256_of_all,
    why,
)

if TYPE_CHECKING:
    import torch

KINDS = {"grounding-dino": "grounding-dino", "mm-grounding-dino": "grounding-dino", "owlv2": "owlv2"}
"""Kind by the model_type of a config.json."""

TEXT_FILES = (  # that matter to what a detector finds, where they are
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def detector_spec(detector: str) -> DetectorSpec:
    """What is known of a detector before it is loaded: thresholds, licence, ... Without torch.

    detector: a name of the table, or a folder with config.json and model.safetensors as transformers saves
    them. Raises SamcliError for an unknown name, and for a folder that holds no detector.
    """
    target = resolve_detector(detector)
    return target if isinstance(target, DetectorSpec) else _spec_of_folder(target)


def check_phrases(detector: str, phrases: Sequence[str]) -> None:
    """Raise SamcliError for a detector that is not known, or for phrases outside its vocabulary, if it has
    one, before it is loaded. Phrases that only the loaded detector can judge fail where it is asked for them.
    """
    spec = detector_spec(detector)
    if spec.kind == "tiny":
        read_vocabulary(installed(spec).path / WORDS_FILE).check(phrases)


def load_detector(detector: str, *, device: torch.device | str, dtype: str = "fp32") -> Detector:
    """Load a detector, from local files only.

    detector: as in `detector_spec`. device: as torch names it. dtype: fp32, bf16 or fp16, of the network.
    Raises SamcliError for what is unknown, does not fit or does not go together, or when transformers is
    needed and not there; WeightsError with the command that gets them when its files are missing or damaged.
    """
    target = resolve_detector(detector)
    if isinstance(target, DetectorSpec):
        spec, (place, sha256) = target, installed(target)
    else:
        spec = _spec_of_folder(target)
        place, sha256 = _installed_by_user(target, spec)
    import torch

    from samcli.ground.pretrained import DTYPES, Place

    if dtype not in DTYPES:
        raise SamcliError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise SamcliError(f"unknown device {device!r}; known: cpu, mps, cuda, cuda:N") from error
    if dtype == "fp16" and where.type == "cpu":
        raise SamcliError("dtype fp16 needs a GPU; use bf16 or fp32 on the CPU")
    own = Thresholds(spec.box, spec.text)
    if spec.kind == "tiny":
        from samcli.ground.tiny import load_tiny

        return load_tiny(place, sha256, own, device=where, dtype=DTYPES[dtype])
    origin = Place(spec.name, sha256, place, where, DTYPES[dtype], own)
    if spec.kind == "grounding-dino":
        from samcli.ground.grounding_dino import GroundingDino

        return GroundingDino(origin, _model_type(place))
    from samcli.ground.owlv2 import Owlv2

    return Owlv2(origin)


def _spec_of_folder(folder: Path) -> DetectorSpec:
    kind = KINDS[_model_type(folder)]
    files = tuple(name for name in (*TEXT_FILES, WEIGHTS_FILE) if (folder / name).is_file())
    if WEIGHTS_FILE not in files:
        raise SamcliError(f"{folder} has no {WEIGHTS_FILE}; save the detector there with save_pretrained")
    usual = next(spec for spec in DETECTORS.values() if spec.kind == kind)
    return DetectorSpec(
        name=folder.resolve().name,
        kind=usual.kind,
        files=files,
        repository="",
        licence="unknown",
        summary="a detector's folder",
        box=usual.box,
        text=usual.text,
    )


def _model_type(folder: Path) -> str:
    """The model_type of a folder's config.json. Raises SamcliError unless it is a known one."""
    file = folder / "config.json"
    try:
        config: Any = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise SamcliError(f"{folder} holds no detector: config.json is not there") from error
    except (OSError, ValueError) as error:
        raise SamcliError(f"cannot read {file}: {why(error)}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in KINDS:
        raise SamcliError(f"{file} is of model type {found!r}; known: {', '.join(KINDS)}")
    return str(found)


def _installed_by_user(folder: Path, spec: DetectorSpec) -> Installed:
    return Installed(folder, sha256_of_all({name: hash_given(folder / name) for name in spec.files}))
