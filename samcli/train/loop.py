"""The training loop: simulated interaction (SAM, appendix A), EMA, bf16, resumable, one or several
processes.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Subset

from samcli.errors import SamcliError
from samcli.formats.atomic import write_bytes
from samcli.formats.embedding import stable
from samcli.models.mask_decoder import LayerNorm2d
from samcli.models.prompt_encoder import BACKGROUND, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.sam import ImageFeatures, Sam
from samcli.models.small import SmallEncoder
from samcli.train.data import (
    Batch,
    Pack,
    PromptDataset,
    Prompts,
    SampleConfig,
    collate,
)
from samcli.train.log import CHECKPOINT, Check, Journal, Report
from samcli.train.losses import iou, mask_loss, matched_loss
from samcli.train.processes import Processes, average_gradients, join_processes, share_norms, summed


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one input side (pixels). `images` and `batch` count over all processes."""

    side: int
    images: int
    batch: int
    corrections: int = 1  # rounds of correction clicks after the first prompt; half the steps have one more

    @property
    def steps(self) -> int:
        return self.images // self.batch


@dataclass(frozen=True)
class TrainConfig:
    stages: tuple[Stage, ...]
    lr: float = 1.6e-3
    weight_decay: float = 0.05
    clip: float = 2.0  # gradient norm
    warmup: int = 300  # steps
    ema: float = 0.998  # per step
    iou_weight: float = 2.0
    focal: bool = True  # SAM's mask loss; False: plain cross entropy in its place
    guide_weight: float = 2.0  # of the squared error of what the teacher says, where the data has it
    nothing_weight: float = 0.3  # of the predicted IoU's error, for clicks where nothing is known
    seed: int = 0
    bf16: bool = True
    device: str = "cpu"
    rounds: int | None = None  # of each simulated interaction; None: few, as the stages say
    freeze_encoder: bool = False  # the image encoder stays as it is
    share_norms: bool = True  # batch normalisation over all processes, as one alone would
    accumulate: int = 1  # parts of a batch that go through the network one after the other
    workers: int = 0  # sample-making processes per training process
    save_every: int = 200  # steps
    log_every: int = 20
    tensorboard: bool = False

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


WEIGHTS = "model.safetensors"
GUIDE = "guide"  # the layer that learns to say what a teacher says; it does not ship
STAGE16 = "image_encoder.neck.0.weight"
Network = TypeVar("Network", bound=nn.Module)
Build = Callable[[int], Sam]


def train(
    build: Build,
    packs: Sequence[Pack],
    samples: SampleConfig,
    config: TrainConfig,
    out: Path,
    report: Report,
    check: Check | None = None,
    *,
    minutes: float | None = None,
    begun: str | None = None,
) -> bool:
    """Train `build(side)` and leave what was learned in `out/checkpoint.pt`; `ship` makes weights of it.

    Continues from there. With `minutes` it stops after so many. begun: the `fingerprint` of weights that
    `build` gives, if they are not random. Returns whether the run is done. Started by
    torchrun, the processes share each batch and average their gradients. Raises SamcliError when the
    checkpoint belongs to another configuration, or the processes cannot share the batches (see
    `join_processes`).
    """
    rank, world, device = places = join_processes(config)
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    sam = build(config.stages[0].side)
    channels = _guide_channels(packs)
    if channels:
        width = sam.get_parameter(STAGE16).shape[1]
        sam.add_module(GUIDE, nn.Sequential(LayerNorm2d(width), nn.Conv2d(width, channels, 1)))
    about = {**identity(config, samples, packs, world), "guide": f"{channels} channels"}
    state = State(sam.to(device), config, about | begun_with(begun))
    if world > 1 and config.share_norms:
        share_norms(state.network)
    state.resume(out / CHECKPOINT)
    journal = Journal(state, None if rank else out, report, check=check, tensorboard=config.tensorboard)
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    first = 0  # step at which the stage begins
    for number, stage in enumerate(config.stages):
        steps = stage.steps
        if state.step < first + steps:
            sam = _sized(state.network, build(stage.side)).train()
            if config.freeze_encoder:
                sam.image_encoder.eval().requires_grad_(requires_grad=False)
            share = stage.batch // world
            dataset = PromptDataset(
                packs,
                replace(samples, side=stage.side),
                seed=config.seed + number,
                length=steps * stage.batch,
            )
            done = state.step - first
            mine = [
                i
                for step in range(done, steps)
                for i in range(step * stage.batch + rank, (step + 1) * stage.batch, world)
            ]
            loader = DataLoader(Subset(dataset, mine), share, collate_fn=collate, num_workers=config.workers)
            if _run_stage(state, sam, stage, loader, places, journal, until):
                break
        first += steps
    journal.end()
    if world > 1:
        dist.barrier()  # the checkpoint is there when any process returns
    return state.step == config.steps


