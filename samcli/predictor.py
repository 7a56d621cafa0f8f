"""Images become embeddings; embeddings and prompts become masks.

Preprocessing and upscaling follow the reference (Kirillov et al., "Segment Anything", and its published
code): the long side is resized with Pillow (bilinear, antialiased) on uint8, values are normalised, then
padded with zeros right and bottom; low-res logits go bilinearly to the square input, lose the padding, go
bilinearly to the original size, and are cut at 0.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from samcli.errors import SamcliError, SamcliNote
from samcli.formats.atomic import write_bytes
from samcli.formats.embedding import stable
from samcli.geometry import resized_size, to_model_frame
from samcli.images import check_pixels
from samcli.masks import MASK_THRESHOLD, encode_rle, mask_bbox
from samcli.models.lowrank import SharedDecoder
from samcli.models.prompt_encoder import BOTTOM_RIGHT, PADDING, TOP_LEFT
from samcli.models.sam import ImageFeatures, Sam
from samcli.models.transformer import ImageView
from samcli.records import MaskRecord, Prompt
from samcli.upscale import Upscaling
from samcli.weights import DEFAULT_MODEL, ModelSpec, load_sam

STABILITY_OFFSET = 1.0  # logits; of `Prediction.stability_score` where the model's spec has none of its own
MASK_PROMPT_LOGIT = 8.0  # magnitude given to a pixel that is surely inside or outside of a binary mask prompt

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Image-side activations (prompts x cells x channels) decoded together: on a CPU what its caches hold, but at
# least 4 prompts (measured: tiny is fastest with 8 to 16, a 1024-pixel Sam with 4); on a GPU SAM's own batch
# of 64 points.
_CPU_ACTIVATIONS, _GPU_ACTIVATIONS = 2**19, 2**26

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a model knows of one image; answers any number of prompts.

    features: (1, C, h, w). high_res: finer maps, coarse to fine, where the model has them. original_size and
    input_size: (height, width) of the image and of its resized copy. image_sha256: of the image file's bytes,
    or of the pixels when the image came as an array only.
    """

    features: Tensor
    high_res: tuple[Tensor, ...]
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    model: str
    weights_sha256: str
    image_sha256: str

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise SamcliError unless it is of an image of `size` (height, width)."""
        if self.original_size != size:
            raise SamcliError(
                f"the embedding is of an image of {_pixels(self.original_size)} pixels, this one has "
                f"{_pixels(size)}; embed it again"
            )


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one prompt: M masks, the one with the highest predicted IoU first.

    masks: (M, H, W) bool in the original image. predicted_iou and stability_score: (M,) float32.
    low_res_logits: (M, h, w) float32 in the padded model frame; one of them can be the mask of the next
    prompt. point_coords: the prompt's points (x, y).
    """

    masks: NDArray[np.bool_]
    predicted_iou: NDArray[np.float32]
    stability_score: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]
    point_coords: tuple[tuple[float, float], ...] = ()

    def records(self) -> tuple[MaskRecord, ...]:
        """The masks as records, in order, numbered from 1."""
        return tuple(
            MaskRecord(
                id=number,
                segmentation=encode_rle(mask),
                bbox=mask_bbox(mask),
                area=int(np.count_nonzero(mask)),
                predicted_iou=float(iou),
                stability_score=float(stability),
                point_coords=self.point_coords or None,
                score=float(iou),
            )
            for number, (mask, iou, stability) in enumerate(
                zip(self.masks, self.predicted_iou, self.stability_score, strict=True), start=1
            )
        )


