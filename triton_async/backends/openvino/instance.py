"""Instances: an infer request each, over the bytes of a batch. Nothing is copied but outputs of unknown shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from triton_async import datatypes
from triton_async.backends.base import PythonInstance
from triton_async.backends.openvino.library import reason
from triton_async.backends.openvino.options import Options
from triton_async.backends.openvino.ports import Port, ports_of
from triton_async.config.model_config import ModelConfig, TensorConfig
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import Tensor
from triton_async.memory.slab import SlabPool

BOOL = datatypes.from_name("BOOL")
BF16 = datatypes.from_name("BF16")
_WIDE = frozenset((datatypes.from_name("INT64"), datatypes.from_name("UINT64")))
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1

# What OpenVINO says of an output that does not fit into the memory it was given.
_OTHER_SHAPE = ("Could set new shape", "Can't set the output tensor")


@dataclass(frozen=True, slots=True)
class Argument:
    """An input. `bounds`: (axis, least, greatest) of dimensions that have any. `check`: its elements must fit int32."""

    port: Port
    element_type: Any
    bounds: tuple[tuple[int, int, int], ...]
    check: bool


@dataclass(frozen=True, slots=True)
class Result:
    """An output. `dtype`: of its elements. `dims`: of its memory, the first -1 for the rows of a batch; None where a
    run decides. `engine_dims`: what the config says of it, behind the batch dimension. `reshape`: the model need not
    agree about that, as long as there are as many elements.
    """

    port: Port
    element_type: Any
    dtype: Any
    dims: tuple[int, ...] | None
    engine_dims: tuple[int, ...]
    reshape: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Inputs and outputs in the order of the config. `rows`: of every batch, 0 for any number; `pad`: smaller ones are
    filled up."""

    model: str
    batching: bool
    rows: int
    pad: bool
    arguments: tuple[Argument, ...]
    results: tuple[Result, ...]
    tensor: Any
    shape: Any


def bind(openvino: Any, compiled: Any, config: ModelConfig, rows: int, options: Options) -> Binding:
    """How batches of the config's model become tensors of `compiled`. The config was checked against it; InvalidArg for
    a size outside of the model's bounds."""
    batching = config.max_batch_size > 0
    own = _own_memory(compiled.outputs)
    named = []
    sides = ((compiled.inputs, "input", config.engine_inputs), (compiled.outputs, "output", config.engine_outputs))
    for found, what, ios in sides:
        ports = {port.name: port for port in ports_of(found, config.name, what, [io.name for io in ios])}
        named.append([(ports[io.name], io, found[ports[io.name].place].element_type) for io in ios])
    return Binding(
        config.name, batching, rows, options.pad,
        tuple(
            Argument(port, kind, _bounds(config, port, io), options.check_range and port.datatype in _WIDE)
            for port, io, kind in named[0]
        ),
        tuple(_result(port, io, kind, batching, port.place in own) for port, io, kind in named[1]),
        openvino.Tensor, openvino.Shape,
    )  # fmt: skip


def _bounds(config: ModelConfig, port: Port, io: TensorConfig) -> tuple[tuple[int, int, int], ...]:
    # Only of sizes that requests choose; of a batch dimension core keeps the bounds.
    found = []
    first = 1 if config.max_batch_size > 0 else 0
    for axis, ((low, high), dim) in enumerate(zip(port.bounds[first:], io.model_dims, strict=False), first):
        if dim < 0 and (low > 0 or high >= 0):
            found.append((axis, low, high))
        elif dim >= 0 and not (low <= dim and (high < 0 or dim <= high)):
            raise InvalidArg(
                f"unable to load model '{config.name}': input '{io.name}' has {dim} elements in dimension {axis} by "
                f"the configuration, the model takes {_range(low, high)}"
            )
    return tuple(found)


def _range(low: int, high: int) -> str:
    return f"{low} or more" if high < 0 else str(low) if low == high else f"{low} to {high}"


def _own_memory(outputs: Any) -> frozenset[int]:
    """Outputs that can be given memory to be written to: not an input that is an output too, nor two outputs of one
    value. Those are one tensor to an infer request, and memory that one of them was given last is that of all.
    """
    sources = [port.node.input_value(0) for port in outputs]
    keys = [(source.get_node().get_name(), source.get_index()) for source in sources]
    return frozenset(
        place
        for place, (source, key) in enumerate(zip(sources, keys, strict=True))
        if keys.count(key) == 1 and source.get_node().get_type_name() != "Parameter"
    )


def _result(port: Port, io: TensorConfig, kind: Any, batching: bool, own: bool) -> Result:
    known = own and -1 not in (port.dims[1:] if batching else port.dims)
    dtype = np.uint16 if port.datatype == BF16 else kind.to_dtype()
    return Result(port, kind, np.dtype(dtype), port.dims if known else None, io.model_dims, io.reshape is not None)


