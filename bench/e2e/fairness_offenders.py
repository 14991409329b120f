"""Clients that ask for more than their share: each goes on until it is told to stop."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import h2.config
import h2.connection
import numpy as np

from triton_async import protos

from . import fairness_models as models

_SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT_S = 120.0
MIB = 1 << 20

# What an offender gets: the ports, and the order to stop.
Ports = tuple[int, int]
Offender = Callable[[Ports, threading.Event], None]


def _entry(values: str, count: int, datatype: str = "FP32", name: str = "X") -> str:
    return f'{{"name":"{name}","datatype":"{datatype}","shape":[{count}],"data":[{values}]}}'


def _infer(entry: str, more: str = "") -> bytes:
    return f'{{"inputs":[{entry}]{more}}}'.encode()


def post(path: str, make: Callable[[], bytes], **headers: str) -> Offender:
    """Sends one body over and over, each when the answer to the last one is there."""

    def offend(ports: Ports, stop: threading.Event) -> None:
        body = make()
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=_TIMEOUT_S)
            connection.request("POST", path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            connection.getresponse().read()
            connection.close()

    return offend


def infer(model: str, make: Callable[[], bytes], **headers: str) -> Offender:
    """`post` of an inference request."""
    return post(f"/v2/models/{model}/infer", make, **headers)


def _numbers(count: int) -> str:
    return ",".join(f"{value:.6f}" for value in np.random.default_rng(1).random(1000)) + f",{1.5}" * (count - 1000)


def _binary(count: int, outputs: str) -> Offender:
    head = json.dumps({
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}],
        "outputs": json.loads(outputs),
    }).encode()  # fmt: skip
    tensor = np.random.default_rng(2).random(count, dtype=np.float32).tobytes()
    return infer(models.WIDE, lambda: head + tensor, Inference_Header_Content_Length=str(len(head)))


def pipelined(request: bytes, connections: int = 1) -> Offender:
    """The same request again and again, without waiting; answers are read and thrown away."""

    def flood(ports: Ports, stop: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", ports[0])) as sock:
            many = request * (65536 // len(request) + 1)

            def read() -> None:
                try:
                    while sock.recv(1 << 20):
                        pass
                except OSError:
                    return

            reader = threading.Thread(target=read)
            reader.start()
            try:
                while not stop.is_set():
                    sock.sendall(many)
            except OSError:
                pass
            sock.shutdown(socket.SHUT_RDWR)
            reader.join()

    return several(flood, connections)


def several(offender: Offender, count: int) -> Offender:
    """So many of them at once."""

    def offend(ports: Ports, stop: threading.Event) -> None:
        threads = [threading.Thread(target=offender, args=(ports, stop)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return offend


def plain(body: bytes) -> bytes:
    """An inference request as bytes."""
    head = f"POST /v2/models/{models.LIGHT}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def call(method: str, make: Callable[[], bytes]) -> Offender:
    """One gRPC call after the other."""

    def offend(ports: Ports, stop: threading.Event) -> None:
        message = make()
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{ports[1]}", options) as channel:
            ask = channel.unary_unary(_SERVICE + method)
            while not stop.is_set():
                try:
                    ask(message, timeout=_TIMEOUT_S)
                except grpc.RpcError:
                    continue

    return offend


def _http2(ports: Ports) -> tuple[socket.socket, h2.connection.H2Connection]:
    sock = socket.create_connection(("127.0.0.1", ports[1]))
    wire = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
    wire.initiate_connection()
    sock.sendall(wire.data_to_send())
    return sock, wire


_HEAD = [
    (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", _SERVICE + "ModelInfer"),
    ("content-type", "application/grpc"), ("te", "trailers"),
]  # fmt: skip


def refused_calls(ports: Ports, stop: threading.Event) -> None:
    """Calls without a message, which are refused as soon as they are opened."""
    while not stop.is_set():
        sock, wire = _http2(ports)
        threading.Thread(target=_drain, args=(sock,), daemon=True).start()
        try:
            for _ in range(400):
                for _ in range(64):
                    wire.send_headers(wire.get_next_available_stream_id(), _HEAD, end_stream=True)
                sock.sendall(wire.data_to_send())
                if stop.is_set():
                    break
        except OSError:
            pass
        except h2.exceptions.TooManyStreamsError:
            pass
        sock.close()


def long_headers(ports: Ports, stop: threading.Event) -> None:
    """Header blocks that stand for far more than they are."""
    field = ("x-long", "y" * 3900)
    while not stop.is_set():
        sock, wire = _http2(ports)
        try:
            for _ in range(50):
                wire.send_headers(wire.get_next_available_stream_id(), [*_HEAD, *[field] * 30], end_stream=True)
                sock.sendall(wire.data_to_send())
        except OSError:
            pass
        sock.close()


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(1 << 20):
            pass
    except OSError:
        return


def backlog(ports: Ports, stop: threading.Event) -> None:
    """A stream whose client sends 100,000 requests before it reads the first answer."""
    message = protos.message("inference.ModelInferRequest")(model_name=models.LIGHT)
    message.inputs.add(name="X", datatype="FP32", shape=[16])
    message.raw_input_contents.append(bytes(64))
    data = message.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        while not stop.is_set():
            answers = channel.stream_stream(_SERVICE + "ModelStreamInfer")(iter([data] * 100_000))
            for _ in answers:
                if stop.is_set():
                    answers.cancel()
                    break


def index(ports: Ports, stop: threading.Event) -> None:
    """1,000 index calls at a time, pipelined."""
    request = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    pipelined(request * 1000)(ports, stop)


def sudden(ports: Ports, stop: threading.Event) -> None:
    """1,000 requests of a few microseconds, then one of two seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=_TIMEOUT_S)
    while not stop.is_set():
        for rounds in [0] * 1000 + [40_000]:
            body = _infer(f'{{"name":"N","datatype":"INT64","shape":[],"data":[{rounds}]}}')
            connection.request("POST", f"/v2/models/{models.ROUNDS}/infer", body)
            connection.getresponse().read()


