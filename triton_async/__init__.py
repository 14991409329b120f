"""triton-async: a drop-in replacement for NVIDIA Triton Inference Server. Importing it loads no engine."""

from triton_async.version import VERSION as __version__

__all__ = ["__version__"]
