"""The v2 HTTP front-end: the route table with its handlers, and the entry point `start`. Event-loop thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from triton_async.config.access import Pattern
from triton_async.core.server import InferenceServer
from triton_async.defines import CONTROL_MAX_NBYTES, HTTP_MAX_RECEIVING_NBYTES
from triton_async.errors import InvalidArg, ServerError, Unsupported
from triton_async.frontends.entry import entry_of
from triton_async.frontends.gate import OPEN, Gate
from triton_async.frontends.http import replies, routes
from triton_async.frontends.http.body import CONTROL_BODY, JSON_BODY, Receiving, read_body
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.framing import TRITON, Framing
from triton_async.frontends.http.generate import generate
from triton_async.frontends.http.infer import infer
from triton_async.frontends.http.listener import Listener
from triton_async.frontends.http.routes import Route, RouteTable
from triton_async.frontends.page.document import Page
from triton_async.frontends.tls import ServerTls
from triton_async.protocol import http_control as control
from triton_async.protocol import openapi
from triton_async.protocol.head_fields import headers_of
from triton_async.protocol.http_codec import is_long_json
from triton_async.protocol.version import parse_version

_TAKES_JSON = re.compile(r"(?:^|[,\s])(?:application/json|application/\*|\*/\*)(?:[;,\s]|$)", re.IGNORECASE)

# What is offered in the TLS handshake.
ALPN = "http/1.1"

Handler = Callable[..., Awaitable[web.StreamResponse]]


class HttpService:
    """Handlers of the v2 calls. The arguments behind `request` are the groups of the route's pattern."""

    def __init__(
        self,
        server: InferenceServer,
        max_input_nbytes: int,
        gate: Gate = OPEN,
        forwarded: Pattern | None = None,
        page: Page | None = None,
    ) -> None:
        """`forwarded`: names of headers that become parameters of inference requests. `page`: what `/` shows."""
        self._server = server
        self._gate = gate
        self._forwarded = forwarded
        self._page = page
        self._max_input_nbytes = max_input_nbytes
        self.receiving = Receiving(min(HTTP_MAX_RECEIVING_NBYTES, server.share_nbytes))
        # Nothing in it changes while the server lives.
        self._metadata = control.dumps(server.metadata())
        self.routes: RouteTable[Handler] = RouteTable(self._rows())
        rows = [(route.pattern, route.method, route.category) for route in self.routes.routes]
        needs_key = frozenset(category for _, _, category in rows if gate.keys and category not in gate.exempt)
        metadata = server.metadata()
        self._document = control.dumps(openapi.document(rows, metadata["name"], metadata["version"], needs_key))

    def _rows(self) -> list[Route[Handler]]:
        return [
            Route(routes.INFER, "POST", "inference", self.infer),
            Route(routes.LIVE, "GET", "health", self._live),
            Route(routes.READY, "GET", "health", self._ready),
            Route(routes.SERVER, "GET", "metadata", self._server_metadata),
            Route(routes.OPENAPI, "GET", "metadata", self._openapi),
            Route(routes.ALL_STATISTICS, "GET", "statistics", self._all_statistics),
            Route(routes.MODEL, "GET", "metadata", self._model_metadata),
            Route(routes.MODEL_READY, "GET", "health", self._model_ready),
            Route(routes.MODEL_CONFIG, "GET", "model-config", self._model_config),
            Route(routes.MODEL_STATISTICS, "GET", "statistics", self._model_statistics),
            Route(routes.INDEX, "POST", "model-repository", self._index),
            Route(routes.LOAD, "POST", "model-repository", self._load),
            Route(routes.UNLOAD, "POST", "model-repository", self._unload),
            Route(routes.GENERATE, "POST", "inference", self.generate),
            Route(routes.TRACE, "GET", "trace", self._trace),
            Route(routes.TRACE, "POST", "trace", self._change_trace),
            Route(routes.MODEL_TRACE, "GET", "trace", self._trace),
            Route(routes.MODEL_TRACE, "POST", "trace", self._change_trace),
            Route(routes.LOGGING, "GET", "logging", self._log_settings),
            Route(routes.LOGGING, "POST", "logging", self._change_log_settings),
            Route(routes.REGION_STATUS, "GET", "shared-memory", self._region_status),
            Route(routes.REGION_REGISTER, "POST", "shared-memory", self._region_register),
            Route(routes.REGION_UNREGISTER, "POST", "shared-memory", self._region_unregister),
        ]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Routes one request."""
        path = routes.path_of(request.raw_path)
        found = self.routes.find(path)
        if found is None:
            if path == "/" and self._page is not None:
                return self._show_page(request, self._page)
            return replies.error(404, "Not Found")
        return await call_handler(found, self._gate, request)

    def _show_page(self, request: web.BaseRequest, page: Page) -> web.Response:
        """For everybody, as it tells nothing: what it shows it asks for by calls, with what its reader has to show."""
        if request.method not in ("GET", "HEAD"):
            return replies.error(405, "Method Not Allowed")
        return replies.document(page.body, page.headers)

    async def infer(
        self, request: web.BaseRequest, model: str, version: str | None, framing: Framing = TRITON
    ) -> web.StreamResponse:
        """Runs a model, asked in the v2 protocol's form."""
        return await infer(
            self._server, request, model, version, self._max_input_nbytes, receiving=self.receiving,
            forwarded=self._forwarded, framing=framing,
        )  # fmt: skip

    async def generate(
        self, request: web.BaseRequest, model: str, version: str | None, call: str | None
    ) -> web.StreamResponse:
        """Runs a model, asked in the form of the generate extension. `call`: generate or generate_stream."""
        return await generate(
            self._server, request, model, version, self._max_input_nbytes, streaming=call == "generate_stream",
            receiving=self.receiving, forwarded=self._forwarded,
        )  # fmt: skip

    async def body(self, request: web.BaseRequest) -> bytes | bytearray:
        """That of a control call."""
        limit = min(self._max_input_nbytes, CONTROL_MAX_NBYTES)
        what = CONTROL_BODY if limit < self._max_input_nbytes else JSON_BODY
        return await read_body(request, limit, self.receiving, what)

    # Of a load, which may bring files.
    async def _load_parameters(self, request: web.BaseRequest) -> dict[str, str | bytes]:
        body = await read_body(request, self._max_input_nbytes, self.receiving, JSON_BODY)
        if is_long_json(len(body)):
            return await asyncio.to_thread(control.parse_load, body)
        return control.parse_load(body)

    async def _live(self, request: web.BaseRequest) -> web.Response:
        return health(request, "live", self._server.live())

    async def _ready(self, request: web.BaseRequest) -> web.Response:
        return health(request, "ready", await self._server.is_ready())

    async def _openapi(self, request: web.BaseRequest) -> web.Response:
        return replies.as_json(self._document)

    async def _server_metadata(self, request: web.BaseRequest) -> web.Response:
        return replies.as_json(self._metadata)

    async def _model_metadata(self, request: web.BaseRequest, model: str, version: str | None) -> web.Response:
        return replies.as_json(control.dumps(self._server.model_metadata(model, parse_version(version))))

    async def _model_ready(self, request: web.BaseRequest, model: str, version: str | None) -> web.Response:
        number = parse_version(version)
        try:
            ready = await self._server.model_is_ready(model, number)
        except ServerError:
            # Triton says the same of a model that it does not know.
            ready = False
        return replies.empty() if ready else replies.error(400, "Model version not ready")

    async def _model_config(self, request: web.BaseRequest, model: str, version: str | None) -> web.Response:
        return replies.as_json(control.dumps(self._server.model_config_json(model, parse_version(version))))

    async def _all_statistics(self, request: web.BaseRequest) -> web.Response:
        return replies.as_json(control.statistics_body(await self._server.all_statistics()))

    async def _model_statistics(
        self, request: web.BaseRequest, model: str, version: str | None
    ) -> web.Response:
        entries = await self._server.model_statistics(model, parse_version(version))
        return replies.as_json(control.statistics_body(entries))

    async def _index(self, request: web.BaseRequest, repository: str | None) -> web.Response:
        ready_only = control.parse_index(await self.body(request))
        return replies.as_json(control.dumps(await self._server.repository_index(ready_only)))

    async def _load(self, request: web.BaseRequest, repository: str | None, model: str) -> web.Response:
        _refuse_repository(repository)
        parameters = await self._load_parameters(request)
        await self._server.load_model(model, parameters or None)
        return replies.empty()

    async def _unload(self, request: web.BaseRequest, repository: str | None, model: str) -> web.Response:
        _refuse_repository(repository)
        unload_dependents = control.parse_unload(await self.body(request))
        await self._server.unload_model(model, unload_dependents)
        return replies.empty()

    async def _trace(self, request: web.BaseRequest, model: str = "") -> web.Response:
        return replies.as_json(control.dumps(await self._server.ask_trace_settings(model)))

    async def _change_trace(self, request: web.BaseRequest, model: str = "") -> web.Response:
        await self._server.ask_trace_settings(model)
        changes = control.parse_trace_settings(await self.body(request))
        return replies.as_json(control.dumps(await self._server.set_trace_settings(model, changes)))

    async def _log_settings(self, request: web.BaseRequest) -> web.Response:
        return replies.as_json(control.dumps(await self._server.log_settings()))

    async def _change_log_settings(self, request: web.BaseRequest) -> web.Response:
        changes = control.parse_log_settings(await self.body(request))
        return replies.as_json(control.dumps(await self._server.change_log_settings(changes)))

    async def _region_status(self, request: web.BaseRequest, kind: str, region: str | None) -> web.Response:
        return replies.as_json(control.dumps(await self._server.ask_regions(kind, region or "")))

    async def _region_register(self, request: web.BaseRequest, kind: str, region: str | None) -> web.Response:
        self._server.regions.check_allowed()
        if region is None:
            raise InvalidArg(f"'region name' is necessary to register {kind} shared memory region")
        body = await self.body(request)
        if kind == "cuda":
            await self._server.register_cuda_region(region, *control.parse_cuda_region(body))
        else:
            await self._server.register_system_region(region, *control.parse_system_region(body))
        return replies.empty()

    async def _region_unregister(self, request: web.BaseRequest, kind: str, region: str | None) -> web.Response:
        await self._server.unregister_regions(kind, region or "")
        return replies.empty()


