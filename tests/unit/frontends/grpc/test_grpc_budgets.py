"""What slow readers and senders of many connections may hold together: the lane's budgets, and who pays."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc_harness import Running, serving, until, write_model
from raw_http2 import INFER, Answer, RawClient, message

from triton_async import defines, protos
from triton_async.cgroup import memory_limit
from triton_async.frontends.grpc.express.session import Lane

RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, OK = 8, 4, 0
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


STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CONFIG = "/inference.GRPCInferenceService/ModelConfig"
# Of a message in the tests of its pace, in place of a minute and 60 KiB.
PACE_S, PACE_NBYTES = 0.3, 1000


@pytest.fixture
def paced(server: Running) -> Running:
    lane = lane_of(server)
    lane.message_timeout_s, lane.message_pace_nbytes = PACE_S, PACE_NBYTES
    return server


def trickle(client: RawClient, stream: int, body: bytes, nbytes: int, seconds: float) -> tuple[int, Answer | None]:
    """Sends `nbytes` of a message every 50 ms, for so long or until the call ends. The bytes sent, and the end."""
    end = time.monotonic() + seconds
    at = 0
    answer = Answer()
    while time.monotonic() < end:
        client.send(stream, body[at : at + nbytes], end=False)
        at += nbytes
        if select.select([client.socket], [], [], 0.05)[0]:
            events = client.h2.receive_data(client.socket.recv(65536))
            ended = [client._take(event, stream, answer) for event in events]
            if any(ended):
                return at, answer
    return at, None


@pytest.mark.parametrize("path", [INFER, STREAM, CONFIG])
def test_a_message_that_comes_too_slowly_is_given_up(paced: Running, path: str) -> None:
    body = infer_body(1 << 15)
    with RawClient(paced.url) as client:
        stream = client.begin(path)
        _, answer = trickle(client, stream, body, 1, 10)
        assert answer is not None
        assert answer.status == DEADLINE_EXCEEDED
        assert answer.headers["grpc-message"] == "timed out waiting for the request message"
        assert client.call(INFER, infer_body()).status == OK
    until(lambda: lane_of(paced).receiving_nbytes == 0, "nothing received")


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_message_that_comes_just_fast_enough_is_taken(paced: Running, path: str) -> None:
    body = infer_body(100 * PACE_NBYTES)
    with RawClient(paced.url) as client:
        stream = client.begin(path)
        sent, answer = trickle(client, stream, body, PACE_NBYTES // 2, 4 * PACE_S)
        assert answer is None
        client.send(stream, body[sent:])
        assert client.receive(stream).status == OK


def test_a_call_with_a_deadline_has_until_then(paced: Running) -> None:
    with RawClient(paced.url) as client:
        stream = client.begin(INFER, grpc_timeout="3S")
        assert trickle(client, stream, infer_body(1 << 15), 1, 4 * PACE_S)[1] is None
        assert client.receive(stream).status == DEADLINE_EXCEEDED


def test_a_stream_may_be_silent_between_messages(paced: Running) -> None:
    with RawClient(paced.url) as client:
        stream = client.begin(STREAM)
        whole = infer_body()
        client.send(stream, whole[:9], end=False)
        client.send(stream, whole[9:], end=False)
        time.sleep(4 * PACE_S)
        client.send(stream, whole)
        answer = client.receive(stream)
        assert answer.status == OK
        assert answer.data.count(b"fp32") == 2
