"""ModelInfer and ModelStreamInfer on grpclib: bytes to the codec, requests to the server, parts back. Loop thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from grpclib.const import Handler

from triton_async.core.server import InferenceServer
from triton_async.defines import GRPC_MAX_STREAM_REQUESTS
from triton_async.errors import ServerError, Unsupported
from triton_async.frontends.grpc.call import Call
from triton_async.frontends.grpc.mapping import handlers
from triton_async.frontends.grpc.service import SERVICE
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse, ResponseSink
from triton_async.infer.signature import ModelSignature
from triton_async.protocol.grpc_codec import decode_request, request_id
from triton_async.protocol.grpc_encode import (
    chosen_outputs,
    encode_response,
    encode_stream_failure,
    encode_stream_refusal,
    encode_stream_response,
)
from triton_async.protocol.wire import Malformed


class Inference:
    """The two RPCs. `level`: zlib level of answers, 0: not compressed."""

    def __init__(self, server: InferenceServer, level: int) -> None:
        self._server = server
        self._level = level

    def __mapping__(self) -> dict[str, Handler]:
        functions = {"ModelInfer": self._infer, "ModelStreamInfer": self._stream}
        return handlers(SERVICE, functions, raw=True)

    async def _infer(self, call: Call) -> None:
        call.compress_answers(self._level)
        request = decode_request(await call.recv_message(), time.monotonic_ns(), self._server.regions)
        signature = self._server.signature(request.model_name, request.model_version)
        if signature.decoupled:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        response = await self._server.infer(request)
        await call.send_parts(encode_response(response, chosen_outputs(response, signature)))

    async def _stream(self, call: Call) -> None:
        call.compress_answers(self._level)
        await InferStream(self._server, call).run()


class Slot(ResponseSink):
    """A request of a stream, and the place of its answer among the others."""

    def __init__(self, stream: InferStream, id: str) -> None:
        self.stream = stream
        self.id = id
        self.request: InferRequest | None = None
        self.signature: ModelSignature | None = None
        self.wants_empty_final = False
        self.answer: InferResponse | ServerError | None = None

    def on_response(self, response: InferResponse) -> None:
        self.stream.on_response(self, response)


class InferStream:
    """One ModelStreamInfer call: a task reads requests, the call's own task writes answers.

    Answers leave in the order of the requests; those of decoupled models as they come. At most
    GRPC_MAX_STREAM_REQUESTS requests are unanswered; then reading stops.
    """

    def __init__(self, server: InferenceServer, call: Call) -> None:
        self._server = server
        self._call = call
        self._ends_on_error = call.metadata.get("triton_grpc_error", "").lower() == "true"
        self._room = asyncio.Semaphore(GRPC_MAX_STREAM_REQUESTS)
        self._open: set[Slot] = set()  # not finally answered
        self._order: deque[Slot] = deque()  # of these, the ones that answer in order
        self._ready: deque[tuple[Slot, InferResponse | ServerError]] = deque()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(self._on_reader_done)
        try:
            await self._write(reader)
        finally:
            reader.cancel()
            for slot in self._open:
                if slot.request is not None:
                    self._server.cancel(slot.request)
            # Slots point back at the stream: what they hold must not wait for the garbage collector.
            self._open.clear()
            self._order.clear()
            self._ready.clear()

    def _on_reader_done(self, reader: asyncio.Future[None]) -> None:
        if not reader.cancelled():
            # Looked at here, so that asyncio does not report it as lost when the writer failed first.
            reader.exception()
        self._wake.set()

    async def _read(self) -> None:
        while True:
            await self._room.acquire()
            message = await self._call.recv_message()
            if message is None:
                return
            self._submit(message)
            # While waiting for the next one, the tensors of this one belong to its request alone.
            del message

    def _submit(self, message: Any) -> None:
        received_ns = time.monotonic_ns()
        slot = Slot(self, request_id(message))
        self._open.add(slot)
        try:
            request = decode_request(message, received_ns, self._server.regions)
            slot.wants_empty_final = request.context is True
            slot.signature = self._server.signature(request.model_name, request.model_version)
            if not slot.signature.decoupled:
                self._order.append(slot)
            slot.request = request
            self._server.submit(request, slot)
        except Malformed:
            # What follows on the stream cannot be trusted either.
            raise
        except ServerError as error:
            slot.request = None
            if not self._order or self._order[-1] is not slot:
                self._order.append(slot)
            slot.answer = error
            self._advance()

    def on_response(self, slot: Slot, response: InferResponse) -> None:
        """From core, on the loop thread."""
        if slot.signature is not None and slot.signature.decoupled:
            self._ready.append((slot, response))
            self._wake.set()
        else:
            slot.answer = response
            self._advance()

    def _advance(self) -> None:
        while self._order and self._order[0].answer is not None:
            slot = self._order.popleft()
            assert slot.answer is not None
            self._ready.append((slot, slot.answer))
            slot.answer = None
        self._wake.set()

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            while self._ready:
                await self._send(*self._ready.popleft())
            if reader.done() and (not self._open or reader.exception() is not None):
                # A broken message or connection ends the stream; so does its end, once all is answered.
                reader.result()
                return
            self._wake.clear()
            await self._wake.wait()

    async def _send(self, slot: Slot, answer: InferResponse | ServerError) -> None:
        await self._send_message(slot, answer)
        if isinstance(answer, ServerError) or answer.final:
            self._open.discard(slot)
            self._room.release()

    async def _send_message(self, slot: Slot, answer: InferResponse | ServerError) -> None:
        error = answer if isinstance(answer, ServerError) else answer.error
        if error is None:
            assert isinstance(answer, InferResponse)
            assert slot.signature is not None
            empty = answer.final and slot.signature.decoupled and not answer.outputs
            if empty and not slot.wants_empty_final:
                return
            try:
                parts = encode_stream_response(answer, chosen_outputs(answer, slot.signature))
                await self._call.send_parts(parts)
                return
            except ServerError as failure:
                error = failure
        if self._ends_on_error:
            raise error
        if isinstance(answer, ServerError):
            message = encode_stream_refusal(error.message, slot.id)
        else:
            message = encode_stream_failure(error.message, answer)
        await self._call.send_parts([message])
