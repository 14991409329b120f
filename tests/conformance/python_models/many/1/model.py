"""Decoupled, called by other models: sends as many responses as X has elements; a negative one is an error."""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def response(value):
    if value < 0:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"no answer to {value:g}"))
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([value], dtype=np.float32))])


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            values = pb_utils.get_input_tensor_by_name(request, "X").as_numpy().tolist()
            # 99 closes together with its response, everything else with an empty one.
            for value in values:
                sender.send(response(value), flags=FINAL if value == 99 else 0)
            if 99 not in values:
                sender.send(flags=FINAL)
