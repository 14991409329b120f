"""TensorRT and TensorRT-RTX: plans, plans built from ONNX models, and their execution contexts."""

from triton_async.backends.tensorrt.backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
