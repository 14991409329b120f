"""The server in a replica's process: made on its event loop, asked without ports. Knows nothing of Ray.

The loop that runs `start` is the server's; all calls are made there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from triton_async.config.settings import Settings
from triton_async.core.server import InferenceServer
from triton_async.defines import GIL_SWITCH_S
from triton_async.embedding.server import Server
from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.grpc import server as grpc
from triton_async.frontends.grpc.calls_in_memory import InMemoryCalls
from triton_async.frontends.grpc.health import Health
from triton_async.frontends.http import server as http
from triton_async.frontends.http.asgi import AsgiApp
from triton_async.frontends.page import document
from triton_async.frontends.renewal import Renewal
from triton_async.ray.policy import BUSY, PENDING

log = logging.getLogger("triton_async.ray")


class ReplicaServer:
    """A server and its two front-ends. `http`: an ASGI application. `grpc`: calls by path."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = Server(settings)
        self._stack = AsyncExitStack()
        self._asked_ns = time.monotonic_ns()
        self._spent_ns: dict[tuple[str, int], int] = {}
        self.http: AsgiApp
        self.grpc: InMemoryCalls

    @property
    def server(self) -> InferenceServer:
        """What answers. Unavailable before `start` and behind `stop`."""
        return self._server.core

    async def start(self) -> None:
        """Loads the models. ServerError when that fails; nothing is left then."""
        settings = self._settings
        sys.setswitchinterval(GIL_SWITCH_S)
        keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
        await self._server.start()
        self._stack.push_async_callback(self._server.stop)
        listener = http.express_listener(
            self.server, max_input_nbytes=settings.http_max_input_size,
            gate=Gate(settings.http_restricted_api, keys, settings.api_key_exempt),
            forwarded=settings.http_header_forward_pattern,
            page=document.read() if settings.allow_page else None,
        )  # fmt: skip
        self._stack.push_async_callback(listener.close, settings.exit_timeout_secs)
        self.http = AsgiApp(listener)
        health = Health(self.server)
        self.grpc = InMemoryCalls(grpc.handlers(
            self.server, health, "none", settings.grpc_max_response_pool_size,
            gate=Gate(settings.grpc_restricted_protocol, keys, settings.api_key_exempt),
            forwarded=settings.grpc_header_forward_pattern,
        ))  # fmt: skip
        self._stack.push_async_callback(self._end_calls)
        self._stack.callback(health.close)
        if keys is not None:
            renewal = Renewal([keys])
            renewal.start()
            self._stack.callback(renewal.stop)

    async def _end_calls(self) -> None:
        try:
            async with asyncio.timeout(self._settings.exit_timeout_secs):
                await self.grpc.drain()
        except TimeoutError:
            log.warning("gRPC calls did not end within %d s", self._settings.exit_timeout_secs)

    async def stop(self) -> None:
        """Answers what is in work, at most for --exit-timeout-secs, and frees the models. Twice is as once."""
        await self._stack.aclose()

    def load(self) -> dict[str, float]:
        """Requests that wait, and the share of the time since the last call that the busiest model's instances ran."""
        now_ns = time.monotonic_ns()
        passed_ns = max(now_ns - self._asked_ns, 1)
        self._asked_ns = now_ns
        pending, busy = 0, 0.0
        spent_ns: dict[tuple[str, int], int] = {}
        for name, version, loaded in self.server.repository.ready_models():
            pending += loaded.model.pending
            key = name, version
            spent_ns[key] = sum(_busy_ns(entry) for entry in self.server.statistics(name, version))
            ran_ns = spent_ns[key] - self._spent_ns.get(key, spent_ns[key])
            instances = sum(not spec.passive for spec in loaded.model.config.instances())
            busy = max(busy, min(ran_ns / passed_ns / max(instances, 1), 1.0))
        self._spent_ns = spent_ns
        return {PENDING: float(pending), BUSY: busy}


def _busy_ns(entry: dict[str, Any]) -> int:
    """What the executions of a model have taken."""
    phases = ("compute_input", "compute_infer", "compute_output")
    return sum(int(batch[phase]["ns"]) for batch in entry["batch_stats"] for phase in phases)