def ship(out: Path) -> Path:
    """Write `out/model.safetensors`: the averaged weights of `out/checkpoint.pt`, fp16. Returns its path."""
    path = out / WEIGHTS
    export(averaged(out / CHECKPOINT), path)
    return path


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, without what does not ship. Raises SamcliError."""
    weights = load_checkpoint(checkpoint)["ema"]
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{GUIDE}.")}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `State.save` wrote. Raises SamcliError when it is no checkpoint."""
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["ema"]
    except (OSError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, EOFError) as error:
        raise SamcliError(f"{path} is not a checkpoint of samcli train ({error})") from error
    return saved


def begin_with(network: nn.Module, path: Path) -> str:
    """Give a network the weights that a recipe wrote for its like. Returns their `fingerprint`. Raises
    SamcliError for other files.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SamcliError(
            f"{path} holds no weights that this recipe can begin with; give what an earlier run of it wrote"
        ) from error
    return fingerprint(weights)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Tells weights from others."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def begun_with(fingerprint: str | None) -> dict[str, str]:
    """What an `identity` says of weights that a run began with; nothing of random ones."""
    return {} if fingerprint is None else {"the weights to begin with": fingerprint}


def _guide_channels(packs: Sequence[Pack]) -> int:
    """Of what a teacher says of the photos; 0 without one."""
    known = {0 if (f := pack.photos[0].features()) is None else f.shape[2] for pack in packs if pack.photos}
    if len(known) > 1:
        raise SamcliError("some packs of the training data have a teacher's features and others have none")
    return known.pop() if known else 0


def export(
    weights: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Write weights as safetensors, atomically. metadata: of tiny when left out. dtypes: of each tensor; when
    left out fp16, but counters stay integers.
    """
    from safetensors.torch import save as serialised  # machines that only train have none

    kinds = dtypes or {n: torch.float16 if t.is_floating_point() else t.dtype for n, t in weights.items()}
    tensors = {n: t.to(kinds[n]).contiguous().cpu() for n, t in weights.items()}
    about = dict(metadata or {"format": "pt", "model": "tiny"})
    write_bytes(path, stable(serialised(tensors, about)))


