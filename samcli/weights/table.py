"""The table of known checkpoints: models that draw masks, detectors that find what a text names, taggers that
say what a photo shows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from samcli.errors import SamcliError

DEFAULT_MODEL = "tiny"
DEFAULT_DETECTOR = "tiny"
DEFAULT_TAGGER = "tiny"
DETECTOR_VARIABLE = "SAMCLI_DETECTOR"  # in the environment: the detector where no option names one
SALIENT_FILE = "salient.safetensors"  # in the package, beside the embedded model
DETECTOR_FILE = "detector.safetensors"  # there too: the embedded detector's network, and its words
WORDS_FILE = "words.safetensors"
NAMES_FILE = "names.json"  # what the embedded tagger may say
WEIGHTS_FILE = "model.safetensors"  # of a detector or tagger, in its folder
PICKLED_FILE = "pytorch_model.bin"  # of those published before that; read without running code from it
SUFFIXES = (".pth", ".pt", ".safetensors")


class Part(NamedTuple):
    """One file of a checkpoint.

    file: where it lies below `home()/weights`, or below the package's data. record: where its record does,
    below `home()/weights`, empty where there is none. urls: one of each source of its checkpoint, in the
    order tried. sha256, bytes: as published, None where nobody does.
    """

    file: str
    record: str
    urls: tuple[str, ...]
    sha256: str | None
    bytes: int | None


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint of a model that draws masks.

    architecture: a name of `samcli.models.registry`. file: its name in `home()/weights`.
    urls: sources in the order tried, `https://...` or `hf://owner/repository/file` (Hugging Face Hub).
    sha256, bytes: as published, None where nobody does.
    keys: parameter names of the published SAM files ("sam") or of transformers ("hf").
    packaged: shipped inside the package.
    automask: `AutomaskConfig` fields where this model has its own defaults.
    """

    name: str
    architecture: str
    file: str
    urls: tuple[str, ...]
    sha256: str | None
    bytes: int | None
    licence: str
    summary: str
    keys: Literal["sam", "hf"] = "sam"
    packaged: bool = False
    automask: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        record = "" if self.packaged else f"{self.name}.json"
        return (Part(self.file, record, self.urls, self.sha256, self.bytes),)


@dataclass(frozen=True)
class FolderSpec:
    """What detectors and taggers have in common: several files in a folder.

    kind: which network, and so which module of `samcli.ground` runs it.
    files: the names of its files; they lie in one folder, `home()/weights/<name>` or one of the Hub's cache,
    unless they are packaged. repository: of the Hugging Face Hub, empty where there is none.
    packaged: shipped inside the package.
    """

    name: str
    kind: str
    files: tuple[str, ...]
    repository: str
    licence: str
    summary: str
    packaged: bool = field(default=False, kw_only=True)

    @property
    def parts(self) -> tuple[Part, ...]:
        if self.packaged:
            return tuple(Part(file, "", (), None, None) for file in self.files)
        return tuple(
            Part(
                f"{self.name}/{file}",
                f"{self.name}.records/{file}.json",
                (f"hf://{self.repository}/{file}",) if self.repository else (),
                None,
                None,
            )
            for file in self.files
        )


@dataclass(frozen=True)
class DetectorSpec(FolderSpec):
    """One checkpoint of a detector.

    kind: grounding-dino, owlv2 or tiny. box, text: the thresholds it starts with, see
    `samcli.ground.detector.Thresholds`.
    """

    box: float
    text: float | None = None


@dataclass(frozen=True)
class TaggerSpec(FolderSpec):
    """One checkpoint of a tagger.

    kind: tiny, blip, florence-2 or siglip. threshold: least score of a word, `>=`. most: words for an image,
    at most. chooses: it only chooses from a list of labels, and so needs one. takes_labels: it may be given
    one.
    """

    threshold: float
    most: int
    chooses: bool = False
    takes_labels: bool = False


S = TypeVar("S", DetectorSpec, TaggerSpec)

Spec = ModelSpec | DetectorSpec | TaggerSpec


