"""Sockets of clients: what protocols are told, what leaves, and that no client takes another's turn."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from triton_async.core.turn import Turn
from triton_async.frontends.defines import ACCEPTS_PER_TURN, RECEIVE_NBYTES, WRITE_NBYTES
from triton_async.frontends.http.listener import Listener
from triton_async.frontends.sockets import ListeningSocket, listen

# More than the buffers of both sockets hold.
LARGE_NBYTES = 32 << 20


class Told(asyncio.Protocol):
    """A protocol that writes down what it is told."""

    keeps_open = False

    def __init__(self) -> None:
        self.received = bytearray()
        self.events: list[str] = []
        self.error: Exception | None = None
        self.transport: Any = None
        self.lost = asyncio.Event()
        self.changed = asyncio.Event()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def eof_received(self) -> bool:
        self._note("end of input")
        return self.keeps_open

    def pause_writing(self) -> None:
        self._note("full")

    def resume_writing(self) -> None:
        self._note("has room")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")
        self.lost.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not happened():
                self.changed.clear()
                await self.changed.wait()


class Echo(Told):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class Server:
    """A listener whose protocols are kept."""

    def __init__(self, kind: type[Told], address: str) -> None:
        self.protocols: list[Any] = []
        self._came = asyncio.Event()
        self.listening: ListeningSocket = listen(
            lambda: self._made(kind), Turn(asyncio.get_running_loop()), address, 0, backlog=256
        )

    def _made(self, kind: type[Told]) -> Told:
        self.protocols.append(kind())
        self._came.set()
        return self.protocols[-1]

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[socket.socket]:
        """A client's plain socket, when the server has its protocol."""
        before = len(self.protocols)
        self._came.clear()
        with socket.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.listening.port))
            async with asyncio.timeout(20):
                await self._came.wait()
            assert len(self.protocols) == before + 1
            yield sock


def run(kind: type[Told], test: Callable[[Server], Awaitable[None]], address: str = "127.0.0.1") -> None:
    """Runs `test` on each kind of loop."""

    async def whole() -> None:
        server = Server(kind, address)
        try:
            await test(server)
        finally:
            for protocol in server.protocols:
                protocol.transport.abort()
            server.listening.close()
            await asyncio.sleep(0)

    uvloop.run(whole())
    asyncio.run(whole())


