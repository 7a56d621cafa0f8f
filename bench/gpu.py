"""samcli on one CUDA card: checked against the CPU and the reference, timed, and held against its floor.

    python bench/gpu.py [PART ...] [-o DIR] [--weights FILE] [--rounds 5]

A few minutes on a large card. Each part takes less than ten minutes and can be run by itself; its figures
replace those of an earlier run in DIR/gpu.json, {device, torch, rows, details}: `rows`, for the page that
bench/speed.py writes, and `details` are lists of {name, value, unit, target}.

    correct   encoder and decoder of every architecture in fp32 against the CPU
    floor     the card's own limits, and the operations of encoder and decoder over them
    automask  everything mode with ViT-H against segment-anything on the same card, in alternating rounds
    folder    images per second through `samcli automask` and `samcli embed`, and how busy the card is
    profile   which kernels the time goes into (DIR/gpu-profile.txt)
    sweep     prompts and images of one call
    compile   torch.compile and CUDA graphs, with what they cost first

--weights: a published checkpoint, else random weights calibrated on the photo (bench/calibrated.py) are made
and kept in --checkpoints. The package itself need not be installed. On a machine without network,
name with --vendor a folder that was filled elsewhere by pip install --no-deps --target DIR with what the
script says is missing (and with --only-binary=:all: --python-version --platform where those differ).

`--device cpu --small` only tries the script and writes gpu-trial.json, which is no measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REFERENCE = {"segment_anything": "segment-anything==1.0", "mobile_sam": "mobilesam-mirror==1.0.0"}
NEEDED = {  # module -> what pip calls it, for all parts (""), or for one
    "": {"torch": "torch", "numpy": "numpy", "PIL": "pillow", "cv2": "opencv-python",
         "safetensors": "safetensors", "pycocotools": "pycocotools"},
    "automask": REFERENCE,
    "folder": {**REFERENCE, "typer": "typer", "rich": "rich", "tqdm": "tqdm",
               "huggingface_hub": "huggingface_hub"},
    "profile": REFERENCE,  # calibrated weights begin with the reference's network
    "sweep": REFERENCE,
}  # fmt: skip

DTYPES = ("fp32", "bf16", "fp16")
TOLERANCE = 1e-4  # of fp32 against the CPU, relative to the norm; TF32 would be near 3e-4
SETTINGS = (  # of the generator that both are given
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
)
MATCHED = 0.95  # IoU from which a mask of the reference counts as found


@dataclass
class Row:
    """One figure. target: what it should be, in words; empty where there is no target."""

    name: str
    value: float | None
    unit: str
    target: str = ""


@dataclass
class Bench:
    """What every part needs. small: a trial of the script, with sizes for a CPU."""

    results: Path
    device: Any
    small: bool
    rounds: int
    weights: Path | None
    checkpoints: Path
    rows: dict[str, Row] = field(default_factory=dict)
    details: dict[str, Row] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def dtypes(self) -> tuple[str, ...]:
        return DTYPES if self.cuda else ("fp32", "bf16")

    @property
    def large(self) -> str:
        """The architecture of most parts."""
        return "vit_t" if self.small else "vit_h"

    @property
    def points(self) -> int:
        """Points on a side of the grid."""
        return 4 if self.small else 32

    @property
    def file(self) -> Path:
        return self.results / ("gpu.json" if self.cuda and not self.small else "gpu-trial.json")

    @cached_property
    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"

    def start(self) -> None:
        """Take over the rows of earlier runs on the same card with the same torch."""
        import torch

        with contextlib.suppress(OSError, ValueError, KeyError):
            earlier = json.loads(self.file.read_text())
            if (earlier["device"], earlier["torch"]) == (self.name, torch.__version__):
                self.rows, self.details = (
                    {row["name"]: Row(**row) for row in earlier[kind]} for kind in ("rows", "details")
                )
            else:
                say(f"{self.file} is of {earlier['device']}, torch {earlier['torch']}: begun anew")

    def row(self, name: str, value: float | None, unit: str, target: str = "") -> None:
        """Note a figure for the page, say it, and save all."""
        self._note(self.rows, Row(name, value, unit, target))

    def detail(self, name: str, value: float | None, unit: str, target: str = "") -> None:
        """The same, not for the page."""
        self._note(self.details, Row(name, value, unit, target))

    def _note(self, rows: dict[str, Row], row: Row) -> None:
        import torch

        rows[row.name] = row
        value = "not measured" if row.value is None else f"{row.value:.4g} {row.unit}"
        say(f"{row.name:70} {value:>16}  {row.target}".rstrip())
        data = {
            "device": self.name,
            "torch": torch.__version__,
            "rows": [asdict(row) for row in self.rows.values()],
            "details": [asdict(row) for row in self.details.values()],
        }
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(data, indent=1) + "\n")
        new.replace(self.file)

    def wait(self) -> None:
        """Until the card has done what it was given."""
        import torch

        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, to the end of what it gave the card."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def typical(self, work: Callable[[], Any], *, warm: int = 2) -> float:
        """The median of some calls, after a few for warming up."""
        for _ in range(1 if self.small else warm):
            work()
        return statistics.median(self.seconds(work) for _ in range(1 if self.small else 7))

    @contextlib.contextmanager
    def memory(self, name: str, note: Callable[..., None]) -> Iterator[None]:
        """Note how much more of the card's memory a block used, at its peak, than was in use before."""
        import torch

        self.free()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        yield
        if self.cuda:
            used = torch.cuda.max_memory_allocated(self.device) - before
            note(f"{name}: memory beside the weights", used / 2**30, "GiB")

    def free(self) -> None:
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    @cached_property
    def photo(self) -> Any:
        """(H, W, 3) uint8."""
        import calibrated

        return calibrated.photo((60, 40) if self.small else calibrated.PHOTO_SIZE)


