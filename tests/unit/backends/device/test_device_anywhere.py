"""Outputs that may stay on the device: in memory of their own there, until their response is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import fake_cuda
import pytest
from device_harness import World, check_numbered, numbered, signature

from triton_async.backends.base import execute_requests
from triton_async.backends.device.options import GraphSpec, SlotOptions
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse

Make = Callable[..., World]
CPU, PINNED, GPU = 0, 1, 2
POOL_NBYTES = 1 << 16
GRAPHS = SlotOptions(graphs=True, graph_specs=(GraphSpec(2, {}, 1),))


def asked(number: int, *outputs: RequestedOutput, rows: int = 1, columns: int = 4) -> InferRequest:
    sent = numbered(number, columns, rows)
    return InferRequest("m", inputs=sent.inputs, outputs=list(outputs))


def anywhere(name: str = "SUM") -> RequestedOutput:
    return RequestedOutput(name, anywhere=True)


def run(world: World, *requests: InferRequest) -> list[InferResponse]:
    assert world.instance is not None
    responses = execute_requests(world.instance, world.signature, requests)
    for response in responses:
        if response.error is not None:
            raise response.error
    return responses


def leased(world: World) -> int:
    assert world.memory is not None
    return world.memory.leased


class Places:
    """Where outputs are, and what is there."""

    def __init__(self, maker: ModuleType) -> None:
        self.of = maker.place_of

    def kinds(self, responses: Sequence[InferResponse]) -> list[list[int]]:
        return [[self.of(output)[1] for output in response.outputs] for response in responses]

    def values(self, output: Any) -> list[list[float]]:
        address, kind, device = self.of(output)
        assert (kind, device) == (GPU, 0)
        return fake_cuda.read(address, output.nbytes // 4).reshape(output.shape).tolist()  # type: ignore[no-any-return]


@pytest.fixture
def places(batch_maker: ModuleType) -> Places:
    return Places(batch_maker)


@pytest.mark.parametrize("options", [None, GRAPHS], ids=["plain", "graphs"])
@pytest.mark.parametrize("late", [(), (0,)], ids=["", "late"])
def test_an_output_stays_until_its_response_is_gone(
    world: Make, places: Places, options: SlotOptions | None, late: tuple[int, ...]
) -> None:
    one = world(signature((4,), 8), options, device_nbytes=POOL_NBYTES, late=late)
    before = leased(one)
    kept = run(one, asked(5, anywhere()), asked(6, anywhere(), rows=2))
    assert places.kinds(kept) == [[GPU], [GPU]]
    assert leased(one) == before + 1, "one lease for the batch"
    assert one.pool.leased == one.pinned_pool.leased == 0
    for other in range(5):
        assert places.values(run(one, asked(other, anywhere()))[0].outputs[0]) == [[other] * 4]
    assert [places.values(response.outputs[0]) for response in kept] == [[[5] * 4], [[6] * 4] * 2]
    kept.pop()
    assert leased(one) == before + 1
    kept.clear()
    assert leased(one) == before


def test_its_copy_waits_for_nothing_but_the_run(world: Make, places: Places) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    fake_cuda.clear_trace()
    response = run(one, asked(5, anywhere(), RequestedOutput("DIFF")))[0]
    assert places.kinds([response]) == [[GPU, PINNED]]
    assert one.steps().count("c out") == 2
    assert places.values(response.outputs[0]) == [[5] * 4]
    assert response.outputs[1].numpy().tolist() == [[15] * 4]


@pytest.mark.parametrize("first", [True, False])
def test_the_host_gets_all_of_it_when_one_request_wants_it_there(world: Make, places: Places, first: bool) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    before = leased(one)
    requests = [asked(5, anywhere(), anywhere("DIFF")), numbered(6)]
    responses = run(one, *(requests if first else requests[::-1]))
    assert places.kinds(responses) == [[PINNED, PINNED]] * 2
    for response, number in zip(responses, (5, 6) if first else (6, 5), strict=True):
        check_numbered(response, number)
    assert leased(one) == before


def test_outputs_come_to_the_host_while_the_device_has_no_room(world: Make, places: Places) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    assert one.memory is not None
    taken = one.memory.acquire(POOL_NBYTES - one.memory.leased_nbytes)
    kinds = []
    for room in (False, True):
        if room:
            del taken
        allocated = one.nbytes()
        response = run(one, asked(5, anywhere()))[0]
        kinds += places.kinds([response])
        assert one.memory.direct_nbytes == 0, "the driver is not asked"
        assert one.nbytes() - allocated <= 2 * 16, "but by the engine"
        del response
    assert kinds == [[PINNED], [GPU]]


def test_outputs_come_to_the_host_without_a_pool(world: Make, places: Places) -> None:
    response = run(world(), asked(5, anywhere()))[0]
    assert places.kinds([response]) == [[PINNED]]
    assert response.outputs[0].numpy().tolist() == [[5] * 4]


def test_an_output_without_bytes_takes_no_room(world: Make) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    before = leased(one)
    response = run(one, asked(5, anywhere(), columns=0))[0]
    assert response.outputs[0].shape == (1, 0)
    assert leased(one) == before


def test_the_part_of_a_region_is_written_beside_it(world: Make, places: Places, batch_maker: ModuleType) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    place = one.devices.allocate(0, 16)
    requests = [asked(5, anywhere()), asked(6, anywhere())]
    responses, placed, kinds = batch_maker.run_placed(
        one.instance, one.signature, requests, [(place, 16, GPU, 0, 1, 1, 1)], wanted=(3, 0)
    )
    assert (placed, kinds[0]) == ([(1, 16)], GPU)
    assert fake_cuda.read(place, 4).tolist() == [6] * 4
    assert places.values(responses[0].outputs[0]) == [[5] * 4]
    one.devices.free(0, place)


def test_an_output_outlives_its_instance(places: Places) -> None:
    one = World(device_nbytes=POOL_NBYTES)
    one.start()
    before = fake_cuda.state().live()
    response = run(one, asked(5, anywhere()))[0]
    assert one.instance is not None
    one.instance.close()
    one.instance = one.memory = None
    assert places.values(response.outputs[0]) == [[5] * 4]
    assert fake_cuda.state().live() != before
    del response
    one.close()


def test_a_run_that_fails_gives_its_room_back(world: Make) -> None:
    one = world(device_nbytes=POOL_NBYTES)
    before = leased(one)
    failed = 0
    for call in range(100):
        start = fake_cuda.state().calls
        fake_cuda.fail_at(call)
        try:
            run(one, asked(5, anywhere(), anywhere("DIFF")))
        except InternalError:
            failed += 1
        reached = fake_cuda.state().calls - start > call
        fake_cuda.recover()
        assert leased(one) == before
        if not reached:
            break
    assert failed > 5
