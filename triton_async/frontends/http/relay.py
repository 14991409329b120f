"""The slow lane of one connection: aiohttp's handler, and what it gets for a transport. Event-loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from triton_async.frontends.http.connection import Connection

_CONTINUE = b"HTTP/1.1 100"


class Relay(asyncio.Transport):
    """Stands between a Connection and a fresh handler of aiohttp's server.

    Writes go through to the socket. Closing closes the socket only while the handler has the connection; between
    its requests it just ends the handler, and the connection makes another when it needs one.
    """

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, make_handler: Callable[[], asyncio.Protocol]
    ) -> None:
        super().__init__()
        self._connection: Connection | None = connection
        self._transport = transport
        self._handler: asyncio.Protocol | None = make_handler()
        # Whether an answer to the request at hand has begun.
        self.written = False
        self._handler.connection_made(self)

    # -- called by the connection --

    def feed(self, data: bytes) -> None:
        """Bytes for the handler."""
        if self._handler is not None:
            self._handler.data_received(data)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._handler is not None:
            self._handler.resume_writing()

    def lost(self, error: Exception | None) -> None:
        """The connection is gone: the handler's requests are cancelled."""
        handler, self._handler, self._connection = self._handler, None, None
        if handler is not None:
            handler.connection_lost(error)

    # -- called around the handler of every request --

    def started(self) -> None:
        """aiohttp found a request in what it was fed."""
        if self._connection is not None:
            self._connection.relay_started()

    def answered(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """The whole response was written."""
        if self._connection is not None:
            self._connection.relay_answered(request.content, bool(response.keep_alive))

    # -- the transport that aiohttp sees --

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.relay_closed()
            # As a transport does: not from inside the call, which may be the handler's own.
            asyncio.get_running_loop().call_soon(self.lost, None)

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._connection is None or self._transport.is_closing()

    def write(self, data: Any) -> None:
        self.written = self.written or bytes(data[:12]) != _CONTINUE
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.written = True
        self._transport.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        if self._connection is not None:
            self._connection.relay_reading(True)

    def resume_reading(self) -> None:
        if self._connection is not None:
            self._connection.relay_reading(False)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
