"""Forests of scikit-learn and treelite's checkpoints against the libraries themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from forest_models import count, forest
from forest_models import lightgbm as lightgbm_model
from forest_models import xgboost as xgboost_model
from sklearn_models import NAMES, Estimator, estimator

from triton_async.backends.fil import conversion, converter
from triton_async.backends.fil.ensemble import Ensemble, Fault
from triton_async.backends.fil.options import Options
from triton_async.backends.fil.sources import read

treelite = pytest.importorskip("treelite", reason="treelite is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def converted(model: object, **header: object) -> Ensemble:
    """What the converter makes of a model of treelite, without a process of its own."""
    found: dict[str, object] = {"format": "a test", "notes": [], **header}
    arrays = converter.convert(np, model, found)
    return conversion._ensemble(found, arrays)


def from_estimator(made: Estimator) -> Ensemble:
    return converted(
        treelite.sklearn.import_model(made.model), float32_rows=not made.name.startswith("Hist"),
        exponential_loss=made.name == "exponential",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(count(2 * len(NAMES))))
@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_scikit_learn(seed: int) -> None:
    made = estimator(seed)
    ensemble = from_estimator(made)
    answers = forest(ensemble, ensemble.link).answers(made.rows)
    assert answers.shape == made.answers.shape
    assert np.abs(answers - made.answers).max() <= 1e-6 * max(1.0, float(np.abs(made.answers).max()))
    doubles = made.rows.astype(np.float64)
    as_doubles = {"double_rows": True} if ensemble.float32_rows else {"wide": True}
    assert np.array_equal(forest(ensemble, ensemble.link, **as_doubles).answers(doubles), answers)


@pytest.mark.parametrize("seed", range(count(16)))
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_other_libraries_answer_as_treelite_does(seed: int) -> None:
    pytest.importorskip("xgboost", reason="XGBoost is not installed")
    made = xgboost_model(seed)
    model = treelite.frontend.from_xgboost_json(made.booster.save_raw("json").decode())
    ensemble = converted(model)
    expected = treelite.gtil.predict(model, made.rows).reshape(len(made.rows), -1)
    answers = forest(ensemble, ensemble.link).answers(made.rows)
    assert np.allclose(answers, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("seed", range(count(16)))
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_lightgbm_answer_as_treelite_does(seed: int) -> None:
    pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    _, booster, rows = lightgbm_model(seed)
    model = treelite.frontend.from_lightgbm(booster)
    ensemble = converted(model)
    expected = treelite.gtil.predict(model, rows).reshape(len(rows), -1)
    answers = forest(ensemble, ensemble.link, wide=True).answers(rows)
    assert np.allclose(answers, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_and_a_pickle_are_read_by_a_process_of_its_own(tmp_path: Path) -> None:
    made = estimator(0)
    treelite.sklearn.import_model(made.model).serialize(str(tmp_path / "checkpoint.tl"))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(made.model))
    checkpoint = read(tmp_path / "checkpoint.tl", Options(), "m", False)
    assert np.allclose(forest(checkpoint, checkpoint.link).answers(made.rows), made.answers, rtol=1e-6, atol=1e-6)
    pickled = read(tmp_path / "model.pkl", Options(), "m", True)
    assert np.allclose(forest(pickled, pickled.link).answers(made.rows), made.answers, rtol=1e-6, atol=1e-6)
    assert "RandomForestClassifier" in pickled.format


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    made = estimator(0)
    path = tmp_path / "checkpoint.tl"
    treelite.sklearn.import_model(made.model).serialize(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Fault, match="unable to load model 'm' from checkpoint"):
        read(path, Options(), "m", False)


class Marker:
    """Would leave a file behind if its pickle was loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_loaded_without_leave(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name in ("model.pkl", "xgboost.model", "checkpoint.tl"):
        (tmp_path / name).write_bytes(pickle.dumps(Marker(trace)))
        with pytest.raises(Fault, match=f"{name}: it is a pickle.*runs whatever code.*allow-pickle=true"):
            read(tmp_path / name, Options(), "m", False)
    with pytest.raises(Fault, match="parameter 'model_type' is 'xgboost'"):
        read(tmp_path / "xgboost.model", Options(model_type="xgboost"), "m", True)
    assert not trace.exists()
    with pytest.raises(Fault, match="only tree ensembles of scikit-learn and cuML"):
        read(tmp_path / "model.pkl", Options(), "m", True)
    assert trace.exists()  # so that the check above sees what it looks for
