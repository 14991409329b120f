"""From the trees of an `Ensemble` to the arrays that csrc/forest.c walks. Every index that it follows is checked here.

Load threads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.backends.fil.defines import (
    FOREST_MAX_DEPTH,
    FOREST_MAX_FEATURES,
    FOREST_MAX_NODES,
    FOREST_MAX_SHAP_DEPTH,
    FOREST_MAX_SHAP_VALUES,
)
from triton_async.backends.fil.ensemble import Categories, Ensemble, Fault, Floats, Ints, Tree
from triton_async.backends.fil.forest import ranks_usable
from triton_async.backends.fil.ranks import Ranks, rank

TREE = np.dtype([("node", "i8"), ("leaf", "i8"), ("kind", "i4"), ("depth", "i4"), ("output", "i4"), ("ranked", "i4")])
PERFECT = {
    False: np.dtype([("threshold", "f4"), ("column", "u4")]),
    True: np.dtype([("threshold", "f8"), ("column", "u4"), ("_", "u4")]),
}
NODE = {
    False: np.dtype([("threshold", "f4"), ("column", "u4"), ("left", "i4"), ("leaf", "i4")]),
    True: np.dtype([("threshold", "f8"), ("column", "u4"), ("left", "i4"), ("leaf", "i4"), ("_", "i4")]),
}
SET = np.dtype([("first", "i8"), ("count", "i4"), ("flags", "i4")])

_PERFECT_KIND, _PLAIN_KIND, _CATEGORICAL_KIND = 0, 1, 2
_SORTED, _MEMBERS_LEFT, _NAN_LEFT, _TRUNCATE = 1, 2, 4, 8

# Perfect trees: 2 ** depth leaves each, and at most so many times as many as the tree has, but for small ones: a run of
# eight that are equally deep is walked at once.
_DEEPEST_PERFECT = 10
_MOST_PADDING = 4
_SMALL = 64

# Rows that lie side by side in csrc/forest.c.
_SIDE_BY_SIDE = 8


@dataclass(slots=True)
class Layout:
    """Arrays for `Forest`, as csrc/forest.h describes them."""

    wide: bool
    wide_leaves: bool
    or_equal: bool
    ways: tuple[int, ...]
    trees: NDArray[Any]
    perfect: NDArray[Any]
    nodes: NDArray[Any]
    sets: NDArray[Any]
    words: NDArray[np.uint32]
    leaves: NDArray[Any]
    base: NDArray[Any]
    depth: int
    covers: Floats | None = None
    expected: Floats | None = None
    ranks: Ranks | None = None


@dataclass(slots=True)
class _Flat:
    """A tree in the order of its levels: `old` numbers of nodes, `left` new ones (0 for a leaf)."""

    tree: Tree
    old: Ints
    left: Ints
    depth: int
    n_leaves: int


@np.errstate(all="ignore")  # a number that no float holds is infinite
def lay_out(ensemble: Ensemble, *, wide: bool = False, rounded: bool = False, shap: bool = False) -> Layout:
    """Arrays of an ensemble. `wide`: rows are doubles, of an ensemble whose thresholds are. `rounded`: thresholds,
    leaves and sums are floats (FIL's). `shap`: with what `Forest.contributions` needs, all trees as plain nodes.

    Fault, naming the tree, for what is no tree.
    """
    if not 0 < ensemble.n_features <= FOREST_MAX_FEATURES:
        raise Fault(f"the model has {ensemble.n_features} features, expected 1 to {FOREST_MAX_FEATURES}")
    if shap and ensemble.n_outputs * (ensemble.n_features + 1) > FOREST_MAX_SHAP_VALUES:
        raise Fault(
            f"contributions of {ensemble.n_features} features to {ensemble.n_outputs} outputs are more than "
            f"{FOREST_MAX_SHAP_VALUES} values for each row: remove the output 'treeshap_output'"
        )
    flats = []
    total = 0
    for number, tree in enumerate(ensemble.trees):
        try:
            flats.append(_flatten(tree, ensemble))
        except Fault as fault:
            raise Fault(f"tree {number}: {fault.message}") from None
        total += len(flats[-1].old)
        if total > FOREST_MAX_NODES:
            raise Fault(f"the model has more than {FOREST_MAX_NODES} nodes")
    narrow = ensemble.float32 or rounded
    made = _Arrays(ensemble, wide, narrow, _ways(flats))
    common = -1 if shap else _common_depth(flats)
    for flat in flats:
        made.add(flat, common, shap)
    return made.finish(max((flat.depth for flat in flats), default=0), shap)


def _flatten(tree: Tree, ensemble: Ensemble) -> _Flat:
    """Checks a tree and numbers its nodes level by level, the children of a node side by side."""
    left, right, n = tree.left, tree.right, len(tree.left)
    if n == 0:
        raise Fault("it has no nodes")
    inner = left >= 0
    if not np.array_equal(inner, right >= 0):
        raise Fault("a node has one child")
    if inner.any():
        if max(left.max(), right.max()) >= n:
            raise Fault(f"a node's child is number {max(left.max(), right.max())} of {n} nodes")
        features = tree.feature[inner]
        if features.min() < 0 or features.max() >= ensemble.n_features:
            worst = features.min() if features.min() < 0 else features.max()
            raise Fault(f"a node splits feature {worst} of {ensemble.n_features}")
    if not -1 <= tree.output < ensemble.n_outputs or (tree.output < 0) != (tree.value.ndim == 2):
        raise Fault(f"it adds to output {tree.output} of {ensemble.n_outputs}")
    frontier, parts, lefts = np.zeros(1, np.int64), [], []
    total = depth = n_leaves = 0
    while True:
        parts.append(frontier)
        total += len(frontier)
        if total > n:
            raise Fault("its nodes are no tree: a node has two parents, or is its own")
        split = inner[frontier]
        below = frontier[split]
        n_leaves += len(frontier) - len(below)
        new = np.zeros(len(frontier), np.int64)
        new[split] = total + 2 * np.arange(len(below))
        lefts.append(new)
        if not len(below):
            break
        depth += 1
        if depth > FOREST_MAX_DEPTH:
            raise Fault(f"it is deeper than {FOREST_MAX_DEPTH} splits")
        frontier = np.stack((left[below], right[below]), axis=1).ravel()
    flat = _Flat(tree, np.concatenate(parts), np.concatenate(lefts), depth, n_leaves)
    _check_numbers(flat)
    return flat


def _check_numbers(flat: _Flat) -> None:
    tree, old = flat.tree, flat.old
    splits = old[flat.left > 0]
    numeric = splits
    if tree.categories:
        numeric = np.array([node for node in splits.tolist() if node not in tree.categories], np.int64)
    if np.isnan(tree.threshold[numeric]).any():
        raise Fault("a threshold is not a number")
    if np.isnan(tree.value[old[flat.left == 0]]).any():
        raise Fault("a leaf is not a number")


def _ways(flats: list[_Flat]) -> tuple[int, ...]:
    used: set[int] = set()
    for flat in flats:
        splits = flat.old[flat.left > 0]
        used.update(np.unique(flat.tree.way[splits]).tolist())
        if flat.tree.categories:
            used.add(0)
    return tuple(sorted(used)) or (0,)


def _may_be_perfect(flat: _Flat, depth: int) -> bool:
    return (
        flat.depth <= depth <= _DEEPEST_PERFECT and flat.tree.output >= 0 and not flat.tree.categories
        and 1 << depth <= max(_MOST_PADDING * flat.n_leaves, _SMALL)
    )  # fmt: skip


def _common_depth(flats: list[_Flat]) -> int:
    """The depth of most trees that can be perfect: a run of equal ones is walked at once."""
    depths = Counter(flat.depth for flat in flats if _may_be_perfect(flat, flat.depth))
    return depths.most_common(1)[0][0] if depths else -1


class _Arrays:
    """Layouts of trees one after the other."""

    def __init__(self, ensemble: Ensemble, wide: bool, narrow: bool, ways: tuple[int, ...]) -> None:
        self.ensemble, self.wide, self.narrow, self.ways = ensemble, wide, narrow, ways
        self.slots = np.array([ways.index(way) if way in ways else 0 for way in range(4)])
        self.trees: list[tuple[int, int, int, int, int, int]] = []
        self.perfect: list[NDArray[Any]] = []
        self.nodes: list[NDArray[Any]] = []
        self.leaves: list[NDArray[Any]] = []
        self.covers: list[Floats] = []
        self.sets: list[tuple[int, int, int]] = []
        self.words: list[NDArray[np.uint32]] = []
        self.expected = np.zeros(ensemble.n_outputs)
        self.n_perfect = self.n_nodes = self.n_values = self.n_words = 0
        vectors = {tree.output < 0 for tree in ensemble.trees}
        if len(vectors) > 1:
            raise Fault("some trees have vectors as leaves, others have not")
        self.width = ensemble.n_outputs if True in vectors else 1

    def add(self, flat: _Flat, common: int, shap: bool) -> None:
        """Appends a tree in the best layout for it."""
        if shap:
            if flat.depth > FOREST_MAX_SHAP_DEPTH:
                raise Fault(
                    f"a tree is {flat.depth} splits deep, and contributions are given for trees of at most "
                    f"{FOREST_MAX_SHAP_DEPTH}: remove the output 'treeshap_output'"
                )
            self._add_covers(flat)
        elif _may_be_perfect(flat, common):
            self._add_perfect(flat, common)
            return
        elif _may_be_perfect(flat, flat.depth):
            self._add_perfect(flat, flat.depth)
            return
        self._add_nodes(flat)

    def _columns(self, tree: Tree, nodes: Ints) -> Ints:
        columns: Ints = _SIDE_BY_SIDE * (self.slots[tree.way[nodes]] * self.ensemble.n_features + tree.feature[nodes])
        return columns

    def _thresholds(self, tree: Tree, nodes: Ints) -> NDArray[Any]:
        values = tree.threshold[nodes]
        if self.ensemble.float32:
            made: NDArray[Any] = values.astype(np.float32)
            if not self.ensemble.or_equal:
                # Minus infinity stands for a missing value, which is to be below every threshold.
                low = np.isneginf(made) & (tree.way[nodes] % 2 == 1)
                made[low] = np.finfo(np.float32).min
            return made
        if not self.ensemble.or_equal:
            values = np.nextafter(values, -np.inf)
        if self.wide:
            return values
        nearest = values.astype(np.float32)
        if self.narrow:
            return nearest
        # A float is <= a double when it is <= the largest float that is.
        return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)

    def _add_perfect(self, flat: _Flat, depth: int) -> None:
        tree = flat.tree
        made = np.zeros((1 << depth) - 1, PERFECT[self.wide])
        made["threshold"] = np.nan
        level, at = np.zeros(1, np.int64), 0
        for _ in range(depth):
            inner = tree.left[level] >= 0
            part = made[at : at + len(level)]
            part["threshold"][inner] = self._thresholds(tree, level[inner])
            part["column"][inner] = self._columns(tree, level[inner])
            at += len(level)
            both = np.stack((tree.left[level], tree.right[level]), axis=1)
            both[~inner] = level[~inner, None]  # either way leads to the leaf
            level = both.ravel()
        self.trees.append((self.n_perfect, self.n_values, _PERFECT_KIND, depth, tree.output, -1))
        self.perfect.append(made)
        self.n_perfect += len(made)
        self._add_values(tree.value[level])

    def _add_nodes(self, flat: _Flat) -> None:
        tree, n = flat.tree, len(flat.old)
        made = np.zeros(n, NODE[self.wide])
        inner = flat.left > 0
        splits, leaves = flat.old[inner], flat.old[~inner]
        made["left"] = np.where(inner, flat.left, np.arange(n) - 1)
        made["leaf"] = -1
        made["leaf"][~inner] = self.n_values // self.width + np.arange(len(leaves))
        made["threshold"][~inner] = np.nan
        made["threshold"][inner] = self._thresholds(tree, splits)
        made["column"][inner] = self._columns(tree, splits)
        if tree.categories:
            for number in np.flatnonzero(inner).tolist():
                categories = tree.categories.get(int(flat.old[number]))
                if categories is not None:
                    made["leaf"][number] = -2 - len(self.sets)
                    column = self.slots[0] * self.ensemble.n_features + tree.feature[flat.old[number]]
                    made["column"][number] = _SIDE_BY_SIDE * column
                    made["threshold"][number] = 0
                    self._add_set(categories)
        kind = _CATEGORICAL_KIND if tree.categories else _PLAIN_KIND
        self.trees.append((self.n_nodes, 0, kind, flat.depth, tree.output, -1))
        self.nodes.append(made)
        self.n_nodes += n
        self._add_values(tree.value[leaves])

    def _add_values(self, values: Floats) -> None:
        made = values.ravel()
        self.leaves.append(made)
        self.n_values += len(made)
        if self.n_values > FOREST_MAX_NODES:
            raise Fault(f"the model has more than {FOREST_MAX_NODES} values of leaves")

    def _add_set(self, categories: Categories) -> None:
        members = categories.members
        flags = _MEMBERS_LEFT * categories.members_left | _NAN_LEFT * categories.nan_left
        flags |= _TRUNCATE * categories.truncate
        last = int(members[-1]) if len(members) else 0
        if last > 1024 + 64 * len(members):
            words, flags = members.astype(np.uint32), flags | _SORTED
        else:
            bits = np.zeros((last // 32 + 1) * 32, np.uint8)
            bits[members] = 1
            words = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        self.sets.append((self.n_words, len(words), flags))
        self.words.append(words)
        self.n_words += len(words)

    def _add_covers(self, flat: _Flat) -> None:
        tree = flat.tree
        if tree.cover is None:
            raise Fault(
                "the file does not say how much data reached each node, which contributions are made of: remove the "
                "output 'treeshap_output', or save the model again"
            )
        covers = tree.cover[flat.old]
        if not np.isfinite(covers).all() or covers.min() < 0:
            raise Fault("what reached a node is negative or not a number")
        self.covers.append(covers)
        share = np.zeros(len(covers))
        share[0] = 1.0
        for node in np.flatnonzero(flat.left > 0):
            child = flat.left[node]
            whole = covers[node]
            share[child : child + 2] = share[node] * (covers[child : child + 2] / whole if whole > 0 else 0.5)
        leaves = flat.left == 0
        found = share[leaves] @ tree.value[flat.old[leaves]]
        if tree.output < 0:
            self.expected += found
        else:
            self.expected[tree.output] += found

    def finish(self, depth: int, shap: bool) -> Layout:
        ensemble = self.ensemble
        precision: Any = np.float32 if self.narrow and not self.wide else np.float64
        leaves = _joined(self.leaves, np.dtype("f8"))
        leaves = leaves.astype(precision)
        covers = _joined(self.covers, np.dtype("f8")) if shap else None
        trees, perfect = np.array(self.trees, TREE), _joined(self.perfect, PERFECT[self.wide])
        ranks = rank(trees, perfect, _PERFECT_KIND) if ranks_usable() else None
        if ranks is not None:
            trees["ranked"] = ranks.places
        return Layout(
            wide=self.wide,
            wide_leaves=precision is np.float64,
            or_equal=ensemble.or_equal or not ensemble.float32,
            ways=self.ways,
            trees=trees,
            perfect=perfect,
            nodes=_joined(self.nodes, NODE[self.wide]),
            sets=np.array(self.sets, SET),
            words=_joined(self.words, np.dtype(np.uint32)),
            leaves=leaves,
            base=ensemble.base.astype(precision),
            depth=depth,
            covers=covers,
            expected=None if covers is None else self.expected / ensemble.divisor + ensemble.base,
            ranks=ranks,
        )


def _joined(parts: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.concatenate(parts), dtype) if parts else np.zeros(0, dtype)
