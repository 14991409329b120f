"""The gRPC front-end: listening socket, connections, start and stop. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from grpclib.const import Handler

from triton_async.config.access import Pattern
from triton_async.core.server import InferenceServer
from triton_async.defines import GRPC_BACKLOG, GRPC_GOAWAY_ROUND_TRIP_S, GRPC_MAX_STREAM_REQUESTS
from triton_async.frontends.entry import Fields, entry_of
from triton_async.frontends.gate import OPEN, Gate, Headers
from triton_async.frontends.grpc.compression import LEVELS
from triton_async.frontends.grpc.express.connection import connection
from triton_async.frontends.grpc.express.keepalive import PingOptions
from triton_async.frontends.grpc.express.session import Lane
from triton_async.frontends.grpc.guard import guarded
from triton_async.frontends.grpc.health import Health
from triton_async.frontends.grpc.infer import Inference, forwardable
from triton_async.frontends.grpc.reflection import Reflection
from triton_async.frontends.grpc.service import Service
from triton_async.frontends.sockets import ListeningSocket, listen
from triton_async.frontends.tls import ServerTls

# What a client agrees to in the TLS handshake, as C-core demands it.
ALPN = "h2"

log = logging.getLogger("triton_async.grpc")


def _headers_of(fields: Fields) -> tuple[Headers, Fields]:
    headers = dict(fields)
    return headers, forwardable(headers)


def handlers(
    server: InferenceServer,
    health: Health,
    response_compression: str,
    max_waiting: int,
    *,
    gate: Gate = OPEN,
    forwarded: Pattern | None = None,
) -> dict[str, Handler]:
    """What answers each RPC, by its path. The arguments are those of `start`."""
    return guarded({
        **Service(server).__mapping__(),
        **Inference(server, LEVELS[response_compression], max_waiting, forwarded).__mapping__(),
        **health.__mapping__(),
        **Reflection().__mapping__(),
    }, gate)  # fmt: skip


class GrpcEndpoint:
    """A started front-end. `close` once."""

    def __init__(
        self,
        server: InferenceServer,
        response_compression: str,
        pings: PingOptions,
        max_waiting: int,
        *,
        gate: Gate = OPEN,
        forwarded: Pattern | None = None,
    ) -> None:
        self._turn = server.turn
        self._health = Health(server)
        mapping = handlers(server, self._health, response_compression, max_waiting, gate=gate, forwarded=forwarded)
        entry = entry_of(gate, forwarded, _headers_of)
        compresses = LEVELS[response_compression] > 0
        self.lane = lane = Lane(server, asyncio.get_running_loop(), mapping, pings, compresses, entry)
        lane.max_waiting = max_waiting
        self._connections: set[Any] = lane.connections
        self._accept: Callable[[], Any] = lambda: connection(lane)
        self._listener: ListeningSocket
        self.address = ""
        self.port = 0

    async def listen(self, address: str, port: int, reuse_port: bool, tls: ServerTls | None) -> None:
        self._listener = listen(
            self._accept,
            self._turn,
            address,
            port,
            backlog=GRPC_BACKLOG,
            reuse_port=reuse_port,
            tls=tls,
            required_alpn=ALPN,
        )
        self.address, self.port = self._listener.address, self._listener.port

    @property
    def connected(self) -> bool:
        """Whether any client is."""
        return bool(self._connections)

    def leave(self) -> None:
        """Has clients go elsewhere (GOAWAY). What they ask until they know is still answered, and so are others."""
        for client in list(self._connections):
            client.shut_down(GRPC_GOAWAY_ROUND_TRIP_S)

    async def stop_accepting(self) -> None:
        await self._listener.retire()

    async def close(self, deadline_s: float) -> None:
        """Finishes the calls in flight, at most until the deadline, and closes every connection."""
        self._listener.close()
        self._health.close()
        connections = list(self._connections)
        if connections:
            draining = [asyncio.ensure_future(c.drain(min(GRPC_GOAWAY_ROUND_TRIP_S, deadline_s))) for c in connections]
            done, late = await asyncio.wait(draining, timeout=deadline_s)
            for task in late:
                task.cancel()
            for task in done:
                if (error := task.exception()) is not None:
                    log.error("a connection did not end in order", exc_info=error)
        for client in list(self._connections):
            client.abort()
        for client in connections:
            await client.wait_idle()


async def start(
    server: InferenceServer,
    *,
    address: str,
    port: int,
    reuse_port: bool = False,
    response_compression: str = "none",
    pings: PingOptions,
    max_waiting: int = GRPC_MAX_STREAM_REQUESTS,
    tls: ServerTls | None = None,
    gate: Gate = OPEN,
    forwarded: Pattern | None = None,
) -> GrpcEndpoint:
    """Serves gRPC on the running loop. `port` 0: any free one. `pings`: keep-alive and age of connections.
    `max_waiting`: answers of one stream that may wait for the client before who sends more for a request is held back.
    `gate`: what is asked of calls. `forwarded`: names of metadata that become parameters of inference requests.

    OSError when the port is taken.
    """
    endpoint = GrpcEndpoint(server, response_compression, pings, max_waiting, gate=gate, forwarded=forwarded)
    await endpoint.listen(address, port, reuse_port, tls)
    return endpoint
