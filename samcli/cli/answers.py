"""The work of `predict`: prompts of one image become answers, with one embedding."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from samcli.cli.common import ModelOptions, saved_embedding
from samcli.cli.prompts import STDIN, Request
from samcli.errors import SamcliError
from samcli.formats.logits import load_logits
from samcli.images import ImageFile, input_file, list_images, load, load_mask, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.batch import Work
    from samcli.predictor import Embedding, Prediction, Predictor
    from samcli.records import InputFile, MaskRecord

MASK_BYTES = 2**28  # full-size masks held at once, a byte per pixel


class Job(NamedTuple):
    """Prompts that succeed or fail together; all of one image."""

    image: Path
    requests: tuple[Request, ...]


def one_by_one(requests: Iterable[Request]) -> Iterator[Job]:
    """Each prompt is a job, in order, as they come."""
    return (Job(request.image, (request,)) for request in requests)


def by_image(requests: Iterable[Request]) -> list[Job]:
    """All prompts of an image are a job, in the order in which the images are first named."""
    jobs: dict[Path, list[Request]] = {}
    for request in requests:
        jobs.setdefault(request.image, []).append(request)
    return [Job(image, tuple(members)) for image, members in jobs.items()]


def located(image: Path, root: Path | None) -> ImageFile:
    """An image and the path that names its outputs. Raises SamcliError for folders, or outside the root."""
    if image == STDIN:
        return ImageFile(image, PurePosixPath("stdin"))
    if image.is_dir():
        raise SamcliError(f"{image} is a folder; give an image file")
    return next(list_images([image], root=root))


class Answer(NamedTuple):
    """Masks of one prompt, best first, and their low-res logits (M, h, w)."""

    masks: tuple[MaskRecord, ...]
    logits: NDArray[np.float32]


class Answered(NamedTuple):
    """A finished job with an answer for each request. size: (height, width).

    pixels: (H, W, 3) uint8, where a picture is to be drawn.
    """

    image: ImageFile
    source: InputFile
    size: tuple[int, int]
    pixels: NDArray[np.uint8] | None
    answers: list[Answer]


class _Seen(NamedTuple):
    image: ImageFile
    source: InputFile
    pixels: NDArray[np.uint8] | None
    embedding: Embedding


@dataclass(frozen=True)
class MakeWork:
    """Builds the work. every: all three masks of each prompt. pixels: keep the picture for drawing."""

    settings: ModelOptions
    every: bool
    pixels: bool
    embeddings: Path | None
    root: Path | None
    keep_extension: bool

    def __call__(self) -> Work[Job, Answered]:
        return _Worker(self, self.settings.predictor()).work


class _Worker:
    def __init__(self, asked: MakeWork, predictor: Predictor) -> None:
        self.asked = asked
        self.predictor = predictor
        self.seen: tuple[Path, _Seen] | None = None
        self.stdin: bytes | None = None

    def work(self, jobs: list[Job]) -> list[Answered]:
        """Answer jobs of one image."""
        seen = self._look(jobs[0].image)
        size = seen.embedding.original_size
        answers = iter(self._answers([r for job in jobs for r in job.requests], seen))
        return [
            Answered(seen.image, seen.source, size, seen.pixels, [next(answers) for _ in job.requests])
            for job in jobs
        ]

    def _look(self, path: Path) -> _Seen:
        """The image and its embedding, kept until another image is asked for."""
        if self.seen and self.seen[0] == path:
            return self.seen[1]
        image = located(path, self.asked.root)
        name = "standard input" if path == STDIN else str(path)
        data = self._read(path)
        source = input_file(data, image.relative)
        pixels = None
        if self.asked.pixels or not self.asked.embeddings:
            pixels = load(data, name=name)
        if self.asked.embeddings:
            embedding = saved_embedding(
                self.asked.embeddings, image, source, self.asked.settings, self.asked.keep_extension
            )
        else:
            assert pixels is not None
            embedding = self.predictor.embed(pixels, image_sha256=source.sha256)
        seen = _Seen(image, source, pixels if self.asked.pixels else None, embedding)
        self.seen = (path, seen)
        return seen

    def _read(self, path: Path) -> bytes:
        """The file; standard input is read once and kept, for another try and for later prompts."""
        if path != STDIN:
            return read(path)
        if self.stdin is None:
            self.stdin = sys.stdin.buffer.read()
        return self.stdin

    def _answers(self, requests: list[Request], seen: _Seen) -> Iterator[Answer]:
        height, width = seen.embedding.original_size
        step = max(1, MASK_BYTES // (3 * height * width))
        for start in range(0, len(requests), step):
            prompts = [r.prompt(self._mask(r, seen.embedding)) for r in requests[start : start + step]]
            for prediction in self.predictor.predict(
                seen.embedding, prompts, multimask=True if self.asked.every else None
            ):
                shown = prediction if self.asked.every else _best(prediction)
                yield Answer(shown.records(), shown.low_res_logits)

    def _mask(self, request: Request, embedding: Embedding) -> NDArray[np.float32] | None:
        """What the mask file says, as low-res logits (h, w)."""
        path = request.mask
        if path is None:
            return None
        if path.suffix != ".safetensors":
            mask = load_mask(path)
            try:
                return self.predictor.mask_prompt(embedding, mask)
            except SamcliError as error:
                raise SamcliError(f"{path}: {error}") from error
        logits = load_logits(path)
        index, count = request.turn
        if len(logits) not in (1, count):
            raise SamcliError(f"{path} holds {len(logits)} masks, not one a prompt; save them without --all")
        chosen: NDArray[np.float32] = logits[index if len(logits) == count else 0]
        return chosen


def _best(prediction: Prediction) -> Prediction:
    return replace(
        prediction,
        masks=prediction.masks[:1],
        predicted_iou=prediction.predicted_iou[:1],
        stability_score=prediction.stability_score[:1],
        low_res_logits=prediction.low_res_logits[:1],
    )


def described(request: Request) -> dict[str, Any]:
    """A prompt as it stands in a record's configuration; a mask file by its contents too."""
    values: dict[str, Any] = {"id": request.id}
    if request.points:
        values["points"] = [list(point) for point in request.points]
        values["labels"] = list(request.labels or (1,) * len(request.points))
    if request.box:
        values["box"] = list(request.box.xyxy)
    if request.mask:
        values["mask"] = str(request.mask)
        with suppress(OSError):  # a file that cannot be read fails the prompt where it is used
            if request.mask.is_file():
                values["mask_sha256"] = hashlib.sha256(request.mask.read_bytes()).hexdigest()
    return values


def hashed(prompt: dict[str, Any]) -> dict[str, Any]:
    """What of a described prompt changes masks: not its name, nor where its mask file lies."""
    return {key: value for key, value in prompt.items() if key not in ("id", "mask")}
