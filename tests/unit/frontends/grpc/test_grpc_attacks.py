"""HTTP/2 and gRPC attacks on the express lane of a real server: the answer, and that others do not notice.

Broken messages, compression, deadlines, error texts and heads that are no gRPC: test_grpc_bad_input, through both
lanes. Limits, windows and HPACK in detail: tests/unit/protocol/test_http2*.py.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grpc_harness import Running, serving, until, write_model
from hpack import Encoder
from raw_http2 import INFER, LIVE, RawClient, message

from triton_async import defines, protos
from triton_async.frontends.grpc.express import keepalive

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 8, 12
CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, PROTOCOL_ERROR = 8, 9, 11, 3, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Sent beyond a limit that refills with time: enough for the seconds that a slow machine takes, and no more.
MARGIN = 500


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head(path: str = INFER, **more: str) -> list[tuple[str, str]]:
    plain = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers", **more,
    }  # fmt: skip
    return list(plain.items())


def infer_body(model: str = "fp32") -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name=model, raw_input_contents=[bytes(8)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[2])
    return message(request.SerializeToString())


class Attacker:
    """A socket that speaks frames; `answers` collects what comes back until the server closes."""

    def __init__(self, url: str) -> None:
        host, port = url.split(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder = Encoder()
        self.received = b""
        self.send(PREFACE + frame(SETTINGS))

    def send(self, data: bytes) -> None:
        # The server may have closed already.
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def head(self, stream: int, fields: list[tuple[str, str]], flags: int = END_HEADERS) -> bytes:
        return frame(HEADERS, self.encoder.encode(fields), flags, stream)

    def call(self, stream: int, body: bytes = b"", path: str = INFER) -> bytes:
        return self.head(stream, head(path)) + frame(DATA, body, END_STREAM, stream)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, flags, stream, payload) as they come, until the connection ends."""
        while True:
            while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
                try:
                    data = self.socket.recv(65536)
                except ConnectionError:
                    return
                if not data:
                    return
                self.received += data
            nbytes = int.from_bytes(self.received[:3], "big")
            found = self.received[: 9 + nbytes]
            self.received = self.received[9 + nbytes :]
            yield found[3], found[4], int.from_bytes(found[5:9], "big"), found[9:]

    def goaway(self) -> tuple[int, bytes] | None:
        """Code and text of the last GOAWAY before the connection was closed; it must be closed."""
        last = None
        for kind, _, _, payload in self.frames():
            if kind == GOAWAY:
                last = (int.from_bytes(payload[4:8], "big"), payload[8:])
        return last

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("attacked")
    write_model(root, "fp32")
    write_model(root, "slow", delay_ms=50)
    with serving(root) as running:
        yield running


@pytest.fixture
def attacker(server: Running) -> Iterator[Attacker]:
    """A hostile connection; a good one beside it must be served before, during and after."""
    with RawClient(server.url) as good:
        assert good.call(INFER, infer_body()).status == OK
        found = Attacker(server.url)
        yield found
        assert good.call(INFER, infer_body()).status == OK
        found.close()


def executions(server: Running, model: str) -> int:
    return int(server.server.statistics(model)[0]["inference_count"])


def test_1_rapid_reset(server: Running, attacker: Attacker) -> None:
    before = executions(server, "slow")
    sent = b"".join(
        attacker.call(2 * i + 1, infer_body("slow")) + frame(RST_STREAM, struct.pack(">I", CANCEL), 0, 2 * i + 1)
        for i in range(defines.GRPC_RESET_BURST + MARGIN)
    )
    attacker.send(sent)
    assert attacker.goaway() in ((ENHANCE_YOUR_CALM, b""), None)  # None: our last bytes found a closed socket
    model = server.server.repository.models["slow"].versions[1].loaded.model
    until(lambda: model.in_flight == 0, "requests gone")
    assert executions(server, "slow") - before <= defines.GRPC_RESET_BURST


