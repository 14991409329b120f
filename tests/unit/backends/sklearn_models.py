"""Random forests of scikit-learn with some rows and what it says of them itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from forest_models import Array, data

NAMES = (
    "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
    "GradientBoostingClassifier", "GradientBoostingRegressor", "HistGradientBoostingClassifier",
    "HistGradientBoostingRegressor", "IsolationForest", "exponential", "multi-output",
)  # fmt: skip


@dataclass
class Estimator:
    """`answers`: predict_proba, predict, or of an IsolationForest the negated score."""

    name: str
    model: Any
    rows: Array
    answers: Array


def estimator(seed: int) -> Estimator:
    """A model of the class whose turn it is, with everything else by chance."""
    from sklearn import ensemble

    rng = np.random.default_rng(seed)
    name = NAMES[seed % len(NAMES)]
    made = data(rng, n_rows=200, categories=False)
    histogram = name.startswith("Hist")
    rows, target = made.rows, made.target
    if not histogram:
        rows = np.nan_to_num(rows)
    classes = int(rng.integers(2, 5))
    labels = np.digitize(target, np.quantile(target, np.linspace(0, 1, classes + 1)[1:-1]))
    trees = int(rng.integers(1, 12))
    options: dict[str, Any] = {"random_state": seed}
    if histogram:
        options.update(max_iter=trees, max_leaf_nodes=int(rng.integers(2, 32)), min_samples_leaf=5)
    elif name == "IsolationForest":
        options.update(n_estimators=trees, max_features=float(rng.uniform(0.5, 1)))
    else:
        options.update(n_estimators=trees, max_depth=[None, 3, 6][int(rng.integers(0, 3))])
    kind = {"exponential": "GradientBoostingClassifier", "multi-output": "RandomForestRegressor"}.get(name, name)
    if name == "exponential":
        options["loss"] = "exponential"
        labels = (target > np.median(target)).astype(int)
    if name == "multi-output":
        target = np.stack((target, -2 * target), axis=1)
    model = getattr(ensemble, kind)(**options)
    with np.errstate(all="ignore"):
        model.fit(rows, labels if kind.endswith("Classifier") else target)
    asked = rows[rng.integers(0, len(rows), 80)]
    hits = thresholds(model)
    if len(hits):
        for row in asked[:40]:
            for column in range(asked.shape[1]):
                hit = np.float32(rng.choice(hits))
                row[column] = rng.choice([hit, np.nextafter(hit, np.float32(9e9)), np.nextafter(hit, np.float32(-9e9))])
    if name == "IsolationForest":
        answers = -model.score_samples(asked)
    else:
        answers = model.predict_proba(asked) if hasattr(model, "predict_proba") else model.predict(asked)
    answers = np.asarray(answers, np.float64).reshape(len(asked), -1)
    return Estimator(name, model, asked, answers[:, 1:] if answers.shape[1] == 2 and is_boosted(kind) else answers)


def is_boosted(kind: str) -> bool:
    """Whether two classes make one output: boosting adds up margins, forests average vectors."""
    return "GradientBoosting" in kind


def thresholds(model: Any) -> Array:
    """Thresholds of the numeric splits of a forest, as float64."""
    found = [
        tree.tree_.threshold[tree.tree_.children_left >= 0]
        for tree in np.ravel(getattr(model, "estimators_", [])).tolist()
    ]
    for iteration in getattr(model, "_predictors", []):
        found += [one.nodes["num_threshold"][one.nodes["is_leaf"] == 0] for one in iteration]
    joined = np.concatenate(found) if found else np.zeros(0)
    return joined[np.isfinite(joined)]
