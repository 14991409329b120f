"""The metrics port: GET /metrics in Prometheus' text form, under the rules of the HTTP port. Event-loop thread."""

from __future__ import annotations

from aiohttp import web

from triton_async.config.access import METRICS
from triton_async.core.server import InferenceServer
from triton_async.defines import CONTROL_MAX_NBYTES, METRICS_MAX_CONNECTIONS
from triton_async.frontends.gate import OPEN, Gate
from triton_async.frontends.http import replies
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.listener import Listener
from triton_async.frontends.http.routes import path_of

_TEXT = "text/plain; charset=utf-8"


class MetricsService:
    """Answers scrapes. Any other path gives an empty page, as Triton's."""

    def __init__(self, server: InferenceServer, gate: Gate = OPEN) -> None:
        self._server = server
        self._gate = gate

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One scrape."""
        refusal = self._gate.refusal(METRICS, request.headers)
        if refusal is not None:
            return replies.refused(refusal, self._gate, METRICS)
        if request.method != "GET":
            return replies.error(405, "Method Not Allowed")
        found = path_of(request.raw_path) in ("/metrics", "/metrics/")
        return await page(request, self._server) if found else replies.text(b"", _TEXT)


async def page(request: web.BaseRequest, server: InferenceServer) -> web.StreamResponse:
    """The metrics of `server`. Sent part by part: those of a thousand models are megabytes."""
    parts = await server.metrics_parts()
    if len(parts) == 1:
        return replies.text(parts[0], _TEXT)
    response = replies.stream(_TEXT, sum(map(len, parts)))
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response


async def start(
    server: InferenceServer, *, address: str, port: int, reuse_port: bool = False, gate: Gate = OPEN
) -> Listener:
    """Serves the metrics of `server` until the returned listener is closed. OSError when the port is taken."""
    listener = ExpressListener(
        MetricsService(server, gate).handle, server, CONTROL_MAX_NBYTES, infers=False,
        max_connections=METRICS_MAX_CONNECTIONS,
    )  # fmt: skip
    await listener.start(address, port, reuse_port)
    return listener
