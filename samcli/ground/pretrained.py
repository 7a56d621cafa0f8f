"""What the detectors and taggers that transformers runs have in common: loading, batches, pictures, boxes."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from samcli.errors import SamcliError, SamcliNote
from samcli.ground.detector import Detected
from samcli.weights import WEIGHTS_FILE, reading_errors, refuse_misfit, why

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMAGES_PER_CALL = 4  # on a GPU; Grounding DINO with Swin-T takes 1.4 GB for one of 800 x 1333 pixels, in fp32

T = TypeVar("T")

# Buffers that older releases of transformers saved and newer ones compute.
_COMPUTED = (".position_ids", ".relative_position_index")


@dataclass(frozen=True)
class Place:
    """Where a detector or tagger comes from and runs. folder: of its files. name, sha256: see `Detector`.

    what: "detector" or "tagger". weights: the file in the folder that holds them. dtype: of the bulk of the
    arithmetic. Weights stay in fp32, and so do coordinates, which in bf16 would be off by pixels.
    """

    name: str
    sha256: str
    folder: Path
    device: torch.device
    dtype: torch.dtype
    what: str = "detector"
    weights: str = WEIGHTS_FILE

    @property
    def images_per_call(self) -> int:
        return 1 if self.device.type == "cpu" else IMAGES_PER_CALL

    def arithmetic(self) -> torch.autocast:
        """The context to run the network in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def load_network(place: Place, class_name: str) -> Any:
    """A network of transformers with the weights of `place`, in evaluation mode. Reads local files only.

    Raises SamcliError when the files are no such network's: every weight must be there in its shape, and no
    other.
    """
    file = place.folder / place.weights
    _refuse_strange_backbone(place.folder / "config.json")
    network = getattr(_transformers(place), class_name)
    with _reading(place), quiet():
        model, info = network.from_pretrained(
            place.folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=place.weights == WEIGHTS_FILE,  # others are unpickled without running code
            ignore_mismatched_sizes=True,  # they are refused below, with the others
            output_loading_info=True,
        )
    unexpected = [key for key in sorted(info["unexpected_keys"]) if not key.endswith(_COMPUTED)]
    misshapen = [f"{key} {tuple(theirs)} not {tuple(ours)}" for key, theirs, ours in info["mismatched_keys"]]
    refuse_misfit(file, class_name, sorted(info["missing_keys"]), unexpected, sorted(misshapen))
    return model.to(place.device).eval().requires_grad_(False)


def _refuse_strange_backbone(file: Path) -> None:
    """A configuration may name a backbone that transformers would fetch from the Hub. Raises SamcliError."""
    config = json.loads(file.read_bytes())
    for part in (config, config.get("backbone_config")):
        if isinstance(part, dict) and (part.get("backbone") or part.get("use_timm_backbone")):
            raise SamcliError(f"{file} names a backbone from elsewhere; it must describe all of the network")


def load_tokenizer(place: Place, class_name: str, files: Sequence[Sequence[str]]) -> Any:
    """A tokenizer of transformers. files: names of files that it can be read from, one set is enough.

    Raises SamcliError when all sets lack something, or cannot be read.
    """
    if not any(all((place.folder / name).is_file() for name in names) for names in files):
        sets = " or ".join(" and ".join(names) for names in files)
        raise SamcliError(f"{place.folder} has no tokenizer: {sets}; save it there with save_pretrained")
    tokenizer = getattr(_transformers(place), class_name)
    with _reading(place), quiet():
        return tokenizer.from_pretrained(
            place.folder,
            local_files_only=True,
            model_max_length=1_000_000,  # else it remarks on long texts
        )


def picture_settings(folder: Path) -> dict[str, Any]:
    """What a network's files say of its pictures (size, image_mean, image_std), empty where they do not."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        file = folder / name
        if file.is_file():
            try:
                settings = json.loads(file.read_bytes())
            except ValueError as error:
                raise SamcliError(f"{file} is not a JSON file ({why(error)})") from error
            settings = settings.get(key) if key and isinstance(settings, dict) else settings
            if isinstance(settings, dict):
                return settings
    return {}


def colours(
    place: Place, settings: dict[str, Any], mean: Sequence[float], std: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of red, green and blue, as `picture_settings` say, else the usual ones."""
    found = []
    for name, usual in (("image_mean", mean), ("image_std", std)):
        given = settings.get(name, usual)
        try:
            found.append(np.array(given, dtype=np.float32).reshape(3))
        except (ValueError, TypeError) as error:
            raise SamcliError(
                f"the preprocessor of {place.folder} has {name} {given!r}; give three numbers"
            ) from error
    return found[0], found[1]