def _load_message() -> bytes:
    message = protos.message("inference.RepositoryModelLoadRequest")(model_name="x")
    for number in range(1_000_000):
        message.parameters[str(number)].string_param = "x"
    data: bytes = message.SerializeToString()
    return data


def _name_message() -> bytes:
    data: bytes = protos.message("inference.ModelConfigRequest")(name="x" * (200 * MIB)).SerializeToString()
    return data


def compute(_: Ports, stop: threading.Event) -> None:
    """Asks nothing of the server."""
    while not stop.is_set():
        sum(range(100_000))


def loads_over_http(ports: Ports, stop: threading.Event) -> None:
    """Loads and unloads a model whose graph takes seconds to prepare."""
    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=_TIMEOUT_S)
    while not stop.is_set():
        for action in ("load", "unload"):
            connection.request("POST", f"/v2/repository/models/{models.SLOW}/{action}", b"{}")
            connection.getresponse().read()


def loads_over_grpc(ports: Ports, stop: threading.Event) -> None:
    """The same."""
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        while not stop.is_set():
            for rpc in ("RepositoryModelLoad", "RepositoryModelUnload"):
                request = protos.message(f"inference.{rpc}Request")(model_name=models.SLOW)
                channel.unary_unary(_SERVICE + rpc)(request.SerializeToString(), timeout=_TIMEOUT_S)


