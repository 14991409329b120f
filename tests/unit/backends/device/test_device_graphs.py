"""CUDA graphs: which are captured, which batch runs in which, and that padding never shows."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable

import fake_cuda
import numpy as np
import pytest
from device_harness import Running, World, arrays, check_numbered, numbered, request, signature

from triton_async.backends.base import execute_batches, execute_requests
from triton_async.backends.device.graphs import GraphShape, graph_shapes
from triton_async.backends.device.options import GraphSpec, SlotOptions
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest

Make = Callable[..., World]


def options(*specs: GraphSpec, preferred: tuple[int, ...] = ()) -> SlotOptions:
    return SlotOptions(graphs=True, graph_specs=specs, preferred=preferred)


def sizes(*args: object, **more: object) -> list[int]:
    return [shape.rows for shape in graph_shapes(options(**more), ["A"], [(4,)], *args)]  # type: ignore[arg-type]


def test_no_graphs_unless_asked_for() -> None:
    assert graph_shapes(SlotOptions(graph_specs=(GraphSpec(1, {}, 1),)), ["A"], [(4,)], 8) == ()


def test_usual_batch_sizes() -> None:
    assert sizes(32) == [1, 2, 3, 4, 6, 8, 12, 16, 32]
    assert sizes(5) == [1, 2, 3, 4, 5]
    assert sizes(1) == [1]


def test_the_sizes_that_the_batcher_prefers() -> None:
    assert sizes(32, preferred=(4, 16)) == [1, 4, 16, 32]


def test_a_model_that_does_not_batch() -> None:
    assert graph_shapes(options(), ["A"], [(4,)], 0) == (GraphShape(0, ((4,),), 0),)


def test_specs_take_the_place_of_the_usual_ones() -> None:
    specs = GraphSpec(8, {"B": (3,)}, 5), GraphSpec(2, {"A": (7,)}, 2)
    assert graph_shapes(options(*specs), ["A", "B"], [(4,), (5,)], 8) == (
        GraphShape(2, ((7,), (5,)), 2),
        GraphShape(8, ((4,), (3,)), 5),
    )


def test_open_dims_that_no_spec_names_have_no_graph() -> None:
    specs = GraphSpec(1, {}, 1), GraphSpec(2, {"A": (7,)}, 2)
    assert graph_shapes(options(*specs), ["A"], [None], 8) == (GraphShape(2, ((7,),), 2),)


def test_the_same_graph_twice_serves_what_either_does() -> None:
    specs = GraphSpec(8, {}, 6), GraphSpec(8, {"A": (4,)}, 3)
    assert graph_shapes(options(*specs), ["A"], [(4,)], 8) == (GraphShape(8, ((4,),), 3),)


def run(world: World, *requests: InferRequest) -> list[dict[str, np.ndarray]]:
    assert world.instance is not None
    return [arrays(response) for response in execute_requests(world.instance, world.signature, requests)]


def graphs_run(world: World) -> int:
    return world.steps().count("G run")


def test_a_batch_of_a_captured_size_runs_in_its_graph(world: Make) -> None:
    one = world(signature((4,), 8), options(preferred=(2, 4)))
    assert one.instance is not None
    assert one.instance.graph_count == 2 * 4
    one.engine.seen.clear()
    for rows in (1, 2, 4, 8, 2, 1):
        check_numbered(execute_requests(one.instance, one.signature, [numbered(rows, rows=rows)])[0], rows, rows=rows)
    assert graphs_run(one) == 6
    assert one.engine.seen == []  # the engine is not asked


def test_other_sizes_run_plainly(world: Make) -> None:
    one = world(signature((4,), 8), options(preferred=(4,)))
    one.engine.seen.clear()
    check_numbered(execute_requests(one.instance, one.signature, [numbered(5, rows=3)])[0], 5, rows=3)  # type: ignore[arg-type]
    assert graphs_run(one) == 0
    assert one.engine.seen == [(0, (3, 4))]


def test_the_batch_is_padded_down_to_the_lower_bound(world: Make) -> None:
    one = world(signature((4,), 8), options(GraphSpec(8, {}, 5), GraphSpec(4, {}, 4)))
    assert one.instance is not None
    for rows, graphs in ((5, 1), (7, 1), (8, 1), (4, 1), (3, 0)):
        fake_cuda.clear_trace()
        check_numbered(execute_requests(one.instance, one.signature, [numbered(rows, rows=rows)])[0], rows, rows=rows)
        assert graphs_run(one) == graphs, rows


def test_padding_is_cleared_of_earlier_requests(world: Make) -> None:
    one = world(signature((4,), 4), options(GraphSpec(4, {}, 1)))
    for _ in range(2):  # both slots
        run(one, numbered(7, rows=4))
    fake_cuda.clear_trace()
    run(one, numbered(1, rows=1))
    assert one.steps().count("s in") == 2
    # What the engine was given: the one row, then nothing of the sevens.
    inputs = one.inputs(0)
    assert [array.reshape(4, 4)[1:].any() for array in inputs] == [False, False]
    assert inputs[0][0] == 2


def test_other_dims_are_never_padded(world: Make) -> None:
    one = world(signature((-1,), 8), options(GraphSpec(2, {"A": (4,), "B": (4,)}, 1)))
    run(one, numbered(1, 3))
    assert graphs_run(one) == 0
    run(one, numbered(1, 4))
    assert graphs_run(one) == 1


def test_the_engines_own_dims(world: Make) -> None:
    one = world(signature((-1,), 2), options(), dims=(6,))
    run(one, numbered(1, 6, rows=2))
    assert graphs_run(one) == 1


def test_a_model_without_a_batch_dimension_runs_in_its_graph(world: Make) -> None:
    one = world(signature((2, 2), 0), options())
    assert run(one, request([[1, 2], [3, 4]], [[1, 1], [1, 1]]))[0]["SUM"].tolist() == [[2, 3], [4, 5]]
    assert graphs_run(one) == 1


def test_graphs_are_captured_again_when_a_buffer_grows(world: Make) -> None:
    one = world(signature((-1,), 8), options(GraphSpec(1, {"A": (4,), "B": (4,)}, 1)))
    assert one.instance is not None
    run(one, numbered(1, 4))
    run(one, numbered(2, 4))
    for columns in (5000, 5000):  # both slots
        assert run(one, numbered(3, columns))[0]["SUM"].tolist() == [[3] * columns]
    assert one.instance.graph_count == 2
    assert one.engine.captured == [0, 1, 0, 1]
    fake_cuda.clear_trace()
    for i in range(4):
        assert run(one, numbered(i, 4))[0]["DIFF"].tolist() == [[3 * i] * 4]
    assert graphs_run(one) == 4


def test_a_slot_captures_again_only_when_the_other_is_done(world: Make) -> None:
    one = world(signature((-1,), 8), options(GraphSpec(1, {"A": (4,), "B": (4,)}, 1)))
    one.gate.shut()
    running = Running(one, [[numbered(1, 4)], [numbered(2, 5000)]])
    one.gate.arrivals(3)  # two captures and the first batch
    assert one.engine.captured == [0, 1]
    one.gate.open()
    (first,), (second,) = running.result()
    check_numbered(first, 1)
    check_numbered(second, 2, 5000)
    assert one.engine.captured == [0, 1, 1]


def test_plain_runs_between_leave_the_graphs_alone(world: Make) -> None:
    one = world(signature((4,), 8), options(preferred=(2,)))
    batches = [[numbered(i, rows=1 + i % 5)] for i in range(40)]
    for i, responses in enumerate(execute_batches(one.instance, one.signature, batches)):  # type: ignore[arg-type]
        check_numbered(responses[0], i, rows=1 + i % 5)
    assert graphs_run(one) == 16


def test_a_capture_that_fails_is_logged_and_left_out(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    one = World(signature((4,), 2), options(preferred=(2,)))
    enqueue, calls = one.engine.enqueue, []

    def fail_third_capture(slot, inputs, stream, consumed):  # type: ignore[no-untyped-def]
        outputs = enqueue(slot, inputs, stream, consumed)
        if consumed == 0:
            calls.append(slot)
            if len(calls) == 3:
                raise InternalError("can not be captured")
        return outputs

    one.engine.enqueue = fail_third_capture  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        instance = one.start()
    assert instance.graph_count == 3
    assert "could not capture a CUDA graph for batch size 1: can not be captured" in caplog.text
    for i in range(4):
        check_numbered(execute_requests(instance, one.signature, [numbered(i)])[0], i)
    assert graphs_run(one) == 2
    one.close()


def test_no_garbage_is_collected_while_any_instance_captures() -> None:
    """The first of two that capture at once ends while the other goes on: a finaliser would end that one's capture."""
    worlds = [World(signature((4,), 1), options()) for _ in range(2)]
    entered = [threading.Event(), threading.Event()]
    first_done = threading.Event()
    collects: dict[str, bool] = {}

    def meet(index: int) -> None:
        enqueue = worlds[index].engine.enqueue

        def wrapped(slot, inputs, stream, consumed):  # type: ignore[no-untyped-def]
            outputs = enqueue(slot, inputs, stream, consumed)
            if consumed == 0 and not entered[index].is_set():
                entered[index].set()
                assert entered[1 - index].wait(fake_cuda.PATIENCE_S)
                if index == 1:
                    assert first_done.wait(fake_cuda.PATIENCE_S)
                    collects["the other captures"] = gc.isenabled()
            return outputs

        worlds[index].engine.enqueue = wrapped  # type: ignore[method-assign]

    def first() -> None:
        worlds[0].start()
        first_done.set()

    meet(0)
    meet(1)
    threads = [threading.Thread(target=first), threading.Thread(target=worlds[1].start)]
    assert gc.isenabled()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(fake_cuda.PATIENCE_S)
    collects["all is done"] = gc.isenabled()
    for one in worlds:
        assert one.instance is not None
        assert one.instance.graph_count == 2
        one.instance.close()
    for one in reversed(worlds):
        one.close()
    assert collects == {"the other captures": False, "all is done": True}


