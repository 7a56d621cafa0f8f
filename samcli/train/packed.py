"""Training data in arrays: photos as their files are, masks as bits. Needs numpy and Pillow alone to be read.

For machines that train and have little else installed; and there are few large files instead of many small
ones.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samcli.errors import SamcliError
from samcli.formats.atomic import new_folder, write_text
from samcli.train.guide import Guide, write_guide

if TYPE_CHECKING:
    from samcli.train.data import Pack, Photo

ABOUT, GUIDE = "pack.json", "guide"
ARRAYS = ("files", "file_ends", "bits", "bits_ends", "boxes", "sizes", "masks", "things", "strengths")


def write_packed(packs: Sequence[Pack], out: Path) -> None:
    """Write packs to a folder, a folder each. Raises SamcliError for a photo that cannot be read."""
    for pack in packs:
        place = out / pack.name
        with new_folder(place, ours=(place / ABOUT).exists()) as folder:
            photos = cast("Sequence[Photo]", pack.photos)
            for name, array in zip(ARRAYS, _arrays(photos), strict=True):
                np.save(folder / f"{name}.npy", array)
            if photos and photos[0].guide is not None:
                said = (features for photo in photos if (features := photo.features()) is not None)
                write_guide([str(number) for number in range(len(photos))], said, folder / GUIDE)
            about = {"name": pack.name, "weight": pack.weight, "cutouts": pack.cutouts}
            write_text(folder / ABOUT, json.dumps(about) + "\n")


def _arrays(photos: Sequence[Photo]) -> list[NDArray[Any]]:
    files, bits = io.BytesIO(), io.BytesIO()
    file_ends, bits_ends, boxes, sizes, masks, strengths = [], [], [], [], [], []
    for photo in photos:
        try:
            files.write(photo.path.read_bytes())
        except OSError as error:
            raise SamcliError(f"{photo.path} cannot be read: {error.strerror}; check the path") from error
        file_ends.append(files.tell())
        sizes.append((photo.objects or photo.regions)[0]["size"])
        for number in range(len(photo.objects) + len(photo.regions)):
            mask = photo.mask(number)
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1) if len(ys) else (0, 0, 0, 0)
            x0, y0, x1, y1 = (int(v) for v in box)
            bits.write(zlib.compress(np.packbits(mask[y0:y1, x0:x1]).tobytes(), 9))
            bits_ends.append(bits.tell())
            boxes.append((x0, y0, x1, y1))
        masks.append(len(boxes))
        strengths += [np.nan] * len(photo.objects) + list(photo.strengths)
    return [
        np.frombuffer(files.getvalue(), np.uint8),
        np.array(file_ends, np.int64),
        np.frombuffer(bits.getvalue(), np.uint8),
        np.array(bits_ends, np.int64),
        np.array(boxes, np.int32).reshape(-1, 4),
        np.array(sizes, np.int32).reshape(-1, 2),
        np.array(masks, np.int64),
        np.array([len(photo.objects) for photo in photos], np.int32),
        np.array(strengths, np.float64),
    ]


@dataclass(frozen=True)
class PackedPhoto:
    """A photo of a pack, read where it lies; as `data.Photo`."""

    store: PackedPhotos
    number: int

    @property
    def things(self) -> int:
        return int(self.store.arrays["things"][self.number])

    @property
    def strengths(self) -> tuple[float, ...]:
        first, last = self.store.span("masks", self.number)
        return tuple(self.store.arrays["strengths"][first + self.things : last].tolist())

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        first, last = self.store.span("file_ends", self.number)
        data = self.store.arrays["files"][first:last].tobytes()
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))

    def mask(self, number: int) -> NDArray[np.bool_]:
        """(H, W) bool."""
        first, _ = self.store.span("masks", self.number)
        x0, y0, x1, y1 = self.store.arrays["boxes"][first + number].tolist()
        mask = np.zeros(self.store.arrays["sizes"][self.number], bool)
        if x1 > x0:
            start, stop = self.store.span("bits_ends", first + number)
            data = zlib.decompress(self.store.arrays["bits"][start:stop].tobytes())
            bits = np.unpackbits(np.frombuffer(data, np.uint8), count=(y1 - y0) * (x1 - x0))
            mask[y0:y1, x0:x1] = bits.reshape(y1 - y0, x1 - x0).view(np.bool_)
        return mask

    def features(self) -> NDArray[np.float16] | None:
        """(h, w, C), or None."""
        return None if self.store.guide is None else self.store.guide[str(self.number)]


class PackedPhotos(Sequence["PackedPhoto"]):
    """The photos of a folder that `write_packed` made; the arrays stay on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        self.guide = Guide(folder / GUIDE) if (folder / GUIDE).exists() else None

    def __reduce__(self) -> Any:
        return PackedPhotos, (self.folder,)  # another process maps the files itself

    def __len__(self) -> int:
        return len(self.arrays["sizes"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [PackedPhoto(self, i) for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return PackedPhoto(self, int(index))

    def span(self, ends: str, number: int) -> tuple[int, int]:
        """Where part `number` of what an array lists the ends of begins and ends."""
        array = self.arrays[ends]
        return int(array[number - 1]) if number else 0, int(array[number])


def read_packed(out: Path) -> list[Pack]:
    """The packs in a folder that `write_packed` wrote, by name. Raises SamcliError when there are none."""
    from samcli.train.data import Pack

    packs = []
    for file in sorted(out.glob(f"*/{ABOUT}")):
        about = json.loads(file.read_text())
        packs.append(Pack(about["name"], PackedPhotos(file.parent), about["weight"], about["cutouts"]))
    if not packs:
        raise SamcliError(f"{out} holds no packed training data; write it with: python -m samcli.train pack")
    return packs
