"""Clients that go away in the middle: the server drops what was theirs and serves the others."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import ExitStack, closing

import numpy as np
import pytest
from server_process import ServerProcess, poll
from triton_clients import PROTOCOLS, add_sub_rows, client_module, infer, make_inputs

# About half a second of computing.
ROUNDS = 800


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.http_url.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def slow_request() -> bytes:
    body = json.dumps(
        {"inputs": [{"name": "ROUNDS", "shape": [1], "datatype": "INT64", "data": [ROUNDS]}]}
    ).encode()
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN, as a client that crashed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def assert_still_serving(server: ServerProcess) -> None:
    arrays, expected = add_sub_rows(1)
    for protocol in PROTOCOLS:
        outputs = infer(server, protocol, "simple", arrays, ["OUTPUT0", "OUTPUT1"])
        assert all(np.array_equal(got, want) for got, want in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("abrupt", [False, True])
def test_http_client_leaves_while_waiting(server: ServerProcess, abrupt: bool) -> None:
    connections = [connect(server) for _ in range(4)]
    for connection in connections:
        connection.sendall(slow_request())
    poll(lambda: server.live_objects()["request"] >= len(connections), "the requests to arrive")
    for connection in connections:
        (reset if abrupt else socket.socket.close)(connection)
    assert_still_serving(server)
    server.wait_until_idle()


def test_http_client_leaves_while_sending(server: ServerProcess) -> None:
    whole = slow_request()
    with ExitStack() as stack:
        for length in (10, len(whole) - 40, len(whole) - 1):
            connection = stack.enter_context(closing(connect(server)))
            connection.sendall(whole[:length])
        large = stack.enter_context(closing(connect(server)))
        large.sendall(
            b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: here\r\n"
            b"Inference-Header-Content-Length: 0\r\nContent-Length: 40000000\r\n\r\n" + bytes(2_000_000)
        )
        assert_still_serving(server)
    assert_still_serving(server)
    server.wait_until_idle()


def test_http_client_leaves_while_the_answer_comes(server: ServerProcess) -> None:
    values = np.zeros((1, 8_000_000), dtype=np.float32)
    with closing(connect(server)) as connection:
        connection.sendall(
            b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: here\r\n"
            b"Inference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % values.nbytes
        )
        connection.sendall(values.tobytes())
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert_still_serving(server)
    server.wait_until_idle()


def test_grpc_client_cancels(server: ServerProcess) -> None:
    module = client_module("grpc")
    rounds = {"ROUNDS": np.array([ROUNDS], dtype=np.int64)}
    with module.InferenceServerClient(server.grpc_url) as client:
        calls = [
            client.async_infer("slow", make_inputs(module, rounds), callback=lambda result, error: None)
            for _ in range(4)
        ]
        poll(lambda: server.live_objects()["request"] >= len(calls), "the requests to arrive")
        for call in calls:
            call.cancel()
        assert_still_serving(server)
        server.wait_until_idle()


def test_grpc_client_leaves_a_stream(server: ServerProcess) -> None:
    module = client_module("grpc")
    rounds = {"ROUNDS": np.array([ROUNDS], dtype=np.int64)}
    client = module.InferenceServerClient(server.grpc_url)
    client.start_stream(callback=lambda result, error: None)
    for _ in range(3):
        client.async_stream_infer("slow", make_inputs(module, rounds))
    poll(lambda: server.live_objects()["request"] >= 1, "the requests to arrive")
    client.stop_stream(cancel_requests=True)
    client.close()
    assert_still_serving(server)
    server.wait_until_idle()
