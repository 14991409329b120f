"""One TensorRT instance on one GPU: execution contexts by profile, addresses, shapes, and the buffers of outputs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from triton_async import datatypes
from triton_async.backends.device.engine import DeviceEngine, DeviceTensor
from triton_async.backends.tensorrt.api import Library
from triton_async.backends.tensorrt.buffers import Buffer, DeviceAccess, SlotMemory
from triton_async.backends.tensorrt.describe import Dims, Plan, PlanTensor
from triton_async.backends.tensorrt.profiles import choose, fixed_first, largest_dims
from triton_async.defines import DEVICE_ALIGNMENT
from triton_async.errors import InternalError, InvalidArg, ServerError
from triton_async.infer.signature import ModelSignature

# Shapes whose profile is remembered, before all are forgotten: clients may send any number of different ones.
_MAX_CHOICES = 4096


@dataclass(slots=True)
class _Context:
    """An execution context of one profile and what it was last told, to tell it only what changes."""

    native: Any
    shapes: tuple[Dims, ...] = ()
    output_dims: tuple[Dims, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Slot:
    """What one slot has of its own. `allocators`: of the outputs whose size the data decides, by index."""

    memory: SlotMemory
    outputs: list[Buffer]
    staging: list[Buffer]
    allocators: dict[int, Any] = field(default_factory=dict)


class TensorRTEngine(DeviceEngine):
    """Runs a plan. Its outputs and padded inputs are its own; the addresses of other inputs are the caller's."""

    def __init__(
        self,
        library: Library,
        engine: Any,
        plan: Plan,
        signature: ModelSignature,
        *,
        profiles: Sequence[int],
        access: DeviceAccess,
        slots: int,
        make_context: Any = None,
    ) -> None:
        """`engine`: outlives this object. `make_context`: makes an execution context in another way than by default.
        InternalError with TensorRT's reason when a context or its memory cannot be made."""
        self._library = library
        self._plan = plan
        self._model = signature.model_name
        self._access = access
        self._profiles = tuple(profiles)
        known = {tensor.name: tensor for tensor in plan.tensors}
        self._inputs = tuple(known[spec.name] for spec in signature.inputs)
        self._outputs = tuple(known[spec.name] for spec in signature.outputs)
        self._configured = [spec.dims if spec.reshape is None else spec.reshape for spec in signature.inputs]
        self._max_rows = signature.max_batch_size
        # A plan of one batch size runs that size always; rows that a batch lacks hold what was there before.
        self._fixed_rows = fixed_first(plan.inputs[0]) if self._max_rows else 0
        self.host_inputs = frozenset(index for index, tensor in enumerate(self._inputs) if tensor.host)
        self._choices: dict[tuple[object, ...], int] = {}
        self._contexts: dict[int, _Context] = {}
        self._slots = [self._make_slot() for _ in range(slots)]
        self._empty = SlotMemory(access)
        self._nothing = self._empty.buffer()
        self._host_nothing = ctypes.create_string_buffer(DEVICE_ALIGNMENT)
        self._allocator_class = _make_allocator_class(library)
        try:
            for profile in self._profiles:
                self._contexts[profile] = self._make_context(engine, profile, make_context)
            self._empty.reserve(self._nothing, DEVICE_ALIGNMENT)
            by_data = self._reserve_outputs()
        except BaseException:
            self.close()
            raise
        # TensorRT-RTX captures by itself: whether it lets others do so depends on how the plan was built.
        self.capturable = not (by_data or self.host_inputs or library.is_rtx)

    def input_capacity(self, index: int) -> int:
        tensor = self._inputs[index]
        return max(_nbytes(tensor, self._largest(index, profile)) for profile in self._profiles)

    def graph_dims(self, index: int) -> Dims | None:
        optimum = self._inputs[index].ranges[self._profiles[0]].optimum
        optimum = optimum[1:] if self._max_rows else optimum
        fixed = self._configured[index]
        return tuple(best if dim == -1 else dim for dim, best in zip(fixed, optimum, strict=False))

    def records_consumed(self) -> bool:
        # TensorRT-RTX may replay a graph of its own, and what is recorded inside a graph nobody outside sees.
        return not self._library.is_rtx

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        own = self._slots[slot]
        rows = self._rows(inputs)
        shapes = tuple(self._engine_dims(index, tensor) for index, tensor in enumerate(inputs))
        context = self._contexts[self._choose(shapes, inputs)]
        own.memory.held = own.memory.held or not consumed
        for index, tensor in enumerate(inputs):
            assert tensor is not None
            if self._inputs[index].host:
                # New values at the old address: TensorRT is told again, so that it reads them.
                context.addresses.pop(self._inputs[index].name, None)
            self._set_address(context, self._inputs[index].name, self._input_address(own, index, tensor, stream))
        if context.shapes != shapes or self.host_inputs:
            self._set_shapes(context, shapes)
        outputs = self._bind_outputs(context, own, rows)
        # Event 0 takes back the one before: none may be recorded in a capture.
        context.native.set_input_consumed_event(0 if self._library.is_rtx else consumed)
        if not context.native.execute_async_v3(stream):
            raise self._failed(own, context, stream, capturing=not consumed)
        return outputs

    def late_output(self, slot: int, index: int) -> DeviceTensor:
        allocator = self._slots[slot].allocators[index]
        if allocator.error:
            raise InternalError(allocator.error)
        tensor = self._outputs[index]
        dims: Dims = allocator.dims
        return DeviceTensor(allocator.buffer.address, dims, _nbytes(tensor, dims))

    def drop_captures(self, slot: int) -> None:
        self._slots[slot].memory.release()

    def close(self) -> None:
        self._contexts.clear()
        for slot in self._slots:
            slot.memory.close()
        self._empty.close()

    # -- set up ------------------------------------------------------------------------------------

    def _make_slot(self) -> _Slot:
        memory = SlotMemory(self._access)
        # What the engine writes in host memory is given pinned memory, which a copy on the device's side can read.
        outputs = [memory.buffer(pinned=tensor.host) for tensor in self._outputs]
        return _Slot(memory, outputs, [memory.buffer() for _ in self._inputs])

    def _make_context(self, engine: Any, profile: int, make: Any) -> _Context:
        # Instances make contexts of one engine at the same time; the call runs without the GIL.
        with self._library.lock, self._library.messages.listening() as heard:
            native = engine.create_execution_context() if make is None else make(engine)
            if native is None:
                raise InternalError(f"unable to create TensorRT context: {heard.error()}")
            # A new context has the first profile; another may be copied to the device.
            if profile and not native.set_optimization_profile_async(profile, self._access.stream):
                raise InternalError(f"unable to set optimization profile {profile} of {self._model}: {heard.error()}")
        if profile:
            self._access.synchronize(self._access.stream)
        return _Context(native)

    def _reserve_outputs(self) -> bool:
        """Memory for the largest outputs of every profile; whether the size of some output depends on the data.

        Values of shape tensors decide sizes too, and are not known yet: their outputs get memory when they are run.
        """
        if self._plan.has_shape_tensors:
            return False
        by_data = False
        for profile, context in self._contexts.items():
            indices = range(len(self._inputs))
            self._set_shapes(context, tuple(self._largest(index, profile) for index in indices))
            for index, dims in enumerate(context.output_dims):
                if -1 in dims:
                    by_data = True
                    continue
                for slot in self._slots:
                    slot.memory.reserve(slot.outputs[index], _nbytes(self._outputs[index], dims))
        return by_data

    def _largest(self, index: int, profile: int) -> Dims:
        tensor = self._inputs[index]
        if not tensor.dims or tensor.shape_tensor:
            return tensor.dims
        return largest_dims(tensor, profile, tuple(self._configured[index]), self._max_rows)

    # -- a run -------------------------------------------------------------------------------------

    def _rows(self, inputs: Sequence[DeviceTensor | None]) -> int:
        """Rows of the batch, 0 when the model does not batch."""
        return inputs[0].dims[0] if self._max_rows and inputs and inputs[0] is not None else 0

    def _engine_dims(self, index: int, tensor: DeviceTensor | None) -> Dims:
        wanted = self._inputs[index]
        if tensor is None:
            raise InvalidArg(f"input '{wanted.name}' of model '{self._model}' is missing")
        if not wanted.dims:
            return ()  # the config says [ 1 ] for a scalar
        return (self._fixed_rows, *tensor.dims[1:]) if self._fixed_rows else tensor.dims

    def _choose(self, shapes: tuple[Dims, ...], inputs: Sequence[DeviceTensor | None]) -> int:
        key: tuple[object, ...] = shapes
        values: dict[str, Dims] = {}
        for index in self.host_inputs:
            tensor = inputs[index]
            if tensor is not None and self._inputs[index].values:
                values[self._inputs[index].name] = _host_values(self._inputs[index], tensor)
        if values:
            key = (shapes, *values.values())
        found = self._choices.get(key)
        if found is None:
            dims = {tensor.name: shape for tensor, shape in zip(self._inputs, shapes, strict=True)}
            found = choose(self._plan, self._profiles, dims, values, self._model)
            if len(self._choices) >= _MAX_CHOICES:
                self._choices.clear()
            self._choices[key] = found
        return found

    def _input_address(self, slot: _Slot, index: int, tensor: DeviceTensor, stream: int) -> int:
        """Where the engine reads an input: where it is, unless it is empty, too short for a plan of one batch size,
        or begins where TensorRT does not want it to."""
        wanted = self._inputs[index]
        if wanted.host:
            return tensor.address if tensor.nbytes else ctypes.addressof(self._host_nothing)
        if not tensor.nbytes:
            return self._nothing.address
        short = self._fixed_rows and tensor.dims[0] < self._fixed_rows
        if not short and tensor.address % DEVICE_ALIGNMENT == 0:
            return tensor.address
        nbytes = _nbytes(wanted, self._engine_dims(index, tensor))
        address = slot.memory.reserve(slot.staging[index], nbytes)
        self._access.copy(address, tensor.address, tensor.nbytes, stream)
        return address

    def _set_shapes(self, context: _Context, shapes: tuple[Dims, ...]) -> None:
        context.shapes = ()
        for tensor, dims in zip(self._inputs, shapes, strict=True):
            if -1 in tensor.dims and not context.native.set_input_shape(tensor.name, dims):
                raise InvalidArg(
                    f"failed to specify the dimensions {list(dims)} of input '{tensor.name}' of model "
                    f"'{self._model}': {self._reason()}"
                )
        if self.host_inputs:
            lacking = context.native.infer_shapes()
            if lacking:
                raise InternalError(
                    f"failed to specify the values of all input shape tensors of model '{self._model}': {lacking[0]}"
                )
        context.output_dims = tuple(tuple(context.native.get_tensor_shape(tensor.name)) for tensor in self._outputs)
        context.shapes = shapes

    def _bind_outputs(self, context: _Context, slot: _Slot, rows: int) -> list[DeviceTensor | None]:
        made: list[DeviceTensor | None] = []
        for index, (tensor, dims) in enumerate(zip(self._outputs, context.output_dims, strict=True)):
            if -1 in dims:
                self._bind_allocator(context, slot, index)
                made.append(None)
                continue
            address = slot.memory.reserve(slot.outputs[index], _nbytes(tensor, dims))
            self._set_address(context, tensor.name, address)
            shown = dims or (1,)
            if self._fixed_rows and rows:
                shown = (rows, *dims[1:])
            made.append(DeviceTensor(address, shown, _nbytes(tensor, shown)))
        return made

    def _bind_allocator(self, context: _Context, slot: _Slot, index: int) -> None:
        allocator = slot.allocators.get(index)
        if allocator is None:
            allocator = slot.allocators[index] = self._allocator_class(slot.memory, slot.outputs[index])
        allocator.dims, allocator.error = (), ""
        name = self._outputs[index].name
        # The address is the allocator's to give; one that was set before would be used as it is.
        context.addresses.pop(name, None)
        if not context.native.set_output_allocator(name, allocator):
            raise InternalError(f"unable to set the output allocator of '{name}' of {self._model}: {self._reason()}")

    def _set_address(self, context: _Context, name: str, address: int) -> None:
        if context.addresses.get(name) == address:
            return
        if not context.native.set_tensor_address(name, address):
            raise InternalError(f"'{name}' does not map to an input or output tensor: {self._reason()}")
        context.addresses[name] = address

    def _reason(self) -> str:
        return self._library.messages.take() or "TensorRT gave no reason"

    def _failed(self, slot: _Slot, context: _Context, stream: int, capturing: bool) -> ServerError:
        """The error of a run that could not be enqueued. A device that does not get well again ends the engine."""
        reason = next((found.error for found in slot.allocators.values() if found.error), "") or self._reason()
        context.shapes = ()
        if not capturing:
            try:
                self._access.synchronize(stream)
            except Exception:  # CUDA's own error; the reason above says more
                self.broken = True
        return InternalError(f"unable to enqueue for inference {self._model}: {reason}")


def _nbytes(tensor: PlanTensor, dims: Dims) -> int:
    return datatypes.element_count(dims) * datatypes.element_size(tensor.datatype)


def _host_values(tensor: PlanTensor, given: DeviceTensor) -> Dims:
    size = datatypes.element_size(tensor.datatype)
    raw = ctypes.string_at(given.address, given.nbytes)
    return tuple(int.from_bytes(raw[at : at + size], "little", signed=True) for at in range(0, len(raw), size))


def _make_allocator_class(library: Library) -> Any:
    base = library.trt.IOutputAllocator

    class OutputAllocator(base):  # type: ignore[misc,valid-type]
        """Gives memory to one output of one slot while a run is enqueued. Called by TensorRT, which takes the GIL."""

        def __init__(self, memory: SlotMemory, buffer: Buffer) -> None:
            base.__init__(self)
            self.memory = memory
            self.buffer = buffer
            self.dims: Dims = ()
            self.error = ""

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            # Nothing may be raised through native code; 0 ends the run, and the reason is told with it.
            try:
                return self.memory.reserve(self.buffer, size)
            except ServerError as error:
                self.error = error.message
            return 0

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, dims: Any) -> None:
            self.dims = tuple(dims)

    return OutputAllocator
