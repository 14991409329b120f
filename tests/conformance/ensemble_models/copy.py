"""Gives its first input as every output, or in TEXT what it was asked; `noout` gives nothing, `fail` an error."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"]
        self.outputs = json.loads(args["model_config"])["output"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if self.name == "fail":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("no way", pb_utils.TritonError.NOT_FOUND))
        if self.name == "noout":
            return pb_utils.InferenceResponse([])
        wanted = request.requested_output_names()
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = []
        for output in self.outputs:
            name = output["name"]
            if name not in wanted:
                continue
            if name == "TEXT":
                array = np.array([self.told(request, arrays).encode()], dtype=object)
            else:
                array = arrays["X"].astype(pb_utils.triton_string_to_numpy(output["data_type"]))
            outputs.append(pb_utils.Tensor(name, array))
        return pb_utils.InferenceResponse(outputs)

    def told(self, request, arrays):
        shapes = {name: list(arrays[name].shape) for name in sorted(arrays)}
        return json.dumps([
            shapes, request.request_id(), request.correlation_id(), request.flags(), request.timeout(),
            json.loads(request.parameters()),
        ])  # fmt: skip
