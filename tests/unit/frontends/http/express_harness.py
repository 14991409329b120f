"""A connection of the express lane on a transport made of memory: the test says where segments are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from core_harness import running

from triton_async.core.server import InferenceServer
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.server import HttpService

LIMIT = 1 << 22
WAIT_S = 20


class Wire(asyncio.Transport):
    """The server's end of a connection. `accepts`: bytes that the client still reads, None for all."""

    def __init__(self, listener: ExpressListener) -> None:
        super().__init__()
        self.protocol: Any = listener.accept()
        self.output = bytearray()
        self.unsent = bytearray()
        self.accepts: int | None = None
        self.reading = True
        self.closed = False
        self._pending: list[bytes] = []
        self._changed = asyncio.Event()
        self.protocol.connection_made(self)

    # -- the client's side --

    def send(self, data: bytes, piece: int = 1 << 30) -> None:
        """Arrives in segments of `piece` bytes, as far as the server reads."""
        self._pending.extend(data[i : i + piece] for i in range(0, len(data), piece))
        self._pump()

    def _pump(self) -> None:
        while self._pending and self.reading and not self.closed:
            data = self._pending.pop(0)
            view = memoryview(self.protocol.get_buffer(-1))
            assert len(view) > 0
            count = min(len(view), len(data))
            view[:count] = data[:count]
            if count < len(data):
                self._pending.insert(0, data[count:])
            self.protocol.buffer_updated(count)

    @property
    def unread(self) -> int:
        """Bytes that the server has not taken from the socket."""
        return sum(map(len, self._pending))

    def read_all(self) -> None:
        """The client reads again."""
        self.accepts = None
        data, self.unsent = bytes(self.unsent), bytearray()
        self.output += data
        self.protocol.resume_writing()
        self._changed.set()

    def leave(self) -> None:
        """The client is gone."""
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    async def until(self, done: Callable[[Wire], bool]) -> bytes:
        """Waits until something that happened makes `done` true; all output so far."""
        async with asyncio.timeout(WAIT_S):
            while not done(self):
                self._changed.clear()
                await self._changed.wait()
        return bytes(self.output)

    async def answers(self, count: int) -> list[bytes]:
        """The first `count` responses."""
        await self.until(lambda wire: len(split(bytes(wire.output))) >= count)
        return split(bytes(self.output))

    # -- the transport --

    def write(self, data: Any) -> None:
        data = bytes(data)
        if self.accepts is None:
            self.output += data
        else:
            taken = min(self.accepts, len(data))
            self.accepts -= taken
            self.output += data[:taken]
            if not self.unsent and taken < len(data):
                self.protocol.pause_writing()
            self.unsent += data[taken:]
        self._changed.set()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True
        asyncio.get_running_loop().call_soon(self._pump)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._changed.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def split(output: bytes) -> list[bytes]:
    """The complete responses in `output`."""
    found = []
    while True:
        head, end, rest = output.partition(b"\r\n\r\n")
        if not end:
            return found
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return found
        found.append(head + end + rest[:length])
        output = rest[length:]


@asynccontextmanager
async def express(
    root: Path, *options: str, **more: Any
) -> AsyncIterator[tuple[InferenceServer, ExpressListener]]:
    """A server and a listener without a port. `more`: of core_harness.running."""
    async with running(root, *options, **more) as server:
        service = HttpService(server, LIMIT)
        listener = ExpressListener(service.handle, server, LIMIT, service.receiving)
        yield server, listener
        await listener.close(0)
