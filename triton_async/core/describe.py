"""What a model says of itself: v2 model metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from triton_async import datatypes
from triton_async.config.model_config import ModelConfig
from triton_async.infer.signature import ModelSignature, TensorSpec


def model_metadata(signature: ModelSignature, config: ModelConfig, versions: Iterable[int]) -> dict[str, Any]:
    """v2 metadata; shapes start with -1 when the model has a batch dimension."""

    def describe(tensors: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        batch = [-1] if signature.max_batch_size > 0 else []
        return [
            {"name": t.name, "datatype": datatypes.to_name(t.datatype), "shape": [*batch, *t.dims]}
            for t in tensors
        ]

    return {
        "name": signature.model_name,
        "versions": [str(version) for version in versions],
        "platform": config.platform_or_backend,
        "inputs": describe(signature.client_inputs),
        "outputs": describe(signature.client_outputs),
    }
