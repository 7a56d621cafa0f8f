"""One timed run in a process of its own; bench/speed.py starts it.

    python bench/timed.py SPECS

SPECS is a JSON list, commonly of one object: job and side say what runs (`JOBS`, or prepare, or probe), the
rest what with. Reading the photo, importing, loading the model and a first pass over another photo come
before the clock starts; a timed pass begins with the photo's pixels. Prints a JSON list: for each the seconds
(the median of its passes) and the peak of the memory; the masks or tensors go into the file `output`.
"skipped" says that a peer is not installed.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "oracle"), str(ROOT)]

SIDE = 1024
BOXES_PER_CALL = 64  # of the reference

WARM = {"points_per_side": 1, "crop_n_layers": 0, "pred_iou_thresh": 0, "stability_score_thresh": 0}

Photo = NDArray[np.uint8]
Spec = dict[str, Any]


class Clock:
    """Adds up the time spent within `running()`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


Work = Callable[[Photo, Clock, bool], Any]
"""Does the job for a photo within the clock's time; with True only as much of it as warms up. Returns masks
as dicts, or a dict of arrays.
"""


def main() -> None:
    print(json.dumps([answer(spec) for spec in json.loads(sys.argv[1])]))


def answer(spec: Spec) -> dict[str, Any]:
    torch.set_num_threads(spec["threads"])
    if spec["job"] == "probe":
        return probe()
    if spec["peers"] not in sys.path:
        sys.path.append(spec["peers"])
    if spec["job"] == "prepare":
        return prepare(spec)
    try:
        work = JOBS[spec["job"]][spec["side"]](spec)
    except ModuleNotFoundError as error:
        if spec["side"] in ("samcli", "reference"):
            raise
        return {"skipped": f"{error.name} is not installed"}
    if spec["warm"]:
        work(np.load(spec["warm"]), Clock(), True)
    photo, seconds, output = np.load(spec["photo"]), [], None
    for _ in range(spec["passes"]):
        forget()
        clock = Clock()
        output = work(photo, clock, False)
        seconds.append(clock.seconds)
    if isinstance(output, list):
        Path(spec["output"]).write_text(json.dumps(output))
    else:
        np.savez(spec["output"], **output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": statistics.median(seconds), "passes": seconds, "rss": peak, "modules": modules()}


def forget() -> None:
    """Nothing made in one pass may serve the next."""
    if upscale := sys.modules.get("samcli.upscale"):
        upscale._axis.cache_clear()


def modules() -> dict[str, str]:
    """The sha256 of each module of samcli that ran, so that a change of code makes its times stale."""
    files = {Path(m.__file__) for n, m in sys.modules.items() if n.split(".")[0] == "samcli" and m.__file__}
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def model_input(photo: Photo) -> Tensor:
    """What every encoder is given, (1, 3, 1024, 1024)."""
    from samcli.geometry import resized_size
    from samcli.models.sam import PIXEL_MEAN, PIXEL_STD

    height, width = resized_size(photo.shape[:2], SIDE)
    resized = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
    padded = np.zeros((3, SIDE, SIDE), np.float32)
    padded[:, :height, :width] = ((resized - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).transpose(2, 0, 1)
    return torch.from_numpy(padded)[None]


def grid_points(photo: Photo, per_side: int = 8) -> Tensor:
    """Points in the model frame, (N, 2)."""
    from samcli.geometry import point_grid, resized_size

    height, width = resized_size(photo.shape[:2], SIDE)
    return torch.from_numpy(point_grid(per_side) * (width, height)).float()


def random_boxes(photo: Photo, count: int) -> NDArray[np.float64]:
    """Boxes of various sizes from a seed, (count, 4) xyxy."""
    height, width = photo.shape[:2]
    rng = np.random.default_rng(7)
    size = np.exp(rng.uniform(np.log(0.02), np.log(0.5), (count, 2))) * (width, height)
    corner = rng.uniform(0, 1, (count, 2)) * ((width, height) - size)
    return np.concatenate([corner, corner + size], 1)


def reference_model(spec: Spec) -> tuple[Any, Any]:
    """The reference's package for the architecture, and its network with the checkpoint."""
    from reference import load

    reference = load()
    package = reference.mobile if spec["model"] == "vit_t" else reference.sam
    return package, package.sam_model_registry[spec["model"]](checkpoint=spec["checkpoint"]).eval()


def automask_samcli(spec: Spec) -> Work:
    import samcli

    predictor = samcli.load(spec["checkpoint"], device="cpu")

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        config = samcli.AutomaskConfig(**(spec["settings"] | (WARM if warm else {})))
        with clock.running():
            masks = samcli.automask(predictor, photo, config)
        return [as_dict(mask) for mask in masks]

    return work


def as_dict(mask: Any) -> dict[str, Any]:
    names = "segmentation bbox area predicted_iou stability_score point_coords crop_box"
    return {name: getattr(mask, name) for name in names.split()}


def automask_reference(spec: Spec) -> Work:
    package, model = reference_model(spec)

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        settings = spec["settings"] | (WARM if warm else {})
        generator = package.SamAutomaticMaskGenerator(model, output_mode="coco_rle", **settings)
        with clock.running():
            return generator.generate(photo)

    return work


def tiny_samcli(spec: Spec) -> Work:
    """The embedded model with its own defaults."""
    import samcli

    predictor = samcli.load("tiny", device="cpu")

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        with clock.running():
            masks = samcli.automask(predictor, photo)
        return [as_dict(mask) for mask in masks]

    return work


def boxes_samcli(spec: Spec) -> Work:
    """Embed, then take the mask of each box, one after the other."""
    import samcli
    from samcli.masks import encode_rle

    predictor = samcli.load(spec["checkpoint"], device="cpu")

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        boxes = random_boxes(photo, 1 if warm else spec["count"])
        prompts = [samcli.Prompt(box=samcli.Box(*box)) for box in boxes.tolist()]
        masks = []
        with clock.running():
            answers = predictor.predict_each(predictor.embed(photo), prompts, multimask=False)
        for _ in prompts:
            with clock.running():
                (mask,) = next(answers).masks
            masks.append({"segmentation": encode_rle(mask)})  # for the gate alone
        return masks

    return work


def boxes_reference(spec: Spec) -> Work:
    """`predict_torch` with 64 boxes a call, as the package's own examples do it."""
    package, model = reference_model(spec)
    predictor = package.SamPredictor(model)

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        from samcli.masks import encode_rle

        boxes = random_boxes(photo, 1 if warm else spec["count"])
        with clock.running():
            predictor.set_image(photo)
            placed = torch.from_numpy(predictor.transform.apply_boxes(boxes, photo.shape[:2])).float()
        encoded = []
        for some in placed.split(BOXES_PER_CALL):
            with clock.running():
                masks, _, _ = predictor.predict_torch(None, None, boxes=some, multimask_output=False)
                masks = masks.numpy()
            encoded += [{"segmentation": encode_rle(mask)} for (mask,) in masks]  # for the gate alone
        return encoded

    return work


def recorded(spec: Spec, warm: bool) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The next n of the decoder's recorded answers to a grid; mirrored ones for warming up."""
    stored = np.load(spec["recorded"])
    logits, iou = torch.from_numpy(stored["logits"]), torch.from_numpy(stored["iou"])
    if warm:
        logits = logits.flip(-1)
    given = 0

    def following(n: int) -> tuple[Tensor, Tensor]:
        nonlocal given
        given += n
        return logits[given - n : given].clone(), iou[given - n : given].clone()

    return following


def postprocess_samcli(spec: Spec) -> Work:
    """All of everything mode but the network: a decoder that knows its answers."""
    import samcli

    predictor = samcli.load(spec["checkpoint"], device="cpu")
    config = samcli.AutomaskConfig(**spec["settings"])

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        embedding, answers = predictor.embed(photo), recorded(spec, warm)

        def decode(_: Any, coords: Any, *__: Any, min_iou: float, **___: Any) -> tuple[Tensor, Tensor]:
            logits, iou = answers(len(coords))
            return logits[iou > min_iou], iou

        predictor.decode = decode
        with clock.running():
            masks = samcli.automask(predictor, photo, config, embedding=embedding)
        return [as_dict(mask) for mask in masks]

    return work


def postprocess_reference(spec: Spec) -> Work:
    package, model = reference_model(spec)
    generator = package.SamAutomaticMaskGenerator(model, output_mode="coco_rle", **spec["settings"])
    predictor = generator.predictor

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        answers = recorded(spec, warm)
        predictor.set_image(photo)
        predictor.set_image = predictor.reset_image = lambda *_: None
        model.mask_decoder.forward = lambda *, sparse_prompt_embeddings, **_: answers(
            len(sparse_prompt_embeddings)
        )
        with clock.running():
            masks = generator.generate(photo)
        del predictor.set_image, predictor.reset_image
        return masks

    return work


def encoder_samcli(spec: Spec) -> Work:
    import samcli

    predictor = samcli.load(spec["checkpoint"], device="cpu")
    return encoder(lambda pixels: predictor.sam.encode_image(pixels).embedding)


def encoder_reference(spec: Spec) -> Work:
    _, model = reference_model(spec)
    return encoder(model.image_encoder)


def encoder_transformers(spec: Spec) -> Work:
    model = transformers_model(spec)
    return encoder(model.get_image_embeddings)


def encoder_onnxruntime(spec: Spec) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["onnx"], options, providers=["CPUExecutionProvider"])
    return encoder(lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]))


