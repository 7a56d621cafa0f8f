"""The recipe of the embedded model: which packs, how long, at which sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from samcli.errors import SamcliError
from samcli.masks import encode_rle, rle_area
from samcli.models.sam import Sam
from samcli.models.small import build_tiny
from samcli.train.data import Pack, SampleConfig, read_images, read_pack, unpack
from samcli.train.edges import EdgeTeacher, edge_map
from samcli.train.guide import make_guide
from samcli.train.log import Check, Report
from samcli.train.loop import WEIGHTS, Stage, TrainConfig, fingerprint, ship, train
from samcli.train.processes import join_processes
from samcli.train.regions import nested_regions

OTHER_WEIGHT = 0.1  # of a pack that the recipe does not know
PACK_WEIGHTS = {"duts": 0.46, "coco-train": 0.28, "coco-person": 0.09, "ccp-clothes": 0.17}
CUTOUT_PACKS = ("duts", "coco-person")
TEACHER_SIDE = 320  # pixels; larger photos are reduced before the edge teacher sees them
STAGES = (
    Stage(side=192, images=120_000, batch=24),
    Stage(side=256, images=72_000, batch=16),
    Stage(side=320, images=30_000, batch=12),
)
CONFIG = TrainConfig(STAGES, lr=1e-3, ema=0.999, iou_weight=4.0, focal=False)
SAMPLES = SampleConfig(max_regions=24)


def train_tiny(
    data: Path,
    out: Path,
    *,
    regions: bool,
    config: TrainConfig,
    report: Report,
    note: Callable[[str], None],
    check: Check | None = None,
    start: Mapping[str, Tensor] | None = None,
    minutes: float | None = None,
) -> Path | None:
    """Train the embedded model's architecture on the packs in `data` (folders or tar files of COCO-format
    masks).

    regions: also teach what the edge teacher finds, once, as `gather` says; a frozen encoder needs no guide.
    start: weights to go on from
    instead of random ones. Training resumes from `out/checkpoint.pt` and stops after `minutes`. Returns the
    path of the fp16 weights, or None when training was stopped. Raises SamcliError for missing data, a
    missing teacher, or weights of another architecture.
    """
    rank, world, _ = join_processes(config)
    if rank:
        dist.barrier()  # the first process prepares the data, the others then find it
    packs = gather(data, out, regions=regions, guide=regions and not config.freeze_encoder, note=note)
    if world > 1 and not rank:
        dist.barrier()
    begun = None if start is None else fingerprint(start)
    done = train(started(start), packs, SAMPLES, config, out, report, check, minutes=minutes, begun=begun)
    if done and not rank:
        ship(out)
    if world > 1:
        dist.barrier()  # the weights are there when any process returns
        dist.destroy_process_group()
    return out / WEIGHTS if done else None


def started(weights: Mapping[str, Tensor] | None) -> Callable[[int], Sam]:
    """What builds the network for an input side, with these weights. Raises SamcliError, when it builds, for
    those of another architecture.
    """

    def build(side: int) -> Sam:
        sam = build_tiny(side)
        if weights is not None:
            try:
                sam.load_state_dict(weights)
            except RuntimeError as error:
                raise SamcliError(
                    "the weights to begin with are of another architecture; the recipe tiny takes those of "
                    "the embedded model, -m tiny, or of its own runs"
                ) from error
        return sam

    return build


def gather(data: Path, out: Path, *, regions: bool, guide: bool, note: Callable[[str], None]) -> list[Pack]:
    """The packs in `data` with their shares of the samples.

    regions: with those that the edge teacher finds, written to `out/regions` and used again. guide: with what
    it says of each place, in `out/guide`.
    """
    packs = []
    for folder in unpack(data, out / "data"):
        name = Path(os.path.abspath(folder)).name  # noqa: PTH100  # of "." too, and of a link its own
        extra = make_regions(folder, out / "regions" / f"{name}.json", note) if regions else None
        said = make_guide(folder, out / "guide" / name, note) if guide else None
        weight = PACK_WEIGHTS.get(name, OTHER_WEIGHT)
        packs.append(Pack(name, read_pack(folder, regions=extra, guide=said), weight, name in CUTOUT_PACKS))
    return packs


def scaled(images: int, stages: Sequence[Stage] = STAGES) -> tuple[Stage, ...]:
    """A recipe's stages with about `images` images in all, at least one batch each."""
    whole = sum(stage.images for stage in stages)
    return tuple(replace(s, images=max(s.batch, s.images * images // whole)) for s in stages)


def make_regions(folder: Path, target: Path, note: Callable[[str], None]) -> Path:
    """Write the nested regions of a pack's photos as a COCO-format file with `score`, unless it is there.

    Photos already done stand in `target` with `.part` added, a JSON line each, so that a stopped run goes on
    with the next photo.
    """
    if target.exists():
        return target
    images = read_images(folder / "annotations.json")
    note(f"{folder.name}: edges and regions of {len(images)} photos")
    teacher = EdgeTeacher.load().to(torch.bfloat16)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    done = _read_part(part)
    with part.open("a") as log:
        for image in images:
            name = image["file_name"]
            if name not in done:
                done[name] = _regions_of(folder / "images" / name, teacher)
                log.write(json.dumps({"file_name": name, "regions": done[name]}) + "\n")
                log.flush()
    annotations = [
        {"image_id": image["id"], "category_id": 1, "iscrowd": 0, **region}
        for image in images
        for region in done[image["file_name"]]
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    regions = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "region"}]}
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(json.dumps(regions))
    temporary.replace(target)
    part.unlink()
    return target


def _regions_of(file: Path, teacher: EdgeTeacher) -> list[dict[str, Any]]:
    """The COCO fields `segmentation`, `area` and `score` of each of a photo's regions."""
    with Image.open(file) as picture:
        photo = picture.convert("RGB")
    full = photo.size
    photo.thumbnail((TEACHER_SIDE, TEACHER_SIDE), Image.Resampling.BILINEAR)
    regions = []
    for region in nested_regions(edge_map(teacher, np.asarray(photo))):
        mask = cv2.resize(region.mask.astype(np.uint8), full, interpolation=cv2.INTER_NEAREST)
        rle = encode_rle(mask.astype(bool))
        regions.append({"segmentation": rle, "area": rle_area(rle), "score": round(region.strength, 3)})
    return regions


def _read_part(part: Path) -> dict[str, list[dict[str, Any]]]:
    """The regions of the photos that are done, by file name; a line cut off by a kill is removed."""
    if not part.exists():
        return {}
    text = part.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        part.write_text(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["file_name"]: line["regions"] for line in lines}
