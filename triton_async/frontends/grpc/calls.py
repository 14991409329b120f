"""The calls of one connection that service handlers answer, each a task of its own. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from triton_async.errors import ServerError
from triton_async.frontends.grpc.call import Call, CallStream, StreamGone, finish
from triton_async.frontends.grpc.status import status_of
from triton_async.logs import access, with_id

log = logging.getLogger("triton_async.grpc")


class Calls:
    """Of one connection. `mapping`: handlers by path."""

    def __init__(self, mapping: Mapping[str, Handler]) -> None:
        self._mapping = mapping
        self._tasks: dict[CallStream, asyncio.Task[None]] = {}
        self._calls: dict[CallStream, Call] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def accept(self, stream: CallStream, headers: Sequence[tuple[str, str]]) -> None:
        """A new one."""
        self.idle.clear()
        task = asyncio.get_running_loop().create_task(self._serve(stream, dict(headers)))
        self._tasks[stream] = task

        def forget(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("gRPC call failed", exc_info=error)
            self._tasks.pop(stream, None)
            self._calls.pop(stream, None)
            if not self._tasks:
                self.idle.set()

        task.add_done_callback(forget)

    def cancel(self, stream: CallStream) -> None:
        """The stream is closed: the client has reset it, or the connection is gone, if the call is not done."""
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def drain(self) -> None:
        """Ends the calls in which the client could go on sending."""
        for call in self._calls.values():
            call.drain()

    async def _serve(self, stream: CallStream, headers: dict[str, str]) -> None:
        try:
            if headers.get(":method") != "POST":
                await _refuse(stream, "405")
                return
            if not headers.get("content-type", "").startswith("application/grpc"):
                await _refuse(stream, "415")
                return
            handler = self._mapping.get(headers.get(":path", ""))
            if handler is None:
                await finish(stream, Status.UNIMPLEMENTED, f"unknown method '{headers.get(':path', '')[:200]}'")
                return
            try:
                call = Call(stream, handler, headers)
            except GRPCError as error:
                await finish(stream, error.status, error.message)
                return
            self._calls[stream] = call
            began_ns = time.monotonic_ns()
            code, message = await _handle(call, handler)
            if code is not Status.OK and log.isEnabledFor(logging.DEBUG):
                text = with_id(call.request_id, message or "")
                log.debug("%s failed with %s: %s", headers[":path"][:200], code.name, text)
            await call.finish(code, message)
            if access.on:
                peer, what, sent = stream.peer(), f"{headers[':path']} {call.model}".rstrip(), call.sent_nbytes
                access.note(peer, what, code.name, sent, began_ns, request_id=call.request_id)
        except StreamGone:
            log.debug("the client has closed its stream", exc_info=True)


async def _handle(call: Call, handler: Handler) -> tuple[Status, str | None]:
    """Runs the service handler; the status the call ends with."""
    try:
        if not call.end_by_ns:
            await handler.func(call)
        elif not await _before(call.end_by_ns, handler.func(call)):
            return Status.DEADLINE_EXCEEDED, "Deadline Exceeded"
    except ServerError as error:
        return status_of(error), error.message
    except GRPCError as error:
        return error.status, error.message
    except StreamGone:
        raise
    except Exception:
        log.exception("gRPC handler failed")
        return Status.INTERNAL, "Internal server error"
    return (Status.UNAVAILABLE, "Server exiting") if call.drained else (Status.OK, None)


async def _before(end_by_ns: int, handling: Coroutine[Any, Any, None]) -> bool:
    """Whether `handling` came to its end in time; it is cancelled when not.

    asyncio.timeout would do, but its exceptions refer to each other and to the frames of the call: every call that
    runs out of time would keep its tensors until the next garbage collection.
    """
    left_s = 1e-9 * (end_by_ns - time.monotonic_ns())
    if left_s <= 0:
        handling.close()
        return False
    task = asyncio.current_task()
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(left_s, expire)
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


async def _refuse(stream: CallStream, http_status: str) -> None:
    """An answer in HTTP to what is no gRPC call."""
    await stream.send_headers([(":status", http_status)], end_stream=True)