class State(Generic[Network]):
    """Network, EMA, optimiser and step: all that a checkpoint holds."""

    def __init__(self, network: Network, config: TrainConfig, identity: dict[str, str]) -> None:
        self.config, self.identity = config, identity
        self.network: Network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
        self.ema = {n: t.detach().clone() for n, t in network.state_dict().items()}
        decay = [p for p in network.parameters() if p.ndim > 1]
        rest = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": config.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
        self.step = 0

    def lr(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return (
            self.config.lr
            * warm
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps)))
        )

    @torch.no_grad()
    def update_ema(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.ema[name].lerp_(tensor, 1 - decay)
            else:
                self.ema[name].copy_(tensor)

    def averaged(self) -> Network:
        """A network with the averaged weights."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.ema)
        return network.eval()

    def save(self, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        torch.save(
            {
                "identity": self.identity,
                "step": self.step,
                "model": self.network.state_dict(),
                "ema": self.ema,
                "optimizer": self.optimizer.state_dict(),
            },
            temporary,
        )
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        saved = load_checkpoint(path)
        before = saved.get("identity", {})
        names = [*self.identity, *(name for name in before if name not in self.identity)]
        differing = [
            f"{name} was {before.get(name, 'unknown')}, is now {self.identity.get(name, 'left out')}"
            for name in names
            if before.get(name) != self.identity.get(name)
        ]
        if differing:
            raise SamcliError(
                f"{path} belongs to another training configuration ({'; '.join(differing)}); "
                "choose another output folder"
            )
        self.step = saved["step"]
        self.network.load_state_dict(saved["model"])
        self.ema = {n: t.to(self.ema[n].device) for n, t in saved["ema"].items()}
        self.optimizer.load_state_dict(saved["optimizer"])


def _sized(sam: Sam, like: Sam) -> Sam:
    """The network with the input side of `like`; no parameter depends on it."""
    ours, other = sam.prompt_encoder, like.prompt_encoder
    ours.image_embedding_size, ours.input_image_size = other.image_embedding_size, other.input_image_size
    return sam


def identity(config: TrainConfig, samples: Any, packs: Sequence[Pack], world: int) -> dict[str, str]:
    """What decides a run's result, by name: runs that agree in it may continue one another.

    samples: the dataclass that says how samples are drawn.
    """
    elsewhere = ("device", "workers", "save_every", "log_every", "tensorboard")
    values = {name: value for name, value in asdict(config).items() if name not in elsewhere}
    values |= {f"samples.{name}": value for name, value in asdict(samples).items() if name != "side"}
    for pack in packs:
        objects = sum(photo.things for photo in pack.photos)
        regions = sum(len(photo.strengths) for photo in pack.photos)
        values[f"pack {pack.name}"] = (
            f"{len(pack.photos)} photos with {objects} objects and {regions} regions, weight {pack.weight}"
            f"{', cut-outs' if pack.cutouts else ''}"
        )
    values["processes"] = world
    return {name: str(value) for name, value in values.items()}


def _run_stage(
    state: State[Sam],
    sam: Sam,
    stage: Stage,
    loader: DataLoader[Batch],
    places: Processes,
    journal: Journal,
    until: float,
) -> bool:
    """Whether the time ran out."""
    config = state.config
    world, device = places.world, places.device
    # on a CPU the fused attention's backward pass costs more than the plain one's
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    journal.begin(stage)
    for batch in loader:
        batch = Batch(*(t.to(device, non_blocking=True) for t in batch))
        for group in state.optimizer.param_groups:
            group["lr"] = state.lr()
        known = summed(batch.known[:, 0].sum().float(), world).clamp(min=1) / world
        guided = (~batch.guide[:, :1].isnan()).sum().float()
        cells = summed(guided, world).clamp(min=1) / world
        sums = [0.0, 0.0, 0.0]
        for part, rows in _parts(batch, places, config.accumulate):
            draws = Draws(config.seed + state.step, rows, world * len(batch.coords))
            rounds = schedule(stage, config, draws)
            share = len(part.images) / len(batch.images)
            with sdpa_kernel(kernels), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                features, astray = _encoded(sam, part)
                turns = list(interact(sam, features, part.prompts, rounds, config, draws, known * share))
                asked = share * torch.stack([one for one, _ in turns]).sum()
                loss = asked + config.guide_weight * astray / cells
                loss.backward()
            values = float(loss.detach()), share * turns[0][1], share * turns[-1][1]
            sums = [a + b for a, b in zip(sums, values, strict=True)]
        if world > 1:
            average_gradients(sam, world)
        torch.nn.utils.clip_grad_norm_(sam.parameters(), config.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_ema()
        journal.add(*(summed(torch.tensor(sums, device=device), world) / world).tolist())
        if (
            until < math.inf
            and summed(torch.tensor(float(time.monotonic() > until), device=device), world) > 0
        ):
            return True  # in all processes at the same step
    return False


def _encoded(sam: Sam, batch: Batch) -> tuple[ImageFeatures, Tensor]:
    """The features of a batch's images, and the squared error of what the teacher says of them, summed over
    cells.
    """
    images = normalise(sam, batch.images, batch.valid)
    if not batch.guide.shape[1]:
        return sam.encode_image(images), batch.valid.new_zeros((), dtype=torch.float32)
    encoder = sam.image_encoder
    assert isinstance(encoder, SmallEncoder)
    seen = encoder.stages(images)
    said = sam.get_submodule(GUIDE)(seen.stage16).float()
    known = ~batch.guide[:, :1].isnan()
    error = ((said - batch.guide.nan_to_num()) ** 2 * known).mean(1).sum()
    return ImageFeatures(seen.embedding, seen.high_res), error


def _parts(batch: Batch, places: Processes, accumulate: int) -> Iterator[tuple[Batch, Tensor]]:
    """A process's share of a batch, in `accumulate` parts, with their prompts' places in the whole batch."""
    images = len(batch.images)
    prompts = len(batch.coords) // images
    numbers = torch.arange(images) * places.world + places.rank
    rows = (numbers[:, None] * prompts + torch.arange(prompts)).flatten()
    size = -(-images // accumulate)
    for start in range(0, images, size):
        some, theirs = slice(start, start + size), slice(start * prompts, (start + size) * prompts)
        part = Batch(
            batch.images[some], batch.guide[some], batch.valid[some], *(t[theirs] for t in batch[3:])
        )
        yield part, rows[theirs]


class Draws:
    """Uniform random numbers for the prompts of a step, the same however the batch is shared out.

    rows: (N,) int64, which of the step's `whole` prompts they are for.
    """

    def __init__(self, seed: int, rows: Tensor, whole: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._rows, self._whole = rows, whole

    def one(self) -> float:
        """A number for the step."""
        return float(torch.rand((), generator=self._generator))

    def each(self, count: int) -> Tensor:
        """Some numbers for each prompt, (N, count)."""
        return torch.rand((self._whole, count), generator=self._generator)[self._rows]


def schedule(stage: Stage, config: TrainConfig, draws: Draws) -> list[bool]:
    """Of each round after the first, whether it adds a click; others show the model its own answer again.

    With `rounds`, as SAM was trained (appendix A): of 11 rounds 8 add a click, one among them and the last
    one do not.
    """
    if config.rounds is None:
        return [True] * (stage.corrections + (draws.one() < 0.5))
    again = min(2, max(0, config.rounds - 2))
    clicks = config.rounds - 1 - again
    order = [True] * clicks + [False] * (again > 1)
    if again:
        order.insert(int(draws.one() * (clicks + 1)), False)
    return order


def interact(
    sam: Sam,
    features: ImageFeatures,
    prompts: Prompts,
    rounds: Sequence[bool],
    config: TrainConfig,
    draws: Draws,
    known: Tensor | None = None,
) -> Iterator[tuple[Tensor, float]]:
    """A simulated interaction: the first prompt, then rounds, with a correction click from the error region
    where `schedule` says so.

    features: of the images. Each round sees the logits before it as mask prompt (a quarter of those with a
    click go without). known: how many prompts have a wanted answer, those of other shares of the batch
    included, per share; None counts these. Yields the loss of each round and the mean IoU of its default
    answer; a round's gradient does not reach the rounds before it, so they may be propagated together or one
    by one.
    """
    wanted, has_wanted = prompts.targets[:, 0], prompts.known[:, 0]
    own = has_wanted.sum().clamp(min=1)
    valid = prompts.valid.repeat_interleave(len(prompts.coords) // len(prompts.valid), 0)
    is_box = prompts.labels[:, 0] == TOP_LEFT
    coords, labels = prompts.coords, prompts.labels
    logits, predicted = sam.decode(features, coords, labels, multimask=None)
    loss, chosen, first = _first_loss(_fitted(logits, wanted), predicted, prompts, is_box, config)
    yield loss, first
    best = logits[torch.arange(len(logits), device=logits.device), chosen]
    for clicks in rounds:
        previous = best.detach().float()
        given: Tensor | None = previous[:, None]
        if clicks:
            shown = _fitted(previous[:, None], wanted)[:, 0]
            coords, labels = correction(coords, labels, is_box, shown, wanted, valid, sam.image_size, draws)
            given = None if draws.one() < 0.25 else given
        logits, predicted = sam.decode(features, coords, labels, given, multimask=False)
        best = logits[:, 0]
        answer = _fitted(logits, wanted)[:, 0]
        actual = iou(answer, wanted)
        off = (predicted[:, 0].float() - actual) ** 2
        each = mask_loss(answer, wanted, focal=config.focal) + config.iou_weight * off
        loss = (each * has_wanted).sum() / (own if known is None else known)
        yield loss, float((actual * has_wanted).sum() / own)


def _fitted(logits: Tensor, wanted: Tensor) -> Tensor:
    """Logits (N, M, h, w) at the resolution of the targets (N, h', w')."""
    if logits.shape[-2:] == wanted.shape[-2:]:
        return logits
    return F.interpolate(logits.float(), size=wanted.shape[-2:], mode="bilinear", align_corners=False)


def _first_loss(
    logits: Tensor, predicted: Tensor, prompts: Prompts, is_box: Tensor, config: TrainConfig
) -> tuple[Tensor, Tensor, float]:
    """Loss of the first round over all four tokens, which of them to correct (N,), and the mean IoU of
    token 0. Corrected is what a user would be shown, of a click the best of three by predicted IoU.

    logits: (N, 4, h, w), as the targets.
    """
    known = prompts.known
    pairs = mask_loss(logits[:, 1:, None], prompts.targets[:, None], focal=config.focal)  # (N, token, answer)
    weights = torch.tensor([1.0] + [0.5] * (known.shape[1] - 1), device=logits.device)
    ambiguous = matched_loss(pairs, known, weights) * torch.where(is_box, 0.25, 1.0)
    single = mask_loss(logits[:, 0], prompts.targets[:, 0], focal=config.focal) * known[:, 0]
    single = single * torch.where(is_box, 1.0, 0.5)
    actual = (iou(logits[:, :, None], prompts.targets[:, None]) * known[:, None]).max(-1).values  # (N, 4)
    error = ((predicted.float() - actual) ** 2).mean(1) * torch.where(known[:, 0], 1.0, config.nothing_weight)
    loss = (ambiguous + single + config.iou_weight * error).mean()
    chosen = torch.where(is_box, 0, 1 + predicted[:, 1:].argmax(1))
    counted = known[:, 0]
    first = float((iou(logits[:, 0], prompts.targets[:, 0]) * counted).sum() / counted.sum().clamp(min=1))
    return loss, chosen, first


def correction(
    coords: Tensor,
    labels: Tensor,
    is_box: Tensor,
    logits: Tensor,
    wanted: Tensor,
    valid: Tensor,
    side: int,
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """Add a click drawn uniformly from each prompt's error region; points stand before the padding or the
    corners.

    logits and wanted: (N, h, w), of an input of `side` pixels. valid: (N, 2) int, (height, width) in model
    pixels of the photo, beyond which is padding: nobody can click there, so no click is drawn there.
    """
    height, width = logits.shape[1:]
    stride = side // height
    rows, columns = (torch.arange(n, device=logits.device) * stride for n in (height, width))
    inside = ((rows < valid[:, :1])[:, :, None] & (columns < valid[:, 1:])[:, None, :]).flatten(1)
    miss = ((logits > 0) != (wanted >= 0.5)).flatten(1) & inside
    weight = torch.where(miss.any(1, keepdim=True), miss, inside).float()
    chance = draws.each(3).to(coords.device)
    passed = weight.cumsum(1)
    cell = (passed <= chance[:, :1] * passed[:, -1:]).sum(1).clamp(max=height * width - 1)
    jitter = chance[:, 1:]
    place = (torch.stack([cell % width, cell // width], 1) + jitter) * stride
    place = torch.minimum(place, valid.flip(1) - 0.5)  # the photo may end within a cell
    label = torch.where(wanted.flatten(1).gather(1, cell[:, None])[:, 0] >= 0.5, FOREGROUND, BACKGROUND)
    points = torch.cat(
        [coords[:, :-2], torch.where(is_box[:, None, None], place[:, None], coords[:, -2:-1])], 1
    )
    kinds = torch.cat([labels[:, :-2], torch.where(is_box[:, None], label[:, None], labels[:, -2:-1])], 1)
    tail = torch.where(
        is_box[:, None, None], coords[:, -2:], torch.stack([place, torch.zeros_like(place)], 1)
    )
    ends = torch.where(
        is_box[:, None], labels[:, -2:], torch.stack([label, torch.full_like(label, PADDING)], 1)
    )
    return torch.cat([points, tail], 1), torch.cat([kinds, ends], 1)


def normalise(sam: Sam, images: Tensor, valid: Tensor) -> Tensor:
    """`Sam.preprocess` for images that are padded already: (B, 3, S, S) fp32 with zeros in the padding.

    images: (B, 3, S, S) RGB in 0..255. valid: (B, 2), (height, width) of the unpadded part.
    """
    images = (images.float() - sam.pixel_mean) / sam.pixel_std
    side = images.shape[-1]
    place = torch.arange(side, device=images.device)
    inside = (place < valid[:, :1])[:, None, :, None] & (place < valid[:, 1:])[:, None, None, :]
    return (images * inside).contiguous(memory_format=torch.channels_last)
