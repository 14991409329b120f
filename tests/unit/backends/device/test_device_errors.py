"""What goes wrong on a GPU becomes the error of the batch it befell: nothing hangs, nothing leaks, others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import fake_cuda
import pytest
from device_harness import Running, World, arrays, check_numbered, numbered, signature

from triton_async.backends.base import execute_batches, execute_requests
from triton_async.backends.device.options import GraphSpec, SlotOptions
from triton_async.errors import InternalError, InvalidArg, ServerError
from triton_async.infer.response import InferResponse

Make = Callable[..., World]

GRAPHS = SlotOptions(graphs=True, graph_specs=(GraphSpec(2, {}, 1),))
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "own consumed event": {"own_consumed": True},
    "late outputs": {"late": (1,)},
}


def run(world: World, count: int = 1) -> list[InferResponse]:
    """Answers to so many batches of one request, number 0 and on."""
    assert world.instance is not None
    batches = [[numbered(i)] for i in range(count)]
    return [responses[0] for responses in execute_batches(world.instance, world.signature, batches)]


def test_an_engine_that_raises_fails_its_batch_alone(world: Make) -> None:
    one = world()
    one.engine.trouble = InvalidArg("the engine does not like it")
    responses = run(one, 4)
    with pytest.raises(InvalidArg, match="the engine does not like it"):
        arrays(responses[0])
    for i in range(1, 4):
        check_numbered(responses[i], i)
    assert one.instance is not None and not one.instance.broken


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_an_engine_raises(world: Make, kind: type[BaseException]) -> None:
    one = world()
    one.engine.trouble = kind("odd")
    with pytest.raises(InternalError, match=f"{kind.__name__}: odd"):
        arrays(run(one)[0])
    check_numbered(run(one)[0], 0)


def test_an_engine_that_says_it_is_broken(world: Make) -> None:
    one = world()
    one.engine.broken = True
    one.engine.trouble = InternalError("it broke")
    assert one.instance is not None
    with pytest.raises(InternalError, match="it broke"):
        arrays(run(one)[0])
    assert one.instance.broken


def test_an_error_names_cuda_s_own(world: Make) -> None:
    one = world()
    fake_cuda.fail_at(0)
    text = "copying the inputs of a batch on GPU 0 failed: CUDA_ERROR_OUT_OF_MEMORY: as the test wished"
    with pytest.raises(InternalError, match=text):
        arrays(run(one)[0])


def test_an_illegal_address_breaks_the_instance(world: Make) -> None:
    one = world()
    make_outputs = one.engine._make_outputs

    def astray(*arguments):  # type: ignore[no-untyped-def]
        outputs = make_outputs(*arguments)
        return [outputs[0], outputs[1]._replace(address=outputs[1].address + (1 << 40))]

    one.engine._make_outputs = astray  # type: ignore[method-assign]
    assert one.instance is not None
    responses = run(one, 5)
    assert all(isinstance(response.error, InternalError) for response in responses)
    assert responses[0].error is not None
    assert "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered" in responses[0].error.message
    assert one.instance.broken


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lasting", [False, True])
def test_any_call_may_fail(kind: str, graphs: bool, lasting: bool) -> None:
    """Call number k fails, for every k that three batches make; each batch is answered, and nothing is left."""
    if graphs and kind == "late outputs":
        graphs = False
    for call in range(200):
        one = World(signature((4,), 8), GRAPHS if graphs else SlotOptions(), **KINDS[kind])
        one.start()
        start = fake_cuda.state().calls
        fake_cuda.fail_at(call, fake_cuda.ILLEGAL_ADDRESS if lasting else fake_cuda.OUT_OF_MEMORY, lasting=lasting)
        responses = run(one, 3)
        reached = fake_cuda.state().calls - start > call
        failed = [response.error for response in responses if response.error is not None]
        for i, response in enumerate(responses):
            if response.error is None:
                check_numbered(response, i)
            else:
                assert isinstance(response.error, ServerError)
        assert one.instance is not None
        assert one.instance.broken == (reached and lasting)
        if lasting and reached and call < 3:
            assert len(failed) == 3
        if not lasting:
            assert len(failed) <= 1
        if not lasting:
            fake_cuda.recover()
            check_numbered(run(one)[0], 0)
        one.close()
        fake_cuda.recover()
        if not reached:
            return
    raise AssertionError("never through")


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_any_call_may_fail_while_the_instance_is_made(graphs: bool, lasting: bool) -> None:
    for call in range(200):
        one = World(signature((4,), 8), GRAPHS if graphs else SlotOptions())
        start = fake_cuda.state().calls
        fake_cuda.fail_at(call, fake_cuda.ILLEGAL_ADDRESS if lasting else fake_cuda.OUT_OF_MEMORY, lasting=lasting)
        try:
            instance = one.start()
        except (ServerError, MemoryError):
            instance = None
        reached = fake_cuda.state().calls - start > call
        fake_cuda.recover()
        if instance is not None and not (lasting and reached):
            check_numbered(execute_requests(instance, one.signature, [numbered(1)])[0], 1)
        one.close()
        if not reached:
            return
    raise AssertionError("never through")


def test_no_memory_to_grow_fails_the_batch_alone(world: Make) -> None:
    one = world()
    check_numbered(run(one)[0], 0)
    allocate, asked = one.devices.allocate, []

    def refuse(device: int, nbytes: int) -> int:
        asked.append(nbytes)
        raise MemoryError("none left")

    one.devices.allocate = refuse  # type: ignore[method-assign]
    assert one.instance is not None
    large = execute_requests(one.instance, one.signature, [numbered(1, 5000)])[0]
    one.devices.allocate = allocate  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="GPU 0 has no memory for the inputs of a batch: none left"):
        arrays(large)
    assert asked == [20224]
    for i in range(3):
        check_numbered(execute_requests(one.instance, one.signature, [numbered(i, 5000)])[0], i, 5000)


def test_a_failed_batch_keeps_its_slot_until_nothing_uses_it(world: Make) -> None:
    """The engine raises behind work that it put on the stream: neither answer nor slot go before that work."""
    one = world()
    one.gate.shut()
    one.engine.trouble = InternalError("behind the work")
    running = Running(one, [[numbered(i)] for i in range(4)])
    one.gate.arrivals(1)
    threading.Event().wait(0.2)  # for what should not happen
    assert len(one.engine.seen) == 2
    one.gate.open()
    first, *others = [responses[0] for responses in running.result()]
    assert first.error is not None
    for i, response in enumerate(others, 1):
        check_numbered(response, i)
    assert one.instance is not None and not one.instance.broken
