"""First step of the ensemble `hrnet_pose_estimate`."""

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import UnidentifiedImageError
from pose import prepare


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        contents = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy().reshape(-1)
        try:
            rows = [prepare(content) for content in contents]
        except (UnidentifiedImageError, OSError) as problem:
            error = pb_utils.TritonError(f"INPUT is no picture: {problem}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("PIXELS", np.stack([pixels for pixels, _ in rows])),
                pb_utils.Tensor("SIZE", np.stack([size for _, size in rows])),
            ]
        )
