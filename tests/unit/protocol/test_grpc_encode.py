"""Responses: our encoder against protobuf's own parser."""

from __future__ import annotations

import random
from typing import Any

import pytest

from triton_async import protos
from triton_async.datatypes import NAMES
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import Tensor, make
from triton_async.protocol import grpc_encode

Response = protos.message("inference.ModelInferResponse")
StreamResponse = protos.message("inference.ModelStreamInferResponse")


def body(parts: list[Any]) -> bytes:
    """The message without its prefix, which must be right."""
    data = b"".join(parts)
    assert data[0] == 0
    assert int.from_bytes(data[1:5], "big") == len(data) - 5
    return data[5:]


def random_outputs(r: random.Random) -> list[Tensor]:
    outputs = []
    for index in range(r.randint(0, 4)):
        shape = [r.choice([0, 1, 127, 128, 2**40]) for _ in range(r.randint(0, 4))]
        if sum(dim.bit_length() for dim in shape) > 60:
            shape = [1]
        data = r.randbytes(r.choice([0, 1, 16, 5000, 20000]))
        outputs.append(make(f"OUT{index}" * r.choice([1, 40]), r.randint(1, 14), shape, data))
    return outputs


def random_parameters(r: random.Random) -> dict[str, Any] | None:
    values = [True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 0.5, "", "é"]
    return r.choice([None, {f"k{i}": r.choice(values) for i in range(5)}])


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("stream", [False, True])
def test_protobuf_parses_what_we_encode(seed: int, stream: bool) -> None:
    r = random.Random(seed)
    outputs = random_outputs(r)
    parameters = random_parameters(r)
    name = r.choice(["m", "modèle", "x" * 300])
    request = InferRequest(name, id=r.choice(["", "42"]))
    response = InferResponse(request, name, r.choice([0, 1, 2**62]), outputs, parameters, final=r.random() < 0.5)
    if stream:
        envelope = StreamResponse.FromString(body(grpc_encode.encode_stream_response(response)))
        assert envelope.error_message == ""
        message = envelope.infer_response
        assert message.parameters.pop("triton_final_response").bool_param == response.final
    else:
        message = Response.FromString(body(grpc_encode.encode_response(response)))
    assert (message.model_name, message.id) == (name, request.id)
    assert message.model_version == str(response.model_version)
    found = {}
    for key, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        found[key] = getattr(value, kind)
        assert type(found[key]) is type((parameters or {})[key])
    assert found == (parameters or {})
    got = [(o.name, o.datatype, list(o.shape)) for o in message.outputs]
    assert got == [(t.name, NAMES[t.datatype], list(t.shape)) for t in outputs]
    assert list(message.raw_output_contents) == [bytes(t) for t in outputs]


def test_large_outputs_are_parts_of_their_own() -> None:
    tensor = make("OUT", 11, [25000], bytes(100_000))
    parts = grpc_encode.encode_response(InferResponse(InferRequest("m"), "m", 1, [tensor]))
    assert any(part is tensor for part in parts)
    assert len(parts[0]) < 64


def test_outputs_may_be_replaced() -> None:
    response = InferResponse(InferRequest("m"), "m", 1, [make("A", 11, [1], bytes(4))])
    other = make("B", 13, [1], b"\1\0\0\0x")
    message = Response.FromString(body(grpc_encode.encode_response(response, [other])))
    assert message.outputs[0].name == "B"
    assert message.raw_output_contents[0] == b"\1\0\0\0x"


def test_stream_errors() -> None:
    message = StreamResponse.FromString(body([grpc_encode.encode_stream_refusal("näh", "7")]))
    assert message == StreamResponse(error_message="näh", infer_response={"id": "7"})
    bare = StreamResponse.FromString(body([grpc_encode.encode_stream_refusal("x")]))
    assert bare == StreamResponse(error_message="x", infer_response={})
    response = InferResponse(InferRequest("m", id="7"), "m", 1, [], error=InvalidArg("x"), final=False)
    message = StreamResponse.FromString(body([grpc_encode.encode_stream_failure("x", response)]))
    inner = message.infer_response
    assert (inner.id, inner.model_name, inner.model_version) == ("7", "m", "1")
    assert inner.parameters["triton_final_response"].WhichOneof("parameter_choice") == "bool_param"
    assert not inner.parameters["triton_final_response"].bool_param


def test_responses_beyond_the_limit_of_grpc() -> None:
    tensor = make("OUT", 2, [2**30], bytes(2**30))
    response = InferResponse(InferRequest("m"), "m", 1, [tensor, tensor])
    with pytest.raises(InvalidArg, match=r"^Response has byte size \d+ which exceeds gRPC's byte size limit"):
        grpc_encode.encode_response(response)
