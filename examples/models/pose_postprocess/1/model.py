"""Last step of the ensemble `hrnet_pose_estimate`."""

import numpy as np
import triton_python_backend_utils as pb_utils
from pose import locate


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        maps = pb_utils.get_input_tensor_by_name(request, "MAPS").as_numpy()
        sizes = pb_utils.get_input_tensor_by_name(request, "SIZE").as_numpy()
        points = np.stack([locate(*row) for row in zip(maps, sizes, strict=True)])
        return pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", points)])
