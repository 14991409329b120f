"""What an instance asks of TensorRT for a run, and in which order; outputs, padding and memory are its own.

The vendor's execution context and the GPU's memory are stand-ins: addresses are numbers that nothing reads.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_models import INT32, batched, given, result, shaped, two_profiles

from triton_async.backends.device.engine import DeviceTensor
from triton_async.backends.tensorrt.api import Messages
from triton_async.backends.tensorrt.buffers import DeviceAccess
from triton_async.backends.tensorrt.context import TensorRTEngine
from triton_async.backends.tensorrt.describe import Dims, Plan
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.signature import ModelSignature, TensorSpec

STREAM, EVENT, SETUP_STREAM = 7, 9, 5


class Memory:
    """Device memory as numbers; nothing may be freed twice or left."""

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        self.copies: list[tuple[int, int, int, int]] = []
        self.limit = 1 << 40
        self.broken = False
        self._next = 1 << 20

    def allocate(self, nbytes: int) -> int:
        if sum(self.blocks.values()) + nbytes > self.limit:
            raise MemoryError
        address, self._next = self._next, self._next + (nbytes // 256 + 1) * 256
        self.blocks[address] = nbytes
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self.copies.append((to, source, nbytes, stream))

    def synchronize(self, stream: int) -> None:
        if self.broken:
            raise InternalError("an illegal memory access was encountered")

    def access(self) -> DeviceAccess:
        return DeviceAccess(
            self.allocate, self.free, self.allocate, self.free, self.copy, self.synchronize, SETUP_STREAM
        )


class Context:
    """TensorRT's IExecutionContext: what it is told, and shapes of outputs as the model would have them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, Dims] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.calls: list[str] = []

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.calls.append(f"profile {profile} on {stream}")
        return True

    def set_input_shape(self, name: str, dims: Dims) -> bool:
        self.calls.append(f"shape {name} {dims}")
        self.shapes[name] = dims
        return not self.engine.refuses_shapes

    def infer_shapes(self) -> list[str]:
        self.calls.append("infer")
        return [] if "s" in self.addresses else ["s"]

    def get_tensor_shape(self, name: str) -> Dims:
        return self.engine.output_dims(name, self)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append(f"address {name}")
        assert address
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.calls.append(f"allocator {name}")
        self.allocators[name] = allocator
        return True

    def set_input_consumed_event(self, event: int) -> bool:
        self.calls.append(f"event {event}")
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append(f"run on {stream}")
        for name, allocator in self.allocators.items():
            if not allocator.reallocate_output_async(name, 0, self.engine.found_nbytes, 256, stream):
                return False
            allocator.notify_shape(name, (self.engine.found_nbytes // 4,))
        if self.engine.fails:
            self.engine.messages.add("ERROR", "Cuda failure: an illegal memory access was encountered")
        return not self.engine.fails

    def taken(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


class Engine:
    """TensorRT's ICudaEngine: makes contexts."""

    def __init__(self, messages: Messages, output: Any = None) -> None:
        self.messages = messages
        self.contexts: list[Context] = []
        self.fails = self.refuses_shapes = self.no_context = False
        self.found_nbytes = 40
        self._output = output or (lambda context: (context.shapes["x"][0], 4))

    def create_execution_context(self) -> Context | None:
        if self.no_context:
            self.messages.add("ERROR", "out of memory")
            return None
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def output_dims(self, name: str, context: Context) -> Dims:
        dims: Dims = self._output(context)
        return dims


class Setup:
    """An engine of ours around the stand-ins."""

    def __init__(
        self,
        plan: Plan,
        inputs: dict[str, tuple[int, Dims]],
        outputs: dict[str, Dims],
        rows: int,
        *,
        profiles: tuple[int, ...] = (0,),
        output: Any = None,
        is_rtx: bool = False,
    ) -> None:
        self.memory = Memory()
        self.messages = Messages()
        self.native = Engine(self.messages, output)
        self.plan = plan
        self.profiles = profiles
        self.library: Any = SimpleNamespace(
            messages=self.messages, is_rtx=is_rtx, trt=SimpleNamespace(IOutputAllocator=object), lock=threading.Lock()
        )
        self.signature = ModelSignature(
            "m",
            1,
            [TensorSpec(name, datatype, dims) for name, (datatype, dims) in inputs.items()],
            [TensorSpec(name, 11, dims) for name, dims in outputs.items()],
            rows,
        )

    def make(self, slots: int = 2) -> TensorRTEngine:
        return TensorRTEngine(
            self.library,
            self.native,
            self.plan,
            self.signature,
            profiles=self.profiles,
            access=self.memory.access(),
            slots=slots,
        )

    @property
    def context(self) -> Context:
        return self.native.contexts[0]


def simple(**more: Any) -> Setup:
    return Setup(batched(8), {"x": (11, (16,))}, {"y": (4,)}, 8, **more)


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = simple()
    yield made
    assert not made.memory.blocks


def x(rows: int, address: int = 4096) -> DeviceTensor:
    return DeviceTensor(address, (rows, 16), rows * 64)


def test_the_order_of_a_run(setup: Setup) -> None:
    engine = setup.make()
    setup.context.taken()
    (y,) = engine.enqueue(0, [x(3)], STREAM, EVENT)
    assert y is not None
    assert (y.dims, y.nbytes) == ((3, 4), 48)
    assert y.address == setup.context.addresses["y"]
    assert setup.context.taken() == ["address x", "shape x (3, 16)", "address y", "event 9", "run on 7"]
    assert setup.context.addresses["x"] == 4096
    engine.close()


def test_what_has_not_changed_is_not_said_again(setup: Setup) -> None:
    engine = setup.make(slots=1)
    engine.enqueue(0, [x(3)], STREAM, EVENT)
    setup.context.taken()
    engine.enqueue(0, [x(3)], STREAM, EVENT)
    assert setup.context.taken() == ["event 9", "run on 7"]
    engine.enqueue(0, [x(4)], STREAM, EVENT)
    assert setup.context.taken() == ["shape x (4, 16)", "event 9", "run on 7"]
    engine.close()


def test_slots_have_outputs_of_their_own(setup: Setup) -> None:
    engine = setup.make()
    outputs = [engine.enqueue(slot, [x(8)], STREAM, EVENT)[0] for slot in (0, 1, 0)]
    addresses = [output.address for output in outputs if output is not None]
    assert addresses[0] == addresses[2] != addresses[1]
    engine.close()


def test_memory_is_taken_at_the_start(setup: Setup) -> None:
    engine = setup.make()
    before = dict(setup.memory.blocks)
    assert sorted(before.values()) == [256, 256, 256]  # two outputs of 8 rows, and one for empty inputs
    for rows in (1, 8, 5):
        engine.enqueue(0, [x(rows)], STREAM, EVENT)
    assert setup.memory.blocks == before
    assert engine.input_capacity(0) == 8 * 64
    assert engine.graph_dims(0) == (16,)
    assert engine.records_consumed()
    assert engine.capturable
    engine.close()


def test_too_little_memory(setup: Setup) -> None:
    setup.memory.limit = 300
    with pytest.raises(InternalError, match="failed to allocate 256 bytes of GPU memory"):
        setup.make()


def test_a_context_that_cannot_be_made(setup: Setup) -> None:
    setup.native.no_context = True
    with pytest.raises(InternalError, match="unable to create TensorRT context: out of memory"):
        setup.make()


def test_a_run_that_fails(setup: Setup) -> None:
    engine = setup.make()
    setup.native.fails = True
    with pytest.raises(InternalError, match="unable to enqueue for inference m: Cuda failure: an illegal memory"):
        engine.enqueue(0, [x(1)], STREAM, EVENT)
    assert not getattr(engine, "broken", False)
    setup.native.fails = False
    setup.context.taken()
    engine.enqueue(0, [x(1)], STREAM, EVENT)
    assert "shape x (1, 16)" in setup.context.taken()  # what it was told before is not relied upon
    engine.close()


def test_a_device_that_does_not_get_well_ends_the_engine(setup: Setup) -> None:
    engine = setup.make()
    setup.native.fails = setup.memory.broken = True
    with pytest.raises(InternalError, match="unable to enqueue for inference m"):
        engine.enqueue(0, [x(1)], STREAM, 0)  # a capture must not be waited for
    assert not getattr(engine, "broken", False)
    with pytest.raises(InternalError, match="unable to enqueue for inference m"):
        engine.enqueue(0, [x(1)], STREAM, EVENT)
    assert engine.broken
    engine.close()


def test_a_shape_that_tensorrt_refuses(setup: Setup) -> None:
    engine = setup.make()
    setup.native.refuses_shapes = True
    with pytest.raises(InvalidArg, match="failed to specify the dimensions \\[2, 16\\] of input 'x' of model 'm'"):
        engine.enqueue(0, [x(2)], STREAM, EVENT)
    engine.close()


def test_a_shape_beyond_the_profile(setup: Setup) -> None:
    engine = setup.make()
    with pytest.raises(InvalidArg, match="shape of dimension 0 to be between 1 and 8 but received 9"):
        engine.enqueue(0, [x(9)], STREAM, EVENT)
    with pytest.raises(InvalidArg, match="input 'x' of model 'm' is missing"):
        engine.enqueue(0, [None], STREAM, EVENT)
    engine.close()


def test_each_profile_has_its_context() -> None:
    setup = Setup(
        two_profiles(),
        {"x": (11, (-1,))},
        {"y": (-1,)},
        32,
        profiles=(0, 1),
        output=lambda context: context.shapes["x"],
    )
    engine = setup.make()
    first, second = setup.native.contexts
    assert second.taken()[0] == f"profile 1 on {SETUP_STREAM}"
    assert not any(call.startswith("profile") for call in first.taken())
    engine.enqueue(0, [DeviceTensor(4096, (2, 8), 64)], STREAM, EVENT)
    engine.enqueue(0, [DeviceTensor(4096, (20, 64), 5120)], STREAM, EVENT)
    assert [context.taken()[1] for context in (first, second)] == ["shape x (2, 8)", "shape x (20, 64)"]
    assert engine.input_capacity(0) == 32 * 64 * 4
    assert max(setup.memory.blocks.values()) == 32 * 64 * 4
    engine.close()
    assert not setup.memory.blocks


def test_tensorrt_rtx_is_not_captured() -> None:
    setup = simple(is_rtx=True)
    engine = setup.make()
    assert not engine.capturable
    engine.close()


def test_inputs_that_tensorrt_cannot_read_where_they_are(setup: Setup) -> None:
    engine = setup.make()
    engine.enqueue(0, [x(2, 4100)], STREAM, EVENT)
    ((to, source, nbytes, stream),) = setup.memory.copies
    assert (source, nbytes, stream) == (4100, 128, STREAM)
    assert to == setup.context.addresses["x"]
    assert to % 256 == 0
    engine.close()


def test_an_empty_input_has_an_address() -> None:
    plan = Plan((given("x", (-1,), ((0,), (4,), (8,))), result("y", (-1,))))
    setup = Setup(plan, {"x": (11, (-1,))}, {"y": (-1,)}, 0, output=lambda context: context.shapes["x"])
    engine = setup.make()
    (y,) = engine.enqueue(0, [DeviceTensor(0, (0,), 0)], STREAM, EVENT)
    assert y is not None
    assert (y.dims, y.nbytes) == ((0,), 0)
    assert setup.context.addresses["x"] in setup.memory.blocks
    engine.close()


# -- plans of one batch size -----------------------------------------------------------------------


def fixed() -> Setup:
    plan = Plan((given("x", (4, 16)), result("y", (4, 2))))
    return Setup(plan, {"x": (11, (16,))}, {"y": (2,)}, 4, output=lambda context: (4, 2))


def test_a_batch_smaller_than_the_plans_is_padded() -> None:
    setup = fixed()
    engine = setup.make()
    (y,) = engine.enqueue(0, [x(3)], STREAM, EVENT)
    assert y is not None
    assert (y.dims, y.nbytes) == ((3, 2), 24)
    ((to, source, nbytes, _),) = setup.memory.copies
    assert (source, nbytes) == (4096, 192)
    assert setup.memory.blocks[to] >= 4 * 64
    (y,) = engine.enqueue(0, [x(4)], STREAM, EVENT)
    assert y is not None
    assert (y.dims, len(setup.memory.copies)) == ((4, 2), 1)
    assert setup.context.addresses["x"] == 4096
    assert not any(call.startswith("shape") for call in setup.context.taken())
    assert engine.input_capacity(0) == 4 * 64
    engine.close()
    assert not setup.memory.blocks


def test_a_scalar_is_one_element_to_the_config() -> None:
    plan = Plan((given("x", ()), result("y", ())))
    setup = Setup(plan, {"x": (11, (1,))}, {"y": (1,)}, 0, output=lambda context: ())
    engine = setup.make()
    assert engine.input_capacity(0) == 4
    (y,) = engine.enqueue(0, [DeviceTensor(4096, (1,), 4)], STREAM, EVENT)
    assert y is not None
    assert (y.dims, y.nbytes) == ((1,), 4)
    engine.close()


# -- captures --------------------------------------------------------------------------------------


def growing() -> Setup:
    """Outputs larger than those of the largest input: memory cannot be known at the start."""
    return simple(output=lambda context: (10 - context.shapes["x"][0], 1000))


def test_memory_of_a_capture_stays() -> None:
    setup = growing()
    engine = setup.make(slots=1)
    (captured,) = engine.enqueue(0, [x(8)], STREAM, 0)
    assert captured is not None
    assert "event 0" in setup.context.taken()
    (larger,) = engine.enqueue(0, [x(1)], STREAM, EVENT)
    assert larger is not None
    assert larger.address != captured.address
    assert captured.address in setup.memory.blocks
    engine.drop_captures(0)
    assert captured.address not in setup.memory.blocks
    assert larger.address in setup.memory.blocks
    engine.close()
    assert not setup.memory.blocks


def test_memory_that_no_capture_uses_goes_at_once() -> None:
    setup = growing()
    engine = setup.make(slots=1)
    (first,) = engine.enqueue(0, [x(8)], STREAM, EVENT)
    engine.enqueue(0, [x(1)], STREAM, EVENT)
    assert first is not None
    assert first.address not in setup.memory.blocks
    engine.close()


# -- outputs whose size the data decides -----------------------------------------------------------


def by_data() -> Setup:
    plan = Plan((given("x", (8,)), result("y", (-1,))))
    return Setup(plan, {"x": (11, (8,))}, {"y": (-1,)}, 0, output=lambda context: (-1,))


def test_a_late_output() -> None:
    setup = by_data()
    engine = setup.make()
    assert not engine.capturable
    for slot in (0, 1):
        assert engine.enqueue(slot, [DeviceTensor(4096, (8,), 32)], STREAM, EVENT) == [None]
    late = [engine.late_output(slot, 0) for slot in (0, 1)]
    assert [(output.dims, output.nbytes) for output in late] == [((10,), 40)] * 2
    assert late[0].address != late[1].address
    setup.native.found_nbytes = 4000
    engine.enqueue(0, [DeviceTensor(4096, (8,), 32)], STREAM, EVENT)
    assert engine.late_output(0, 0).nbytes == 4000
    assert engine.late_output(1, 0) == late[1]
    engine.close()
    assert not setup.memory.blocks


def test_no_memory_for_a_late_output() -> None:
    setup = by_data()
    engine = setup.make()
    setup.memory.limit = 0
    setup.native.found_nbytes = 4000
    with pytest.raises(InternalError, match="unable to enqueue for inference m: failed to allocate 4096 bytes"):
        engine.enqueue(0, [DeviceTensor(4096, (8,), 32)], STREAM, EVENT)
    engine.close()


# -- shape tensors ---------------------------------------------------------------------------------


def test_values_of_shape_tensors_are_read_on_the_host() -> None:
    def output(context: Context) -> Dims:
        return (ctypes.cast(context.addresses["s"], ctypes.POINTER(ctypes.c_int32))[0],)

    setup = Setup(shaped(), {"x": (11, (8,)), "s": (INT32, (1,))}, {"y": (-1,)}, 0, output=output)
    engine = setup.make()
    assert engine.host_inputs == {1}
    assert not engine.capturable
    value = ctypes.c_int32(5)
    s = DeviceTensor(ctypes.addressof(value), (1,), 4)
    inputs = [DeviceTensor(4096, (8,), 32), s]
    (y,) = engine.enqueue(0, inputs, STREAM, EVENT)
    assert y is not None
    assert (y.dims, y.nbytes) == ((5,), 20)
    calls = setup.context.taken()
    assert calls.index("address s") < calls.index("infer") < calls.index("run on 7")
    value.value = 7
    (y,) = engine.enqueue(0, inputs, STREAM, EVENT)
    assert y is not None
    assert y.dims == (7,)
    value.value = 9
    with pytest.raises(InvalidArg, match="between 1 and 8 but received 9"):
        engine.enqueue(0, inputs, STREAM, EVENT)
    engine.close()
    assert not setup.memory.blocks


def test_shapes_that_are_remembered_are_bounded() -> None:
    plan = Plan((given("x", (-1,), ((1,), (4,), (10_000,))), result("y", (-1,))))
    setup = Setup(plan, {"x": (11, (-1,))}, {"y": (-1,)}, 0, output=lambda context: context.shapes["x"])
    engine = setup.make(slots=1)
    for size in range(1, 5000):
        engine.enqueue(0, [DeviceTensor(4096, (size,), 4 * size)], STREAM, EVENT)
    assert len(engine._choices) <= 4096
    engine.close()