async def read(sock: socket.socket, nbytes: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    async with asyncio.timeout(20):
        while len(data) < nbytes and (piece := await loop.sock_recv(sock, 1 << 20)):
            data += piece
    return bytes(data)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


@pytest.mark.parametrize("nbytes", [1, RECEIVE_NBYTES, RECEIVE_NBYTES + 1, LARGE_NBYTES])
def test_bytes_come_and_go_in_order(nbytes: int) -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            data = bytes(range(256)) * (nbytes // 256 + 1)
            sending = asyncio.ensure_future(send(sock, data[:nbytes]))
            assert await read(sock, nbytes) == data[:nbytes]
            await sending

    run(Echo, test)


def test_buffers_of_all_kinds_and_any_number_are_sent() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            transport = server.protocols[0].transport
            changing = bytearray(b"kept")
            transport.write(changing)
            changing[:] = b"lost"
            transport.writelines([b"-", memoryview(b"view"), b"", array.array("i", [1, 2, 3])])
            transport.writelines(b"%04d" % number for number in range(1000))
            wanted = b"kept-view" + array.array("i", [1, 2, 3]).tobytes() + b"".join(b"%04d" % n for n in range(1000))
            assert await read(sock, len(wanted)) == wanted

    run(Told, test)


def test_who_writes_more_than_the_client_reads_is_told_once_and_told_again() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            assert protocol.transport.get_write_buffer_limits() == (WRITE_NBYTES // 4, WRITE_NBYTES)
            protocol.transport.write(bytes(LARGE_NBYTES))
            protocol.transport.write(b"end")
            assert protocol.events == ["made", "full"]
            assert protocol.transport.get_write_buffer_size() > WRITE_NBYTES
            assert (await read(sock, LARGE_NBYTES + 3))[-3:] == b"end"
            await protocol.until(lambda: "has room" in protocol.events)
            assert protocol.events == ["made", "full", "has room"]
            assert protocol.transport.get_write_buffer_size() == 0

    run(Told, test)


class Resuming(Told):
    """Writes more than its client reads, whose bytes it takes itself then, and the end as soon as there is room."""

    peer: socket.socket
    n_written = 0
    n_read = 0

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"x")
        while "full" not in self.events:
            self.transport.write(bytes(WRITE_NBYTES))
            self.n_written += WRITE_NBYTES
        with contextlib.suppress(BlockingIOError):
            while True:
                self.n_read += len(self.peer.recv(1 << 20))

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.write(b"end")


def test_what_is_written_when_there_is_room_again_leaves() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            protocol.peer = sock
            await send(sock, b"go")
            await protocol.until(lambda: "has room" in protocol.events)
            rest = await read(sock, 1 + protocol.n_written - protocol.n_read + 3)
            assert rest[-3:] == b"end"

    run(Resuming, test)


def test_limits_of_what_waits() -> None:
    async def test(server: Server) -> None:
        async with server.client():
            transport = server.protocols[0].transport
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            transport.set_write_buffer_limits(low=100)
            assert transport.get_write_buffer_limits() == (100, 400)
            with pytest.raises(ValueError, match="high"):
                transport.set_write_buffer_limits(high=1, low=2)

    run(Told, test)


def test_nothing_is_read_during_a_pause_and_nothing_is_lost() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            protocol.transport.pause_reading()
            assert not protocol.transport.is_reading()
            await send(sock, b"one")
            await asyncio.sleep(0.05)
            assert protocol.received == b""
            protocol.transport.resume_reading()
            assert protocol.transport.is_reading()
            await protocol.until(lambda: protocol.received == b"one")
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()
            await send(sock, b" two")
            await protocol.until(lambda: protocol.received == b"one two")

    run(Told, test)


def test_the_end_of_a_client_closes_its_connection() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            await send(sock, b"last")
            sock.shutdown(socket.SHUT_WR)
            protocol = server.protocols[0]
            await asyncio.wait_for(protocol.lost.wait(), 20)
            assert (protocol.received, protocol.error) == (b"last", None)
            assert protocol.events == ["made", "end of input", "lost"]
            assert await read(sock, 1) == b""

    run(Told, test)


class Patient(Told):
    keeps_open = True


def test_a_client_that_sends_no_more_may_still_read() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            sock.shutdown(socket.SHUT_WR)
            protocol = server.protocols[0]
            await protocol.until(lambda: "end of input" in protocol.events)
            await asyncio.sleep(0.02)
            protocol.transport.write(b"answer")
            assert await read(sock, 6) == b"answer"
            protocol.transport.close()
            assert await read(sock, 1) == b""
            await asyncio.wait_for(protocol.lost.wait(), 20)
            assert protocol.events == ["made", "end of input", "lost"]

    run(Patient, test)


def test_closing_sends_what_was_written_and_takes_no_more() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            protocol.transport.write(bytes(LARGE_NBYTES))
            protocol.transport.close()
            assert protocol.transport.is_closing()
            protocol.transport.write(b"too late")
            protocol.transport.writelines([b"too late"])
            assert len(await read(sock, LARGE_NBYTES + 1)) == LARGE_NBYTES
            await asyncio.wait_for(protocol.lost.wait(), 20)
            assert protocol.error is None
            protocol.transport.close()
            protocol.transport.abort()

    run(Told, test)


def test_the_sending_half_closes_behind_what_was_written() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            assert protocol.transport.can_write_eof()
            protocol.transport.write(bytes(LARGE_NBYTES))
            protocol.transport.write_eof()
            assert len(await read(sock, LARGE_NBYTES + 1)) == LARGE_NBYTES
            await send(sock, b"still heard")
            await protocol.until(lambda: protocol.received == b"still heard")

    run(Told, test)


def test_aborting_drops_what_waits() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            protocol.transport.write(bytes(LARGE_NBYTES))
            protocol.transport.abort()
            assert protocol.transport.get_write_buffer_size() == 0
            assert not protocol.lost.is_set()  # not from inside the call
            await asyncio.wait_for(protocol.lost.wait(), 20)
            assert len(await read(sock, LARGE_NBYTES)) < LARGE_NBYTES

    run(Told, test)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("writing", [False, True])
def test_a_client_that_vanishes_is_an_error(writing: bool) -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            protocol = server.protocols[0]
            if writing:
                protocol.transport.pause_reading()
                protocol.transport.write(bytes(LARGE_NBYTES))
            reset(sock)
            await asyncio.wait_for(protocol.lost.wait(), 20)
            assert isinstance(protocol.error, ConnectionError)
            assert protocol.events[-1] == "lost"

    run(Told, test)


class Broken(Told):
    def data_received(self, data: bytes) -> None:
        raise RuntimeError("of the test")


def test_what_a_protocol_raises_ends_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Server) -> None:
        async with server.client() as other, server.client() as sock:
            await send(sock, b"x")
            await asyncio.wait_for(server.protocols[1].lost.wait(), 20)
            assert str(server.protocols[1].error) == "of the test"
            server.protocols[0].transport.write(b"alive")
            assert await read(other, 5) == b"alive"

    run(Broken, test)
    assert "of the test" in caplog.text


def test_others_are_served_beside_a_client_that_never_stops() -> None:
    async def test(server: Server) -> None:
        async with server.client() as busy, server.client() as quiet:

            async def hammer() -> None:
                while True:
                    await send(busy, b"x")
                    await read(busy, 1)

            hammering = asyncio.ensure_future(hammer())
            await asyncio.sleep(0.05)
            for _ in range(20):
                await send(quiet, b"y")
                assert await asyncio.wait_for(read(quiet, 1), 5) == b"y"
            hammering.cancel()

    run(Echo, test)


def test_hundreds_of_clients_at_once() -> None:
    async def test(server: Server) -> None:
        async def ask(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.listening.port)
            for _ in range(5):
                writer.write(b"%06d" % number)
                assert await reader.readexactly(6) == b"%06d" % number
            writer.close()
            await writer.wait_closed()

        await asyncio.wait_for(asyncio.gather(*map(ask, range(300))), 60)
        for protocol in server.protocols:
            await asyncio.wait_for(protocol.lost.wait(), 20)

    run(Echo, test)


def test_a_closed_port_takes_no_clients_and_keeps_those_it_has() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            server.listening.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.listening.port))
            await send(sock, b"still")
            assert await read(sock, 5) == b"still"

    run(Echo, test)


