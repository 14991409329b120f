"""The HTTP front-end as an ASGI application, for servers that have the ports: same connections, same bytes, in memory.

Event-loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from triton_async.defines import ASGI_IDLE_CONNECTIONS, ASGI_UNSENT_NBYTES
from triton_async.frontends.http.express import ExpressListener

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fields = list[tuple[bytes, bytes]]

# Of a connection, not of a request: who calls the application has connections of its own (RFC 9110 7.6.1). The length
# is said anew.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te", b"expect")
)
_END_OF_HEAD = b"\r\n\r\n"
# Up to this many bytes a body is copied behind its head, so that the connection looks at the request once.
_SMALL_NBYTES = 1 << 15


class _Answer:
    """What a connection writes to one request, taken apart. Fed by the transport, read by the application."""

    def __init__(self, without_body: bool) -> None:
        self.status = 0
        self.fields: Fields = []
        self.complete = False
        self.closes = False
        self.unread_nbytes = 0
        self._without_body = without_body
        self._buffer = bytearray()  # of the head, or of a chunk's
        self._pieces: deque[bytes] = deque()
        self._left = -1  # bytes of the body, or of the chunk, that are still to come; -1: until the end
        self._chunked = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        if self.complete:
            return
        if not self.status:
            data = self._take_head(data)
            if not self.status:
                return
        if not self.complete:
            if self._chunked:
                self._take_chunks(data)
            else:
                self._take_body(data)
        self._tell()

    def end(self) -> None:
        """The connection has closed."""
        if self.status and self._left < 0 and not self._chunked:
            self.complete = True
        self._lost = not self.complete
        self.closes = True
        self._tell()

    async def head(self) -> None:
        """Waits for status and fields. ConnectionResetError when there are none."""
        while not self.status:
            if self._lost:
                raise ConnectionResetError("the connection has ended without an answer")
            await self._change()

    async def body(self) -> bytes | None:
        """What there is of the body; None behind it. ConnectionResetError when it has broken off."""
        while not self._pieces:
            if self.complete:
                return None
            if self._lost:
                raise ConnectionResetError("the connection has ended inside an answer")
            await self._change()
        found = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.unread_nbytes = 0
        return found

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _take_head(self, data: bytes) -> bytes:
        self._buffer += data
        # The end of the last chunk of the answer before may come behind the rest of it.
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        while (end := self._buffer.find(_END_OF_HEAD)) >= 0:
            lines = bytes(self._buffer[:end]).split(b"\r\n")
            rest = bytes(self._buffer[end + len(_END_OF_HEAD) :])
            status = int(lines[0].split(b" ", 2)[1])
            if status < 200:  # only says that it still works on it
                self._buffer = bytearray(rest)
                continue
            self._buffer.clear()
            self._take_fields(lines[1:])
            self.status = status
            if self._without_body or status in (204, 304):
                self.complete, self._left, self._chunked = True, 0, False
            elif self._left == 0:
                self.complete = True
            return rest
        return b""

    def _take_fields(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"transfer-encoding":
                self._chunked = value.lower() == b"chunked"
            elif name == b"connection":
                self.closes = value.lower() == b"close"
            elif name not in _HOP_BY_HOP:
                self.fields.append((name, value))
                if name == b"content-length":
                    self._left = int(value)

    def _take_body(self, data: bytes) -> None:
        if self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
            self.complete = self._left == 0
        self._add(data)

    def _take_chunks(self, data: bytes) -> None:
        self._buffer += data
        while not self.complete:
            if self._left > 0:
                piece = bytes(self._buffer[: self._left])
                del self._buffer[: len(piece)]
                self._left -= len(piece)
                self._add(piece)
                if self._left:
                    return
            # The line of the next chunk, behind the end of the last one.
            start = 2 if self._left == 0 else 0
            end = self._buffer.find(b"\r\n", start)
            if end < 0:
                return
            self._left = int(self._buffer[start:end], 16)
            del self._buffer[: end + 2]
            self.complete = self._left == 0

    def _add(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self.unread_nbytes += len(piece)


class _Wire(asyncio.Transport):
    """A connection's transport: there is nothing behind it but the answer that is read."""

    def __init__(self, listener: ExpressListener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.peer: Any = None
        self.answer: _Answer | None = None
        self._loop = loop
        self._closing = False
        self._full = False
        self._readable = asyncio.Event()
        self._readable.set()
        self._protocol: Any = listener.accept()
        self._protocol.connection_made(self)

    async def send(self, data: bytes) -> None:
        """Has the connection read this, as fast as it wants to; nothing once it has closed."""
        view = memoryview(data)
        while view and not self._closing:
            if not self._readable.is_set():
                await self._readable.wait()
                continue
            room = memoryview(self._protocol.get_buffer(len(view))).cast("B")
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self._protocol.buffer_updated(count)
            view = view[count:]

    def was_read(self) -> None:
        """The application has taken what there was of the answer."""
        if self._full and not self._closing:
            self._full = False
            self._protocol.resume_writing()

    # -- what the connection calls --

    def write(self, data: Any) -> None:
        if self._closing or self.answer is None:
            return
        self.answer.feed(bytes(data))
        if self.answer.unread_nbytes > ASGI_UNSENT_NBYTES and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0 if self.answer is None else self.answer.unread_nbytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """They are the application's."""

    def pause_reading(self) -> None:
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    def is_reading(self) -> bool:
        return self._readable.is_set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._readable.set()
        if self.answer is not None:
            self.answer.end()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" and self.peer is not None else default


class AsgiApp:
    """Answers ASGI requests as the listener's port would. `listener`: need not listen."""

    def __init__(self, listener: ExpressListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Wire] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        head = _head_of(scope, message)
        if head is None:
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        wire = self._wire(scope.get("client"))
        answer = wire.answer = _Answer(scope["method"] == "HEAD")
        done = False
        try:
            last = await _send_request(wire, answer, head, message, receive)
            if last["type"] != "http.disconnect":
                await _send_answer(wire, answer, send)
                done = answer.complete and not answer.closes and not last.get("more_body", False)
        finally:
            wire.answer = None
            if done and len(self._idle) < ASGI_IDLE_CONNECTIONS:
                self._idle.append(wire)
            else:  # a request that nobody waits for any more is cancelled
                wire.close()

    def _wire(self, peer: Any) -> _Wire:
        while self._idle:
            wire = self._idle.pop()
            if not wire.is_closing():
                break
        else:
            wire = _Wire(self._listener, self._loop)
        wire.peer = tuple(peer) if peer is not None else None
        return wire


async def _send_request(wire: _Wire, answer: _Answer, head: bytes, message: Message, receive: Receive) -> Message:
    """The last message that was taken: all has come, or as much as was wanted, or the client has left."""
    body = message.get("body", b"")
    chunked = message.get("more_body", False) and b"\r\ntransfer-encoding: chunked\r\n" in head
    if len(body) <= _SMALL_NBYTES and not chunked:
        await wire.send(head + body)
    else:
        await wire.send(head)
        await _send_piece(wire, body, chunked)
    while message.get("more_body", False) and not answer.status and not wire.is_closing():
        message = await receive()
        if message["type"] == "http.disconnect":
            return message
        await _send_piece(wire, message.get("body", b""), chunked)
    if chunked and not message.get("more_body", False):
        await wire.send(b"0\r\n\r\n")
    return message


async def _send_piece(wire: _Wire, piece: bytes, chunked: bool) -> None:
    if not piece:
        return
    if chunked:
        await wire.send(b"%x\r\n" % len(piece))
    await wire.send(piece)
    if chunked:
        await wire.send(b"\r\n")


async def _send_answer(wire: _Wire, answer: _Answer, send: Send) -> None:
    await answer.head()
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.fields})
    while (piece := await answer.body()) is not None:
        wire.was_read()
        await send({"type": "http.response.body", "body": piece, "more_body": not answer.complete})
        if answer.complete:
            return
    await send({"type": "http.response.body", "body": b""})


