"""A real server of Python models that ask each other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))

from core_harness import run, running

from triton_async.backends.registry import BackendRegistry
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy

# What models begin with.
HEAD = """
import asyncio
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def ask(model, x, **more):
    return pb_utils.InferenceRequest(
        model_name=model, inputs=[pb_utils.Tensor("X", x)], requested_output_names=["Y"], **more
    )


def x_of(request):
    return pb_utils.get_input_tensor_by_name(request, "X").as_numpy()


def y(array):
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", array)])


def or_error(response, change=lambda array: array):
    if response.has_error():
        return pb_utils.InferenceResponse(error=response.error())
    return y(change(pb_utils.get_output_tensor_by_name(response, "Y").as_numpy()))


class TritonPythonModel:
"""


def write(
    root: Path, name: str, code: str, target: str = "", *, instances: int = 1, decoupled: bool = False,
    isolated: bool = False, more: str = "",
) -> None:
    """A model; `target` stands for NEXT in its code, `more` is added to its config."""
    directory = root / name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    (directory / "1/model.py").write_text(HEAD + code.replace("NEXT", target))
    (directory / "config.pbtxt").write_text(
        f"""backend: "python"
        input {{ name: "X" data_type: TYPE_FP32 dims: -1 }}
        output {{ name: "Y" data_type: TYPE_FP32 dims: -1 }}
        instance_group {{ kind: KIND_CPU count: {instances} }}
        model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}
        parameters {{ key: "ISOLATION" value {{ string_value: "{"process" if isolated else "none"}" }} }}
        {more}"""
    )


def request(name: str, *values: float) -> InferRequest:
    return InferRequest(name, inputs=[from_numpy("X", np.float32(values))])


async def ask(server: InferenceServer, name: str, *values: float) -> list[float]:
    async with asyncio.timeout(30):
        response = await server.infer(request(name, *values))
    found: list[float] = response.outputs[0].numpy().tolist()
    return found


async def problem(server: InferenceServer, name: str, *values: float) -> str:
    with pytest.raises(ServerError) as caught:
        await ask(server, name, *values)
    text: str = caught.value.message
    return text


def with_server(root: Path, test: Callable[[InferenceServer], Awaitable[Any]], *options: str) -> None:
    async def main() -> None:
        backends = BackendRegistry()
        async with running(root, *options, backends=backends) as server:
            await test(server)
        backends.close()

    run(main)
