"""Fine-tunes the mask decoder and the prompt encoder of any Sam on photos of one kind.

The image encoder stays as it is, so each view of a photo (whole, or zoomed in; mirrored; in another light) is
encoded once and its features are kept on the disk: what remains is a small network. Sample i is a pure
function of (seed, i).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from samcli.errors import SamcliError
from samcli.geometry import resized_size, to_model_frame
from samcli.images import digest, load, size_of
from samcli.masks import check_rle, decode_rle
from samcli.models.prompt_encoder import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.sam import ImageFeatures
from samcli.predictor import Predictor, load_embedding, save_embedding
from samcli.predictor import load as load_predictor
from samcli.train.data import (
    MAX_DRAWS,
    Pack,
    Photo,
    Prompts,
    draw_point,
    noised_box,
    read_pack,
    recolour,
    unpack,
)
from samcli.train.log import CHECKPOINT, Check, Journal, Report
from samcli.train.loop import Draws, Stage, State, TrainConfig, export, identity, interact, schedule
from samcli.train.processes import join_processes
from samcli.weights import DEFAULT_MODEL, stored_dtypes

CONFIG = TrainConfig(
    (Stage(side=0, images=200, batch=4),),  # the side is the model's
    lr=3e-4,
    weight_decay=0.01,
    clip=1.0,
    warmup=20,
    ema=0.98,
    iou_weight=8.0,  # the scores matter more than in a long training: they say what a thing of the kind is
    nothing_weight=1.0,
    save_every=20,
    log_every=10,
)
FEATURES_BYTES = 4 * 2**30  # of the features that are kept
TARGET_STRIDE = (
    2  # pixels of the model's input per cell of a target: finer than the logits, which are scaled up
)
LEAST_AREA = 24  # pixels of the model's input; a smaller mask has hardly a cell of its logits
LARGEST_SHARE = 0.97  # of a view; a larger mask shows no edge
LEAST_VISIBLE = 0.5  # of a thing's box, in a view

T = TypeVar("T", np.uint8, np.bool_)


@dataclass(frozen=True)
class DecoderSamples:
    """How samples are drawn. Shares are probabilities.

    views: of each photo; every other one is zoomed in by up to `zoom`. prompts: of a view in one sample.
    box_share: of the prompts on a thing; the others are clicks. anywhere_share: clicks beside all things.
    """

    views: int = 16
    zoom: float = 2.2
    prompts: int = 6
    box_share: float = 0.35
    anywhere_share: float = 0.25


@dataclass(frozen=True)
class View:
    """A part of a photo as the model sees it.

    window: xyxy pixels with exclusive ends. light: the seed of its recolouring, None as it is. objects:
    places in `photo.objects` of what can be learned here.
    """

    photo: Photo
    window: tuple[int, int, int, int]
    mirrored: bool
    light: tuple[int, ...] | None
    objects: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the photo."""
        x0, y0, x1, y1 = self.window
        return y1 - y0, x1 - x0

    def cut(self, pixels: NDArray[T]) -> NDArray[T]:
        """The view's part of (H, W, ...)."""
        x0, y0, x1, y1 = self.window
        part = pixels[y0:y1, x0:x1]
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The mask of one of the photo's objects, (h, w)."""
        return self.cut(decode_rle(self.photo.objects[number]))