def _official(name: str, file: str, sha256: str, size: int, summary: str) -> ModelSpec:
    urls = (
        f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        f"hf://ybelkada/segment-anything/checkpoints/{file}",
    )
    return ModelSpec(name, name, file, urls, sha256, size, "Apache-2.0", summary)


def _transformers(name: str, architecture: str) -> ModelSpec:
    urls = (f"hf://facebook/{name}/model.safetensors",)
    summary = f"the weights of {architecture} as transformers has them"
    return ModelSpec(
        name, architecture, f"{name}.safetensors", urls, None, None, "Apache-2.0", summary, keys="hf"
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="tiny",
            architecture="tiny",
            file="tiny.safetensors",
            urls=(),
            sha256=None,
            bytes=None,
            licence="research use",
            summary="samcli's own small model, always there",
            packaged=True,
            # chosen on the developers' dev photos; logits of a short training are weaker than SAM's
            automask={
                "points_per_side": 24,
                "pred_iou_thresh": 0.4,
                "stability_score_thresh": 0.75,
                "stability_score_offset": 0.25,
                "box_nms_thresh": 0.8,
                "mask_nms_thresh": 0.75,
                "min_mask_region_area": 0.001,
            },
        ),
        ModelSpec(
            name="mobile_sam",
            architecture="vit_t",
            file="mobile_sam.pt",
            urls=(
                "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
                "hf://dhkim2810/MobileSAM/mobile_sam.pt",
            ),
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            bytes=40728226,
            licence="Apache-2.0",
            summary="MobileSAM: TinyViT encoder, SAM's decoder",
        ),
        _official(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375042383,
            "SAM with ViT-B",
        ),
        _official(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1249524607,
            "SAM with ViT-L",
        ),
        _official(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2564550879,
            "SAM with ViT-H, the strongest",
        ),
        _transformers("sam-vit-base", "vit_b"),
        _transformers("sam-vit-large", "vit_l"),
        _transformers("sam-vit-huge", "vit_h"),
    )
}


_BERT = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
_CLIP = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def _grounding_dino(name: str, repository: str, summary: str) -> DetectorSpec:
    files = (*_BERT, WEIGHTS_FILE)
    # the thresholds of Grounded SAM's demo
    return DetectorSpec(name, "grounding-dino", files, repository, "Apache-2.0", summary, box=0.3, text=0.25)


DETECTORS: dict[str, DetectorSpec] = {
    spec.name: spec
    for spec in (
        DetectorSpec(
            name="tiny",
            kind="tiny",
            files=(DETECTOR_FILE, WORDS_FILE),
            repository="",
            licence="research use",
            summary="samcli's own small detector, always there; 15,000 words",
            box=0.2,  # chosen on the developers' dev photos
            packaged=True,
        ),
        _grounding_dino(
            "grounding-dino-tiny", "IDEA-Research/grounding-dino-tiny", "Grounding DINO with Swin-T"
        ),
        _grounding_dino(
            "grounding-dino-base", "IDEA-Research/grounding-dino-base", "Grounding DINO with Swin-B, stronger"
        ),
        _grounding_dino(
            "mm-grounding-dino-tiny",
            "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
            "MM-Grounding-DINO with Swin-T, trained on more sorts of things",
        ),
        DetectorSpec(
            name="owlv2",
            kind="owlv2",
            files=(*_CLIP, WEIGHTS_FILE),
            repository="google/owlv2-base-patch16-ensemble",
            licence="Apache-2.0",
            summary="OWLv2 with ViT-B/16, the ensemble; each phrase by itself",
            box=0.1,  # as transformers has it
        ),
    )
}


