"""The work of commands that look at whole images and write a record of each: automask, cutout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from samcli.batch import Room, Work
from samcli.cli.inputs import Decoded, read_picture
from samcli.cli.model import ModelOptions, images_at_once, saved_embedding
from samcli.formats.names import image_id
from samcli.images import ImageFile
from samcli.records import ImageRecord, MaskRecord, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samcli.predictor import Embedding, Predictor

    Look = Callable[[NDArray[np.uint8], Embedding | None], tuple[MaskRecord, ...]]


class Seen(NamedTuple):
    """An image, decoded, and its saved embedding where there is one to use."""

    item: ImageFile
    picture: Decoded
    embedding: Embedding | None


class Masked(NamedTuple):
    """The record of an image, and its pixels (H, W, 3) uint8 for pictures."""

    record: ImageRecord
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class MaskWork(ABC):
    """Builds the work. embeddings: the folder of saved ones. max_pixels: of an image."""

    settings: ModelOptions
    run: Run
    embeddings: Path | None
    keep_extension: bool
    max_pixels: int

    @abstractmethod
    def look(self, predictor: Predictor) -> Look:
        """What finds the masks of an image; its embedding is None when it is left to that."""

    def __call__(self, device: str) -> Work[ImageFile, Masked]:
        predictor = self.settings.predictor(device)
        look = self.look(predictor)

        def read(item: ImageFile, room: Room) -> Seen:
            return self.seen(item, read_picture(item, self.max_pixels, room), predictor)

        def compute(seen: list[Seen]) -> list[Masked]:
            fresh = [one.picture.pixels for one in seen if one.embedding is None]
            # One at a time is left to what looks, which knows whether it needs the whole image.
            embedded = iter(predictor.embed_many(fresh) if len(fresh) > 1 else [None] * len(fresh))
            return [self.masked(one, look, one.embedding or next(embedded)) for one in seen]

        return Work(compute, read, images_at_once(predictor))

    def seen(self, item: ImageFile, picture: Decoded, predictor: Predictor) -> Seen:
        """An image with its saved embedding, where a folder of these was named."""
        embedding = None
        if self.embeddings:
            embedding = saved_embedding(
                self.embeddings, item, picture.source, self.settings, predictor, self.keep_extension
            )
        return Seen(item, picture, embedding)

    def masked(self, seen: Seen, look: Look, embedding: Embedding | None) -> Masked:
        """The record of an image."""
        source, pixels = seen.picture
        height, width = pixels.shape[:2]
        relative, masks = seen.item.relative, look(pixels, embedding)
        record = ImageRecord(self.run, source, image_id(relative), width, height, relative.as_posix(), masks)
        return Masked(record, pixels)
