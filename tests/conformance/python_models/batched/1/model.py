"""Runs three requests at a time; the input WHAT of each says how its own response or the batch fails."""

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import floats, lines, what


class TritonPythonModel:
    def execute(self, requests):
        words = [what(request) for request in requests]
        if "raise" in words:
            raise RuntimeError("the batch fails")
        if "few" in words:
            return [self.answer(words, word, request) for word, request in zip(words[1:], requests, strict=False)]
        return [self.answer(words, word, request) for word, request in zip(words, requests, strict=True)]

    def answer(self, words, word, request):
        if word == "error":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("only this request fails"))
        if word == "write":
            pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy()[:] = b"written"
        if word == "shape":
            return pb_utils.InferenceResponse([floats(*range(len(words)))])
        rows = np.full([1, 1], len(words), np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", rows), lines([",".join(words)])])
