"""The deployment class of Ray Serve, and the applications that are made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

try:
    import grpc
    from ray import serve
except ImportError as error:
    raise ImportError("triton_async.ray needs Ray Serve: pip install 'triton-async[ray]'") from error

from triton_async import protos
from triton_async.frontends.grpc.calls_in_memory import CallFailed
from triton_async.frontends.http.asgi import Receive, Scope, Send, path_of
from triton_async.protocol.grpc_codec import requested_model
from triton_async.ray.on_demand import Lent, ModelsOnDemand, model_of_path
from triton_async.ray.options import DeploymentProblem, Value, settings_of
from triton_async.ray.replica_server import ReplicaServer
from triton_async.ray.servicers import INFERENCE, SERVICES, Rpc

#: Of the deployment, where none is given.
NAME = "TritonAsync"
# Ray's own is 5: batches are made of requests that are there at once.
_MAX_ONGOING_REQUESTS = 256
_POLICY = "triton_async.ray:QueuePolicy"
# Fields of requests that name a model.
_NAMING = {
    f"/{INFERENCE}/{rpc}": protos.message(f"inference.{rpc}Request")
    for rpc in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
}
_INFER = f"/{INFERENCE}/ModelInfer"


class _Message:
    """Bytes for Ray, which serialises what a method returns."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:
        return self._data


@serve.ingress()
class Replica:
    """One server. Ray calls all methods on one event loop, which is the server's."""

    async def __init__(  # type: ignore[misc]
        self, repository: str | Sequence[str], models: Sequence[str], models_per_replica: int,
        options: Mapping[str, Value],
    ) -> None:  # fmt: skip
        settings = settings_of(repository, models, models_per_replica > 0, options)
        self._server = ReplicaServer(settings)
        await self._server.start()
        self._models: ModelsOnDemand | None = None
        if models_per_replica:
            self._models = on_demand = ModelsOnDemand(self._server.server)

            async def load(name: str) -> Lent:
                return await on_demand.load(name)

            # Ray tells its proxies which models are here, and calls the least recently used one's __del__.
            self._keeper = serve.multiplexed(max_num_models_per_replica=models_per_replica)(load)
            on_demand.keeper = self._keeper

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        if self._models is None:
            return self._server.http
        models, http = self._models, self._server.http

        async def loading(scope: Scope, receive: Receive, send: Send) -> None:
            name = model_of_path(path_of(scope).decode("latin-1")) if scope["type"] == "http" else ""
            async with models.using(name):
                await http(scope, receive, send)

        return loading

    def check_health(self) -> None:
        """Ray replaces a replica whose server is not live."""
        if not self._server.server.live():
            raise RuntimeError("the server is not live")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `QueuePolicy` goes by."""
        return self._server.load()

    async def __del__(self) -> None:
        """Ray has waited for what was in flight before."""
        if hasattr(self, "_server"):
            await self._server.stop()

    async def call(self, path: str, request: bytes, context: Any) -> _Message:
        """A call with one message each way."""
        try:
            if self._models is None:
                return _Message(await self._server.grpc.unary(path, request, _metadata(context), context.peer()))
            async with self._models.using(_model_of(path, request)):
                return _Message(await self._server.grpc.unary(path, request, _metadata(context), context.peer()))
        except CallFailed as failed:
            # Raised, Ray would log it twice with its trace.
            _fail(context, failed)
            return _Message(b"")

    async def stream(self, path: str, requests: AsyncIterator[bytes] | bytes, context: Any) -> AsyncIterator[_Message]:
        """A call with any number of messages back."""
        async with AsyncExitStack() as stack:
            given = requests if isinstance(requests, bytes) else self._lending(path, requests, stack)
            try:
                async for data in self._server.grpc.stream(path, given, _metadata(context), context.peer()):
                    yield _Message(data)
            except CallFailed as failed:
                _fail(context, failed)
                raise

    async def _lending(
        self, path: str, requests: AsyncIterator[bytes], stack: AsyncExitStack
    ) -> AsyncIterator[bytes]:
        held: set[str] = set()
        async for request in requests:
            name = requested_model(request) if self._models is not None else ""
            if name and name not in held and self._models is not None:
                held.add(name)
                await stack.enter_async_context(self._models.using(name))
            yield request


def _metadata(context: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in context.invocation_metadata() if isinstance(value, str)]


def _fail(context: Any, failed: CallFailed) -> None:
    context.set_code(grpc.StatusCode[failed.status.name])
    context.set_details(failed.message)


def _model_of(path: str, request: bytes) -> str:
    """The model that a request names; empty for none, and for what is no request: the server says so."""
    if path == _INFER:
        return requested_model(request)
    kind = _NAMING.get(path)
    if kind is None:
        return ""
    try:
        return str(kind.FromString(request).name)
    except ValueError:
        return ""


def _method(rpc: Rpc) -> Callable[..., Any]:
    """What Ray calls for an RPC: the name of its last argument tells it to give its context."""
    if rpc.server_streams:

        async def stream(self: Any, request: Any, grpc_context: Any) -> AsyncIterator[_Message]:
            async for answer in self.stream(rpc.path, request, grpc_context):
                yield answer

        return stream

    async def call(self: Any, request: bytes, grpc_context: Any) -> _Message:
        found: _Message = await self.call(rpc.path, request, grpc_context)
        return found

    return call


for _rpc in (rpc for rpcs in SERVICES.values() for rpc in rpcs):
    _made = _method(_rpc)
    _made.__name__ = _rpc.name
    setattr(Replica, _rpc.name, _made)


def deployment(
    *,
    repository: str | Sequence[str],
    model: str | Sequence[str] = (),
    models_per_replica: int = 0,
    options: Mapping[str, Value] | None = None,
    name: str = NAME,
    **ray_options: Any,
) -> Any:
    """An application of Ray Serve, for `serve.run`, whose replicas are servers of a model repository.

    `repository`: directories or places in object storage, the same for all nodes. `model`: names of those to serve; all
    by default. `models_per_replica`: more than 0: models are loaded when they are asked for, and of more than so many
    the least recently used leaves; not together with `model`. `options`: those of the command `triton-async`, by name,
    but for what Ray does itself. `ray_options`: those of a Ray deployment: `num_replicas`, `autoscaling_config`,
    `ray_actor_options`, …, and `max_ongoing_requests`, which is 256 here. `autoscaling_config` goes by `QueuePolicy`
    unless it has a `policy`.

    DeploymentProblem (a ValueError) when these cannot be together.
    """
    models = [model] if isinstance(model, str) else list(model)
    if models_per_replica < 0:
        raise DeploymentProblem(f"models_per_replica: a number of models, or 0, is necessary, not {models_per_replica}")
    if models and models_per_replica:
        raise DeploymentProblem("model: with models_per_replica none is loaded before it is asked for; give one")
    settings_of(repository, models, models_per_replica > 0, options or {})
    scaling = ray_options.get("autoscaling_config")
    if isinstance(scaling, Mapping):
        ray_options["autoscaling_config"] = {"policy": {"policy_function": _POLICY}, **scaling}
    ray_options.setdefault("max_ongoing_requests", _MAX_ONGOING_REQUESTS)
    places = repository if isinstance(repository, str) else list(repository)
    made = serve.deployment(Replica, name=name, **ray_options)
    return made.bind(places, models, models_per_replica, dict(options or {}))


def app(args: Mapping[str, Any]) -> Any:
    """For `import_path` of a config file of Ray Serve: `args` are the arguments of `deployment`. DeploymentProblem."""
    try:
        return deployment(**args)
    except TypeError as error:
        raise DeploymentProblem(f"args: {error}") from None
