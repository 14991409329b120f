"""Last step of the ensemble `ocr`: characters into text; lines at which the recogniser is guessing are left out."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from recognition import LEAST_CONFIDENCE, decode, read_dictionary


class TritonPythonModel:
    def initialize(self, args):
        self.dictionary = read_dictionary(Path(args["model_repository"]) / "dictionary.txt")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "CHARACTERS").as_numpy()
        boxes = pb_utils.get_input_tensor_by_name(request, "BOXES").as_numpy()
        # Where no line was found there is a row without a box: the network takes no empty tensor.
        lines = [(*decode(row, self.dictionary), box) for row, box in zip(rows[: len(boxes)], boxes, strict=True)]
        lines = [line for line in lines if line[1] >= LEAST_CONFIDENCE]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("TEXT", np.array([text for text, _, _ in lines], dtype=object)),
                pb_utils.Tensor("CONFIDENCE", np.array([sure for _, sure, _ in lines], dtype=np.float32)),
                pb_utils.Tensor("CORNERS", np.array([box for *_, box in lines], dtype=np.float32).reshape(-1, 4, 2)),
            ]
        )
