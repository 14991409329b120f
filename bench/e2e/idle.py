"""Connections that did one thing and then stay open and silent, held by this process; 127.0.0.1 only."""

from __future__ import annotations

import resource
import socket
import struct
import time
from pathlib import Path

from .load import Requests

HTTP_INFER, HTTP_CONTROL, GRPC_INFER, GRPC_SETTINGS = "http infer", "http control", "grpc infer", "grpc settings"
KINDS = (HTTP_INFER, HTTP_CONTROL, GRPC_INFER, GRPC_SETTINGS)
# Descriptors besides the connections.
_SPARE = 256
_TIMEOUT_S = 20.0
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def raise_limit(connections: int) -> None:
    """Lets this process, and servers that it starts, open so many. Raises when the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _literals(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A header block that leaves the peer's table alone (RFC 7541, 6.2.2); everything is shorter than 127 bytes."""
    return b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)


def http_infer(requests: Requests, model: str) -> bytes:
    """A whole infer request."""
    header, body = requests.http_body()
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {header}\r\n\r\n"
    ).encode() + body


def _grpc_infer(requests: Requests, model: str) -> bytes:
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    message = requests.grpc_message(model)
    return _frame(_HEADERS, _END_HEADERS, 1, _literals(fields)) + _frame(_DATA, _END_STREAM, 1, message)


def read_http(sock: socket.socket) -> bytes:
    """A whole answer; raises unless its status is 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered {head[:100]!r}")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(rest) < length:
        rest += _some(sock)
    return head + b"\r\n\r\n" + rest


def _read_frames(sock: socket.socket, kind: int, flags: int) -> None:
    """Reads up to the first frame of this kind with these flags."""
    data = b""
    while True:
        while len(data) < 9 or len(data) < 9 + (int.from_bytes(data[:3], "big")):
            data += _some(sock)
        found = data[3] == kind and data[4] & flags == flags
        data = data[9 + int.from_bytes(data[:3], "big") :]
        if found:
            return


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 16)
    if not data:
        raise RuntimeError("the server closed a connection that was to be idle")
    return data


class Idle:
    """Opens connections of one kind on demand and closes all at the end of the block."""

    def __init__(self, kind: str, port: int, requests: Requests, model: str) -> None:
        self._kind, self._port = kind, port
        self._sockets: list[socket.socket] = []
        settings = _PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_SETTINGS, _ACK, 0)
        self._greeting = {
            HTTP_INFER: lambda: http_infer(requests, model),
            HTTP_CONTROL: lambda: b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
            GRPC_INFER: lambda: settings + _grpc_infer(requests, model),
            GRPC_SETTINGS: lambda: settings,
        }[kind]()

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def ask(self, first: int, count: int) -> list[int]:
        """HTTP: so many from the first one on ask again, all at once. Nanoseconds until each had its answer."""
        these = [self._sockets[at % len(self._sockets)] for at in range(first, first + count)]
        sent_ns = []
        for sock in these:
            sent_ns.append(time.perf_counter_ns())
            sock.sendall(self._greeting)
        took_ns = []
        for sock, sent in zip(these, sent_ns, strict=True):
            read_http(sock)
            took_ns.append(time.perf_counter_ns() - sent)
        return took_ns

    def grow(self, count: int) -> None:
        """Opens further ones until there are `count`."""
        while len(self._sockets) < count:
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
            self._sockets.append(sock)
            sock.sendall(self._greeting)
            if self._kind in {HTTP_INFER, HTTP_CONTROL}:
                read_http(sock)
            elif self._kind == GRPC_INFER:
                # The trailers.
                _read_frames(sock, _HEADERS, _END_STREAM)
            else:
                _read_frames(sock, _SETTINGS, _ACK)


def resident_kb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
