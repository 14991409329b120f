"""A listener of real sockets whose protocols write down what they are told, on each kind of loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop

from triton_async.core.turn import Turn
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
