"""Instances on the host, and of models that place themselves. The host's bytes are the tensors: nothing is copied."""

from __future__ import annotations

from typing import Any

from triton_async.backends.base import PythonInstance
from triton_async.backends.pytorch.calls import Caller
from triton_async.backends.pytorch.tensors import Converter
from triton_async.infer.tensor import Tensor
from triton_async.memory.slab import SlabPool


class PyTorchInstance(PythonInstance):
    """Runs batches in PyTorch's eager or TorchScript interpreter, which release the GIL inside their operators."""

    def __init__(self, name: str, pool: SlabPool, caller: Caller, converter: Converter) -> None:
        super().__init__(name, pool)
        self._caller = caller
        self._converter = converter

    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]:
        """Outputs in the order of the config."""
        binding, converter = self._caller.binding, self._converter
        with self._caller.running():
            values: list[Any] = [
                None if tensor is None else converter.argument(tensor, private)
                for tensor, private in zip(inputs, binding.private, strict=True)
            ]
            found = self._caller.call(values)
            return [
                converter.result(io.name, io.datatype, ones, value, lent)
                for io, ones, value, lent in zip(binding.outputs, binding.ones, found, binding.lent, strict=True)
            ]

    def close(self) -> None:
        """Drops the program; memory that responses still show lives on."""
        self._caller.close()
