"""The work of commands that look at whole images and write a file of each, mostly a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from samcli.batch import Room, Work
from samcli.cli.inputs import Decoded, read_picture
from samcli.cli.model import ModelOptions, saved_embedding
from samcli.formats.names import image_id
from samcli.images import ImageFile
from samcli.records import ImageRecord, MaskRecord, Notes, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.predictor import Embedding, Predictor

    Look = Callable[[list["Seen"]], list["Found"]]
    Find = Callable[[NDArray[np.uint8], Embedding | None], tuple[MaskRecord, ...]]


class Seen(NamedTuple):
    """An image, decoded, and its saved embedding where there is one to use."""

    item: ImageFile
    picture: Decoded
    embedding: Embedding | None


class Found(NamedTuple):
    """What was found in an image."""

    masks: tuple[MaskRecord, ...]
    notes: Notes = Notes()


class Masked(NamedTuple):
    """The record of an image, and its pixels (H, W, 3) uint8 for pictures."""

    record: ImageRecord
    pixels: NDArray[np.uint8]


Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageWork(ABC, Generic[Answer, Result]):
    """Builds the work. embeddings: the folder of saved ones. max_pixels: of an image."""

    settings: ModelOptions
    run: Run
    embeddings: Path | None
    keep_extension: bool
    max_pixels: int

    @abstractmethod
    def look(self, predictor: Predictor) -> Callable[[list[Seen]], list[Answer]]:
        """What looks at some images and says something of each."""

    @abstractmethod
    def result(self, one: Seen, answer: Answer) -> Result:
        """What is to be written of an image."""

    def __call__(self, device: str) -> Work[ImageFile, Result]:
        predictor = self.settings.predictor(device)
        look = self.look(predictor)

        def read(item: ImageFile, room: Room) -> Seen:
            return self.seen(item, read_picture(item, self.max_pixels, room), predictor)

        def compute(seen: list[Seen]) -> list[Result]:
            return [self.result(one, answer) for one, answer in zip(seen, look(seen), strict=True)]

        return Work(compute, read, predictor.images_per_call)

    def seen(self, item: ImageFile, picture: Decoded, predictor: Predictor) -> Seen:
        """An image with its saved embedding, where a folder of these was named."""
        embedding = None
        if self.embeddings:
            embedding = saved_embedding(
                self.embeddings, item, picture.source, self.settings, predictor, self.keep_extension
            )
        return Seen(item, picture, embedding)


class MaskWork(ImageWork[Found, Masked]):
    """Builds work that finds masks."""

    def result(self, one: Seen, answer: Found) -> Masked:
        return masked(one.item, one.picture, self.run, answer)


def one_by_one(predictor: Predictor, find: Find) -> Look:
    """What looks at each image by itself; several are embedded together before.

    find: finds the masks of an image; its embedding is None when it is left to that, which knows whether it
    needs the whole image.
    """

    def look(seen: list[Seen]) -> list[Found]:
        embeddings = embedded(predictor, seen) if len(seen) > 1 else (one.embedding for one in seen)
        return [
            Found(find(one.picture.pixels, embedding))
            for one, embedding in zip(seen, embeddings, strict=True)
        ]

    return look


def embedded(predictor: Predictor, seen: list[Seen]) -> Iterator[Embedding]:
    """The embedding of each image, in order; those that are not saved are made together."""
    pictures = [one.picture for one in seen if one.embedding is None]
    digests = [picture.source.sha256 for picture in pictures]
    fresh = iter(predictor.embed_many([picture.pixels for picture in pictures], image_sha256=digests))
    return (one.embedding or next(fresh) for one in seen)


def masked(item: ImageFile, picture: Decoded, run: Run, found: Found) -> Masked:
    """The record of an image."""
    source, pixels = picture
    height, width = pixels.shape[:2]
    relative = item.relative
    name = relative.as_posix()
    return Masked(ImageRecord(run, source, image_id(relative), width, height, name, *found), pixels)
