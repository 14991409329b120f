"""Request bodies: read whole, into one buffer of the announced size where there is one, within a limit."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web

from triton_async.defines import HTTP_BODY_TIMEOUT_S, HTTP_MAX_BODY_NBYTES, HTTP_MAX_CHUNKS
from triton_async.frontends.http.replies import RequestProblem

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MANY_CHUNKS = (
    f"Chunked request body exceeds maximum of {HTTP_MAX_CHUNKS} non-empty chunks. "
    "Send fewer or larger HTTP chunks."
)


def _too_big(nbytes: str, limit: int) -> RequestProblem:
    return RequestProblem(400, f"request body of {nbytes} bytes exceeds the maximum allowed value of {limit} bytes")


async def read_body(request: web.BaseRequest, limit: int) -> bytes | bytearray:
    """The whole body. RequestProblem when it has more than `limit` bytes, comes too slowly or is broken."""
    limit = min(limit, HTTP_MAX_BODY_NBYTES)
    length = request.content_length
    if length is not None and length > limit:
        raise _too_big(str(length), limit)
    await _expectation(request)
    content = request.content
    if not request.can_read_body:
        return b""
    try:
        if length is None:
            return await _read_chunks(content, limit)
        if content.is_eof():
            return content.read_nowait(-1)
        return await _read_known(content, length)
    except TimeoutError:
        raise RequestProblem(408, "timed out waiting for the request body") from None
    except web.RequestPayloadError:
        raise RequestProblem(400, "malformed request body") from None


async def _expectation(request: web.BaseRequest) -> None:
    expect = request.headers.get("Expect")
    if expect is None or request.version < (1, 1):
        return
    if expect.lower() != "100-continue":
        raise RequestProblem(417, "Expectation Failed")
    if not request.content.is_eof():
        await request.writer.write(_CONTINUE)
        # aiohttp takes bytes already written for a started response.
        request.writer.output_size = 0


async def _read_known(content: StreamReader, length: int) -> bytearray:
    # Zeroed memory of this size costs nothing before it is written to, so an announced length that never
    # comes takes address space only.
    body = bytearray(length)
    view = memoryview(body)
    at = 0
    while at < length:
        async with asyncio.timeout(HTTP_BODY_TIMEOUT_S):
            piece = await content.readany()
        if not piece:
            raise RequestProblem(400, "malformed request body")
        view[at : at + len(piece)] = piece
        at += len(piece)
    return body


async def _read_chunks(content: StreamReader, limit: int) -> bytearray:
    # One growing buffer: a list of pieces would cost forty times the body when it comes byte by byte.
    body = bytearray()
    chunks = 0
    in_chunk = False
    while not content.at_eof():
        async with asyncio.timeout(HTTP_BODY_TIMEOUT_S):
            piece, chunk_ended = await content.readchunk()
        if piece:
            in_chunk = True
            body += piece
        if chunk_ended and in_chunk:
            chunks += 1
            in_chunk = False
        if chunks > HTTP_MAX_CHUNKS:
            raise RequestProblem(400, _MANY_CHUNKS)
        if len(body) > limit:
            raise _too_big(f"more than {limit}", limit)
    return body
