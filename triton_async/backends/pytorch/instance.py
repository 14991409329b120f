"""Instances that run a batch to its end. On the host its bytes are the tensors: nothing is copied."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from triton_async.backends.base import PythonInstance
from triton_async.backends.pytorch.calls import Caller
from triton_async.backends.pytorch.tensors import Converter
from triton_async.infer.tensor import Tensor
from triton_async.memory.slab import SlabPool


class DeviceQueue:
    """A stream of a GPU for one instance, as a context manager: operators under it go there."""

    def __init__(self, torch: Any, device: str, clean_cache: bool) -> None:
        self._torch = torch
        self._stream = torch.cuda.Stream(device)
        self._clean_cache = clean_cache

    def __enter__(self) -> None:
        self._entered = self._torch.cuda.stream(self._stream)
        self._entered.__enter__()

    def __exit__(self, *error: object) -> None:
        self._entered.__exit__(*error)
        if self._clean_cache:
            self._torch.cuda.empty_cache()


class PyTorchInstance(PythonInstance):
    """Runs batches in PyTorch's eager or TorchScript interpreter, which release the GIL inside their operators."""

    def __init__(
        self, name: str, pool: SlabPool, caller: Caller, converter: Converter, queue: DeviceQueue | None = None
    ) -> None:
        super().__init__(name, pool)
        self._caller = caller
        self._converter = converter
        self._queue: AbstractContextManager[Any] = nullcontext() if queue is None else queue

    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]:
        """Outputs in the order of the config."""
        binding, converter = self._caller.binding, self._converter
        with self._caller, self._queue:
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
