"""One client connection: grpclib's HTTP/2 with our settings, our calls and an orderly goodbye. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from grpclib.config import Configuration
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import PingAckReceived
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from triton_async.defines import (
    GRPC_CONNECTION_WINDOW_NBYTES,
    GRPC_MAX_CONCURRENT_STREAMS,
    GRPC_MAX_FRAME_NBYTES,
    GRPC_MAX_HEADER_LIST_NBYTES,
    GRPC_STREAM_WINDOW_NBYTES,
)
from triton_async.errors import ServerError
from triton_async.frontends.grpc.call import Call, finish
from triton_async.frontends.grpc.status import status_of

log = logging.getLogger("triton_async.grpc")

Headers = list[tuple[str, str]]

# HTTP/2 allows any byte in a header value; Latin-1 decodes every one of them.
_H2_CONFIG = H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_inbound_headers=True,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)
_CONFIG = Configuration(
    http2_connection_window_size=GRPC_CONNECTION_WINDOW_NBYTES,
    http2_stream_window_size=GRPC_STREAM_WINDOW_NBYTES,
).__for_server__()

_SETTINGS = {
    SettingCodes.INITIAL_WINDOW_SIZE: GRPC_STREAM_WINDOW_NBYTES,
    SettingCodes.MAX_FRAME_SIZE: GRPC_MAX_FRAME_NBYTES,
    SettingCodes.MAX_CONCURRENT_STREAMS: GRPC_MAX_CONCURRENT_STREAMS,
    SettingCodes.MAX_HEADER_LIST_SIZE: GRPC_MAX_HEADER_LIST_NBYTES,
}

_LARGEST_STREAM_ID = 2**31 - 1


class Calls(AbstractHandler):
    """The calls of one connection, each a task."""

    def __init__(self, mapping: Mapping[str, Handler]) -> None:
        self._mapping = mapping
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self._calls: dict[Stream, Call] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def accept(self, stream: Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        self.idle.clear()
        task = asyncio.get_running_loop().create_task(self._serve(stream, dict(headers)))
        self._tasks[stream] = task

        def forget(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("gRPC call failed", exc_info=error)
            self._tasks.pop(stream, None)
            self._calls.pop(stream, None)
            release_stream()
            if not self._tasks:
                self.idle.set()

        task.add_done_callback(forget)

    def cancel(self, stream: Stream) -> None:
        """The client reset the stream."""
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The connection is gone."""
        for task in self._tasks.values():
            task.cancel()

    def drain(self) -> None:
        """Ends the calls in which the client could go on sending."""
        for call in self._calls.values():
            call.drain()

    async def _serve(self, stream: Stream, headers: dict[str, str]) -> None:
        try:
            if headers.get(":method") != "POST":
                await _refuse(stream, "405")
                return
            if not headers.get("content-type", "").startswith("application/grpc"):
                await _refuse(stream, "415")
                return
            handler = self._mapping.get(headers.get(":path", ""))
            if handler is None:
                await finish(stream, Status.UNIMPLEMENTED, None)
                return
            try:
                call = Call(stream, handler, headers)
            except GRPCError as error:
                await finish(stream, error.status, error.message)
                return
            self._calls[stream] = call
            code, message = await _handle(call, handler)
            await call.finish(code, message)
        except (ProtocolError, StreamClosedError):
            log.debug("the client has closed its stream", exc_info=True)


async def _handle(call: Call, handler: Handler) -> tuple[Status, str | None]:
    """Runs the service handler; the status the call ends with."""
    try:
        timeout_s = call.timeout_s
        if timeout_s is None:
            await handler.func(call)
        elif timeout_s == 0 or not await _before(timeout_s, handler.func(call)):
            return Status.DEADLINE_EXCEEDED, "Deadline Exceeded"
    except ServerError as error:
        return status_of(error.code), error.message
    except GRPCError as error:
        return error.status, error.message
    except (ProtocolError, StreamClosedError):
        raise
    except Exception:
        log.exception("gRPC handler failed")
        return Status.INTERNAL, "Internal server error"
    return (Status.UNAVAILABLE, "Server exiting") if call.drained else (Status.OK, None)


