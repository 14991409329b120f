"""The service handlers, those of the inference RPCs among them, on grpclib's HTTP/2: what our own is compared to.

One front-end like `triton_async.frontends.grpc.server`, without keep-alive options, TLS and limits against floods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from grpclib.config import Configuration
from grpclib.const import Handler
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import PingAckReceived
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from triton_async.core.server import InferenceServer
from triton_async.defines import (
    GRPC_CONNECTION_WINDOW_NBYTES,
    GRPC_MAX_CONCURRENT_STREAMS,
    GRPC_MAX_FRAME_NBYTES,
    GRPC_MAX_HEADER_LIST_NBYTES,
    GRPC_MAX_STREAM_REQUESTS,
    GRPC_STREAM_WINDOW_NBYTES,
)
from triton_async.frontends.grpc.call import StreamGone
from triton_async.frontends.grpc.calls import Calls
from triton_async.frontends.grpc.express.keepalive import PingOptions
from triton_async.frontends.grpc.server import GrpcEndpoint

log = logging.getLogger("reference")

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


@contextmanager
def gone() -> Iterator[None]:
    """How h2 says that the client has closed its stream, in our words."""
    try:
        yield
    except (ProtocolError, StreamClosedError) as error:
        raise StreamGone from error


class ReferenceStream:
    """grpclib's stream as a CallStream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def recv_data(self, size: int, paced: bool = False) -> bytes:
        try:
            data: bytes = await self.stream.recv_data(size)
            return data
        except AssertionError:
            # The stream ended inside of what was asked for.
            return b"\0"

    def eof(self) -> None:
        self.stream.buffer.eof()

    async def send_headers(self, headers: Sequence[tuple[str, str]], end_stream: bool = False) -> None:
        with gone():
            await self.stream.send_headers(list(headers), end_stream=end_stream)
            if end_stream and self.stream.closable:
                # Nobody listens to what the client still sends.
                self.stream.reset_nowait()

    async def send_data(self, data: bytes) -> None:
        with gone():
            await self.stream.send_data(data)


class ReferenceCalls(Calls, AbstractHandler):
    """The calls of one connection, as grpclib's protocol tells of them."""

    def __init__(self, mapping: Mapping[str, Handler]) -> None:
        super().__init__(mapping)
        self._streams: dict[Stream, ReferenceStream] = {}

    def accept(  # type: ignore[override]
        self, stream: Stream, headers: Sequence[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        ours = self._streams[stream] = ReferenceStream(stream)
        super().accept(ours, headers)

        def forget(_: object) -> None:
            del self._streams[stream]
            release_stream()

        self._tasks[ours].add_done_callback(forget)

    def cancel(self, stream: Stream) -> None:  # type: ignore[override]
        if stream in self._streams:
            super().cancel(self._streams[stream])

    def close(self) -> None:
        for stream in list(self._streams):
            self.cancel(stream)


class ReferenceConnection(H2Protocol):
    """A connection. `connections`: where it enters itself while it is open."""

    def __init__(self, mapping: Mapping[str, Handler], connections: set[Any]) -> None:
        self.calls = ReferenceCalls(mapping)
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


class ReferenceEndpoint(GrpcEndpoint):
    """A started front-end."""

    def __init__(
        self, server: InferenceServer, response_compression: str, pings: PingOptions, max_waiting: int, **access: Any
    ) -> None:
        super().__init__(server, response_compression, pings, max_waiting, **access)
        self._connections = set()
        self._accept = lambda: ReferenceConnection(self.lane.mapping, self._connections)


async def start(
    server: InferenceServer, *, address: str, port: int, response_compression: str = "none", pings: PingOptions,
    max_waiting: int = GRPC_MAX_STREAM_REQUESTS, **access: Any,
) -> ReferenceEndpoint:
    """As the `start` of the server, but that nothing comes of `pings`."""
    endpoint = ReferenceEndpoint(server, response_compression, pings, max_waiting, **access)
    await endpoint.listen(address, port, False, None)
    return endpoint
