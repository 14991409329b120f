"""Linear trees: LightGBM itself answers. Load threads and instance threads."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from triton_async.backends.base import PythonInstance
from triton_async.backends.fil.ensemble import Ensemble, Fault
from triton_async.backends.fil.forest import Forest
from triton_async.errors import Unsupported
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor
from triton_async.memory.slab import SlabPool


def attach(ensemble: Ensemble, data: bytes) -> Ensemble:
    """Makes LightGBM's own booster of the file, whose trees have linear leaves. Unsupported without LightGBM."""
    try:
        lightgbm = import_module("lightgbm")
    except ImportError as error:
        raise Unsupported(
            f"its trees have linear leaves, which LightGBM itself answers for, and it can not be imported ({error}): "
            "install triton-async[fil], or train without linear_tree"
        ) from None
    try:
        ensemble.booster = lightgbm.Booster(model_str=data.decode())
    except Exception as error:
        raise Fault(f"LightGBM {lightgbm.__version__} can not read it: {str(error)[:300]}") from None
    ensemble.notes.append(f"linear trees, answered by LightGBM {lightgbm.__version__}")
    return ensemble


class LinearInstance(PythonInstance):
    """Margins of a booster, linked by the forest's own rules. Instance thread."""

    def __init__(self, name: str, pool: SlabPool, booster: Any, forest: Forest, signature: ModelSignature) -> None:
        super().__init__(name, pool)
        self._booster, self._forest = booster, forest
        batching = signature.max_batch_size > 0
        self._shapes = [tuple(dim for dim in spec.dims[not batching :] if dim != 1) for spec in signature.outputs]

    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]:
        """Answers for the rows of the only input."""
        tensor = inputs[0]
        assert tensor is not None
        rows = tensor.numpy().reshape(-1, self._forest.n_columns)
        if not len(rows):
            margins = np.zeros((0, self._forest.n_outputs))
        else:
            margins = self._booster.predict(rows, raw_score=True, num_threads=1)
        answers = self._forest.linked(np.asarray(margins, np.float64).reshape(len(rows), -1))
        return [answers.reshape(len(rows), *self._shapes[0])]
