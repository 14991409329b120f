"""Mutations of valid bodies, and what must hold for any bytes at all: shared by the seeded tests and tests/fuzz."""

from __future__ import annotations

import copy
import json
import random
import struct
from importlib import resources
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from triton_async import datatypes, protos
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor, encode_bytes, make
from triton_async.protocol import http_control
from triton_async.protocol.grpc_codec import decode_request
from triton_async.protocol.grpc_encode import encode_response, encode_stream_response
from triton_async.protocol.http_codec import decode_infer, encode_infer
from triton_async.protocol.json_text import dumps, error_body, loads
from triton_async.protocol.wire import Malformed

MessageClass = protos.message("inference.ModelInferRequest")
LIMIT = 1 << 20
# Most bytes of a tensor that one byte of a body can become: `1,` is an FP64.
LARGEST_GROWTH = 8


def _model(datatype: str, dims: list[int], batch: int, inputs: int = 1) -> ModelSignature:
    number = datatypes.from_name(datatype)
    labels = ["cat", "dog"] if datatype == "FP32" else []
    return ModelSignature(
        "m", 1,
        [TensorSpec(f"INPUT{i}", number, dims, optional=i > 0) for i in range(inputs)],
        [TensorSpec(f"OUTPUT{i}", number, dims, labels=labels) for i in range(inputs)],
        batch,
    )  # fmt: skip


MODELS = [
    _model("FP32", [-1], 0), _model("FP64", [-1], 8), _model("INT32", [4], 8), _model("BYTES", [-1], 0),
    _model("BYTES", [1], 8), _model("BOOL", [-1, 2], 0), _model("INT64", [-1], 0, inputs=2), _model("UINT8", [], 0),
    _model("UINT64", [-1], 0), _model("FP16", [-1], 0), _model("INT16", [-1, -1], 4, inputs=2),
]  # fmt: skip
TOKENS = [
    b"-0", b"1e400", b"-1e400", b"1e-400", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615",
    b"18446744073709551616", b"-9223372036854775809", b"2147483648", b"4294967296", b"0.1e", b"01", b"1.", b".5", b"+1",
    b'"\\ud800"', b'"\\u0000"', b'"\\x"', b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"[", b"]", b"[[[", b"{}", b"null",
    b"true", b"false", b'""', b'"x":', b"NaN", b"Inf", b"-Infinity", b",", b":", b'"', b"\\", b"\0", b"\n", b" ", b"[]",
    b'"data":', b'"binary_data_size":', b'"shape":', b'"parameters":', b'"classification":', b"-1", b"0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", b"\x7f", b"\x80",
]  # fmt: skip


