"""Random models of XGBoost, LightGBM and scikit-learn, what these libraries say of some rows, and our answers.

TEST_FORESTS in the environment: how many models of each library, in place of a few.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.backends.fil import xgboost_model
from triton_async.backends.fil.ensemble import Ensemble
from triton_async.backends.fil.forest import Forest
from triton_async.backends.fil.layout import lay_out

Array = NDArray[Any]


def count(few: int) -> int:
    """How many models to make."""
    return int(os.environ.get("TEST_FORESTS", few))


@dataclass
class Data:
    """Training data: `rows` float32; `categorical` columns hold whole numbers."""

    rows: Array
    target: Array
    categorical: list[int]


def data(rng: np.random.Generator, *, n_rows: int = 300, categories: bool = True) -> Data:
    columns = int(rng.integers(1, 12))
    rows = rng.normal(size=(n_rows, columns)).astype(np.float32)
    if rng.random() < 0.3:
        rows = np.round(rows * 4) / 4  # equal values, and zeros
    categorical = [c for c in range(columns) if categories and rng.random() < 0.3]
    for column in categorical:
        rows[:, column] = rng.integers(0, rng.choice([2, 5, 40, 300]), n_rows)
    if rng.random() < 0.6:
        rows[rng.random(rows.shape) < 0.15] = np.nan
    target = np.nansum(rows[:, : max(columns // 2, 1)], axis=1) + rng.normal(size=n_rows)
    return Data(rows, target.astype(np.float32), categorical)


def probes(rng: np.random.Generator, made: Data, thresholds: Array) -> Array:
    """Rows to answer: some of the training, thresholds and their neighbours, NaN, zeros, unseen and odd categories."""
    rows = made.rows[rng.integers(0, len(made.rows), 120)].copy()
    for row in rows[:60]:
        for column in range(rows.shape[1]):
            if column in made.categorical:
                row[column] = rng.choice([-1, 0, 1, 2, 2.7, 39, 41, 1000, 65536, np.nan])
            elif len(thresholds) and rng.random() < 0.7:
                hit = np.float32(rng.choice(thresholds))
                row[column] = rng.choice([hit, np.nextafter(hit, np.float32(9e9)), np.nextafter(hit, np.float32(-9e9))])
            else:
                row[column] = rng.choice([0.0, -0.0, np.nan, 1e-36, -1e-34, 3e38])
    return rows


def forest(ensemble: Ensemble, link: int, **options: Any) -> Forest:
    """A forest that answers with all its outputs, doubles where the library's are. `walked`: without ranks, as on a
    processor that does not have the instructions.
    """
    wide, walked = options.pop("wide", False), options.pop("walked", False)
    layout = lay_out(ensemble, wide=wide, rounded=options.pop("rounded", False), shap=options.pop("shap", False))
    if walked:
        layout = replace(layout, ranks=None)
    options.setdefault("double_rows", wide)
    return Forest(ensemble, layout, 0, link, double_answers=not ensemble.float32, **options)


# -- XGBoost -----------------------------------------------------------------------------------------

OBJECTIVES = (
    "reg:squarederror", "reg:squaredlogerror", "reg:logistic", "reg:pseudohubererror", "reg:absoluteerror",
    "reg:quantileerror", "reg:gamma", "reg:tweedie", "count:poisson", "survival:cox", "survival:aft",
    "binary:logistic", "binary:logitraw", "binary:hinge", "multi:softmax", "multi:softprob", "rank:pairwise",
    "rank:ndcg", "rank:map", "multi-output", "multi-output-tree",
)  # fmt: skip


@dataclass
class Trained:
    """A booster of XGBoost, the rows to answer, and what it says of them."""

    objective: str
    booster: Any
    rows: Array
    margins: Array
    answers: Array
    types: list[str]


def xgboost(seed: int) -> Trained:
    """A model of the objective whose turn it is, with everything else by chance."""
    import xgboost as xgb

    rng = np.random.default_rng(seed)
    objective = OBJECTIVES[seed % len(OBJECTIVES)]
    vectors = objective == "multi-output-tree"
    made = data(rng, categories=not vectors)
    params: dict[str, Any] = {
        "max_depth": int(rng.integers(1, 9)), "eta": float(rng.uniform(0.05, 1)), "nthread": 1, "seed": seed,
        "objective": objective, "verbosity": 0, "lambda": float(rng.choice([0, 1])), "tree_method": "hist",
        "max_cat_to_onehot": int(rng.choice([1, 8])),
    }  # fmt: skip
    target, labels = made.target, (made.target > np.median(made.target)).astype(np.float32)
    options: dict[str, Any] = {}
    if objective in ("reg:logistic", "binary:logistic", "binary:logitraw", "binary:hinge"):
        target = labels
    elif objective in (
        "reg:gamma",
        "reg:tweedie",
        "count:poisson",
        "survival:cox",
        "survival:aft",
        "reg:squaredlogerror",
    ):
        target = np.abs(target) + 0.1
    elif objective.startswith("multi:"):
        params["num_class"] = classes = int(rng.integers(2, 6))
        target = np.clip(np.digitize(target, np.quantile(target, np.linspace(0, 1, classes + 1)[1:-1])), 0, classes - 1)
    elif objective.startswith("rank:"):
        target = labels
        options["qid"] = np.arange(len(target)) // 20
    elif objective == "reg:quantileerror":
        params["quantile_alpha"] = [0.1, 0.5, 0.9][: int(rng.integers(1, 4))]
    elif objective.startswith("multi-output"):
        params["objective"] = str(rng.choice(["reg:squarederror", "binary:logistic"]))
        target = np.stack((target, -target, target * 2), axis=1)
        if params["objective"] == "binary:logistic":
            target = (target > 0).astype(np.float32)
        params["multi_strategy"] = "multi_output_tree" if vectors else "one_output_per_tree"
    if not vectors and objective != "reg:absoluteerror" and rng.random() < 0.25:
        params.update(booster="dart", rate_drop=0.4)
    if not vectors and rng.random() < 0.25:
        params.update(num_parallel_tree=int(rng.integers(2, 5)), subsample=0.7, colsample_bynode=0.8)
    if not objective.startswith("survival") and rng.random() < 0.4:
        params["base_score"] = 0.3
    types = ["c" if column in made.categorical else "q" for column in range(made.rows.shape[1])]
    matrix = xgb.DMatrix(made.rows, target, feature_types=types, enable_categorical=True, **options)
    if objective == "survival:aft":
        matrix.set_float_info("label_lower_bound", target)
        matrix.set_float_info("label_upper_bound", target)
    booster = xgb.train(params, matrix, int(rng.integers(1, 20)))
    trees = xgboost_model.read(bytes(booster.save_raw("ubj"))).trees
    thresholds = np.concatenate([tree.threshold[(tree.left >= 0)] for tree in trees])
    rows = probes(rng, made, thresholds)
    asked = xgb.DMatrix(rows, feature_types=types, enable_categorical=True)
    margins = booster.predict(asked, output_margin=True).reshape(len(rows), -1)
    if objective == "multi:softmax":
        shifted = np.exp(margins - margins.max(axis=1, keepdims=True))
        answers = shifted / shifted.sum(axis=1, keepdims=True)
        assert np.array_equal(answers.argmax(axis=1), booster.predict(asked))
    else:
        answers = booster.predict(asked).reshape(len(rows), -1)
    return Trained(objective, booster, rows, margins, answers, types)


# -- LightGBM ----------------------------------------------------------------------------------------

LIGHTGBM_OBJECTIVES = (
    "regression", "regression_sqrt", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma",
    "tweedie", "binary", "multiclass", "multiclassova", "cross_entropy", "cross_entropy_lambda", "lambdarank",
    "rank_xendcg",
)  # fmt: skip


def lightgbm(seed: int) -> tuple[str, Any, Array]:
    """Objective, booster and rows to answer: float64."""
    import lightgbm as lgb

    from triton_async.backends.fil import lightgbm_text

    rng = np.random.default_rng(seed)
    objective = LIGHTGBM_OBJECTIVES[seed % len(LIGHTGBM_OBJECTIVES)]
    made = data(rng)
    params: dict[str, Any] = {
        "objective": objective.removesuffix("_sqrt"), "reg_sqrt": objective.endswith("_sqrt"), "verbose": -1,
        "num_threads": 1, "seed": seed, "num_leaves": int(rng.choice([2, 8, 31, 100])), "min_data_in_leaf": 5,
        "zero_as_missing": bool(rng.random() < 0.25), "use_missing": bool(rng.random() < 0.85),
        "max_cat_to_onehot": int(rng.choice([1, 4])), "min_data_per_group": 5, "cat_smooth": 1,
    }  # fmt: skip
    target = made.target.astype(np.float64)
    options: dict[str, Any] = {}
    if objective in ("binary", "cross_entropy", "cross_entropy_lambda"):
        target = (target > np.median(target)).astype(float)
        params["sigmoid"] = float(rng.choice([1, 2])) if objective == "binary" else 1.0
    elif objective in ("poisson", "gamma", "tweedie"):
        target = np.abs(target) + 0.1
    elif objective.startswith("multiclass"):
        params["num_class"] = classes = int(rng.integers(3, 6))
        target = np.digitize(target, np.quantile(target, np.linspace(0, 1, classes + 1)[1:-1]))
        params["sigmoid"] = 1.5
    elif objective in ("lambdarank", "rank_xendcg"):
        target = (target > np.median(target)).astype(int)
        options["group"] = [20] * (len(target) // 20)
    mode = rng.random()
    if mode < 0.2:
        params["boosting"] = "dart"
    elif mode < 0.4:
        params.update(boosting="rf", bagging_freq=1, bagging_fraction=0.7, feature_fraction=0.8)
    rows = made.rows.astype(np.float64) + rng.normal(size=made.rows.shape) * 1e-9 * ~np.isin(
        np.arange(made.rows.shape[1]), made.categorical
    )
    rows = np.where(np.isin(np.arange(rows.shape[1]), made.categorical) & (rows < 0), 0, rows)
    dataset = lgb.Dataset(
        rows, target, categorical_feature=made.categorical or "auto", params={"verbose": -1}, **options
    )
    booster = lgb.train(params, dataset, int(rng.integers(1, 20)))
    trees = lightgbm_text.read(booster.model_to_string().encode()).trees
    thresholds = np.concatenate([tree.threshold[tree.left >= 0] for tree in trees])
    asked = probes(rng, made, thresholds).astype(np.float64)
    if len(thresholds):
        for row in asked[20:40]:  # thresholds that no float holds
            for column in range(asked.shape[1]):
                if column not in made.categorical:
                    row[column] = rng.choice(thresholds)
    return objective, booster, asked