def stalled_handshakes(ports: Ports, stop: threading.Event) -> None:
    """500 clients that begin a TLS handshake and stop in the middle of the first message; every 50 ms a new one."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
    waiting: list[socket.socket] = []
    while not stop.is_set():
        while len(waiting) < 500:
            sock = socket.create_connection(("127.0.0.1", ports[1]))
            sock.sendall(hello)
            waiting.append(sock)
        stop.wait(0.05)
        waiting.pop(0).close()
    for sock in waiting:
        sock.close()


def _infer_message(model: str, datatype: str, count: int) -> Any:
    request = protos.message("inference.ModelInferRequest")(model_name=model)
    request.inputs.add(name="X", datatype=datatype, shape=[count])
    return request


def _typed_message() -> bytes:
    request = _infer_message(models.WIDE, "FP32", 8_000_000)
    request.inputs[0].contents.fp32_contents.extend(np.full(8_000_000, 1.5).tolist())
    data: bytes = request.SerializeToString()
    return data


def _strings_message() -> bytes:
    request = _infer_message(models.TEXT, "BYTES", 16_000_000)
    request.raw_input_contents.append(bytes(4 * 16_000_000))
    data: bytes = request.SerializeToString()
    return data


def _classes_message() -> bytes:
    request = _infer_message(models.WIDE, "FP32", 1_000_000)
    request.raw_input_contents.append(np.random.default_rng(3).random(1_000_000, dtype=np.float32).tobytes())
    request.outputs.add(name="Y").parameters["classification"].int64_param = 1_000_000
    data: bytes = request.SerializeToString()
    return data


def _generate_body() -> bytes:
    return f'{{"X":[{_numbers(2_000_000)}]}}'.encode()


_CLASSES = '[{"name":"Y","parameters":{"classification":1000000}}]'

COMPUTING = "a process that computes"
TLS = "gRPC: stalled TLS handshakes"
LOG = "a full log pipe, and refused requests that are logged"

OFFENDERS: dict[str, Offender | Any] = {
    "nobody": None,
    COMPUTING: compute,
    "HTTP: [[1]] 7 million times": infer(
        models.WIDE, lambda: _infer(_entry(",".join(["[[1]]"] * 7_000_000), 7_000_000))
    ),
    "HTTP: 20 million empty objects, unknown": infer(
        models.WIDE, lambda: b'{"x":[' + b"{}," * 20_000_000 + b"{}]}"
    ),
    "HTTP: the same to the index": post("/v2/repository/index", lambda: b'{"x":[' + b"{}," * 20_000_000 + b"{}]}"),
    "HTTP: a million classes": _binary(1_000_000, _CLASSES),
    "HTTP: 60 MiB of numbers, gzip": infer(
        models.WIDE, lambda: gzip.compress(_infer(_entry("1.5," * 15_000_000 + "1.5", 15_000_001)), 1),
        Content_Encoding="gzip",
    ),
    "HTTP: 800,000 inputs": infer(models.WIDE, lambda: _infer(",".join([_entry("1", 1)] * 800_000))),
    "HTTP: a million parameters": infer(
        models.WIDE,
        lambda: _infer(_entry("1", 1), ',"parameters":{' + ",".join(f'"p{i}":1' for i in range(1_000_000)) + "}"),
    ),
    "HTTP: 12 million strings": infer(
        models.TEXT, lambda: _infer(_entry(",".join(['"a"'] * 12_000_000), 12_000_000, "BYTES"))
    ),
    "HTTP: 5 million numbers": infer(models.WIDE, lambda: _infer(_entry(_numbers(5_000_000), 5_000_000))),
    "HTTP: 16 million numbers asked for": infer(
        models.MAKER, lambda: _infer('{"name":"N","datatype":"INT64","shape":[1],"data":[16000000]}')
    ),
    "HTTP: 32 MiB binary in, JSON out": _binary(8 * MIB, '[{"name":"Y"}]'),
    "HTTP: a load of 60 MiB": post("/v2/repository/models/x/load", lambda: (
        b'{"parameters":{"config":"{}","file:1/model.onnx":"' + b"QUFB" * (15 * MIB) + b'"}}'
    )),
    "HTTP: an id of 60 MiB": infer(models.LIGHT, lambda: b'{"id":"' + b"x" * (60 * MIB) + b'"}'),
    "HTTP: white space of 60 MiB": infer(models.LIGHT, lambda: b" " * (60 * MIB) + b"{}"),
    "gRPC: a name of 200 MiB": call("ModelConfig", _name_message),
    "gRPC: a load with a million parameters": call("RepositoryModelLoad", _load_message),
    "HTTP: pipelined requests that are refused": pipelined(plain(b"{}")),
    "HTTP: four of them": pipelined(plain(b"{}"), 4),
    "HTTP: pipelined requests": pipelined(plain(_infer(_entry(",".join(["1"] * 16), 16)))),
    "gRPC: four connections of refused calls": several(refused_calls, 4),
    "gRPC: header blocks": several(long_headers, 4),
    "gRPC: 100,000 requests of one stream": backlog,
    "HTTP: 1,000 index calls": index,
    "HTTP: 2 s after 1,000 short ones": sudden,
    "HTTP: loads whose engine takes 5 s": loads_over_http,
    "gRPC: loads whose engine takes 5 s": loads_over_grpc,
    "gRPC: typed contents, 8 million": call("ModelInfer", _typed_message),
    "gRPC: 16 million strings": call("ModelInfer", _strings_message),
    "gRPC: a million classes": call("ModelInfer", _classes_message),
    "HTTP: 2 million numbers by generate": post(f"/v2/models/{models.WIDE}/generate", _generate_body),
    TLS: stalled_handshakes,
    LOG: pipelined(plain(b"{}")),
}  # fmt: skip
