"""A default-mode model for generate: PROMPT comes back COUNT times, with what else was in the request."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            responses.append(self.answer(request))
        return responses

    def answer(self, request):
        prompt = pb_utils.get_input_tensor_by_name(request, "PROMPT")
        values = prompt.as_numpy().reshape(-1)
        if values.size and values[0] == b"fail":
            raise ValueError("asked to fail")
        if values.size and values[0] == b"error":
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError("an error response", pb_utils.TritonError.INVALID_ARG)
            )
        count = pb_utils.get_input_tensor_by_name(request, "COUNT")
        repeat = 1 if count is None else int(count.as_numpy().reshape(-1)[0])
        told = f"{request.request_id()}|{request.parameters()}|{prompt.shape()}"
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("TEXT", np.array([b" ".join(values.tolist())] * repeat, dtype=object)),
                pb_utils.Tensor("TOLD", np.array([told], dtype=object)),
                pb_utils.Tensor("SCORE", np.array([0.5], dtype=np.float32)),
                pb_utils.Tensor("FLAG", np.array([True])),
            ]
        )