def test_a_collector_that_is_off_stays_off(world: Make) -> None:
    gc.disable()
    try:
        world(signature((4,), 1), options())
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["late", "not capturable", "shape tensors"])
def test_engines_that_can_have_no_graphs(how: str, caplog: pytest.LogCaptureFixture) -> None:
    made = signature((4,), 2, shape=how == "shape tensors")
    engine = {"late": {"late": (0,)}, "not capturable": {"capturable": False}}
    one = World(made, options(), **engine.get(how, {"host_inputs": frozenset({2})}))
    with caplog.at_level(logging.WARNING):
        instance = one.start()
    assert instance.graph_count == 0
    assert ("known only after the run" if how == "late" else "its engine can not be captured") in caplog.text
    shape = (1,) if how == "shape tensors" else ()
    (response,) = execute_requests(instance, one.signature, [request([[1] * 4], [[2] * 4], *shape)])
    assert arrays(response)["SUM"].tolist() == [[3] * 4]
    one.close()


def test_graphs_of_open_dims_that_nobody_names(caplog: pytest.LogCaptureFixture) -> None:
    one = World(signature((-1,), 2), options())
    with caplog.at_level(logging.WARNING):
        instance = one.start()
    assert instance.graph_count == 0
    assert "name the dims of its inputs in graph_spec" in caplog.text
    one.close()
