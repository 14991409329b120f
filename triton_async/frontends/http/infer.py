"""The infer call: body in, InferenceServer.infer, body out."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Protocol

from aiohttp import web

from triton_async.config.access import Pattern
from triton_async.errors import InvalidArg, Unsupported
from triton_async.frontends.entry import forward, forwarded_of
from triton_async.frontends.http import replies
from triton_async.frontends.http.body import Receiving, read_body
from triton_async.frontends.http.compression import decompress, deflate, request_encoding
from triton_async.frontends.http.framing import HEADER_LENGTH, TRITON, Framing, sent_headers
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature
from triton_async.infer.strings import has_many_strings
from triton_async.memory.regions import RegionRegistry
from triton_async.protocol.http_codec import (
    decode_infer,
    decode_long,
    encode_infer,
    encode_long,
    is_long_answer,
    is_long_json,
)  # fmt: skip
from triton_async.protocol.http_coding import response_coding, worth
from triton_async.protocol.version import parse_version

_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1
_DECIMAL = re.compile(r"-?[0-9]+")
_NO_LIMIT = 1 << 62


class InferService(Protocol):
    """What inference needs of the server."""

    regions: RegionRegistry

    def signature(self, name: str, version: int = -1) -> ModelSignature: ...
    @property
    def reads_context(self) -> bool: ...
    async def infer(self, request: InferRequest) -> InferResponse: ...


def parse_header_length(values: list[str], content_length: int, name: str = HEADER_LENGTH) -> int:
    """Bytes of JSON in front of a body of `content_length` bytes, from the lines of `name`, which says it."""
    if not values:
        return content_length
    text = ", ".join(values)
    if not _DECIMAL.fullmatch(text):
        raise InvalidArg(f"Unable to parse {name}, got: {text}")
    # Ten digits hold every 32-bit number; a longer run never reaches int().
    length = int(text) if len(text.lstrip("-0")) <= 10 else _INT_MAX + 1
    if not _INT_MIN <= length <= _INT_MAX:
        raise InvalidArg(
            f"Unable to parse {name}, value is out of range [ {_INT_MIN}, {_INT_MAX} ], got: {text}"
        )
    if not 0 <= length <= content_length:
        raise InvalidArg(f"inference header size should be in range (0, {content_length}), got: {length}")
    return length


def _body_limit(header_lines: list[str], encoding: str, length: int | None, max_input_nbytes: int) -> int:
    """Bytes worth reading. Only tensors in binary form behind a JSON header are not bound by the option."""
    if encoding:
        # Compression adds at most a few bytes per 16 KiB to data that does not compress.
        return max_input_nbytes + max_input_nbytes // 1000 + 1024
    if header_lines and header_lines != ["0"]:
        return _NO_LIMIT
    if not header_lines:
        return json_limit(length, max_input_nbytes)
    what = f"Raw input has a byte_size ({length} bytes) that exceeds the maximum allowed value of"
    return _checked_limit(what, length, max_input_nbytes)


def json_limit(length: int | None, max_input_nbytes: int) -> int:
    """Bytes worth reading of a body that is JSON alone. RequestProblem when `length`, as announced, is more."""
    what = f"request JSON size of {length} bytes exceeds the maximum allowed input size of"
    return _checked_limit(what, length, max_input_nbytes)


def _checked_limit(what: str, length: int | None, max_input_nbytes: int) -> int:
    if length is not None and length > max_input_nbytes:
        raise replies.RequestProblem(
            400, f"{what} {max_input_nbytes} bytes. Use --http-max-input-size to increase the limit."
        )
    return max_input_nbytes


async def infer(
    server: InferService,
    request: web.BaseRequest,
    model: str,
    version_text: str | None,
    max_input_nbytes: int,
    *,
    receiving: Receiving,
    forwarded: Pattern | None = None,
    framing: Framing = TRITON,
) -> web.StreamResponse:
    """Answers one infer request. Checks come in Triton's order. `forwarded`: names of headers to make parameters."""
    version = parse_version(version_text)
    signature = server.signature(model, version)
    if signature.decoupled:
        raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
    headers = request.headers
    encoding = request_encoding(headers.getall("Content-Encoding", []))
    if encoding is None:
        response = replies.error(501, "Unsupported compression type")
        response.headers["Accept-Encoding"] = "gzip, deflate"
        return response
    header_lines = framing.lines(headers)
    limit = _body_limit(header_lines, encoding, request.content_length, max_input_nbytes)
    began_ns = time.monotonic_ns()
    body: Any = await read_body(request, limit, receiving)
    received_ns = time.monotonic_ns()
    if encoding:
        body = await decompress(body, max_input_nbytes)
    header_length = parse_header_length(header_lines, len(body), framing.name)
    decoding = model, version, signature, body, header_length, max_input_nbytes, received_ns, server.regions
    if is_long_json(header_length):
        inference = await asyncio.to_thread(decode_long, *decoding)
    else:
        inference = decode_infer(*decoding)
        if has_many_strings(inference):
            await asyncio.to_thread(signature.validated, inference)
    request[replies.REQUEST_ID] = inference.id
    if forwarded is not None:
        forward(inference, forwarded_of(sent_headers(request), forwarded))
    if server.reads_context:
        inference.trace_parent = list(headers.items())
    answer = await server.infer(inference)
    if (trace := inference.trace) is None:
        return await _answered(request, inference, answer, signature, framing)
    trace.add("HTTP_RECV_START", began_ns)
    trace.add("HTTP_RECV_END", received_ns)
    reply = await _answered(request, inference, answer, signature, framing)
    trace.add("HTTP_SEND_START", time.monotonic_ns())
    # aiohttp writes it behind this; by the time that it is asked to finish it, all is with the socket.
    await reply.prepare(request)
    await reply.write_eof()
    trace.add("HTTP_SEND_END", time.monotonic_ns())
    return reply


async def _answered(
    request: web.BaseRequest, inference: InferRequest, answer: InferResponse, signature: ModelSignature,
    framing: Framing,
) -> web.StreamResponse:
    """The answer to `request`, compressed where the client wants it and it is worth it."""
    if is_long_answer(inference, answer):
        head, parts, length, content_type = await asyncio.to_thread(encode_long, inference, answer, signature)
    else:
        head, parts, length, content_type = encode_infer(inference, answer, signature)
    coding, required = response_coding(", ".join(request.headers.getall("Accept-Encoding", [])))
    if not coding or not worth(required, (head, *parts)):
        return await replies.tensors(request, head, parts, framing.headers(length, content_type))
    packed = await asyncio.to_thread(deflate, coding, (head, *parts))
    return await replies.packed(request, packed, framing.headers(length, content_type), coding)
