"""An engine and instances on the fake CUDA driver, without a server."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import fake_cuda
import numpy as np
from fake_cuda import FakeDevices, Gate

from triton_async.backends.base import execute_batches
from triton_async.backends.device.engine import DeviceEngine, DeviceTensor
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import SlotOptions
from triton_async.datatypes import from_name
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.arena import Arena
from triton_async.memory.device import DevicePool
from triton_async.memory.slab import SlabPool

_PINNED_NBYTES = 1 << 22


class FakeEngine(DeviceEngine):
    """Sums and differences of two FP32 inputs; a third one, when the model has it, is a shape tensor.

    `late`: outputs whose shape it gives after the run. `gate`: stands in front of every run. `trouble`: what the next
    enqueue raises, after it put its work on the stream.
    """

    capturable = True

    def __init__(self, devices: FakeDevices, gate: Gate | None = None, late: Sequence[int] = ()) -> None:
        self.devices = devices
        self.gate = gate
        self.late = frozenset(late)
        self.trouble: BaseException | None = None
        self.seen: list[tuple[int, tuple[int, ...]]] = []  # slot and dims of every plain enqueue
        self.captured: list[int] = []
        self.shape_values: list[list[int]] = []
        self.capacity = 0
        self.dims: tuple[int, ...] | None = None
        self.own_consumed = False
        self.closed = 0
        self.given: dict[int, list[DeviceTensor]] = {}  # by slot, to its newest enqueue
        self._outputs: dict[int, list[DeviceTensor]] = {}
        self._fixed: dict[int, list[int]] = {}  # of captures

    def input_capacity(self, index: int) -> int:
        return self.capacity

    def graph_dims(self, index: int) -> tuple[int, ...] | None:
        return self.dims

    def records_consumed(self) -> bool:
        return self.own_consumed

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        a, b, *shapes = inputs
        assert a is not None and b is not None
        if shapes and shapes[0] is not None:
            values = (ctypes.c_int64 * (shapes[0].nbytes // 8)).from_address(shapes[0].address)
            self.shape_values.append(list(values))
        capturing = consumed == 0
        self.given[slot] = [a, b]
        outputs = self._make_outputs(slot, a, capturing)
        library = self.devices.library
        result = library.fake_add_sub(stream, a.address, b.address, outputs[0].address, outputs[1].address,
                                      a.nbytes // 4, None if self.gate is None else self.gate.handle)  # fmt: skip
        if result:
            raise InternalError(f"the engine failed: {result}")
        if self.own_consumed and not capturing and (result := library.cuEventRecord(consumed, stream)):
            raise InternalError(f"the engine failed: {result}")
        if capturing:
            self.captured.append(slot)
        else:
            self.seen.append((slot, a.dims))
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        return [None if index in self.late else output for index, output in enumerate(outputs)]

    def late_output(self, slot: int, index: int) -> DeviceTensor:
        if isinstance(self.trouble, KeyError):
            raise self.trouble
        return self._outputs[slot][index]

    def drop_captures(self, slot: int) -> None:
        for address in self._fixed.pop(slot, []):
            self.devices.free(0, address)

    def close(self) -> None:
        self.closed += 1
        for outputs in self._outputs.values():
            for output in outputs:
                self.devices.free(0, output.address)
        assert not self._fixed

    def _make_outputs(self, slot: int, like: DeviceTensor, capturing: bool) -> list[DeviceTensor]:
        # Anew for each run, so that what reads old ones is found out.
        if not capturing:
            for output in self._outputs.pop(slot, []):
                self.devices.free(0, output.address)
        made = []
        for _ in range(2):
            address = self.devices.allocate(0, max(like.nbytes, 1))
            made.append(DeviceTensor(address, like.dims, like.nbytes))
            if capturing:
                self._fixed.setdefault(slot, []).append(address)
            else:
                self._outputs[slot] = made
        return made


def spec(name: str, datatype: str = "FP32", dims: Sequence[int] = (-1,)) -> TensorSpec:
    return TensorSpec(name, from_name(datatype), dims)


def signature(dims: Sequence[int] = (-1,), max_batch_size: int = 8, *, shape: bool = False) -> ModelSignature:
    inputs = [spec("A", dims=dims), spec("B", dims=dims), *([spec("N", "INT64", (1,))] if shape else [])]
    return ModelSignature("m", 1, inputs, [spec("SUM", dims=dims), spec("DIFF", dims=dims)], max_batch_size)


def request(a: Any, b: Any, *shape: int, outputs: Sequence[str] = ()) -> InferRequest:
    tensors = [from_numpy("A", np.asarray(a, np.float32)), from_numpy("B", np.asarray(b, np.float32))]
    if shape:
        tensors.append(from_numpy("N", np.asarray([shape], np.int64)))
    return InferRequest("m", inputs=tensors, outputs=[RequestedOutput(name) for name in outputs])


def numbered(number: int, columns: int = 4, rows: int = 1) -> InferRequest:
    """A request whose sum is `number` and whose difference is 3 x `number`, everywhere."""
    whole = np.full((rows, columns), number, np.float32)
    return request(2 * whole, -whole)


def check_numbered(response: InferResponse, number: int, columns: int = 4, rows: int = 1) -> None:
    found = arrays(response)
    assert found["SUM"].shape == found["DIFF"].shape == (rows, columns)
    assert (found["SUM"] == number).all()
    assert (found["DIFF"] == 3 * number).all()


def arrays(response: InferResponse) -> dict[str, np.ndarray]:
    """Copies of the outputs; raises the error of a failed response."""
    if response.error is not None:
        raise response.error
    return {output.name: output.numpy().copy() for output in response.outputs}


def pinned_pool(fallback: SlabPool) -> SlabPool:
    """A pool whose slabs count as pinned memory."""
    memory = ctypes.create_string_buffer(_PINNED_NBYTES)
    return SlabPool(0, Arena(ctypes.addressof(memory), _PINNED_NBYTES, lambda _, memory=memory: None), fallback)


class World:
    """One instance on a fake GPU, and everything it stands on; `close` checks that nothing is left of it.

    `device_nbytes`: of a pool of device memory, 0 for none. `pools`: of the worlds of a test, whose slabs must be back
    once its responses are gone.
    """

    pools: ClassVar[list[SlabPool]] = []

    def __init__(
        self, made: ModelSignature | None = None, options: SlotOptions | None = None, **engine: Any
    ) -> None:
        fake_cuda.recover()
        self.before = fake_cuda.state().live()
        self._nbytes = fake_cuda.state().nbytes
        self.devices = FakeDevices()
        self.gate = Gate()
        device_nbytes = engine.pop("device_nbytes", 0)
        self.engine = FakeEngine(self.devices, self.gate, late=engine.pop("late", ()))
        for name, value in engine.items():
            setattr(self.engine, name, value)
        self.pool = SlabPool(1 << 20)
        self.pinned_pool = pinned_pool(self.pool)
        self.pools += [self.pool, self.pinned_pool]
        self.signature = made or signature()
        self.instance: DeviceInstance | None = None
        self.options = options or SlotOptions()
        # Nothing of it is out when the test ends.
        self.memory = DevicePool(self.devices, 0, device_nbytes) if device_nbytes else None

    def start(self) -> DeviceInstance:
        self.instance = DeviceInstance(
            "m_0_0", self.engine, self.signature, self.devices, 0, self.options, self.pool,
            pinned_pool=self.pinned_pool, memory=self.memory,
        )  # fmt: skip
        fake_cuda.clear_trace()
        return self.instance

    def stream(self, role: str) -> str:
        """Number in the trace of the stream for "in", "run" or "out"."""
        return str(self.devices.number(self.devices.streams[("in", "run", "out").index(role)]))

    def steps(self) -> list[str]:
        """The trace, with the streams by role: "c in", "k run", "c out"."""
        roles = {self.stream(role): role for role in ("in", "run", "out")}
        return [f"{step[0]} {roles[step[1:]]}" for step in fake_cuda.trace() if step[1:] in roles]

    def nbytes(self) -> int:
        """Bytes of device memory taken since the start."""
        return fake_cuda.state().nbytes - self._nbytes

    def inputs(self, slot: int) -> list[np.ndarray]:
        """What the last runs in a slot were given."""
        return [fake_cuda.read(tensor.address, tensor.nbytes // 4) for tensor in self.engine.given[slot]]

    def close(self) -> None:
        self.gate.open()
        if self.instance is not None:
            self.instance.close()
            self.instance.close()
        self.gate.free()
        assert self.engine.closed == 1
        self.instance = self.memory = None
        assert fake_cuda.state().live() == self.before


class Running(threading.Thread):
    """Batches on their way; `result` waits for them."""

    def __init__(self, world: World, batches: Iterable[Iterable[InferRequest]]) -> None:
        super().__init__(daemon=True)
        self.world, self.batches = world, batches
        self.responses: list[list[InferResponse]] = []
        self.start()

    def run(self) -> None:
        assert self.world.instance is not None
        self.responses = execute_batches(self.world.instance, self.world.signature, self.batches)

    def result(self) -> list[list[InferResponse]]:
        self.join(fake_cuda.PATIENCE_S)
        assert not self.is_alive()
        return self.responses
