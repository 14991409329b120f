"""Microseconds per call of the HTTP/2 session alone: request in, answer out, no socket and no codec.

    python bench/micro/http2.py

`session` is our nghttp2 session as Python sees it, with an event tuple for everything that happens, so a good part of
the time of small calls is Python's; `h2` is the pure-Python library behind grpclib doing the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes
from hpack import Encoder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from compiled import load

EventSession = load("http2_events").EventSession

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip")]
TRAILERS = [(b"grpc-status", b"0")]
REQUEST = [
    (":method", "POST"), (":scheme", "http"), (":path", "/inference.GRPCInferenceService/ModelInfer"),
    (":authority", "localhost:8001"), ("te", "trailers"), ("content-type", "application/grpc"),
    ("user-agent", "grpc-python/1.70"), ("grpc-accept-encoding", "identity, deflate, gzip"),
]  # fmt: skip
FRAME = 16384
WINDOW = 2**31 - 1

ACK = b"\0\0\0\4\1\0\0\0\0"


def frame(kind: int, payload: bytes, flags: int, stream: int) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hello() -> bytes:
    settings = int(SettingCodes.INITIAL_WINDOW_SIZE).to_bytes(2, "big") + WINDOW.to_bytes(4, "big")
    return PREFACE + frame(4, settings, 0, 0) + frame(8, (WINDOW - 65535).to_bytes(4, "big"), 0, 0)


def calls(count: int, nbytes: int) -> list[bytes]:
    """The bytes of each call, as one client would send them."""
    encoder = Encoder()
    found = []
    for i in range(count):
        stream = 2 * i + 1
        data = frame(1, encoder.encode(REQUEST), 4, stream)
        for at in range(0, nbytes, FRAME):
            size = min(FRAME, nbytes - at)
            data += frame(0, bytes(size), int(at + size == nbytes), stream)
        found.append(data)
    return found


def ours(requests: list[bytes], payload: bytes) -> float:
    session = EventSession()
    session.feed(hello())
    session.output()
    session.feed(ACK)
    began = time.perf_counter()
    for request in requests:
        session.feed(request)
        (stream,) = session.opened.values()
        stream.respond(HEAD)
        stream.send([payload])
        stream.finish(TRAILERS)
        assert len(payload) < sum(len(part) for part in session.output())
        session.events.clear()
        session.opened.clear()
    return time.perf_counter() - began


def h2_received(connection: H2Connection, data: bytes) -> list[Any]:
    events: list[Any] = connection.receive_data(data)
    for event in events:
        if isinstance(event, DataReceived):
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    return events


def h2(requests: list[bytes], payload: bytes) -> float:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    connection.receive_data(hello())
    connection.increment_flow_control_window(WINDOW - 65535)
    connection.data_to_send()
    began = time.perf_counter()
    for request in requests:
        # Window by window, as grpclib would acknowledge.
        pieces = [request[at : at + 2 * FRAME] for at in range(0, len(request), 2 * FRAME)]
        events: list[Any] = [event for piece in pieces for event in h2_received(connection, piece)]
        for event in events:
            if isinstance(event, StreamEnded):
                connection.send_headers(event.stream_id, HEAD)
                for at in range(0, len(payload), FRAME):
                    connection.send_data(event.stream_id, payload[at : at + FRAME])
                connection.send_headers(event.stream_id, TRAILERS, end_stream=True)
        connection.data_to_send()
    return time.perf_counter() - began


def best(run: Callable[[list[bytes], bytes], float], count: int, nbytes: int) -> float:
    requests = calls(count, nbytes)
    return min(run(requests, bytes(nbytes)) for _ in range(5)) / count * 1e6


def main() -> None:
    print(f"{'payload both ways':20}{'session':>10}{'h2':>10}")
    for count, nbytes in ((2000, 128), (300, 65536), (50, 602_112)):
        print(f"{nbytes:>12} bytes  {best(ours, count, nbytes):>10.1f}{best(h2, count, nbytes):>10.1f}")


if __name__ == "__main__":
    main()
