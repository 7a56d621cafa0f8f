"""Masks decoded within their boxes, and index maps by runs, are what pycocotools makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from samcli.errors import SamcliError
from samcli.masks import check_rle, decode_window, encode_rle, label_rles, mask_bbox

sizes = array_shapes(min_dims=2, max_dims=2, max_side=40)


@settings(max_examples=300, deadline=None)
@given(arrays(bool, sizes))
def test_a_window_is_the_mask_in_its_box(mask):
    rle = encode_rle(mask)
    x, y, bits = decode_window(rle)
    whole = np.zeros_like(mask)
    whole[y : y + bits.shape[0], x : x + bits.shape[1]] = bits
    assert (whole == coco.decode(rle)).all()
    assert (x, y, *bits.shape[::-1]) == mask_bbox(mask)
    check_rle(rle)


@given(arrays(np.uint16, sizes, elements=st.sampled_from([0, 0, 1, 2, 300, 65535])))
def test_maps_by_runs(labels):
    found = label_rles(labels)
    assert [*found] == [int(v) for v in np.unique(labels) if v]
    for value, rle in found.items():
        assert rle == encode_rle(labels == value)


@pytest.mark.parametrize("counts", ["", "1", "P", "0P", "ooo", "o" * 300, "4" * 50, "é", "<", "\0"])
def test_counts_that_do_not_fit(counts):
    with pytest.raises(SamcliError) as caught:
        check_rle({"size": [4, 5], "counts": counts})
    assert str(caught.value) == "run-length encoding of size [4, 5] is damaged: not runs of 20 pixels"
