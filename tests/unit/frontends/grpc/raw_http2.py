"""An HTTP/2 client that sends what no gRPC library would."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


def message(data: bytes, flag: int = 0, nbytes: int | None = None) -> bytes:
    """A gRPC message; `nbytes` lies about its length."""
    return bytes([flag]) + (len(data) if nbytes is None else nbytes).to_bytes(4, "big") + data


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    terminated: bool = False

    @property
    def status(self) -> int:
        return int(self.headers["grpc-status"])


class RawClient:
    """One connection."""

    def __init__(self, url: str) -> None:
        host, port = url.split(":")
        self.socket = socket.create_connection((host, int(port)), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = H2Connection(
            H2Configuration(
                header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.h2.initiate_connection()
        self.flush()
        while self.h2.remote_settings.initial_window_size <= 65535:
            self.h2.receive_data(self.socket.recv(65536))
        self.flush()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, path: str, method: str = "POST", drop: Sequence[str] = (), **headers: str) -> int:
        """Sends a request head; keywords are header names with `_` for `-`."""
        head = {
            ":method": method,
            ":scheme": "http",
            ":authority": "test",
            ":path": path,
            "content-type": "application/grpc",
            "te": "trailers",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, [item for item in head.items() if item[0] not in drop])
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, end: bool = True) -> None:
        frame = self.h2.max_outbound_frame_size
        for at in range(0, len(data), frame):
            self.h2.send_data(stream_id, data[at : at + frame])
            self.flush()
        if end:
            self.h2.end_stream(stream_id)
        self.flush()

    def receive(self, stream_id: int) -> Answer:
        """What comes on the stream until it ends or is reset, or the connection does."""
        answer = Answer()
        try:
            while data := self.socket.recv(65536):
                ended = [self._take(event, stream_id, answer) for event in self.h2.receive_data(data)]
                self.flush()
                if any(ended):
                    return answer
        except ConnectionError:
            pass
        answer.terminated = True
        return answer

    def _take(self, event: Any, stream_id: int, answer: Answer) -> bool:
        if isinstance(event, ConnectionTerminated):
            answer.terminated = True
            return True
        if getattr(event, "stream_id", None) != stream_id:
            return False
        if isinstance(event, ResponseReceived | TrailersReceived):
            answer.headers |= dict(event.headers)
        elif isinstance(event, DataReceived):
            answer.data += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
        elif isinstance(event, StreamReset):
            answer.reset = int(event.error_code)
        return isinstance(event, StreamReset | StreamEnded)

    def call(self, path: str, data: bytes, end: bool = True, **headers: str) -> Answer:
        stream_id = self.begin(path, **headers)
        self.send(stream_id, data, end)
        return self.receive(stream_id)
