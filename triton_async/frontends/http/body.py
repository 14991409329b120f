"""Request bodies: read whole, into one buffer of the announced size where there is one, within a limit."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web

from triton_async.defines import (
    HTTP_BODY_MIN_NBYTES_PER_S,
    HTTP_BODY_TIMEOUT_S,
    HTTP_MAX_BODY_NBYTES,
    HTTP_MAX_CHUNKS,
    HTTP_MAX_RECEIVING_NBYTES,
)
from triton_async.frontends.http.replies import CONTINUE, RequestProblem

MALFORMED = "malformed request body"
MANY_CHUNKS = (
    f"Chunked request body exceeds maximum of {HTTP_MAX_CHUNKS} non-empty chunks. "
    "Send fewer or larger HTTP chunks."
)


JSON_BODY = "request JSON"
# That of a call that needs less than the option allows.
CONTROL_BODY = "control call's request JSON"


def too_big(nbytes: str, limit: int, what: str = "") -> str:
    """What is said of a body of more than `limit` bytes. `what`: what it is, where it can be only that."""
    if what == CONTROL_BODY:
        return f"{what} of {nbytes} bytes exceeds the maximum of {limit} bytes"
    if what:
        return (
            f"{what} size of {nbytes} bytes exceeds the maximum allowed input size of {limit} bytes. "
            "Use --http-max-input-size to increase the limit."
        )
    return f"request body of {nbytes} bytes exceeds the maximum allowed value of {limit} bytes"


class Receiving:
    """The bytes received of all bodies that are not complete."""

    def __init__(self, limit: int = HTTP_MAX_RECEIVING_NBYTES) -> None:
        self.nbytes = 0
        self.limit = limit

    def note(self, change: int) -> bool:
        """A body has grown, or is complete or given up. False when there are too many bytes to go on with it."""
        self.nbytes += change
        return self.nbytes <= self.limit


class _Pieces:
    """Watches one body come. To be left when it is complete or given up."""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving
        self._loop = asyncio.get_running_loop()
        self._nbytes = 0
        self._looked_s = self._loop.time()
        self._looked_nbytes = 0

    def __enter__(self) -> _Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self._receiving.note(-self._nbytes)

    def came(self, nbytes: int) -> None:
        """Another piece. TimeoutError when they come too slowly, RequestProblem when others hold too much."""
        self._nbytes += nbytes
        if not self._receiving.note(nbytes):
            raise RequestProblem(503, "too many request bodies are being received")
        passed_s = self._loop.time() - self._looked_s
        if passed_s >= HTTP_BODY_TIMEOUT_S:
            if self._nbytes - self._looked_nbytes < HTTP_BODY_MIN_NBYTES_PER_S * HTTP_BODY_TIMEOUT_S:
                raise TimeoutError
            self._looked_s += passed_s
            self._looked_nbytes = self._nbytes


async def read_body(
    request: web.BaseRequest, limit: int, receiving: Receiving, what: str = ""
) -> bytes | bytearray:
    """The whole body. RequestProblem when it has more than `limit` bytes, comes too slowly or is broken. `what`: of
    `too_big`.
    """
    limit = min(limit, HTTP_MAX_BODY_NBYTES)
    length = request.content_length
    if length is not None and length > limit:
        raise RequestProblem(400, too_big(str(length), limit, what))
    await _expectation(request)
    content = request.content
    if not request.can_read_body:
        return b""
    try:
        if length is not None and content.is_eof():
            return content.read_nowait(-1)
        with _Pieces(receiving) as pieces:
            if length is None:
                return await _read_chunks(content, limit, pieces, what)
            return await _read_known(content, length, pieces)
    except TimeoutError:
        raise RequestProblem(408, "timed out waiting for the request body") from None
    except web.RequestPayloadError:
        raise RequestProblem(400, MALFORMED) from None


async def _expectation(request: web.BaseRequest) -> None:
    expect = request.headers.get("Expect")
    if expect is None or request.version < (1, 1):
        return
    if expect.lower() != "100-continue":
        raise RequestProblem(417, "Expectation Failed")
    if not request.content.is_eof():
        await request.writer.write(CONTINUE)
        # aiohttp takes bytes already written for a started response.
        request.writer.output_size = 0


async def _read_known(content: StreamReader, length: int, pieces: _Pieces) -> bytearray:
    # Zeroed memory of this size costs nothing before it is written to, so an announced length that never
    # comes takes address space only.
    body = bytearray(length)
    view = memoryview(body)
    at = 0
    while at < length:
        async with asyncio.timeout(HTTP_BODY_TIMEOUT_S):
            piece = await content.readany()
        if not piece:
            raise RequestProblem(400, MALFORMED)
        view[at : at + len(piece)] = piece
        at += len(piece)
        if at < length:
            pieces.came(len(piece))
    return body


async def _read_chunks(content: StreamReader, limit: int, pieces: _Pieces, what: str) -> bytearray:
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
            pieces.came(len(piece))
        if chunk_ended and in_chunk:
            chunks += 1
            in_chunk = False
        if chunks > HTTP_MAX_CHUNKS:
            raise RequestProblem(400, MANY_CHUNKS)
        if len(body) > limit:
            raise RequestProblem(400, too_big(f"more than {limit}", limit, what))
    return body
