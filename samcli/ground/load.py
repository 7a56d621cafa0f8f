"""Detectors and taggers by their names, or from a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from samcli.errors import SamcliError
from samcli.ground.detector import Detector, Thresholds
from samcli.ground.tagger import Limits, Tagger
from samcli.ground.vocabulary import read_vocabulary
from samcli.weights import (
    DETECTORS,
    PICKLED_FILE,
    TAGGERS,
    WEIGHTS_FILE,
    WORDS_FILE,
    DetectorSpec,
    Installed,
    TaggerSpec,
    hash_given,
    installed,
    resolve_detector,
    resolve_tagger,
    sha256_of_all,
    why,
)

if TYPE_CHECKING:
    import torch

    from samcli.ground.pretrained import Place

    S = TypeVar("S", DetectorSpec, TaggerSpec)

KINDS = {"grounding-dino": "grounding-dino", "mm-grounding-dino": "grounding-dino", "owlv2": "owlv2"}
"""Detectors: kind by the model_type of a config.json."""

TAGGER_KINDS = {"blip": "blip", "florence2": "florence-2", "siglip": "siglip"}
"""Taggers, likewise. SigLIP 2 of a fixed size says that it is a SigLIP."""

TEXT_FILES = (  # that matter to what a detector or tagger finds, where they are
    "config.json",
    "generation_config.json",
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
    if isinstance(target, DetectorSpec):
        return target
    return _spec_of_folder(target, DETECTORS, KINDS, "detector")


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
    target, spec = resolve_detector(detector), detector_spec(detector)
    place = _place(target, spec, "detector", device, dtype)
    own = Thresholds(spec.box, spec.text)
    if spec.kind == "tiny":
        from samcli.ground.tiny import load_tiny

        return load_tiny(place.folder, place.sha256, own, device=place.device, dtype=place.dtype)
    if spec.kind == "grounding-dino":
        from samcli.ground.grounding_dino import GroundingDino

        return GroundingDino(place, _model_type(place.folder, KINDS, "detector"), own)
    from samcli.ground.owlv2 import Owlv2

    return Owlv2(place, own)


def tagger_spec(tagger: str) -> TaggerSpec:
    """What is known of a tagger before it is loaded: threshold, licence, whether it takes labels, ... Without
    torch.

    tagger: a name of the table, or a folder with config.json and model.safetensors as transformers saves
    them. Raises SamcliError for an unknown name, and for a folder that holds no tagger.
    """
    target = resolve_tagger(tagger)
    if isinstance(target, TaggerSpec):
        return target
    return _spec_of_folder(target, TAGGERS, TAGGER_KINDS, "tagger")


def load_tagger(
    tagger: str,
    *,
    device: torch.device | str,
    dtype: str = "fp32",
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    most: int | None = None,
) -> Tagger:
    """Load a tagger, from local files only.

    tagger: as in `tagger_spec`. device, dtype: as in `load_detector`. labels: the words to choose from, for
    taggers that need or take such a list; they come back as they are. threshold: least score of a word, `>=`.
    most: words for an image, at most; both the tagger's own when left out.
    Raises as `load_detector`; also SamcliError where labels are missing, not taken, or not to be asked for.
    """
    target, spec = resolve_tagger(tagger), tagger_spec(tagger)
    if labels is not None and not spec.takes_labels:
        raise SamcliError(f"{spec.name} takes no labels, its words are its own; leave --labels out")
    if spec.chooses and not labels:
        raise SamcliError(f"{spec.name} only chooses from labels; give --labels")
    if labels is not None and not all(label.split() for label in labels):
        raise SamcliError("a label has no words; leave it out")
    limits = Limits(spec.threshold if threshold is None else threshold, spec.most if most is None else most)
    place = _place(target, spec, "tagger", device, dtype)
    if spec.kind == "tiny":
        from samcli.ground.tiny_tagger import TinyTagger

        return TinyTagger(place, labels, limits)
    if spec.kind == "blip":
        from samcli.ground.captioners import Blip

        return Blip(place, limits)
    if spec.kind == "florence-2":
        from samcli.ground.captioners import Florence2

        return Florence2(place, limits)
    from samcli.ground.siglip import Siglip

    assert labels is not None
    return Siglip(place, labels, limits)


def _place(target: object, spec: DetectorSpec | TaggerSpec, what: str, device: Any, dtype: str) -> Place:
    """Where to load from and run. target: a folder of the user's own, or the spec."""
    place, sha256 = _installed_by_user(target, spec) if isinstance(target, Path) else installed(spec)
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
    weights = PICKLED_FILE if PICKLED_FILE in spec.files else WEIGHTS_FILE
    return Place(spec.name, sha256, place, where, DTYPES[dtype], what, weights)


def _spec_of_folder(folder: Path, table: Mapping[str, S], kinds: Mapping[str, str], what: str) -> S:
    kind = kinds[_model_type(folder, kinds, what)]
    files = tuple(name for name in (*TEXT_FILES, WEIGHTS_FILE) if (folder / name).is_file())
    if WEIGHTS_FILE not in files:
        raise SamcliError(f"{folder} has no {WEIGHTS_FILE}; save the {what} there with save_pretrained")
    usual = next(spec for spec in table.values() if spec.kind == kind)
    return replace(
        usual,
        name=folder.resolve().name,
        files=files,
        repository="",
        licence="unknown",
        summary=f"a {what}'s folder",
    )


def _model_type(folder: Path, kinds: Mapping[str, str], what: str) -> str:
    """The model_type of a folder's config.json. Raises SamcliError unless it is a known one."""
    file = folder / "config.json"
    try:
        config: Any = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise SamcliError(f"{folder} holds no {what}: config.json is not there") from error
    except (OSError, ValueError) as error:
        raise SamcliError(f"cannot read {file}: {why(error)}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in kinds:
        raise SamcliError(f"{file} is of model type {found!r}; known: {', '.join(kinds)}")
    return str(found)


def _installed_by_user(folder: Path, spec: DetectorSpec | TaggerSpec) -> Installed:
    return Installed(folder, sha256_of_all({name: hash_given(folder / name) for name in spec.files}))
