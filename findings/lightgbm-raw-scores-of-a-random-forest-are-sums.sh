#!/usr/bin/env bash
# LightGBM 4.7.0: raw scores of a random forest are the sums of its trees, its predictions their means.
#
# A guess: with an objective that links by identity, such as "regression", predict(raw_score=True) is predict().
# Seen: not with boosting=rf. The mean is taken with the link, so that raw scores grow with the number of trees, and so do
# contributions (pred_contrib=True), whose sum is the raw score and not the prediction. Who compares an evaluator with
# raw scores, or explains a prediction by contributions, has to divide by the number of iterations.
#
# Output seen:
#   predict 3.2317, raw score 32.3171, sum of contributions 32.3171, 10 iterations
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightgbm==4.7.0 numpy==2.2.6 scipy==1.15.3
"$folder/venv/bin/python" - <<'PY'
import lightgbm
import numpy as np

rows = np.random.default_rng(0).normal(size=(200, 3))
params = {
    "objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7, "verbose": -1,
    "num_threads": 1,
}
booster = lightgbm.train(params, lightgbm.Dataset(rows, rows[:, 0] + 3), 10)
answer = booster.predict(rows[:1])[0]
raw = booster.predict(rows[:1], raw_score=True)[0]
added = booster.predict(rows[:1], pred_contrib=True)[0].sum()
print(f"predict {answer:.4f}, raw score {raw:.4f}, sum of contributions {added:.4f}, 10 iterations")
assert np.isclose(raw, 10 * answer) and np.isclose(added, raw) and abs(answer) > 1, "the behaviour has changed"
PY
