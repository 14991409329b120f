"""Calls other models from an `async def execute`."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import said, what


async def ask(model, value, **more):
    tensor = pb_utils.Tensor("X", np.array([value], dtype=np.float32))
    call = pb_utils.InferenceRequest(model_name=model, requested_output_names=["Y"], inputs=[tensor])
    response = await call.async_exec(**more)
    if more:
        return [one.output_tensors()[0].as_numpy().tolist() if one.output_tensors() else [] for one in response]
    return response.error().message() if response.has_error() else response.output_tensors()[0].as_numpy().tolist()


class TritonPythonModel:
    async def execute(self, requests):
        responses = []
        for request in requests:
            responses.append(said(await getattr(self, what(request))()))
        return responses

    async def one(self):
        return await ask("inner", 1)

    async def together(self):
        return await asyncio.gather(*(ask(model, 2) for model in ("inner", "middle", "nobody", "inner")))

    async def stream(self):
        return await ask("many", 3, decoupled=True)

    async def sleeps(self):
        await asyncio.sleep(0.01)
        return "slept"

    async def fails(self):
        await asyncio.sleep(0)
        raise ValueError("in a coroutine")
