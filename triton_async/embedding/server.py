"""The server on the event loop of the program that it is in. See docs/in-process.md."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from triton_async.composition import composed, open_root, trace_recorder
from triton_async.config.affinity import ANYWHERE
from triton_async.config.settings import Settings
from triton_async.core.caches import open_cache
from triton_async.core.files import RenamedRoot, Root
from triton_async.core.host import Workers
from triton_async.core.server import InferenceServer
from triton_async.embedding.arguments import InferArguments
from triton_async.embedding.desk import Desk, ResponseQueue
from triton_async.embedding.options import handler, logged, settings_of
from triton_async.embedding.requests import make_request
from triton_async.embedding.results import Response
from triton_async.endpoints import Endpoint, Security, open_certificates, start_behind_models, start_endpoints
from triton_async.errors import (
    AlreadyExists,
    DecoupledModel,
    InternalError,
    InvalidArg,
    NotFound,
    ServerError,
    Unavailable,
    Unsupported,
)
from triton_async.frontends.gate import ApiKeys
from triton_async.frontends.renewal import Renewal
from triton_async.infer.request import InferRequest
from triton_async.infer.strings import has_many_strings
from triton_async.shutdown import drain, shut_down

_SERVICES = {"GRPCInferenceService": "grpc", "HTTPService": "http", "Metrics Service": "metrics"}


class _State(Enum):
    #   NEW --start--> STARTING --ready--> STARTED --stop--> STOPPED
    #                      +--------failed, cancelled---------^
    NEW = 0
    STARTING = 1
    STARTED = 2
    STOPPED = 3


class ResponseStream(AsyncIterator[Response]):
    """The responses to one request, to be read with `async for`, once, by one task.

    A response that is an error is raised; the stream may be read on behind it. An empty final response ends the
    iteration without being one of its items. Leaving early needs `aclose`, or `async with`: it cancels the request.
    """

    def __init__(self, server: Server, request: InferRequest) -> None:
        self._server = server
        self._request: InferRequest | None = request
        self._queue: ResponseQueue | None = None

    async def __anext__(self) -> Response:
        if self._queue is None:
            if self._request is None:
                raise StopAsyncIteration
            request, self._request = self._request, None
            queue = ResponseQueue(self._server.core)
            await self._server.look_at(request)
            queue.open(request)
            self._queue = queue
        response = await self._queue.next()
        if response is None or (response.final and response.error is None and not response.outputs):
            raise StopAsyncIteration
        if response.error is not None:
            raise response.error
        return Response(response)

    async def aclose(self) -> None:
        """Cancels what is left of the request. Idempotent."""
        self._request = None
        if self._queue is not None:
            self._queue.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Server:
    """An inference server on the running event loop, for programs that have one.

    `Server(model_repository="models", model_control_mode="explicit")` takes the options of the command line as keyword
    arguments; `Server(settings)` takes a parsed Settings. No port is opened unless an option names one. All methods
    are for the loop that started it. Errors are ServerErrors, with Triton's code in `code`. It starts and ends once;
    another one can be made then.
    """

    #: What hands in the requests of other threads.
    desk_type = Desk

    def __init__(self, settings: Settings | None = None, /, **options: Any) -> None:
        """InvalidArg for options that the command line would not take."""
        if settings is not None and options:
            raise InvalidArg("either a Settings object or options, not both")
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidArg(f"settings must be a Settings, not {type(settings).__name__}")
        self.settings = settings_of(options) if settings is None else settings
        if self.settings.frontend_processes > 1:
            raise InvalidArg("a server in a program has no front-end processes: leave frontend_processes out, or start "
                             "triton-async")
        if self.settings.cpu_affinity != ANYWHERE:
            raise InvalidArg("a server in a program leaves the program's threads where they are: leave cpu_affinity "
                             "out; host_policy says where instances run")
        #: Makes what lines of the log go to; None: to the program's own handlers.
        self.log_handler = handler
        self._state = _State.NEW
        self._stack = AsyncExitStack()
        self._endpoints: dict[str, Endpoint] = {}
        self._roots: dict[str, Root] = {}
        self._core: InferenceServer | None = None
        self._desk: Desk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the models and opens the ports that are asked for. ServerError, and nothing is left then."""
        if self._state is not _State.NEW:
            raise Unavailable("the server was started before: make another one")
        self._state = _State.STARTING
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
            self._state = _State.STARTED
        except OSError as error:
            raise InternalError(str(error)) from error
        finally:
            if self._state is not _State.STARTED:
                self._state = _State.STOPPED
                await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        stack.enter_context(logged(settings, self.log_handler(settings)))
        security = Security(
            open_certificates(settings), ApiKeys(settings.api_key_file) if settings.api_key_file else None
        )
        recorder = trace_recorder(settings)
        roots = self._roots
        for place in settings.model_repository:
            roots[place] = root = open_root(place)
            stack.callback(root.close)
        cache = await stack.enter_async_context(open_cache(settings, os.environ))
        made = await stack.enter_async_context(composed(settings, cache, recorder, roots))
        self._core = server = made.server
        self._desk = self.desk_type(server)
        stack.push_async_callback(self._stop, server, made.workers)
        early = settings.listen_while_loading and not (settings.reuse_http_port or settings.reuse_grpc_port)
        if early:
            await start_endpoints(settings, security, server, self._endpoints, loaded=False)
        if not await server.start() and settings.exit_on_error:
            raise InternalError(f"failed to load all models: {self._problems()}")
        if early:
            await start_behind_models(settings, security, server, self._endpoints)
        else:
            await start_endpoints(settings, security, server, self._endpoints)
        if security.renewable:
            renewal = Renewal(security.renewable)
            renewal.start()
            stack.callback(renewal.stop)

    def _problems(self) -> str:
        rows = self.core.repository.index(ready_only=False)
        return "; ".join(f"{row['name']}: {' '.join(row['reason'].split())}" for row in rows if row.get("reason"))

    async def _stop(self, server: InferenceServer, workers: Workers) -> None:
        if self._state is _State.STARTED:
            await drain(self.settings.drain_secs, server, self._endpoints.values())
        try:
            await shut_down(self.settings, server, self._endpoints.values())
        except TimeoutError:
            workers.abandoned = True
            server.repository.close_roots()
            raise InternalError("Exit timeout expired. Exiting immediately.") from None
        finally:
            self.desk.close()

    async def stop(self) -> None:
        """Lets requests in flight finish, at most for --exit-timeout-secs, and frees every model. InternalError when
        they do not. Idempotent.
        """
        if self._state is _State.STARTED:
            try:
                await self._stack.aclose()
            finally:
                self._state = _State.STOPPED

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def core(self) -> InferenceServer:
        """The server itself, for what this class does not offer. Unavailable before `start`."""
        if self._state is _State.STOPPED:
            raise Unavailable("Server exiting")
        if self._core is None:
            raise Unavailable("Server not ready")
        return self._core

    @property
    def desk(self) -> Desk:
        """Where other threads hand requests in. Unavailable before `start`."""
        if self._desk is None:
            raise Unavailable("Server not ready" if self._state is not _State.STOPPED else "Server exiting")
        return self._desk

    @property
    def ports(self) -> Mapping[str, int]:
        """Of the front-ends that are there: `http`, `grpc`, `metrics`."""
        return {_SERVICES[name]: endpoint.port for name, endpoint in self._endpoints.items() if name in _SERVICES}

    # -- inference ---------------------------------------------------------------------------------

    async def infer(self, model: str, inputs: Mapping[str, Any], **arguments: Unpack[InferArguments]) -> Response:
        """Runs a model and gives its one response.

        `inputs`: arrays by name, or what numpy makes arrays of; `(array, "BF16")` where numpy has no type. They are not
        copied, and must not change before this returns; behind a cancellation, before the server is stopped. Cancelling
        the task cancels the request. ServerError, with the code and the text of the front-ends; Unsupported for a
        decoupled model, which is asked by `stream`.
        """
        request = make_request(model, inputs, **arguments)
        check_one_response(self.core, request)
        await self.look_at(request)
        return Response(await self.core.infer(request))

    def stream(self, model: str, inputs: Mapping[str, Any], **arguments: Unpack[InferArguments]) -> ResponseStream:
        """Runs a model that may answer several times: the responses, to be read with `async for`. Arguments as `infer`
        takes them. The request is handed in with the first read; a sender is held back while many are unread.
        """
        return ResponseStream(self, make_request(model, inputs, **arguments))

    async def look_at(self, request: InferRequest) -> None:
        """Checks a request whose strings take long on another thread than the loop's. ServerError."""
        if has_many_strings(request):
            signature = self.core.signature(request.model_name, request.model_version)
            await asyncio.get_running_loop().run_in_executor(None, partial(signature.validate, request))

    # -- models ------------------------------------------------------------------------------------

    async def load(
        self, model: str, *, config: str | Mapping[str, Any] | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Loads or reloads a model, with Triton's parameters: `config` in JSON, or as a mapping, instead of the
        repository's, `files` by their path in the model's directory. ServerError. Needs --model-control-mode=explicit.
        """
        await self.core.load_model(model, load_parameters(config, files))

    async def unload(self, model: str, *, unload_dependents: bool = False) -> None:
        """Takes a model out of service. ServerError. Needs --model-control-mode=explicit."""
        await self.core.unload_model(model, unload_dependents)

    async def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """What is in the repositories: `name`, and `version`, `state`, `reason` where they are known."""
        return [dict(row) for row in await self.core.repository_index(ready_only)]

    async def register_repository(self, place: str, names: Mapping[str, str] | None = None) -> None:
        """Finds models in a further repository, those of `names` by these (folder -> name). ServerError. Needs
        --model-control-mode=explicit.
        """
        self._check_control()
        if place in self._roots:
            raise AlreadyExists(f"model repository '{place}' has already been registered")
        root = await asyncio.get_running_loop().run_in_executor(None, open_root, place)
        self._stack.callback(root.close)
        self._roots[place] = RenamedRoot(root, names) if names else root
        self.core.repository.look_in([*self._roots.values()])

    async def unregister_repository(self, place: str) -> None:
        """Finds none there any more; models that were loaded from it stay. NotFound."""
        self._check_control()
        if place not in self._roots:
            raise NotFound(f"model repository '{place}' was not registered")
        del self._roots[place]
        self.core.repository.look_in([*self._roots.values()])

    def _check_control(self) -> None:
        if self.settings.model_control_mode != "explicit":
            raise Unsupported("repository registration is not allowed if model control mode is not EXPLICIT")

    # -- questions ---------------------------------------------------------------------------------

    def live(self) -> bool:
        """Whether the server runs."""
        return self._answers(lambda core: core.live())

    async def ready(self, model: str = "", version: int = -1) -> bool:
        """Whether the server, or a version of a model, takes requests. False for one that is unknown."""
        try:
            return await (self.core.model_is_ready(model, version) if model else self.core.is_ready())
        except ServerError:
            return False

    def _answers(self, question: Any) -> bool:
        try:
            return bool(question(self.core))
        except ServerError:
            return False

    def metadata(self, model: str = "", version: int = -1) -> dict[str, Any]:
        """Of the server, or of a version of a model, in the form of the v2 protocol. ServerError."""
        return self.core.model_metadata(model, version) if model else self.core.metadata()

    def config(self, model: str, version: int = -1) -> dict[str, Any]:
        """The completed config of a version in Triton's JSON form. ServerError."""
        return self.core.model_config_json(model, version)

    async def statistics(self, model: str = "", version: int = -1) -> list[dict[str, Any]]:
        """Triton's statistics of the versions that are ready, of one model or of all. ServerError."""
        return self.core.statistics(model, version) if model else await self.core.all_statistics()

    async def metrics(self) -> str:
        """The page of metrics in Prometheus's text form."""
        return b"".join(await self.core.metrics_parts()).decode()


def check_one_response(core: InferenceServer, request: InferRequest) -> None:
    """DecoupledModel where more responses than one may come. ServerError of the lookup."""
    if core.signature(request.model_name, request.model_version).decoupled:
        raise DecoupledModel(
            f"model '{request.model_name}' is decoupled: it may answer several times, ask it with stream"
        )


def load_parameters(
    config: str | Mapping[str, Any] | None, files: Mapping[str, bytes] | None
) -> dict[str, str | bytes] | None:
    """Parameters of a load as the model-control protocols have them. InvalidArg."""
    if config is None and not files:
        return None
    import orjson

    found: dict[str, str | bytes] = {}
    if config is not None:
        found["config"] = config if isinstance(config, str) else orjson.dumps(config).decode()
    for path, data in (files or {}).items():
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArg(f"file '{path}' must be bytes, not {type(data).__name__}")
        found[f"file:{path}"] = bytes(data)
    return found