@dataclass(frozen=True)
class Square:
    """What a network takes that sees an image as one square, whatever its shape. side: pixels.

    resample: how Pillow resizes. mean, std: of red, green and blue, each from 0 to 1.
    """

    side: int
    resample: Image.Resampling
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 RGB to what the network takes, (3, side, side) fp32."""
        small = Image.fromarray(image).resize((self.side, self.side), self.resample)
        values = (np.asarray(small, dtype=np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(values).permute(2, 0, 1)


def square(place: Place, side: int, mean: Sequence[float], std: Sequence[float]) -> Square:
    """How the files of `place` say that pictures are made; what they do not say is as given, and bicubic.

    Raises SamcliError where they want something else than one square.
    """
    settings = picture_settings(place.folder)
    size = settings.get("size", {"height": side, "width": side})
    if size != {"height": side, "width": side} or settings.get("do_center_crop"):
        raise SamcliError(
            f"the preprocessor of {place.folder} has size {size!r}; it takes squares of "
            f"{side} pixels, uncropped"
        )
    given = settings.get("resample", Image.Resampling.BICUBIC)
    try:
        resample = Image.Resampling(given)
    except ValueError as error:
        raise SamcliError(
            f"the preprocessor of {place.folder} has resample {given!r}; give 0 to 5"
        ) from error
    return Square(side, resample, *colours(place, settings, mean, std))


def in_batches(run: Callable[[Tensor], list[T]], pictures: Tensor) -> list[T]:
    """`run` on pictures (B, 3, h, w), on half of them at a time when memory runs out."""
    try:
        return run(pictures)
    except torch.OutOfMemoryError as error:
        if len(pictures) == 1:
            raise SamcliError(
                "out of memory while looking at one image alone; use a smaller network, or --device cpu"
            ) from error
    torch.cuda.empty_cache()  # not in the handler, where the traceback holds on to tensors
    half = len(pictures) // 2
    warnings.warn(f"out of memory: went on with {half} images at a time", SamcliNote, stacklevel=2)
    return in_batches(run, pictures[:half]) + in_batches(run, pictures[half:])


def to_numpy(tensor: Tensor, place: Place) -> NDArray[np.float32]:
    """A network's output as fp32. Raises SamcliError for numbers that overflowed."""
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    if np.isnan(array).any():
        raise SamcliError(f"the numbers of {place.name} overflow in {place.dtype}; use --dtype fp32")
    return array


def to_detected(
    boxes: NDArray[np.floating],
    unit: tuple[float, float],
    size: tuple[int, int],
    scores: NDArray[np.floating],
    phrases: NDArray[np.int64],
) -> Detected:
    """Boxes as networks give them to boxes in the image, clipped, the empty ones dropped, best first.

    boxes: (N, 4) centre x, y, width, height in shares of `unit`, which is (width, height) in pixels.
    size: (height, width) of the image. scores, phrases: (N,). Equal scores stay in their order.
    """
    centre, extent = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1) * (*unit, *unit)
    corners = corners.clip(0, (size[1], size[0], size[1], size[0]))
    full: NDArray[np.bool_] = np.all(corners[:, 2:] > corners[:, :2], axis=1)
    found = Detected(corners, scores.astype(np.float64), phrases.astype(np.int64))[full]
    return found[np.argsort(-found.scores, kind="stable")]


def nothing() -> Detected:
    """What is found in an image where there is nothing to look for."""
    return Detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


def together(found: Sequence[Detected]) -> Detected:
    """All that was found in one image, best first. found: of at least one pass."""
    boxes = np.concatenate([one.boxes for one in found])
    scores = np.concatenate([one.scores for one in found])
    phrases = np.concatenate([one.phrases for one in found])
    return Detected(boxes, scores, phrases)[np.argsort(-scores, kind="stable")]


def _transformers(place: Place) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise SamcliError(
            f"{place.name} needs transformers; install it with: pip install 'samcli[ground]'"
        ) from error
    return transformers


@contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Say in one line what transformers could not make of the files."""
    try:
        yield
    except pickle.UnpicklingError as error:  # its text says how to run that code
        raise SamcliError(
            f"{place.folder / place.weights} is refused: it holds more than tensors, and reading that runs "
            "code from it; save its weights alone"
        ) from error
    except reading_errors() as error:
        raise SamcliError(f"{place.folder} cannot be loaded as a {place.what}: {why(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and remarks off stderr; what matters of them is an error."""
    from transformers.utils import logging as theirs

    log: Any = theirs  # its functions have no types
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