def correct(bench: Bench) -> None:
    """Every architecture with random weights: fp32 without TF32 has a target, the other dtypes inform."""
    import torch

    from samcli.models.registry import ARCHITECTURES

    for name in ("tiny", "vit_t") if bench.small else ARCHITECTURES:
        sam = random_sam(name)
        truth = answers(predictor_of(sam, name, torch.device("cpu"), "fp32"), bench, None)
        for dtype in bench.dtypes:
            with exact_products():
                found = answers(predictor_of(sam, name, bench.device, dtype), bench, truth)
            errors = {what: float((found[what] - truth[what]).norm() / truth[what].norm()) for what in truth}
            for what, error in errors.items():
                bench.detail(f"correct {name} {dtype}: {what}", error, "of the norm")
            if dtype == "fp32":
                worst = max(errors.values())
                bench.row(f"{name}, fp32 against the CPU, worst", worst, "of the norm", f"< {TOLERANCE:g}")
            bench.free()


@cache
def random_sam(name: str) -> Any:
    """A Sam none of whose parameters is zero, so that all of them show."""
    import torch

    from samcli.models.registry import build_sam

    torch.manual_seed(0)
    sam = build_sam(name).eval().requires_grad_(False)
    for parameter in sam.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return sam


def predictor_of(sam: Any, name: str, device: Any, dtype: str) -> Any:
    """A predictor with a copy of the network."""
    from samcli.predictor import DTYPES, Predictor
    from samcli.weights import MODELS

    spec = next(spec for spec in MODELS.values() if spec.architecture == name)
    return Predictor(copy.deepcopy(sam), spec, name, device=device, dtype=DTYPES[dtype])


