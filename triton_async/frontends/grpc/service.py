"""inference.GRPCInferenceService without the two inference RPCs: health, metadata, statistics, model control."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from grpclib.const import Handler

from triton_async import protos
from triton_async.core.server import InferenceServer
from triton_async.defines import STATISTICS_PER_TURN
from triton_async.errors import ServerError
from triton_async.frontends.grpc.mapping import Answer, handlers, unary
from triton_async.protocol import grpc_control
from triton_async.protocol.version import parse_version

SERVICE = "inference.GRPCInferenceService"


def _reply(rpc: str, **fields: Any) -> Any:
    return protos.message(f"inference.{rpc}Response")(**fields)


class Service:
    """Answers by asking the server; every answer is one function of request to reply."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server

    def __mapping__(self) -> dict[str, Handler]:
        answers: dict[str, Answer] = {
            "ServerLive": lambda _: _reply("ServerLive", live=self._live()),
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda _: grpc_control.server_metadata(self._server.metadata()),
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._system_region_status,
            "SystemSharedMemoryRegister": self._register_system_region,
            "SystemSharedMemoryUnregister": self._unregister_system_regions,
            "CudaSharedMemoryStatus": self._cuda_region_status,
            "CudaSharedMemoryRegister": self._register_cuda_region,
            "CudaSharedMemoryUnregister": self._unregister_cuda_regions,
            "TraceSetting": self._trace_setting,
            "LogSettings": self._log_settings,
        }
        return handlers(SERVICE, {rpc: unary(answer) for rpc, answer in answers.items()})

    def _live(self) -> bool:
        return self._server.live()

    async def _ready(self, _: Any) -> Any:
        return _reply("ServerReady", ready=await self._server.is_ready())

    async def _model_ready(self, request: Any) -> Any:
        version = parse_version(request.version)
        try:
            ready = await self._server.model_is_ready(request.name, version)
        except ServerError:
            # Clients that wait for a model ask before it is known.
            ready = False
        return _reply("ModelReady", ready=ready)

    def _model_metadata(self, request: Any) -> Any:
        version = parse_version(request.version)
        return grpc_control.model_metadata(self._server.model_metadata(request.name, version))

    def _model_config(self, request: Any) -> Any:
        version = parse_version(request.version)
        return grpc_control.model_config(self._server.model_config(request.name, version))

    async def _model_statistics(self, request: Any) -> Any:
        version = parse_version(request.version)
        if request.name:
            return grpc_control.statistics(await self._server.model_statistics(request.name, version))
        message = grpc_control.statistics(())
        for index, entry in enumerate(await self._server.all_statistics(), 1):
            grpc_control.add_statistics(message, entry)
            if index % STATISTICS_PER_TURN == 0:
                await asyncio.sleep(0)
        return message

    async def _repository_index(self, request: Any) -> Any:
        grpc_control.check_repository(request)
        return grpc_control.repository_index(await self._server.repository_index(request.ready))

    async def _load(self, request: Any) -> Any:
        grpc_control.check_repository(request)
        parameters = grpc_control.load_parameters(request)
        await _to_the_end(self._server.load_model(request.model_name, parameters))
        return _reply("RepositoryModelLoad")

    async def _unload(self, request: Any) -> Any:
        grpc_control.check_repository(request)
        dependents = grpc_control.unload_dependents(request)
        await _to_the_end(self._server.unload_model(request.model_name, dependents))
        return _reply("RepositoryModelUnload")

    async def _trace_setting(self, request: Any) -> Any:
        if request.settings:
            changes = grpc_control.trace_changes(request)
            return grpc_control.trace_settings(await self._server.set_trace_settings(request.model_name, changes))
        return grpc_control.trace_settings(await self._server.ask_trace_settings(request.model_name))

    async def _log_settings(self, request: Any) -> Any:
        changes = grpc_control.log_changes(request)
        return grpc_control.log_settings(await self._server.change_log_settings(changes))

    async def _system_region_status(self, request: Any) -> Any:
        return grpc_control.system_regions(await self._server.ask_regions("system", request.name))

    async def _register_system_region(self, request: Any) -> Any:
        await self._server.register_system_region(request.name, request.key, request.offset, request.byte_size)
        return _reply("SystemSharedMemoryRegister")

    async def _unregister_system_regions(self, request: Any) -> Any:
        await self._server.unregister_regions("system", request.name)
        return _reply("SystemSharedMemoryUnregister")

    async def _cuda_region_status(self, request: Any) -> Any:
        return grpc_control.cuda_regions(await self._server.ask_regions("cuda", request.name))

    async def _register_cuda_region(self, request: Any) -> Any:
        await self._server.register_cuda_region(
            request.name, request.raw_handle, request.device_id, request.byte_size
        )
        return _reply("CudaSharedMemoryRegister")

    async def _unregister_cuda_regions(self, request: Any) -> Any:
        await self._server.unregister_regions("cuda", request.name)
        return _reply("CudaSharedMemoryUnregister")


async def _to_the_end(change: Coroutine[Any, Any, None]) -> None:
    """A client that goes away or gives up does not stop a load half-way."""
    task = asyncio.ensure_future(change)
    # Nobody may be left to hear of a failure; the repository index has the reason.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(task)


