"""Training samples: COCO-format folders, nested regions, scale jitter, copy-paste, simulated first prompts.

Sample i is a pure function of (seed, i), so a run resumes exactly and any number of workers gives the same
batches.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from samcli.errors import SamcliError
from samcli.masks import decode_rle
from samcli.models.prompt_encoder import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.records import RLE

if TYPE_CHECKING:
    from samcli.train.guide import Guide

TARGETS = 3  # known answers kept per prompt: one for each ambiguity token
LOGIT_STRIDE = 4
GUIDE_STRIDE = 16
GUIDE_ZOOM = (0.7, 1.5)  # beyond, the teacher would see other things
MAX_CHANNELS = 128  # that OpenCV 5 resizes at once
MAX_DRAWS = 100  # of scenes without a usable mask, before a sample is given up
MIN_POLYGON = 6  # numbers: three corners


@dataclass(frozen=True)
class Photo:
    """A training photo: annotated objects, and regions with the strength of their contours."""

    path: Path
    objects: tuple[RLE, ...]
    regions: tuple[RLE, ...]
    strengths: tuple[float, ...]
    guide: Guide | None = None
    name: str = ""  # in the dataset, as the guide knows it

    @property
    def things(self) -> int:
        return len(self.objects)

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB. Raises SamcliError."""
        return read_photo(self.path)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The mask (H, W) of an object, or behind them of a region."""
        things = len(self.objects)
        return decode_rle(self.objects[number] if number < things else self.regions[number - things])

    def features(self) -> NDArray[np.float16] | None:
        """What `guide.GuideTeacher` says of it, (h, w, C); None without a guide."""
        return None if self.guide is None else self.guide[self.name]


class Picture(Protocol):
    """What samples are drawn from: a `Photo`, or one of `packed.PackedPhotos`."""

    @property
    def things(self) -> int:
        """How many objects it has; their masks come before those of regions."""

    @property
    def strengths(self) -> tuple[float, ...]:
        """Of its regions' contours."""

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""

    def mask(self, number: int) -> NDArray[np.bool_]:
        """(H, W)."""

    def features(self) -> NDArray[np.float16] | None:
        """(h, w, C), or None."""


class Pack(NamedTuple):
    """Photos of one source. weight: share of the samples. cutouts: each photo's only object may be pasted
    elsewhere.
    """

    name: str
    photos: Sequence[Picture]
    weight: float
    cutouts: bool


class Prompts(NamedTuple):
    """First prompts of B images, P each, N = B * P in image order.

    valid: (B, 2) int64, (height, width) of the images' unpadded part.
    coords: (N, 2, 2) float32 (x, y) model pixels. labels: (N, 2) int64 as in `PromptEncoder`: a click and its
    padding, or two box corners. targets: (N, A, h, w), up to TARGETS known answers, the wanted one first, at
    the logits' resolution or a finer one: 0 to 1, how much of the cell the answer covers.
    known: (N, A) bool; all False for a click where nothing is known. A known target is not empty.
    """

    valid: Tensor
    coords: Tensor
    labels: Tensor
    targets: Tensor
    known: Tensor


class Batch(NamedTuple):
    """`Prompts`, and the images they are of: (B, 3, S, S) uint8 RGB.

    guide: (B, C, S / 16, S / 16) float16, what the teacher says of each cell; NaN where it says nothing.
    """

    images: Tensor
    guide: Tensor
    valid: Tensor
    coords: Tensor
    labels: Tensor
    targets: Tensor
    known: Tensor

    @property
    def prompts(self) -> Prompts:
        return Prompts(*self[2:])


