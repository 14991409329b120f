"""Trains a small forest on made-up card payments and writes it as a model that answers with probabilities and reasons.

    pip install xgboost-cpu
    python examples/fraud/forest.py models/fraud
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

# What a payment is described by; `merchant` is a kind of shop, a number from 0 to 7.
COLUMNS = ("amount", "hour", "distance_km", "minutes_since_last", "merchant", "age_of_card_days")

CONFIG = """backend: "fil"
output { name: "output__0" }
output { name: "treeshap_output" }
parameters { key: "predict_proba" value { string_value: "true" } }
"""


def payments(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Random payments (count, 6), some values missing, and whether each is fraud."""
    rng = np.random.default_rng(seed)
    amount = rng.lognormal(3, 1.2, count)
    hour, distance = rng.integers(0, 24, count), rng.exponential(20, count)
    since, merchant, age = rng.exponential(600, count), rng.integers(0, 8, count), rng.uniform(0, 2000, count)
    risk = 0.8 * (amount > 80) + 1.2 * (distance > 60) + (hour < 5) + 0.9 * (since < 20)
    fraud = risk + 0.7 * np.isin(merchant, (2, 5)) - 0.0004 * age + rng.normal(0, 0.5, count) > 1.6
    rows = np.stack((amount, hour, distance, since, merchant, age), axis=1).astype(np.float32)
    rows[rng.random(count) < 0.1, 2] = np.nan
    return rows, fraud.astype(np.float32)


def main() -> None:
    import xgboost

    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("model", type=Path, help="folder to write, such as models/fraud")
    folder = arguments.parse_args().model
    rows, fraud = payments(20_000, 0)
    types = ["c" if name == "merchant" else "q" for name in COLUMNS]
    data = xgboost.DMatrix(rows, fraud, feature_names=list(COLUMNS), feature_types=types, enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "eta": 0.2}, data, 100)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / "1" / "xgboost.ubj")
    (folder / "config.pbtxt").write_text(CONFIG)
    print(f"{folder}: 100 trees, {fraud.mean():.1%} of the payments were fraud")


if __name__ == "__main__":
    main()
