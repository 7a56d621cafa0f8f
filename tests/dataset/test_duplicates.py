"""Photos that look alike, by their hashes."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samcli.dataset.duplicates import NEAR, near_duplicates
from samcli.images import load, perceptual_hash

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.jpg"))


def test_within_the_limit_and_not_beyond():
    hashes = [0, (1 << NEAR) - 1, (1 << 40) - 1]
    assert near_duplicates(["b", "a", "c"], hashes) == (("a", "b"),)
    assert near_duplicates(["a", "b"], [0, (1 << NEAR + 1) - 1]) == ()


def test_groups_reach_over_others():
    hashes = [0b111111 << 12, 0b111111 << 6, 0b111111, 0, 2**64 - 1, 2**64 - 1]
    photos = ["c", "a", "b", "d", "z", "y"]
    assert near_duplicates(photos, hashes) == (("a", "b", "c", "d"), ("y", "z"))


def test_none_and_one():
    assert near_duplicates([], []) == ()
    assert near_duplicates(["a"], [5]) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=9)), max_size=25),
)
def test_as_all_pairs_would_say(seeds, changes):
    hashes = [*seeds, *(seeds[i % len(seeds)] ^ sum(1 << bit for bit in bits) for i, bits in changes)]
    photos = [f"{i:03}" for i in range(len(hashes))]
    group = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            if bin(hashes[i] ^ hashes[j]).count("1") <= NEAR:
                group = [group[j] if g == group[i] else g for g in group]
    members = [tuple(p for p, g in zip(photos, group, strict=True) if g == own) for own in set(group)]
    assert near_duplicates(photos, hashes) == tuple(sorted(m for m in members if len(m) > 1))


@pytest.mark.parametrize("kind", ["same", "alike", "apart"])
def test_many_take_no_time_for_all_pairs(kind):
    random = np.random.default_rng(0)
    if kind == "same":
        hashes = np.full(200_000, 0x0F0F3355AA00FF12, np.uint64)
    elif kind == "alike":  # 10,000 different hashes in one group
        bits = np.argsort(random.random((12_000, 64)), axis=1)[:, :3].astype(np.uint64)
        hashes = (np.uint64(1) << bits).sum(axis=1, dtype=np.uint64)
    else:
        hashes = random.integers(0, 2**64, 50_000, dtype=np.uint64)
    start = time.monotonic()
    found = near_duplicates([f"{i:07}" for i in range(len(hashes))], hashes)
    assert time.monotonic() - start < 10  # all pairs would take minutes
    assert len(found) == (kind != "apart")
    assert not found or len(found[0]) == len(hashes)


def test_copies_of_examples_are_found_and_nothing_else():
    def jpeg(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=40)
        return Image.open(buffer)

    hashes = {}
    for path in EXAMPLES:
        image = Image.fromarray(load(path))
        copies = {
            "": image,
            "-jpeg": jpeg(image),
            "-small": image.resize((image.width // 3, image.height // 3)),
        }
        copies["-dark"] = image.point(lambda v: v * 0.8)
        for kind, copy in copies.items():
            hashes[f"{path.stem}{kind}"] = int(perceptual_hash(np.asarray(copy)), 16)
    found = near_duplicates(list(hashes), list(hashes.values()))
    assert len(EXAMPLES) > 5
    stems = sorted(path.stem for path in EXAMPLES)
    assert sorted(group[0] for group in found) == stems
    assert all(len(group) == 4 for group in found)