def train_decoder(
    data: Path,
    out: Path,
    *,
    model: str | None,
    images: Path | None,
    config: TrainConfig,
    report: Report,
    note: Callable[[str], None],
    check: Check | None = None,
) -> Path:
    """Fine-tune a model's decoder and write the whole model to `out/model.safetensors`; return its path.

    data: a COCO file, a folder with annotations.json, or a folder of such folders. model: as `-m` has it.
    images: the folder that the photos lie in, `images/` beside the annotations when None. The weights (EMA)
    are stored in the types that the model's file has. Continues from `out/checkpoint.pt` when it is there.
    Raises SamcliError for data that cannot be used, and another run's checkpoint; WeightsError for missing
    weights.
    """
    _, world, device = join_processes(config)
    if world > 1:
        raise SamcliError("the decoder is trained by one process; start it without torchrun")
    photos, shas = read_photos(data, images, out / "data")
    name = DEFAULT_MODEL if model is None else model
    predictor = load_predictor(name, device=str(device))
    side = predictor.sam.image_size
    config = replace(config, stages=tuple(replace(stage, side=side) for stage in config.stages))
    samples = DecoderSamples()
    features = Features(predictor, out / "features", shas)
    samples = replace(samples, views=features.views(len(photos), samples.views))
    views = [views_of(photo, i, samples, side, config.seed) for i, photo in enumerate(photos)]
    usable = [of_photo for of_photo in views if of_photo]
    if not usable:
        raise SamcliError(
            f"no mask in {data} can be learned at {predictor.spec.name}'s input of {side} pixels; they are "
            f"empty, smaller than {LEAST_AREA} pixels there, or cover whole photos"
        )
    masks, idle = sum(len(photo.objects) for photo in photos), len(photos) - len(usable)
    without = f", {idle} of them without one to learn from" if idle else ""
    note(
        f"{predictor.spec.name}: {len(photos)} photos with {masks} masks{without}; "
        f"{samples.views} views of each"
    )
    about = identity(config, samples, [Pack("photos", photos, 1.0, cutouts=False)], world)
    about |= {"weights_sha256": predictor.weights_sha256, "data_sha256": _data_sha256(photos, shas)}
    torch.manual_seed(config.seed)
    sam = predictor.sam
    sam.image_encoder.requires_grad_(False)
    parts = nn.ModuleDict({"prompt_encoder": sam.prompt_encoder, "mask_decoder": sam.mask_decoder})
    state = State(parts, config, about)
    out.mkdir(parents=True, exist_ok=True)
    state.resume(out / CHECKPOINT)

    def measured(parts: nn.ModuleDict) -> Mapping[str, float]:
        assert check is not None
        whole = copy.copy(sam)  # with the same image encoder
        whole._modules = {**sam._modules, **parts._modules}
        return check(whole)

    journal = Journal(state, out, report, check=measured if check else None, tensorboard=config.tensorboard)
    _run(state, predictor, features, usable, samples, journal)
    journal.end()
    path = out / "model.safetensors"
    base = {"base": predictor.spec.name, "base_sha256": predictor.weights_sha256}
    export(
        {**sam.state_dict(), **state.ema},
        path,
        {"format": "pt", "model": predictor.spec.architecture, **base},
        stored_dtypes(name),
    )
    features.clear()
    return path


def read_photos(data: Path, images: Path | None, unpacked: Path) -> tuple[list[Photo], dict[Path, str]]:
    """The annotated photos of COCO-format data, and the sha256 of each file.

    data, images: see `train_decoder`. unpacked: where tar files in `data` are extracted. Raises SamcliError,
    naming the file, when there are none, a photo is missing or unreadable, or does not fit its masks.
    """
    places = [data] if data.is_file() else unpack(data, unpacked)
    photos = [photo for place in places for photo in read_pack(place, images=images) if photo.objects]
    if not photos:
        raise SamcliError(f"{data} holds no annotated masks; add some to it")
    shas = {}
    for photo in photos:
        if not photo.path.exists() and images is None:
            raise SamcliError(f"{photo.path} does not exist; name the folder of the photos with --images")
        size = size_of(photo.path)
        for rle in photo.objects:
            if tuple(rle["size"]) != size:
                raise SamcliError(
                    f"{photo.path} is {size[1]}x{size[0]} pixels upright, but a mask of it "
                    f"{rle['size'][1]}x{rle['size'][0]}; annotate the photo as it is"
                )
            try:
                check_rle(rle)
            except SamcliError as error:
                raise SamcliError(f"a mask of {photo.path}: {error}") from error
        shas[photo.path] = digest(photo.path)[1]
    return photos, shas