def answers(predictor: Any, bench: Bench, truth: dict[str, Any] | None) -> dict[str, Any]:
    """The embedding, and logits and predicted IoUs of 16 points, in fp32 on the CPU.

    truth: answers of another predictor. The points then are asked of its embedding, so that the decoder's
    error is not the encoder's.
    """
    from dataclasses import replace

    import numpy as np

    embedding = predictor.embed(bench.photo)
    own = embedding.features.float().cpu()
    if truth:
        given = truth["embedding"].to(predictor.device, predictor.dtype)
        high_res = tuple(truth[f"finer map {i}"].to(given) for i in range(len(embedding.high_res)))
        asked = replace(embedding, features=given, high_res=high_res)
    else:
        asked = embedding
    height, width = embedding.original_size
    points = np.random.default_rng(1).uniform(0, (width, height), (16, 1, 2))
    logits, iou = predictor.decode(asked, points, np.ones((16, 1)), multimask=True)
    finer = {f"finer map {i}": tensor.float().cpu() for i, tensor in enumerate(embedding.high_res)}
    return {"embedding": own, **finer, "logits": logits.cpu(), "predicted IoU": iou.cpu()}


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Without TF32, which PyTorch uses for convolutions unless told not to."""
    import torch

    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


def floor(bench: Bench) -> None:
    """The card's own limits, and the operations of encoder and decoder at these, beside what they take."""
    import torch

    peaks = {}
    n = 512 if bench.small else 8192
    for dtype in bench.dtypes:
        kind = torch_dtype(dtype)
        a, b = (torch.randn(n, n, device=bench.device).to(kind) for _ in range(2))
        with exact_products():
            seconds = bench.typical(lambda a=a, b=b: a @ b)
        peaks[dtype] = 2 * n**3 / seconds / 1e12
        bench.row(f"limit: matrix product {n}x{n}x{n}, {dtype}", peaks[dtype], "TF/s")
    numbers = torch.randn(2, 2**20 if bench.small else 2**29, device=bench.device)
    seconds = bench.typical(lambda x=numbers: x[0].copy_(x[1]))
    bench.row("limit: copy, bytes read and written", 4 * numbers.numel() / seconds / 1e12, "TB/s")
    del numbers
    for name in ("tiny", "vit_t") if bench.small else ("vit_h", "vit_t", "tiny"):
        note = bench.row if name == bench.large else bench.detail
        encoder, decoder = operations(name)
        sam = random_sam(name)
        for dtype in bench.dtypes:
            predictor = predictor_of(sam, name, bench.device, dtype)
            call = 2 if bench.small else predictor.images_per_call
            pixels = model_inputs(predictor, call)
            count = bench.points**2
            with torch.inference_mode():
                seconds = bench.typical(lambda p=predictor, x=pixels: p.sam.encode_image(x)) / call
            compare(note, f"encoder {name} {dtype}, {call} a call", seconds, encoder, peaks[dtype])
            embedding = predictor.embed(bench.photo)
            seconds = bench.typical(lambda p=predictor, e=embedding, c=count: ask(p, e, c))
            compare(note, f"decoder {name} {dtype}, {count} points", seconds, count * decoder, peaks[dtype])
            del predictor, pixels, embedding
            bench.free()


def operations(name: str) -> tuple[float, float]:
    """Floating-point operations of encoding an image, and of decoding one of 64 points, as Predictors do."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from samcli.models.lowrank import SharedDecoder
    from samcli.models.registry import build_sam

    with torch.device("meta"), torch.no_grad():
        sam = build_sam(name).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as encoder:
            features = sam.encode_image(torch.zeros(1, 3, sam.image_size, sam.image_size))
        prompts, decoder = sam.prompt_encoder, sam.mask_decoder
        places = prompts.get_dense_pe()
        shared = None if prompts.dense_by_prompt else SharedDecoder(decoder, places)
        with FlopCounterMode(display=False) as decoding:
            sparse, dense = prompts(torch.zeros(64, 2, 2), torch.zeros(64, 2, dtype=torch.int64), None)
            if shared:
                image = shared.see(features.embedding + dense)
            else:
                image = decoder.see(features.embedding, dense, places)
            answers = decoder.answer(image, sparse, multimask=True)
            decoder.draw(answers, range(64), prompts.image_embedding_size, features.high_res)
    return encoder.get_total_flops(), decoding.get_total_flops() / 64


def compare(note: Callable[..., None], name: str, seconds: float, count: float, peak: float) -> None:
    """Note the time of something, and its operations at the rate of the matrix product (TF/s)."""
    note(f"{name}: time", 1e3 * seconds, "ms")
    note(f"{name}: operations", count / 1e9, "GF")
    note(f"{name}: over its floor", seconds * peak * 1e12 / count, "x")


def model_inputs(predictor: Any, count: int) -> Any:
    """(count, 3, S, S) of noise in the encoder's dtype."""
    import torch

    side = predictor.sam.image_size
    return torch.randn(count, 3, side, side, device=predictor.device).to(predictor.dtype)


