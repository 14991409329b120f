"""Third step of the ensemble `ocr`: cuts the lines that were found out of the picture."""

import numpy as np
import triton_python_backend_utils as pb_utils
from detection import crop, find_boxes
from PIL import Image
from recognition import together


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        picture = Image.fromarray(pb_utils.get_input_tensor_by_name(request, "PICTURE").as_numpy())
        found = pb_utils.get_input_tensor_by_name(request, "MAP").as_numpy()[0]
        boxes = find_boxes(found, picture.size)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("LINES", together([crop(picture, box) for box in boxes])),
                pb_utils.Tensor("BOXES", np.array(boxes, dtype=np.float32).reshape(-1, 4, 2)),
            ]
        )