def health(request: web.BaseRequest, what: str, good: bool) -> web.Response:
    """Triton answers without a body; KServe's clients, which say what they take, read one."""
    status = 200 if good else 400
    accepted = ",".join(request.headers.getall("Accept", []))
    if not _TAKES_JSON.search(accepted):
        return replies.empty(status)
    return replies.as_json(control.dumps({what: good}), status)


def _refuse_repository(repository: str | None) -> None:
    if repository is not None:
        raise Unsupported("'repository_name' specification is not supported")


def express_listener(
    server: InferenceServer,
    *,
    max_input_nbytes: int,
    gate: Gate = OPEN,
    forwarded: Pattern | None = None,
    page: Page | None = None,
) -> ExpressListener:
    """What accepts connections, without a port. The arguments are those of `start`."""
    service = HttpService(server, max_input_nbytes, gate, forwarded, page)
    entry = entry_of(gate, forwarded, headers_of)
    return ExpressListener(service.handle, server, max_input_nbytes, service.receiving, entry=entry)


async def start(
    server: InferenceServer,
    *,
    address: str,
    port: int,
    reuse_port: bool = False,
    max_input_nbytes: int,
    tls: ServerTls | None = None,
    express: bool = True,
    gate: Gate = OPEN,
    forwarded: Pattern | None = None,
    page: Page | None = None,
) -> Listener:
    """Serves `server` over HTTP until the returned listener is closed. OSError when the port is taken.

    `tls`: HTTPS. `express`: plain infer requests take the express lane; answers are the same without it. `gate`: what
    is asked of calls. `forwarded`: names of headers that become parameters of inference requests. `page`: what `/`
    shows; None for 404.
    """
    listener: Listener
    if express:
        listener = express_listener(
            server, max_input_nbytes=max_input_nbytes, gate=gate, forwarded=forwarded, page=page
        )
    else:
        listener = Listener(HttpService(server, max_input_nbytes, gate, forwarded, page).handle)
    await listener.start(address, port, reuse_port, tls)
    return listener


async def call_handler(found: routes.Found[Handler], gate: Gate, request: web.BaseRequest) -> web.StreamResponse:
    """What the handler of a route answers; the gate is asked first, whatever method the request has."""
    refusal = gate.refusal(found.category, request.headers)
    if refusal is not None:
        return replies.refused(refusal, gate, found.category)
    handler = found.handlers.get(request.method)
    if handler is None:
        return replies.error(405, "Method Not Allowed")
    return await handler(request, *found.arguments)
