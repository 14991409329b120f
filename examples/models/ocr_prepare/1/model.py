"""First step of the ensemble `ocr`: decodes a picture and scales it for the detection network."""

import io

import numpy as np
import triton_python_backend_utils as pb_utils
from detection import prepare
from PIL import Image, UnidentifiedImageError


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        content = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[0]
        try:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
        except (UnidentifiedImageError, OSError) as problem:
            error = pb_utils.TritonError(f"IMAGE is no picture: {problem}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("PICTURE", np.asarray(picture)), pb_utils.Tensor("SCALED", prepare(picture)[0])]
        )
