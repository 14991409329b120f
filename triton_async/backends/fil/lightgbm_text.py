"""LightGBM's text models, of versions 2 to 4. Load threads. LightGBM itself is needed for linear trees only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.backends.fil.defines import FOREST_MAX_FEATURES, FOREST_MAX_NODES
from triton_async.backends.fil.ensemble import Categories, Ensemble, Fault, Floats, Ints, Link, Tree, Way, number

_IDENTITY = {
    "regression", "regression_l2", "l2", "mean_squared_error", "mse", "l2_root", "root_mean_squared_error", "rmse",
    "regression_l1", "l1", "mean_absolute_error", "mae", "huber", "fair", "quantile", "mape",
    "mean_absolute_percentage_error", "lambdarank", "rank_xendcg", "xendcg", "xe_ndcg", "xe_ndcg_mart",
    "xendcg_mart", "custom", "none", "null", "na", "",
}  # fmt: skip
_LINKS = {
    **dict.fromkeys(_IDENTITY, Link.IDENTITY),
    **dict.fromkeys(("poisson", "gamma", "tweedie"), Link.EXPONENTIAL),
    **dict.fromkeys(("binary", "multiclassova", "multiclass_ova", "ova", "ovr"), Link.SIGMOID),
    **dict.fromkeys(("cross_entropy", "xentropy"), Link.SIGMOID),
    **dict.fromkeys(("cross_entropy_lambda", "xentlambda"), Link.LOG_ONE_PLUS_EXP),
    **dict.fromkeys(("multiclass", "softmax"), Link.SOFTMAX),
}
_CLASSIFIERS = {"binary", "multiclass", "softmax", "multiclassova", "multiclass_ova", "ova", "ovr"}
_VERSIONS = {"v2", "v3", "v4"}

# Bits of decision_type.
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MAX_CLASSES = 1 << 20


@np.errstate(all="ignore")  # what comes of odd numbers is looked at
def read(data: bytes) -> Ensemble:
    """The ensemble in a file's bytes. Fault for what is no such model; its message says where it stands."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(f"it is no text: byte {error.start} is not UTF-8") from None
    body, end, _ = text.partition("\nend of trees")
    if not end:
        raise Fault("the line 'end of trees' is missing: the file is not complete, copy it again")
    head, *blocks = re.split(r"(?m)^Tree=", body)
    header = _Lines(head, "the header")
    version = header.text("version", "v2")
    if version not in _VERSIONS:
        raise Fault(f"its format is version '{version[:20]}', this server reads {', '.join(sorted(_VERSIONS))}")
    n_outputs = header.number("num_tree_per_iteration", 1, _MAX_CLASSES)
    n_features = header.number("max_feature_idx", 0, FOREST_MAX_FEATURES - 1) + 1
    n_classes = header.number("num_class", 1, _MAX_CLASSES)
    if n_outputs % n_classes and n_classes % n_outputs:
        raise Fault(f"it has {n_outputs} trees for each iteration, for {n_classes} classes")
    expected = len(header.text("tree_sizes").split())
    if expected != len(blocks):
        raise Fault(f"it has {len(blocks)} trees, and sizes of {expected} trees: the file is not complete")
    if len(blocks) % n_outputs:
        raise Fault(f"it has {len(blocks)} trees, which is no multiple of {n_outputs} for each iteration")
    objective, alpha, root = _objective(header)
    link = Link.SIGNED_SQUARE if root else _LINKS[objective]
    trees, linear = [], False
    for i, block in enumerate(blocks):
        lines = _Lines(block, f"tree {i}")
        linear = linear or lines.text("is_linear", "0").strip() == "1"
        trees.append(_tree(lines, n_features, i % n_outputs))
    return Ensemble(
        format="lightgbm" if not linear else "lightgbm_linear", trees=trees, n_features=n_features, n_outputs=n_outputs,
        base=np.zeros(n_outputs), link=link, alpha=alpha, n_classes=n_outputs, classifier=objective in _CLASSIFIERS,
        divisor=max(len(blocks) // n_outputs, 1) if "average_output" in header.found else 1.0, tiny_is_zero=True,
        notes=[f"LightGBM {version}, {header.text('objective', 'without an objective')}"],
    )  # fmt: skip


def _objective(header: _Lines) -> tuple[str, float, bool]:
    """Name, sigmoid, and whether it was trained on square roots."""
    name, *settings = header.text("objective", "").split() or [""]
    if name not in _LINKS:
        raise Fault(f"its objective is '{name[:60]}', which this server does not know: it may be of a newer LightGBM")
    alpha = 1.0
    for setting in settings:
        key, _, value = setting.partition(":")
        if key == "sigmoid":
            try:
                alpha = float(value)
            except ValueError:
                alpha = 0.0
            if not 0 < alpha < float("inf"):
                raise Fault(f"the objective's sigmoid is '{value[:40]}'")
    return name, alpha, "sqrt" in settings


class _Lines:
    """Lines `name=value` of a part of the file."""

    def __init__(self, text: str, place: str) -> None:
        self.place = place
        self.found: dict[str, str] = {}
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name and name not in self.found:
                self.found[name.strip()] = value

    def text(self, name: str, default: str | None = None) -> str:
        found = self.found.get(name, default)
        if found is None:
            raise Fault(f"{self.place} has no line '{name}': the file is not complete, or of another format")
        return found

    def number(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        if default is not None and name not in self.found:
            return default
        return number(self.text(name).strip(), f"'{name}' of {self.place}", lowest, highest)

    def array(self, name: str, count: int) -> Floats:
        try:
            made = np.array([float(part) for part in self.text(name).split()], np.float64)
        except ValueError:
            raise Fault(f"'{name}' of {self.place} has something that is no number") from None
        if len(made) != count:
            raise Fault(f"'{name}' of {self.place} has {len(made)} numbers, expected {count}: the file is not complete")
        return made

    def integers(self, name: str, count: int) -> Ints:
        made = self.array(name, count)
        if not (np.abs(made) <= 1 << 32).all() or (made != np.floor(made)).any():
            raise Fault(f"'{name}' of {self.place} has a number that is no index")
        return made.astype(np.int64)


def _tree(lines: _Lines, n_features: int, output: int) -> Tree:
    n_leaves = lines.number("num_leaves", 1, FOREST_MAX_NODES // 2)
    inner = n_leaves - 1
    n = inner + n_leaves
    values = lines.array("leaf_value", n_leaves)  # nothing is made before the file has so many
    leaf = np.full(n_leaves, -1, np.int64)
    if n_leaves == 1:
        zero = np.zeros(1)
        return Tree(leaf, leaf, zero.astype(np.int64), zero, zero.astype(np.uint8), values, output, np.ones(1))
    left = _children(lines, "left_child", inner)
    right = _children(lines, "right_child", inner)
    thresholds = lines.array("threshold", inner)
    kinds = lines.integers("decision_type", inner)
    if kinds.min() < 0 or kinds.max() > 15 or (kinds >> 2 == 3).any():
        raise Fault(f"'decision_type' of {lines.place} has a value that this server does not know")
    covers = None
    if "leaf_count" in lines.found and "internal_count" in lines.found:
        covers = np.concatenate((lines.array("internal_count", inner), lines.array("leaf_count", n_leaves)))
    tree = Tree(
        left=np.concatenate((left, leaf)), right=np.concatenate((right, leaf)),
        feature=_padded(lines.integers("split_feature", inner), n), threshold=_padded(thresholds, n),
        way=_padded(_ways(kinds, thresholds), n).astype(np.uint8),
        value=np.concatenate((np.zeros(inner), values)), output=output, cover=covers,
    )  # fmt: skip
    categorical = np.flatnonzero(kinds & _CATEGORICAL)
    if len(categorical):
        _categories(lines, tree, categorical, thresholds)
    return tree


def _children(lines: _Lines, name: str, inner: int) -> Ints:
    """As numbers of nodes: first the inner ones, behind them the leaves, which the file counts from -1 downwards."""
    found = lines.integers(name, inner)
    if found.min() < -(inner + 1) or found.max() >= inner:
        raise Fault(f"'{name}' of {lines.place} names a node that is not there")
    return np.where(found < 0, inner + ~found, found)


def _padded(values: NDArray[Any], n: int) -> NDArray[Any]:
    return np.concatenate((values, np.zeros(n - len(values), values.dtype)))


def _ways(kinds: Ints, thresholds: Floats) -> Ints:
    """Without a missing type NaN is zero, and goes where that goes."""
    missing = kinds >> 2
    default_left = kinds & _DEFAULT_LEFT != 0
    goes_left = np.where(missing == 0, thresholds >= 0, default_left)
    return np.where(missing == 1, Way.ZERO_RIGHT, Way.NAN_RIGHT) + goes_left


def _categories(lines: _Lines, tree: Tree, nodes: Ints, thresholds: Floats) -> None:
    """Categories in a node's set go left; unknown and negative ones and NaN right."""
    count = lines.number("num_cat", 1, FOREST_MAX_NODES)
    ends = lines.integers("cat_boundaries", count + 1)
    n_words = len(lines.text("cat_threshold").split())
    words = lines.integers("cat_threshold", n_words)
    if (words < 0).any() or (words > 0xFFFFFFFF).any():
        raise Fault(f"'cat_threshold' of {lines.place} has a number that is no 32 bits")
    for node in nodes.tolist():
        which = thresholds[node]
        if not 0 <= which < count or which != int(which):
            raise Fault(f"'threshold' of {lines.place} names a set of categories that is not there")
        start, end = int(ends[int(which)]), int(ends[int(which) + 1])
        if not 0 <= start <= end <= n_words:
            raise Fault(f"'cat_boundaries' of {lines.place} names words that are not there")
        bits = np.unpackbits(words[start:end].astype("<u4").view(np.uint8), bitorder="little")
        tree.categories[node] = Categories(
            np.flatnonzero(bits).astype(np.uint32), members_left=True, nan_left=False, truncate=True
        )
        tree.threshold[node] = 0.0
