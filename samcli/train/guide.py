"""What an ImageNet-trained network says of each place of the training photos: a guide for the encoder.

The edge teacher's VGG16 has two deep maps that know what things are, blocks 4 and 5. They are found once for
each photo, reduced by principal components, and kept on disk; the small encoder learns to say the same
beside the masks (features as targets: Romero et al., FitNets, 2015). Nothing of it ships.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from samcli.errors import SamcliError
from samcli.formats.atomic import new_folder, write_bytes, write_text
from samcli.train.data import read_images, read_photo
from samcli.train.edges import EdgeTeacher

SIDE = 320  # pixels; longer side of the photos that the teacher sees
STRIDE = 16
KEPT = (64, 96)  # principal components of block 4, averaged to its stride, and of block 5
CHANNELS = sum(KEPT)
BASIS_PHOTOS = 400
BASIS, ABOUT, FEATURES, SIZES = "basis.npz", "guide.json", "features.f16", "sizes.npy"

Basis = tuple[tuple[Tensor, Tensor], ...]  # of each block: mean (512,), projection (512, kept)


class GuideTeacher:
    """The edge teacher's deep features, and the basis in which they are kept."""

    def __init__(self, teacher: EdgeTeacher, basis: Basis | None = None) -> None:
        self._blocks = teacher.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
        self.basis = basis

    @torch.inference_mode()
    def raw(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """Blocks 4 and 5 of a photo (H, W, 3) at stride 16 of it at SIDE pixels: (h, w, 512) fp32 each.

        Square roots of the activations, whose few large values would drown the others.
        """
        scale = SIDE / max(image.shape[:2])
        height, width = (max(STRIDE, round(n * scale / STRIDE) * STRIDE) for n in image.shape[:2])
        photo = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float()
        four, five = self._blocks.deep(x)
        return [torch.sqrt(y)[0].permute(1, 2, 0).float() for y in (F.avg_pool2d(four, 2), five)]

    def learn_basis(self, photos: Sequence[Path]) -> Basis:
        """Principal components over photos, whitened by half: strong ones lead, weak ones are heard."""
        cells = zip(
            *([y.flatten(0, 1) for y in self.raw(read_photo(photo))] for photo in photos), strict=True
        )
        basis = []
        for kept, parts in zip(KEPT, cells, strict=True):
            x = torch.cat(parts).double()
            mean = x.mean(0)
            values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
            values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
            projection = vectors / values**0.25
            spread = (((x - mean) @ projection) ** 2).mean().sqrt()
            basis.append((mean.float(), (projection / spread).float()))
        self.basis = tuple(basis)
        return self.basis

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(h, w, CHANNELS), each block's of unit variance."""
        assert self.basis is not None
        parts = [(y - mean) @ to for y, (mean, to) in zip(self.raw(image), self.basis, strict=True)]
        return torch.cat(parts, -1).half().numpy()


def make_guide(folder: Path, target: Path, note: Callable[[str], None]) -> Guide | None:
    """What the teacher says of a pack's photos, written to the folder `target` unless it is there; None
    without photos.

    The basis stands beside it, for all packs; the first pack decides it.
    """
    if not (target / ABOUT).exists():
        names = _names(folder)
        if not names:
            return None
        photos = [folder / "images" / name for name in names]
        note(f"{folder.name}: features of {len(names)} photos")
        teacher = GuideTeacher(EdgeTeacher.load(), load_basis(target.with_name(BASIS)))
        if teacher.basis is None:
            write_bytes(
                target.with_name(BASIS),
                _as_bytes(teacher.learn_basis(photos[:: max(1, len(photos) // BASIS_PHOTOS)])),
            )
        write_guide(names, (teacher(read_photo(photo)) for photo in photos), target)
    return Guide(target)


def _names(folder: Path) -> list[str]:
    files = [folder / "annotations.json", folder / "stuff.json"]
    images = [image for file in files if file.exists() for image in read_images(file)]
    return list(dict.fromkeys(image["file_name"] for image in images))


def load_basis(path: Path) -> Basis | None:
    """What the first pack's run wrote; None when there is none."""
    if not path.exists():
        return None
    with np.load(path) as file:
        tensors = [torch.from_numpy(file[f"{i}"]) for i in range(2 * len(KEPT))]
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


def _as_bytes(basis: Basis) -> bytes:
    data = io.BytesIO()
    arrays = {f"{i}": tensor.numpy() for i, tensor in enumerate(t for pair in basis for t in pair)}
    np.savez(data, **arrays)  # type: ignore[arg-type]  # numpy's own keyword argument
    return data.getvalue()


def write_guide(names: Sequence[str], features: Iterable[NDArray[np.float16]], target: Path) -> None:
    """Write features (h, w, CHANNELS) of photos by name to the folder `target`."""
    sizes = []
    with new_folder(target, ours=False) as new:
        with (new / FEATURES).open("wb") as file:
            for photo in features:
                sizes.append(photo.shape[:2])
                file.write(photo.tobytes())
        np.save(new / SIZES, np.array(sizes, np.int32))
        write_text(new / ABOUT, json.dumps({"names": list(names)}) + "\n")


class Guide:
    """The features of a pack's photos by their file name; they stay on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = json.loads((folder / ABOUT).read_text())["names"]
        self._numbers = {name: number for number, name in enumerate(names)}
        self._sizes = np.load(folder / SIZES)
        self._ends = np.cumsum(self._sizes.prod(1))
        self._features = np.memmap(folder / FEATURES, np.float16, "r").reshape(-1, CHANNELS)

    def __reduce__(self) -> Any:
        return Guide, (self.folder,)  # another process maps the file itself

    def __getitem__(self, name: str) -> NDArray[np.float16]:
        """(h, w, CHANNELS) of the photo. Raises SamcliError when it is not known."""
        if name not in self._numbers:
            raise SamcliError(
                f"{self.folder} does not know the photo {name}, which came later; remove that folder, "
                "and it is made anew"
            )
        number = self._numbers[name]
        height, width = self._sizes[number]
        end = int(self._ends[number])
        return np.asarray(self._features[end - height * width : end]).reshape(height, width, CHANNELS)