def _head_of(scope: Scope, message: Message) -> bytes | None:
    """The request's head in HTTP/1.1; None when it would end a line where none ends. `message`: the first one, which
    tells whether the length of the body is known.
    """
    body, more = message.get("body", b""), message.get("more_body", False)
    method, target = scope["method"].encode("latin-1"), _target_of(scope)
    lines, given = [], False
    for name, value in scope["headers"]:
        kind = name.lower()
        if kind == b"content-length":
            given = True
            if not more:  # it is said anew
                continue
        elif kind in _HOP_BY_HOP:
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    if more:
        if not given:
            lines.append(b"transfer-encoding: chunked\r\n")
    elif given or body or scope["method"] not in ("GET", "HEAD"):
        lines.append(b"content-length: %d\r\n" % len(body))
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(lines))
    ends = len(lines) + 2
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head or b" " in target:
        return None
    return head


def path_of(scope: Scope) -> bytes:
    """As the client sent it, below where the application is mounted."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    root = scope.get("root_path", "").rstrip("/").encode()
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in (b"", b"/"):
        path = path[len(root) :] or b"/"
    return path


def _target_of(scope: Scope) -> bytes:
    path = path_of(scope)
    query: bytes = scope.get("query_string", b"")
    return path + b"?" + query if query else path


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
