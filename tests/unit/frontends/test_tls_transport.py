"""TLS between a transport and a protocol, both in memory: what is told to whom, and when."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import certificates
import pytest
from certificates import Certificates

from triton_async.defines import TLS_HANDSHAKE_TIMEOUT_S, TLS_WRITE_NBYTES
from triton_async.frontends.tls import server_context
from triton_async.frontends.tls_transport import TlsFactory


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


class Below:
    """The transport of a socket that takes `room` bytes, then none until more room is made."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.room = 1 << 30
        self.upper: Any = None
        self.waiting = 0
        self.reading = True
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent += data
        self.waiting += len(data)
        self._drain()
        if self.waiting:
            self.upper.pause_writing()

    def make_room(self, nbytes: int) -> None:
        blocked = bool(self.waiting)
        self.room += nbytes
        self._drain()
        if blocked and not self.waiting:
            self.upper.resume_writing()

    def _drain(self) -> None:
        taken = min(self.room, self.waiting)
        self.room -= taken
        self.waiting -= taken

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": "somebody"}.get(name, default)


class Above:
    """A BufferedProtocol that writes down what happens."""

    def __init__(self, size: int = 1 << 16) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.transport: Any = None
        self._buffer = bytearray(size)
        self.on_data: Callable[[], None] = lambda: None
        self.keep_open: bool | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._buffer[:nbytes]
        self.on_data()

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return self.keep_open

    def connection_lost(self, error: Exception | None) -> None:
        self.events.append("lost")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Plain(asyncio.Protocol):
    """An ordinary protocol."""

    def __init__(self) -> None:
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data


