"""The OpenVINO backend: IR and ONNX on the CPU. OpenVINO is loaded with the first model."""

from triton_async.backends.openvino.backend import OpenVINOBackend

__all__ = ["OpenVINOBackend"]