def mutate(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A seed after one to six changes."""
    data = bytearray(choose.choice(seeds))
    for _ in range(choose.randint(1, 6)):
        at = choose.randint(0, len(data))
        span = choose.choice([1, 1, 2, 4, 8, 40])
        kind = choose.randrange(7)
        if kind == 0:
            data[at : at + span] = b""
        elif kind == 1:
            data[at:at] = choose.randbytes(span)
        elif kind == 2 and at < len(data):
            data[at] ^= 1 << choose.randrange(8)
        elif kind == 3:
            data[at : at + choose.choice([0, 1, 4])] = choose.choice(TOKENS)
        elif kind == 4:
            start = choose.randint(0, len(data))
            data[at:at] = data[start : start + span * 4]
        elif kind == 5:
            other = choose.choice(seeds)
            start = choose.randint(0, len(other))
            data[at : at + span] = other[start : start + span * 2]
        else:
            data[at : at + 4] = struct.pack("<I", choose.choice([0, 1, 4, len(data), 2**31 - 1, 2**31, 2**32 - 1]))
    return bytes(data)


HOSTILE: list[Any] = [
    None, True, False, 0, -0.0, 1, -1, 1.5, -1.5, 1e300, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
    -(2**63), -(2**63) - 1, "", "x", "\0", "é", "\ud800", "INPUT0", "OUTPUT0", "FP32", "BYTES", "INT64", [], [[]], {},
    [1], ["a"], [[1, 2], [3]], [None], {"a": 1}, [1] * 17, ["a", 1], 255, 256, -129, 65536, "1", "18446744073709551616",
]  # fmt: skip


def mutate_json(choose: random.Random, seeds: list[bytes]) -> bytes:
    """An HTTP seed with one to three values of its header replaced, removed or doubled; the framing stays right."""
    data = choose.choice(seeds)
    number, length = struct.unpack_from("<BH", data)
    if length == 0:
        return mutate(choose, seeds)
    text = data[3:] if length == 0xFFFF else data[3 : 3 + length]
    tail = b"" if length == 0xFFFF else data[3 + length :]
    document = json.loads(text)
    for _ in range(choose.randint(1, 3)):
        holder: Any = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = choose.choice(keys)
            if isinstance(holder[key], dict | list) and choose.random() < 0.85:
                holder = holder[key]
                continue
            if choose.random() < 0.15:
                del holder[key]
            elif isinstance(holder, list) and choose.random() < 0.3:
                holder.insert(key, copy.deepcopy(holder[key]))
            else:
                holder[key] = copy.deepcopy(choose.choice(HOSTILE))
            break
    text = json.dumps(document, ensure_ascii=choose.random() < 0.5).encode("utf-8", "surrogatepass")
    return struct.pack("<BH", number, 0xFFFF if length == 0xFFFF else len(text) % 0xFFFF) + text + tail


# -- other JSON ------------------------------------------------------------------------------------

JSON_SEEDS = [
    b'{"ready":true}', b'{"parameters":{"config":"{}","file:1/model.onnx":"QUJD"}}', b"[]", b"",
    b'{"parameters":{"unload_dependents":true}}', b'{"a":[1,-2.5e10,null,"\\u00e9\\ud83d\\ude00",{"b":[]}]}',
]  # fmt: skip


def check_json(data: bytes) -> str:
    """What became of it: `refused` or `read`. Anything but a ServerError is raised on."""
    for parse in (http_control.parse_index, http_control.parse_load, http_control.parse_unload):
        try:
            parse(data)
        except ServerError as error:
            error.message.encode()
    try:
        found: Any = loads(data)
    except ServerError:
        return "refused"
    plain = plain_json(data)
    assert plain is None or repr(found) == repr(plain)
    dumps(found)
    return "read"


# -- HTTP ------------------------------------------------------------------------------------------


def http_seeds() -> list[bytes]:
    """Bodies with their header length (two bytes, 65535: none) and the number of their model (one byte) in front."""
    seeds = []
    for number, model in enumerate(MODELS):
        for binary in (False, True):
            if not binary and model.inputs[0].datatype == datatypes.from_name("FP16"):
                continue  # has no JSON form
            head, tail = _http_body(model, binary)
            text = json.dumps(head).encode()
            length = len(text) if binary else 0xFFFF
            seeds.append(struct.pack("<BH", number, length) + text + tail)
    return [*seeds, struct.pack("<BH", 0, 0) + bytes(16), struct.pack("<BH", 6, 0) + bytes(16)]


def _http_body(model: ModelSignature, binary: bool) -> tuple[dict[str, Any], bytes]:
    inputs, tail = [], b""
    for spec in model.inputs:
        shape = [2] * (model.max_batch_size > 0) + [2 if dim < 0 else dim for dim in spec.dims]
        count = int(np.prod(shape, dtype=int))
        value: Any = {datatypes.from_name("BYTES"): "é\\n", datatypes.from_name("BOOL"): True}.get(spec.datatype, 1)
        values = [value] * count
        entry: dict[str, Any] = {"name": spec.name, "datatype": datatypes.to_name(spec.datatype), "shape": shape}
        if binary:
            size = datatypes.element_size(spec.datatype)
            data = bytes(count * size) if size else encode_bytes(values)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = np.reshape(np.array(values, object), shape or [1]).tolist()
        inputs.append(entry)
    outputs: list[dict[str, Any]] = [
        {"name": spec.name, "parameters": {"binary_data": binary}} for spec in model.outputs
    ]
    if not binary and datatypes.to_name(model.inputs[0].datatype) not in ("BYTES", "BOOL"):
        outputs[0]["parameters"] = {"classification": 2}
    parameters = {"sequence_id": 1, "priority": 2, "timeout": 3, "own": "x", "n": -1.5, "b": True}
    return {"id": "é", "parameters": parameters, "inputs": inputs, "outputs": outputs}, tail


def check_http(data: bytes) -> str:
    """What became of it: `refused`, `unfit` or `answered`. Anything but a ServerError is raised on."""
    if len(data) < 3:
        return "refused"
    number, length = struct.unpack_from("<BH", data)
    model, body = MODELS[number % len(MODELS)], data[3:]
    header_length = -1 if length == 0xFFFF else length
    try:
        request = decode_infer("m", -1, model, body, header_length, LIMIT, 1)
    except ServerError as error:
        error_body(error.message)
        return "refused"
    assert sum(tensor.nbytes for tensor in request.inputs) <= LARGEST_GROWTH * len(body) + 16
    if header_length:
        _compare_json(request, body if header_length < 0 else body[:header_length])
    try:
        model.validate(request)
    except ServerError as error:
        error_body(error.message)
        return "unfit"
    outputs = [_renamed(tensor) for tensor in request.inputs]
    try:
        head, parts, _, _ = encode_infer(request, InferResponse(request, "m", 1, outputs), model)
    except ServerError as error:
        error_body(error.message)
        return "unfit"
    shown = json.loads(head)
    sizes = [entry.get("parameters", {}).get("binary_data_size", 0) for entry in shown["outputs"]]
    assert sum(sizes) == sum(map(len, parts))
    return "answered"


def _renamed(tensor: Tensor) -> Tensor:
    return make(tensor.name.replace("IN", "OUT"), tensor.datatype, tensor.shape, tensor)


def _compare_json(request: InferRequest, header: bytes) -> None:
    """The inputs that came as JSON are what Python's own parser reads."""
    document = plain_json(header)
    if document is None:
        return
    assert request.id == (document.get("id") or "")  # null is as good as absent
    assert [tensor.name for tensor in request.inputs] == [entry["name"] for entry in document["inputs"]]
    for tensor, entry in zip(request.inputs, document["inputs"], strict=True):
        assert list(tensor.shape) == entry["shape"]
        if entry.get("data") is None:
            continue
        values = _flat(entry["data"])
        name = datatypes.to_name(tensor.datatype)
        if name == "BYTES":
            assert bytes(tensor) == encode_bytes(values)  # their number is the validation's to check
            continue
        assert len(values) == tensor.element_count
        if name == "BOOL":
            assert [bool(item) for item in bytes(tensor)] == values
        elif name in ("FP32", "FP64"):
            with np.errstate(all="ignore"):
                expected = np.array([float(value) for value in values], np.float64).astype(tensor.numpy().dtype)
            assert expected.tobytes() == bytes(tensor)
        else:
            assert tensor.numpy().reshape(-1).tolist() == values


def plain_json(text: bytes) -> Any:
    """What Python reads; None for what Triton takes beside it: `Inf`, `-NaN` and a byte order mark."""
    try:
        return json.loads(text, parse_int=_number)
    except ValueError:
        assert b"Inf" in text or b"-NaN" in text or text.startswith(b"\xef\xbb\xbf")
        return None


def _number(text: str) -> int | float:
    """Integers of more than 64 bits are doubles, as for Triton."""
    value = int(text)
    return value if -(2**63) <= value < 2**64 else float(value)


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    found: list[Any] = []
    pending = [iter(value)]
    while pending:
        for item in pending[-1]:
            if isinstance(item, list):
                pending.append(iter(item))
                break
            found.append(item)
        else:
            pending.pop()
    return found


# -- gRPC ------------------------------------------------------------------------------------------

def _structure() -> Any:
    """ModelInferRequest with bytes for its strings: protobuf refuses a string that is no UTF-8 even where a later one
    takes its place, which is never looked at here.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(protos.__package__).joinpath("inference.desc").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pending = list(file.message_type)
        while pending:
            message = pending.pop()
            pending += message.nested_type
            message.options.ClearField("map_entry")  # keys of maps cannot be bytes
            for described in message.field:
                if described.type == described.TYPE_STRING:
                    described.type = described.TYPE_BYTES
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))


STRUCTURE = _structure()
CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT64": "uint64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents",
    "INT16": "int_contents",
}  # fmt: skip


def grpc_seeds() -> list[bytes]:
    """Serialised requests, raw and typed, with one byte for their model in front."""
    seeds = []
    for number, model in enumerate(MODELS):
        for raw in (True, False):
            message = MessageClass(model_name="m", model_version="1", id="é")
            message.parameters["priority"].uint64_param = 3
            message.parameters["own"].string_param = "x"
            message.parameters["sequence_start"].bool_param = True
            for spec in model.inputs:
                name = datatypes.to_name(spec.datatype)
                shape = [2] * (model.max_batch_size > 0) + [2 if dim < 0 else dim for dim in spec.dims]
                count = int(np.prod(shape, dtype=int))
                tensor = message.inputs.add(name=spec.name, datatype=name, shape=shape)
                if raw or name not in CONTENTS:
                    size = datatypes.element_size(spec.datatype)
                    message.raw_input_contents.append(bytes(count * size) if size else encode_bytes(["ab"] * count))
                else:
                    getattr(tensor.contents, CONTENTS[name]).extend([b"ab" if name == "BYTES" else 1] * count)
            output = message.outputs.add(name="OUTPUT0")
            if not raw:
                output.parameters["classification"].int64_param = 1
            seeds.append(bytes([number]) + message.SerializeToString())
    return seeds


def check_grpc(data: bytes) -> str:
    """What became of it: `malformed`, `refused`, `unfit` or `answered`. Anything but a ServerError is raised on."""
    if not data:
        return "malformed"
    model, message = MODELS[data[0] % len(MODELS)], data[1:]
    try:
        request = decode_request(message, 1)
    except Malformed:
        return "malformed"
    except ServerError as error:
        error.message.encode()
        return "refused"
    assert sum(tensor.nbytes for tensor in request.inputs) <= LARGEST_GROWTH * len(message) + 16
    _compare_message(request, message)
    try:
        model.validate(request)
    except ServerError as error:
        error.message.encode()
        return "unfit"
    response = InferResponse(request, "m", 1, [_renamed(tensor) for tensor in request.inputs])
    answered = protos.message("inference.ModelInferResponse").FromString(b"".join(encode_response(response)[0:])[5:])
    assert [bytes(output) for output in response.outputs] == list(answered.raw_output_contents)
    encode_stream_response(response)
    return "answered"


def _compare_message(request: InferRequest, data: bytes) -> None:
    """What protobuf itself reads in the message."""
    STRUCTURE.FromString(data)
    try:
        message = MessageClass.FromString(data)
    except DecodeError:
        return
    assert (request.model_name, request.id) == (message.model_name, message.id)
    assert [output.name for output in request.outputs] == [output.name for output in message.outputs]
    assert len(request.inputs) == len(message.inputs)
    raw = iter(message.raw_input_contents)
    for tensor, described in zip(request.inputs, message.inputs, strict=True):
        assert (tensor.name, list(tensor.shape)) == (described.name, list(described.shape))
        assert tensor.datatype == datatypes.from_name(described.datatype)
        if not described.HasField("contents"):
            assert bytes(tensor) == next(raw)
