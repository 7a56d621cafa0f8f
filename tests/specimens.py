"""Records to write and read back: a fixed handful for golden files, and ragged ones by the dozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from samcli.formats.names import image_id
from samcli.formats.record import write_record
from samcli.formats.select import mask_of
from samcli.masks import encode_rle
from samcli.records import ImageRecord, InputFile, MaskRecord, Run

RUN = Run("automask", "0.0.0", "tiny", "0" * 64, {"points_per_side": 32}, "1" * 64)


def drawn(rows: str) -> np.ndarray:
    """A mask as people draw it: lines of # and another sign."""
    return np.array([[sign == "#" for sign in row] for row in rows.split()])


RING = drawn("........ .#####.. .#...#.. .#...#.. .#####.. ........")  # a hole
PARTS = drawn("##...... ##....#. ......## ........ ........ ....#..#")  # corners that touch, all edges
DOT = drawn("........ ........ ..#..... ........ ........ ........")  # in the hole
LARGE = drawn("######## ######.. #####... ###..... ##...... #.......")


def record(name: str, *masks: MaskRecord, size: tuple[int, int] = (6, 8)) -> ImageRecord:
    """A record as a run writes it."""
    path = PurePosixPath(name)
    source = InputFile(name, 100, "2" * 64)
    return ImageRecord(RUN, source, image_id(path), size[1], size[0], name, masks)


def golden() -> list[ImageRecord]:
    """Few and small, with what makes formats stumble."""
    ring = replace(mask_of(encode_rle(RING), id=1, category="cat", score=0.75), phrase="a cat")
    parts = replace(
        mask_of(encode_rle(PARTS), id=2),
        predicted_iou=0.875,
        stability_score=0.5,
        point_coords=((0.5, 1.5), (6.0, 2.0)),
        crop_box=(0.0, 0.0, 8.0, 6.0),
    )
    dot = mask_of(encode_rle(DOT), id=3, category='no: "1" #é☕', category_id=7, score=0.25)
    large = mask_of(encode_rle(LARGE), id=4, category="cat", category_id=3, score=0.5)
    return [
        record("first.png", ring, parts, dot, large),
        record("folder/empty.png", size=(3, 5)),
        record("folder/ünï côde.png", replace(dot, id=1), replace(large, id=2, category="dog")),
    ]


def write_records(folder: Path, records: Sequence[ImageRecord]) -> Path:
    """Record files, as a run leaves them."""
    for item in records:
        write_record(folder / PurePosixPath(item.file_name).with_suffix(".json"), item)
    return folder


def write_photos(folder: Path, records: Sequence[ImageRecord]) -> Path:
    """A photo of its own colours for each record."""
    for item in records:
        path = folder / item.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[: item.height, : item.width]
        colours = np.stack([30 + 7 * x, 40 + 9 * y, 50 + x + y], axis=2) % 256
        Image.fromarray(colours.astype(np.uint8)).save(path)
    return folder


def ragged(seed: int, count: int, size: tuple[int, int] = (120, 160)) -> Iterator[np.ndarray]:
    """Masks with rough edges, holes and several parts, some cut by the edges of the image."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(count):
        centre = random.random(2) * size
        radius = random.uniform(0.12, 0.45) * min(size)
        waves = sum(
            random.uniform(0, 0.15)
            * np.sin(k * np.arctan2(y - centre[0], x - centre[1]) + random.uniform(0, 6))
            for k in range(2, 9)
        )
        distance = np.hypot(y - centre[0], x - centre[1]) / radius + waves
        mask = distance < 1
        mask &= ~(np.hypot(y - centre[0], x - centre[1] - radius / 3) < radius / 5)  # a hole
        mask |= np.hypot(y - centre[0] + radius, x - centre[1]) < radius / 6  # another part, or a bulge
        mask ^= (random.random(size) < 0.02) & (abs(distance - 1) < 0.1)  # rough
        yield mask


def many() -> list[ImageRecord]:
    """Images in nested folders with Unicode names, categories and scores; one without masks, one a pixel."""
    categories = ["cat", "dog", "naïve ☕", "no"]
    records = []
    for seed, name in enumerate(["a.png", "b/a.png", "b/b.png", "b/c/naïve ☕.png"]):
        masks = []
        for i, bits in enumerate(ragged(seed, 8), start=1):
            scores = {"predicted_iou": 0.9 - i / 50, "stability_score": 0.95}
            own = mask_of(encode_rle(bits), id=i, category=categories[i % 4], score=0.9 - i / 50)
            masks.append(replace(own, **scores))
        records.append(record(name, *masks, size=(120, 160)))
    pixel = np.zeros((40, 30), bool)
    pixel[7, 5] = True
    corner = np.zeros((40, 30), bool)
    corner[39, 29] = corner[0, 0] = True
    dots = [
        mask_of(encode_rle(pixel), id=1, category="cat", score=0.5),
        mask_of(encode_rle(corner), id=2, category="dog", score=0.25),
    ]
    return [*records, record("z/dots.png", *dots, size=(40, 30)), record("z/empty.png", size=(40, 30))]
