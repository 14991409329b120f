"""Sockets of clients: what protocols are told, what leaves, and that no client takes another's turn."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from socket_server import LARGE_NBYTES, Echo, Server, Told, read, run, send

from triton_async.frontends.defines import RECEIVE_NBYTES, TURN_NBYTES, WRITE_NBYTES


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


class Roomy(Told):
    """Has some room each time, and counts what came."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = bytearray(1 << 17)
        self.nbytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.memory)

    def buffer_updated(self, nbytes: int) -> None:
        self.nbytes += nbytes
        self.changed.set()


class Iterations:
    """Writes down by how much a number grows in each iteration of the loop."""

    def __init__(self, moved: Callable[[], int]) -> None:
        self._moved = moved
        self._before = moved()
        self.moved: list[int] = []
        self._timer = asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        now = self._moved()
        self.moved.append(now - self._before)
        self._before = now
        self._timer = asyncio.get_running_loop().call_soon(self._count)

    def stop(self) -> None:
        self._timer.cancel()


# A turn that has not moved so much may be followed by another one before all else has its own.
MOST_NBYTES = 2 * TURN_NBYTES


@pytest.mark.parametrize("count", [1, 4])
def test_what_clients_send_is_read_over_several_turns(count: int) -> None:
    async def test(server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client()) for _ in range(count)]
            iterations = Iterations(lambda: sum(protocol.nbytes for protocol in server.protocols))
            with ThreadPoolExecutor(count) as executor:
                for sock in clients:
                    sock.setblocking(True)
                sending = [executor.submit(sock.sendall, bytes(LARGE_NBYTES)) for sock in clients]
                for protocol in server.protocols:
                    await protocol.until(lambda protocol=protocol: protocol.nbytes == LARGE_NBYTES)
                for job in sending:
                    job.result()
            iterations.stop()
            assert max(iterations.moved) <= MOST_NBYTES

    run(Roomy, test)


def drain(sock: socket.socket, nbytes: int) -> bytes:
    data = bytearray()
    while len(data) < nbytes:
        data += sock.recv(1 << 22)
    return bytes(data)


@pytest.mark.parametrize("count", [1, 4])
def test_what_clients_are_sent_leaves_over_several_turns(count: int) -> None:
    async def test(server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client()) for _ in range(count)]
            transports = [protocol.transport for protocol in server.protocols]
            data = bytes(range(256)) * (LARGE_NBYTES // 256)
            for transport in transports:
                transport.write(data)
                transport.writelines([b"behind it"] * 100)
                assert transport.get_write_buffer_size() >= LARGE_NBYTES - TURN_NBYTES
            iterations = Iterations(lambda: -sum(transport.get_write_buffer_size() for transport in transports))
            with ThreadPoolExecutor(count) as executor:
                for sock in clients:
                    sock.setblocking(True)
                loop = asyncio.get_running_loop()
                reading = [loop.run_in_executor(executor, drain, sock, LARGE_NBYTES + 900) for sock in clients]
                assert await asyncio.gather(*reading) == [data + b"behind it" * 100] * count
            iterations.stop()
            assert max(iterations.moved) <= MOST_NBYTES

    run(Told, test)


def test_addresses_of_both_sides() -> None:
    async def test(server: Server) -> None:
        async with server.client() as sock:
            transport = server.protocols[0].transport
            assert transport.get_extra_info("peername") == sock.getsockname()
            assert transport.get_extra_info("sockname") == sock.getpeername()
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("sslcontext", "none") == "none"

    run(Told, test)


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
