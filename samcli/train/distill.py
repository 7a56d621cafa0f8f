"""A small image encoder learns to say what a large Sam's says (MobileSAM, section 3): decoupled distillation.

Prompt encoder and mask decoder are the teacher's and stay as they are; only the encoder learns. What it says
is held against the teacher's embedding, and the masks that the decoder makes of it against those that it
makes of the teacher's. Photos need no annotations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from samcli.errors import SamcliError
from samcli.geometry import resized_size
from samcli.images import digest, list_images, load, size_of
from samcli.models.prompt_encoder import FOREGROUND, PADDING
from samcli.models.registry import build_sam
from samcli.models.sam import ImageFeatures, Sam
from samcli.predictor import Predictor
from samcli.predictor import load as load_predictor
from samcli.train.data import Pack, Photo
from samcli.train.decoder import Features, View
from samcli.train.log import CHECKPOINT, Check, Journal, Report
from samcli.train.loop import Stage, State, TrainConfig, export, identity
from samcli.train.losses import iou, mask_loss
from samcli.train.processes import join_processes
from samcli.weights import load_sam

CONFIG = TrainConfig(
    (Stage(side=0, images=80_000, batch=8, corrections=0),),  # MobileSAM: 8 times 11,000 photos
    lr=1e-3,
    weight_decay=5e-4,
    save_every=100,
    log_every=10,
)
STUDENT = "vit_t"


@dataclass(frozen=True)
class DistillSamples:
    """How samples are drawn.

    views: of each photo, whole or zoomed in by up to `zoom`, mirrored or not. prompts: clicks on a view whose
    masks are compared.
    """

    views: int = 4
    zoom: float = 2.0
    prompts: int = 8


def train_distilled(
    data: Path,
    out: Path,
    *,
    teacher: str,
    model: str | None,
    config: TrainConfig,
    report: Report,
    note: Callable[[str], None],
    check: Check | None = None,
) -> Path:
    """Train a small Sam after a large one and write it to `out/model.safetensors`; return its path.

    data: a folder of photos. teacher, model: as `-m` has them; the encoder of `model` goes on learning, a
    fresh TinyViT when None. Continues from `out/checkpoint.pt` when it is there. Raises SamcliError for
    photos that cannot be read, networks that do not go together, and another run's checkpoint; WeightsError
    for missing weights.
    """
    _, world, device = join_processes(config)
    if world > 1:
        raise SamcliError("distillation is done by one process; start it without torchrun")
    large = load_predictor(teacher, device=str(device))
    torch.manual_seed(config.seed)
    small, name = (build_sam(STUDENT), STUDENT) if model is None else _student(model)
    joined(small, large.sam, teacher)
    photos, shas = _photos(data, out)
    samples = DistillSamples()
    features = Features(large, out / "features", shas)
    samples = replace(samples, views=features.views(len(photos), samples.views))
    side = large.sam.image_size
    config = replace(config, stages=tuple(replace(stage, side=side) for stage in config.stages))
    note(f"{name} after {large.spec.name}: {len(photos)} photos, {samples.views} views of each")
    about = identity(config, samples, [Pack("photos", photos, 1.0, cutouts=False)], world)
    content = hashlib.sha256("".join(shas[photo.path] for photo in photos).encode()).hexdigest()
    about |= {"teacher_sha256": large.weights_sha256, "model": name, "data_sha256": content}
    out.mkdir(parents=True, exist_ok=True)
    small.requires_grad_(False)
    small.image_encoder.requires_grad_(True)
    state = State(small.to(device), config, about)
    state.resume(out / CHECKPOINT)
    journal = Journal(state, out, report, check=check, tensorboard=config.tensorboard)
    run(state, large, features, photos, samples, journal)
    journal.end()
    path = out / "model.safetensors"
    metadata = {
        "format": "pt",
        "model": name,
        "teacher": large.spec.name,
        "teacher_sha256": large.weights_sha256,
    }
    export(state.ema, path, metadata, {n: t.dtype for n, t in state.ema.items()})
    features.clear()
    return path


def _student(model: str) -> tuple[Sam, str]:
    loaded = load_sam(model)
    return loaded.sam, loaded.spec.architecture


def joined(small: Sam, large: Sam, teacher: str) -> None:
    """Give a student the teacher's prompt encoder and decoder. Raises SamcliError when they do not fit."""
    parts = {n: t for n, t in large.state_dict().items() if not n.startswith("image_encoder.")}
    own = {n: t.shape for n, t in small.state_dict().items() if not n.startswith("image_encoder.")}
    if own != {n: t.shape for n, t in parts.items()} or small.image_size != large.image_size:
        raise SamcliError(
            f"the decoder of {teacher} does not go with this student; take Sams of one kind, such as vit_h "
            "for a vit_t"
        )
    small.load_state_dict(parts, strict=False)


