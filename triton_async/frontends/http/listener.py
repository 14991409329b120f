"""One listening port and its connections, on aiohttp's low-level server. Event-loop thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from triton_async.core.turn import Turn
from triton_async.defines import HTTP_MAX_LINE_NBYTES
from triton_async.errors import ServerError
from triton_async.frontends.http import replies
from triton_async.frontends.sockets import ListeningSocket, listen
from triton_async.frontends.tls import ServerTls
from triton_async.logs import access, with_id

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_BACKLOG = 1024
# Bytes aiohttp buffers of a body before it stops reading from the socket.
_READ_NBYTES = 1 << 18
# Seconds until the handler of a request that was received completely has begun.
_BEGIN_S = 0.1
# Seconds that cancelled handlers get to end.
_CANCEL_S = 0.5

_log = logging.getLogger("triton_async.http")
_wire_log = logging.getLogger("triton_async.http.wire")


def _not_hostile(record: logging.LogRecord) -> bool:
    """Leaves out what clients cause with broken bytes: they are answered, and could fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_wire_log.addFilter(_not_hostile)


class _Protocol(web.RequestHandler):
    """aiohttp's own, but for what it says of broken bytes: a page that quotes them."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        # Logs, and raises when an answer has begun.
        super().handle_error(request, status, exc, message)
        response = replies.error(status, "malformed request") if status < 500 else replies.error(*replies.FAILED)
        response.force_close()
        return response


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    if message.method == "UNKNOWN":
        # What aiohttp makes of broken bytes says that it came in HTTP/1.0, in which it would be answered.
        message = message._replace(version=HttpVersion11)
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


class _Server(web.Server):
    """Makes the protocol of every connection."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        # A connection that goes away cancels its handler, and with it the inference.
        super().__init__(handler, request_factory=_make_request, handler_cancellation=True, **options)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._options)


class _HalfClosable(asyncio.Protocol):
    """Hands all to aiohttp's protocol, which would drop the request of a client that has closed its side behind it."""

    def __init__(self, handler: web.RequestHandler, busy: Mapping[object, web.BaseRequest]) -> None:
        self._handler = handler
        self._busy = busy
        self._transport: asyncio.Transport | None = None
        self.connection_lost = handler.connection_lost  # type: ignore[method-assign]
        self.data_received = handler.data_received  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._handler.connection_made(transport)

    def eof_received(self) -> bool:
        asyncio.get_running_loop().call_later(_BEGIN_S, self._end)
        return True

    def _end(self) -> None:
        request = self._busy.get(self._handler)
        if request is not None and request.content.is_eof():
            # Closes behind the answer.
            self._handler.close()
        elif self._transport is not None:
            self._transport.close()


class Listener:
    """Accepts connections until told to stop, and serves them in the turns of `turn`; every request goes through
    `handler`.
    """

    def __init__(self, handler: Handler, turn: Turn | None = None) -> None:
        self._handler = handler
        self._turn = turn or Turn(asyncio.get_running_loop())
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._busy: dict[object, web.BaseRequest] = {}
        self._socket: ListeningSocket | None = None
        self._server = _Server(
            self._handle,
            access_log=None,
            logger=_wire_log,
            auto_decompress=False,
            max_line_size=HTTP_MAX_LINE_NBYTES,
            max_field_size=HTTP_MAX_LINE_NBYTES,
            read_bufsize=_READ_NBYTES,
        )
        # Makes the protocol of an accepted connection.
        self._factory: Callable[[], asyncio.BaseProtocol] = self._accept
        self.address = ""
        self.port = 0

    async def start(
        self, address: str, port: int, reuse_port: bool = False, tls: ServerTls | None = None
    ) -> None:
        """Binds; port 0 takes a free one, `unix:<path>` a socket file. OSError when the address is not to be had."""
        self._socket = listen(
            self._factory, self._turn, address, port, backlog=_BACKLOG, reuse_port=reuse_port, tls=tls
        )
        self.address, self.port = self._socket.address, self._socket.port

    @property
    def connected(self) -> bool:
        """Whether any client is."""
        return bool(self._server.connections)

    def leave(self) -> None:
        """Has clients go elsewhere: from now on every answer says that its connection closes."""
        self._draining = True

    async def stop_accepting(self) -> None:
        """Closes the port and every connection that has no request in work."""
        self._draining = True
        if self._socket is not None:
            await self._socket.retire()
        for connection in self._server.connections:
            if connection not in self._busy:
                connection.force_close()

    async def close(self, deadline_s: float) -> None:
        """Lets requests in work end within the deadline, then cancels what is left and closes everything."""
        await self.stop_accepting()
        if deadline_s > 0:
            try:
                async with asyncio.timeout(deadline_s):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning("%d HTTP requests did not end within %g s", self._active, deadline_s)
        await self._server.shutdown(_CANCEL_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        began_ns = time.monotonic_ns()
        self._enter(request)
        try:
            response = await self._answer(request)
        finally:
            self._leave(protocol)
        if access.on:
            peer = request.transport.get_extra_info("peername") if request.transport is not None else None
            nbytes = response.content_length or request.get(replies.STREAMED_NBYTES, 0)
            what = f"{request.method} {request.raw_path}"
            access.note(peer, what, response.status, nbytes, began_ns, request_id=_id(request))
        if self._draining or (request.headers.get("Expect") is not None and not request.content.is_eof()):
            # In the second case nobody knows whether the body still comes.
            response.force_close()
        return response

    def _accept(self) -> asyncio.BaseProtocol:
        return _HalfClosable(self._server(), self._busy)

    def _enter(self, request: web.BaseRequest) -> None:
        self._active += 1
        # aiohttp runs the requests of a connection one after the other.
        self._busy[request.protocol] = request
        self._idle.clear()

    def _leave(self, protocol: object) -> None:
        self._active -= 1
        del self._busy[protocol]
        if not self._active:
            self._idle.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._handler(request)
        except ServerError as problem:
            if _log.isEnabledFor(logging.DEBUG):
                message = with_id(_id(request), problem.message)
                _log.debug("%s %s failed: %s", request.method, request.raw_path[:512], message)
            return replies.server_error(problem)
        except replies.RequestProblem as problem:
            response = replies.error(problem.status, problem.message)
            response.force_close()
            return response
        except ConnectionError:
            raise
        except Exception:
            _log.exception("HTTP handler failed")
            return replies.error(*replies.FAILED)


def _id(request: web.BaseRequest) -> str:
    """The id of the inference request in it, where one was read."""
    return str(request.get(replies.REQUEST_ID, ""))
