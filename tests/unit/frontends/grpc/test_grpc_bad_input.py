"""What broken and hostile clients send: a clear status on that call, and the next call works."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_harness import Running, serving, until, write_model
from raw_http2 import INFER, LIVE, RawClient, message

from triton_async import protos

OK, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 5, 8, 12, 13


@pytest.fixture
def raw(shared: Running) -> Iterator[RawClient]:
    """A connection that must still serve a good call at the end."""
    with RawClient(shared.url) as found:
        yield found
        assert found.call(LIVE, message(b"")).status == OK


def infer_request(size: int = 2) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name="fp32", raw_input_contents=[bytes(4 * size)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[size])
    return bytes(request.SerializeToString())


def gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    return stream.compress(data) + stream.flush()


def test_a_good_call(raw: RawClient) -> None:
    answer = raw.call(INFER, message(infer_request()))
    assert answer.status == OK
    assert answer.headers["content-type"] == "application/grpc"
    assert answer.headers["grpc-accept-encoding"] == "identity,deflate,gzip"
    assert raw.call(INFER, message(infer_request()), content_type="application/grpc+proto").status == OK


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", UNIMPLEMENTED),
        (message(b"") * 2, UNIMPLEMENTED),
        (b"\0\0\0", INTERNAL),
        (message(b"abc", nbytes=10), INTERNAL),
        (message(b"", flag=2), INTERNAL),
        (message(b"", flag=255), INTERNAL),
        (message(b"abc", nbytes=2**32 - 1), RESOURCE_EXHAUSTED),
        (message(b"abc", nbytes=2**31), RESOURCE_EXHAUSTED),
        (message(b"", flag=1), INTERNAL),
        (message(b"\xff" * 20), INTERNAL),
        (message(b"\x0b"), INTERNAL),
    ],
)
def test_broken_messages(raw: RawClient, data: bytes, status: int) -> None:
    assert raw.call(INFER, data).status == status


def test_a_broken_message_ends_its_stream(raw: RawClient) -> None:
    data = message(infer_request()) + message(b"\xff") + message(infer_request())
    answer = raw.call("/inference.GRPCInferenceService/ModelStreamInfer", data)
    assert (answer.status, answer.headers["grpc-message"]) == (INTERNAL, "Unable to parse request")


def test_control_messages_that_do_not_parse(raw: RawClient) -> None:
    path = "/inference.GRPCInferenceService/ModelReady"
    for data in (b"\xff" * 20, b"\x0a\x02\xc3\x28", b"\x0b" * 101):
        answer = raw.call(path, message(data))
        assert (answer.status, answer.headers["grpc-message"]) == (INTERNAL, "Unable to parse request")


@pytest.mark.parametrize(
    ("data", "encoding", "status"),
    [
        (gzip(infer_request()), "gzip", OK),
        (gzip(infer_request(1_000_000)), "gzip", OK),
        (zlib.compress(infer_request()), "deflate", OK),
        (gzip(infer_request())[:-9], "gzip", INTERNAL),
        (gzip(infer_request()) + b"x", "gzip", INTERNAL),
        (gzip(infer_request(1_000_000))[:-9], "gzip", INTERNAL),
        (b"not gzip", "gzip", INTERNAL),
        (b"", "gzip", INTERNAL),
        (gzip(infer_request()), "deflate", INTERNAL),
        (gzip(infer_request()), "identity", INTERNAL),
        (gzip(infer_request()), "br", UNIMPLEMENTED),
    ],
)
def test_compression(raw: RawClient, data: bytes, encoding: str, status: int) -> None:
    answer = raw.call(INFER, message(data, flag=1), grpc_encoding=encoding)
    assert answer.status == status
    assert "gzip" in answer.headers["grpc-accept-encoding"]


@pytest.mark.parametrize(
    ("accepts", "encoding"), [("identity, gzip", "gzip"), ("deflate", "deflate"), ("br", None), ("identity", None)]
)
def test_answers_are_compressed_as_the_client_accepts(tmp_path: Path, accepts: str, encoding: str | None) -> None:
    write_model(tmp_path, "fp32")
    with serving(tmp_path, compression="low") as running, RawClient(running.url) as raw:
        answer = raw.call(INFER, message(infer_request(10_000)), grpc_accept_encoding=accepts)
        assert answer.headers.get("grpc-encoding") == encoding
        assert answer.data[0] == (encoding is not None)
        assert int.from_bytes(answer.data[1:5], "big") == len(answer.data) - 5
        assert (len(answer.data) < 1000) == (encoding is not None)
        # Only inference answers are compressed.
        assert raw.call(LIVE, message(b""), grpc_accept_encoding=accepts).data[0] == 0


def test_decompression_is_bounded(raw: RawClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton_async.frontends.grpc.call.GRPC_MAX_MESSAGE_NBYTES", 1 << 20)
    for size in ((1 << 20) + 1, 1 << 21):
        answer = raw.call(INFER, message(gzip(bytes(size)), flag=1), grpc_encoding="gzip")
        assert answer.status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("timeout", "status"),
    [
        ("0n", DEADLINE_EXCEEDED),
        ("0H", DEADLINE_EXCEEDED),
        ("1n", DEADLINE_EXCEEDED),
        ("99999999H", OK),
        ("10S", OK),
        ("123456789S", INTERNAL),
        ("1X", INTERNAL),
        ("", INTERNAL),
        ("-1S", INTERNAL),
        ("+1S", INTERNAL),
    ],
)
def test_deadlines(raw: RawClient, timeout: str, status: int) -> None:
    assert raw.call(INFER, message(infer_request()), grpc_timeout=timeout).status == status


def test_what_is_no_grpc(raw: RawClient) -> None:
    assert raw.call(LIVE, message(b""), content_type="application/json").headers[":status"] == "415"
    stream_id = raw.begin(LIVE, drop=["content-type"])
    assert raw.receive(stream_id).headers[":status"] == "415"
    stream_id = raw.begin(LIVE, method="GET")
    assert raw.receive(stream_id).headers[":status"] == "405"
    stream_id = raw.begin(LIVE, drop=["te"])
    raw.send(stream_id, message(b""))
    assert raw.receive(stream_id).status == OK


def test_an_early_answer_resets_what_the_client_still_sends(raw: RawClient) -> None:
    answer = raw.call("/nope", message(b"abc"), end=False)
    assert answer.status == UNIMPLEMENTED
    stream_id = raw.begin(INFER)
    raw.send(stream_id, message(b"", flag=2), end=False)
    assert raw.receive(stream_id).status == INTERNAL


def test_long_and_strange_error_texts(raw: RawClient) -> None:
    request = protos.message("inference.ModelInferRequest")(model_name="%\r\n\tü" * 20_000)
    answer = raw.call(INFER, message(request.SerializeToString()))
    assert answer.status == NOT_FOUND
    text = answer.headers["grpc-message"]
    assert len(text) <= 4096
    assert text.isascii()
    assert not set(text) & set("\r\n\t")
    assert text.endswith("%E2%80%A6")


def test_a_reset_frees_the_request(shared: Running, raw: RawClient) -> None:
    request = protos.message("inference.ModelInferRequest")(model_name="slow", raw_input_contents=[bytes(4)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
    model = shared.server.repository.models["slow"].versions[1].loaded.model
    until(lambda: model.in_flight == 0, "earlier requests")
    before = shared.server.statistics("slow")[0]["inference_count"]
    for _ in range(30):
        stream_id = raw.begin(INFER)
        raw.send(stream_id, message(request.SerializeToString()))
        raw.h2.reset_stream(stream_id)
        raw.flush()
    time.sleep(0.05)
    until(lambda: model.in_flight == 0, "requests gone")
    assert shared.server.statistics("slow")[0]["inference_count"] - before <= 3


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)]
)
def test_connections_that_are_not_http2_are_closed(shared: Running, data: bytes) -> None:
    host, port = shared.url.split(":")
    with RawClient(shared.url) as good:
        with socket.create_connection((host, int(port)), 10) as bad:
            bad.sendall(data)
            while bad.recv(65536):
                pass
        assert good.call(LIVE, message(b"")).status == OK


def test_header_lists_beyond_the_limit_are_refused(shared: Running) -> None:
    with RawClient(shared.url) as bad:
        stream_id = bad.begin(LIVE, **{f"x-{i}": "v" * 1000 for i in range(30)})
        answer = bad.receive(stream_id)
        if shared.express:
            # The call only; h2 can only end the connection.
            assert answer.status == RESOURCE_EXHAUSTED
            assert bad.call(LIVE, message(b"")).status == OK
        else:
            assert answer.terminated


def test_non_ascii_headers_are_no_trouble(raw: RawClient) -> None:
    assert raw.call(LIVE, message(b""), x_name="\xff\xfe").status == OK


def test_many_calls_at_once_on_one_connection(shared: Running) -> None:
    with RawClient(shared.url) as raw:
        ids = []
        for _ in range(90):
            ids.append(raw.begin(INFER))
            raw.send(ids[-1], message(infer_request()))
        answers: dict[int, Any] = {}
        answers[ids[-1]] = raw.receive(ids[-1])
        assert answers[ids[-1]].status == OK
