"""Writes the inputs in corpus/ that all fuzzing starts from: what real clients send, and the corners of the formats.

Run it from an environment for development and commit what changed: `python tests/fuzz/make_corpus.py`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from h2.config import H2Configuration
from h2.connection import H2Connection
from tritonclient import http as client

HERE = Path(__file__).resolve().parent
sys.path[:0] = [*(str(HERE.parent / "unit" / part) for part in ("protocol", "backends")), str(HERE.parent)]

from fuzzing import JSON_SEEDS, grpc_seeds, http_seeds  # noqa: E402
from fuzzing_archive import archive_seeds  # noqa: E402
from fuzzing_forests import seeds as forest_seeds  # noqa: E402
from fuzzing_http2 import CONTINUATION, PING, PREFACE, frame  # noqa: E402

from triton_async import protos  # noqa: E402

MessageClass = protos.message("inference.ModelInferRequest")
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\n"
HOST = b"Host: localhost:8000\r\n"


# -- HTTP/1.1 --------------------------------------------------------------------------------------


def binary_infer(outputs: bool = True, **options: object) -> bytes:
    """What tritonclient sends for two binary tensors."""
    inputs = []
    for name in ("INPUT0", "INPUT1"):
        found = client.InferInput(name, [2], "INT64")
        found.set_data_from_numpy(np.array([1, 2], np.int64))
        inputs.append(found)
    asked = [client.InferRequestedOutput(f"OUTPUT{i}", binary_data=not i) for i in range(2)] if outputs else None
    body, size = client.InferenceServerClient.generate_request_body(inputs, outputs=asked, **options)
    lengths = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n" % (size, len(body))
    return INFER + HOST + b"Accept: */*\r\n" + lengths + b"Content-Type: application/octet-stream\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# What else clients send by default, around Host and the lengths.
CLIENTS = {
    "requests": b"User-Agent: python-requests/2.34.2\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept: */*\r\n"
    b"Connection: keep-alive\r\n",
    "fetch": b"sec-ch-ua: \"Chromium\";v=\"140\", \"Not?A_Brand\";v=\"24\"\r\nAccept: */*\r\nOrigin: http://a:8080\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n",
    "java": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\n",
    "ruby": b"Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3\r\nConnection: close\r\n",
    "curl": b"Accept-Encoding: deflate, gzip, br, zstd\r\nExpect: 100-continue\r\nContent-Encoding: identity\r\n",
}


def head_seeds() -> dict[str, bytes]:
    text = b'{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"INT64","data":[1,2]}]}'
    plain = INFER + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text
    live = b"GET /v2/health/live HTTP/1.1\r\n" + HOST + b"User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
    raw = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\n" + HOST
    old = plain.replace(b"HTTP/1.1", b"HTTP/1.0")
    return {
        **{name: plain.replace(HOST, HOST + fields, 1) for name, fields in CLIENTS.items()},
        **{f"{name}_chunked": chunked(text[:30], text[30:]).replace(HOST, HOST + CLIENTS[name], 1)
           for name in ("requests", "curl")},
        "old_infer": old,
        "old_keep_alive": old.replace(HOST, b"Connection: keep-alive\r\n", 1) + old,
        "refused_identity": plain.replace(HOST, HOST + b"Accept-Encoding: gzip, *;q=0\r\n", 1),
        "empty_line": b"\r\n" + live,
        "line_feed": b"\n" + live,
        "absolute": live.replace(b"/v2", b"http://localhost:8000/v2", 1),
        "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        "index_chunked": chunked(b"{}").replace(b"models/m/infer", b"repository/index", 1),
        "chunk_escape": chunked(text).replace(b"\r\n0\r\n", b'\r\n0;a="\\"b\\\\"\r\n'),
        "binary": binary_infer(),
        "binary_sequence": binary_infer(sequence_id=7, sequence_start=True, sequence_end=True),
        "binary_options": binary_infer(False, request_id="a 1", priority=3, timeout=100),
        "plain": plain,
        "chunked": chunked(text[:20], text[20:]),
        "chunk_extensions": chunked(text).replace(b"\r\n0\r\n", b'\r\n000;a=b;c="d e";f\r\n') + live,
        "chunk_trailer": chunked(text)[:-2] + b"Digest: x\r\n\r\n",
        "get": live,
        "expect": plain.replace(b"Content-Type", b"Expect: 100-continue\r\nContent-Type", 1),
        "close": live.replace(b"Accept: */*", b"Connection: close"),
        "old": b"GET /v2 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "compressed": plain.replace(HOST, HOST + b"Accept-Encoding: gzip\r\nContent-Encoding: gzip\r\n", 1),
        "raw": raw + b"inference-header-content-length: 0\r\nconnection:keep-alive\r\ncontent-length: 1\r\n\r\n\0",
        "pipelined": live + binary_infer() + plain + chunked(text) + live,
        "version": raw.replace(b"/1/", b"/%d/" % (10**19 - 1)) + b"Content-Length: 1\r\n\r\n{",
        "two_framings": INFER + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + live,
        "lengths": INFER + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + live,
        "folded": live.replace(b"Accept: ", b"Accept:\r\n "),
        "refused": b"GET  /v2 HTTP/1.1\r\nHost: a,b\r\nContent-Length: 05\r\n\r\n",
        "begun": plain[:70],
    }


# -- HTTP/2 ----------------------------------------------------------------------------------------


def call(path: bytes, timeout: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Head of a call as grpc clients send it."""
    more = [(b"grpc-timeout", timeout)] if timeout else []
    return [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/inference.GRPCInferenceService/" + path),
        (b":authority", b"localhost:8001"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-python/1.70.0"), (b"grpc-accept-encoding", b"identity, deflate, gzip"), *more,
    ]  # fmt: skip


def message() -> bytes:
    found = MessageClass(model_name="m", id="1")
    found.inputs.add(name="INPUT0", datatype="INT64", shape=[2])
    found.outputs.add(name="OUTPUT0")
    found.raw_input_contents.append(bytes(16))
    data = bytes(found.SerializeToString())
    return b"\0" + len(data).to_bytes(4, "big") + data


class Client:
    """An h2 client that is told what to send, in order."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(header_encoding=None))
        self.h2.initiate_connection()

    def ask(self, stream: int, *bodies: bytes, path: bytes = b"ModelInfer", end: bool = True, **more: bytes) -> None:
        self.h2.send_headers(stream, call(path, **more), end_stream=end and not bodies)
        for i, body in enumerate(bodies):
            self.h2.send_data(stream, body, end_stream=end and i == len(bodies) - 1)

    def said(self, more: bytes = b"") -> bytes:
        return bytes(self.h2.data_to_send()) + more


def http2_seeds() -> dict[str, bytes]:
    """Two bytes choose what the server does and how the input is cut; then what the client sends."""
    infer, stream, several, reset, ping, window, away = (Client() for _ in range(7))
    infer.ask(1, message())
    stream.ask(1, message(), message()[:20], message()[20:] + message(), path=b"ModelStreamInfer", timeout=b"10S")
    for number in (1, 3, 5, 7):
        several.ask(number, message(), end=number != 5)
    several.h2.end_stream(5)
    reset.ask(1, message(), end=False)
    reset.h2.reset_stream(1, 8)
    reset.ask(3, path=b"ServerLive")
    ping.h2.ping(b"12345678")
    ping.ask(1, message())
    ping.h2.ping(b"87654321")
    window.h2.update_settings({4: 0, 5: 1 << 15})
    window.ask(1, message())
    window.h2.increment_flow_control_window(1 << 20)
    window.h2.increment_flow_control_window(100, stream_id=1)
    window.h2.update_settings({4: 1 << 20})
    away.ask(1, message())
    away.h2.close_connection()
    hello = PREFACE + frame(4)
    block = b"\x83\x86\x44\x02/a\x41\x01x\x40\x02te\x08trailers"
    found = {
        "infer": infer.said(), "stream": stream.said(), "several": several.said(), "reset": reset.said(),
        "ping": ping.said(), "window": window.said(), "goaway": away.said(), "hello": hello,
        "continued": hello + frame(1, block[:6], 1, 1) + frame(CONTINUATION, block[6:], 4, 1) + frame(PING, bytes(8)),
        "padded": hello + frame(1, b"\3" + bytes(4) + b"\x10" + block + bytes(3), 0x2C, 1)
        + frame(0, b"\2hello\0\0", 9, 1),
        "trailers": hello + frame(1, block, 4, 1) + frame(0, b"x", 0, 1) + frame(1, b"\x40\x01a\x01b", 5, 1),
        "odd": hello + frame(2, b"\0\0\0\0\x0f", 0, 3) + frame(4, b"", 1) + frame(99, b"??", 255, 9)
        + frame(0, b"", 0, 1),
        "http1": head_seeds()["get"],
    }  # fmt: skip
    return {f"{name}{i}": bytes([0, i]) + data for name, data in found.items() for i in (0, 3)}


def numbered(seeds: list[bytes]) -> dict[str, bytes]:
    return {f"{i:02}": seed for i, seed in enumerate(seeds)}


def main() -> None:
    targets = {
        "http": numbered(http_seeds()), "grpc": numbered(grpc_seeds()), "json": numbered(JSON_SEEDS),
        "http_head": head_seeds(), "http2": http2_seeds(), "archive": archive_seeds(),
        "forests": forest_seeds(),
    }  # fmt: skip
    for target, seeds in targets.items():
        folder = HERE / "corpus" / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
