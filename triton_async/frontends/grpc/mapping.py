"""Handlers of a service by path, built from its description, in the form of grpclib's `__mapping__`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grpclib.const import Cardinality, Handler

from triton_async import protos
from triton_async.frontends.grpc.call import Call

Answer = Callable[[Any], Any]
StreamHandler = Callable[[Call], Awaitable[None]]

_CARDINALITY = {(c.client_streaming, c.server_streaming): c for c in Cardinality}


def unary(answer: Answer) -> StreamHandler:
    """A handler from a function, or coroutine function, of request to reply."""

    async def handle(call: Call) -> None:
        reply = answer(await call.recv_message())
        await call.send_message(await reply if inspect.isawaitable(reply) else reply)

    return handle


def handlers(
    service: str, functions: Mapping[str, StreamHandler], raw: bool = False
) -> dict[str, Handler]:
    """`functions` by the name of their RPC. `raw`: requests are given as `bytes`. KeyError for unknown RPCs."""
    methods = protos.POOL.FindServiceByName(service).methods_by_name
    found = {}
    for name, function in functions.items():
        method = methods[name]
        found[f"/{service}/{name}"] = Handler(
            function,
            _CARDINALITY[method.client_streaming, method.server_streaming],
            bytes if raw else protos.message(method.input_type.full_name),
            protos.message(method.output_type.full_name),
        )
    return found
