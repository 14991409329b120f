"""One way to make the same request with tritonclient's HTTP and gRPC modules."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from server_process import ServerProcess
from tritonclient.utils import np_to_triton_dtype

Array = npt.NDArray[Any]

PROTOCOLS = ("http", "grpc")


def client_module(protocol: str, flavour: str = "") -> Any:
    """`tritonclient.http`, or with the flavour ".aio" its asyncio twin."""
    return importlib.import_module(f"tritonclient.{protocol}{flavour}")


def make_inputs(module: Any, arrays: Mapping[str, Array]) -> list[Any]:
    """One InferInput per array, binary where the protocol knows the difference."""
    inputs = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def infer(
    server: ServerProcess,
    protocol: str,
    model: str,
    arrays: Mapping[str, Array],
    outputs: Sequence[str],
    **options: Any,
) -> list[Array]:
    """One request over a connection of its own; the named outputs as arrays."""
    module = client_module(protocol)
    wanted = [module.InferRequestedOutput(name) for name in outputs]
    with module.InferenceServerClient(server.url(protocol)) as client:
        result = client.infer(model, make_inputs(module, arrays), outputs=wanted, **options)
        return [result.as_numpy(name) for name in outputs]


def add_sub_rows(number: int, rows: int = 1) -> tuple[dict[str, Array], list[Array]]:
    """Inputs that no other `number` has, and the right answers."""
    left = np.arange(16 * rows, dtype=np.int32).reshape(rows, 16) + 1000 * number
    right = np.full((rows, 16), number, dtype=np.int32)
    return {"INPUT0": left, "INPUT1": right}, [left + right, left - right]


def assert_add_sub(result: Any, expected: Sequence[Array]) -> None:
    """The result of a tritonclient call holds the expected sum and difference."""
    for name, array in zip(("OUTPUT0", "OUTPUT1"), expected, strict=True):
        assert np.array_equal(result.as_numpy(name), array), name
