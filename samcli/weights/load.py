"""Loading checkpoints of models strictly and safely."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from samcli.errors import SamcliError, WeightsError
from samcli.weights.files import DATA, installed, sha256_of, why
from samcli.weights.table import DEFAULT_MODEL, MODELS, SALIENT_FILE, ModelSpec, resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from samcli.models.salient import SalientHead
    from samcli.models.sam import Sam
    from samcli.models.words import WordHead


class LoadedSam(NamedTuple):
    """A model ready for use (evaluation mode, CPU, fp32), its spec and the sha256 of its file."""

    sam: Sam
    spec: ModelSpec
    sha256: str


def load_sam(model: str | Path = DEFAULT_MODEL) -> LoadedSam:
    """Load a named model or a checkpoint file; a file that is a published one, byte for byte, is that model.

    The keys must be exactly the architecture's, which is recognised from them. Raises WeightsError when a
    named model is not installed or damaged; SamcliError for an unknown name and for a file that is not a
    checkpoint, would run code, or does not fit.
    """
    target = resolve(str(model))
    if isinstance(target, ModelSpec):
        file, digest = installed(target)
    else:
        file, digest = target, hash_given(target)
    architecture, stored = _read_state_dict(file)
    state = {name: t.float() if t.is_floating_point() else t for name, t in stored.items()}
    sam = _build(architecture)
    _check_fit(file, architecture, sam.state_dict(), state)
    sam.load_state_dict(state, assign=True)
    spec = target if isinstance(target, ModelSpec) else _spec_of_file(file, digest, architecture)
    return LoadedSam(sam.eval(), spec, digest)


def stored_dtypes(model: str | Path = DEFAULT_MODEL) -> dict[str, torch.dtype]:
    """What each tensor of a model is stored as, by its name in `Sam`. Raises as `load_sam` does."""
    target = resolve(str(model))
    file = installed(target)[0] if isinstance(target, ModelSpec) else target
    return {name: tensor.dtype for name, tensor in _read_state_dict(file)[1].items()}


class LoadedHead(NamedTuple):
    """The salient head (evaluation mode, CPU, fp32) and the sha256 of its file."""

    head: SalientHead
    sha256: str


def load_salient(weights_sha256: str) -> LoadedHead:
    """Load the salient head that ships beside the embedded model.

    weights_sha256: of the model whose features it will see. Raises WeightsError when the head is missing,
    damaged, or was trained over other weights.
    """
    from samcli.models.salient import SalientHead

    file, sha256 = _salient_file(), salient_sha256()
    head = SalientHead()
    _fill(head, file, "the salient head", weights_sha256)
    return LoadedHead(head, sha256)


def load_word_head(file: Path, word_channels: int, weights_sha256: str) -> WordHead:
    """Load the word head of the embedded detector, in evaluation mode. Like `load_salient`.

    word_channels: numbers of a word's vector.
    """
    from samcli.models.words import WordHead

    head = WordHead(word_channels=word_channels)
    _fill(head, file, "the word head", weights_sha256)
    return head


def _fill(head: nn.Module, file: Path, what: str, weights_sha256: str) -> None:
    """Give a head its weights, in fp32 and evaluation mode."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged ({why(error)}); reinstall samcli") from error
    of = metadata.get("weights_sha256", "unknown weights")
    if of != weights_sha256:
        raise WeightsError(
            f"{file} was trained over {of}, but {DEFAULT_MODEL} is {weights_sha256}; reinstall samcli"
        )
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    try:
        _check_fit(file, what, head.state_dict(), state)
    except SamcliError as error:
        raise WeightsError(f"{error}; reinstall samcli") from error
    head.load_state_dict(state)
    head.eval()


def salient_sha256() -> str:
    """sha256 of the salient head's file. Raises WeightsError when it is missing."""
    return sha256_of(_salient_file())


def _salient_file() -> Path:
    file = DATA / SALIENT_FILE
    if not file.is_file():
        raise WeightsError(f"{file.name} is missing from this installation; reinstall samcli")
    return file


