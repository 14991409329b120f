"""The model process's part in --frontend-processes: ports that are kept, memory that is shared, and who watches over
the front-ends."""

from __future__ import annotations

import logging
import os
import socket

from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.config.settings import Settings
from triton_async.core.families import Family
from triton_async.core.server import InferenceServer
from triton_async.defines import SLAB_CACHE_NBYTES
from triton_async.endpoints import not_listening, say_started
from triton_async.frontends import sockets
from triton_async.memory.slab import SlabPool
from triton_async.processes.defines import INLINE_NBYTES, RESPONSE_MEMORY_NBYTES
from triton_async.processes.news import News
from triton_async.processes.supervisor import FrontEnds

log = logging.getLogger("triton_async.app")

# Variables that options are completed by, beside those that are options.
_VARIABLES = ("AIP_", "SAGEMAKER_")


class Fronts:
    """Of a server with several front-ends. OSError when a port, or memory, is not to be had."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reserved: list[socket.socket] = []
        self._services: list[tuple[str, str, int]] = []
        self._ports: dict[str, int] = {}
        for allowed, name, service, address, port in (
            (settings.allow_grpc, "GRPC", "GRPCInferenceService", settings.grpc_address, settings.grpc_port),
            (settings.allow_http, "HTTP", "HTTPService", settings.http_address, settings.http_port),
        ):
            if not allowed:
                continue
            try:
                kept = sockets.reserve(address, port)
            except OSError as error:
                raise not_listening(error, name, address, port) from None
            self._reserved += kept
            number = kept[0].getsockname()[1]
            self._services.append((service, kept[0].getsockname()[0], number))
            self._ports[f"{name.lower()}_port"] = number
        self.responses = SharedMemory(RESPONSE_MEMORY_NBYTES, True, kept=True)
        self._front_ends: FrontEnds | None = None

    @property
    def front_ends(self) -> FrontEnds:
        """Who watches over them; behind `attach`."""
        assert self._front_ends is not None
        return self._front_ends

    def pool(self) -> SlabPool:
        """Host memory of the models: what is large enough for it to matter lies where front-ends see it."""
        ordinary = SlabPool(SLAB_CACHE_NBYTES)
        return SlabPool(0, self.responses.arena, ordinary, INLINE_NBYTES + 1)

    def attach(self, server: InferenceServer) -> None:
        """Has them answer for `server`, once they are started."""
        environ = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        # In a front-end these would be read under other conditions than here.
        settled = (f"--frontend-processes={self._settings.frontend_processes}", "--cpu-affinity=none")
        start = {
            "arguments": [*self._settings.arguments, *settled], "environ": environ, "ports": self._ports,
            "cores": list(self._settings.cpu_affinity.front_ends),
        }  # fmt: skip
        _, address, port = self._services[-1]
        self._front_ends = FrontEnds(
            server, self.responses, self._settings.frontend_processes, start, News(server), shown=(address, port)
        )
        self._front_ends.prepare()

    async def start(self) -> None:
        """Returns when they listen. OSError."""
        await self.front_ends.start()
        for service, address, port in self._services:
            say_started(service, address, port)
        log.info("%d front-end processes share the ports", self._settings.frontend_processes)

    def families(self) -> list[Family]:
        """What is known of them, for the metrics."""
        return [] if self._front_ends is None else self._front_ends.families()