class OpenVINOInstance(PythonInstance):
    """Runs batches in one infer request, which lets go of the GIL."""

    def __init__(self, name: str, pool: SlabPool, compiled: Any, binding: Binding) -> None:
        super().__init__(name, pool)
        self._compiled = compiled
        self._binding = binding
        self._results = binding.results
        self._request = compiled.create_infer_request()
        # A model with variables keeps them from one run to the next: from one client to another.
        self._stateful = bool(self._request.query_state())

    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]:
        """Outputs in the order of the config. InvalidArg for inputs that the model does not take."""
        binding, request = self._binding, self._request
        rows = _rows(inputs) if binding.batching else 0
        if binding.rows and rows != binding.rows and not binding.pad:
            raise InvalidArg(
                f"a batch of model '{binding.model}' has {rows} rows, with SKIP_OV_DYNAMIC_BATCHSIZE it takes "
                f"{binding.rows}: send so many, or set the parameter ENABLE_BATCH_PADDING to YES"
            )
        # Held while the request runs: its tensors show the memory of these arrays.
        arrays = [
            _array(binding, argument, tensor)
            for argument, tensor in zip(binding.arguments, inputs, strict=True)
            if tensor is not None
        ]
        for argument, array in zip(binding.arguments, arrays, strict=True):
            request.set_input_tensor(argument.port.place, _tensor(binding, array, argument.element_type))
        if self._stateful:
            request.reset_state()
        return self._run(binding.rows or rows, rows)

    def _run(self, ran: int, rows: int) -> list[Any]:
        binding, request = self._binding, self._request
        memory = [_memory(result, ran) for result in self._results]
        try:
            for result, array in zip(self._results, memory, strict=True):
                if array is not None:
                    request.set_output_tensor(result.port.place, _tensor(binding, array, result.element_type))
            request.infer(share_outputs=True)
        except Exception as error:
            # Once: what is left after it has no dims that depend on the rows.
            if any(text in str(error) for text in _OTHER_SHAPE) and any(
                result.dims is not None and -1 in result.dims for result in self._results
            ):
                return self._run_freely(ran, rows)
            raise InternalError(f"OpenVINO execute failure: {reason(error)}") from None
        return [self._taken(result, array, ran, rows) for result, array in zip(self._results, memory, strict=True)]

    def _run_freely(self, ran: int, rows: int) -> list[Any]:
        # An output has not as many rows as the inputs: from here on the engine makes them. The request keeps memory
        # that it was given once, so another one takes its place.
        fresh = self._compiled.create_infer_request()
        for argument in self._binding.arguments:
            place = argument.port.place
            fresh.set_input_tensor(place, self._request.get_input_tensor(place))
        self._request = fresh
        self._results = tuple(
            replace(result, dims=None) if result.dims is not None and -1 in result.dims else result
            for result in self._results
        )  # fmt: skip
        return self._run(ran, rows)

    def _taken(self, result: Result, array: Any, ran: int, rows: int) -> Any:
        place = result.port.place
        if array is None or (result.dims is not None and -1 in result.dims):
            made = self._request.get_output_tensor(place)
            if array is None or tuple(made.shape) != array.shape:
                array = np.array(made.data)
                if result.port.datatype == BF16:
                    array = array.view(np.uint16)
        if rows < ran:
            array = array[:rows]
        if array.shape == ():
            return array.reshape((1,) * len(result.engine_dims))
        return fitted(array, result.engine_dims, rows if self._binding.batching else -1) if result.reshape else array

    def close(self) -> None:
        """Drops the request; memory that responses still show lives on."""
        self._request = self._compiled = None


def fitted(array: Any, engine_dims: tuple[int, ...], rows: int) -> Any:
    """The array with as many dimensions as an output's reshape in the config says, where its elements fill them.
    `rows`: of the batch, -1 where there is none.
    """
    dims = engine_dims if rows < 0 else (rows, *engine_dims)
    if array.ndim == len(dims) or -1 in engine_dims or array.size != math.prod(dims):
        return array
    return array.reshape(dims)


def _rows(inputs: list[Tensor | None]) -> int:
    return next((tensor.shape[0] for tensor in inputs if tensor is not None), 0)


def _memory(result: Result, rows: int) -> Any:
    if result.dims is None:
        return None
    dims = result.dims
    return np.empty((rows, *dims[1:]) if dims and dims[0] < 0 else dims, result.dtype)


def _tensor(binding: Binding, array: Any, element_type: Any) -> Any:
    if array.dtype == np.uint16 and element_type.get_type_name() == "bf16":
        return binding.tensor(array, binding.shape(array.shape), element_type)
    return binding.tensor(array, shared_memory=True)


def _array(binding: Binding, argument: Argument, tensor: Tensor) -> Any:
    """The input over the same bytes, or a copy where OpenVINO does not take them as they are."""
    array = tensor.numpy()
    port = argument.port
    if port.datatype == BOOL:
        array = array.view(np.uint8) != 0  # a client may send any byte
    if not port.dims:
        if array.size != 1:
            raise InvalidArg(f"input '{port.name}' of model '{binding.model}' is a scalar and takes one element")
        array = array.reshape(())
    for axis, low, high in argument.bounds:
        size = array.shape[axis]
        if size < low or size > high >= 0:
            raise InvalidArg(
                f"input '{port.name}' of model '{binding.model}' has {size} elements in dimension {axis}, the model "
                f"takes {_range(low, high)}"
            )
    if argument.check and array.size and (array.max() > _INT32_MAX or array.min() < _INT32_MIN):
        raise InvalidArg(
            f"input '{port.name}' of model '{binding.model}' has a value outside the range of INT32: OpenVINO computes "
            f"{datatypes.to_name(port.datatype)} in 32 bits on CPUs. Serve the model with backend 'onnxruntime', or "
            "set the parameter INT64_OUTSIDE_INT32 to pass where such values are only handed through"
        )
    if binding.rows and array.shape[0] < binding.rows:
        padded = np.zeros((binding.rows, *array.shape[1:]), array.dtype)
        padded[: array.shape[0]] = array
        return padded
    if not array.flags.aligned:
        return array.copy()
    return array if array.flags.writeable else _writable(array)


class _Span:
    """Read-only memory as OpenVINO takes it, which asks for writable arrays and only reads its inputs."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _writable(array: Any) -> Any:
    return np.asarray(_Span(array)) if array.size else array.copy()
