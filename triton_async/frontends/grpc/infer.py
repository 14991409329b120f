"""ModelInfer and ModelStreamInfer as service handlers, for the calls that the express lane leaves to them.

Loop thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from grpclib.const import Handler

from triton_async.config.access import Pattern
from triton_async.core.server import InferenceServer
from triton_async.errors import Unsupported
from triton_async.frontends.entry import forward, forwarded_of
from triton_async.frontends.grpc.call import Call
from triton_async.frontends.grpc.mapping import handlers
from triton_async.frontends.grpc.service import SERVICE
from triton_async.frontends.grpc.stream_requests import StreamRequests
from triton_async.infer.request import InferRequest
from triton_async.infer.strings import has_many_strings
from triton_async.protocol.grpc_codec import decode_request, is_long_message
from triton_async.protocol.grpc_encode import chosen_outputs, encode_response, is_long_choice


def forwardable(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a client, or a proxy, has sent beside what gRPC itself needs."""
    return [(name, value) for name, value in metadata.items() if not name.startswith((":", "grpc-"))]


def _forward(request: InferRequest, pattern: Pattern, metadata: Mapping[str, str]) -> None:
    forward(request, forwarded_of(forwardable(metadata), pattern))


class Inference:
    """The two RPCs. `level`: zlib level of answers, 0: not compressed. `max_waiting`, `forwarded`: see `server.start`.
    """

    def __init__(
        self, server: InferenceServer, level: int, max_waiting: int, forwarded: Pattern | None = None
    ) -> None:
        self._server = server
        self._forwarded = forwarded
        self._max_waiting = max_waiting
        self._level = level

    def __mapping__(self) -> dict[str, Handler]:
        functions = {"ModelInfer": self._infer, "ModelStreamInfer": self._stream}
        return handlers(SERVICE, functions, raw=True)

    async def _infer(self, call: Call) -> None:
        call.compress_answers(self._level)
        opened_ns = time.monotonic_ns()
        message = await call.recv_message()
        decoding = message, time.monotonic_ns(), self._server.regions
        long = is_long_message(message)
        request = await asyncio.to_thread(decode_request, *decoding) if long else decode_request(*decoding)
        del message, decoding
        request.end_by_ns = call.answer_by_ns
        call.request_id, call.model = request.id, request.model_name
        if self._forwarded is not None:
            forward(request, forwarded_of(forwardable(call.metadata), self._forwarded))
        signature = self._server.signature(request.model_name, request.model_version)
        if signature.decoupled:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        if has_many_strings(request):
            await asyncio.to_thread(signature.validated, request)
        if self._server.reads_context:
            request.trace_parent = list(call.metadata.items())
        response = await self._server.infer(request)
        choosing = response, signature
        long = is_long_choice(response)
        outputs = await asyncio.to_thread(chosen_outputs, *choosing) if long else chosen_outputs(*choosing)
        parts = encode_response(response, outputs)
        if (trace := request.trace) is None:
            await call.send_parts(parts)
            return
        trace.add("GRPC_WAITREAD_START", opened_ns)
        trace.add("GRPC_WAITREAD_END", request.received_ns)
        trace.add("GRPC_SEND_START", time.monotonic_ns())
        await call.send_parts(parts)
        trace.add("GRPC_SEND_END", time.monotonic_ns())

    async def _stream(self, call: Call) -> None:
        call.compress_answers(self._level)
        await InferStream(self._server, call, self._max_waiting, self._forwarded).run()


class InferStream(StreamRequests):
    """One ModelStreamInfer call: a task reads requests, the call's own task writes answers."""

    def __init__(
        self, server: InferenceServer, call: Call, max_waiting: int, forwarded: Pattern | None = None
    ) -> None:
        ends_on_error = call.metadata.get("triton_grpc_error") == "true"
        super().__init__(server, ends_on_error, call.answer_by_ns, max_waiting)
        self._server = server
        if server.reads_context:
            self.fields = list(call.metadata.items())
        self._call = call
        if forwarded is not None:
            self.forward = partial(_forward, pattern=forwarded, metadata=call.metadata)
        self._ready: deque[tuple[list[Any], int]] = deque()  # parts of answers, and their bytes
        self._failure: Exception | None = None
        self._left_nbytes = 0
        self._changed = asyncio.Event()  # for the writer
        self._room = asyncio.Event()  # for the reader

    async def run(self) -> None:
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(self._on_reader_done)
        try:
            await self._write(reader)
        except asyncio.CancelledError:
            self._end(reader)
            self.client_left()
            raise
        finally:
            self._end(reader)

    def _end(self, reader: asyncio.Future[None]) -> None:
        reader.cancel()
        for request in self.take_requests():
            self._server.cancel(request)
        self._ready.clear()

    def _on_reader_done(self, reader: asyncio.Future[None]) -> None:
        if not reader.cancelled():
            # Looked at here, so that asyncio does not report it as lost when the writer failed first.
            reader.exception()
        self._changed.set()

    async def _read(self) -> None:
        while not self.ended:
            message = await self._call.recv_message()
            if message is None:
                return
            while not self.may_read:
                self._room.clear()
                await self._room.wait()
            self.submit_message(message)
            # While waiting for the next one, the tensors of this one belong to its request alone.
            del message

    def on_answer(self, parts: list[Any], nbytes: int) -> None:
        self._ready.append((parts, nbytes))

    def on_failure(self, error: Exception) -> None:
        self._failure = error
        self.on_change()

    def on_change(self) -> None:
        self._changed.set()
        self._room.set()

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            while self._ready:
                await self._send(*self._ready.popleft())
            if self._failure is not None:
                raise self._failure
            if reader.done() and (not self.unanswered or reader.exception() is not None):
                # A broken message or connection ends the stream; so does its end, once all is answered.
                reader.result()
                return
            self._changed.clear()
            await self._changed.wait()

    async def _send(self, parts: list[Any], nbytes: int) -> None:
        await self._call.send_parts(parts)
        self._left_nbytes += nbytes
        self.answers_sent(self._left_nbytes)
        self._room.set()