def ask(predictor: Any, embedding: Any, count: int) -> Any:
    """Decode `count` points on the image, three masks each, as everything mode does."""
    import numpy as np

    height, width = embedding.original_size
    points = np.random.default_rng(1).uniform(0, (width, height), (count, 1, 2))
    return predictor.decode(embedding, points, np.ones((count, 1)), multimask=True)


def torch_dtype(name: str) -> Any:
    from samcli.predictor import DTYPES

    return DTYPES[name]


def automask(bench: Bench) -> None:
    """Everything mode against the reference on the same card, in alternating rounds, each from the pixels.

    The reference runs in fp32 as published, both with PyTorch's own settings. Its NMS is torchvision's where
    that is installed, else samcli's, which is no slower. In fp32 without TF32 both must give the same masks.
    """
    from gate import compare as same

    from samcli.automask import AutomaskConfig, generate

    checkpoint, given = prepared(bench)
    predictors = {dtype: loaded(bench, checkpoint, dtype) for dtype in bench.dtypes}
    config = AutomaskConfig(**given)
    settings = asdict(config.resolve(predictors["fp32"].spec))
    theirs = reference_generator(bench, checkpoint, settings)
    sides: dict[str, Callable[[], list[Any]]] = {"reference": lambda: theirs.generate(bench.photo)}
    for dtype, predictor in predictors.items():
        sides[dtype] = lambda p=predictor: [m.to_json() for m in generate(p, bench.photo, config)]  # type: ignore[misc]
    name = f"automask {bench.large}, {settings['points_per_side']}x{settings['points_per_side']} points"
    with exact_products():
        compared = same(sides["fp32"](), sides["reference"](), settings)
    for fault in compared.faults:
        say(f"{name}: fp32 and the reference differ: {fault}")
    bench.row(f"{name}: fp32 without TF32, faults against the reference", len(compared.faults), "", "0")
    found = {}
    for side, work in sides.items():  # also warms up
        with bench.memory(f"{name}: {side}", bench.row):
            found[side] = work()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(bench.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            times[side].append(bench.seconds(sides[side]))
    for side in sides:
        bench.row(f"{name}: {side}, time", statistics.median(times[side]), "s")
        bench.row(f"{name}: {side}, masks", len(found[side]), "")
    for dtype in predictors:
        ratios = [theirs / ours for theirs, ours in zip(times["reference"], times[dtype], strict=True)]
        least = ">= 8, aim 15" if dtype == "bf16" else ""
        bench.row(f"{name}: {dtype}, faster, median of {bench.rounds}", statistics.median(ratios), "x", least)
        bench.row(f"{name}: {dtype}, faster, least", min(ratios), "x")
        share = matched(found["reference"], found[dtype])
        bench.row(f"{name}: {dtype}, of the reference's masks matched", share, "%", ">= 99")


def matched(truth: list[Any], found: list[Any]) -> float | None:
    """Percent of the masks that one of the found ones meets at an IoU of at least MATCHED."""
    from pycocotools import mask as coco

    if not truth:
        return None
    if not found:
        return 0.0
    rles = ([mask["segmentation"] for mask in masks] for masks in (found, truth))
    iou = coco.iou(*rles, [0] * len(truth))
    return float(100 * (iou.max(0) >= MATCHED).mean())


def loaded(bench: Bench, checkpoint: Path, dtype: str) -> Any:
    from samcli.predictor import load

    return load(checkpoint, device=str(bench.device), dtype=dtype)


def reference_generator(bench: Bench, checkpoint: Path, settings: dict[str, Any]) -> Any:
    """segment-anything's SamAutomaticMaskGenerator (MobileSAM's for vit_t) with the settings of ours."""
    import torch

    sys.path.append(str(ROOT / "tests" / "oracle"))
    import reference

    packages = reference.load()
    sam = packages.build(bench.large)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    sam.load_state_dict(state)
    sam.to(bench.device).eval()
    package = packages.mobile if bench.large == "vit_t" else packages.sam
    module = sys.modules[f"{package.__name__}.automatic_mask_generator"]
    module.batched_nms = suppression(bench)
    return package.SamAutomaticMaskGenerator(
        sam, **{name: settings[name] for name in SETTINGS}, points_per_batch=64, output_mode="coco_rle"
    )


def suppression(bench: Bench) -> Callable[..., Any]:
    """torchvision.ops.boxes.batched_nms, or what does the same without it."""
    if importlib.util.find_spec("torchvision"):
        from torchvision.ops.boxes import batched_nms

        return batched_nms  # type: ignore[no-any-return]
    import torch

    from samcli.masks import nms

    say("torchvision is not installed: the reference uses samcli's NMS")

    def batched(boxes: Any, scores: Any, categories: Any, iou_threshold: float) -> Any:
        return torch.from_numpy(nms(boxes.cpu().numpy(), scores.cpu().numpy(), iou_threshold))

    return batched


def folder(bench: Bench) -> None:
    """Images per second through the commands, from files to files, once the model is loaded."""
    from PIL import Image

    checkpoint, given = prepared(bench)
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", repr(value))]
    cases = [
        (command, name, model, dtype, own if command == "automask" else [])
        for name, model, own in ((bench.large, str(checkpoint), options), ("tiny", "tiny", []))
        for dtype in bench.dtypes[:2]
        for command in ("automask", "embed")
    ]
    with tempfile.TemporaryDirectory() as place:
        photos, few = Path(place, "photos"), Path(place, "few")
        for path, count in ((few, 2), (photos, 3 if bench.small else 96)):
            path.mkdir()
            for i in range(count):
                Image.fromarray(bench.photo).save(path / f"{i:03}.jpg", quality=90)
        for number, (command, name, model, dtype, own) in enumerate(cases):
            row = f"folder {name} {dtype}: {command}"
            shared = ["--model", model, "--device", str(bench.device), "--dtype", dtype, *own]
            ran(command, few, f"{place}/{number}-few", *shared)  # loads the model, warms up
            with bench.memory(row, bench.row), Busy(bench) as busy:
                summary = ran(command, photos, f"{place}/{number}", *shared)
            seconds = summary["seconds"]
            bench.row(f"{row}: speed", summary["done"] / seconds["total"], "images/s")
            bench.row(f"{row}: card busy ({busy.how})", busy.share, "%")
            for stage in ("read", "compute", "write"):
                bench.detail(f"{row}: {stage}", 1e3 * seconds[stage] / summary["done"], "ms/image")


def ran(command: str, photos: Path, out: str, *options: str) -> dict[str, Any]:
    """The summary of a command over a folder, run in this process so that the model stays loaded."""
    from samcli.cli import main

    arguments = [command, str(photos), "-o", out, *options, "--json", "--quiet"]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), write_through=True)) as said:
        code = main(arguments)
    if code:
        raise SystemExit(f"error: samcli {' '.join(arguments)} ended with code {code}")
    summary: dict[str, Any] = json.loads(said.buffer.getvalue())
    return summary


