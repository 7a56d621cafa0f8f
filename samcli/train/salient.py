"""Trains the salient head of `samcli cutout` over the frozen embedded model.

A sample is a photo and the thing in it: shown whole, zoomed in on the thing, or a part of the photo without
it, which teaches that sometimes nothing stands out. Sample i is a pure function of (seed, i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, Subset

from samcli.errors import SamcliError
from samcli.geometry import resized_size
from samcli.masks import decode_rle
from samcli.models.salient import SalientHead
from samcli.models.sam import Sam
from samcli.models.small import TINY_SIDE
from samcli.train.data import Pack, Photo, read_pack, read_photo, recolour, unpack
from samcli.train.log import CHECKPOINT, Journal, Report
from samcli.train.loop import Stage, State, TrainConfig, begin_with, begun_with, export, identity, normalise
from samcli.train.processes import join_processes
from samcli.weights import DEFAULT_MODEL, load_sam

PACKS = ("duts",)  # of the packs at hand, those whose annotated thing is what stands out
IMAGES = 26_000
CONFIG = TrainConfig(
    (Stage(side=TINY_SIDE, images=IMAGES, batch=16),), lr=1e-3, weight_decay=0.02, clip=1.0, warmup=100
)
HELD_OUT = 24  # every so many-th photo is left out of training, to measure on

TARGET_STRIDE = 2  # pixels of the model's input per cell of a target, half of the logits' stride
ZOOM = (0.45, 1.1)  # shares of a window's sides; at 1 the thing goes from edge to edge
LEAST_WINDOW = 32  # pixels
CROPS = 100  # random windows looked at for the largest one without the thing
NOTHING_SIDE = 0.3  # of the photo's height, the least of such a window
EMPTY = 8.0  # cells; a target of less counts as none
BCE_WEIGHT = 2.0


@dataclass(frozen=True)
class SalientSamples:
    """How samples are drawn. Shares are probabilities; the rest of the photos is shown whole."""

    side: int = TINY_SIDE  # pixels
    zoom_share: float = 0.4
    nothing_share: float = 0.1


class Views(NamedTuple):
    """B views of photos.

    images: (B, 3, S, S) uint8 RGB, padded. valid: (B, 2) int64, (height, width) of the unpadded part.
    targets: (B, S/2, S/2) float32, the share of each cell that the thing covers.
    """

    images: Tensor
    valid: Tensor
    targets: Tensor


class SalientDataset(Dataset[Views]):
    """`length` single views; with `plain` the photos in turn, whole and as they are."""

    def __init__(
        self,
        photos: Sequence[Photo],
        config: SalientSamples,
        *,
        seed: int = 0,
        length: int | None = None,
        plain: bool = False,
    ) -> None:
        self.photos, self.config, self.seed, self.plain = photos, config, seed, plain
        self.length = len(photos) if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Views:
        if self.plain:
            return view(*_photo(self.photos[index]), self.config.side)
        rng = np.random.default_rng((self.seed, index))
        turn, place = divmod(index, len(self.photos))  # each photo once before any comes again
        order = np.random.default_rng((self.seed, 1, turn)).permutation(len(self.photos))
        image, mask = _photo(self.photos[order[place]])
        kind = rng.random()
        window = None
        if kind < self.config.nothing_share:
            window = _without(mask, rng)
        elif kind < self.config.nothing_share + self.config.zoom_share:
            window = _around(mask, rng)
        if window is not None:
            image, mask = image[window], mask[window]
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return view(recolour(image, rng), mask, self.config.side)


def train_salient(
    data: Path,
    out: Path,
    *,
    config: TrainConfig,
    report: Report,
    note: Callable[[str], None],
    start: Path | None = None,
) -> Path:
    """Train the salient head on the packs in `data` and write `out/salient.safetensors` (EMA weights, fp16).

    What is annotated in a photo is the thing that stands out in it. start: a salient head to begin with
    instead of the mask decoder. Continues from `out/checkpoint.pt` when it is there. Returns the path. Raises
    SamcliError for missing data, another run's checkpoint, or weights of something else.
    """
    _, world, device = join_processes(config)
    if world > 1:
        raise SamcliError("the salient head is trained by one process; start it without torchrun")
    folders = unpack(data, out / "data")
    known = [folder for folder in folders if folder.name in PACKS]
    photos = [photo for folder in known or folders for photo in read_pack(folder) if photo.objects]
    if not photos:
        raise SamcliError(f"the training data in {data} holds no annotated photos; add some to it")
    photos.sort(key=lambda photo: photo.path.name)
    held_out = photos[::HELD_OUT]
    photos = [photo for i, photo in enumerate(photos) if i % HELD_OUT] or photos
    samples = SalientSamples(side=config.stages[0].side)
    torch.manual_seed(config.seed)
    sam, _, sha256 = load_sam(DEFAULT_MODEL)
    sam = sam.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
    head = SalientHead()
    head.begin_from(sam)
    begun = None if start is None else begin_with(head, start)
    about = identity(config, samples, [Pack("salient", photos, 1.0, cutouts=False)], world)
    state = State(head.to(device), config, {**about, "weights_sha256": sha256, **begun_with(begun)})
    out.mkdir(parents=True, exist_ok=True)
    state.resume(out / CHECKPOINT)
    journal = Journal(state, out, report, tensorboard=config.tensorboard)
    _run(state, sam, photos, samples, journal, device)
    journal.end()
    path = out / "salient.safetensors"
    export(
        state.ema, path, {"format": "pt", "model": "salient", "of": DEFAULT_MODEL, "weights_sha256": sha256}
    )
    head.load_state_dict(state.ema)
    note(f"held out: {len(held_out)} photos, mean IoU {measure(sam, head, held_out, samples):.3f}")
    return path


def _run(
    state: State[SalientHead],
    sam: Sam,
    photos: Sequence[Photo],
    samples: SalientSamples,
    journal: Journal,
    device: torch.device,
) -> None:
    config, stage = state.config, state.config.stages[0]
    total = stage.steps * stage.batch
    dataset = SalientDataset(photos, samples, seed=config.seed, length=total)
    rest = Subset(dataset, range(state.step * stage.batch, total))
    loader = DataLoader(rest, stage.batch, collate_fn=collate, num_workers=config.workers)
    # on a CPU the fused attention's backward pass costs more than the plain one's
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    state.network.train()
    journal.begin(stage)
    for views in loader:
        views = Views(*(t.to(device, non_blocking=True) for t in views))
        for group in state.optimizer.param_groups:
            group["lr"] = state.lr()
        with sdpa_kernel(kernels), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits, predicted = look(sam, state.network, views)
        loss, reached = salient_loss(logits, predicted, views)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_ema()
        journal.add(float(loss.detach()), reached, reached)


def look(sam: Sam, head: SalientHead, views: Views) -> tuple[Tensor, Tensor]:
    """Low-res logits (B, S/4, S/4) and predicted IoU (B,); gradients reach the head alone."""
    with torch.no_grad():
        features = sam.encode_image(normalise(sam, views.images, views.valid))
        positions = sam.prompt_encoder.get_dense_pe()
    answer: tuple[Tensor, Tensor] = head(features, positions)
    return answer


def salient_loss(logits: Tensor, predicted: Tensor, views: Views) -> tuple[Tensor, float]:
    """Cross entropy, a soft IoU where there is a thing, and the squared error of the predicted IoU.

    What lies in the padding does not count. Returns the loss and the mean IoU of the views with a thing.
    """
    targets = views.targets
    cells = torch.arange(targets.shape[-1], device=targets.device) * TARGET_STRIDE
    valid = views.valid[:, :, None]
    inside = (cells < valid[:, 0])[:, :, None] & (cells < valid[:, 1])[:, None, :]
    logits = F.interpolate(logits[:, None].float(), size=targets.shape[-2:], mode="bilinear")[:, 0]
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * inside
    entropy = each.sum((1, 2)) / inside.sum((1, 2))
    probability = logits.sigmoid() * inside
    shared = (probability * targets).sum((1, 2))
    union = (probability + targets).sum((1, 2)) - shared
    thing = targets.sum((1, 2)) > EMPTY
    overlap = (1 - (shared + 1) / (union + 1)) * thing
    found, wanted = (logits > 0) & inside, targets > 0.5
    actual = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1)
    error = (predicted.float() - actual) ** 2
    reached = float((actual * thing).sum() / thing.sum().clamp(min=1))
    return (BCE_WEIGHT * entropy + overlap + error).mean(), reached


@torch.inference_mode()
def measure(sam: Sam, head: SalientHead, photos: Sequence[Photo], samples: SalientSamples) -> float:
    """Mean IoU over whole photos, on the cells of the targets."""
    head.eval()
    device = sam.pixel_mean.device
    reached = []
    for views in DataLoader(SalientDataset(photos, samples, plain=True), 1, collate_fn=collate):
        views = Views(*(t.to(device) for t in views))
        logits, predicted = look(sam, head, views)
        reached.append(salient_loss(logits, predicted, views)[1])
    return float(np.mean(reached))


def view(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int) -> Views:
    """A picture (H, W, 3) and its thing (H, W) as the model sees them: resized and padded to `side`."""
    height, width = resized_size(mask.shape[:2], side)
    shown = np.zeros((side, side, 3), np.uint8)
    covered = np.zeros((side, side), np.float32)
    picture = Image.fromarray(np.ascontiguousarray(image))
    shown[:height, :width] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    way = cv2.INTER_AREA if side < max(mask.shape) else cv2.INTER_LINEAR
    covered[:height, :width] = cv2.resize(mask.astype(np.float32), (width, height), interpolation=way)
    cells = side // TARGET_STRIDE
    targets = covered.reshape(cells, TARGET_STRIDE, cells, TARGET_STRIDE).mean((1, 3))
    return Views(
        torch.from_numpy(shown).permute(2, 0, 1)[None],
        torch.tensor([[height, width]]),
        torch.from_numpy(targets)[None],
    )


def collate(views: Sequence[Views]) -> Views:
    """Join single views."""
    return Views(*(torch.cat(parts) for parts in zip(*views, strict=True)))


def _photo(photo: Photo) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture and all that is annotated in it."""
    image = read_photo(photo.path)
    mask = np.logical_or.reduce([decode_rle(rle) for rle in photo.objects])
    if mask.shape != image.shape[:2]:
        raise SamcliError(
            f"{photo.path}: masks are {mask.shape} but the photo is {image.shape[:2]} (height, width)"
        )
    return image, mask