async def _before(timeout_s: float, handling: Awaitable[None]) -> bool:
    """Whether `handling` came to its end within the time; it is cancelled when not.

    asyncio.timeout would do, but its exceptions refer to each other and to the frames of the call: every call that
    runs out of time would keep its tensors until the next garbage collection.
    """
    task = asyncio.current_task()
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout_s, expire)
    try:
        await handling
        return True
    except asyncio.CancelledError:
        if not expired or task is None or task.uncancel() > 0:
            raise
    finally:
        timer.cancel()
        # A cancelled task keeps its exception, which keeps this frame.
        task = None
    return False


async def _refuse(stream: Stream, http_status: str) -> None:
    """An answer in HTTP to what is no gRPC call."""
    await stream.send_headers([(":status", http_status)], end_stream=True)
    if stream.closable:
        stream.reset_nowait()


class GrpcProtocol(H2Protocol):
    """A connection. `connections`: where it enters itself while it is open."""

    def __init__(self, mapping: Mapping[str, Handler], connections: set[GrpcProtocol]) -> None:
        self.calls = Calls(mapping)
        super().__init__(self.calls, _CONFIG, _H2_CONFIG)
        self._connections = connections
        self._ponged = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._h2 = H2Connection(config=self.h2_config)
        # In force from the first byte, not from the client's acknowledgement: h2 takes frame sizes over only between
        # two reads, and would refuse a large frame that comes in one read with the acknowledgement.
        self._h2.local_settings = Settings(client=False, initial_values=_SETTINGS)
        self._h2.max_inbound_frame_size = GRPC_MAX_FRAME_NBYTES
        self._h2.decoder.max_header_list_size = GRPC_MAX_HEADER_LIST_NBYTES
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(
            GRPC_CONNECTION_WINDOW_NBYTES - self._h2.inbound_flow_control_window
        )
        self.connection = Connection(self._h2, self._transport, config=self.config)
        self.connection.flush()
        self.connection.initialize()
        self.processor = EventsProcessor(self.calls, self.connection)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.connection.is_closing():
            return
        try:
            events = self.connection.feed(data)
            self.connection.flush()
            for event in events:
                if isinstance(event, PingAckReceived):
                    self._ponged.set()
                self._process(event)
                if self.connection.is_closing():
                    return
            self.connection.flush()
        except ProtocolError:
            log.debug("protocol error of a client", exc_info=True)
            if not self.connection.is_closing():
                # h2 has prepared the GOAWAY that says why.
                self.connection.flush()
            self.processor.close("Protocol error")

    def _process(self, event: Any) -> None:
        try:
            self.processor.process(event)
        except NotImplementedError:
            log.debug("ignored the HTTP/2 event %r", event)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        # Nothing more to wait for.
        self._ponged.set()
        super().connection_lost(exc)

    async def drain(self, round_trip_s: float) -> None:
        """Asks the client to go elsewhere, serves what it has sent, closes. Cancel it to stop waiting.

        The first GOAWAY refuses nothing: calls that are on their way are served until the answer to the PING shows
        that the client has seen it (RFC 9113, 6.8).
        """
        if not self.connection.is_closing():
            self._goaway(_LARGEST_STREAM_ID)
            self._h2.ping(b"draining")
            self.connection.flush()
        self.calls.drain()
        try:
            async with asyncio.timeout(round_trip_s):
                await self._ponged.wait()
        except TimeoutError:
            log.debug("a client does not answer PING; closing without waiting for more calls")
        self.calls.drain()
        await self.calls.idle.wait()
        self.abort()

    def _goaway(self, last_stream_id: int) -> None:
        # Not through h2, which would refuse to send anything else afterwards.
        if not self._transport.is_closing():
            frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=ErrorCodes.NO_ERROR)
            self._transport.write(frame.serialize())

    def abort(self) -> None:
        """Closes now; running calls are cancelled."""
        if not self.connection.is_closing():
            self._goaway(self._h2.highest_inbound_stream_id)
            self.processor.close("Server exiting")

    async def wait_idle(self) -> None:
        """Returns when no task of a call is left."""
        await self.calls.idle.wait()
