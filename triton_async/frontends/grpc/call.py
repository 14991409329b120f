"""One gRPC call: what service handlers, written for grpclib, read from and write to. Loop thread.

The part of grpclib's own server that we replace: compression both ways, raw messages for the codec, deadlines by
asyncio, statuses of our errors, and an orderly end of calls when the server drains.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from triton_async.defines import (
    CONTROL_MAX_NBYTES,
    GRPC_MAX_MESSAGE_NBYTES,
    GRPC_MAX_TIMEOUT_S,
    GRPC_WAY_BACK_S,
    GRPC_WAY_BACK_SHARE,
    JSON_MAX_CONTROL_VALUES,
    NOGIL_NBYTES,
)
from triton_async.frontends.grpc import compression, status
from triton_async.memory.buffer import Buffer
from triton_async.protocol.grpc_encode import PREFIX_NBYTES
from triton_async.protocol.wire import Malformed, check_field_count

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_HEAD = [
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", compression.ACCEPTED),
]

# Levels of messages in a request that have repeated fields of their own.
_NESTED = {"TraceSettingRequest": 2}


def _limit(request_type: Any) -> int:
    """Bytes that a message may have: requests of inference, and loads, which bring files, as many as gRPC allows."""
    if request_type is bytes or request_type.DESCRIPTOR.name == "RepositoryModelLoadRequest":
        return GRPC_MAX_MESSAGE_NBYTES
    return CONTROL_MAX_NBYTES


class StreamGone(Exception):
    """The stream is closed: nobody is there to answer."""


class CallStream(Protocol):
    """What carries a call."""

    def peer(self) -> Any:
        """The client's address, as its transport says."""

    async def recv_data(self, size: int, paced: bool = False) -> bytes:
        """So many bytes; fewer when the client has ended its side before. `paced`: GRPCError when they come so slowly
        that they only hold memory.
        """

    def eof(self) -> None:
        """Takes the client to have ended its side."""

    async def send_headers(self, headers: Sequence[tuple[str, str]], end_stream: bool = False) -> None:
        """The head, or the trailers, which end the client's side too. StreamGone."""

    async def send_data(self, data: bytes) -> None:
        """Returns when the client keeps up. StreamGone."""


