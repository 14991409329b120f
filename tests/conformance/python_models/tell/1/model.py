"""Tells what a request looks like from inside."""

import triton_python_backend_utils as pb_utils
from helpers import said


def _inputs(request):
    # In whatever order: the real server's is that of a hash table.
    tensors = sorted(request.inputs(), key=lambda tensor: tensor.name())
    return [[tensor.name(), list(tensor.shape()), tensor.as_numpy().dtype.str] for tensor in tensors]


def describe(request):
    """All that a request tells of itself, but for whether it is cancelled."""
    names = request.requested_output_names()
    absent = pb_utils.get_input_tensor_by_name(request, "NOBODY")
    return {
        "id": request.request_id(),
        "correlation": request.correlation_id(),
        "flags": request.flags(),
        "timeout": request.timeout(),
        "parameters": request.parameters(),
        "outputs": sorted(names),
        "outputs_type": type(names).__name__,
        "inputs": _inputs(request),
        "absent": repr(absent),
        "cancelled": request.is_cancelled(),
    }


class TritonPythonModel:
    def execute(self, requests):
        return [said(describe(request)) for request in requests]
