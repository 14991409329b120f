"""Keeps what it was asked, and tells it."""

import triton_python_backend_utils as pb_utils
from helpers import text

ASKED = []


def shown(request):
    found = [repr(request.request_id()), ",".join(sorted(request.requested_output_names()))]
    for name in ("WHAT", "X"):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is not None:
            found.append(f"{name}={tensor.as_numpy().tolist()}")
    return " ".join(found)


class TritonPythonModel:
    def execute(self, requests):
        ASKED.append("; ".join(shown(request) for request in requests))
        responses = []
        for request in requests:
            word = pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy().reshape(-1)[0]
            if word == b"refuse":
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("not today")))
            else:
                responses.append(text(*ASKED))
        return responses
