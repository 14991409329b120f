"""Calls a model in `initialize`, where that is refused."""

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import outcome, text


class TritonPythonModel:
    def initialize(self, args):
        tensor = pb_utils.Tensor("X", np.ones(1, np.float32))
        call = pb_utils.InferenceRequest(model_name="inner", requested_output_names=["Y"], inputs=[tensor])
        self.seen = outcome(call.exec)

    def execute(self, requests):
        return [text(self.seen) for _ in requests]
