"""Ports and socket files: who is accepted, and what is left when they close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
import time
from pathlib import Path

import pytest
import uvloop
from aiohttp import web
from socket_server import Echo, Server, Told, read, run, send

from triton_async.core.turn import Turn
from triton_async.frontends.defines import ACCEPTS_PER_TURN
from triton_async.frontends.http.listener import Listener
from triton_async.frontends.sockets import listen


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


def kept_by_a_child(sock: socket.socket) -> bool:
    """Whether a process that is forked now has this socket."""
    child = os.fork()
    if child == 0:
        os._exit(0 if stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode) else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_port_is_the_servers_until_its_last_client_has_gone() -> None:
    async def test(server: Server) -> None:
        port = server.listening.port
        async with server.client():
            plain = server.protocols[0].transport.get_extra_info("socket")
            server.listening.close()
            assert not kept_by_a_child(plain)
            server.protocols[0].transport.abort()
            await asyncio.wait_for(server.protocols[0].lost.wait(), 20)
            await asyncio.sleep(0)
        with socket.create_server(("127.0.0.1", port)) as sock:
            assert kept_by_a_child(sock)

    run(Echo, test)


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