class Busy:
    """How much of a block's time the card had work, as its driver counts it (NVML), sampled.

    share: percent; None where NVML's Python module, nvidia-ml-py, is not installed.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._end = threading.Event()
        self._samples: list[int] = []
        self._thread: threading.Thread | None = None
        there = bench.cuda and importlib.util.find_spec("pynvml") is not None
        self.how = (
            "NVML" if there else "not measured: no nvidia-ml-py" if bench.cuda else "not measured: no card"
        )
        self._there = there

    def __enter__(self) -> Busy:
        if self._there:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread:
            self._thread.join()

    @property
    def share(self) -> float | None:
        return statistics.mean(self._samples) if self._samples else None

    def _watch(self) -> None:
        import torch

        while not self._end.wait(0.2):
            self._samples.append(torch.cuda.utilization(self._bench.device))


def profile(bench: Bench) -> None:
    """The kernels of everything mode by their time, and the share of it in which any of them ran."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from samcli.automask import AutomaskConfig, generate

    checkpoint, given = prepared(bench)
    config = AutomaskConfig(**given)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    tables = []
    for dtype in bench.dtypes[:2]:
        predictor = loaded(bench, checkpoint, dtype)
        generate(predictor, bench.photo, config)
        with profiler(activities=activities) as seen:
            seconds = bench.seconds(lambda p=predictor: generate(p, bench.photo, config))
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in seen.events()
            if event.device_type.name == "CUDA"
        )
        name = f"profile {bench.large} {dtype}, everything mode"
        if bench.cuda:
            bench.detail(f"{name}: kernels an image", len(spans), "")
            bench.detail(f"{name}: card busy (profiler)", 100 * union(spans) / 1e6 / seconds, "%")
        order = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
        tables.append(f"{name}\n{seen.key_averages().table(sort_by=order, row_limit=40)}")
        del predictor
        bench.free()
    path = bench.results / "gpu-profile.txt"
    path.write_text("\n".join(tables))
    say(f"the kernels are in {path}")


