"""Is called by other models. MODE says how it answers; X comes back doubled."""

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import lines


def describe(request):
    names = ",".join(sorted(request.requested_output_names()))
    numbers = f"{request.correlation_id()!r} {request.flags()} {request.timeout()}"
    return lines(request.request_id(), numbers, request.parameters(), names)


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            responses.append(self.answer(request))
        return responses

    def answer(self, request):
        mode = pb_utils.get_input_tensor_by_name(request, "MODE")
        mode = "double" if mode is None else mode.as_numpy()[0].decode()
        array = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        if mode == "raise":
            raise ValueError("the inner model fails")
        if mode == "error":
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError("no such thing", pb_utils.TritonError.NOT_FOUND)
            )
        if mode == "write":
            array += 100
        outputs = [pb_utils.Tensor("Y", array * np.float32(2)), describe(request)]
        return pb_utils.InferenceResponse(outputs if mode != "nothing" else [])
