"""The TensorFlow backend: frozen graphs and SavedModels, run by TensorFlow where it is installed, else by OpenVINO."""

from triton_async.backends.tensorflow.backend import TensorFlowBackend

__all__ = ["TensorFlowBackend"]
