"""What may be called: every RPC has a category, and asks the gate for it before its handler runs."""

from __future__ import annotations

from collections.abc import Mapping

from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from triton_async.errors import Unavailable
from triton_async.frontends.gate import NEEDS_KEY, Gate, Refusal, check_categories
from triton_async.frontends.grpc.call import Call
from triton_async.frontends.grpc.mapping import StreamHandler

_OF_RPC = {
    "ServerLive": "health", "ServerReady": "health", "ModelReady": "health",
    "ServerMetadata": "metadata", "ModelMetadata": "metadata",
    "ModelInfer": "inference", "ModelStreamInfer": "inference",
    "ModelConfig": "model-config", "ModelStatistics": "statistics",
    "RepositoryIndex": "model-repository", "RepositoryModelLoad": "model-repository",
    "RepositoryModelUnload": "model-repository",
    "SystemSharedMemoryStatus": "shared-memory", "SystemSharedMemoryRegister": "shared-memory",
    "SystemSharedMemoryUnregister": "shared-memory", "CudaSharedMemoryStatus": "shared-memory",
    "CudaSharedMemoryRegister": "shared-memory", "CudaSharedMemoryUnregister": "shared-memory",
    "TraceSetting": "trace", "LogSettings": "logging",
    # Of grpc.health.v1 and grpc.reflection.
    "Check": "health", "Watch": "health", "ServerReflectionInfo": "metadata",
}  # fmt: skip


def category_of(path: str) -> str | None:
    """Of the RPC at `/<service>/<name>`; None when nobody has thought of it."""
    return _OF_RPC.get(path.rpartition("/")[2])


def guarded(mapping: Mapping[str, Handler], gate: Gate) -> dict[str, Handler]:
    """Handlers by path that ask the gate first. ValueError for an RPC without a category, whatever the gate."""
    categories = {path: category_of(path) for path in mapping}
    check_categories(categories)
    found: dict[str, Handler] = {}
    for path, handler in mapping.items():
        category = categories[path]
        assert category is not None
        asks = gate.guards((category,))
        found[path] = handler._replace(func=_asking(handler.func, gate, category)) if asks else handler
    return found


def _asking(function: StreamHandler, gate: Gate, category: str) -> StreamHandler:
    async def ask(call: Call) -> None:
        refusal = gate.refusal(category, call.metadata)
        if refusal is Refusal.NO_KEY:
            raise GRPCError(Status.UNAUTHENTICATED, NEEDS_KEY)
        if refusal is not None:
            raise Unavailable(f"This protocol is restricted, expecting header '{gate.header_of(category)}'")
        await function(call)

    return ask
