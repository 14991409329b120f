"""Signatures, requests and instances for tests of the request path without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from triton_async.backends.base import PythonInstance, execute_requests
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor, from_numpy, make
from triton_async.memory.slab import SlabPool

FP32, INT32, INT64, BYTES, BF16 = (from_name(name) for name in ("FP32", "INT32", "INT64", "BYTES", "BF16"))


def spec(name: str, datatype: str = "FP32", dims: Sequence[int] = (-1,), **more: Any) -> TensorSpec:
    return TensorSpec(name, from_name(datatype), dims, **more)


def tensor(name: str, datatype: str, shape: Sequence[int], data: Any = b"") -> Tensor:
    return make(name, from_name(datatype), shape, data)


def request(*inputs: Tensor, outputs: Sequence[str] = (), **more: Any) -> InferRequest:
    return InferRequest("m", inputs=list(inputs), outputs=[RequestedOutput(name) for name in outputs], **more)


class FunctionInstance(PythonInstance):
    """An instance that runs a function of the whole batch's input tensors."""

    def __init__(self, function: Callable[[list[Tensor | None]], Any]) -> None:
        self.lent = SlabPool(1 << 16)
        super().__init__("m_0_0", self.lent)
        self.function = function

    def run(self, inputs: list[Tensor | None]) -> Any:
        return self.function(inputs)


def execute(
    signature: ModelSignature, function: Callable[[list[Tensor | None]], Any], requests: Sequence[InferRequest]
) -> list[InferResponse]:
    """Runs the requests as one batch through `function`."""
    return execute_requests(FunctionInstance(function), signature, requests)


def fp32(name: str, values: Any) -> Tensor:
    return from_numpy(name, np.asarray(values, np.float32))


def arrays(response: InferResponse) -> dict[str, np.ndarray]:
    """Copies of the outputs; raises the error of a failed response."""
    if response.error is not None:
        raise response.error
    return {output.name: output.numpy().copy() for output in response.outputs}
