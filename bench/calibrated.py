"""Checkpoints for benchmarks: random weights whose masks behave like a trained model's.

    python bench/calibrated.py ARCHITECTURE -o DIR [--points N] [--layers N] [--size WxH] [--device D]

With plain random weights every mask spans the image and all predicted IoUs are alike, so nothing of what
everything mode does could be measured. Here the weights are drawn from a fixed seed, then scaled and shifted:
attention between image and prompt finds like positions, the feature maps are smoothed and the last
layers' scales and biases are fitted to the decoder's own features of a photo, so that logits are high around
the prompt, to a distance that differs between the mask tokens, and the predicted IoUs spread around 0.8. It
is an ordinary checkpoint in segment-anything's format, and masks are what the network makes of it.

Settings of the generator are then quantiles of what the decoder says about the photo: `PASS_IOU` of the masks
pass the predicted IoU, `PASS_STABILITY` of those the stability score, and the box NMS leaves about `MASKS`.

Writes DIR/ARCHITECTURE.pth and DIR/ARCHITECTURE-SIZE-POINTS-LAYERS.json, and prints the latter. What is there
already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

from reference import Reference, load  # noqa: E402

import samcli  # noqa: E402
from samcli.masks import nms  # noqa: E402

PHOTO = ROOT / "examples" / "coffee.jpg"  # 600x400
WARM_PHOTO = ROOT / "examples" / "rocket.jpg"  # what programs see before the clock starts
PHOTO_SIZE = (1800, 1200)  # width and height

PASS_IOU, PASS_STABILITY = 0.5, 0.7  # of the masks
MASKS = 150  # left in the end, or 60 % of what passes, where that is fewer
SEED = 20
SIDE = 1024
RADII = (40, 30, 40, 60)  # pixels of the model frame aimed at, for each mask token
SMOOTH_IMAGE = 0.1  # of the image features, beside positions of about 1
POSITIONS = 2.5  # frequencies of the positional encoding, as times SAM's: how sharp a position is
LOGIT = 24.0  # where a mask is surest
FAINT = 0.02  # share of the strongest: fainter directions of the features are not used, nor their rounding


def photo(size: tuple[int, int] = PHOTO_SIZE, path: Path = PHOTO) -> NDArray[np.uint8]:
    """A photo at (width, height), (height, width, 3) uint8 RGB."""
    return np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))


def checkpoint(folder: Path, name: str, reference: Reference | None = None) -> Path:
    """The checkpoint of an architecture (vit_t, vit_b, vit_l, vit_h), made when it is not there."""
    file = folder / f"{name}.pth"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = calibrated(reference or load(), name)
        partial = file.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        partial.replace(file)
    return file


def settings(
    folder: Path,
    name: str,
    points: int,
    layers: int = 0,
    size: tuple[int, int] = PHOTO_SIZE,
    device: str = "cpu",
) -> dict[str, Any]:
    """What samcli's AutomaskConfig and the reference's generator are given for the photo, both by name."""
    file = folder / f"{name}-{size[0]}x{size[1]}-{points}-{layers}.json"
    if not file.exists():
        predictor = samcli.load(checkpoint(folder, name), device=device)
        chosen = thresholds(predictor, photo(size), points, layers)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(chosen, indent=1) + "\n")
        partial.replace(file)
    return dict(json.loads(file.read_text())["settings"])


def thresholds(
    predictor: samcli.Predictor, image: NDArray[np.uint8], points: int, layers: int
) -> dict[str, Any]:
    """Settings by quantiles of the real decoder outputs, and how many masks pass each filter."""
    given = {"points_per_side": points, "points_per_batch": 64, "crop_n_layers": layers}
    all_pass = {"stability_score_thresh": 0, "box_nms_thresh": 1, "crop_nms_thresh": 1, "pred_iou_thresh": 0}
    found = samcli.automask(predictor, image, samcli.AutomaskConfig(**given, **all_pass))
    iou = gap([mask.predicted_iou for mask in found], 1 - PASS_IOU)
    good = [mask for mask in found if mask.predicted_iou > iou]
    stability = gap([mask.stability_score for mask in good], 1 - PASS_STABILITY)
    stable = [mask for mask in good if mask.stability_score >= stability]
    overlaps = np.arange(0.05, 1, 0.01).round(2)
    left = [len(without_duplicates(stable, overlap)) for overlap in overlaps]
    best = int(np.argmin(np.abs(np.array(left) - min(MASKS, 0.6 * len(stable)))))
    return {
        "settings": given
        | {"pred_iou_thresh": iou, "stability_score_thresh": stability}
        | {"box_nms_thresh": float(overlaps[best]), "crop_nms_thresh": float(overlaps[best])},
        "masks": {"decoded": len(found), "iou": len(good), "stability": len(stable), "nms": left[best]},
    }


def without_duplicates(masks: list[samcli.MaskRecord], overlap: float) -> list[samcli.MaskRecord]:
    """What NMS within each crop and then across crops leaves."""

    def kept(among: list[samcli.MaskRecord], scores: list[float]) -> list[samcli.MaskRecord]:
        corners = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in (m.bbox for m in among)]
        return [among[i] for i in nms(corners, scores, overlap)]

    crops = list(dict.fromkeys(m.crop_box for m in masks))
    groups = [[m for m in masks if m.crop_box == crop] for crop in crops]
    within = [m for group in groups for m in kept(group, [m.predicted_iou for m in group])]
    if len(crops) < 2:
        return within
    return kept(within, [1 / (m.crop_box[2] * m.crop_box[3]) for m in within if m.crop_box])


def gap(values: list[float], share: float) -> float:
    """A threshold that about that share lies below: the middle of the widest gap there, so that no value
    comes close to it.
    """
    ordered = np.sort(values)
    middle, reach = round(share * len(ordered)), max(1, len(ordered) // 50)
    start = max(1, middle - reach)
    gaps = ordered[start : middle + reach] - ordered[start - 1 : middle + reach - 1]
    at = start + int(np.argmax(gaps))
    return float(ordered[at - 1] + ordered[at]) / 2


@torch.no_grad()
def calibrated(reference: Reference, name: str) -> nn.Module:
    """The reference's network of an architecture with weights as the head of this module says."""
    torch.manual_seed(SEED)
    model = reference.build(name).eval()
    image = photo()
    package = reference.mobile if name == "vit_t" else reference.sam
    predictor = package.SamPredictor(model)
    norms = [m for m in model.image_encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:  # statistics of this photo, as training would have left them
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    smooth(model.image_encoder.neck)
    find_positions(model)
    if norms:
        predictor.set_image(image)
        for norm in norms:
            norm.eval()
    predictor.set_image(image)
    height, width = predictor.input_size
    where = torch.rand(12, 2, generator=torch.Generator().manual_seed(SEED)) * torch.tensor([width, height])
    fit(model, predictor.features, where, (height, width))
    return model


def smooth(neck: nn.Sequential) -> None:
    """Neighbouring cells get like features, weaker than positions: contours, not noise."""
    _, _, blur, norm = neck
    blur.weight.copy_(blur.weight.mean((2, 3), keepdim=True).expand_as(blur.weight))
    norm.weight.mul_(SMOOTH_IMAGE)


def find_positions(model: Any) -> None:
    """Attention between prompt and image finds like positions; what kind of token it is travels in values.

    Each head compares 8 frequencies of the positional encoding, which stand in half of the channels; what
    tells tokens apart stands in the other half.
    """
    prompts, decoder = model.prompt_encoder, model.mask_decoder
    generator = torch.Generator().manual_seed(SEED)
    prompts.pe_layer.positional_encoding_gaussian_matrix.mul_(POSITIONS)
    dim = prompts.embed_dim
    positions = torch.cat([torch.arange(dim // 4), dim // 2 + torch.arange(dim // 4)])
    _, foreground, *corners = prompts.point_embeddings
    for corner in corners:
        corner.weight.mul_(0.2).add_(foreground.weight)
    tokens = (*prompts.point_embeddings, prompts.not_a_point_embed, decoder.iou_token, decoder.mask_tokens)
    for token in tokens:
        token.weight.mul_(3)
        token.weight[:, positions] = 0
    prompts.no_mask_embed.weight.mul_(0.1)

    def compare(attention: Any) -> None:
        order = torch.randperm(dim // 4, generator=generator)
        pairs = torch.stack([order, order + dim // 2], 1).flatten()  # sine and cosine of one frequency
        same = torch.zeros_like(attention.k_proj.weight)
        same[torch.arange(len(same)), pairs] = 1
        attention.q_proj.weight.mul_(0.2).add_(same).mul_(3)
        attention.k_proj.weight.mul_(0.2).add_(same)

    transformer = decoder.transformer
    for layer in transformer.layers:
        layer.norm3.weight.mul_(0.3)
        itself = layer.self_attn  # tokens look at themselves, else all would become their mean
        itself.k_proj.weight.copy_(itself.q_proj.weight)
        itself.q_proj.weight.mul_(4)
        itself.v_proj.weight[:, positions] *= 0.2
        compare(layer.cross_attn_token_to_image)
        compare(layer.cross_attn_image_to_token)
        layer.cross_attn_image_to_token.v_proj.weight.mul_(10)
    transformer.layers[0].norm4.weight.mul_(0.3)
    compare(transformer.final_attn_token_to_image)
    for module in (*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head):
        for linear in module.layers:
            linear.weight.mul_(6**0.5)  # He's scale: deep layers still tell prompts apart


def fit(model: Any, features: Tensor, points: Tensor, kept: tuple[int, int]) -> None:
    """Fit scales and biases of the upscaling and of the heads to the features of a few prompts.

    features: (1, C, h, w) of the photo. points: (N, 2) in the model frame. kept: (height, width) of the photo
    within it. The single-mask token answers boxes, of which the points are made; their masks are near two
    corners. Least squares, no training.
    """
    decoder = model.mask_decoder
    others = points.roll(1, 0)
    boxes = torch.stack([torch.minimum(points, others), torch.maximum(points, others)], 1)
    prompts = (boxes, *[points[:, None]] * 3)  # of each mask token, (N, 1 or 2, 2)
    coarse, _, _, fine, _ = decoder.output_upscaling
    for convolution in (coarse, fine):  # neighbouring pixels alike, as in a trained model
        mean = convolution.weight.mean((2, 3), keepdim=True)
        convolution.weight.copy_(1.2 * mean + 0.03 * (convolution.weight - mean))
    rows, columns = kept[0] // 16, kept[1] // 16
    for token, (where, radius) in enumerate(zip(prompts, RADII, strict=True)):
        _, image, _ = watch(model, features, where)
        image = image.unflatten(1, features.shape[-2:])[:, :rows, :columns].flatten(0, 2)
        weights, bias = least_squares(image, aim(where, (rows, columns), 16, radius))
        for sign, channel in ((3, 2 * token), (-3, 2 * token + 1)):  # GELU lets only one side through
            coarse.weight[:, channel] = sign * weights[:, None, None]
            coarse.bias[channel] = sign * bias
            fine.weight[:, channel] *= 0.3
            fine.weight[channel, channel] += 1

    rows, columns = kept[0] // 4, kept[1] // 4
    for token, (where, radius) in enumerate(zip(prompts, RADII, strict=True)):
        tokens, _, upscaled = watch(model, features, where)
        pixels = upscaled[..., :rows, :columns].permute(0, 2, 3, 1).flatten(0, 2)
        weights, _ = least_squares(pixels, aim(where, (rows, columns), 4, radius), shifted=False)
        network = decoder.output_hypernetworks_mlps[token]
        last, said = network.layers[-1], network(tokens[:, 1 + token])
        share = 0.1 * weights.norm() / said.std(0).norm()  # of a kernel that differs between prompts
        last.bias.copy_(LOGIT * (weights - share * (said - last.bias).mean(0)))
        last.weight.mul_(LOGIT * share)
    head = decoder.iou_prediction_head
    last, said = head.layers[-1], head(tokens[:, 0])
    spread = 0.1 / said.std(0)
    last.weight.mul_(spread[:, None])
    last.bias.copy_(0.8 - spread * (said - last.bias).mean(0))


def watch(model: Any, features: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decode points (N, 1, 2) or boxes (N, 2, 2).

    Returns tokens (N, T, C), image (N, h * w, C) and upscaled features (N, C / 8, 4h, 4w).
    """
    decoder, seen = model.mask_decoder, []
    parts = (decoder.transformer, decoder.output_upscaling)
    hooks = [part.register_forward_hook(lambda _, __, out: seen.append(out)) for part in parts]
    if where.shape[1] == 2:
        sparse, dense = model.prompt_encoder(None, where, None)
    else:
        labels = torch.ones(where.shape[:2], dtype=torch.int)
        sparse, dense = model.prompt_encoder((where, labels), None, None)
    decoder.predict_masks(features, model.prompt_encoder.get_dense_pe(), sparse, dense)
    for hook in hooks:
        hook.remove()
    (tokens, image), upscaled = seen
    return tokens, image, upscaled


def aim(where: Tensor, cells: tuple[int, int], cell: int, radius: float) -> Tensor:
    """What the logits of prompts (N, K, 2) should be like, -1 to 1, in (N, rows, columns) cells of `cell`
    pixels: high near any of the K.
    """
    y, x = ((torch.arange(n) + 0.5) * cell for n in cells)
    distance = torch.hypot(x - where[..., 0, None, None], y[:, None] - where[..., 1, None, None]).amin(1)
    return torch.tanh((radius - distance) / (0.5 * radius))


def least_squares(values: Tensor, target: Tensor, shifted: bool = True) -> tuple[Tensor, float]:
    """Weights (C,) and a bias with which values (M, C) come close to the target, M numbers."""
    goal = target.flatten()[:, None]
    if shifted:
        values = torch.cat([values, torch.ones(len(values), 1)], 1)
    care = torch.where(goal > -0.9, 4.0, 1.0)
    system = (values * care).double(), (goal * care).double()
    solution = torch.linalg.lstsq(*system, rcond=FAINT, driver="gelsd").solution[:, 0].float()
    return (solution[:-1], float(solution[-1])) if shifted else (solution, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", choices=("vit_t", "vit_b", "vit_l", "vit_h"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--points", type=int, default=16, help="per side")
    parser.add_argument("--layers", type=int, default=0, help="of crops")
    parser.add_argument("--size", default="1800x1200", help="of the photo")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    settings(args.output, args.architecture, args.points, args.layers, (width, height), args.device)
    file = args.output / f"{args.architecture}-{args.size}-{args.points}-{args.layers}.json"
    print(file.read_text(), end="")


if __name__ == "__main__":
    main()