@pytest.mark.parametrize(
    "provoke",
    [
        lambda a, stream: a.head(stream, head(INFER, **{"content-length": "1"})) + frame(DATA, b"12", 1, stream),
        lambda a, stream: a.head(stream, head()) + frame(WINDOW_UPDATE, bytes(4), 0, stream),
        lambda a, stream: a.head(stream, [*head(), ("connection", "close")]),
        lambda a, stream: a.head(stream, head(**{"content-type": "text/html"}), END_HEADERS | END_STREAM),
        lambda a, stream: a.head(stream, [(":method", "GET"), *head(LIVE)[1:]], END_HEADERS | END_STREAM),
    ],
    ids=["content-length", "zero update", "connection header", "415", "405"],
)
def test_2_resets_that_the_server_is_made_to_send(attacker: Attacker, provoke: Any) -> None:
    # Not more at once than streams are open, so that only the count of resets can end the connection.
    for i in range(0, defines.GRPC_RESET_BURST + MARGIN, 100):
        attacker.send(b"".join(provoke(attacker, 2 * (i + j) + 1) for j in range(100)))
        attacker.send(frame(PING, b"%08d" % i))
        for kind, _, _, payload in attacker.frames():
            if kind == GOAWAY:
                assert int.from_bytes(payload[4:8], "big") in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
                return
            if kind == PING and payload == b"%08d" % i:
                break
    raise AssertionError("the connection survived")


def test_3_too_many_continuations(attacker: Attacker) -> None:
    many = frame(CONTINUATION, b"", 0, 1) * (defines.GRPC_MAX_CONTINUATIONS + 1)
    attacker.send(frame(HEADERS, attacker.encoder.encode(head()), 0, 1) + many)
    assert attacker.goaway() in ((ENHANCE_YOUR_CALM, b""), None)


def test_3_a_header_block_that_never_ends(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "GRPC_HEADERS_TIMEOUT_S", 0.02)
    attacker.send(frame(HEADERS, attacker.encoder.encode(head()), 0, 1))
    assert attacker.goaway() is None


def test_3_a_connection_that_says_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "GRPC_HANDSHAKE_TIMEOUT_S", 0.02)
    host, port = server.url.split(":")
    with socket.create_connection((host, int(port)), 20) as silent:
        while silent.recv(65536):
            pass


@pytest.mark.parametrize(("repeats", "ends"), [(8, False), (50, True)])
def test_4_a_field_again_and_again(server: Running, repeats: int, ends: bool) -> None:
    """One entry of the compression table, then one byte for each time it is repeated."""
    value = "v" * 3000
    with RawClient(server.url) as raw:
        raw.call(LIVE, message(b""), x_again=value)
        stream = raw.h2.get_next_available_stream_id()
        raw.h2.send_headers(stream, [*head(LIVE), *[("x-again", value)] * repeats], end_stream=True)
        raw.flush()
        answer = raw.receive(stream)
        assert answer.terminated == ends
        if not ends:
            assert answer.status == RESOURCE_EXHAUSTED
            assert raw.call(LIVE, message(b""), x_again=value).status == OK


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xff\x80\x01", b"\x3f\xe1\xff\x03", b"\xff" + b"\x80" * 40, b"\x00\x84\xff\xff\xff\xff\x01a"],
    ids=["index 0", "index out of the table", "table size", "integer padding", "end of string"],
)
def test_5_broken_compression(attacker: Attacker, block: bytes) -> None:
    attacker.send(frame(HEADERS, block, END_HEADERS | END_STREAM, 1))
    found = attacker.goaway()
    assert found is not None
    assert found[0] == COMPRESSION_ERROR


@pytest.mark.parametrize(
    "control",
    [
        frame(SETTINGS), frame(PING, bytes(8)), frame(PRIORITY, bytes(5), 0, 1), frame(DATA, b"", 0, 1),
        frame(0x77, b"abc"),
    ],
    ids=["settings", "ping", "priority", "empty data", "unknown"],
)  # fmt: skip
def test_6_too_many_control_frames(attacker: Attacker, control: bytes) -> None:
    attacker.send(attacker.head(1, head()) + control * (defines.GRPC_CONTROL_BURST + MARGIN))
    found = attacker.goaway()
    assert found is None or found[0] in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)