def hash_given(file: Path) -> str:
    """sha256 of a file that the user gave. Raises SamcliError."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise SamcliError(f"cannot read {file}: {why(error)}") from error


def _spec_of_file(file: Path, digest: str, architecture: str) -> ModelSpec:
    """The spec of a file given by path: a published model's if it is one, else one under the file's name."""
    for spec in MODELS.values():
        if spec.sha256 == digest:
            return spec
    automask = next(spec.automask for spec in MODELS.values() if spec.architecture == architecture)
    return ModelSpec(
        name=file.name,
        architecture=architecture,
        file=file.name,
        urls=(),
        sha256=digest,
        bytes=file.stat().st_size,
        licence="unknown",
        summary="a checkpoint file",
        automask=automask,
    )


def _build(architecture: str) -> Sam:
    """The network without its initial weights: they cost seconds and are all replaced."""
    from torch.overrides import TorchFunctionMode

    from samcli.models.registry import build_sam

    class SkipInit(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else (kwargs or {})["tensor"]
            return func(*args, **(kwargs or {}))

    with SkipInit():
        return build_sam(architecture)


def _read_state_dict(file: Path) -> tuple[str, dict[str, Tensor]]:
    """A checkpoint's architecture and its tensors under our names. Raises SamcliError."""
    from torch import Tensor

    from samcli.models import hf
    from samcli.models.registry import recognise

    content = _read(file)
    if not isinstance(content, dict):
        raise SamcliError(f"{file} holds a {type(content).__name__}, not a dictionary of tensors")
    candidates = {"": content} if any(isinstance(v, Tensor) for v in content.values()) else content
    tensors, problems = {}, []
    for name, value in candidates.items():
        if not (isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values())):
            continue
        try:
            tensors[name] = (recognise({key: tuple(v.shape) for key, v in value.items()}), value)
        except ValueError as error:
            problems.append(str(error))
    if tensors.keys() == {"model", "ema"}:
        del tensors["model"]  # of a training run's checkpoint, which is for the averaged weights' sake
    if len(tensors) > 1:
        raise SamcliError(f"{file} holds several models ({', '.join(tensors)}); save one of them alone")
    if not tensors:
        reason = problems[0] if problems else "no tensors are in it"
        raise SamcliError(f"{file} is not a checkpoint of a known architecture: {reason}")
    architecture, state = next(iter(tensors.values()))
    try:
        state = hf.from_hf(state) if hf.is_hf(state) else state
    except ValueError as error:
        raise SamcliError(f"{file} is inconsistent: {error}") from error
    return architecture, state


def _read(file: Path) -> Any:
    """What a checkpoint file holds. Tensors are mapped where the format allows; no code in it is run."""
    import safetensors.torch
    import torch

    damaged = f"{file} cannot be read as a checkpoint; it is cut off, damaged or of another kind"
    with file.open("rb") as stream:
        head = stream.read(4)
    if not head:
        raise SamcliError(f"{file} is empty")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except safetensors.SafetensorError as error:
            raise SamcliError(f"{damaged} ({why(error)})") from error
    zipped = head == b"PK\x03\x04"
    if not zipped and head[:1] != b"\x80":  # neither torch.save's format nor its old one, a pickle
        raise SamcliError(f"{file} is not a checkpoint; give a .pth, .pt or .safetensors file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of TorchScript is said below
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        message = str(error)
        needed = ["TorchScript"] if "TorchScript" in message else re.findall(r"GLOBAL ([\w.]*\w)", message)
        if needed:
            raise SamcliError(
                f"{file} is refused: it holds more than tensors ({needed[0]}), and reading that runs code "
                "from it; save its weights alone, with torch.save(model.state_dict(), FILE) or as safetensors"
            ) from error
        raise SamcliError(damaged) from error


def _check_fit(
    file: Path, architecture: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> None:
    """Raise SamcliError unless both have the same keys and shapes."""
    missing = [key for key in ours if key not in theirs]
    unexpected = [key for key in theirs if key not in ours]
    misshapen = [
        f"{key} {tuple(theirs[key].shape)} not {tuple(value.shape)}"
        for key, value in ours.items()
        if key in theirs and theirs[key].shape != value.shape
    ]
    refuse_misfit(file, architecture, missing, unexpected, misshapen)


def refuse_misfit(
    file: Path, architecture: str, missing: Sequence[str], unexpected: Sequence[str], misshapen: Sequence[str]
) -> None:
    """Raise SamcliError if there is anything that does not fit. misshapen: names with both shapes."""
    faults = [
        f"{len(found)} {what}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for found, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (misshapen, "of another shape"),
        )
        if found
    ]
    if faults:
        raise SamcliError(f"{file} does not fit {architecture}; keys {'; '.join(faults)}")
