"""Photos that look alike: perceptual hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

NEAR = 6
"""Bits in which two photos that look alike may differ, of `samcli.images.perceptual_hash`'s 64.

Of 381 photos every copy that was saved as JPEG of quality 20 to 90, or has a quarter to twice the size, is
within 4 bits of its original; every one that was cut by 1% at each edge within 6, and of those with another
brightness or contrast 97%, of those cut by 2% at each edge 91%. The nearest two different photos, of 72,390
pairs, are 14 bits apart.
"""

_BITS = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)


def near_duplicates(photos: Sequence[str], hashes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Groups of photos within NEAR bits of each other, directly or by way of others of the group.

    photos: paths. hashes: of 64 bits, one for each. The groups have two photos or more, sorted by path, and
    are in the order of their first. Time grows little faster than with the number of photos: of one hash any
    number, but many thousand different hashes that are all alike take the square of their number.
    """
    different, which = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    root = _grouped(different)[which]
    order = np.argsort(root, kind="stable")
    ends = np.flatnonzero(np.diff(root[order])) + 1
    starts = np.concatenate([[0], ends]).astype(np.int64)
    sizes = np.diff(np.append(starts, len(order)))
    found = [
        tuple(sorted(photos[i] for i in order[start : start + size].tolist()))
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
    ]
    return tuple(sorted(found))


def _grouped(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The least index of the group of each of different hashes.

    Of 8 bytes at least 2 are the same in two hashes that differ in 6 bits at most. So only those are compared
    that agree in two bytes: neighbours, and neighbours of neighbours, once they are sorted by these.
    """
    octets = hashes.view(np.uint8).reshape(-1, 8).astype(np.uint16)
    assert octets.shape[1] == NEAR + 2
    count = len(hashes)
    root = np.arange(count)
    for first, second in combinations(range(8), 2) if count else ():
        key = octets[:, first] << 8 | octets[:, second]
        order = np.argsort(key, kind="stable")
        new = np.concatenate([[True], np.diff(key[order]) != 0])
        run, starts = np.cumsum(new) - 1, np.flatnonzero(new)
        begin = np.arange(count)
        for step in range(1, count):
            if step & (step - 1) == 0:  # now and then: runs that are one group already need no more looking
                group = _roots(root, order)
                open_ = np.minimum.reduceat(group, starts) != np.maximum.reduceat(group, starts)
                begin = begin[open_[run[begin]]]
            begin = begin[: np.searchsorted(begin, count - step)]
            begin = begin[run[begin] == run[begin + step]]
            if not len(begin):
                break
            left, right = order[begin], order[begin + step]
            bits = (hashes[left] ^ hashes[right]).view(np.uint16)
            near = _BITS[bits].reshape(-1, 4).sum(axis=1) <= NEAR
            _join(root, left[near], right[near])
    return _roots(root, np.arange(count))


def _join(root: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Make those one group that pairs join. root: of each a lesser member of its group, or itself."""
    while len(left):
        a, b = _roots(root, left), _roots(root, right)
        root[left], root[right] = a, b  # the ways stay short
        apart = a != b
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))


def _roots(root: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least member of the group of each of those."""
    found = root[of]
    while True:
        further = root[found]
        if np.array_equal(further, found):
            return found
        found = further
