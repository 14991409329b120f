"""Which trees of a layout csrc/forest_ranks.c can answer by ranks, and the arrays that it does it with.

Load threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# enum of csrc/forest_ranks.h.
_SLOTS, _COARSE, _TABLE, _MOST, _DEEPEST = 256, 16, 272, 255, 8
_ALIGNMENT = 64


@dataclass(slots=True)
class Ranks:
    """Arrays for `Forest`, as ta_ranks describes them. `places`: `ranked` of each tree."""

    sources: NDArray[np.uint32]
    tables: NDArray[Any]
    slots: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    places: NDArray[np.int32]


def rank(trees: NDArray[Any], perfect: NDArray[Any], perfect_kind: int) -> Ranks | None:
    """Ranks for the small perfect ones of `trees`, whose nodes are in `perfect`; those of no consequence have the
    threshold NaN. None where none are small, and where a byte does not tell the columns, or the thresholds of one of
    them, apart.
    """
    small = (trees["kind"] == perfect_kind) & (trees["depth"] <= _DEEPEST)
    if not small.any():
        return None
    depths = trees["depth"][small].astype(np.int64)
    counts = (1 << depths) - 1
    nodes = perfect[_each(trees["node"][small], counts)]
    used = np.flatnonzero(~np.isnan(nodes["threshold"]))
    columns, slot_of = np.unique(nodes["column"][used], return_inverse=True)
    if len(columns) > _SLOTS:
        return None
    thresholds = nodes["threshold"][used]
    tables = np.full((len(columns), _TABLE), np.inf, thresholds.dtype)
    number_of = np.zeros(len(used), np.uint8)
    order = np.argsort(slot_of, kind="stable")
    for slot, here in enumerate(np.split(order, np.cumsum(np.bincount(slot_of))[:-1]) if len(columns) else []):
        distinct, numbers = np.unique(thresholds[here], return_inverse=True)
        if len(distinct) > _MOST:
            return None
        tables[slot, _COARSE : _COARSE + len(distinct)] = distinct
        number_of[here] = numbers
    tables[:, :_COARSE] = tables[:, _COARSE::_COARSE]
    places, nbytes = _places(small, trees["depth"])
    at = _each(places[small].astype(np.int64), counts)[used]
    slots, numbers_at = _aligned(nbytes), _aligned(nbytes)
    slots[at], numbers_at[at] = slot_of, number_of
    return Ranks(columns.astype(np.uint32), tables, slots, numbers_at, places)


def _each(first: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """Indexes of `counts` elements from each `first` on."""
    begin = np.cumsum(counts) - counts
    found: NDArray[np.int64] = np.repeat(first - begin, counts) + np.arange(counts.sum())
    return found


def _places(small: NDArray[np.bool_], depths: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Where the nodes of each tree begin, -1 for those that are not `small`; and bytes of all."""
    places = np.full(len(small), -1, np.int32)
    at = 0
    for tree in np.flatnonzero(small).tolist():
        if tree == 0 or places[tree - 1] < 0 or depths[tree - 1] != depths[tree]:
            at = -(-at // _ALIGNMENT) * _ALIGNMENT
        places[tree] = at
        at += 1 << int(depths[tree])
    return places, at + _ALIGNMENT


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Zeros, so that no 64 of them are in two lines of a cache."""
    made = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    first = -made.ctypes.data % _ALIGNMENT
    return made[first : first + nbytes]
