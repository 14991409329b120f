"""Mutations of model files of forests, and what must hold of each: a Fault, or a forest that answers. Shared by the
seeded tests and tests/fuzz. Only our own readers see them.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
from fil_models import LIGHTGBM, document, stump, ubjson

from triton_async.backends.fil import lightgbm_text, xgboost_model
from triton_async.backends.fil.ensemble import Ensemble, Fault
from triton_async.backends.fil.forest import Forest
from triton_async.backends.fil.layout import lay_out

_NUMBERS = (0, 1, 2, 3, -1, -2, 4, 5, 31, 32, 33, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**31, 2**32)
_ODD = (*_NUMBERS, 2**62, -(2**63), 1e308, -1e308, 1e-45, 0.5, float("nan"), float("inf"), -float("inf"))


def deep_tree() -> dict[str, Any]:
    """Five nodes, with a split by categories."""
    made = stump()
    made.update(
        left_children=[1, 3, -1, -1, -1], right_children=[2, 4, -1, -1, -1], split_indices=[0, 2, 0, 0, 0],
        split_conditions=[0.5, 1, 3, 0.25, -0.25], default_left=[1, 0, 0, 0, 0], sum_hessian=[9, 6, 3, 2, 4],
        split_type=[0, 1, 0, 0, 0], categories=[1, 3, 40], categories_nodes=[1], categories_segments=[0],
        categories_sizes=[3], base_weights=[0] * 5, loss_changes=[0] * 5, parents=[2147483647, 0, 0, 1, 1],
    )  # fmt: skip
    made["tree_param"]["num_nodes"] = "5"
    return made


def vector_tree() -> dict[str, Any]:
    """A stump whose leaves are vectors of two."""
    made = stump()
    made.update(right_children=[2, 0, 1], leaf_weights=[1.0, 2.0, 3.0, 4.0])
    made["tree_param"]["size_leaf_vector"] = "2"
    return made


def seeds() -> dict[str, bytes]:
    """A small file for each format and form."""
    documents = {
        "binary": document(stump(), deep_tree()),
        "classes": document(stump(), deep_tree(), stump(2), objective="multi:softprob", classes=3, base="[0,1,2]"),
        "vectors": document(vector_tree(), objective="reg:squarederror", targets=2),
        "dart": document(stump(), stump(), objective="reg:gamma"),
    }
    documents["dart"]["learner"]["gradient_booster"]["model"]["weight_drop"] = [0.5, 1.0]
    documents["vectors"]["learner"]["gradient_booster"]["model"]["tree_info"] = [0]
    found = {f"{name}.json": json.dumps(made).encode() for name, made in documents.items()}
    found.update({f"{name}.ubj": ubjson(made) for name, made in documents.items()})
    found["lightgbm.txt"] = LIGHTGBM.encode()
    return found


def read(data: bytes) -> Ensemble:
    """The ensemble in `data`, of whichever format it looks like."""
    return lightgbm_text.read(data) if data[:4] == b"tree" else xgboost_model.read(data)


def check_forest(data: bytes) -> str:
    """"refused", or "answered": then every row has its answer, one by one and together."""
    try:
        ensemble = read(data)
        if ensemble.n_features > 1000 or ensemble.n_outputs > 1000:
            return "large"
        layouts = [lay_out(ensemble)]
        if not ensemble.float32:
            layouts.append(lay_out(ensemble, wide=True))
    except Fault as fault:
        assert fault.message
        return "refused"
    rng = np.random.default_rng(len(data))
    rows = rng.choice(np.array([0, 1, -1, 0.5, 3, 40, 1e30, np.nan, np.inf, -np.inf]), (19, ensemble.n_features))
    for layout in layouts:
        forest = Forest(ensemble, layout, 0, 0, double_rows=layout.wide, double_answers=not ensemble.float32)
        together = forest.answers(rows)
        alone = np.concatenate([forest.answers(row[None]) for row in rows])
        assert np.array_equal(together, alone, equal_nan=True)
        walked = Forest(
            ensemble, replace(layout, ranks=None), 0, 0, double_rows=layout.wide, double_answers=not ensemble.float32
        )
        assert np.array_equal(together, walked.answers(rows), equal_nan=True)
    try:
        explained = lay_out(ensemble, shap=True)
    except Fault:
        return "answered"
    Forest(ensemble, explained, 0, 0).contributions(rows[:2])
    return "answered"


# -- mutations -------------------------------------------------------------------------------------


def mutate_document(choose: random.Random, found: list[bytes]) -> bytes:
    """A document with some values changed, in JSON or UBJSON."""
    documents = [json.loads(data) for data in found if data[:2] == b'{"']
    made = choose.choice(documents)
    for _ in range(choose.randint(1, 3)):
        _change(choose, made)
    try:
        return ubjson(made) if choose.random() < 0.4 else json.dumps(made).encode()
    except Exception:  # what UBJSON has no word for here
        return json.dumps(made).encode()


def _change(choose: random.Random, made: Any) -> None:
    while True:
        keys = list(made) if isinstance(made, dict) else list(range(len(made)))
        if not keys:
            return
        key = choose.choice(keys)
        value = made[key]
        if isinstance(value, (dict, list)) and value and choose.random() < 0.9:
            made = value
            continue
        what = choose.random()
        if what < 0.1:
            del made[key]
        elif what < 0.2:
            made[key] = choose.choice([None, [], {}, "", "x", True, [1], "[1,2]"])
        elif what < 0.3 and isinstance(made, list):
            made.append(choose.choice(_ODD))
        else:
            odd = choose.choice(_ODD)
            made[key] = str(odd) if isinstance(value, str) else odd
        return


def mutate_text(choose: random.Random, found: list[bytes]) -> bytes:
    """LightGBM's text with numbers changed, lines gone or twice."""
    lines = choose.choice([data for data in found if data[:4] == b"tree"]).decode().splitlines(keepends=True)
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(lines))
        what = choose.random()
        if what < 0.15:
            del lines[at]
        elif what < 0.3:
            lines.insert(at, choose.choice(lines))
        else:
            numbers = list(re.finditer(r"-?\d+(\.\d+)?", lines[at]))
            if numbers:
                one = choose.choice(numbers)
                lines[at] = lines[at][: one.start()] + str(choose.choice(_ODD)) + lines[at][one.end() :]
        if not lines:
            break
    return "".join(lines).encode()


def mutate_bytes(choose: random.Random, found: list[bytes]) -> bytes:
    """Bytes changed, cut, or put in."""
    data = bytearray(choose.choice(found))
    for _ in range(choose.randint(1, 4)):
        if not data:
            break
        at = choose.randrange(len(data))
        what = choose.random()
        if what < 0.5:
            data[at] = choose.randrange(256)
        elif what < 0.7:
            data[at : at + 8] = choose.choice(_NUMBERS).to_bytes(8, "big", signed=True)
        elif what < 0.85:
            del data[at : at + choose.randint(1, 30)]
        else:
            data[at:at] = choose.choice(found)[: choose.randint(1, 40)]
    return bytes(data)


MUTATORS = (mutate_document, mutate_text, mutate_bytes)