def union(spans: Sequence[tuple[float, float]]) -> float:
    """The length that intervals cover together, given by rising start."""
    covered, end = 0.0, float("-inf")
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def sweep(bench: Bench) -> None:
    """How the speed depends on what goes through decoder and encoder at once."""
    import torch

    from samcli.automask import AutomaskConfig, generate

    prompts = (4, 16) if bench.small else (16, 32, 64, 128, 256, 512, 1024)
    images = (1, 2) if bench.small else (1, 2, 4, 8, 16)
    for name in ("tiny",) if bench.small else ("vit_h", "vit_t", "tiny"):
        sam = random_sam(name)
        for dtype in bench.dtypes[:2]:
            predictor = predictor_of(sam, name, bench.device, dtype)
            embedding = predictor.embed(bench.photo)
            count = bench.points**2
            for size in prompts:
                predictor.prompts_per_call = size
                row = f"sweep {name} {dtype}: {size} prompts a call"
                with bench.memory(row, bench.detail):
                    seconds = bench.typical(lambda p=predictor, e=embedding, c=count: ask(p, e, c))
                bench.detail(f"{row}: {count} points", 1e3 * seconds, "ms")
            for size in images:
                pixels = model_inputs(predictor, size)
                row = f"sweep {name} {dtype}: {size} images a call"
                with torch.inference_mode(), bench.memory(row, bench.detail):
                    seconds = bench.typical(lambda p=predictor, x=pixels: p.sam.encode_image(x))
                bench.detail(f"{row}: an image", 1e3 * seconds / size, "ms")
            del predictor, embedding, pixels
            bench.free()
    checkpoint, given = prepared(bench)
    predictor = loaded(bench, checkpoint, "bf16")
    for size in prompts:
        predictor.prompts_per_call = size
        config = AutomaskConfig(**{**given, "points_per_batch": size})
        row = f"sweep {bench.large} bf16: everything mode, {size} points a batch and a call"
        with bench.memory(row, bench.detail):
            seconds = bench.typical(lambda c=config: generate(predictor, bench.photo, c))
        bench.detail(f"{row}: an image", 1e3 * seconds, "ms")


def compile_(bench: Bench) -> None:
    """torch.compile and CUDA graphs beside plain calls, and after how many calls their own cost is paid."""
    import torch

    group = 4 if bench.small else 64
    for name in ("tiny",) if bench.small else ("vit_h", "vit_t"):
        predictor = predictor_of(random_sam(name), name, bench.device, "bf16")
        with torch.inference_mode():
            encoder = predictor.sam.encode_image, (model_inputs(predictor, 1),)
            accelerate(bench, f"compile {name} bf16, encoder, 1 image", *encoder)
            decoder = decoder_of(predictor, predictor.embed(bench.photo), group)
            accelerate(bench, f"compile {name} bf16, decoder, {group} points", *decoder)
        torch.compiler.reset()
        del predictor, encoder, decoder
        bench.free()


