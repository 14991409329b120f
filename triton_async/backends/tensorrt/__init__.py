"""TensorRT and TensorRT-RTX: plans, plans built from ONNX models, and their execution contexts.

No run has shown it to work on a GPU: the one tried, an H100, is none that TensorRT-RTX 1.7 knows
(bench/results/gpu-h100.md). Tested against the real libraries as far as they go without a GPU, and on a fake driver.
"""

from triton_async.backends.tensorrt.backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
