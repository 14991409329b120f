"""An instance on a GPU: batches go there, run in order and come back, overlapping as far as the slots go."""

from __future__ import annotations

import threading
from collections.abc import Callable

import fake_cuda
import numpy as np
import pytest
from device_harness import (
    Running,
    World,
    arrays,
    check_numbered,
    numbered,
    request,
    signature,
    spec,
)

from triton_async.backends.base import execute_requests
from triton_async.backends.device.direct import DirectMemory
from triton_async.backends.device.engine import DeviceEngine
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import Priority, SlotOptions
from triton_async.errors import InternalError, Unsupported
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature
from triton_async.memory.buffer import Buffer

Make = Callable[..., World]


def run(world: World, *requests: InferRequest) -> list[InferResponse]:
    assert world.instance is not None
    return execute_requests(world.instance, world.signature, requests)


def wait_for_steps(world: World, *steps: str) -> None:
    """Until these steps, in any order, have been done since the start."""
    for _ in range(fake_cuda.PATIENCE_S * 1000):
        seen = world.steps()
        if all(seen.count(step) >= steps.count(step) for step in steps):
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{steps} not reached: {world.steps()}")


def test_one_batch_of_one_request(world: Make) -> None:
    one = world()
    (response,) = run(one, request([[1, 2, 3]], [[10, 20, 30]]))
    found = arrays(response)
    assert found["SUM"].tolist() == [[11, 22, 33]]
    assert found["DIFF"].tolist() == [[-9, -18, -27]]
    assert one.steps() == ["c in", "c in", "k run", "c out", "c out"]


def test_requests_share_a_batch_and_get_their_rows(world: Make) -> None:
    one = world()
    rows = [1, 3, 2, 1]
    responses = run(one, *[numbered(i, rows=n) for i, n in enumerate(rows)])
    for i, (response, n) in enumerate(zip(responses, rows, strict=True)):
        check_numbered(response, i, rows=n)
    # Small pieces of pageable memory: one copy for each input.
    assert one.steps().count("c in") == 2
    assert one.engine.seen == [(0, (7, 4))]


def test_slots_take_turns(world: Make) -> None:
    one = world()
    for i in range(5):
        check_numbered(run(one, numbered(i))[0], i)
    assert [slot for slot, _ in one.engine.seen] == [0, 1, 0, 1, 0]


def test_a_model_without_a_batch_dimension(world: Make) -> None:
    one = world(signature((2, 2), 0))
    found = arrays(run(one, request([[1, 2], [3, 4]], [[1, 1], [1, 1]]))[0])
    assert found["SUM"].tolist() == [[2, 3], [4, 5]]


def test_tensors_without_elements(world: Make) -> None:
    one = world()
    found = arrays(run(one, request(np.zeros((1, 0)), np.zeros((1, 0))))[0])
    assert found["SUM"].shape == (1, 0)
    assert one.engine.seen == [(0, (1, 0))]


def test_only_wanted_outputs_are_brought_back(world: Make) -> None:
    one = world()
    (response,) = run(one, request([[1]], [[2]], outputs=["DIFF"]))
    assert {name: found.tolist() for name, found in arrays(response).items()} == {"DIFF": [[-1]]}
    assert one.steps().count("c out") == 1


def test_the_next_batch_arrives_while_one_computes(world: Make) -> None:
    one = world()
    one.gate.shut()
    running = Running(one, [[numbered(1)], [numbered(2)]])
    one.gate.arrivals(1)
    # The first one cannot go on, and still the second one's inputs come.
    wait_for_steps(one, "c in", "c in", "c in", "c in")
    assert one.steps().count("k run") == 1
    assert "c out" not in one.steps()
    one.gate.open()
    for i, (response,) in enumerate(running.result(), 1):
        check_numbered(response, i)


def test_outputs_leave_while_the_next_batch_computes(world: Make) -> None:
    one = world()
    one.gate.shut()
    running = Running(one, [[numbered(1)], [numbered(2)]])
    one.gate.let_through()
    one.gate.arrivals(2)
    wait_for_steps(one, "c out", "c out")
    one.gate.open()
    for i, (response,) in enumerate(running.result(), 1):
        check_numbered(response, i)


@pytest.mark.parametrize("own_consumed", [False, True])
def test_a_third_batch_is_copied_in_only_when_a_run_has_used_its_inputs(world: Make, own_consumed: bool) -> None:
    one = world(own_consumed=own_consumed)
    one.gate.shut()
    running = Running(one, [[numbered(i)] for i in range(4)])
    wait_for_steps(one, *["c in"] * 4)
    one.gate.arrivals(1)
    # Two are out; the third one waits for the first one's run.
    assert one.steps().count("c in") == 4
    assert len(one.engine.seen) <= 2
    one.gate.let_through()
    one.gate.arrivals(2)
    wait_for_steps(one, *["c in"] * 6)
    one.gate.open()
    for i, (response,) in enumerate(running.result()):
        check_numbered(response, i)


def test_many_batches_in_order(world: Make) -> None:
    one = world()
    batches = [[numbered(10 * i + j, rows=1 + j) for j in range(1 + i % 3)] for i in range(300)]
    for i, responses in enumerate(Running(one, batches).result()):
        for j, response in enumerate(responses):
            check_numbered(response, 10 * i + j, rows=1 + j)


def test_buffers_grow_with_the_batches(world: Make) -> None:
    one = world()
    before = one.nbytes()
    sizes = [3, 500, 10, 4000, 4001, 6000, 100_000, 7]
    for i, columns in enumerate(sizes):
        check_numbered(run(one, numbered(i, columns))[0], i, columns)
    assert one.nbytes() > before
    # As many as there were, not one more with each batch; two outputs for each slot now.
    assert fake_cuda.state().allocations == one.before["allocations"] + 8