def accelerate(bench: Bench, name: str, function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """Note the time of plain calls, and of those of each way, and what these cost at first."""
    plain = bench.typical(lambda: function(*inputs))
    bench.detail(f"{name}: plain", 1e3 * plain, "ms")
    for way, make in (("torch.compile", compiled), ("CUDA graph", captured)):
        if make is captured and not bench.cuda:
            continue
        start = time.perf_counter()
        try:
            fast = make(function, inputs)
            bench.wait()
            cost = time.perf_counter() - start
            seconds = bench.typical(lambda fast=fast: fast(*inputs))
        except Exception as error:  # noqa: BLE001 - what a compiler refuses is a result
            bench.detail(f"{name}: {way}", None, "ms", f"failed: {(str(error).splitlines() or [''])[0][:80]}")
            continue
        bench.detail(f"{name}: {way}", 1e3 * seconds, "ms")
        bench.detail(f"{name}: {way}, cost", cost, "s")
        pays = cost / (plain - seconds) if seconds < plain else None
        bench.detail(f"{name}: {way}, pays after", pays, "calls" if pays else "never")


def decoder_of(predictor: Any, embedding: Any, count: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Decoding `count` points of an embedding, and its inputs."""
    import torch

    from samcli.models.prompt_encoder import FOREGROUND, PADDING
    from samcli.models.sam import ImageFeatures

    coords = torch.rand(count, 2, 2, device=predictor.device) * predictor.sam.image_size
    labels = torch.tensor([[FOREGROUND, PADDING]] * count, device=predictor.device)
    features = ImageFeatures(embedding.features, embedding.high_res)
    return lambda c, k: predictor.sam.decode(features, c, k, multimask=True), (coords, labels)


def compiled(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[..., Any]:
    import torch

    fast = torch.compile(function, dynamic=False)
    fast(*inputs)
    return fast


def captured(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """Replays the kernels of one call."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose and allocate before the capture
        for _ in range(3):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function(*inputs)

    def replay(*_: Any) -> Any:
        graph.replay()
        return kept

    return replay


PARTS: dict[str, Callable[[Bench], None]] = {
    "correct": correct,
    "floor": floor,
    "automask": automask,
    "folder": folder,
    "profile": profile,
    "sweep": sweep,
    "compile": compile_,
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def prepared(bench: Bench) -> tuple[Path, dict[str, Any]]:
    """The checkpoint, and the generator's settings to go with it: the reference's own for a published one."""
    if bench.weights:
        return bench.weights, {"points_per_side": bench.points}
    import calibrated

    say(f"random weights for {bench.large}, calibrated, in {bench.checkpoints}")
    checkpoint = calibrated.checkpoint(bench.checkpoints, bench.large)
    size = bench.photo.shape[1], bench.photo.shape[0]
    given = calibrated.settings(
        bench.checkpoints, bench.large, bench.points, size=size, device=str(bench.device)
    )
    return checkpoint, given


def missing(parts: Sequence[str]) -> list[str]:
    """What pip would have to install for these parts."""
    wanted = {**NEEDED[""]}
    for part in parts:
        wanted |= NEEDED.get(part, {})
    return [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all when left out")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", default=ROOT / "build" / "bench")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script")
    parser.add_argument("--small", action="store_true", help="sizes for a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="sam_vit_h_4b8939.pth, if at hand")
    parser.add_argument("--checkpoints", type=Path, metavar="DIR", help="of the random weights (-o)")
    parser.add_argument("--vendor", type=Path, metavar="DIR", help="where pip install --target put packages")
    args = parser.parse_args()
    parts = args.parts or list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; known: {', '.join(PARTS)}")
    sys.path.insert(0, str(ROOT))
    if args.vendor:
        sys.path.append(str(args.vendor))  # after what is installed, so that torch and numpy stay its
    if lacking := missing(parts):
        say(
            f"error: not installed: {', '.join(lacking)}; run: pip install --no-deps --target DIR "
            f"{' '.join(lacking)}, and add --vendor DIR"
        )
        return 1
    import torch

    if args.device != "cpu" and not torch.cuda.is_available():
        say("error: no CUDA card here, so nothing is measured; --device cpu --small tries the script")
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    import samcli

    try:
        version("samcli")
    except PackageNotFoundError:  # run from the sources
        samcli.__version__ = "unreleased"
    device = torch.device(args.device)
    places = args.weights, args.checkpoints or args.output
    bench = Bench(args.output, device, args.small, args.rounds, *places)
    bench.start()
    for part in parts:
        say(f"\n{part}: {PARTS[part].__doc__.splitlines()[0]}")
        start = time.perf_counter()
        PARTS[part](bench)
        bench.free()
        say(f"{part} took {time.perf_counter() - start:.0f} s")
    say(f"\n{bench.name}, torch {torch.__version__}: {bench.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