TAGGERS: dict[str, TaggerSpec] = {
    spec.name: spec
    for spec in (
        TaggerSpec(
            name="tiny",
            kind="tiny",
            files=(DETECTOR_FILE, WORDS_FILE, NAMES_FILE),
            repository="",
            licence="research use",
            summary="the words of samcli's own small detector, always there",
            threshold=0.3,  # chosen on the developers' dev photos
            most=5,
            takes_labels=True,
            packaged=True,
        ),
        TaggerSpec(
            name="blip",
            kind="blip",
            files=(
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                PICKLED_FILE,
            ),
            repository="Salesforce/blip-image-captioning-base",
            licence="BSD-3-Clause",
            summary="BLIP with ViT-B: the nouns of a caption",
            threshold=0.0,
            most=10,
        ),
        TaggerSpec(
            name="florence-2",
            kind="florence-2",
            files=(
                "config.json",
                "generation_config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                WEIGHTS_FILE,
            ),
            repository="florence-community/Florence-2-base",
            licence="MIT",
            summary="Florence-2, base: the things it detects, and the nouns of a caption",
            threshold=0.0,
            most=20,
        ),
        TaggerSpec(
            name="siglip2",
            kind="siglip",
            files=(
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                WEIGHTS_FILE,
            ),
            repository="google/siglip2-base-patch16-224",
            licence="Apache-2.0",
            summary="SigLIP 2 with ViT-B/16: which of your labels fit the photo, in many languages",
            threshold=0.01,
            most=10,
            chooses=True,
            takes_labels=True,
        ),
    )
}


def all_specs() -> tuple[Spec, ...]:
    """Every entry: models, detectors, taggers."""
    return (*MODELS.values(), *DETECTORS.values(), *TAGGERS.values())


def specs_of(name: str) -> tuple[Spec, ...]:
    """The entries of a name: one, or a model, a detector and a tagger, which are all part of samcli then.

    Raises SamcliError that lists the known names.
    """
    found = tuple(spec for spec in all_specs() if spec.name == name)
    if not found:
        known = dict.fromkeys(spec.name for spec in all_specs())
        raise SamcliError(f"unknown model {name!r}; known: {', '.join(known)}")
    return found


def resolve(model: str) -> ModelSpec | Path:
    """What `-m` means: a name of the table, else an existing checkpoint file. Raises SamcliError."""
    if model in MODELS:
        return MODELS[model]
    for table, what in ((DETECTORS, "detector"), (TAGGERS, "tagger")):
        if model in table:
            raise SamcliError(f"{model} is a {what}, it draws no masks; known models: {', '.join(MODELS)}")
    file, names = _given(model), ", ".join(MODELS)
    if file.is_file():
        return file
    if file.is_dir():
        raise SamcliError(
            f"{model} is a folder; give a checkpoint file ({', '.join(SUFFIXES)}) or a name: {names}"
        )
    if file.suffix in SUFFIXES or len(file.parts) > 1:
        raise SamcliError(f"checkpoint {model} does not exist; give a file or a name: {names}")
    raise SamcliError(f"unknown model {model!r}; known: {names}; or give a checkpoint file")


def resolve_detector(detector: str) -> DetectorSpec | Path:
    """What `--detector` means: a name of the table, else an existing folder. Raises SamcliError."""
    return _name_or_folder(detector, DETECTORS, "detector")


def resolve_tagger(tagger: str) -> TaggerSpec | Path:
    """What `--tagger` means: a name of the table, else an existing folder. Raises SamcliError."""
    return _name_or_folder(tagger, TAGGERS, "tagger")


def _name_or_folder(given: str, table: Mapping[str, S], what: str) -> S | Path:
    if given in table:
        return table[given]
    folder, names = _given(given), ", ".join(table)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise SamcliError(f"{given} is not a folder; give a {what}'s folder or a name: {names}")
    if len(folder.parts) > 1:
        raise SamcliError(f"{what} {given} does not exist; give its folder or a name: {names}")
    raise SamcliError(f"unknown {what} {given!r}; known: {names}; or give a {what}'s folder")


def _given(name: str) -> Path:
    """The path that a name may be; nothing is there for an empty one, nor in the home of an unknown user."""
    return Path(os.path.expanduser(name) or "\0")  # noqa: PTH111 - pathlib's raises


def format_size(count: int) -> str:
    """Bytes for people; 1 GB = 2**30 bytes, 1 MB = 2**20 bytes."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
