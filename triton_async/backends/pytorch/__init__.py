"""The PyTorch backend: TorchScript, exported programs, AOTInductor packages. PyTorch is loaded with the first model."""

from triton_async.backends.pytorch.backend import PyTorchBackend

__all__ = ["PyTorchBackend"]
