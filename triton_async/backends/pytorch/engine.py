"""PyTorch on a GPU, behind the engine seam: kernels of a model on the stream of a DeviceInstance."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from triton_async.backends.device.engine import DeviceEngine, DeviceTensor
from triton_async.backends.pytorch.calls import Caller
from triton_async.backends.pytorch.tensors import BOOL, Converter, checked
from triton_async.errors import InvalidArg

# Views that an engine keeps: every batch size of two slots, for models of usual size.
_MAX_VIEWS = 512


class DeviceMemory(Protocol):
    """What differs between a GPU and the host."""

    def view(self, address: int, dims: Sequence[int], dtype: Any) -> Any:
        """A tensor over memory that somebody else owns; dims without a zero."""

    def use(self, stream: int) -> None:
        """Operators that the calling thread calls from here on go to this stream."""

    def trim(self) -> None:
        """Gives memory that is cached and not in use back to the device."""


class _Span:
    """Memory as the CUDA array interface tells it."""

    def __init__(self, address: int, dims: Sequence[int], typestr: str) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(dims), "typestr": typestr, "data": (address, False), "version": 3,
        }  # fmt: skip


class CudaMemory:
    """Memory of one GPU, by PyTorch's CUDA array interface."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = device
        self._streams: dict[int, Any] = {}
        self._current = (0, 0)

    def view(self, address: int, dims: Sequence[int], dtype: Any) -> Any:
        """See DeviceMemory. The interface names no BF16, so all types go as integers of their size."""
        span = _Span(address, dims, f"<i{dtype.itemsize}")
        return self._torch.as_tensor(span, device=self._device).view(dtype)

    def use(self, stream: int) -> None:
        """See DeviceMemory. Cheap where the thread uses it already, and nobody else sets a stream there."""
        current = stream, threading.get_ident()
        if current == self._current:
            return
        known = self._streams.get(stream)
        if known is None:
            known = self._streams[stream] = self._torch.cuda.ExternalStream(stream, device=self._device)
        self._torch.cuda.set_stream(known)
        self._current = current

    def trim(self) -> None:
        """See DeviceMemory. Waits for the device."""
        self._torch.cuda.empty_cache()


class HostMemory:
    """The host as a device: addresses are the host's and there are no streams."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def view(self, address: int, dims: Sequence[int], dtype: Any) -> Any:
        """See DeviceMemory."""
        count = 1
        for dim in dims:
            count *= dim
        block = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
        return self._torch.frombuffer(block, dtype=dtype).reshape(tuple(dims))

    def use(self, stream: int) -> None:
        """See DeviceMemory."""

    def trim(self) -> None:
        """See DeviceMemory."""


class TorchEngine(DeviceEngine):
    """One program on one device. Not capturable: PyTorch's allocator has a pool of its own for captured graphs, and
    what it gives out during a foreign capture would be given out again while the graph still writes there.
    """

    reads_in_place = True

    def __init__(self, caller: Caller, converter: Converter, memory: DeviceMemory, clean_cache: bool = False) -> None:
        self._caller = caller
        self._converter = converter
        self._memory = memory
        self._clean_cache = clean_cache
        device = converter.device
        self._device = None if device is None else converter.torch.device(device)
        self.broken = False
        # Tensors over memory of slots and regions, which stays where it is, by address, dims and type.
        self._views: dict[tuple[int, tuple[int, ...], int], Any] = {}
        # Results of the last run of each slot: their memory is the outputs'.
        self._results: dict[int, list[Any]] = {}

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        """See DeviceEngine. Memory of the run is PyTorch's, of the pool it keeps for `stream`, which stays the current
        stream of the calling thread."""
        binding = self._caller.binding
        self._results.pop(slot, None)
        if self._clean_cache:
            self._memory.trim()
        try:
            with self._caller:
                self._memory.use(stream)
                values = [
                    None if tensor is None else self._argument(tensor, io.datatype, private)
                    for tensor, io, private in zip(inputs, binding.inputs, binding.private, strict=True)
                ]
                found = self._caller.call(values)
                results = [
                    self._result(io.name, io.datatype, ones, value, lent)
                    for io, ones, value, lent in zip(binding.outputs, binding.ones, found, binding.lent, strict=True)
                ]
        finally:
            self.broken = self._caller.broken
        self._results[slot] = results
        return [DeviceTensor(r.data_ptr(), tuple(r.shape), r.numel() * r.element_size()) for r in results]

    def close(self) -> None:
        """See DeviceEngine."""
        self._results.clear()
        self._views.clear()
        self._caller.close()
        self._memory.trim()

    def _argument(self, tensor: DeviceTensor, datatype: int, private: bool) -> Any:
        key = tensor.address, tensor.dims, datatype
        view = self._views.get(key)
        if view is None:
            view = self._view(tensor, datatype)
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            self._views[key] = view
        if datatype == BOOL:  # kernels are compiled for bytes of 0 and 1
            return view != 0
        return view.clone() if private else view

    def _view(self, tensor: DeviceTensor, datatype: int) -> Any:
        torch = self._converter.torch
        dtype = torch.uint8 if datatype == BOOL else self._converter.dtypes.to_torch(datatype)
        if not tensor.nbytes:
            return torch.empty(tensor.dims, dtype=dtype, device=self._converter.device)
        return self._memory.view(tensor.address, tensor.dims, dtype)

    def _result(self, name: str, datatype: int, ones: int, value: Any, lent: bool) -> Any:
        value = checked(self._converter, name, datatype, value)
        if not value.dim():
            if not ones:
                raise InvalidArg(f"output '{name}' is a scalar which is not supported.")
            value = value.reshape((1,) * ones)
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        if self._device is not None and value.device != self._device:
            value = value.to(self._device)
        elif lent:
            value = value.clone(memory_format=self._converter.torch.contiguous_format)
        return value.contiguous()
