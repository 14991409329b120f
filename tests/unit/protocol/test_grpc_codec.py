"""Requests: our wire decoder against protobuf's own serialisation, and Triton's refusals."""

from __future__ import annotations

import random
import struct
from typing import Any

import fake_cuda_sync
import numpy as np
import pytest

from triton_async import protos
from triton_async.datatypes import NAMES, element_size, from_name, numpy_dtype
from triton_async.errors import InvalidArg, NotFound, ServerError
from triton_async.infer.tensor import encode_bytes
from triton_async.memory.regions import RegionRegistry
from triton_async.protocol.grpc_codec import decode_request, request_id
from triton_async.protocol.wire import Malformed

Request = protos.message("inference.ModelInferRequest")
Contents = protos.message("inference.InferTensorContents")

# Contents field of a datatype, and a strategy for its elements.
FIELDS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", lambda r: r.random() < 0.5),
    "INT8": ("int_contents", lambda r: r.randint(-128, 127)),
    "INT16": ("int_contents", lambda r: r.randint(-(2**15), 2**15 - 1)),
    "INT32": ("int_contents", lambda r: r.randint(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", lambda r: r.randint(-(2**63), 2**63 - 1)),
    "UINT8": ("uint_contents", lambda r: r.randint(0, 255)),
    "UINT16": ("uint_contents", lambda r: r.randint(0, 2**16 - 1)),
    "UINT32": ("uint_contents", lambda r: r.randint(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", lambda r: r.randint(0, 2**64 - 1)),
    "FP32": ("fp32_contents", lambda r: struct.unpack("f", struct.pack("f", r.uniform(-1e9, 1e9)))[0]),
    "FP64": ("fp64_contents", lambda r: r.uniform(-1e300, 1e300)),
    "BYTES": ("bytes_contents", lambda r: r.randbytes(r.randint(0, 12))),
}


def packed(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return encode_bytes(values)
    return np.array(values, dtype=numpy_dtype(from_name(datatype))).tobytes()


def add_parameter(r: random.Random, parameters: Any, key: str) -> Any:
    kind = r.choice(["bool_param", "int64_param", "string_param", "double_param"])
    value: Any = {
        "bool_param": r.random() < 0.5,
        "int64_param": r.randint(-(2**63), 2**63 - 1),
        "string_param": r.choice(["", "x", "é" * 3, "a\0b"]),
        "double_param": r.uniform(-1, 1),
    }[kind]
    setattr(parameters[key], kind, value)
    return value


def random_request(r: random.Random) -> tuple[Any, dict[str, Any]]:
    """A message and what the request must hold."""
    message = Request(model_name=r.choice(["m", "modèle", "x" * 200]), id=r.choice(["", "42", "é"]))
    message.model_version = r.choice(["", "1", "9223372036854775807"])
    parameters = {f"p{i}": add_parameter(r, message.parameters, f"p{i}") for i in range(r.randint(0, 4))}
    raw = r.random() < 0.5
    inputs = []
    for index in range(r.randint(0, 4)):
        datatype = r.choice(NAMES[1:]) if raw else r.choice(list(FIELDS))
        shape = [r.randint(0, 5) for _ in range(r.randint(0, 4))]
        tensor = message.inputs.add(name=f"IN{index}", datatype=datatype, shape=shape)
        if raw:
            data = r.randbytes(r.choice([0, 1, 64, 300]))
            message.raw_input_contents.append(data)
        else:
            field, make = FIELDS[datatype]
            values = [make(r) for _ in range(int(np.prod(shape)))]
            getattr(tensor.contents, field).extend(values)
            tensor.contents.SetInParent()
            data = packed(datatype, values)
        inputs.append((f"IN{index}", datatype, tuple(shape), data))
    outputs = []
    for index in range(r.randint(0, 3)):
        output = message.outputs.add(name=f"OUT{index}")
        count = r.choice([0, 3])
        if count:
            output.parameters["classification"].int64_param = count
        outputs.append((f"OUT{index}", count))
    return message, {"parameters": parameters, "inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize("seed", range(300))
def test_decodes_what_protobuf_serialises(seed: int) -> None:
    message, expected = random_request(random.Random(seed))
    request = decode_request(message.SerializeToString(), received_ns=7)
    assert request.model_name == message.model_name
    assert request.model_version == int(message.model_version or -1)
    assert request.id == message.id
    assert request.received_ns == 7
    assert (request.parameters or {}) == expected["parameters"]
    got = [(t.name, NAMES[t.datatype], t.shape, bytes(t)) for t in request.inputs]
    assert got == expected["inputs"]
    assert [(o.name, o.classification) for o in request.outputs] == expected["outputs"]


def test_raw_inputs_are_views_of_the_message() -> None:
    message = Request(model_name="m", raw_input_contents=[b"abcd" * 4])
    message.inputs.add(name="IN", datatype="FP32", shape=[4])
    data = bytearray(message.SerializeToString())
    request = decode_request(data)
    with pytest.raises(BufferError):
        data.append(0)
    del request
    data.append(0)


def test_unpacked_merged_and_unknown_fields() -> None:
    """What other encoders may send: unpacked numbers, split messages, unknown fields, odd order."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    contents = field(5, b"\x10\x01\x10\x02") + field(5, field(2, b"\x03") + b"\x10\x04" + b"\xf8\x07\x01")
    tensor = field(1, b"no") + field(1, b"IN") + field(2, b"INT32") + b"\x18\x02\x18\x02" + contents
    unknown = b"\xf8\x07\x05" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + b"\xfa\x07\x01x"
    data = unknown + field(5, tensor + unknown) + field(1, b"m") + unknown
    reference = Request.FromString(data)
    assert list(reference.inputs[0].contents.int_contents) == [1, 2, 3, 4]
    (decoded,) = decode_request(data).inputs
    assert (decoded.name, decoded.shape) == ("IN", (2, 2))
    assert decoded.numpy().tolist() == [[1, 2], [3, 4]]


def test_fixed_size_elements_unpacked() -> None:
    tensor = b"\x0a\x01A\x12\x04FP32\x18\x02\x2a\x0a\x35" + struct.pack("<f", 1.5) + b"\x35" + struct.pack("<f", 2)
    (decoded,) = decode_request(b"\x2a" + bytes([len(tensor)]) + tensor).inputs
    assert decoded.numpy().tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05m",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a" + b"\xff" * 10 + b"\x01",
        b"\xff" * 11,
        b"\x02\x00",
        b"\x0e\x00",
        b"\x80\x80\x80\x80\x80\x01",
        b"\x0b\x0c",
        b"\x0c",
        b"\x0a\x02\xc3\x28",
        b"\x09\x00",
        b"\x0d\x00",
        b"\x2a\x03\x1a\x01\x80",
        b"\x2a\x05\x2a\x03\x32\x01\x00",
        b"\x2a\x05\x2a\x03\x12\x01\x80",
    ],
)
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(Malformed, match=r"^Unable to parse request$"):
        decode_request(data)
    assert request_id(data) == ""


def test_mutated_messages_are_refused_or_decoded() -> None:
    r = random.Random(20)
    for seed in range(400):
        data = bytearray(random_request(random.Random(seed))[0].SerializeToString())
        for _ in range(20):
            mutant = bytearray(data)
            for _ in range(r.randint(1, 4)):
                choice = r.random()
                if choice < 0.6 and mutant:
                    mutant[r.randrange(len(mutant))] = r.randrange(256)
                elif choice < 0.8:
                    del mutant[r.randrange(len(mutant) + 1) :]
                else:
                    at = r.randrange(len(mutant) + 1)
                    mutant[at:at] = r.randbytes(r.randint(1, 8))
            try:
                request = decode_request(bytes(mutant))
            except ServerError:
                continue
            for tensor in request.inputs:
                assert len(bytes(tensor)) == tensor.nbytes


def infer(**fields: Any) -> Any:
    return Request(model_name="m", **fields)


def refused(message: Any) -> str:
    with pytest.raises(InvalidArg) as caught:
        decode_request(message.SerializeToString())
    return caught.value.message


def with_input(datatype: str = "INT32", shape: tuple[int, ...] = (2,), **contents: Any) -> Any:
    message = infer()
    tensor = message.inputs.add(name="X", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(Contents(**contents))
    return message


def test_data_missing_or_given_twice() -> None:
    assert refused(with_input()) == "unable to find data for input tensor 'X' for model 'm' in request."
    both = with_input(int_contents=[1, 2])
    both.raw_input_contents.append(bytes(8))
    assert refused(both) == (
        "contents field must not be specified when using raw_input_contents for 'X' for model 'm'"
    )


def test_contents_of_another_datatype() -> None:
    start = "unexpected explicit tensor data for input tensor 'X' for model 'm'"
    assert (
        refused(with_input("FP32", int_contents=[1, 2])) == f"{start} of type 'INT32', expected datatype 'FP32'"
    )
    assert refused(with_input("FP16", fp32_contents=[1])) == f"{start} of type 'FP32', expected datatype 'FP16'"
    assert refused(with_input("INT32", bool_contents=[True])).startswith(f"{start} of type 'BOOL'")
    assert refused(with_input("INT32", int_contents=[1], fp64_contents=[1])) == (
        f"{start}, binary data was already supplied."
    )


@pytest.mark.parametrize(
    ("datatype", "contents", "value"),
    [
        ("INT8", {"int_contents": [1, 128]}, "128"),
        ("INT8", {"int_contents": [-129]}, "-129"),
        ("INT16", {"int_contents": [40000]}, "40000"),
        ("UINT8", {"uint_contents": [256]}, "256"),
        ("UINT16", {"uint_contents": [4000000000]}, "4000000000"),
    ],
)
def test_elements_out_of_range(datatype: str, contents: dict[str, Any], value: str) -> None:
    message = refused(with_input(datatype, **contents))
    assert message == f"value {value} of input tensor 'X' is out of the range of datatype '{datatype}'"


def test_shapes() -> None:
    message = with_input("INT32", (-1, 16), int_contents=[1])
    message.id = "7"
    assert refused(message) == (
        "[request id: 7] All input dimensions should be specified for input 'X' for model 'm', got [-1,16]"
    )
    assert "exceed maximum size" in refused(with_input("INT32", (2**62, 4), int_contents=[1]))
    assert "more than 16 dimensions" in refused(with_input("INT32", (1,) * 17, int_contents=[1]))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "x",
            "failed to get model version from specified version string 'x' (details: stol), "
            "version should be an integral value > 0",
        ),
        ("-1", "invalid model version specified '-1' , version should be an integral value > 0"),
        ("9223372036854775808", "failed to get model version"),
        ("-9223372036854775809", "failed to get model version"),
        ("9" * 5000, "failed to get model version"),
        ("x1", "failed to get model version"),
        ("- 1", "failed to get model version"),
        ("٣", "failed to get model version"),
    ],
)
def test_versions(version: str, message: str) -> None:
    assert refused(infer(model_version=version)).startswith(message)


@pytest.mark.parametrize("version", ["1", "01", " 1", "+1", "1.5", "1x", "1 "])
def test_versions_are_read_as_strtol_does(version: str) -> None:
    assert decode_request(infer(model_version=version).SerializeToString()).model_version == 1


def test_ids_of_requests() -> None:
    assert request_id(infer(id="7").SerializeToString()) == "7"
    assert request_id(infer().SerializeToString()) == ""


def test_parameters_of_triton() -> None:
    message = infer()
    message.parameters["sequence_id"].int64_param = -1
    message.parameters["sequence_start"].bool_param = True
    message.parameters["sequence_end"].bool_param = True
    message.parameters["priority"].uint64_param = 2**64 - 1
    message.parameters["timeout"].int64_param = 5
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.parameters["mine"].double_param = 0.5
    request = decode_request(message.SerializeToString())
    assert request.sequence_id == 2**64 - 1
    assert (request.flags, request.priority, request.timeout_us) == (3, 2**64 - 1, 5)
    assert request.context is True
    assert request.parameters == {"mine": 0.5}
    message.parameters["sequence_id"].string_param = "abc"
    assert decode_request(message.SerializeToString()).sequence_id == "abc"


@pytest.mark.parametrize(
    ("key", "field", "value", "expected"),
    [
        ("sequence_id", "bool_param", True, "invalid value type for 'sequence_id' parameter, expected int64_param or "
         "string_param."),
        ("sequence_start", "int64_param", 1, "invalid value type for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", "int64_param", 1, "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ("priority", "string_param", "1", "invalid value type for 'priority' parameter, expected int64_param or "
         "uint64_param."),
        ("priority", "int64_param", -1, "invalid value for 'priority', expected value >= 0."),
        ("timeout", "string_param", "1", "invalid value type for 'timeout' parameter, expected int64_param."),
        ("timeout", "int64_param", -1, "invalid value for 'timeout', expected value >= 0."),
        ("p", "uint64_param", 1, "invalid value type for 'p' parameter, expected int64_param, bool_param, or "
         "string_param."),
        ("triton_x", "bool_param", True, "parameter keys starting with 'triton_' are reserved for Triton usage. Only "
         "the following keys starting with 'triton_' are allowed: triton_enable_empty_final_response"),
        ("triton_enable_empty_final_response", "int64_param", 1, "invalid value type for "
         "'triton_enable_empty_final_response' parameter, expected bool_param."),
    ],
)  # fmt: skip
def test_parameters_refused(key: str, field: str, value: Any, expected: str) -> None:
    message = infer()
    setattr(message.parameters[key], field, value)
    assert refused(message) == expected


def test_classification_refused() -> None:
    message = infer()
    output = message.outputs.add(name="OUT")
    output.parameters["classification"].string_param = "1"
    assert refused(message) == "invalid value type for 'classification' parameter, expected int64_param"
    output.parameters["classification"].int64_param = 0
    assert refused(message) == "invalid value for 'classification' parameter, expected >= 0"
    output.parameters["classification"].int64_param = 1_000_001
    decode_request(message.SerializeToString())  # a tensor has as many as it has: its answer says whether it can be


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_regions_are_unknown(where: str) -> None:
    message = infer()
    tensor = getattr(message, where).add(name="X")
    tensor.parameters["shared_memory_region"].string_param = "r"
    assert refused(message) == (
        "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'X'"
    )
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    with pytest.raises(NotFound, match="Unable to find shared memory region: 'r'"):
        decode_request(message.SerializeToString())
    if where == "inputs":
        tensor.contents.int_contents.append(1)
        assert refused(message).startswith("unexpected 'content' provided when using shared memory for input tensor")


def test_regions_are_leased() -> None:
    with fake_cuda_sync.devices() as gpus:
        registry = RegionRegistry(lambda: gpus)
        shared = gpus.share(64)
        registry.register_cuda("r", shared.handle, 0, 64).result(20)
        message = infer(inputs=[{"name": "A", "datatype": "FP32", "shape": [2]}, {"name": "B", "shape": [1]}])
        for tensor, offset in ((message.inputs[0], 8), (message.outputs.add(name="C"), 32)):
            tensor.parameters["shared_memory_region"].string_param = "r"
            tensor.parameters["shared_memory_byte_size"].int64_param = 8
            tensor.parameters["shared_memory_offset"].int64_param = offset
        message.raw_input_contents.append(b"raw")
        request = decode_request(message.SerializeToString(), 0, registry)
        first, second = request.inputs
        assert (first.name, first.shape, first.nbytes, first.buffer.address) == ("A", (2,), 8, shared.address + 8)
        assert bytes(second) == b"raw"
        region = request.outputs[0].region
        assert region is not None and (region.address, region.nbytes) == (shared.address + 32, 8)
        assert registry.leases == 2
        del request, first, second, region
        assert registry.leases == 0
        # A refusal behind a lease gives it back.
        message.outputs[0].parameters["shared_memory_offset"].int64_param = -8
        assert "Invalid offset" in refusal_of(message, registry)
        message.outputs[0].parameters["shared_memory_offset"].int64_param = 8
        message.outputs[0].parameters["shared_memory_byte_size"].int64_param = -8
        assert "Integer overflow detected" in refusal_of(message, registry)
        assert registry.leases == 0
        for future in registry.stop():
            future.result(20)


def refusal_of(message: Any, registry: RegionRegistry) -> str:
    with pytest.raises(InvalidArg) as caught:
        decode_request(message.SerializeToString(), 0, registry)
    return caught.value.message


def test_counts_are_bounded() -> None:
    assert "at most 4096" in refused(infer(inputs=[{"name": "X"}] * 4097))
    assert "more than 4096 outputs" in refused(infer(outputs=[{"name": "X"}] * 4097))
    message = infer()
    for index in range(4097):
        message.parameters[str(index)].bool_param = True
    assert "more than 4096 parameters" in refused(message)


def test_element_sizes_of_the_table() -> None:
    for name in FIELDS:
        if name != "BYTES":
            assert len(packed(name, [FIELDS[name][1](random.Random(1))])) == element_size(from_name(name))
