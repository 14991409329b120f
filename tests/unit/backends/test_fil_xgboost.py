"""Forests of XGBoost against XGBoost: margins to the last bit, answers, contributions, the formats of its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from forest_models import OBJECTIVES, count, forest, xgboost

from triton_async.backends.fil import xgboost_model
from triton_async.backends.fil.ensemble import Link

xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed")


@pytest.mark.parametrize("seed", range(count(2 * len(OBJECTIVES))))
@pytest.mark.filterwarnings("ignore")
def test_margins_are_equal_to_the_last_bit(seed: int) -> None:
    made = xgboost(seed)
    for kind in ("json", "ubj"):
        ensemble = xgboost_model.read(bytes(made.booster.save_raw(kind)))
        margins = forest(ensemble, Link.IDENTITY).answers(made.rows)
        assert np.array_equal(margins, made.margins)
        assert np.array_equal(forest(ensemble, Link.IDENTITY, walked=True).answers(made.rows), made.margins)
        alone = np.concatenate([forest(ensemble, Link.IDENTITY).answers(row[None]) for row in made.rows[:9]])
        assert np.array_equal(alone, made.margins[:9])
        answers = forest(ensemble, ensemble.link).answers(made.rows)
        assert np.allclose(answers, made.answers, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(count(len(OBJECTIVES))))
@pytest.mark.filterwarnings("ignore")
def test_contributions_are_those_of_xgboost(seed: int) -> None:
    made = xgboost(seed)
    ensemble = xgboost_model.read(bytes(made.booster.save_raw("ubj")))
    found = forest(ensemble, Link.IDENTITY, shap=True).contributions(made.rows[:20])
    scale = max(1.0, float(np.abs(found).max()))
    assert np.abs(found.sum(axis=2) - made.margins[:20]).max() <= 2e-5 * scale
    if made.objective == "multi-output-tree":
        return  # for vector leaves XGBoost has none
    matrix = xgb.DMatrix(made.rows[:20], feature_types=made.types, enable_categorical=True)
    expected = made.booster.predict(matrix, pred_contribs=True).reshape(20, ensemble.n_outputs, -1)
    assert np.abs(found - expected).max() <= 2e-5 * scale


@pytest.mark.filterwarnings("ignore")
def test_the_best_iteration_is_where_early_stopping_found_it() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    train, test = (xgb.DMatrix(rows[half], rng.normal(size=100)) for half in (slice(100), slice(100, 200)))
    booster = xgb.train(
        {"num_parallel_tree": 2, "subsample": 0.6, "nthread": 1}, train, 30, evals=[(test, "test")],
        early_stopping_rounds=3, verbose_eval=False,
    )  # fmt: skip
    assert booster.best_iteration < booster.num_boosted_rounds() - 1
    asked = xgb.DMatrix(rows)
    data = bytes(booster.save_raw("json"))
    everything = forest(xgboost_model.read(data), Link.IDENTITY).answers(rows)[:, 0]
    best = forest(xgboost_model.read(data, best_iteration=True), Link.IDENTITY).answers(rows)[:, 0]
    assert np.array_equal(everything, booster.predict(asked))
    assert np.array_equal(best, booster.predict(asked, iteration_range=(0, booster.best_iteration + 1)))
    assert not np.array_equal(best, everything)


def test_a_value_that_stands_for_missing_is_a_parameter_of_ours() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300, 3)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = -999
    target = (rows[:, 0] == -999).astype(np.float32) * 3 + rows[:, 1]
    booster = xgb.train({"nthread": 1}, xgb.DMatrix(rows, target, missing=-999), 10)
    ensemble = xgboost_model.read(bytes(booster.save_raw("ubj")))
    expected = booster.predict(xgb.DMatrix(rows, missing=-999))
    assert np.array_equal(forest(ensemble, Link.IDENTITY, missing=-999.0).answers(rows)[:, 0], expected)
    assert not np.array_equal(forest(ensemble, Link.IDENTITY).answers(rows)[:, 0], expected)


def test_weights_of_dart_count_wherever_the_file_has_them() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    params = {"booster": "dart", "rate_drop": 0.6, "nthread": 1}
    booster = xgb.train(params, xgb.DMatrix(rows, rows.sum(axis=1)), 10)
    document = json.loads(booster.save_raw("json"))
    gradient = document["learner"]["gradient_booster"]
    inner, weights = gradient.get("gbtree", gradient), gradient.get("weight_drop")
    weights = inner["model"].get("weight_drop", weights)
    assert set(weights) != {1}
    expected = booster.predict(xgb.DMatrix(rows))
    older = {"name": "dart", "gbtree": {"name": "gbtree", "model": inner["model"]}, "weight_drop": weights}
    newer = {"name": "gbtree", "model": {**inner["model"], "weight_drop": weights}}
    for form in (older, newer):
        document["learner"]["gradient_booster"] = form
        ensemble = xgboost_model.read(json.dumps(document).encode())
        assert np.array_equal(forest(ensemble, Link.IDENTITY).answers(rows)[:, 0], expected)


def test_floats_and_doubles_go_the_same_way() -> None:
    """XGBoost casts doubles to floats first."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(200, 4))
    booster = xgb.train({"nthread": 1}, xgb.DMatrix(rows, rows.sum(axis=1)), 10)
    ensemble = xgboost_model.read(bytes(booster.save_raw("ubj")))
    hits = np.concatenate([tree.threshold[tree.left >= 0] for tree in ensemble.trees])
    rows[:100] = rng.choice(hits, (100, 4)) * (1 + 1e-10 * rng.normal(size=(100, 4)))
    doubles = forest(ensemble, Link.IDENTITY, double_rows=True).answers(rows)[:, 0]
    assert np.array_equal(doubles, booster.inplace_predict(rows))