@pytest.mark.parametrize("kind", ["port", "socket file"])
def test_who_came_before_a_port_retires_is_served_however_busy_the_loop(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"
    count = 4 * ACCEPTS_PER_TURN

    async def test(server: Server) -> None:
        clients = [socket.socket(socket.AF_INET if kind == "port" else socket.AF_UNIX) for _ in range(count)]
        try:
            for sock in clients:
                sock.connect(("127.0.0.1", server.listening.port) if kind == "port" else str(path))
                sock.setblocking(False)
                sock.send(b"x")
            retiring = asyncio.ensure_future(server.listening.retire())
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - a model that executes on the loop
            await retiring
            for sock in clients:
                assert await read(sock, 1) == b"x"
        finally:
            for sock in clients:
                sock.close()

    run(Echo, test, "127.0.0.1" if kind == "port" else f"unix:{path}")


@pytest.mark.parametrize("kind", ["port", "socket file"])
def test_who_connects_before_a_server_stops_may_still_ask(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="answer")

    async def whole() -> None:
        listener = Listener(answer)
        await listener.start("127.0.0.1" if kind == "port" else f"unix:{path}", 0)
        with socket.socket(socket.AF_INET if kind == "port" else socket.AF_UNIX) as sock:
            sock.connect(("127.0.0.1", listener.port) if kind == "port" else str(path))
            sock.setblocking(False)
            stopping = asyncio.ensure_future(listener.close(20))
            await asyncio.sleep(0.02)
            await send(sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read(sock, 1 << 16)).endswith(b"answer")
            await stopping

    uvloop.run(whole())
    asyncio.run(whole())


def test_a_name_that_has_an_address_twice_is_bound_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * 2)

    async def test(server: Server) -> None:
        async with server.client() as sock:
            await send(sock, b"x")
            assert await read(sock, 1) == b"x"

    run(Echo, test, "twice.test")


@pytest.mark.parametrize("kind", ["port", "socket file"])
def test_a_port_that_cannot_listen_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"

    async def test() -> None:
        turn = Turn(asyncio.get_running_loop())
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with pytest.raises(OverflowError):
                listen(Told, turn, "127.0.0.1" if kind == "port" else f"unix:{path}", 0, backlog=1 << 40)
        assert os.listdir("/proc/self/fd") == before
        assert not path.exists()

    uvloop.run(test())
    asyncio.run(test())


def test_addresses_of_a_name_that_the_machine_does_not_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    other = socket.getaddrinfo("192.0.2.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: other + found)

    async def test(server: Server) -> None:
        async with server.client() as sock:
            await send(sock, b"x")
            assert await read(sock, 1) == b"x"

    run(Echo, test, "some.test")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: other)
    with pytest.raises(OSError, match="assign"):
        run(Echo, test, "other.test")


def test_addresses_of_both_sides() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            transport = server.protocols[0].transport
            assert transport.get_extra_info("peername") == sock.getsockname()
            assert transport.get_extra_info("sockname") == sock.getpeername()
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("sslcontext", "none") == "none"

    run(Told, test)


def test_a_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def test(server: Server) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 20) == b"hello"
        writer.close()
        await asyncio.wait_for(server.protocols[0].lost.wait(), 20)

    run(Echo, test, f"unix:{path}")
    assert not path.exists()


def test_connections_that_ended_leave_nothing() -> None:
    async def test(server: Server) -> None:
        for _ in range(3):
            async with server.client() as sock:
                await send(sock, b"x")
                await read(sock, 1)
            await asyncio.wait_for(server.protocols[-1].lost.wait(), 20)
        gone = [weakref.ref(protocol) for protocol in server.protocols]
        server.protocols.clear()
        await asyncio.sleep(0.01)
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3

    run(Echo, test)


def test_clients_wait_while_descriptors_have_run_out(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Server) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as sock:
            sock.setblocking(False)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
                with contextlib.suppress(BlockingIOError):
                    sock.connect(("127.0.0.1", server.listening.port))
                await asyncio.sleep(0.3)
                assert server.protocols == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await send(sock, b"patience")
            assert await read(sock, 8) == b"patience"

    run(Echo, test)
    assert caplog.text.count("no connection can be accepted for now") == 2  # once for each loop