def _data_sha256(photos: Sequence[Photo], shas: dict[Path, str]) -> str:
    content = [[shas[photo.path], [rle["counts"] for rle in photo.objects]] for photo in photos]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def views_of(photo: Photo, index: int, samples: DecoderSamples, side: int, seed: int) -> list[View]:
    """The views of a photo in which there is something to learn; the first is the photo as it is.

    index: of the photo. side: pixels of the model's input.
    """
    height, width = photo.objects[0]["size"]
    rles = [{"size": rle["size"], "counts": rle["counts"].encode()} for rle in photo.objects]
    areas = np.asarray(mask_api.area(rles), np.float64)
    boxes = np.asarray(mask_api.toBbox(rles), np.float64)
    boxes[:, 2:] += boxes[:, :2]
    found = []
    for number in range(samples.views):
        rng = np.random.default_rng((seed, index, number))
        window = (0, 0, width, height)
        if number % 2:
            zoom = math.exp(rng.uniform(0, math.log(samples.zoom)))
            window = _window(boxes[rng.integers(len(boxes))], (height, width), zoom, rng)
        objects = _learnable(areas, boxes, window, side)
        if len(objects):
            light = (seed, index, number, 1) if number else None
            found.append(View(photo, window, bool(number // 2 % 2), light, tuple(objects.tolist())))
    return found


def _window(
    box: NDArray[np.float64], size: tuple[int, int], zoom: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A window of the photo's proportions about a box, xyxy."""
    corner, ends = [], []
    for middle, length in zip((box[:2] + box[2:]) / 2, size[::-1], strict=True):
        edge = max(1, round(length / zoom))
        start = int(np.clip(middle - rng.uniform(0.2, 0.8) * edge, 0, length - edge))
        corner.append(start)
        ends.append(start + edge)
    return corner[0], corner[1], ends[0], ends[1]


def _learnable(
    areas: NDArray[np.float64], boxes: NDArray[np.float64], window: tuple[int, int, int, int], side: int
) -> NDArray[np.int64]:
    """Which objects are large enough in the model's input, and visible. boxes: (K, 4) xyxy."""
    x0, y0, x1, y1 = window
    shown = np.minimum(boxes[:, 2:], (x1, y1)) - np.maximum(boxes[:, :2], (x0, y0))
    visible = np.clip(shown, 0, None).prod(1) >= LEAST_VISIBLE * (boxes[:, 2:] - boxes[:, :2]).prod(1)
    scale = side / max(x1 - x0, y1 - y0)
    sized = (areas * scale**2 >= LEAST_AREA) & (areas <= LARGEST_SHARE * (x1 - x0) * (y1 - y0))
    return np.flatnonzero(visible & sized)


class Features:
    """What the encoder has of views, kept in a folder as far as FEATURES_BYTES go."""

    def __init__(self, predictor: Predictor, folder: Path, shas: dict[Path, str]) -> None:
        self.predictor, self.folder, self.shas = predictor, folder, shas
        self._bytes = 0  # of one view; known from the first

    def views(self, photos: int, wanted: int) -> int:
        """How many views of each photo fit the bound, from 1 to `wanted`."""
        side = self.predictor.sam.image_size
        probe = self.predictor.embed(np.zeros((side, side, 3), np.uint8))
        tensors = (probe.features, *probe.high_res)
        self._bytes = sum(t.numel() * t.element_size() for t in tensors)
        return max(1, min(wanted, FEATURES_BYTES // (self._bytes * photos)))

    def of(self, view: View) -> ImageFeatures:
        """The features of a view, for gradients to flow through what uses them."""
        content = json.dumps([self.shas[view.photo.path], view.window, view.mirrored, view.light])
        path = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
        if path.exists():
            embedding = load_embedding(path, self.predictor)
        else:
            pixels = view.cut(load(view.photo.path))
            if view.light is not None:
                pixels = recolour(pixels, np.random.default_rng(view.light))
            embedding = self.predictor.embed(pixels)
            if self._room():
                self.folder.mkdir(parents=True, exist_ok=True)
                save_embedding(embedding, path)
        # copies: a tensor of the predictor's inference mode may not be saved for a backward pass
        return ImageFeatures(embedding.features.clone(), tuple(t.clone() for t in embedding.high_res))

    def _room(self) -> bool:
        kept = sum(1 for _ in self.folder.glob("*.safetensors"))
        return (kept + 1) * self._bytes <= FEATURES_BYTES

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def draw(view: View, samples: DecoderSamples, predictor: Predictor, rng: np.random.Generator) -> Prompts:
    """First prompts on things in a view, each with its one answer; a click beside all things has none."""
    n, (height, width), side = samples.prompts, view.size, predictor.sam.image_size
    places = np.zeros((n, 2, 2))  # pixels of the view
    labels = np.tile(np.array([FOREGROUND, PADDING]), (n, 1))
    targets = np.zeros((n, 1, side // TARGET_STRIDE, side // TARGET_STRIDE), np.uint8)
    known = np.zeros((n, 1), bool)
    for i in range(n):
        if rng.random() < samples.anywhere_share:
            places[i, 0] = rng.uniform(0, (width, height))
            if not _annotated(view, *places[i, 0].astype(int)):
                continue
        mask, target = _wanted(view, side, rng)
        if rng.random() < samples.box_share:
            places[i], labels[i] = (
                noised_box(mask.view(np.uint8), max(height, width), rng),
                (TOP_LEFT, BOTTOM_RIGHT),
            )
        else:
            y, x = draw_point(mask.view(np.uint8), rng)
            places[i, 0] = x + rng.random(), y + rng.random()
        targets[i, 0], known[i, 0] = target, True
    coords = to_model_frame(places, view.size, side)
    coords[:, 1][labels[:, 1] == PADDING] = 0
    return Prompts(
        torch.tensor([resized_size(view.size, side)]),
        torch.from_numpy(coords),
        torch.from_numpy(labels),
        torch.from_numpy(targets),
        torch.from_numpy(known),
    )


def _wanted(view: View, side: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A thing's mask in the view, and the cells of a target (h, w) that it covers at least half of."""
    for _ in range(MAX_DRAWS):  # the visible part of a thin thing may cover no cell
        mask = view.mask(view.objects[int(rng.integers(len(view.objects)))])
        target = _target(mask, side)
        if target.any():
            return mask, target
    raise SamcliError(f"the masks of {view.photo.path} are too thin to learn from; leave the photo out")


def _target(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """The cells of the model's input that a mask covers at least half of; it goes the image's way."""
    height, width = resized_size((mask.shape[0], mask.shape[1]), side)
    grey = Image.fromarray(mask.view(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
    covered = np.zeros((side, side), np.float32)
    covered[:height, :width] = np.asarray(grey)
    cells = side // TARGET_STRIDE
    shares: NDArray[np.float32] = covered.reshape(cells, TARGET_STRIDE, cells, TARGET_STRIDE).mean((1, 3))
    return shares >= 127.5


def _annotated(view: View, x: int, y: int) -> bool:
    """Whether a pixel of the view lies in any mask of the photo."""
    x0, y0, x1, _ = view.window
    column, row = (x1 - 1 - x if view.mirrored else x0 + x), y0 + y
    rles = [{"size": rle["size"], "counts": rle["counts"].encode()} for rle in view.photo.objects]
    left, top, w, h = np.asarray(mask_api.toBbox(rles), np.float64).T
    near = (left <= column) & (column < left + w) & (top <= row) & (row < top + h)
    return any(decode_rle(view.photo.objects[k])[row, column] for k in np.flatnonzero(near))


def _run(
    state: State[nn.ModuleDict],
    predictor: Predictor,
    features: Features,
    views: Sequence[Sequence[View]],
    samples: DecoderSamples,
    journal: Journal,
) -> None:
    """Train to the end. views: of each photo."""
    config, stage, device = state.config, state.config.stages[0], predictor.device
    # on a CPU the fused attention's backward pass costs more than the plain one's
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    journal.begin(stage)
    while state.step < config.steps:
        sums = np.zeros(3)
        for group in state.optimizer.param_groups:
            group["lr"] = state.lr()
        for number in range(stage.batch):
            index = state.step * stage.batch + number
            rows = torch.arange(number * samples.prompts, (number + 1) * samples.prompts)
            draws = Draws(config.seed + state.step, rows, stage.batch * samples.prompts)
            rounds = schedule(stage, config, draws)
            rng = np.random.default_rng((config.seed, 2, index))
            turn, place = divmod(index, len(views))  # each photo once before any comes again
            order = np.random.default_rng((config.seed, 3, turn)).permutation(len(views))
            of_photo = views[order[place]]
            view = of_photo[int(rng.integers(len(of_photo)))]
            prompts = Prompts(*(t.to(device) for t in draw(view, samples, predictor, rng)))
            seen = features.of(view)
            losses, ious = 0.0, []
            with sdpa_kernel(kernels), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                for loss, reached in interact(predictor.sam, seen, prompts, rounds, config, draws):
                    (loss / stage.batch).backward()  # round by round, which takes least memory
                    losses += float(loss.detach())
                    ious.append(reached)
            sums += losses / stage.batch, ious[0] / stage.batch, ious[-1] / stage.batch
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_ema()
        journal.add(*sums.tolist())
