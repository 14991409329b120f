"""Forests of LightGBM against LightGBM: scores to the last bit, answers, contributions."""

from __future__ import annotations

import numpy as np
import pytest
from forest_models import LIGHTGBM_OBJECTIVES, count, forest, lightgbm

from triton_async.backends.fil import lightgbm_text
from triton_async.backends.fil.ensemble import Ensemble, Link

lgb = pytest.importorskip("lightgbm", reason="LightGBM is not installed")


def read(booster: lgb.Booster) -> Ensemble:
    return lightgbm_text.read(booster.model_to_string().encode())


@pytest.mark.parametrize("seed", range(count(2 * len(LIGHTGBM_OBJECTIVES))))
@pytest.mark.filterwarnings("ignore")
def test_scores_are_equal_to_the_last_bit(seed: int) -> None:
    _, booster, rows = lightgbm(seed)
    ensemble = read(booster)
    for wide in (True, False):
        asked = rows if wide else rows.astype(np.float32).astype(np.float64)
        expected = booster.predict(asked, raw_score=True).reshape(len(rows), -1)
        if ensemble.divisor != 1:
            expected = expected / ensemble.divisor  # its raw scores of a random forest are sums, its answers are not
        found = forest(ensemble, Link.IDENTITY, wide=wide).answers(asked)
        assert np.array_equal(found, expected)
        assert np.array_equal(forest(ensemble, Link.IDENTITY, wide=wide, walked=True).answers(asked), expected)
        alone = np.concatenate([forest(ensemble, Link.IDENTITY, wide=wide).answers(row[None]) for row in asked[:9]])
        assert np.array_equal(alone, expected[:9])
        answers = forest(ensemble, ensemble.link, wide=wide).answers(asked)
        assert np.allclose(answers, booster.predict(asked).reshape(len(rows), -1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("seed", range(count(12)))
@pytest.mark.filterwarnings("ignore")
def test_contributions_are_those_of_lightgbm(seed: int) -> None:
    _, booster, rows = lightgbm(seed)
    ensemble = read(booster)
    if ensemble.divisor != 1:
        pytest.skip("LightGBM's contributions of a random forest are sums")
    expected = booster.predict(rows[:20], pred_contrib=True).reshape(20, ensemble.n_outputs, -1)
    found = forest(ensemble, Link.IDENTITY, wide=True, shap=True).contributions(rows[:20])
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected).max() <= 2e-6 * scale
    margins = forest(ensemble, Link.IDENTITY, wide=True).answers(rows[:20])
    assert np.abs(found.sum(axis=2) - margins).max() <= 2e-6 * scale


@pytest.mark.filterwarnings("ignore")
def test_rounding_to_floats_is_close_and_changes_what_lies_between() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 4)).astype(np.float32)
    booster = lgb.train({"verbose": -1, "num_threads": 1}, lgb.Dataset(rows, rows.sum(axis=1)), 20)
    ensemble = read(booster)
    rounded = forest(ensemble, Link.IDENTITY, rounded=True).answers(rows)[:, 0]
    exact = forest(ensemble, Link.IDENTITY).answers(rows)[:, 0]
    assert np.array_equal(exact, booster.predict(rows))
    assert not np.array_equal(rounded, exact)
    assert np.allclose(rounded, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_doubles_that_no_float_holds_find_their_leaf() -> None:
    rows = np.array([[16777216.0], [16777217.0]] * 50)
    booster = lgb.train({"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}, lgb.Dataset(rows, [0.0, 1.0] * 50), 3)
    ensemble = read(booster)
    doubles = forest(ensemble, Link.IDENTITY, wide=True).answers(rows)[:, 0]
    assert np.array_equal(doubles, booster.predict(rows))
    assert doubles[0] != doubles[1]
    floats = forest(ensemble, Link.IDENTITY).answers(rows)[:, 0]
    assert floats[0] == floats[1]
