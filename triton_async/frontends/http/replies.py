"""Responses as aiohttp sends them. Header names and values that never change are built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from triton_async.defines import HTTP_JOIN_NBYTES, RETRY_AFTER_S
from triton_async.errors import ServerError
from triton_async.frontends.gate import NEEDS_KEY, Gate, Refusal
from triton_async.frontends.http.status import http_status
from triton_async.protocol.http_control import error_body

if TYPE_CHECKING:
    from triton_async.infer.tensor import Tensor

# What a client waits for that sends its body only when it is welcome (RFC 9110 10.1.1).
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# (HTTP status, message) where the reason stands in the log alone.
FAILED = (500, "internal error, see the log of the server")



def _key(name: str, kind: type) -> Any:
    # Older releases of aiohttp have plain keys.
    return web.RequestKey(name, kind) if hasattr(web, "RequestKey") else name


# Where a request keeps the id of the inference request in it, and how many bytes of a stream were its answer, for logs.
REQUEST_ID = _key("request id", str)
STREAMED_NBYTES = _key("bytes of the stream", int)

_SERVER = {"Server": "triton-async"}
_JSON = {**_SERVER, "Content-Type": "application/json"}
_BUSY = {**_JSON, "Retry-After": str(RETRY_AFTER_S)}
_EVENTS = {**_SERVER, "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class RequestProblem(Exception):
    """A request that is wrong below the level of inference. The connection is closed behind the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def empty(status: int = 200) -> web.Response:
    """Response without a body."""
    return web.Response(status=status, headers=_SERVER)


def as_json(body: bytes, status: int = 200) -> web.Response:
    """Response with a JSON body."""
    return web.Response(status=status, body=body, headers=_JSON)


def events(status: int) -> web.StreamResponse:
    """The head of a stream of server-sent events."""
    return web.StreamResponse(status=status, headers=_EVENTS)


def text(body: bytes, content_type: str) -> web.Response:
    """200 with a body of another type."""
    return web.Response(body=body, headers={**_SERVER, "Content-Type": content_type})


def stream(content_type: str, nbytes: int) -> web.StreamResponse:
    """The head of 200 with a body of `nbytes` that is written bit by bit."""
    response = web.StreamResponse(headers={**_SERVER, "Content-Type": content_type})
    response.content_length = nbytes
    return response


def document(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """200 with a body and all its headers."""
    return web.Response(body=body, headers={**_SERVER, **headers})


def error(status: int, message: str) -> web.Response:
    """`{"error":"<message>"}`."""
    headers = _BUSY if status == 503 else _JSON
    return web.Response(status=status, body=error_body(message), headers=headers)


def server_error(problem: ServerError) -> web.Response:
    """The same for an error with a code."""
    return error(http_status(problem.code), problem.message)


def refused(refusal: Refusal, gate: Gate, category: str) -> web.Response:
    """What a client hears that may not call this."""
    if refusal is Refusal.NO_KEY:
        response = error(401, NEEDS_KEY)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    return error(403, f"This API is restricted, expecting header '{gate.header_of(category)}'")


async def write_pieces(response: web.StreamResponse, pieces: list[Any]) -> None:
    """Writes them one by one as the client reads, and lets go of each; the list is empty then."""
    pieces.reverse()
    while pieces:
        await response.write(memoryview(pieces.pop()))


async def _written(
    request: web.BaseRequest, headers: Mapping[str, str], pieces: list[Any]
) -> web.StreamResponse:
    total = sum(map(len, pieces))
    if total <= HTTP_JOIN_NBYTES:
        return web.Response(body=b"".join(pieces), headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = total
    await response.prepare(request)
    await write_pieces(response, pieces)
    return response


async def long_json(request: web.BaseRequest, pieces: list[bytes], more: Mapping[str, str]) -> web.StreamResponse:
    """200 with a JSON body of any length. `more`: headers."""
    return await _written(request, {**_JSON, **more}, pieces)


async def packed(
    request: web.BaseRequest, body: bytes, described: Mapping[str, str], coding: str
) -> web.StreamResponse:
    """An inference response that was compressed. `described`: its headers, Content-Type first."""
    others = dict(described)
    headers = {**_SERVER, "Content-Type": others.pop("Content-Type"), "Content-Encoding": coding, **others}
    return await _written(request, headers, [body])


async def tensors(
    request: web.BaseRequest,
    head: bytes,
    parts: Sequence[bytes | Tensor],
    described: Mapping[str, str],
) -> web.StreamResponse:
    """An inference response. Large ones are written part by part from where the tensors lie. `described`: headers."""
    return await _written(request, {**_SERVER, **described}, [head, *parts])
