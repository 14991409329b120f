"""The express lane answers with the same bytes as grpclib's HTTP/2 and the service handlers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_harness import Running, serving, write_model
from raw_http2 import INFER, LIVE, Answer, RawClient, message

from triton_async import protos

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
SERVICE = "/inference.GRPCInferenceService/"
Lanes = tuple[Running, Running]


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """The same repository behind each lane."""
    root: Path = tmp_path_factory.mktemp("lanes")
    write_model(root, "fp32")
    write_model(root, "strings", datatype="TYPE_STRING")
    write_model(root, "two", count=2)
    write_model(root, "decoupled", more="model_transaction_policy { decoupled: true }")
    write_model(
        root, "batched", dims="4", max_batch_size=8, labels=["a", "b", "c", "d"], more="dynamic_batching { }"
    )
    options = ("--id=lanes",)
    with serving(root, *options, express=True) as express, serving(root, *options, express=False) as slow:
        yield express, slow


def build(model: str = "fp32", *inputs: tuple[str, str, list[int], Any], **more: Any) -> Any:
    """A request; inputs are (name, datatype, shape, raw bytes or fields of the contents)."""
    request = protos.message("inference.ModelInferRequest")(model_name=model, **more)
    for name, datatype, shape, data in inputs:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if isinstance(data, dict):
            for field, values in data.items():
                getattr(tensor.contents, field).extend(values)
        elif data is not None:
            request.raw_input_contents.append(data)
    return request


def fp32(count: int) -> bytes:
    return np.arange(count, dtype=np.float32).tobytes()


def asking(request: Any, **outputs: int) -> Any:
    for name, classes in outputs.items():
        output = request.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    return request


def with_parameter(request: Any, key: str, **value: Any) -> Any:
    for field, content in value.items():
        setattr(request.parameters[key], field, content)
    return request


ONE = ("INPUT0", "FP32", [4], fp32(4))
REQUESTS: dict[str, Callable[[], Any]] = {
    "raw": lambda: build("fp32", ONE),
    "id": lambda: build("fp32", ONE, id="ü-7"),
    "version": lambda: build("fp32", ONE, model_version="1"),
    "no such version": lambda: build("fp32", ONE, model_version="2"),
    "version that is no number": lambda: build("fp32", ONE, model_version="x"),
    "typed": lambda: build("fp32", ("INPUT0", "FP32", [3], {"fp32_contents": [1.5, 2, 3]})),
    "typed and wrong": lambda: build("fp32", ("INPUT0", "FP32", [3], {"int_contents": [1, 2, 3]})),
    "empty": lambda: build("fp32", ("INPUT0", "FP32", [0], b"")),
    "large": lambda: build("fp32", ("INPUT0", "FP32", [300_000], fp32(300_000))),
    "just above one part": lambda: build("fp32", ("INPUT0", "FP32", [4097], fp32(4097))),
    "strings": lambda: build("strings", ("INPUT0", "BYTES", [2], {"bytes_contents": [b"", b"\xff\0"]})),
    "broken strings": lambda: build("strings", ("INPUT0", "BYTES", [2], b"\1\0\0\0")),
    "long and typed": lambda: build("fp32", ("INPUT0", "FP32", [50_000], {"fp32_contents": [1.5] * 50_000})),
    "long, typed and wrong": lambda: build("fp32", ("INPUT0", "FP32", [9], {"fp32_contents": [1.5] * 50_000})),
    "long, of another model": lambda: build("nope", ("INPUT0", "FP32", [9], {"fp32_contents": [1.5] * 50_000})),
    "many strings": lambda: build("strings", ("INPUT0", "BYTES", [200_000], b"\1\0\0\0x" * 200_000)),
    "many, typed": lambda: build("strings", ("INPUT0", "BYTES", [150_000], {"bytes_contents": 150_000 * [b""]})),
    "many strings, one too few": lambda: build("strings", ("INPUT0", "BYTES", [200_001], b"\1\0\0\0x" * 200_000)),
    "many strings, one cut": lambda: build("strings", ("INPUT0", "BYTES", [200_000], b"\1\0\0\0x" * 199_999 + b"1")),
    "many classes": lambda: asking(build("fp32", ("INPUT0", "FP32", [30_000], fp32(30_000))), OUTPUT0=20),
    "too many classes": lambda: asking(build("fp32", ("INPUT0", "FP32", [1_000_001], fp32(1_000_001))), OUTPUT0=2),
    "two": lambda: build("two", ONE, ("INPUT1", "FP32", [2], fp32(2))),
    "two, one asked for": lambda: asking(build("two", ONE, ("INPUT1", "FP32", [2], fp32(2))), OUTPUT1=0),
    "unknown output": lambda: asking(build("fp32", ONE), NOPE=0),
    "classes": lambda: asking(build("batched", ("INPUT0", "FP32", [2, 4], fp32(8))), OUTPUT0=3),
    "batch": lambda: build("batched", ("INPUT0", "FP32", [8, 4], fp32(32))),
    "batch too large": lambda: build("batched", ("INPUT0", "FP32", [9, 4], fp32(36))),
    "wrong shape": lambda: build("fp32", ("INPUT0", "FP32", [5], fp32(4))),
    "negative shape": lambda: build("fp32", ("INPUT0", "FP32", [-4], fp32(4))),
    "wrong datatype": lambda: build("fp32", ("INPUT0", "INT32", [4], fp32(4))),
    "no input": lambda: build("fp32"),
    "no data": lambda: build("fp32", ("INPUT0", "FP32", [4], None)),
    "unknown input": lambda: build("fp32", ("NOPE", "FP32", [4], fp32(4))),
    "unknown model": lambda: build("nope", ONE),
    "no model": lambda: build("", ONE),
    "decoupled": lambda: build("decoupled", ONE),
    "parameters": lambda: with_parameter(build("fp32", ONE), "key", string_param="value"),
    "sequence": lambda: with_parameter(build("fp32", ONE), "sequence_id", bool_param=True),
    "priority": lambda: with_parameter(build("fp32", ONE), "priority", int64_param=-1),
}


def same(lanes: Lanes, act: Callable[[RawClient], Answer]) -> Answer:
    found = []
    for running in lanes:
        with RawClient(running.url) as raw:
            found.append(act(raw))
    assert found[0].headers == found[1].headers
    assert found[0].data == found[1].data
    assert not found[0].terminated
    return found[0]


@pytest.mark.parametrize("case", REQUESTS)
def test_unary(lanes: Lanes, case: str) -> None:
    data = message(REQUESTS[case]().SerializeToString())
    answer = same(lanes, lambda raw: raw.call(INFER, data))
    assert answer.status in (0, 3, 5, 12, 13, 14)


@pytest.mark.parametrize("case", REQUESTS)
def test_the_same_requests_on_streams(lanes: Lanes, case: str) -> None:
    data = message(REQUESTS[case]().SerializeToString())
    answer = same(lanes, lambda raw: raw.call(STREAM, data))
    assert answer.status == 0
    assert answer.data
    same(lanes, lambda raw: raw.call(STREAM, data, triton_grpc_error="true"))


def test_a_stream_of_all_requests(lanes: Lanes) -> None:
    # Answers of decoupled models come in any order.
    requests = [make() for name, make in REQUESTS.items() if name != "decoupled"]
    data = b"".join(message(request.SerializeToString()) for request in requests)
    assert same(lanes, lambda raw: raw.call(STREAM, data)).status == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", message(b"") * 2, message(b"abc", nbytes=4), message(b"x", flag=3), message(b"", flag=1),
     message(b"\xff" * 9), message(b"\x0a\x02\xc3\x28"), message(b"", nbytes=2**31)],
)  # fmt: skip
@pytest.mark.parametrize("path", [INFER, STREAM])
def test_broken_messages(lanes: Lanes, path: str, data: bytes) -> None:
    # A second message on a unary call is refused as soon as it begins, by the express lane.
    same(lanes, lambda raw: raw.call(path, data))


@pytest.mark.parametrize("timeout", ["0n", "1X", "123456789S", "20S"])
@pytest.mark.parametrize("path", [INFER, STREAM])
def test_deadlines(lanes: Lanes, path: str, timeout: str) -> None:
    data = message(REQUESTS["raw"]().SerializeToString())
    same(lanes, lambda raw: raw.call(path, data, grpc_timeout=timeout))


def test_the_deadline_of_a_stream_that_stays_open(lanes: Lanes) -> None:
    assert same(lanes, lambda raw: raw.call(STREAM, b"", end=False, grpc_timeout="10m")).status == 4


@pytest.mark.parametrize(
    "headers", [{"grpc_encoding": "br"}, {"content_type": "text/plain"}, {"grpc_encoding": "identity"}]
)
def test_heads(lanes: Lanes, headers: dict[str, str]) -> None:
    data = message(REQUESTS["raw"]().SerializeToString())
    same(lanes, lambda raw: raw.call(INFER, data, **headers))


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("ServerLive", {}), ("ServerReady", {}), ("ModelReady", {"name": "fp32"}), ("ModelReady", {"name": "nope"}),
        ("ServerMetadata", {}), ("ModelMetadata", {"name": "batched"}), ("ModelConfig", {"name": "fp32"}),
        ("RepositoryIndex", {}), ("Nope", None),
    ],
)  # fmt: skip
def test_other_calls(lanes: Lanes, rpc: str, fields: dict[str, str] | None) -> None:
    data = b"" if fields is None else protos.message(f"inference.{rpc}Request")(**fields).SerializeToString()
    same(lanes, lambda raw: raw.call(SERVICE + rpc, message(data)))
    same(lanes, lambda raw: raw.call(SERVICE + rpc, message(data) * 2))
    same(lanes, lambda raw: raw.call(SERVICE + rpc, message(data)[:-1]))


def test_a_window_of_one_byte_and_more(lanes: Lanes) -> None:
    def act(raw: RawClient) -> Answer:
        raw.h2.update_settings({4: 1})
        raw.flush()
        return raw.call(INFER, message(REQUESTS["id"]().SerializeToString()))

    assert same(lanes, act).status == 0


def test_live(lanes: Lanes) -> None:
    assert same(lanes, lambda raw: raw.call(LIVE, message(b""))).data == message(b"\x08\x01")


def test_answers_are_what_was_sent(lanes: Lanes) -> None:
    rng = np.random.default_rng(1)
    with RawClient(lanes[0].url) as raw:
        for count in [0, 1, 3, 2047, 2048, 4095, 4096, 4097, 16_384, 100_000, 1_000_000, 3_000_001]:
            data = rng.random(count, dtype=np.float32).tobytes()
            answer = raw.call(INFER, message(build("fp32", ("INPUT0", "FP32", [count], data)).SerializeToString()))
            (nbytes,) = struct.unpack(">I", answer.data[1:5])
            assert nbytes == len(answer.data) - 5
            response = protos.message("inference.ModelInferResponse").FromString(answer.data[5:])
            assert response.raw_output_contents[0] == data
