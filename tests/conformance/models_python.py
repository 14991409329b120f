"""The Python-backend form of the conformance models."""

from __future__ import annotations

from .models import Model

# BF16 has no numpy type, so a copy of it goes by DLPack.
_TEMPLATE = """
import time
import triton_python_backend_utils as pb_utils

WIRING = {wiring!r}
DTYPES = {dtypes!r}


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        wanted = request.requested_output_names()
        outputs = []
        for name, operation, *sources in WIRING:
            tensors = [pb_utils.get_input_tensor_by_name(request, source) for source in sources]
            if name in wanted:
                outputs.append(self.output(name, operation, [t for t in tensors if t is not None]))
        return pb_utils.InferenceResponse(output_tensors=outputs)

    def output(self, name, operation, tensors):
        if operation == "slow":
            time.sleep(0.5)
        if DTYPES[name] == "BF16":
            return pb_utils.Tensor.from_dlpack(name, tensors[0].to_dlpack())
        arrays = [tensor.as_numpy() for tensor in tensors]
        result = arrays[0]
        if operation == "add" and len(arrays) > 1:
            result = arrays[0] + arrays[1]
        if operation == "sub":
            result = arrays[0] - arrays[1]
        return pb_utils.Tensor(name, result)
"""


def model_file(model: Model) -> bytes:
    """The model.py of `model`."""
    wiring = [(output.name, *how) for output, how in zip(model.outputs, model.wiring, strict=True)]
    dtypes = {output.name: output.dtype for output in model.outputs}
    return _TEMPLATE.format(wiring=wiring, dtypes=dtypes).lstrip().encode()