def _around(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[slice, slice]:
    """A window that the thing's box fills, by ZOOM of its height and width, or spills over."""
    window = []
    for length, line in zip(mask.shape, (mask.any(1), mask.any(0)), strict=True):
        place = np.flatnonzero(line)
        first, last = (int(place[0]), int(place[-1]) + 1) if len(place) else (0, length)
        size = int(np.clip((last - first) / rng.uniform(*ZOOM), min(LEAST_WINDOW, length), length))
        middle = (first + last) / 2 + rng.uniform(-0.5, 0.5) * abs(size - (last - first))
        start = int(np.clip(middle - size / 2, 0, length - size))
        window.append(slice(start, start + size))
    return window[0], window[1]


def _without(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[slice, slice] | None:
    """The largest of some random windows without the thing; None when the thing leaves no room for one."""
    height, width = mask.shape
    sums = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    h = (rng.uniform(NOTHING_SIDE, 1, CROPS) * height).astype(np.int64)
    w = np.minimum(h * rng.uniform(0.6, 1.7, CROPS), width).astype(np.int64)
    y = (rng.random(CROPS) * (height - h + 1)).astype(np.int64)
    x = (rng.random(CROPS) * (width - w + 1)).astype(np.int64)
    thing = sums[y + h, x + w] - sums[y, x + w] - sums[y + h, x] + sums[y, x]
    area = np.where(thing == 0, h * w, 0)
    best = int(area.argmax())
    if area[best] == 0 or w[best] == 0:
        return None
    return np.s_[y[best] : y[best] + h[best], x[best] : x[best] + w[best]]