class Call:
    """A call that was accepted. `headers`: the request's, as a mapping (the last of equal names).

    `end_by_ns`: its deadline, of time.monotonic_ns(); 0 when the client sets none. `answer_by_ns`: when an answer has
    to be there to reach the client before. GRPCError when malformed.
    """

    def __init__(self, stream: CallStream, handler: Handler, headers: Mapping[str, str]) -> None:
        self.metadata = headers
        self.drained = False
        self._ended = False
        self._stream = stream
        self._handler = handler
        self._encoding = headers.get("grpc-encoding", "identity")
        self._answer_encoding: str | None = None
        self._level = 0
        self._head_sent = False
        #: Of the inference request in it, for logs.
        self.request_id = self.model = ""
        #: Bytes of the messages sent so far.
        self.sent_nbytes = 0
        if not compression.known(self._encoding):
            raise GRPCError(
                Status.UNIMPLEMENTED, f"Compression algorithm '{self._encoding}' is not supported"
            )
        self.end_by_ns = self.answer_by_ns = 0
        self._set_deadline(headers.get("grpc-timeout"))

    def _set_deadline(self, timeout: str | None) -> None:
        if timeout is None:
            return
        match = _TIMEOUT.fullmatch(timeout)
        if match is None:
            raise GRPCError(Status.INTERNAL, f"Invalid grpc-timeout '{timeout[:64]}'")
        seconds = int(match[1]) * _UNITS_S[match[2]]
        if seconds < GRPC_MAX_TIMEOUT_S:
            self.end_by_ns = time.monotonic_ns() + int(1e9 * seconds)
            self.answer_by_ns = self.end_by_ns - int(1e9 * min(GRPC_WAY_BACK_S, seconds / GRPC_WAY_BACK_SHARE))

    def compress_answers(self, level: int) -> None:
        """Compresses the messages sent from now on, when the client accepts it; before the first one only."""
        encoding = compression.choose(self.metadata.get("grpc-accept-encoding", ""))
        if level and encoding is not None:
            self._level, self._answer_encoding = level, encoding

    def drain(self) -> None:
        """The server ends: a client that streams is taken to have ended its side. What it sent is still served."""
        if self._handler.cardinality.client_streaming and not self._ended and not self.drained:
            self.drained = True
            self._stream.eof()

    async def recv_message(self) -> Any | None:
        """The next message, as the handler's request type (`bytes`: as it is); None when the client has ended.

        Of a unary call, the one message: GRPCError when there is none or a second one.
        """
        data = await self._recv_bytes()
        if not self._handler.cardinality.client_streaming:
            if data is None:
                raise GRPCError(Status.UNIMPLEMENTED, "unary call without a request message")
            if await self._recv_bytes() is not None:
                raise GRPCError(Status.UNIMPLEMENTED, "unary call with more than one request message")
        if data is None or self._handler.request_type is bytes:
            return data
        try:
            request_type = self._handler.request_type
            if len(data) > NOGIL_NBYTES:
                # Many small fields cost far more than their bytes.
                check_field_count(data, JSON_MAX_CONTROL_VALUES, _NESTED.get(request_type.DESCRIPTOR.name, 0))
            view = memoryview(data)
            if len(view) <= CONTROL_MAX_NBYTES:
                return request_type.FromString(view)
            # A load with files.
            return await asyncio.to_thread(request_type.FromString, view)
        except (DecodeError, UnicodeDecodeError):  # the latter: protobuf in Python, if so asked
            raise Malformed from None

    async def _recv_bytes(self) -> bytes | Buffer | None:
        prefix = await self._stream.recv_data(PREFIX_NBYTES)
        if not prefix:
            self._ended = not self.drained
            return None
        if len(prefix) < PREFIX_NBYTES:
            raise GRPCError(Status.INTERNAL, "stream ended inside a message")
        nbytes = int.from_bytes(prefix[1:], "big")
        if prefix[0] > 1:
            raise GRPCError(Status.INTERNAL, f"message has the unknown flag {prefix[0]}")
        limit = _limit(self._handler.request_type)
        if nbytes > limit:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"Received message larger than max ({nbytes} vs. {limit})")
        data = await self._stream.recv_data(nbytes, not self.end_by_ns)
        if len(data) < nbytes:
            raise GRPCError(Status.INTERNAL, "stream ended inside a message")
        if prefix[0]:
            return await compression.decompress(data, self._encoding, limit)
        return data

    async def send_message(self, message: Any) -> None:
        """Sends a message of the handler's reply type."""
        data = message.SerializeToString()
        await self.send_parts([b"\0" + len(data).to_bytes(PREFIX_NBYTES - 1, "big"), data])

    async def send_parts(self, parts: Sequence[Any]) -> None:
        """Sends one message given as parts, the first of which begins with the uncompressed prefix."""
        framed = b"".join(parts)
        if self._answer_encoding is not None:
            body = await compression.compress(framed[PREFIX_NBYTES:], self._answer_encoding, self._level)
            framed = b"\1" + len(body).to_bytes(PREFIX_NBYTES - 1, "big") + body
        if not self._head_sent:
            self._head_sent = True
            head = _HEAD if self._answer_encoding is None else [*_HEAD, ("grpc-encoding", self._answer_encoding)]
            await self._stream.send_headers(head)
        self.sent_nbytes += len(framed)
        await self._stream.send_data(framed)

    async def finish(self, code: Status, message: str | None = None) -> None:
        """Ends the call; the client's side too, when it has not."""
        await finish(self._stream, code, message, head_sent=self._head_sent)


async def finish(stream: CallStream, code: Status, message: str | None, *, head_sent: bool = False) -> None:
    """Trailers, or an answer of trailers only."""
    await stream.send_headers([*([] if head_sent else _HEAD), *status.trailers(code, message)], end_stream=True)
