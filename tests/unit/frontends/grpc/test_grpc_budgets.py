"""What slow readers and senders of many connections may hold together: the lane's budgets, and who pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc_harness import Running, serving, until, write_model
from raw_http2 import INFER, RawClient, message

from triton_async import defines, protos
from triton_async.cgroup import memory_limit
from triton_async.frontends.grpc.express.session import Lane

RESOURCE_EXHAUSTED, OK = 8, 0
NBYTES = 400_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    write_model(tmp_path, "fp32")
    with serving(tmp_path) as running:
        yield running


def lane_of(server: Running) -> Lane:
    lane = server.endpoint.lane
    assert lane is not None
    return lane


def infer_body(nbytes: int = 8) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name="fp32", raw_input_contents=[bytes(nbytes)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[nbytes // 4])
    return message(request.SerializeToString())


def deaf(server: Running, calls: int) -> RawClient:
    """A client that asks and opens no window for the answers."""
    client = RawClient(server.url)
    client.h2.update_settings({4: 0})
    client.flush()
    for _ in range(calls):
        client.send(client.begin(INFER), infer_body(NBYTES))
    return client


def open_(server: Running) -> int:
    return len(server.endpoint._connections)


def test_the_connection_that_holds_the_most_is_closed_at_the_bound(server: Running) -> None:
    lane = lane_of(server)
    lane.max_held_nbytes = 7 * NBYTES
    with ExitStack() as stack:
        small = [stack.enter_context(deaf(server, 1)) for _ in range(3)]
        until(lambda: lane.held_nbytes > 3 * NBYTES, "three answers held")
        stack.enter_context(deaf(server, 3))
        until(lambda: lane.held_nbytes > 6 * NBYTES, "six answers held")
        assert open_(server) == 4
        greedy = stack.enter_context(deaf(server, 0))
        for _ in range(3):
            greedy.send(greedy.begin(INFER), infer_body(NBYTES))
        # Of the two that hold three, one goes.
        until(lambda: open_(server) == 4, "one closed")
        until(lambda: lane.held_nbytes <= 7 * NBYTES, "below the bound")
        with RawClient(server.url) as other:
            assert other.call(INFER, infer_body()).status == OK
        for client in small:
            client.h2.update_settings({4: 1 << 20})
            client.flush()
            assert client.receive(1).status == OK
    until(lambda: lane.held_nbytes == 0, "nothing held")


def test_who_has_just_come_is_not_closed_for_those_who_do_not_read(server: Running) -> None:
    """Even when it holds the most at the moment."""
    lane = lane_of(server)
    with ExitStack() as stack:
        silent = stack.enter_context(deaf(server, 2))
        until(lambda: lane.held_nbytes > 2 * NBYTES, "two answers held")
        connection = next(iter(lane.connections))
        until(lambda: connection.burden()[0], "it counts as one that does not read")
        lane.max_held_nbytes = 4 * NBYTES + 1000
        fresh = stack.enter_context(deaf(server, 3))
        assert silent.receive(1).terminated
        fresh.h2.update_settings({4: 1 << 20})
        fresh.h2.increment_flow_control_window(1 << 24)
        fresh.flush()
        assert fresh.receive(5).status == OK


def test_unfinished_messages_are_bounded_over_all_connections(server: Running) -> None:
    lane = lane_of(server)
    lane.max_receiving_nbytes = 3 * NBYTES
    whole = infer_body(2 * NBYTES)
    with RawClient(server.url) as first, RawClient(server.url) as second:
        held = first.begin(INFER)
        first.send(held, whole[:-1], end=False)
        until(lambda: lane.receiving_nbytes > NBYTES, "the first one arrived")
        refused = second.begin(INFER)
        second.send(refused, whole[:-1], end=False)
        answer = second.receive(refused)
        assert answer.status == RESOURCE_EXHAUSTED
        assert second.call(INFER, infer_body()).status == OK
        first.send(held, whole[-1:])
        assert first.receive(held).status == OK
        assert lane.receiving_nbytes == 0


def test_the_bounds_are_those_of_the_defines(server: Running) -> None:
    """Or a share of the memory that there is."""
    lane = lane_of(server)
    share = memory_limit() // defines.UNSENT_SHARE
    assert lane.max_held_nbytes == min(defines.GRPC_MAX_TOTAL_HELD_NBYTES, share)
    assert lane.max_receiving_nbytes == min(defines.GRPC_MAX_TOTAL_RECEIVING_NBYTES, share)
