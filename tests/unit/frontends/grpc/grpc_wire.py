"""A connection of the express lane without a socket: the server's protocol object and a client on h2, on one loop."""

from __future__ import annotations

import asyncio
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived
from raw_http2 import INFER

from triton_async import defines
from triton_async.frontends.grpc.express.connection import connection
from triton_async.frontends.grpc.express.session import Lane

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Wire(asyncio.Transport):
    """The server's end of a connection whose client is `h2`; the test says how reads are cut."""

    def __init__(self, lane: Lane, window: int = 1 << 28) -> None:
        """`window`: of each stream, for what the server sends."""
        super().__init__()
        self.h2 = H2Connection(H2Configuration(header_encoding="latin-1"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 28)
        self.h2.update_settings({4: window})
        self.answers: dict[int, bytearray] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.changed = asyncio.Event()
        self.direct_nbytes = 0
        self.paused = False
        self.unread: list[tuple[bytes, int]] = []
        self.protocol: Any = connection(lane)
        self.protocol.connection_made(self)
        self.send(self.h2.data_to_send(), 1 << 20)

    def send(self, data: bytes, piece: int) -> None:
        """In reads of at most `piece` bytes. What comes while the server does not read waits until it does."""
        at = 0
        while at < len(data):
            if self.paused or self.unread:
                self.unread.append((data[at:], piece))
                return
            view = memoryview(self.protocol.get_buffer(-1))
            count = min(len(view), piece, len(data) - at)
            view[:count] = data[at : at + count]
            if len(view) != defines.GRPC_RECEIVE_NBYTES:
                self.direct_nbytes += count
            self.protocol.buffer_updated(count)
            at += count

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        unread, self.unread = self.unread, []
        for data, piece in unread:
            self.send(data, piece)

    async def read(self) -> None:
        """Returns when the server has read all that was sent."""
        while self.paused or self.unread:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def begin(self, path: str = INFER, **headers: str) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(stream, [*head, ("content-type", "application/grpc"), ("te", "trailers"), *more])
        return stream

    def flush(self) -> None:
        """What the client has to say reaches the server."""
        self.send(self.h2.data_to_send(), 1 << 20)

    async def finished(self, stream: int) -> None:
        """Returns when the server has ended the stream."""
        async with asyncio.timeout(20):
            while stream not in self.ended:
                self.changed.clear()
                await self.changed.wait()

    async def answer(self, stream: int) -> bytes:
        await self.finished(stream)
        return bytes(self.answers[stream])

    def write(self, data: Any) -> None:
        for event in self.h2.receive_data(bytes(data)):
            if isinstance(event, DataReceived):
                self.answers.setdefault(event.stream_id, bytearray()).extend(event.data)
            elif isinstance(event, ResponseReceived | TrailersReceived):
                # An answer without messages has its trailers for a head.
                self.trailers[event.stream_id] = dict(event.headers)
            elif isinstance(event, StreamEnded):
                self.ended.add(event.stream_id)
        self.changed.set()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