def encoder(encode: Callable[[Tensor], Tensor]) -> Work:
    """The encoder alone, from normalised and padded pixels."""

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        pixels = model_input(photo)
        with torch.inference_mode(), clock.running():
            features = encode(pixels)
        return {"features": features.numpy()}

    return work


def points_samcli(spec: Spec) -> Work:
    """Embed and decode 64 points to low-res logits."""
    import samcli

    predictor = samcli.load(spec["checkpoint"], device="cpu")

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        from samcli.geometry import point_grid

        height, width = photo.shape[:2]
        points = point_grid(1 if warm else 8) * (width, height)
        with clock.running():
            embedding = predictor.embed(photo)
            logits, iou = predictor.decode(
                embedding, points[:, None], np.ones((len(points), 1)), multimask=True
            )
        return sampled(logits.unflatten(0, iou.shape), iou)

    return work


def points_reference(spec: Spec) -> Work:
    package, model = reference_model(spec)
    predictor = package.SamPredictor(model)

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        points = grid_points(photo, 1 if warm else 8)[:, None]
        labels = torch.ones(points.shape[:2], dtype=torch.int)
        with torch.inference_mode(), clock.running():
            predictor.set_image(photo)
            sparse, dense = model.prompt_encoder((points, labels), None, None)
            logits, iou = model.mask_decoder(
                image_embeddings=predictor.features,
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
        return sampled(logits, iou)

    return work


def points_transformers(spec: Spec) -> Work:
    model = transformers_model(spec)

    def work(photo: Photo, clock: Clock, warm: bool) -> Any:
        points = grid_points(photo, 1 if warm else 8)[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int)
        with torch.inference_mode(), clock.running():
            features = model.get_image_embeddings(model_input(photo))
            answer = model(
                image_embeddings=features, input_points=points, input_labels=labels, multimask_output=True
            )
        return sampled(answer.pred_masks[0], answer.iou_scores[0])

    return work


def sampled(logits: Tensor, iou: Tensor) -> dict[str, Any]:
    """Enough of the low-res logits to compare."""
    return {"logits": logits[..., ::8, ::8].numpy(), "iou": iou.numpy()}


def transformers_model(spec: Spec) -> Any:
    """transformers' SamModel, of ViT-B, with the checkpoint's weights."""
    from transformers import SamConfig, SamModel

    from samcli.models.hf import rename

    model = SamModel(SamConfig()).eval()
    state = torch.load(spec["checkpoint"], weights_only=True)
    model.load_state_dict({key: state[rename(key)] for key in model.state_dict()})
    return model


def probe() -> dict[str, Any]:
    """Matrix products in fp32, billions of floating-point operations per second: the median by torch.mm, and
    the best by it and by oneDNN, of which one may be much faster on a CPU.
    """
    from samcli.models.layers import linear

    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    speeds: dict[str, list[float]] = {"torch.mm": [], "oneDNN": []}
    with torch.inference_mode():
        for name, product in (("torch.mm", torch.mm), ("oneDNN", linear)):
            product(a, b)
            for _ in range(12):
                clock = Clock()
                with clock.running():
                    product(a, b)
                speeds[name].append(2 * n**3 / clock.seconds / 1e9)
    best = {name: max(some) for name, some in speeds.items()}
    return {"median": statistics.median(speeds["torch.mm"]), "best": max(best.values()), "each": best}


def prepare(spec: Spec) -> dict[str, Any]:
    """Makes what the runs of a case need below `folder`, where it is not there yet. Returns where it is."""
    import calibrated

    import samcli

    folder, size = Path(spec["folder"]), tuple(spec["size"])
    made: dict[str, Any] = {"settings": None, "checkpoint": None, "recorded": None, "onnx": None}
    if spec["model"] != "tiny":
        made["checkpoint"] = str(calibrated.checkpoint(folder, spec["model"]))
        if spec["points"]:
            made["settings"] = calibrated.settings(
                folder, spec["model"], spec["points"], spec["layers"], size
            )
    width, height = size
    for name, photo in (
        ("photo", calibrated.photo(size)),
        ("warm", calibrated.photo((width // 4, height // 4), calibrated.WARM_PHOTO)),
    ):
        file = folder / f"{name}-{width}x{height}.npy"
        np.save(file, photo)
        made[name] = str(file)
    if spec["runs"] == "postprocess":
        file = folder / f"{spec['model']}-{width}x{height}-{spec['points']}.npz"
        if not file.exists():
            predictor, photo = samcli.load(made["checkpoint"], device="cpu"), calibrated.photo(size)
            points = samcli.geometry.point_grid(spec["points"]) * size
            logits, iou = predictor.decode(
                predictor.embed(photo), points[:, None], np.ones((len(points), 1)), multimask=True
            )
            np.savez(file, logits=logits.unflatten(0, iou.shape).numpy(), iou=iou.numpy())
        made["recorded"] = str(file)
    if "onnxruntime" in spec["sides"]:
        made["onnx"] = str(exported(spec | made, folder / f"{spec['model']}.onnx"))
    return made


def exported(spec: Spec, file: Path) -> Path:
    """The reference's encoder as ONNX, where the package onnx is installed."""
    if not file.exists():
        try:
            import onnx  # noqa: F401
        except ModuleNotFoundError:
            return file
        _, model = reference_model(spec)
        partial = file.with_suffix(".partial")
        torch.onnx.export(
            model.image_encoder,
            (torch.zeros(1, 3, SIDE, SIDE),),
            str(partial),
            input_names=["pixels"],
            dynamo=False,
        )
        partial.replace(file)
    return file


JOBS: dict[str, dict[str, Callable[[Spec], Work]]] = {
    "automask": {"samcli": automask_samcli, "reference": automask_reference},
    "tiny": {"samcli": tiny_samcli},
    "boxes": {"samcli": boxes_samcli, "reference": boxes_reference},
    "postprocess": {"samcli": postprocess_samcli, "reference": postprocess_reference},
    "encoder": {
        "samcli": encoder_samcli,
        "reference": encoder_reference,
        "transformers": encoder_transformers,
        "onnxruntime": encoder_onnxruntime,
    },
    "points": {"samcli": points_samcli, "reference": points_reference, "transformers": points_transformers},
}

if __name__ == "__main__":
    main()
