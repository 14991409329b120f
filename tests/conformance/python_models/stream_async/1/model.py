"""Decoupled with a coroutine: waits as long as DELAY says, then answers; requests overlap."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    async def execute(self, requests):
        for request in requests:
            delay = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
            await asyncio.sleep(float(delay[0]))
            tensor = pb_utils.Tensor("DELAY_OUT", np.array(delay))
            request.get_response_sender().send(pb_utils.InferenceResponse([tensor]), flags=FINAL)
