"""Calls of the gRPC front-end for servers that have the port: messages as bytes, the same handlers. Loop thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from grpclib.const import Handler, Status
from grpclib.metadata import decode_grpc_message

from triton_async.frontends.grpc.call import StreamGone
from triton_async.frontends.grpc.calls import Calls
from triton_async.protocol.grpc_encode import PREFIX_NBYTES

# Messages are not compressed in memory, and deadlines are kept by who has the client.
_NOT_OURS = frozenset(("grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "content-type", "te"))
# Answers that may wait for who reads them.
_MAX_WAITING = 64


class CallFailed(Exception):
    """A call has ended with another status than OK. `status`, `message`: as a client would see them."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Stream:
    """A CallStream whose client is an object."""

    def __init__(self, peer: Any, messages: AsyncIterator[bytes] | bytes) -> None:
        self.status: Status | None = None
        self.message = ""
        self._peer = peer
        self._messages: AsyncIterator[bytes] | None = None
        self._input: deque[bytes] = deque()  # prefixes and messages in turn, as they are asked for
        self._asked: asyncio.Future[bytes] | None = None  # the client's next message
        if isinstance(messages, bytes):
            self._take(messages)
        else:
            self._messages = messages
        self._answers: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # -- what the call asks for --

    def peer(self) -> Any:
        return self._peer

    async def recv_data(self, size: int, paced: bool = False) -> bytes:
        while not self._input and self._messages is not None:
            self._asked = asyncio.ensure_future(anext(self._messages))
            try:
                self._take(await self._asked)
            except StopAsyncIteration:
                self._messages = None
            except asyncio.CancelledError:
                if self._messages is not None:  # the call is cancelled, not what it waits for
                    raise
        return self._input.popleft() if self._input else b""

    def _take(self, message: bytes) -> None:
        self._input.append(b"\0" + len(message).to_bytes(PREFIX_NBYTES - 1, "big"))
        self._input.append(message)

    def eof(self) -> None:
        self._messages = None
        if self._asked is not None:
            self._asked.cancel()

    async def send_headers(self, headers: Sequence[tuple[str, str]], end_stream: bool = False) -> None:
        if not end_stream:
            return
        found = dict(headers)
        self.message = decode_grpc_message(found.get("grpc-message", ""))
        self.status = Status(int(found.get("grpc-status", Status.UNKNOWN.value)))
        self._changed.set()

    async def send_data(self, data: bytes) -> None:
        await self._room.wait()
        if self.status is not None:
            raise StreamGone
        self._answers.append(data[PREFIX_NBYTES:])
        if len(self._answers) >= _MAX_WAITING:
            self._room.clear()
        self._changed.set()

    # -- what the client asks for --

    async def answer(self) -> bytes | None:
        """The next one; None when the call has ended."""
        while not self._answers:
            if self.status is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        found = self._answers.popleft()
        self._room.set()
        return found

    def give_up(self) -> None:
        """The client has left."""
        self.status = self.status or Status.CANCELLED
        self._room.set()


class InMemoryCalls:
    """Calls by path. `mapping`: handlers, see `server.handlers`."""

    def __init__(self, mapping: Mapping[str, Handler]) -> None:
        self._calls = Calls(mapping)
        self.paths = tuple(mapping)

    async def unary(
        self, path: str, message: bytes, metadata: Iterable[tuple[str, str]] = (), peer: Any = None
    ) -> bytes:
        """The answer to a call with one message each way. CallFailed. Cancelling it cancels the call."""
        found = b""
        async for answer in self.stream(path, message, metadata, peer):
            found = answer
        return found

    async def stream(
        self,
        path: str,
        messages: AsyncIterator[bytes] | bytes,
        metadata: Iterable[tuple[str, str]] = (),
        peer: Any = None,
    ) -> AsyncIterator[bytes]:
        """Answers to a call with any number of messages, or with this one. CallFailed behind the last of them."""
        stream = _Stream(peer, messages)
        fields = [(name, value) for name, value in metadata if name not in _NOT_OURS and isinstance(value, str)]
        call = [(":method", "POST"), (":path", path), ("content-type", "application/grpc")]
        self._calls.accept(stream, [*call, *fields])
        try:
            while (answer := await stream.answer()) is not None:
                yield answer
        finally:
            if stream.status is None:
                stream.give_up()
                self._calls.cancel(stream)
        if stream.status is not None and stream.status is not Status.OK:
            raise CallFailed(stream.status, stream.message)

    async def drain(self) -> None:
        """Ends streams in which the client could go on sending, and waits for all calls."""
        self._calls.drain()
        await self._calls.idle.wait()