def read_pack(
    place: Path, *, images: Path | None = None, regions: Path | None = None, guide: Guide | None = None
) -> list[Photo]:
    """Read `annotations.json` (and `stuff.json` when there) of a COCO-format folder with `images/`.

    place: the folder, or a COCO file. images: where the photos lie, `images/` beside the file when None.
    regions: a COCO-format file of region masks with `score`, as `samcli.train.recipe` writes it. guide: what
    a teacher says of the photos.
    Masks may be run-length encoded or polygons; an annotation without any polygon is left out. Raises
    SamcliError for a missing or malformed file.
    """
    photos: dict[int, tuple[Path, str, list[RLE], list[RLE], list[float]]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    first = place if place.is_file() else place / "annotations.json"
    folder = first.parent / "images" if images is None else images
    files = [first, first.with_name("stuff.json"), *([regions] if regions else [])]
    for file in files:
        if file.name == "stuff.json" and not file.exists():
            continue
        data = read_json(file)
        try:
            for image in data["images"]:
                name = image["file_name"]
                photos.setdefault(image["id"], (folder / name, name, [], [], []))
                sizes[image["id"]] = (image["height"], image["width"])
            for annotation in data["annotations"]:
                if annotation.get("iscrowd"):
                    continue
                _, _, objects, parts, strengths = photos[annotation["image_id"]]
                rle = compressed(annotation["segmentation"], sizes[annotation["image_id"]])
                if rle is None:
                    continue
                if file == regions:
                    parts.append(rle)
                    strengths.append(float(annotation["score"]))
                else:
                    objects.append(rle)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SamcliError(f"{file} is not a COCO instances file: {error} is missing or wrong") from error
    return [
        Photo(path, tuple(objects), tuple(parts), tuple(strengths), guide, name)
        for path, name, objects, parts, strengths in photos.values()
        if objects or parts
    ]


def compressed(segmentation: Any, size: tuple[int, int]) -> RLE | None:
    """COCO's three ways to write a mask, as compressed run-length encoding; None for no polygon at all."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    if not isinstance(segmentation, (dict, list)):
        raise TypeError("segmentation")
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= MIN_POLYGON]
        if not segmentation:
            return None
    from pycocotools import mask as mask_api  # not needed where masks are decoded already

    coded = mask_api.frPyObjects(segmentation, *size)
    merged = mask_api.merge(coded) if isinstance(coded, list) else coded
    return {"size": list(merged["size"]), "counts": merged["counts"].decode()}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises SamcliError."""
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SamcliError(
            f"{file} does not exist; training data is a folder with annotations.json and images/"
        ) from None
    except OSError as error:
        raise SamcliError(f"{file} cannot be read: {error.strerror}; check the path") from error
    except ValueError as error:  # no JSON, or no text
        raise SamcliError(f"{file} is not JSON: {error}") from error
    return data


def read_images(file: Path) -> list[dict[str, Any]]:
    """The images that a COCO file lists. Raises SamcliError."""
    try:
        images: list[dict[str, Any]] = read_json(file)["images"]
        for image in images:
            image["id"], image["file_name"]
    except (KeyError, TypeError) as error:
        raise SamcliError(f"{file} is not a COCO instances file: {error} is missing or wrong") from error
    return images


def unpack(data: Path, into: Path) -> list[Path]:
    """The pack folders in `data` by name; tar files there are extracted under `into` first.

    `data` itself, when it has annotations.json, is the only one. A folder in `data` stands for the tar file,
    or the extracted folder, of the same name. Raises SamcliError when there is none.
    """
    if (data / "annotations.json").exists():
        return [data]
    for archive in sorted(data.glob("*.tar")):
        done = into / f".{archive.stem}.done"
        if not done.exists() and not (data / archive.stem / "annotations.json").exists():
            into.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archive) as tar:
                tar.extractall(into, filter="data")
            done.touch()
    folders = {
        file.parent.name: file.parent for root in (into, data) for file in root.glob("*/annotations.json")
    }
    if not folders:
        raise SamcliError(
            f"{data} holds no training data; expected folders (or tar files) with annotations.json"
        )
    return [folders[name] for name in sorted(folders)]


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn. Shares are probabilities."""

    side: int = 256  # pixels
    prompts: int = 4  # per image
    box_share: float = 0.35
    region_share: float = 0.45
    anywhere_share: float = 0.08  # clicks at a random place, known or not
    paste_share: float = 0.5  # images that get pasted cut-outs
    max_pasted: int = 3
    whole_share: float = 0.5  # images shown whole, as at inference
    zoom: tuple[float, float] = (0.6, 2.2)  # of the side, for the others
    max_regions: int = 32  # per image


class PromptDataset(Dataset[Batch]):
    """`length` single-image batches; sample i depends on (seed, i) alone.

    Raises SamcliError when the packs hold no masks, or none that survives scaling and cropping.
    """

    def __init__(self, packs: Sequence[Pack], config: SampleConfig, *, seed: int, length: int) -> None:
        self.packs = [p for p in packs if p.photos]
        if not self.packs:
            names = ", ".join(p.name for p in packs)
            raise SamcliError(f"the training data ({names}) holds no annotated masks; add some to it")
        self.cutouts = [photo for p in self.packs if p.cutouts for photo in p.photos if photo.things == 1]
        self.config, self.seed, self.length = config, seed, length
        weights = np.array([p.weight for p in self.packs])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, index))
        for _ in range(MAX_DRAWS):  # a crop may lose every mask: draw again
            pack = self.packs[rng.choice(len(self.packs), p=self.weights)]
            scene = _scene(pack.photos[int(rng.integers(len(pack.photos)))], self.config, rng)
            if self.cutouts and rng.random() < self.config.paste_share:
                for _ in range(rng.integers(1, self.config.max_pasted + 1)):
                    _paste(scene, self.cutouts[rng.integers(len(self.cutouts))], rng)
            scene.drop_small()
            if scene.masks.shape[-1]:
                return _prompts(scene, self.config, rng)
        raise SamcliError(
            f"no usable mask in {MAX_DRAWS} samples of the training data "
            f"({', '.join(p.name for p in self.packs)}); its masks are empty, tiny or cover whole photos"
        )


@dataclass
class _Scene:
    """image: (h, w, 3) uint8, h and w at most `side`. masks: (h, w, K) uint8. object: (K,) bool. weight:
    (K,). guide: (C, side / 16, side / 16) float32, NaN where nothing is known; C is 0 without a teacher.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    is_object: NDArray[np.bool_]
    weight: NDArray[np.float64]
    side: int
    guide: Tensor

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        self.masks = self.masks[..., wanted]
        self.is_object, self.weight = self.is_object[wanted], self.weight[wanted]

    def drop_small(self) -> None:
        areas = self.masks.sum((0, 1), dtype=np.int64)
        self.keep((areas >= 24) & (areas <= 0.97 * self.masks.shape[0] * self.masks.shape[1]))


