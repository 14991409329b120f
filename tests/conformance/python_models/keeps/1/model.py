"""Keeps the tensors and arrays of earlier requests and looks at them later."""

import triton_python_backend_utils as pb_utils
from helpers import text


class TritonPythonModel:
    def initialize(self, args):
        self.tensors, self.arrays = [], []

    def execute(self, requests):
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "FP")
            self.tensors.append(tensor)
            self.arrays.append(tensor.as_numpy())
        seen = [
            f"{tensor.as_numpy().sum():g} {array.sum():g}"
            for tensor, array in zip(self.tensors, self.arrays, strict=True)
        ]
        return [text(*seen) for _ in requests]
