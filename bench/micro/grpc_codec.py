"""Microseconds per ModelInferRequest decoded and ModelInferResponse encoded: our codec and protobuf's objects.

    python bench/micro/grpc_codec.py

protobuf's side does what a server on message objects has to do at least: parse, read names, shape and bytes; make a
response of the same tensor and serialise it.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

from triton_async import protos
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import make
from triton_async.protocol.grpc_codec import decode_request
from triton_async.protocol.grpc_encode import encode_response

Request = protos.message("inference.ModelInferRequest")
Response = protos.message("inference.ModelInferResponse")


def request_message(elements: int, typed: bool) -> bytes:
    message = Request(model_name="identity", id="1")
    tensor = message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, elements])
    message.outputs.add(name="OUTPUT0")
    if typed:
        tensor.contents.fp32_contents.extend([0.5] * elements)
    else:
        message.raw_input_contents.append(bytes(4 * elements))
    return bytes(message.SerializeToString())


def protobuf_decode(data: bytes) -> Any:
    message = Request.FromString(data)
    tensor = message.inputs[0]
    raw = message.raw_input_contents[0] if message.raw_input_contents else list(tensor.contents.fp32_contents)
    return message.model_name, message.id, tensor.name, tensor.datatype, list(tensor.shape), raw


def protobuf_encode(data: bytes, elements: int) -> bytes:
    message = Response(model_name="identity", model_version="1", id="1")
    message.outputs.add(name="OUTPUT0", datatype="FP32", shape=[1, elements])
    message.raw_output_contents.append(data)
    return bytes(message.SerializeToString())


def microseconds(function: Callable[[], Any]) -> float:
    """Best of seven."""
    count = max(1, int(0.05 / max(timeit.timeit(function, number=10) / 10, 1e-7)))
    return min(timeit.repeat(function, number=count, repeat=7)) / count * 1e6


def main() -> None:
    print(f"{'':34}{'ours':>10}{'protobuf':>10}{'ratio':>8}")
    for elements in (16, 150_528):
        size = f"FP32[{elements}]"
        for typed in (False, True):
            data = request_message(elements, typed)
            ours = microseconds(lambda data=data: decode_request(data))  # type: ignore[misc]
            theirs = microseconds(lambda data=data: protobuf_decode(data))  # type: ignore[misc]
            row(f"decode {size} {'typed' if typed else 'raw'}", ours, theirs)
        request = decode_request(request_message(elements, False))
        payload = bytes(4 * elements)
        response = InferResponse(request, "identity", 1, [make("OUTPUT0", 11, [1, elements], payload)])
        theirs = microseconds(lambda p=payload, n=elements: protobuf_encode(p, n))  # type: ignore[misc]
        row(f"encode {size} to parts", microseconds(lambda r=response: encode_response(r)), theirs)  # type: ignore[misc]
        joined = microseconds(lambda r=response: b"".join(encode_response(r)))  # type: ignore[misc]
        row(f"encode {size} joined", joined, theirs)


def row(what: str, ours: float, theirs: float) -> None:
    print(f"{what:34}{ours:10.2f}{theirs:10.2f}{theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
