"""grpc.health.v1: Check and Watch of the server's readiness. The `service` field is ignored, as Triton does."""

from __future__ import annotations

import asyncio
from typing import Any

from grpclib.const import Handler

from triton_async import protos
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.frontends.grpc.call import Call
from triton_async.frontends.grpc.mapping import handlers, unary

_RESPONSE = protos.message("grpc.health.v1.HealthCheckResponse")
_SERVING = 1
_NOT_SERVING = 2


class Health:
    """One for the front-end. Watching clients share one task that waits for changes."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server
        self._changed = asyncio.Event()
        self._closed = False
        self._listener: asyncio.Task[None] | None = None

    def __mapping__(self) -> dict[str, Handler]:
        return handlers("grpc.health.v1.Health", {"Check": unary(self._check), "Watch": self._watch})

    def close(self) -> None:
        """Ends every Watch, after its last change."""
        self._closed = True
        self._changed.set()
        if self._listener is not None:
            self._listener.cancel()

    async def _check(self, _: Any) -> Any:
        try:
            ready = await self._server.is_ready()
        except ServerError:
            ready = False
        return _RESPONSE(status=_SERVING if ready else _NOT_SERVING)

    def _status(self) -> int:
        try:
            return _SERVING if self._server.ready() else _NOT_SERVING
        except ServerError:
            return _NOT_SERVING

    async def _watch(self, call: Call) -> None:
        await call.recv_message()
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._listen())
        sent = None
        while True:
            # A change during the send shows as an event that is no longer the current one.
            changed = self._changed
            status = self._status()
            if status != sent:
                await call.send_message(_RESPONSE(status=status))
                sent = status
            if self._closed:
                return
            await changed.wait()

    async def _listen(self) -> None:
        while not self._closed:
            await self._server.readiness_change()
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
