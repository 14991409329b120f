"""Counts to the first number, one response each; the second says how it ends: 0 closes behind them, 1 with the last
one, 2 with an error in the middle.
"""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count, way = pb_utils.get_input_tensor_by_name(request, "X").as_numpy().reshape(-1)[:2]
            self.send(request.get_response_sender(), int(count), int(way))

    def send(self, sender, count, way):
        for number in range(count):
            if way == 2 and number == 1:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("mid")))
                continue
            last = way == 1 and number == count - 1
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            sender.send(
                pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([number, 1], np.float32))]), flags=flags
            )
        if way != 1 or count == 0:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
