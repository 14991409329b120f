"""The ONNX Runtime backend, through ONNX Runtime's C API and without the GIL. Nothing is loaded on import."""

from triton_async.backends.onnxruntime.backend import OnnxRuntimeBackend

__all__ = ["OnnxRuntimeBackend"]
