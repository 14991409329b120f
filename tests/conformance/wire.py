"""Sends the cases: HTTP over a plain socket, so that wrong requests can be sent too, and gRPC."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from .cases import GrpcCase, HttpCase

HTTP_SECONDS = 10.0
_SERVICE = "inference.GRPCInferenceService"
_REQUEST_NAMES = {"ModelStreamInfer": "ModelInferRequest"}
_RESPONSE_NAMES = {"ModelStreamInfer": "ModelStreamInferResponse"}
_HEADERS = ("content-type", "inference-header-content-length", "content-encoding", "accept-encoding")
_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}

Answer = dict[str, Any]


def _complete(raw: bytes, method: str) -> bool:
    """True when `raw` holds a whole response: not every answer of the real server ends the connection."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    if not separator:
        return False
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", lowered)
    return length is not None and (method == "HEAD" or len(body) >= int(length[1]))


def _receive(sock: socket.socket, method: str) -> bytes:
    """One response, or everything until the server closes the connection."""
    raw = b""
    while not _complete(raw, method) and (part := sock.recv(65536)):
        raw += part
    return raw


def _dechunk(body: bytes) -> bytes:
    """The payload of a chunked body."""
    payload = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            break
        payload += rest[:length]
        body = rest[length + 2 :]
    return payload


def _parse_response(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, lower-cased headers and body of the one response in `raw`."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunk(body)
    return int(lines[0].split()[1]), headers, body


def _text_answer(body: bytes) -> Answer:
    """A body that is no JSON."""
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _body_answer(headers: dict[str, str], body: bytes) -> Answer:
    """The body as parsed JSON, as JSON plus binary tensors, as text or as base64."""
    if not body:
        return {}
    encoding = headers.get("content-encoding")
    if encoding:
        body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
    split = headers.get("inference-header-content-length")
    head, tail = (body[: int(split)], body[int(split) :]) if split else (body, b"")
    try:
        answer: Answer = {"json": json.loads(head)}
    except ValueError:
        return _text_answer(body)
    if split:
        answer["binary"] = base64.b64encode(tail).decode()
    return answer


def send_http(case: HttpCase, port: int) -> Answer:
    """The answer to one HTTP case; silence and a dropped connection are answers too."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=HTTP_SECONDS) as sock:
            sock.sendall(case.wire())
            raw = _receive(sock, case.method)
    except TimeoutError:
        return {"silent": True}
    except OSError:
        return {"dropped": True}
    if not raw:
        return {"dropped": True}
    status, headers, body = _parse_response(raw)
    if case.method == "HEAD":
        body = b""  # which the real server sends all the same, as far as it has come
    kept = {name: headers[name] for name in _HEADERS if name in headers}
    return {"status": status, "headers": kept, **_body_answer(headers, body)}


def _message(case: GrpcCase, item: dict[str, Any] | bytes) -> bytes:
    """One request message as bytes."""
    if isinstance(item, bytes):
        return item
    kind = getattr(service_pb2, _REQUEST_NAMES.get(case.method, f"{case.method}Request"))
    return bytes(json_format.ParseDict(item, kind()).SerializeToString())


def _response(case: GrpcCase, raw: bytes) -> Answer:
    """One response message in protobuf's JSON form, with original field names."""
    if case.method == "Health/Check":
        return {"health": base64.b64encode(raw).decode()}
    message = getattr(service_pb2, _RESPONSE_NAMES.get(case.method, f"{case.method}Response")).FromString(raw)
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _in_time(case: GrpcCase, requests: list[bytes]) -> Iterator[bytes]:
    """The messages of a stream, as they are due."""
    for number, request in enumerate(requests):
        if number == 1:
            time.sleep(case.gap)
        yield request


def send_grpc(case: GrpcCase, port: int) -> Answer:
    """The answer to one gRPC case: status, message, and the responses that came before it."""
    path = "/grpc.health.v1.Health/Check" if case.method == "Health/Check" else f"/{_SERVICE}/{case.method}"
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    compression = _COMPRESSION.get(case.compression)
    requests = [item if case.method == "Health/Check" else _message(case, item) for item in case.messages]
    answers: list[Answer] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options, compression=compression) as channel:
        try:
            if case.method == "ModelStreamInfer":
                stream = channel.stream_stream(path)
                for raw in stream(_in_time(case, requests), timeout=case.timeout, metadata=case.metadata):
                    answers.append(_response(case, raw))
            else:
                unary = channel.unary_unary(path)
                answers.append(_response(case, unary(requests[0], timeout=case.timeout, metadata=case.metadata)))
        except grpc.RpcError as error:
            return {"code": error.code().name, "message": error.details(), "responses": answers}
    return {"code": "OK", "message": "", "responses": answers}