class Predictor:
    """A Sam ready for use. Holds no image: `embed` makes an `Embedding`, `predict` takes it.

    prompts_per_call and images_per_call bound what goes through the decoder and the encoder at once. When
    memory runs out they are halved, with a SamcliNote, and stay so; they change the speed, not the answers.
    The decoder's weights are rearranged for the first prompt: a Sam that was changed needs a new Predictor.
    """

    def __init__(
        self,
        sam: Sam,
        spec: ModelSpec,
        weights_sha256: str,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.spec = spec
        self.weights_sha256 = weights_sha256
        self.sam = _moved(sam.eval(), self.device, dtype)
        self._grid = sam.prompt_encoder.image_embedding_size
        on_cpu = self.device.type == "cpu"
        budget = _CPU_ACTIVATIONS if on_cpu else _GPU_ACTIVATIONS
        self.prompts_per_call = max(
            4, budget // (self._grid[0] * self._grid[1] * sam.prompt_encoder.embed_dim)
        )
        self.images_per_call = 1 if on_cpu else 8  # more would only leave a CPU's caches
        self._last_seen: tuple[weakref.ref[Embedding], ImageView] | None = None
        self.stability_offset = float(spec.automask.get("stability_score_offset", STABILITY_OFFSET))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without what can be made again."""
        made = ("_last_seen", "_shared", "_positions")
        kept = {name: value for name, value in self.__dict__.items() if name not in made}
        return {**kept, "_last_seen": None}

    def embed(self, image: NDArray[np.uint8], *, image_sha256: str | None = None) -> Embedding:
        """Encode one image, (H, W, 3) uint8 RGB. image_sha256: of its file's bytes. Raises SamcliError."""
        return self.embed_many([image], image_sha256=[image_sha256])[0]

    @torch.inference_mode()
    def embed_many(
        self, images: Sequence[NDArray[np.uint8]], *, image_sha256: Sequence[str | None] | None = None
    ) -> list[Embedding]:
        """Encode images of any sizes, several in one call of the encoder; otherwise as `embed`."""
        digests = image_sha256 or [None] * len(images)
        sizes: list[tuple[int, int]] = []
        for image in images:
            check_pixels(image)
            sizes.append(image.shape[:2])

        def encode(start: int, stop: int) -> list[ImageFeatures]:
            with ThreadPoolExecutor() as pool:  # Pillow resizes outside of Python's lock
                resized = list(pool.map(self._resized, images[start:stop]))
            pixels = torch.cat([self._model_input(image) for image in resized])
            embedding, high_res = self.sam.encode_image(pixels)
            return [
                ImageFeatures(embedding[i : i + 1], tuple(h[i : i + 1] for h in high_res))
                for i in range(stop - start)
            ]

        groups, self.images_per_call = _in_groups(encode, len(images), self.images_per_call, "images")
        return [
            Embedding(
                features.embedding,
                features.high_res,
                size,
                resized_size(size, self.sam.image_size),
                self.spec.name,
                self.weights_sha256,
                digest or hashlib.sha256(image.tobytes()).hexdigest(),
            )
            for features, size, digest, image in zip(
                (f for group in groups for f in group), sizes, digests, images, strict=True
            )
        ]

    @overload
    def predict(
        self, embedding: Embedding, prompts: Prompt, *, multimask: bool | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, embedding: Embedding, prompts: Prompt | Sequence[Prompt], *, multimask: bool | None = None
    ) -> Prediction | list[Prediction]:
        """Answer one prompt, or several in order; those of one kind are decoded together.

        multimask: three masks for each prompt, or one. Left None it is three for a prompt that is a single
        point, which is ambiguous, and one otherwise, as SAM was trained. Raises SamcliError when a prompt
        lies outside the image, a mask prompt has another size than the model's low-res logits, or the
        embedding is of another model.
        """
        if isinstance(prompts, Prompt):
            return next(self.predict_each(embedding, [prompts], multimask=multimask))
        return list(self.predict_each(embedding, prompts, multimask=multimask))

    @torch.inference_mode()
    def predict_each(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool | None = None
    ) -> Iterator[Prediction]:
        """The answers of `predict` one by one, so that only one holds masks of the image's size at a time."""
        layouts: dict[tuple[int, bool, bool, bool], list[int]] = {}
        for index, prompt in enumerate(prompts):
            prompt.check_inside(embedding.original_size)
            ambiguous = len(prompt.points) == 1 and prompt.box is None and prompt.mask is None
            many = ambiguous if multimask is None else multimask
            layout = (len(prompt.points), prompt.box is not None, prompt.mask is not None, many)
            layouts.setdefault(layout, []).append(index)
        upscaling = self.upscaling(embedding)
        decoded: dict[int, tuple[Tensor, Tensor, NDArray[np.float32]]] = {}
        for (_, _, _, many), members in layouts.items():
            coords, labels, masks = self._tokens([prompts[i] for i in members])
            logits, iou = self.decode(embedding, coords, labels, masks, multimask=many)
            stability = upscaling.measure(logits, MASK_THRESHOLD, self.stability_offset).stability
            answers = logits.unflatten(0, iou.shape), iou, stability.reshape(iou.shape)
            decoded.update(zip(members, zip(*answers, strict=True), strict=True))
        for index, prompt in enumerate(prompts):
            logits, iou, stability = decoded.pop(index)
            order = iou.argsort(descending=True, stable=True)
            logits, best = logits[order], order.cpu().numpy()
            yield Prediction(
                np.stack(list(upscaling.masks(logits, MASK_THRESHOLD))),
                iou.cpu().numpy()[best],
                stability[best],
                logits.cpu().numpy(),
                tuple(prompt.points),
            )

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        coords: ArrayLike,
        labels: ArrayLike,
        masks: NDArray[np.float32] | None = None,
        *,
        multimask: bool,
        min_iou: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts of one layout, in groups of at most `prompts_per_call`.

        coords: (N, T, 2), (x, y) pixels of the original image. labels: (N, T) as in `models.prompt_encoder`.
        masks: (N, h, w) low-res logits or None. Points without a box get their padding token here. min_iou:
        answers whose predicted IoU is not above it are not drawn; None draws all.
        Returns the low-res logits (K, h, w) of the answers drawn, those of one prompt together and in order,
        and predicted IoU (N, M) of all, float32 on the device, M = 3 with multimask and 1 without. Raises
        SamcliError when the embedding is of another model or not even one prompt fits the memory.
        """
        if embedding.weights_sha256 != self.weights_sha256:
            raise SamcliError(
                f"the embedding was made by {embedding.model} with other weights than {self.spec.name}'s; "
                "embed the image again"
            )
        frame = to_model_frame(coords, embedding.original_size, self.sam.image_size)
        kinds = np.asarray(labels, dtype=np.int64)
        if kinds.shape[1] and not (kinds == BOTTOM_RIGHT).any():
            frame = np.pad(frame, ((0, 0), (0, 1), (0, 0)))
            kinds = np.pad(kinds, ((0, 0), (0, 1)), constant_values=PADDING)
        where, what = torch.from_numpy(frame).to(self.device), torch.from_numpy(kinds).to(self.device)
        drawn = None if masks is None else torch.from_numpy(masks)[:, None].to(self.device)

        def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
            part = None if drawn is None else drawn[start:stop]
            return self._answers(embedding, where[start:stop], what[start:stop], part, multimask, min_iou)

        groups, self.prompts_per_call = _in_groups(run, len(where), self.prompts_per_call, "prompts")
        return torch.cat([logits for logits, _ in groups]), torch.cat([iou for _, iou in groups])

    def _answers(
        self,
        embedding: Embedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None,
        multimask: bool,
        min_iou: float | None,
    ) -> tuple[Tensor, Tensor]:
        """`decode` in the model frame, all prompts in one call. masks: (N, 1, h, w)."""
        decoder = self.sam.mask_decoder
        sparse, dense = self.sam.prompt_encoder(coords, labels, masks)
        image = self._view(embedding, dense, sparse.shape[1], given=masks is not None)
        answers = decoder.answer(image, sparse, multimask=multimask)
        iou = answers.iou.float()
        good = torch.ones_like(iou, dtype=torch.bool) if min_iou is None else iou > min_iou
        rows = good.any(1).nonzero()[:, 0].tolist()
        logits = decoder.draw(answers, rows, self._grid, embedding.high_res)
        return logits[good[rows]].float(), iou

    def _view(self, embedding: Embedding, dense: Tensor, tokens: int, *, given: bool) -> ImageView:
        """The image as the prompts see it first. dense: what their masks add, `given` or none. tokens: of
        a prompt.
        """
        shared = self._shared
        if shared is None or given or not shared.pays(tokens):
            return self.sam.mask_decoder.see(embedding.features, dense, self._positions)
        last = self._last_seen
        if last is None or last[0]() is not embedding:
            self._last_seen = last = weakref.ref(embedding), shared.see(embedding.features + dense)
        return last[1]

    @cached_property
    def _positions(self) -> Tensor:
        """The positional encoding of the embedding's cells, (1, C, h, w)."""
        return self.sam.prompt_encoder.get_dense_pe().to(self.dtype)

    @cached_property
    def _shared(self) -> SharedDecoder | None:
        """The decoder for prompts that leave the image's cells as they are; None if this model's do not."""
        if self.sam.prompt_encoder.dense_by_prompt:
            return None
        return SharedDecoder(self.sam.mask_decoder, self._positions)

    def upscaling(self, embedding: Embedding) -> Upscaling:
        """The way of this embedding's low-res logits to its image, for many masks of one image."""
        return Upscaling(
            self.low_res_size, self.sam.image_size, embedding.input_size, embedding.original_size, self.device
        )

    @torch.inference_mode()
    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Low-res logits (..., h, w) to logits of the original image, (..., H, W) float32."""
        return self.upscaling(embedding)(logits)

    @property
    def low_res_size(self) -> tuple[int, int]:
        """(h, w) of low-res logits and of mask prompts: four times the embedding's."""
        h, w = self._grid
        return 4 * h, 4 * w

    def mask_prompt(self, of: Embedding | tuple[int, int], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Turn a binary mask (H, W) of the original image into a mask prompt, (h, w) float32 logits.

        of: the embedding or the (height, width) of the image. The mask goes the image's way: resized
        (bilinear, antialiased), padded, and averaged down to low resolution. A cell covered by the share c
        gets the logit 8 * (2c - 1), within the range of the logits SAM was trained to take as prompts.
        Raises SamcliError when the mask has another size than the image.
        """
        size = of.original_size if isinstance(of, Embedding) else of
        if mask.shape != size:
            raise SamcliError(
                f"the mask is {_pixels(mask.shape)} but the image {_pixels(size)} pixels; "
                "give a mask of the image's size"
            )
        side = self.sam.image_size
        height, width = resized_size(size, side)
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        covered = np.zeros((side, side), dtype=np.float32)
        covered[:height, :width] = np.asarray(grey, dtype=np.float32) / 255
        h, w = self.low_res_size
        share = covered.reshape(h, side // h, w, side // w).mean(axis=(1, 3))
        logits: NDArray[np.float32] = MASK_PROMPT_LOGIT * (2 * share - 1)
        return logits

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 with its long side brought to the model's."""
        height, width = resized_size((image.shape[0], image.shape[1]), self.sam.image_size)
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def _model_input(self, resized: NDArray[np.uint8]) -> Tensor:
        """(h, w, 3) uint8 to the padded input (1, 3, S, S) in the model's dtype."""
        pixels = torch.from_numpy(resized).to(self.device).permute(2, 0, 1)[None]
        return self.sam.preprocess(pixels.float()).to(self.dtype)

    def _tokens(
        self, prompts: Sequence[Prompt]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32] | None]:
        """Coordinates (N, T, 2), labels (N, T) and masks (N, h, w) of prompts of one layout."""
        coords, labels, masks = [], [], []
        for prompt in prompts:
            corners = [prompt.box.xyxy[:2], prompt.box.xyxy[2:]] if prompt.box else []
            coords.append([*prompt.points, *corners])
            labels.append([*(prompt.labels or ()), *([TOP_LEFT, BOTTOM_RIGHT] if prompt.box else [])])
            if prompt.mask is not None:
                if prompt.mask.shape != self.low_res_size:
                    raise SamcliError(
                        f"the mask prompt is {_pixels(prompt.mask.shape)} logits, but {self.spec.name} takes "
                        f"{_pixels(self.low_res_size)}; use its own low-res logits or Predictor.mask_prompt"
                    )
                masks.append(np.asarray(prompt.mask, dtype=np.float32))
        n, tokens = len(prompts), len(coords[0])
        return (
            np.array(coords, dtype=np.float64).reshape(n, tokens, 2),
            np.array(labels, dtype=np.int64).reshape(n, tokens),
            np.stack(masks) if masks else None,
        )


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "fp32",
    threads: int | None = None,
) -> Predictor:
    """Load a model by its name (see `samcli models`) or from a checkpoint file.

    device: auto (cuda, else mps, else cpu), cpu, mps, cuda or cuda:N. dtype: fp32, bf16 or fp16, of the
    network; masks are always computed in fp32. threads: CPU threads of the whole process, torch's own choice
    when None. Raises SamcliError for what is unknown or not available here, WeightsError when the weights are
    missing.
    """
    if dtype not in DTYPES:
        raise SamcliError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    place = find_device(device)
    if dtype == "fp16" and place.type == "cpu":
        raise SamcliError("dtype fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if threads is not None:
        use_threads(threads)
    sam, spec, sha256 = load_sam(model)
    return Predictor(sam, spec, sha256, device=place, dtype=DTYPES[dtype])


def use_threads(count: int) -> None:
    """Compute with so many CPU threads in this process. Raises SamcliError."""
    if count < 1:
        raise SamcliError(f"threads is {count}; give at least 1")
    torch.set_num_threads(count)


def find_device(name: str) -> torch.device:
    """The device called auto, cpu, mps, cuda or cuda:N. Raises SamcliError when unknown or not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, number = name.partition(":")
    if name not in ("cpu", "mps", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise SamcliError(f"unknown device {name!r}; known: auto, cpu, mps, cuda, cuda:N")
    if kind == "mps" and not mps:
        raise SamcliError("device mps is not available here; use --device cpu")
    if kind == "cuda":
        count = torch.cuda.device_count() if cuda else 0
        if int(number or 0) >= count:
            raise SamcliError(
                f"device {name} is not available here, there are {count} CUDA devices; use --device auto"
            )
    return torch.device(name)


def find_devices(name: str) -> tuple[str, ...]:
    """The devices to work on: every CUDA device for "all", else that of `find_device`. Raises SamcliError."""
    if name != "all":
        return (str(find_device(name)),)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise SamcliError("--device all means all GPUs, but there is none; leave it out, or use --shard")
    return tuple(f"cuda:{i}" for i in range(count))


def save_embedding(embedding: Embedding, path: Path) -> None:
    """Write an embedding as safetensors, atomically; equal ones as equal bytes.

    Sizes are stored as "height,width". Raises SamcliError when that fails.
    """
    tensors = {"features": embedding.features}
    tensors |= {f"high_res.{i}": tensor for i, tensor in enumerate(embedding.high_res)}
    metadata = {
        "model": embedding.model,
        "weights_sha256": embedding.weights_sha256,
        "image_sha256": embedding.image_sha256,
        "original_size": ",".join(map(str, embedding.original_size)),
        "input_size": ",".join(map(str, embedding.input_size)),
        "dtype": _dtype_name(embedding.features.dtype),
    }
    data = save({name: t.cpu().contiguous() for name, t in tensors.items()}, metadata)
    write_bytes(path, stable(data))


def load_embedding(
    path: Path, predictor: Predictor | None = None, *, image_sha256: str | None = None
) -> Embedding:
    """Read what `save_embedding` wrote, onto the predictor's device when one is given.

    Raises SamcliError when the file is no embedding, when it is of other weights or another dtype than the
    predictor's, or when image_sha256 is given and it is of another image.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = sorted(name for name in file.keys() if name.startswith("high_res."))  # noqa: SIM118 - no mapping
            features, *high_res = (file.get_tensor(name) for name in ["features", *names])
        embedding = Embedding(
            features,
            tuple(high_res),
            _size(metadata["original_size"]),
            _size(metadata["input_size"]),
            metadata["model"],
            metadata["weights_sha256"],
            metadata["image_sha256"],
        )
    except OSError as error:
        raise SamcliError(
            f"{path} cannot be read: {error.strerror or error}; run samcli embed again"
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise SamcliError(f"{path} is not an embedding that samcli wrote; run samcli embed again") from error
    if image_sha256 is not None and embedding.image_sha256 != image_sha256:
        raise SamcliError(f"{path} is the embedding of another image; run samcli embed again")
    if predictor is None:
        return embedding
    if embedding.weights_sha256 != predictor.weights_sha256:
        raise SamcliError(
            f"{path} was made by {embedding.model} with other weights than {predictor.spec.name}'s; "
            f"run samcli embed again, or name the model it was made with"
        )
    if features.dtype != predictor.dtype:
        raise SamcliError(
            f"{path} was computed in {_dtype_name(features.dtype)}, but the model runs in "
            f"{_dtype_name(predictor.dtype)}; run samcli embed again, or give the dtype it was made with"
        )
    return replace(
        embedding,
        features=features.to(predictor.device),
        high_res=tuple(tensor.to(predictor.device) for tensor in high_res),
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))


def _size(text: str) -> tuple[int, int]:
    height, width = (int(edge) for edge in text.split(","))
    return height, width


def _pixels(shape: Sequence[int]) -> str:
    return "x".join(str(edge) for edge in reversed(shape))


def _moved(sam: Sam, device: torch.device, dtype: torch.dtype) -> Sam:
    """Move and cast, except what colours, positions and predicted IoU are computed with: 16 bits would blur
    them, and filters and duplicates depend on the third digit of a predicted IoU.
    """
    encoding = sam.prompt_encoder.pe_layer
    mean, std, matrix = sam.pixel_mean, sam.pixel_std, encoding.positional_encoding_gaussian_matrix
    head = copy.deepcopy(sam.mask_decoder.iou_prediction_head)
    sam.to(device=device, dtype=dtype)
    sam.pixel_mean, sam.pixel_std = mean.to(device), std.to(device)
    encoding.positional_encoding_gaussian_matrix = matrix.to(device)
    sam.mask_decoder.iou_prediction_head = head.to(device)
    return sam


def _in_groups(run: Callable[[int, int], T], count: int, size: int, what: str) -> tuple[list[T], int]:
    """Call `run(start, stop)` over 0..count in groups of at most `size`, halved when memory runs out.

    What worked is kept. Returns the results and the size in use at the end; a SamcliNote says when it
    changed.
    """
    results: list[T] = []
    start, first_size = 0, size
    while start < count:
        stop = min(start + size, count)
        try:
            results.append(run(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if stop - start == 1:
                raise SamcliError(
                    f"out of memory with one of the {what} alone; use a smaller model, or --device cpu"
                ) from error
            size = (stop - start) // 2
        else:
            start = stop
            continue
        if torch.cuda.is_available():  # not in the handler, where the traceback holds on to tensors
            torch.cuda.empty_cache()
    if size < first_size:
        warnings.warn(f"out of memory: went on with {size} {what} at a time", SamcliNote, stacklevel=3)
    return results, size


def _out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        phrase in said for phrase in ("out of memory", "not enough memory", "allocate memory")
    )
