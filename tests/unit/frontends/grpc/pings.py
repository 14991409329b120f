"""Keep-alive options as the server has them by default, with changes."""

from __future__ import annotations

from dataclasses import replace

from triton_async import endpoints
from triton_async.config.settings import Settings
from triton_async.frontends.grpc.express.keepalive import PingOptions


def ping_options(**changes: int | bool) -> PingOptions:
    """In the words of PingOptions."""
    return replace(endpoints.ping_options(Settings()), **changes)  # type: ignore[arg-type]
