"""XGBoost's own models, JSON or UBJSON, from version 1.0 on: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html

Load threads. Nothing of XGBoost is needed.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson

from triton_async.backends.fil import ubjson
from triton_async.backends.fil.defines import FOREST_MAX_FEATURES, FOREST_MAX_NODES
from triton_async.backends.fil.ensemble import Categories, Ensemble, Fault, Floats, Link, Tree, Way
from triton_async.backends.fil.fields import Fields

# Objective -> link, and how a base score becomes a margin.
_IDENTITY = (Link.IDENTITY, "identity")
_LOGISTIC = (Link.SIGMOID, "logit")
_LOG = (Link.EXPONENTIAL, "log")
_OBJECTIVES: dict[str, tuple[Link, str]] = {
    "reg:squarederror": _IDENTITY, "reg:linear": _IDENTITY, "reg:squaredlogerror": _IDENTITY,
    "reg:pseudohubererror": _IDENTITY, "reg:absoluteerror": _IDENTITY, "reg:quantileerror": _IDENTITY,
    "reg:expectileerror": _IDENTITY, "rank:pairwise": _IDENTITY, "rank:ndcg": _IDENTITY, "rank:map": _IDENTITY,
    "binary:logitraw": _IDENTITY, "binary:hinge": (Link.HINGE, "identity"), "reg:logistic": _LOGISTIC,
    "binary:logistic": _LOGISTIC, "count:poisson": _LOG, "reg:gamma": _LOG, "reg:tweedie": _LOG, "survival:cox": _LOG,
    "survival:aft": _LOG, "multi:softmax": (Link.SOFTMAX, "identity"), "multi:softprob": (Link.SOFTMAX, "identity"),
}  # fmt: skip

_MISSING_REMEDY = (
    "it may come from a newer XGBoost than this server knows, and matter; set the parameter "
    "'xgboost_allow_unknown_field' to 'true' if it does not"
)
_KNOWN = {
    "": ("learner", "version", "config", "Model", "Config"),
    "learner": ("attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective",
                "learner_train_param", "generic_param", "metrics"),
    "booster": ("name", "model", "gbtree", "weight_drop", "config"),
    "model": ("gbtree_model_param", "iteration_indptr", "tree_info", "trees", "weight_drop", "cats"),
    "tree": ("base_weights", "categories", "categories_nodes", "categories_segments", "categories_sizes",
             "default_left", "id", "left_children", "loss_changes", "parents", "right_children", "split_conditions",
             "split_indices", "split_type", "sum_hessian", "tree_param", "leaf_weights", "leaf_child_counts",
             "leaf_child_cnt"),
}  # fmt: skip
_MAX_OUTPUTS = 1 << 20


@np.errstate(all="ignore")  # what comes of odd numbers is looked at
def read(data: bytes, *, allow_unknown: bool = False, best_iteration: bool = False) -> Ensemble:
    """The ensemble in a file's bytes, JSON or UBJSON whatever the file is called. `best_iteration`: without the trees
    behind the best iteration of early stopping, which the file tells. Fault for what is no such model.
    """
    document = Fields(_parse(data), "")
    if "Model" in document and "learner" not in document:
        document = document.object("Model")  # what pickles of boosters hold
    reader = _Reader(document, allow_unknown)
    return reader.read(best_iteration)


def is_json(data: bytes) -> bool:
    """Whether bytes that begin with a brace are JSON text, not UBJSON."""
    return data[1:64].lstrip()[:1] in (b'"', b"}")


def _parse(data: bytes) -> Any:
    if not is_json(data):
        return ubjson.loads(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        problem = str(error)
    try:
        return json.loads(data)  # which knows NaN and Infinity
    except (ValueError, RecursionError):
        raise Fault(f"it is no valid JSON: {problem[:200]}: it may not be complete, copy it again") from None


class _Reader:
    def __init__(self, document: Fields, allow_unknown: bool) -> None:
        self.allow_unknown = allow_unknown
        self.known(document, "")
        self.version = _version(document)
        self.learner = document.object("learner")
        self.known(self.learner, "learner")
        booster = self.learner.object("gradient_booster")
        self.known(booster, "booster")
        name = booster.text("name")
        if name not in ("gbtree", "dart"):
            raise Fault(f"its booster is '{name[:40]}': only trees are served (gbtree, dart), this is no tree ensemble")
        inner = booster.object("gbtree") if "gbtree" in booster else booster
        self.model = inner.object("model")
        self.known(self.model, "model")
        self.weights = None
        for place in (booster, inner, self.model):
            if "weight_drop" in place:
                self.weights = place.array("weight_drop").astype(np.float32)

    def known(self, fields: Fields, kind: str) -> None:
        if not self.allow_unknown:
            fields.refuse_others(_KNOWN[kind], _MISSING_REMEDY)

    def read(self, best_iteration: bool) -> Ensemble:
        params = self.learner.object("learner_model_param")
        n_features = params.number("num_feature", 0, FOREST_MAX_FEATURES)
        classes = max(params.number("num_class", 0, _MAX_OUTPUTS, 0), 1)
        targets = params.number("num_target", 1, _MAX_OUTPUTS, 1)
        if classes > 1 and targets > 1:
            raise Fault(f"it has {classes} classes for each of {targets} targets, which no XGBoost makes")
        n_outputs = max(classes, targets)
        objective = self.learner.object("objective").text("name")
        if objective not in _OBJECTIVES:
            raise Fault(
                f"its objective is '{objective[:60]}', which this server does not know: it may be of a newer XGBoost"
            )
        link, how = _OBJECTIVES[objective]
        if link is Link.SOFTMAX and classes == 1:
            raise Fault(f"its objective is '{objective}' with one class")
        notes = [f"XGBoost {self.version}, {objective}"]
        trees = self.trees(n_features, n_outputs, best_iteration, notes)
        if _has_encoder(self.model):
            notes.append("its categories were encoded by pandas: requests give their numbers, as training had them")
        return Ensemble(
            format="xgboost", trees=trees, n_features=n_features, n_outputs=n_outputs,
            base=_margins(_base_score(params, n_outputs), how), link=link, n_classes=classes,
            classifier=objective.startswith(("binary:", "multi:")), float32=True, float32_rows=True, or_equal=False,
            base_first=True, notes=notes,
        )  # fmt: skip

    def trees(self, n_features: int, n_outputs: int, best_iteration: bool, notes: list[str]) -> list[Tree]:
        found = self.model.objects("trees")
        groups = self.model.integers("tree_info", len(found))
        if self.weights is not None and len(self.weights) not in (0, len(found)):
            raise Fault(f"'weight_drop' has {len(self.weights)} numbers for {len(found)} trees")
        count = self._best(len(found), n_outputs, notes) if best_iteration else len(found)
        trees = []
        for i, fields in enumerate(found[:count]):
            self.known(fields, "tree")
            tree = _tree(fields, n_features, n_outputs, int(groups[i]))
            if self.weights is not None and len(self.weights):
                tree.value = (tree.value.astype(np.float32) * self.weights[i]).astype(np.float64)
            trees.append(tree)
        return trees

    def _best(self, n_trees: int, n_outputs: int, notes: list[str]) -> int:
        attributes = self.learner.object("attributes") if "attributes" in self.learner else None
        if attributes is None or "best_iteration" not in attributes:
            raise Fault(
                "'learner.attributes.best_iteration' is missing: it was trained without early stopping, or sliced; "
                "remove the parameter 'best_iteration'"
            )
        best = attributes.number("best_iteration", 0, n_trees)
        if "iteration_indptr" in self.model:
            ends = self.model.integers("iteration_indptr")
            if best + 1 >= len(ends) or not 0 <= ends[best + 1] <= n_trees:
                raise Fault(f"'iteration_indptr' has no end of iteration {best}")
            count = int(ends[best + 1])
        else:
            parallel = self.model.object("gbtree_model_param").number("num_parallel_tree", 1, FOREST_MAX_NODES, 1)
            count = min((best + 1) * parallel * n_outputs, n_trees)
        notes.append(f"{count} of {n_trees} trees, up to its best iteration {best}")
        return count


def _version(document: Fields) -> str:
    if "version" not in document:
        return "before 1.0"
    parts = document.integers("version")
    if len(parts) != 3:
        raise Fault("'version' has not three numbers")
    return ".".join(str(part) for part in parts)


def _has_encoder(model: Fields) -> bool:
    cats = model.found.get("cats")
    return isinstance(cats, dict) and bool(len(cats.get("enc") or ()))


def _base_score(params: Fields, n_outputs: int) -> Floats:
    text = params.text("base_score").strip()
    parts = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else [text]
    try:
        values = np.array([float(part) for part in parts], np.float64)
    except ValueError:
        raise Fault(f"'{params.at('base_score')}' is {text[:60]!r}, expected numbers") from None
    if len(values) == 1:
        values = np.repeat(values, n_outputs)
    if len(values) != n_outputs:
        raise Fault(f"'{params.at('base_score')}' has {len(values)} numbers for {n_outputs} outputs")
    return values


def _margins(scores: Floats, how: str) -> Floats:
    """In float32, as XGBoost does, whose logarithms are rounded from better ones."""
    values = scores.astype(np.float32)
    one = np.float32(1)
    if how == "logit":
        values = -np.log((one / values - one).astype(np.float64)).astype(np.float32)
    elif how == "log":
        values = np.log(values.astype(np.float64)).astype(np.float32)
    if not np.isfinite(values).all():
        raise Fault(f"'learner.learner_model_param.base_score' is {scores[0]}, which has no margin")
    return values.astype(np.float64)


def _tree(fields: Fields, n_features: int, n_outputs: int, group: int) -> Tree:
    params = fields.object("tree_param")
    n = params.number("num_nodes", 1, FOREST_MAX_NODES)
    size = params.number("size_leaf_vector", 0, _MAX_OUTPUTS, 0)
    left = fields.integers("left_children", n)
    right = fields.integers("right_children", n)
    # A leaf of vectors keeps the number of its vector where its right child would be.
    vectors = size > 1
    leaves = left < 0
    thresholds = fields.array("split_conditions", n)
    if vectors:
        if size != n_outputs:
            raise Fault(f"'{fields.place}' has leaves of {size} values for {n_outputs} outputs")
        values = _vectors(fields, n, size, right, leaves)
        right = np.where(leaves, -1, right)
    else:
        values = np.where(leaves, thresholds, 0.0)
    default_left = fields.array("default_left", n) != 0
    tree = Tree(
        left=left, right=right, feature=fields.integers("split_indices", n), threshold=thresholds,
        way=np.where(default_left, Way.NAN_LEFT, Way.NAN_RIGHT).astype(np.uint8),
        value=values.astype(np.float32).astype(np.float64), output=-1 if vectors else group,
        cover=fields.array("sum_hessian", n) if "sum_hessian" in fields else None,
    )  # fmt: skip
    if "split_type" in fields:
        _categories(fields, tree, n)
    return tree


def _vectors(fields: Fields, n: int, size: int, right: Any, leaves: Any) -> Floats:
    if "leaf_weights" in fields and len(fields.array("leaf_weights")):
        weights = fields.array("leaf_weights")
        if len(weights) % size:
            raise Fault(f"'{fields.at('leaf_weights')}' has {len(weights)} numbers for vectors of {size}")
        rows = right[leaves]
        if len(rows) and (rows.min() < 0 or rows.max() >= len(weights) // size):
            raise Fault(f"'{fields.at('right_children')}' names a leaf vector that is not there")
        if len(rows) * size > len(weights):
            raise Fault(f"'{fields.at('leaf_weights')}' has {len(weights)} numbers for {len(rows)} leaves of {size}")
        found = weights.reshape(-1, size)[rows]
    else:
        found = fields.array("base_weights", n * size).reshape(n, size)[leaves]
    made = np.zeros((n, size))
    made[leaves] = found
    return made


def _categories(fields: Fields, tree: Tree, n: int) -> None:
    """Categories in a node's list go right; negative and unknown ones left."""
    kinds = fields.integers("split_type")
    if not kinds.any():
        return
    if len(kinds) != n:
        raise Fault(f"'{fields.at('split_type')}' has {len(kinds)} numbers, expected {n}")
    nodes = fields.integers("categories_nodes")
    starts = fields.integers("categories_segments", len(nodes))
    sizes = fields.integers("categories_sizes", len(nodes))
    members = fields.integers("categories")
    for node, start, size in zip(nodes.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        if not 0 <= node < n or start < 0 or size < 0 or start + size > len(members):
            raise Fault(f"'{fields.at('categories_segments')}' names categories that are not there")
        own = np.unique(members[start : start + size])
        if len(own) and (own[0] < 0 or own[-1] >= 1 << 31):
            raise Fault(f"'{fields.at('categories')}' has category {own[0] if own[0] < 0 else own[-1]}")
        tree.categories[node] = Categories(
            own.astype(np.uint32), members_left=False, nan_left=bool(tree.way[node] == Way.NAN_LEFT)
        )
    lacking = [node for node in np.flatnonzero((kinds != 0) & (tree.left >= 0)).tolist() if node not in tree.categories]
    if lacking:
        raise Fault(f"'{fields.at('categories_nodes')}' lacks node {lacking[0]}")
