"""The whole OCR pipeline as one model; `pipeline.py` and what it needs lie beside this file."""

import io
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, UnidentifiedImageError
from pipeline import DETECTION_MODEL, RECOGNITION_MODEL, read_text
from recognition import read_dictionary

# Inputs and outputs of the two networks.
NAMES = {DETECTION_MODEL: ("x", "sigmoid_0.tmp_0"), RECOGNITION_MODEL: ("x", "softmax_11.tmp_0")}


def infer(model, data):
    """Runs one of the two networks where it is served."""
    input_name, output_name = NAMES[model]
    call = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=[output_name], inputs=[pb_utils.Tensor(input_name, data)]
    )
    response = call.exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return pb_utils.get_output_tensor_by_name(response, output_name).as_numpy()


class TritonPythonModel:
    def initialize(self, args):
        self.dictionary = read_dictionary(Path(args["model_repository"]) / "dictionary.txt")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        content = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[0]
        try:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
        except (UnidentifiedImageError, OSError) as problem:
            error = pb_utils.TritonError(f"IMAGE is no picture: {problem}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        lines = read_text(picture, infer, self.dictionary)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("TEXT", np.array([line.text for line in lines], dtype=object)),
                pb_utils.Tensor("CONFIDENCE", np.array([line.confidence for line in lines], dtype=np.float32)),
                pb_utils.Tensor(
                    "CORNERS", np.array([line.corners for line in lines], dtype=np.float32).reshape(-1, 4, 2)
                ),
            ]
        )
