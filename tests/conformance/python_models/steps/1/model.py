"""Adds up what each sequence sends, and tells what it sees of its request."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.totals = {}
        self.passes = {}

    def execute(self, requests):
        # The real server shows slots without a request as requests of nobody.
        return [self.answer(request) if request.correlation_id() else self.nobody() for request in requests]

    def nobody(self):
        return pb_utils.InferenceResponse([])

    def answer(self, request):
        key, flags = request.correlation_id(), request.flags()
        value = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self.totals[key] = 0.0
            self.passes[key] = 0
        self.passes[key] = self.passes.get(key, 0) + 1
        if value.flat[0] < 0 and self.passes[key] < -value.flat[0]:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return None
        self.totals[key] = self.totals.get(key, 0.0) + float(value.flat[0])
        seen = {
            tensor.name(): [str(tensor.as_numpy().dtype), list(tensor.shape()), tensor.as_numpy().reshape(-1).tolist()]
            for tensor in request.inputs()
        }
        told = {"flags": flags, "passes": self.passes[key], "inputs": seen}
        text = np.array([json.dumps(told, sort_keys=True)], dtype=object).reshape(value.shape)
        total = np.full(value.shape, self.totals[key], np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("TOTAL", total), pb_utils.Tensor("TOLD", text)])