def _photos(data: Path, out: Path) -> tuple[list[Photo], dict[Path, str]]:
    photos, shas = [], {}
    for image in list_images([data], output=out):
        if image.problem:
            raise SamcliError(image.problem)
        photos.append(Photo(image.path, (), (), ()))
        shas[image.path] = digest(image.path)[1]
    return photos, shas


def view_of(photo: Photo, index: int, number: int, samples: DistillSamples, seed: int) -> View:
    """View `number` of photo `index`: the first one is the photo as it is."""
    height, width = size_of(photo.path)
    window = (0, 0, width, height)
    rng = np.random.default_rng((seed, index, number))
    if number % 2:
        zoom = float(np.exp(rng.uniform(0, np.log(samples.zoom))))
        w, h = max(1, round(width / zoom)), max(1, round(height / zoom))
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        window = (x, y, x + w, y + h)
    return View(photo, window, bool(number // 2 % 2), None, ())


class Lesson(NamedTuple):
    """Views of a step: what the student sees, (B, 3, S, S) with zeros in the padding, the teacher's embedding
    (B, C, h, w), the unpadded part (B, 2), (height, width), and clicks (B * P, 2, 2) with labels.
    """

    images: Tensor
    said: Tensor
    valid: Tensor
    coords: Tensor
    labels: Tensor


def lesson(
    views: Sequence[View], sam: Sam, features: Features, samples: DistillSamples, rng: np.random.Generator
) -> Lesson:
    """What some views have to teach."""
    images, said, valid, coords = [], [], [], []
    for view in views:
        said.append(features.of(view).embedding)
        height, width = resized_size(view.size, sam.image_size)
        pixels = Image.fromarray(view.cut(load(view.photo.path)))
        resized = np.array(pixels.resize((width, height), Image.Resampling.BILINEAR))
        images.append(sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None].to(sam.pixel_mean)))
        valid.append((height, width))
        clicks = np.zeros((samples.prompts, 2, 2), np.float32)
        clicks[:, 0] = rng.uniform(0, (width, height), (samples.prompts, 2))
        coords.append(torch.from_numpy(clicks))
    labels = torch.tensor([FOREGROUND, PADDING]).expand(len(views) * samples.prompts, 2)
    device = said[0].device
    return Lesson(
        torch.cat(images),
        torch.cat(said),
        torch.tensor(valid, device=device),
        torch.cat(coords).to(device),
        labels.to(device),
    )


def losses(small: Sam, large: Sam, taught: Lesson) -> tuple[Tensor, Tensor, float]:
    """The mean squared error of the embedding where the photo is, the loss of the masks (focal and dice
    against the teacher's, and the squared difference of the predicted IoUs), and the mean IoU of the masks.
    """
    features = small.encode_image(taught.images)
    stride = small.image_size // features.embedding.shape[-1]
    cells = torch.arange(features.embedding.shape[-1], device=taught.valid.device) * stride
    inside = (cells < taught.valid[:, :1])[:, None, :, None] & (cells < taught.valid[:, 1:])[:, None, None, :]
    error = F.mse_loss(features.embedding.float(), taught.said.float(), reduction="none").mean(
        1, keepdim=True
    )
    with torch.no_grad():
        wanted, scores = large.decode(
            ImageFeatures(taught.said, ()), taught.coords, taught.labels, multimask=None
        )
    logits, predicted = small.decode(features, taught.coords, taught.labels, multimask=None)
    masks = mask_loss(logits, wanted > 0).mean() + F.mse_loss(predicted.float(), scores.float())
    return (error * inside).sum() / inside.sum(), masks, float(iou(logits, wanted > 0).mean())


def run(
    state: State[Sam],
    large: Predictor,
    features: Features,
    photos: Sequence[Photo],
    samples: DistillSamples,
    journal: Journal,
) -> None:
    """Train to the end."""
    config, stage, device = state.config, state.config.stages[0], large.device
    # on a CPU the fused attention's backward pass costs more than the plain one's
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    small = state.network
    small.train()
    journal.begin(stage)
    while state.step < config.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = state.lr()
        views = []
        for index in range(state.step * stage.batch, (state.step + 1) * stage.batch):
            turn, place = divmod(index, len(photos))  # each photo once before any comes again
            chosen = int(np.random.default_rng((config.seed, 3, turn)).permutation(len(photos))[place])
            views.append(view_of(photos[chosen], chosen, turn % samples.views, samples, config.seed))
        rng = np.random.default_rng((config.seed, 2, state.step))
        taught = lesson(views, large.sam, features, samples, rng)
        with sdpa_kernel(kernels), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            embedding, masks, reached = losses(small, large.sam, taught)
            (embedding + masks).backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), config.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_ema()
        journal.add(float((embedding + masks).detach()), reached, reached)
