"""The work of `predict`: prompts of one image become answers, with one embedding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from samcli.batch import Room, Work
from samcli.cli.inputs import PIPED, decode, listed_file, read_stdin, shown
from samcli.cli.model import Model, ModelOptions, saved_embedding
from samcli.cli.prompts import STDIN, Request
from samcli.errors import SamcliError
from samcli.formats.logits import load_logits
from samcli.images import ImageFile, input_file, load_mask, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.predictor import Embedding, Prediction, Predictor
    from samcli.records import InputFile, MaskRecord, Run

PROMPTS_PER_CALL = 64  # neighbouring prompts of one image that are answered together
MASK_BYTES = 2**28  # full-size masks held at once, a byte per pixel


class Job(NamedTuple):
    """Prompts of one image that are answered together. alone: each has a line of its own, if it fails too."""

    image: ImageFile
    requests: tuple[Request, ...]
    alone: bool


def in_order(requests: Iterable[Request], root: Path | None) -> Iterator[Job]:
    """Neighbouring prompts of one image are a job, as they come; those before a bad one, too."""
    chunk: list[Request] = []
    try:
        for request in requests:
            if chunk and request.image != chunk[0].image:
                yield Job(_image(chunk[0].image, root), tuple(chunk), alone=True)
                chunk = []
            chunk.append(request)
            if len(chunk) == PROMPTS_PER_CALL:
                yield Job(_image(request.image, root), tuple(chunk), alone=True)
                chunk = []
    except SamcliError:
        if chunk:
            yield Job(_image(chunk[0].image, root), tuple(chunk), alone=True)
        raise
    if chunk:
        yield Job(_image(chunk[0].image, root), tuple(chunk), alone=True)


def by_image(requests: Iterable[Request], root: Path | None) -> list[Job]:
    """All prompts of an image are a job, in the order in which the images are first named."""
    jobs: dict[str, list[Request]] = {}
    for request in requests:
        name = "-" if request.image == STDIN else os.path.abspath(request.image)  # noqa: PTH100
        jobs.setdefault(name, []).append(request)
    return [Job(_image(members[0].image, root), tuple(members), alone=False) for members in jobs.values()]


def _image(path: Path, root: Path | None) -> ImageFile:
    """The image and the path that names its outputs; with a problem for folders, or outside the root."""
    if path == STDIN:
        return PIPED
    image = listed_file(path, root)
    return replace(image, problem=f"{path} is a folder; give an image file") if path.is_dir() else image


class Answer(NamedTuple):
    """Masks of one prompt, best first, none for a box outside; their low-res logits (M, h, w) where kept."""

    masks: tuple[MaskRecord, ...]
    logits: NDArray[np.float32] | None


class Answered(NamedTuple):
    """A finished job with an answer for each request, or the reason why there is none. size: (height, width).

    pixels: (H, W, 3) uint8, where a picture is to be drawn.
    """

    source: InputFile
    size: tuple[int, int]
    pixels: NDArray[np.uint8] | None
    answers: list[Answer | str]


class _Seen(NamedTuple):
    """A job and its image: decoded, or with its embedding, or both."""

    job: Job
    source: InputFile
    pixels: NDArray[np.uint8] | None
    embedding: Embedding | None


@dataclass(frozen=True)
class MakeWork:
    """Builds the work. every: all three masks of each prompt. pixels, logits: keep them with the answers."""

    settings: ModelOptions
    every: bool
    pixels: bool
    logits: bool
    embeddings: Path | None
    keep_extension: bool
    max_pixels: int

    def __call__(self, device: str) -> Work[Job, Answered]:
        worker = _Worker(self, self.settings.predictor(device))
        return Work(worker.compute, worker.read)


class _Worker:
    def __init__(self, asked: MakeWork, predictor: Predictor) -> None:
        self.asked = asked
        self.predictor = predictor
        self.last: Embedding | None = None
        self.stdin: bytes | None = None
        self.lock = Lock()

    def read(self, job: Job, room: Room) -> _Seen:
        """Decode the job's image, or load its embedding."""
        image = job.image
        if image.problem:
            raise SamcliError(image.problem)
        data = self._bytes(image.path)
        source = input_file(data, image.relative)
        pixels = embedding = None
        if self.asked.pixels or not self.asked.embeddings:
            pixels = decode(data, source, shown(image.path), self.asked.max_pixels, room)
        if self.asked.embeddings:
            embedding = saved_embedding(
                self.asked.embeddings,
                image,
                source,
                self.asked.settings,
                self.predictor,
                self.asked.keep_extension,
            )
        return _Seen(job, source, pixels, embedding)

    def compute(self, jobs: list[_Seen]) -> list[Answered]:
        """Answer the prompts of each job; those after each other of one image share its embedding."""
        return [self._answer(seen) for seen in jobs]

    def _answer(self, seen: _Seen) -> Answered:
        pixels, kept = seen.pixels, seen.pixels if self.asked.pixels else None
        if not seen.job.requests and pixels is not None:  # an image without boxes: nothing to look for
            return Answered(seen.source, (pixels.shape[0], pixels.shape[1]), kept, [])
        embedding = seen.embedding
        if embedding is None:
            embedding = self.last
            if embedding is None or embedding.image_sha256 != seen.source.sha256:
                assert pixels is not None
                embedding = self.predictor.embed(pixels, image_sha256=seen.source.sha256)
                self.last = embedding
        requests = list(seen.job.requests)
        answers: list[Answer | str]
        try:
            answers = list(self._answers(requests, embedding))
        except SamcliError:
            if not seen.job.alone:
                raise
            answers = [self._one(request, embedding) for request in requests]
        return Answered(seen.source, embedding.original_size, kept, answers)

    def _one(self, request: Request, embedding: Embedding) -> Answer | str:
        try:
            return next(self._answers([request], embedding))
        except SamcliError as error:
            return str(error)

    def _bytes(self, path: Path) -> bytes:
        """The file; standard input is read once and kept, for later prompts."""
        if path != STDIN:
            return read(path)
        with self.lock:
            if self.stdin is None:
                self.stdin = read_stdin()
            return self.stdin

    def _answers(self, requests: list[Request], embedding: Embedding) -> Iterator[Answer]:
        height, width = embedding.original_size
        step = max(1, MASK_BYTES // (3 * height * width))
        for start in range(0, len(requests), step):
            asked = [request.within((height, width)) for request in requests[start : start + step]]
            prompts = [r.prompt(self._mask(r, embedding)) for r in asked if r]
            # One mask for a box, as Grounded SAM asks for it: it is no more ambiguous than several points.
            predictions = iter(
                self.predictor.predict(embedding, prompts, multimask=True if self.asked.every else None)
            )
            for request in asked:
                if request is None:
                    yield Answer((), None)
                    continue
                prediction = next(predictions)
                shown = prediction if self.asked.every else _best(prediction)
                logits = shown.low_res_logits if self.asked.logits else None
                yield Answer(tuple(request.told(mask) for mask in shown.records()), logits)

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


def run_of(job: Job, every: bool, settings: ModelOptions, model: Model) -> Run:
    """What makes the answers to a job; the prompts are part of it."""
    masks, prompts = "all" if every else "best", [_described(request) for request in job.requests]
    hashed = [
        {k: v for k, v in p.items() if k not in ("id", "mask")} for p in prompts
    ]  # names change no mask
    return settings.run(
        "predict", model, {"masks": masks, "prompts": prompts}, {"masks": masks, "prompts": hashed}
    )


def _described(request: Request) -> dict[str, Any]:
    """A prompt as it stands in a record's configuration; a mask file by its contents too."""
    values: dict[str, Any] = {"id": request.id}
    if request.detection:
        return {**values, **request.detection.to_json()}
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
