"""Forests whose trees are answered by ranks: the bounds of what is, and that the leaves are those of a walk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from triton_async.backends.fil import layout as layouts
from triton_async.backends.fil.ensemble import Ensemble, Link, Tree
from triton_async.backends.fil.forest import Forest, ranks_usable
from triton_async.backends.fil.layout import Layout, lay_out

NEEDS = pytest.mark.skipif(not ranks_usable(), reason="this processor has no AVX-512 with permutations of bytes")


def tree(rng: np.random.Generator, depth: int, columns: Any, thresholds: NDArray[Any], output: int = 0) -> Tree:
    """A full tree whose nodes split by chance, with NaN to the left and to the right."""
    inner, n = (1 << depth) - 1, (2 << depth) - 1
    left = np.where(np.arange(n) < inner, 2 * np.arange(n) + 1, -1)
    leaves = rng.normal(size=n).astype(np.float32).astype(np.float64)
    threshold = rng.choice(thresholds, n).astype(np.float64)
    feature, way = rng.choice(columns, n), rng.integers(0, 2, n).astype(np.uint8)
    return Tree(left, np.where(left < 0, -1, left + 1), feature, threshold, way, leaves, output)


def ensemble(trees: list[Tree], n_features: int, n_outputs: int = 1, *, float32: bool = True) -> Ensemble:
    return Ensemble(
        "a test", trees, n_features, n_outputs, np.zeros(n_outputs), Link.IDENTITY, float32=float32,
        or_equal=not float32, base_first=True,
    )  # fmt: skip


def both(made: Ensemble, layout: Layout, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Answers with ranks, and without."""
    options: dict[str, Any] = {"double_rows": layout.wide, "double_answers": not made.float32}
    return (Forest(made, layout, 0, 0, **options).answers(rows),
            Forest(made, replace(layout, ranks=None), 0, 0, **options).answers(rows))  # fmt: skip


def probes(rng: np.random.Generator, thresholds: NDArray[Any], columns: int) -> NDArray[Any]:
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38])
    near = np.concatenate([thresholds, np.nextafter(thresholds, np.inf, dtype=thresholds.dtype)])
    return rng.choice(np.concatenate([odd, near, near]), (70, columns)).astype(thresholds.dtype)


@NEEDS
@pytest.mark.parametrize("columns", [1, 64, 65, 128, 129, 256])
@pytest.mark.parametrize("wide", [False, True])
def test_the_leaves_are_those_of_a_walk(columns: int, wide: bool) -> None:
    rng = np.random.default_rng(columns)
    values = rng.normal(size=100).astype(np.float64 if wide else np.float32)
    values[:3] = np.inf, -np.inf, 0
    features = np.arange(-(-columns // 2))  # there is a copy of each for either way
    trees = [tree(rng, depth, features, values, depth % 2) for depth in [*range(9), 6, 6, 6, 3, 3, 9, 8, 8]]
    trees += [tree(rng, 6, features, values) for _ in range(130)]
    made = ensemble(trees, len(features), 2, float32=not wide)
    layout = lay_out(made, wide=wide)
    assert layout.ranks is not None
    rows = probes(rng, values, len(features))
    for n_rows in (1, 3, 8, 70):
        ranked, walked = both(made, layout, rows[:n_rows])
        assert np.array_equal(ranked, walked)


@NEEDS
@pytest.mark.parametrize(
    ("thresholds", "columns", "ranked"), [(255, 3, True), (256, 3, False), (9, 256, True), (9, 257, False)]
)
@pytest.mark.parametrize("or_equal", [False, True])
def test_beyond_what_a_byte_tells_apart_all_is_walked(
    thresholds: int, columns: int, ranked: bool, or_equal: bool
) -> None:
    rng = np.random.default_rng(0)
    values = np.sort(rng.normal(size=thresholds)).astype(np.float32)
    values[-1] = np.inf
    trees = [tree(rng, 8, np.arange(columns), values) for _ in range(6)]
    for each in trees:
        each.way[:] = 0
    # Every column, and every threshold of the last one, is in some node.
    wanted = [(column, values[0]) for column in range(columns - 1)] + [(columns - 1, value) for value in values]
    for place, (column, value) in enumerate(wanted):
        trees[place // 200].feature[place % 200], trees[place // 200].threshold[place % 200] = column, value
    made = ensemble(trees, columns)
    made.or_equal = or_equal
    layout = lay_out(made)
    assert (layout.ranks is not None) == ranked
    rows = probes(rng, values, columns)
    assert np.array_equal(*both(made, layout, rows))


def test_other_processors_and_layouts_for_contributions_have_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    one = tree(rng, 3, np.arange(2), np.arange(5))
    one.cover = np.ones(len(one.left))
    assert lay_out(ensemble([one], 2), shap=True).ranks is None
    monkeypatch.setattr(layouts, "ranks_usable", lambda: False)
    layout = lay_out(ensemble([one], 2))
    assert layout.ranks is None
    assert layout.trees["ranked"].tolist() == [-1]