def test_fixed_shapes_never_grow(world: Make) -> None:
    one = world(signature((4,), 8))
    assert one.nbytes() == 2 * 2 * 256  # 8 rows of 16 bytes, aligned
    check_numbered(run(one, numbered(1, rows=8))[0], 1, rows=8)
    assert one.nbytes() == 2 * 2 * 256 + 2 * 128


def test_the_engine_says_what_an_input_can_take(world: Make) -> None:
    assert world(capacity=100_000).nbytes() == 4 * 100_096


def test_late_outputs(world: Make) -> None:
    one = world(late=(1,))
    batches = [[numbered(i, 5 + i)] for i in range(6)]
    for i, (response,) in enumerate(Running(one, batches).result()):
        check_numbered(response, i, 5 + i)


def test_a_late_output_that_fails(world: Make) -> None:
    one = world(late=(0, 1))
    one.engine.late_output = _raise  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="no shape"):
        arrays(run(one, numbered(1))[0])


def _raise(slot: int, index: int) -> None:
    raise InternalError("no shape")


def test_shape_tensors_are_read_on_the_host(world: Make) -> None:
    one = world(signature(shape=True), host_inputs=frozenset({2}))
    responses = run(one, request([[1]], [[2]], 5), request([[1]], [[2]], 6))
    assert [arrays(response)["SUM"].tolist() for response in responses] == [[[3]], [[3]]]
    assert one.engine.shape_values == [[5, 6]]
    assert one.steps().count("c in") == 2


def test_large_pieces_are_copied_from_where_they_lie_without_pinned_memory(world: Make) -> None:
    columns = 5000
    one = world(signature(), SlotOptions(pin_inputs=False, pin_outputs=False))
    responses = run(one, *[numbered(i, columns) for i in range(3)])
    for i, response in enumerate(responses):
        check_numbered(response, i, columns)
    assert one.steps().count("c in") == 6
    assert [output.buffer.memory_type for output in responses[0].outputs] == [0, 0]


def test_outputs_come_in_pinned_memory(world: Make) -> None:
    (response,) = run(world(), numbered(1))
    assert [output.buffer.memory_type for output in response.outputs] == [1, 1]


def test_there_may_be_no_pinned_memory() -> None:
    one = World()
    one.instance = DeviceInstance(
        "m_0_0", one.engine, one.signature, one.devices, 0, SlotOptions(gather_threshold=2), one.pool
    )
    responses = run(one, *[numbered(i) for i in range(3)])
    for i, response in enumerate(responses):
        check_numbered(response, i)
    assert [output.buffer.memory_type for output in responses[0].outputs] == [0, 0]
    assert one.devices.kernels == []
    one.close()


def test_memory_of_the_slots_may_come_from_a_pool() -> None:
    asked = []

    class Pool(DirectMemory):
        def acquire(self, nbytes: int) -> Buffer:
            asked.append(nbytes)
            return super().acquire(nbytes)

    one = World(signature((4,), 8))
    one.instance = DeviceInstance(
        "m_0_0", one.engine, one.signature, one.devices, 0, one.options, one.pool, memory=Pool(one.devices, 0)
    )
    check_numbered(run(one, numbered(1))[0], 1)
    assert asked == [256] * 4
    one.close()


@pytest.mark.parametrize(("priority", "expected"), [(Priority.DEFAULT, 0), (Priority.MAX, -5), (Priority.MIN, 0)])
def test_the_priority_of_the_streams(world: Make, priority: Priority, expected: int) -> None:
    one = world(signature(), SlotOptions(priority=priority))
    found = [fake_cuda.library().fake_stream_priority(stream) for stream in one.devices.streams]
    assert found == [expected] * 3


@pytest.mark.parametrize("busy_wait", [False, True])
def test_events_are_waited_for_busily_when_told_to(world: Make, busy_wait: bool) -> None:
    one = world(signature(), SlotOptions(busy_wait=busy_wait))
    events = fake_cuda.state().events - one.before["events"]
    assert fake_cuda.state().spinning == (events if busy_wait else 0)
    check_numbered(run(one, numbered(1))[0], 1)


def test_both_threads_use_the_device(world: Make) -> None:
    assert world().devices.used == [0, 0]


@pytest.mark.parametrize("where", ["input", "output"])
def test_bytes_are_refused(where: str) -> None:
    names = [spec("X", "BYTES")], [spec("Y")]
    inputs, outputs = names if where == "input" else names[::-1]
    one = World(ModelSignature("m", 1, inputs, outputs, 8))
    with pytest.raises(Unsupported, match=f"unable to load model 'm': {where} 'X' has data-type BYTES"):
        one.start()
    one.close()


def test_a_second_close_does_nothing(world: Make) -> None:
    one = world()
    assert one.instance is not None
    one.instance.close()
    assert one.engine.closed == 1


def test_an_engine_that_gives_too_few_outputs(world: Make) -> None:
    one = world()
    one.engine.enqueue = lambda *_: []  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="model 'm' produced 0 outputs instead of the 2 of its configuration"):
        arrays(run(one, numbered(1))[0])


def test_the_engine_is_closed_when_the_instance_can_not_be_made() -> None:
    class Bad(DeviceEngine):
        closed = False

        def input_capacity(self, index: int) -> int:
            raise InternalError("no such input")

        def close(self) -> None:
            self.closed = True

    one = World()
    bad = Bad()
    with pytest.raises(InternalError, match="no such input"):
        DeviceInstance("m_0_0", bad, one.signature, one.devices, 0, one.options, one.pool)
    assert bad.closed
    one.engine.closed = 1
    one.close()
