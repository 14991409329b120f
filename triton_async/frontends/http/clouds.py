"""The ports of SageMaker and Vertex AI, on the v2 front-end's handlers. Event-loop thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from triton_async.config.clouds import SageMaker, VertexAi
from triton_async.core.server import InferenceServer
from triton_async.errors import InvalidArg
from triton_async.frontends.gate import Gate
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.listener import Listener
from triton_async.frontends.http.sagemaker import Archives, SageMakerService
from triton_async.frontends.http.server import HttpService
from triton_async.frontends.http.vertex_ai import VertexAiService

ADDRESS = "0.0.0.0"


async def start_sagemaker(
    server: InferenceServer, config: SageMaker, archives: Archives, *, max_input_nbytes: int, gate: Gate
) -> Listener:
    """Serves SageMaker's calls until the returned listener is closed. OSError when the port is taken."""
    service = HttpService(server, max_input_nbytes, gate)
    return await _start(server, SageMakerService(server, service, config, archives, gate).handle, service,
                        max_input_nbytes, config.port)  # fmt: skip


async def start_vertex_ai(
    server: InferenceServer, config: VertexAi, *, max_input_nbytes: int, gate: Gate
) -> Listener:
    """The same for Vertex AI. InvalidArg when it is not clear which model is the default one, or that is not there."""
    service = HttpService(server, max_input_nbytes, gate)
    default = await _default_model(server, config.default_model)
    handler = VertexAiService(server, service, config, default, gate).handle
    return await _start(server, handler, service, max_input_nbytes, config.port)


async def _start(
    server: InferenceServer,
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    service: HttpService,
    max_input_nbytes: int,
    port: int,
) -> Listener:
    listener = ExpressListener(handler, server, max_input_nbytes, service.receiving, infers=False)
    await listener.start(ADDRESS, port)
    return listener


async def _default_model(server: InferenceServer, name: str) -> str:
    ready = {row["name"] for row in await server.repository_index(ready_only=True)}
    if not name:
        if len(ready) != 1:
            raise InvalidArg(
                "Expect the model repository contains only a single model if default model is not specified"
            )
        return ready.pop()
    if name not in ready:
        raise InvalidArg(f"Expect the default model '{name}' is loaded")
    return name