def read_photo(path: Path) -> NDArray[np.uint8]:
    """A training photo, (H, W, 3) uint8 RGB. Raises SamcliError."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise SamcliError(f"{path} cannot be read as a training photo: {error}") from error


def _scene(photo: Picture, config: SampleConfig, rng: np.random.Generator) -> _Scene:
    image = photo.pixels()
    strengths = np.array(photo.strengths)
    chosen = np.arange(len(strengths))
    if len(chosen) > config.max_regions:
        share = strengths**2 / (strengths**2).sum()
        chosen = rng.choice(len(strengths), config.max_regions, replace=False, p=share)
    things = photo.things
    numbers = [*range(things), *(things + chosen).tolist()]
    masks = np.stack([photo.mask(i) for i in numbers], -1).astype(np.uint8)
    if masks.shape[:2] != image.shape[:2]:
        raise SamcliError(
            f"{getattr(photo, 'path', photo)}: masks are {masks.shape[:2]} but the photo is "
            f"{image.shape[:2]} (height, width)"
        )
    is_object = np.arange(len(numbers)) < things
    weight = np.concatenate([np.ones(things), strengths[chosen] ** 2])

    height, width = image.shape[:2]
    zoom = 1.0 if rng.random() < config.whole_share else float(np.exp(rng.uniform(*np.log(config.zoom))))
    stretch = float(np.exp(rng.uniform(-0.15, 0.15))) if zoom != 1 else 1.0
    scale = config.side * zoom / max(height, width)
    size = (max(16, round(width * scale * stretch)), max(16, round(height * scale / stretch)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    masks = _resize_masks(masks, size)
    x, y = 0, 0
    if max(size) > config.side:
        x, y = _corner(masks, config.side, rng)
        place = np.s_[y : y + config.side, x : x + config.side]
        image, masks = image[place], masks[place]
    mirrored = rng.random() < 0.5
    if mirrored:
        image, masks = image[:, ::-1], masks[:, ::-1]
    guide = _guide(photo, (x, y), size, mirrored, image.shape[:2], config.side)
    if not GUIDE_ZOOM[0] <= zoom <= GUIDE_ZOOM[1]:
        guide.fill_(torch.nan)
    return _Scene(recolour(image, rng), np.ascontiguousarray(masks), is_object, weight, config.side, guide)


def _guide(
    photo: Picture,
    corner: tuple[int, int],
    size: tuple[int, int],
    mirrored: bool,
    seen: Sequence[int],
    side: int,
) -> Tensor:
    """What the teacher says at the cells of a scene that shows a window of a photo of (width, height) `size`.

    corner: (x, y) of the window. seen: its (height, width). Returns (C, side / 16, side / 16) float32, NaN
    outside of the photo.
    """
    middle = (torch.arange(side // GUIDE_STRIDE) + 0.5) * GUIDE_STRIDE
    features = photo.features()
    if features is None:
        return torch.zeros(0, len(middle), len(middle))
    x, y = (seen[1] - middle if mirrored else middle) + corner[0], middle + corner[1]
    grid = torch.stack(torch.broadcast_tensors(x / size[0], (y / size[1])[:, None]), -1) * 2 - 1
    source = torch.tensor(features, dtype=torch.float32).permute(2, 0, 1)[None]
    guide: Tensor = F.grid_sample(source, grid[None], padding_mode="border", align_corners=False)[0]
    return guide.masked_fill((middle >= seen[0])[:, None] | (middle >= seen[1]), torch.nan)


def _resize_masks(masks: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """masks: (H, W, K), K at least 1. size: (width, height), as OpenCV has it. Nearest neighbour."""
    parts = []
    for first in range(0, masks.shape[-1], MAX_CHANNELS):
        part = np.ascontiguousarray(masks[..., first : first + MAX_CHANNELS])
        resized = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST)
        parts.append(np.asarray(resized, np.uint8).reshape(size[1], size[0], -1))
    return np.concatenate(parts, -1)


def _corner(masks: NDArray[np.uint8], side: int, rng: np.random.Generator) -> tuple[int, int]:
    """The corner (x, y) of a window of at most side x side pixels around a random pixel of a random mask."""
    height, width = masks.shape[:2]
    ys, xs = np.nonzero(masks[..., rng.integers(masks.shape[-1])])
    i = int(rng.integers(len(ys))) if len(ys) else -1
    centre = (ys[i], xs[i]) if len(ys) else (height // 2, width // 2)
    corner = []
    for length, middle in zip((height, width), centre, strict=True):
        free = max(length - side, 0)
        corner.append(int(np.clip(middle - rng.uniform(0.2, 0.8) * side, 0, free)))
    y, x = corner
    return x, y


def recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another light: brightness, contrast, saturation and tint, rarely without any colour."""
    out = image.astype(np.float32)
    if rng.random() < 0.8:
        out *= rng.uniform(0.7, 1.3)
        mean = out.mean()
        out = (out - mean) * rng.uniform(0.7, 1.3) + mean
        grey = out.mean(-1, keepdims=True)
        out = grey + (out - grey) * rng.uniform(0.5, 1.5)
        out *= rng.uniform(0.93, 1.07, 3).astype(np.float32)
    if rng.random() < 0.05:
        out = np.repeat(out.mean(-1, keepdims=True), 3, -1)
    return np.clip(out, 0, 255).astype(np.uint8)