class Loop:
    """Timers and callbacks that run when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Loop.Timer] = []

    class Timer:
        def __init__(self, delay: float, callback: Callable[[], None]) -> None:
            self.delay = delay
            self.callback = callback
            self.cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Loop.Timer(delay, callback))
        return self.timers[-1]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def run(self) -> None:
        callbacks, self.soon = self.soon, []
        for callback in callbacks:
            callback()


class Pair:
    """A server connection and the client at its other end."""

    def __init__(
        self,
        certs: Certificates,
        above: Any = None,
        *,
        required: str | None = None,
        alpn: list[str] | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        context = server_context(
            "http", cert=str(certs.server.cert), key=str(certs.server.key), root="", mutual=False, alpn="h2"
        )
        self.above = Above() if above is None else above
        self.loop = Loop()
        self.below = Below()
        factory = TlsFactory(context, lambda: self.above, self.loop, required)  # type: ignore[arg-type]
        self.server: Any = factory()
        self.below.upper = self.server
        self.server.connection_made(self.below)
        self.to_client, self.from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context(cafile=str(certs.authority.cert))
        client.maximum_version = version
        if alpn:
            client.set_alpn_protocols(alpn)
        self.client = client.wrap_bio(self.to_client, self.from_client, server_hostname="localhost")

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            view = self.server.get_buffer(-1)
            count = min(len(view), len(data) - at)
            view[:count] = data[at : at + count]
            self.server.buffer_updated(count)
            at += count

    def carry(self) -> None:
        """Everything on the wire arrives."""
        self.feed(self.from_client.read())
        self.to_client.write(bytes(self.below.sent))
        self.below.sent.clear()

    def handshake(self) -> Pair:
        for _ in range(4):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.carry()
        return self

    def read(self) -> bytes:
        """All that the client can read now."""
        self.carry()
        found = bytearray()
        while True:
            try:
                piece = self.client.read(1 << 16)
            except ssl.SSLWantReadError:
                return bytes(found)
            if not piece:
                return bytes(found)
            found += piece

    def lose(self) -> None:
        self.server.connection_lost(None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_go_both_ways(certs: Certificates, version: ssl.TLSVersion) -> None:
    pair = Pair(certs, version=version).handshake()
    assert pair.above.events == ["made"]
    data = bytes(range(256)) * 4000
    at = 0
    while at < len(data):
        at += pair.client.write(data[at:])
    pair.carry()
    assert pair.above.received == data
    pair.above.transport.writelines([b"head", memoryview(data), b""])
    assert pair.read() == b"head" + data
    assert pair.above.transport.get_extra_info("peername") == "somebody"
    assert pair.above.transport.get_extra_info("sslcontext") is not None
    pair.lose()
    assert pair.above.events == ["made", "lost"]


def test_bytes_that_come_one_by_one(certs: Certificates) -> None:
    pair = Pair(certs, Above(size=3))
    for _ in range(4):
        with suppress(ssl.SSLWantReadError):
            pair.client.do_handshake()
        for byte in pair.from_client.read():
            pair.feed(bytes([byte]))
        pair.carry()
    pair.client.write(b"hello, world")
    for byte in pair.from_client.read():
        pair.feed(bytes([byte]))
    assert pair.above.received == b"hello, world"


def test_an_ordinary_protocol_is_served_too(certs: Certificates) -> None:
    pair = Pair(certs, Plain()).handshake()
    pair.client.write(b"one")
    pair.client.write(b"two")
    pair.carry()
    assert pair.above.received == b"onetwo"


def test_what_comes_with_the_end_of_the_handshake_is_read(certs: Certificates) -> None:
    pair = Pair(certs)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    pair.carry()
    pair.client.do_handshake()
    pair.client.write(b"early bird")
    pair.carry()
    assert pair.above.events == ["made"]
    assert pair.above.received == b"early bird"


def test_what_the_socket_does_not_take_is_not_encrypted(certs: Certificates) -> None:
    pair = Pair(certs).handshake()
    data = bytes(10 << 20)
    pair.below.room = 0
    pair.above.transport.write(data)
    assert pair.above.events == ["made", "pause"]
    assert pair.below.waiting <= 2 * TLS_WRITE_NBYTES
    assert pair.above.transport.get_write_buffer_size() >= len(data)
    before = pair.above.transport.get_write_buffer_size()
    pair.below.make_room(1000)
    assert pair.above.transport.get_write_buffer_size() == before - 1000
    while pair.below.waiting:
        assert pair.above.events[-1] == "pause"
        pair.below.make_room(pair.below.waiting)
    assert pair.above.events == ["made", "pause", "resume"]
    assert pair.above.transport.get_write_buffer_size() == 0
    assert pair.read() == data


def test_a_pause_above_pauses_below(certs: Certificates) -> None:
    above = Above(size=10)
    pair = Pair(certs, above).handshake()
    above.on_data = above.transport.pause_reading
    pair.client.write(b"x" * 35)
    pair.carry()
    assert above.received == b"x" * 10
    assert not pair.below.reading
    above.transport.resume_reading()
    assert pair.below.reading
    assert len(above.received) == 10
    pair.loop.run()
    assert len(above.received) == 20
    above.on_data = lambda: None
    above.transport.resume_reading()
    pair.loop.run()
    assert above.received == b"x" * 35


def test_close_sends_what_is_left_and_does_not_wait_for_the_client(certs: Certificates) -> None:
    pair = Pair(certs).handshake()
    data = bytes(1 << 20)
    pair.below.room = 0
    pair.above.transport.write(data)
    pair.above.transport.close()
    assert pair.above.transport.is_closing()
    assert not pair.below.closed
    pair.above.transport.write(b"too late")
    while pair.below.waiting:
        pair.below.make_room(pair.below.waiting)
    assert pair.below.closed
    assert pair.read() == data
    # A close_notify, no torn connection.
    assert pair.client.read(1) == b""
    pair.lose()
    assert pair.above.events[-1] == "lost"


def test_the_client_says_goodbye(certs: Certificates) -> None:
    pair = Pair(certs).handshake()
    pair.client.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.carry()
    assert pair.above.received == b"last words"
    assert pair.above.events == ["made", "eof"]
    assert pair.below.closed
    pair.carry()
    pair.client.unwrap()


@pytest.mark.parametrize("keep_open", [None, True])
def test_the_client_hangs_up(certs: Certificates, keep_open: bool | None) -> None:
    """Whatever the protocol above would make of a half-closed socket: this was no close_notify."""
    above = Above()
    above.keep_open = keep_open
    pair = Pair(certs, above).handshake()
    pair.server.eof_received()
    assert pair.above.events == ["made", "eof"]
    assert pair.below.closed
    pair.lose()
    assert pair.above.events == ["made", "eof", "lost"]


def test_a_lost_connection_takes_calls_from_above(certs: Certificates) -> None:
    pair = Pair(certs).handshake()
    transport = pair.above.transport
    pair.lose()
    transport.write(b"x")
    transport.close()
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    assert transport.get_extra_info("peername") is None
    pair.loop.run()
    assert pair.above.events == ["made", "lost"]


def test_a_changed_byte_ends_the_connection_with_an_alert(certs: Certificates) -> None:
    pair = Pair(certs).handshake()
    pair.client.write(b"good")
    pair.client.write(b"bad")
    wire = bytearray(pair.from_client.read())
    wire[-1] ^= 1
    pair.feed(bytes(wire))
    assert pair.above.received == b"good"
    assert pair.below.closed
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        pair.read()
    pair.lose()
    assert pair.above.events == ["made", "lost"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01\x00\x05hello"])
def test_what_is_no_handshake_never_reaches_the_protocol(certs: Certificates, data: bytes) -> None:
    pair = Pair(certs)
    pair.feed(data)
    assert pair.below.closed
    pair.feed(b"more")
    pair.lose()
    assert pair.above.events == []


def test_a_handshake_that_takes_too_long(certs: Certificates) -> None:
    slow, fast = Pair(certs), Pair(certs).handshake()
    assert [timer.delay for timer in slow.loop.timers] == [TLS_HANDSHAKE_TIMEOUT_S]
    slow.loop.timers[0].callback()
    assert slow.below.aborted
    assert fast.loop.timers[0].cancelled


@pytest.mark.parametrize(
    ("alpn", "accepted"), [(["h2"], True), (["http/1.1", "h2"], True), (["x"], False), ([], False)]
)
def test_a_required_protocol(certs: Certificates, alpn: list[str], accepted: bool) -> None:
    pair = Pair(certs, required="h2", alpn=alpn).handshake()
    assert pair.above.events == (["made"] if accepted else [])
    assert pair.below.closed is not accepted
    pair.lose()
