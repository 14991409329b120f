"""HTTP/2 frames to feed a session with, and a peer that reads what it sends."""

from __future__ import annotations

import struct
from typing import Any

from compiled import load
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
)
from h2.settings import SettingCodes
from hpack import Encoder

EventSession = load("http2_events").EventSession

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11
SECOND = 1_000_000_000

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "x"), ("te", "trailers")]
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields: list[tuple[str, str]] = REQUEST) -> bytes:
    return Encoder().encode(fields, huffman=False)


def request(stream: int = 1, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, block(), flags, stream)


HELLO = PREFACE + frame(SETTINGS)


def sent(session: Any) -> bytes:
    return b"".join(session.output())


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of every frame."""
    found = []
    while data:
        nbytes = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + nbytes
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + nbytes]))
        data = data[9 + nbytes :]
    return found


def goaway_code(data: bytes) -> int | None:
    return next((int.from_bytes(p[4:8], "big") for kind, _, _, p in frames(data) if kind == GOAWAY), None)


def reset_codes(data: bytes) -> dict[int, int]:
    return {stream: int.from_bytes(p, "big") for kind, _, stream, p in frames(data) if kind == RST_STREAM}


class Peer:
    """An h2 client and our session, joined."""

    def __init__(self, window: int | None = None) -> None:
        self.session = EventSession()
        self.h2 = H2Connection(H2Configuration(header_encoding=None))
        if window is not None:
            self.h2.local_settings = type(self.h2.local_settings)(
                client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self.h2.initiate_connection()
        self.heard: list[Any] = []
        self.turn()

    def turn(self) -> None:
        """Carries bytes both ways until nothing moves."""
        while True:
            out = self.h2.data_to_send()
            if out:
                self.session.feed(out)
            back = sent(self.session)
            if back:
                self.heard += self.h2.receive_data(back)
            if not out and not back:
                return

    def ask(self, data: bytes = b"", end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, REQUEST, end_stream=end and not data)
        if data:
            self.h2.send_data(stream, data, end_stream=end)
        self.turn()
        return int(stream)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]

    def body(self, stream: int) -> bytes:
        return b"".join(event.data for event in self.of(DataReceived) if event.stream_id == stream)