def _paste(scene: _Scene, photo: Picture, rng: np.random.Generator) -> None:
    """Paste the photo's object at a random place; what it covers is taken from the masks below."""
    mask = photo.mask(0).astype(np.uint8)
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return
    window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    cut, mask = photo.pixels()[window], mask[window]
    height, width = scene.image.shape[:2]
    scale = rng.uniform(0.15, 0.65) * max(height, width) / max(mask.shape)
    size = (max(4, round(mask.shape[1] * scale)), max(4, round(mask.shape[0] * scale)))
    if size[0] >= width or size[1] >= height:
        return
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cut = np.asarray(cv2.resize(cut, size, interpolation=way), np.uint8)
    alpha = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        cut, alpha = cut[:, ::-1], alpha[:, ::-1]
    cut = recolour(cut, rng)
    x = int(rng.integers(-size[0] // 4, width - 3 * size[0] // 4))
    y = int(rng.integers(-size[1] // 4, height - 3 * size[1] // 4))
    source = np.s_[max(0, -y) : height - y, max(0, -x) : width - x]
    cut, alpha = cut[source], alpha[source]
    place = np.s_[max(0, y) : max(0, y) + alpha.shape[0], max(0, x) : max(0, x) + alpha.shape[1]]
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.7)[..., None]
    scene.image[place] = (soft * cut + (1 - soft) * scene.image[place]).astype(np.uint8)
    solid = alpha > 0.5
    before = scene.masks.sum((0, 1), dtype=np.int64)
    scene.masks[place][solid] = 0
    after = scene.masks.sum((0, 1), dtype=np.int64)
    scene.keep(after >= np.maximum(0.4 * before, 1))
    pasted = np.zeros((height, width, 1), np.uint8)
    pasted[place][..., 0] = solid
    covered = torch.zeros(1, scene.side, scene.side)
    covered[0, :height, :width] = torch.from_numpy(pasted[..., 0])
    scene.guide = scene.guide.masked_fill(F.max_pool2d(covered, GUIDE_STRIDE) > 0, torch.nan)
    scene.masks = np.concatenate([scene.masks, pasted], -1)
    scene.is_object = np.append(scene.is_object, True)
    scene.weight = np.append(scene.weight, 1.0)


def _prompts(scene: _Scene, config: SampleConfig, rng: np.random.Generator) -> Batch:
    side, n = config.side, config.prompts
    height, width, count = scene.masks.shape
    coords = np.zeros((n, 2, 2), np.float32)
    labels = np.zeros((n, 2), np.int64)
    chosen = np.full((n, TARGETS), -1)
    for i in range(n):
        if rng.random() < config.anywhere_share:
            point = (int(rng.integers(height)), int(rng.integers(width)))
            wanted = -1
        else:
            wanted = _draw_mask(scene, config.region_share, rng)
            point = draw_point(scene.masks[..., wanted], rng)
        if wanted >= 0 and rng.random() < config.box_share:
            coords[i], labels[i] = noised_box(scene.masks[..., wanted], side, rng), (TOP_LEFT, BOTTOM_RIGHT)
            chosen[i, 0] = wanted
        else:
            coords[i, 0], labels[i] = (
                (point[1] + rng.random(), point[0] + rng.random()),
                (FOREGROUND, PADDING),
            )
            answers = _answers(scene, wanted, np.flatnonzero(scene.masks[point]), rng)
            chosen[i, : len(answers)] = answers
    padded = np.zeros((side, side, count), np.uint8)
    padded[:height, :width] = scene.masks
    step = LOGIT_STRIDE
    cells = padded.reshape(side // step, step, side // step, step, count).sum((1, 3), dtype=np.uint8)
    small = np.concatenate([cells, np.zeros((*cells.shape[:2], 1), np.uint8)], -1)
    targets = (small[..., chosen].transpose(2, 3, 0, 1) / step**2).astype(np.float32)
    image = np.zeros((side, side, 3), np.uint8)
    image[:height, :width] = scene.image
    return Batch(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        scene.guide[None].half(),
        torch.tensor([[height, width]]),
        torch.from_numpy(coords),
        torch.from_numpy(labels),
        torch.from_numpy(targets),
        torch.from_numpy((chosen >= 0) & (targets >= 0.5).any((2, 3))),  # a thin mask may have no cell
    )


def _draw_mask(scene: _Scene, region_share: float, rng: np.random.Generator) -> int:
    group = scene.is_object if rng.random() >= region_share else ~scene.is_object
    if not group.any():
        group = ~group
    weight = np.where(group, scene.weight, 0)
    return int(rng.choice(len(weight), p=weight / weight.sum()))


def draw_point(mask: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int]:
    """A pixel (y, x) of the mask: anywhere, or (half the time) in its deeper half."""
    mask = np.ascontiguousarray(mask)
    if rng.random() < 0.5:
        depth = cv2.distanceTransform(
            cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3
        )
        mask = (depth[1:-1, 1:-1] >= 0.5 * depth.max()).astype(np.uint8)
    ys, xs = np.nonzero(mask)
    i = rng.integers(len(ys))
    return int(ys[i]), int(xs[i])


def noised_box(mask: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Corners (2, 2) of the mask's box, each coordinate noised by 10 % of the box, at most 20 px of 1024."""
    ys, xs = np.nonzero(mask)
    low, high = np.array([xs.min(), ys.min()]), np.array([xs.max() + 1, ys.max() + 1])
    spread = np.minimum(0.1 * (high - low), side * 20 / 1024)
    noise = np.clip(rng.normal(size=(2, 2)) * spread, -2 * spread, 2 * spread) * (rng.random() < 0.8)
    box = np.stack([low, high]) + noise
    box[1] = np.maximum(box[1], box[0] + 1)
    return np.asarray(np.clip(box, 0, side), np.float32)


def _answers(
    scene: _Scene, wanted: int, containing: NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """Up to TARGETS masks around a click, the wanted one first; annotated objects come before regions."""
    others = [int(k) for k in rng.permutation(containing) if k != wanted]
    if wanted < 0 and not others:
        return []
    answers = ([wanted] if wanted >= 0 else []) + others
    if not scene.is_object[answers[0]] and rng.random() < 0.75:
        answers.sort(
            key=lambda k: not scene.is_object[k]
        )  # the default answer of a click is an object, if any
    kept: list[int] = []
    for k in answers:
        mask = scene.masks[..., k]
        if all(_iou(mask, scene.masks[..., other]) < 0.8 for other in kept):
            kept.append(k)
        if len(kept) == TARGETS:
            break
    return kept


def _iou(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    shared = np.count_nonzero(a & b)
    return float(shared / max(np.count_nonzero(a) + np.count_nonzero(b) - shared, 1))


def collate(samples: Sequence[Batch]) -> Batch:
    """Join single-image batches."""
    return Batch(*(torch.cat(parts) for parts in zip(*samples, strict=True)))
