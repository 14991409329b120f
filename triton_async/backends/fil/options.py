"""A model's parameters, in the words of Triton's FIL backend where it has them. Load threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triton_async.errors import InvalidArg, Unsupported

# Values of model_type, and the names of their files. FIL's, and pickles.
FILES = {
    "xgboost": "xgboost.model",
    "xgboost_json": "xgboost.json",
    "xgboost_ubj": "xgboost.ubj",
    "lightgbm": "model.txt",
    "treelite_checkpoint": "checkpoint.tl",
    "pickle": "model.pkl",
}

# What FIL takes for GPUs, or for its own thread pool and layouts.
IDLE = (
    "algo", "blocks_per_sm", "chunk_size", "cpu_nthread", "layout", "storage_type", "threads_per_tree",
    "transfer_threshold", "use_experimental_optimizations",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve a model. `model_type` "": whatever the file is. `is_classifier` None: as its objective says."""

    model_type: str = ""
    predict_proba: bool = False
    is_classifier: bool | None = None
    threshold: float = 0.5
    allow_unknown: bool = False
    best_iteration: bool = False
    output_margin: bool = False
    rounded: bool = False
    missing: float | None = None
    idle: tuple[str, ...] = ()


def model_options(proto: Any) -> Options:
    """Options of a model. InvalidArg or Unsupported, naming model and parameter, for a value that can not be."""
    where = f"model '{proto.name}': "
    parameters = {name: value.string_value for name, value in proto.parameters.items()}
    model_type = parameters.get("model_type", "")
    if model_type and model_type not in FILES:
        raise Unsupported(
            f"{where}{model_type} not recognized as a valid serialization format. Parameter 'model_type' is one of "
            f"{', '.join(FILES)}"
        )
    classifier = _flag(where, parameters, "is_classifier")
    older = _flag(where, parameters, "output_class")
    if classifier is not None and older is not None and classifier is not older:
        raise InvalidArg(
            f"{where}parameters 'is_classifier' and 'output_class' mean the same and contradict each other"
        )
    precision = parameters.get("precision", "exact")
    if precision not in ("exact", "f32"):
        raise InvalidArg(f"{where}parameter 'precision' is '{precision}', expected 'exact' or 'f32'")
    threshold = _number(where, parameters, "threshold")
    return Options(
        model_type=model_type,
        predict_proba=bool(_flag(where, parameters, "predict_proba")),
        is_classifier=older if classifier is None else classifier,
        threshold=0.5 if threshold is None else threshold,
        allow_unknown=bool(_flag(where, parameters, "xgboost_allow_unknown_field")),
        best_iteration=bool(_flag(where, parameters, "best_iteration")),
        output_margin=bool(_flag(where, parameters, "output_margin")),
        rounded=precision == "f32",
        missing=_number(where, parameters, "missing"),
        idle=tuple(name for name in IDLE if name in parameters),
    )


def _flag(where: str, parameters: Mapping[str, str], name: str) -> bool | None:
    text = parameters.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise InvalidArg(f"{where}Expected 'true' or 'false' for parameter '{name}', got: '{text}'")
    return text == "true"


def _number(where: str, parameters: Mapping[str, str], name: str) -> float | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        if name == "missing" and text.strip().lower() == "nan":
            return None  # which is missing always
        raise InvalidArg(f"{where}Bad input for parameter {name}: '{text}', expected a number")
    return value
