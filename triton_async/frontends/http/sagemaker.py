"""SageMaker's calls: /ping, /invocations, and those of endpoints with many models. Event-loop thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from aiohttp import web

from triton_async.config.clouds import SageMaker
from triton_async.core.server import InferenceServer
from triton_async.errors import AlreadyExists, InvalidArg, ServerError
from triton_async.frontends.gate import Gate
from triton_async.frontends.http import replies
from triton_async.frontends.http.framing import Framing
from triton_async.frontends.http.routes import Route, RouteTable, path_of
from triton_async.frontends.http.server import Handler, HttpService, call_handler, health
from triton_async.protocol import http_control as control

FRAMING = Framing("application/vnd.sagemaker-triton.binary+json;json-header-size=")
TARGET = "X-Amzn-SageMaker-Target-Model"

_NO_MEMORY = 507
# What engines say when they have none. SageMaker then takes other models away, and asks again.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|out_of_memory|outofmemory|no memory|memoryerror|\boom\b|tensor is not initialized|"
    r"cudnn_status_not_initialized|cublas_status_(?:alloc_failed|not_initialized)|failed to allocate memory|"
    r"no space left on device", re.IGNORECASE,
)  # fmt: skip


class Archives(Protocol):
    """Models in folders of their own."""

    async def load(self, name: str, folder: str) -> None:
        """ServerError; AlreadyExists for a name that is taken."""

    async def unload(self, name: str) -> None:
        """Returns when it is freed."""


class SageMakerService:
    """Handlers of the calls. Models that come by request have two names: SageMaker's own, by which it asks for them,
    and that of the file that the customer named, which they have in the server where it can be a name.
    """

    def __init__(
        self, server: InferenceServer, service: HttpService, config: SageMaker, archives: Archives, gate: Gate
    ) -> None:
        self._server = server
        self._service = service
        self._config = config
        self._archives = archives
        self._gate = gate
        # SageMaker's name -> (name in the server, url).
        self._models: dict[str, tuple[str, str]] = {}
        # Names of those on their way, and what has to end whether its client waits for it or not.
        self._coming: set[str] = set()
        self._running: set[asyncio.Task[web.Response]] = set()
        self._table: RouteTable[Handler] = RouteTable([
            Route("/ping", "GET", "health", self._ping),
            Route("/invocations", "POST", "inference", self._invocations),
            Route("/models/?", "GET", "model-repository", self._list),
            Route("/models/?", "POST", "model-repository", self._load),
            Route("/models/([^/]+)", "GET", "model-repository", self._get),
            Route("/models/([^/]+)", "DELETE", "model-repository", self._unload),
            Route("/models/([^/]+)/invoke", "POST", "inference", self._invoke),
        ])  # fmt: skip

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Routes one request."""
        found = self._table.find(path_of(request.raw_path))
        if found is None:
            # Triton's answer here.
            return replies.error(400, "Bad Request")
        return await call_handler(found, self._gate, request)

    async def _ping(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._config.ping_live:
            return health(request, "live", self._server.live())
        return health(request, "ready", await self._server.is_ready())

    async def _invocations(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._config.default_model:
            raise InvalidArg("no model to invoke: SAGEMAKER_TRITON_DEFAULT_MODEL_NAME is not set")
        if self._config.inference_type == "infer":
            return await self._service.infer(request, self._config.default_model, None, FRAMING)
        return await self._service.generate(
            request, self._config.default_model, None, self._config.inference_type
        )

    # -- many models -------------------------------------------------------------------------------

    async def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        ready = [_shown(name, url) for name, (model, url) in self._models.items() if self._server.serves(model)]
        return replies.as_json(control.dumps({"models": ready}))

    async def _get(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self._models:
            return _unknown(name)
        return replies.as_json(control.dumps(_shown(name, self._models[name][1])))

    async def _load(self, request: web.BaseRequest) -> web.StreamResponse:
        name, url = control.parse_archive(await self._service.body(request))
        if name in self._models or name in self._coming:
            return replies.error(409, f"there is a model '{name[:200]}' already")
        # What the customer calls it, where that can be the name of a model: it may be the path of a file.
        target = request.headers.get(TARGET, name)
        model = name if "/" in target or target.startswith(".") else target
        self._coming.add(name)
        return await self._to_its_end(_answered(self._bring(name, model, url)))

    async def _bring(self, name: str, model: str, url: str) -> None:
        try:
            await self._archives.load(model, url)
            self._models[name] = model, url
        finally:
            self._coming.discard(name)

    async def _unload(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self._models:
            return _unknown(name)
        model, _ = self._models.pop(name)
        return await self._to_its_end(_answered(self._archives.unload(model)))

    async def _to_its_end(self, work: Coroutine[Any, Any, web.Response]) -> web.Response:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _invoke(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self._models:
            return _unknown(name)
        try:
            return await self._service.infer(request, self._models[name][0], None, FRAMING)
        except ServerError as problem:
            if _OUT_OF_MEMORY.search(problem.message):
                return replies.error(_NO_MEMORY, problem.message)
            raise


def _shown(name: str, url: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": url}


def _unknown(name: str) -> web.Response:
    return replies.error(404, f"model '{name[:200]}' is not loaded")


async def _answered(call: Awaitable[None]) -> web.Response:
    """Of a load or an unload, by SageMaker's status codes."""
    try:
        await call
    except AlreadyExists as problem:
        return replies.error(409, problem.message)
    except ServerError as problem:
        return replies.error(_NO_MEMORY if _OUT_OF_MEMORY.search(problem.message) else 400, problem.message)
    return replies.empty()
