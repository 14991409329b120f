"""Signatures, requests and answers for tests of backends, whatever their models are made with."""

from __future__ import annotations

from typing import Any

import numpy as np

from triton_async.config.model_config import ModelConfig
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor, decode_bytes, from_numpy


def signature_of(config: ModelConfig) -> ModelSignature:
    return ModelSignature(
        config.name,
        1,
        [TensorSpec(io.name, io.datatype, io.dims, io.reshape, io.optional) for io in config.inputs],
        [TensorSpec(io.name, io.datatype, io.dims, io.reshape) for io in config.outputs],
        config.max_batch_size,
    )


def request(*wanted: str, **arrays: Any) -> InferRequest:
    """A request with these inputs (arrays or Tensors) and requested outputs."""
    inputs = [
        array if isinstance(array, Tensor) else from_numpy(name, np.asarray(array)) for name, array in arrays.items()
    ]
    return InferRequest("m", inputs=inputs, outputs=[RequestedOutput(name) for name in wanted])


def values(response: InferResponse) -> dict[str, Any]:
    """Outputs by name as arrays; strings as an object array of bytes. Raises the response's error."""
    if response.error is not None:
        raise response.error
    return {output.name: value(output) for output in response.outputs}


def value(output: Tensor) -> Any:
    if output.datatype == 13:
        array = np.array([*decode_bytes(output), None], dtype=object)[:-1]
        return array.reshape(output.shape)
    return output.numpy().copy()