def test_7_the_third_ping_too_many(attacker: Attacker) -> None:
    attacker.send(frame(PING, bytes(8)) * 4)
    assert attacker.goaway() == (ENHANCE_YOUR_CALM, b"too_many_pings")


def test_7_pings_beside_answers_are_welcome(server: Running) -> None:
    with RawClient(server.url) as raw:
        for i in range(20):
            raw.h2.ping(b"%08d" % i)
            assert raw.call(INFER, infer_body()).status == OK


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(SETTINGS, struct.pack(">HI", 4, 2**31)), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1)), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, bytes(4)), PROTOCOL_ERROR),
    ],
)
def test_8_windows_that_make_no_sense(attacker: Attacker, data: bytes, code: int) -> None:
    attacker.send(data)
    assert attacker.goaway() is not None


def test_8_a_client_that_never_opens_its_window(
    server: Running, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "GRPC_STALL_TIMEOUT_S", 0.05)
    attacker.send(frame(SETTINGS, struct.pack(">HI", 4, 0)))
    attacker.send(b"".join(attacker.call(2 * i + 1, infer_body()) for i in range(500)))
    assert attacker.goaway() is None
    until(lambda: len(server.endpoint._connections) <= 1, "connection gone")


@pytest.mark.parametrize("stream", [2, 0])
def test_9_streams_that_are_not_the_clients(attacker: Attacker, stream: int) -> None:
    attacker.send(attacker.call(stream))
    found = attacker.goaway()
    assert found is not None
    assert found[0] == PROTOCOL_ERROR


def test_10_trailers_of_a_request(server: Running) -> None:
    with RawClient(server.url) as raw:
        stream = raw.begin(INFER)
        raw.send(stream, infer_body(), end=False)
        raw.h2.send_headers(stream, [("grpc-timeout", "0n"), ("x", "y")], end_stream=True)
        raw.flush()
        assert raw.receive(stream).status == OK
        stream = raw.begin(INFER)
        raw.h2.send_headers(stream, [("x", "y")], end_stream=True)
        raw.flush()
        assert raw.receive(stream).status == UNIMPLEMENTED


def test_11_a_message_in_many_frames(server: Running) -> None:
    with RawClient(server.url) as raw:
        stream = raw.begin(INFER)
        body = infer_body()
        for i in range(len(body)):
            raw.send(stream, body[i : i + 1], end=False)
        raw.send(stream, b"")
        assert raw.receive(stream).status == OK


def test_11_a_length_alone_costs_little(server: Running, attacker: Attacker) -> None:
    prefix = b"\0" + (2**31 - 1).to_bytes(4, "big") + b"x"
    for i in range(200):
        attacker.send(attacker.head(2 * i + 1, head()) + frame(DATA, prefix, 0, 2 * i + 1))
    attacker.send(frame(PING, b"done...."))
    for kind, flags, _, payload in attacker.frames():
        if kind == PING and flags == 1 and payload == b"done....":
            break
    assert server.pool.leased_nbytes <= 200 * 2 * defines.GRPC_MESSAGE_START_NBYTES


def test_17_binary_metadata_that_is_no_base64(server: Running) -> None:
    with RawClient(server.url) as raw:
        for value in ("AAA", "AAAA", "%%%", ""):
            assert raw.call(INFER, infer_body(), trace_bin=value).status == OK


def test_22_requests_cut_at_every_place(server: Running, attacker: Attacker) -> None:
    whole = PREFACE + frame(SETTINGS) + Attacker.call(attacker, 1, infer_body())
    for cut in range(0, len(whole), 7):
        host, port = server.url.split(":")
        with socket.create_connection((host, int(port)), 20) as cut_off:
            cut_off.sendall(whole[:cut])
    until(lambda: len(server.endpoint._connections) <= 2, "connections gone")
