"""Vertex AI's two routes, and what lies behind them by a header. Event-loop thread."""

from __future__ import annotations

from aiohttp import web

from triton_async.config.access import METRICS
from triton_async.config.clouds import VertexAi
from triton_async.core.server import InferenceServer
from triton_async.frontends import metrics
from triton_async.frontends.gate import Gate
from triton_async.frontends.http import replies, routes
from triton_async.frontends.http.framing import Framing
from triton_async.frontends.http.routes import Route, RouteTable, path_of
from triton_async.frontends.http.server import Handler, HttpService, health

FRAMING = Framing("application/vnd.vertex-ai-triton.binary+json;json-header-size=", both_ways=False)
REDIRECT = "X-Vertex-Ai-Triton-Redirect"

# Of the v2 calls those that read, and inference. Whoever may ask for predictions may not change the server.
_OPEN = frozenset({
    routes.LIVE, routes.READY, routes.SERVER, routes.ALL_STATISTICS, routes.MODEL, routes.MODEL_READY,
    routes.MODEL_CONFIG, routes.MODEL_STATISTICS, routes.INDEX, routes.REGION_STATUS,
})  # fmt: skip


class VertexAiService:
    """`default`: the model that the predict route asks where no header says otherwise."""

    def __init__(
        self, server: InferenceServer, service: HttpService, config: VertexAi, default: str, gate: Gate
    ) -> None:
        self._server = server
        self._service = service
        self._config = config
        self._default = default
        self._gate = gate
        rows = service.routes.routes
        self._open: RouteTable[Handler] = RouteTable([
            Route(routes.INFER, "POST", "inference", self._infer), *(row for row in rows if row.pattern in _OPEN),
        ])  # fmt: skip
        self._closed: RouteTable[Handler] = RouteTable(row for row in rows if row.pattern not in _OPEN)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Routes one request."""
        path = path_of(request.raw_path)
        if path == self._config.health_route:
            if request.method != "GET":
                return replies.error(405, "Method Not Allowed")
            return self._refused("health", request) or health(request, "ready", await self._server.is_ready())
        if path != self._config.predict_route:
            # Triton's answer here.
            return replies.error(400, "Bad Request")
        if request.method != "POST":
            return replies.error(405, "Method Not Allowed")
        target = request.headers.get(REDIRECT)
        if target is None:
            return self._refused("inference", request) or await self._infer(request, self._default, None)
        return await self._redirected(request, f"/{target}")

    async def _redirected(self, request: web.BaseRequest, target: str) -> web.StreamResponse:
        """The call that the header names, under that call's own rules."""
        if target == "/metrics":
            return self._refused(METRICS, request) or await metrics.page(request, self._server)
        found = self._open.find(target)
        if found is None:
            closed = self._closed.find(target)
            if closed is not None:
                return replies.error(403, f"'{target[:200]}' is not to be had through Vertex AI")
            return replies.error(400, "Bad Request")
        # Each of them has one method.
        (handler,) = found.handlers.values()
        return self._refused(found.category, request) or await handler(request, *found.arguments)

    def _refused(self, category: str, request: web.BaseRequest) -> web.Response | None:
        refusal = self._gate.refusal(category, request.headers)
        return None if refusal is None else replies.refused(refusal, self._gate, category)

    async def _infer(self, request: web.BaseRequest, model: str, version: str | None) -> web.StreamResponse:
        return await self._service.infer(request, model, version, FRAMING)
