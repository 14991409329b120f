"""grpc.health.v1: Check and Watch of the server's readiness. The `service` field is ignored, as Triton does."""

from __future__ import annotations

import asyncio
from typing import Any

from grpclib.const import Handler

from triton_async import protos
from triton_async.core.server import InferenceServer
from triton_async.defines import GRPC_WATCH_S
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
        self._status = _NOT_SERVING
        self._closed = False
        self._listener: asyncio.Task[None] | None = None

    def __mapping__(self) -> dict[str, Handler]:
        return handlers("grpc.health.v1.Health", {"Check": unary(self._check), "Watch": self._watch})

    def close(self) -> None:
        """Ends every Watch, after its last change."""
        self._closed = True
        self._status = _NOT_SERVING
        self._changed.set()
        if self._listener is not None:
            self._listener.cancel()

    async def _check(self, _: Any) -> Any:
        return _RESPONSE(status=await self._ask())

    async def _ask(self) -> int:
        try:
            return _SERVING if await self._server.is_ready() else _NOT_SERVING
        except ServerError:
            return _NOT_SERVING

    async def _watch(self, call: Call) -> None:
        await call.recv_message()
        if self._listener is None:
            self._status = await self._ask()
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._listen())
        sent = None
        while True:
            # A change during the send shows as an event that is no longer the current one.
            changed = self._changed
            status = self._status
            if status != sent:
                await call.send_message(_RESPONSE(status=status))
                sent = status
            if self._closed:
                return
            await changed.wait()

    # Models that say themselves whether they are ready do not say when that changes: they are asked now and then.
    async def _listen(self) -> None:
        change = asyncio.ensure_future(self._server.readiness_change())
        try:
            while not self._closed:
                await asyncio.sleep(0)  # until it listens for the next change, or one would be missed while it asks
                status = await self._ask()
                if status != self._status:
                    self._status = status
                    changed, self._changed = self._changed, asyncio.Event()
                    changed.set()
                await asyncio.wait([change], timeout=GRPC_WATCH_S if self._server.asks_models() else None)
                if change.done():
                    change = asyncio.ensure_future(self._server.readiness_change())
        finally:
            change.cancel()
