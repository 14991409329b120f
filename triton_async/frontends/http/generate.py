"""The generate calls: JSON in, one JSON object out, or a stream of them as server-sent events."""

from __future__ import annotations

import asyncio
import logging
import time

from aiohttp import HttpVersion11, web

from triton_async.config.access import Pattern
from triton_async.core.server import InferenceServer
from triton_async.defines import HTTP_LOAD_REPORT_S
from triton_async.errors import InvalidArg
from triton_async.frontends.entry import forward, forwarded_of
from triton_async.frontends.http import load_report, replies
from triton_async.frontends.http.body import Receiving, read_body
from triton_async.frontends.http.compression import request_encoding
from triton_async.frontends.http.framing import sent_headers
from triton_async.frontends.http.generation import Generation
from triton_async.frontends.http.infer import json_limit
from triton_async.frontends.http.status import http_status
from triton_async.infer.strings import has_many_strings
from triton_async.protocol.generate import decode_generate
from triton_async.protocol.http_codec import is_long_json
from triton_async.protocol.version import parse_version

log = logging.getLogger("triton_async.http")


async def generate(
    server: InferenceServer,
    request: web.BaseRequest,
    model: str,
    version_text: str | None,
    max_input_nbytes: int,
    *,
    streaming: bool,
    receiving: Receiving,
    forwarded: Pattern | None = None,
) -> web.StreamResponse:
    """Answers one call. A client that goes cancels the request; one that reads slowly holds the model's sender back."""
    version = parse_version(version_text)
    signature = server.signature(model, version)
    if request_encoding(request.headers.getall("Content-Encoding", [])) != "":
        raise InvalidArg("Unsupported content-encoding, only 'identity' is supported.")
    began_ns = time.monotonic_ns()
    body = await read_body(request, json_limit(request.content_length, max_input_nbytes), receiving)
    received_ns = time.monotonic_ns()
    generation = Generation(server, signature.decoupled, streaming)
    decoding = model, version, signature, body, max_input_nbytes, received_ns
    long = is_long_json(len(body))
    inference = await asyncio.to_thread(decode_generate, *decoding) if long else decode_generate(*decoding)
    del body, decoding
    if has_many_strings(inference):
        await asyncio.to_thread(signature.validated, inference)
    try:
        request[replies.REQUEST_ID] = inference.id
        if forwarded is not None:
            forward(inference, forwarded_of(sent_headers(request), forwarded))
        if server.reads_context:
            inference.trace_parent = list(request.headers.items())
        generation.submit(inference)
        if (trace := inference.trace) is not None:
            trace.add("HTTP_RECV_START", began_ns)
            trace.add("HTTP_RECV_END", received_ns)
        del inference
        await generation.wait()
        if trace is not None:
            trace.add("HTTP_SEND_START", time.monotonic_ns())
        more = await _load(server, request)
        if streaming:
            return await _stream(request, generation, more)
    finally:
        generation.close()
    if (problem := generation.failure()) is not None:
        raise problem
    return await replies.long_json(request, generation.take()[0], more)


async def _load(server: InferenceServer, request: web.BaseRequest) -> dict[str, str]:
    """The header with the load of this replica, where the client asks for it and there is one. Never raises: by now
    there is an answer, which it holds up for HTTP_LOAD_REPORT_S at most, and only in a front-end process.
    """
    form = request.headers.get(load_report.ASKS)
    if form is None:
        return {}
    report = None
    if form in load_report.FORMS:
        try:
            async with asyncio.timeout(HTTP_LOAD_REPORT_S):
                report = load_report.load_report(form, await server.made_metrics(load_report.FAMILY))
        except Exception as error:
            log.debug("the load could not be found out for the answer to a generate call: %r", error)
            return {}
    if report is None:
        log.debug("no load to report in the answer to a generate call: no metrics of its kind, or no format of it")
        return {}
    return {load_report.ANSWERS: report}


async def _stream(
    request: web.BaseRequest, generation: Generation, more: dict[str, str]
) -> web.StreamResponse:
    """Sends the events as they come. The status tells whether the first response is an error. `more`: headers."""
    response = replies.events(200 if generation.error is None else http_status(generation.error.code))
    response.headers.update(more)
    if request.version < HttpVersion11:
        response.force_close()  # the only end that its client can see
    await response.prepare(request)
    request[replies.STREAMED_NBYTES] = 0
    while True:
        events, count = generation.take()
        if events:
            nbytes = sum(map(len, events))
            # Returns when the socket has taken most of it.
            await replies.write_pieces(response, events)
            generation.sent(count, nbytes)
            request[replies.STREAMED_NBYTES] += nbytes
        elif generation.over:
            return response
        else:
            await generation.wait()
