"""A listener whose connections begin in the express lane. Event-loop thread."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web

from triton_async.core.server import InferenceServer
from triton_async.frontends.entry import Entry
from triton_async.frontends.http.body import Receiving
from triton_async.frontends.http.connection import Connection
from triton_async.frontends.http.deadlines import check
from triton_async.frontends.http.hub import Hub
from triton_async.frontends.http.listener import Handler, Listener
from triton_async.frontends.http.relay import Relay

# Seconds between the looks at the connections' clocks.
_TICK_S = 1.0

_log = logging.getLogger("triton_async.http")


class ExpressListener(Listener):
    """Plain infer requests are answered by the connection itself, all others by `handler` through aiohttp.

    `receiving`: the account of incomplete bodies that `handler` uses too. `infers`: False leaves all to `handler`.
    `max_connections`: further ones are closed. `entry`: what is asked of infer requests.
    """

    def __init__(
        self,
        handler: Handler,
        server: InferenceServer,
        max_input_nbytes: int,
        receiving: Receiving | None = None,
        *,
        infers: bool = True,
        max_connections: int = 1 << 30,
        entry: Entry | None = None,
    ) -> None:
        super().__init__(handler, server.turn)
        self.receiving = receiving or Receiving()
        self._loop = asyncio.get_running_loop()
        self._drained = asyncio.Event()
        self._hub = Hub(
            server, server.pool, max_input_nbytes, self._loop, self._make_relay, check, self._drained.set,
            self.receiving, infers, max_connections, entry,
        )  # fmt: skip
        self._factory = self.accept
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    @property
    def hub(self) -> Hub:
        """What its connections share."""
        return self._hub

    def accept(self) -> Any:
        """The protocol of an accepted connection."""
        return Connection(self._hub)

    def _make_relay(self, connection: Connection, transport: asyncio.Transport) -> Relay:
        return Relay(connection, transport, self._server)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._hub.tick()

    @property
    def connected(self) -> bool:
        """Whether any client is."""
        return bool(self._hub.connections)

    def leave(self) -> None:
        """Has clients go elsewhere: from now on every answer says that its connection closes."""
        super().leave()
        self._hub.leave()

    async def stop_accepting(self) -> None:
        """Closes the port and every connection that has no request in work."""
        self.leave()
        if self._socket is not None:
            await self._socket.retire()
        self._hub.stop()
        await super().stop_accepting()

    async def close(self, deadline_s: float) -> None:
        """Lets requests in work end within the deadline, then cancels what is left and closes everything."""
        end = self._loop.time() + deadline_s
        await self.stop_accepting()
        if deadline_s > 0:
            try:
                async with asyncio.timeout_at(end):
                    await self._until_drained()
            except TimeoutError:
                _log.warning("%d HTTP connections did not end within %g s", len(self._hub.connections), deadline_s)
        self._timer.cancel()
        await super().close(max(end - self._loop.time(), 0.0))
        self._hub.abort()
        await self._until_drained()

    async def _until_drained(self) -> None:
        """Waits until no connection is left; none can come after `stop_accepting`."""
        self._drained.clear()
        if self._hub.connections:
            await self._drained.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        relay = request.transport
        if not isinstance(relay, Relay):
            raise ConnectionResetError("the client is gone")
        relay.started()
        response = await super()._handle(request)
        # aiohttp would do the same behind this call, and nobody could tell when it is done.
        await response.prepare(request)
        await response.write_eof()
        relay.answered(request, response)
        return response
