"""The scanner either declines a header or reads from it exactly what the general decoder reads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import fake_cuda_sync
import pytest

from triton_async.datatypes import NAMES
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor
from triton_async.memory.regions import RegionRegistry
from triton_async.protocol.http_codec import decode_infer
from triton_async.protocol.http_scan import scan

SIGNATURE = ModelSignature(
    "m", 1, [TensorSpec("INPUT0", 11, (-1,)), TensorSpec("INPUT1", 13, (-1,))], [TensorSpec("OUTPUT0", 11, (-1,))]
)


# memory.buffer.MemoryType
GPU = 2


@pytest.fixture(scope="module")
def regions() -> Iterator[RegionRegistry]:
    """Regions `r` and `s` of 64 bytes."""
    with fake_cuda_sync.devices() as gpus:
        registry = RegionRegistry(lambda: gpus)
        for name in ("r", "s"):
            registry.register_cuda(name, gpus.share(64).handle, 0, 64).result(20)
        yield registry
        assert registry.leases == 0
        for future in registry.stop():
            future.result(20)


def contents(tensor: Tensor) -> Any:
    """The bytes, or where they are."""
    if tensor.buffer is not None and tensor.buffer.memory_type == GPU:
        return tensor.buffer.address, tensor.nbytes
    return bytes(tensor)


def state(request: InferRequest) -> dict[str, Any]:
    return {
        "model": (request.model_name, request.model_version),
        "id": request.id,
        "inputs": [(t.name, t.datatype, t.shape, t.element_count, contents(t)) for t in request.inputs],
        "outputs": [
            (o.name, o.binary, o.classification, o.parameters, o.region is not None and o.region.address,
             o.region is not None and o.region.nbytes)
            for o in request.outputs
        ],
        "parameters": request.parameters,
        "numbers": (request.priority, request.timeout_us, request.flags, request.binary_default),
        "sequence": (type(request.sequence_id), request.sequence_id),
    }


def compare(text: bytes, tensors: bytes, regions: RegionRegistry | None = None) -> bool:
    """Whether the scanner took it; if so, both readers agree."""
    body = text + tensors
    if not text:
        return False
    found = scan("m", -1, SIGNATURE, body, len(text), 0, regions)
    if found is None:
        return False
    assert state(found) == state(decode_infer("m", -1, SIGNATURE, body, len(text), 1 << 26, 0, regions))
    return True


def header(**more: Any) -> dict[str, Any]:
    entry = {"name": "INPUT0", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    return {"inputs": [entry], **more}


SIXTEEN = bytes(range(16))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
@pytest.mark.parametrize(
    "document",
    [
        header(),
        header(id="", outputs=[]),
        header(id="a b/c", outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}]),
        header(outputs=[{"name": "other"}, {"parameters": {"binary_data": False, "classification": 3}, "name": "x"}]),
        header(parameters={"binary_data_output": True}),
        header(parameters={"sequence_id": 2**64 - 1, "sequence_start": True, "sequence_end": True}),
        header(parameters={"sequence_id": "abc", "sequence_start": False, "priority": 7, "timeout": 0}),
        header(parameters={}),
        {"inputs": [], "outputs": [{"name": "OUTPUT0", "parameters": {}}]},
    ],
)
def test_what_clients_send_is_taken(document: dict[str, Any], separators: tuple[str, str]) -> None:
    text = json.dumps(document, separators=separators).encode()
    assert compare(text, SIXTEEN if document["inputs"] else b"")


@pytest.mark.parametrize(
    "document",
    [
        header(id="é"),
        header(id='a"b'),
        header(id=7),
        header(extra=1),
        header(parameters={"mine": 1}),
        header(parameters={"triton_x": 1}),
        header(parameters={"priority": -1}),
        header(parameters={"priority": 1.0}),
        header(parameters={"priority": 2**64}),
        header(parameters={"sequence_start": 1}),
        header(outputs=[{"name": "a", "parameters": {"shared_memory_region": "r"}}]),
        header(outputs=[{}]),
        header(outputs={}),
        {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": "FP32", "data": [1.0]}]},
        {"inputs": [{"name": "INPUT0", "shape": [2**63], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]},
        {"inputs": [{"name": "INPUT0", "shape": [4], "datatype": "FP33", "parameters": {"binary_data_size": 16}}]},
        {"inputs": [{"name": "INPUT0", "shape": [4], "datatype": "FP32", "parameters": {"binary_data_size": 17}}]},
        {"inputs": [{"name": "INPUT0", "shape": [4], "datatype": "FP32", "parameters": {"binary_data_size": 15}}]},
        {"inputs": [{"name": "INPUT0", "shape": [1] * 17, "datatype": "FP32", "parameters": {"binary_data_size": 16}}]},
        {"id": "x"},
        [],
    ],
)
def test_everything_else_is_declined(document: Any) -> None:
    assert not compare(json.dumps(document, ensure_ascii=False).encode(), SIXTEEN)


def place(region: str = "r", nbytes: int = 16, **more: Any) -> dict[str, Any]:
    return {"shared_memory_region": region, "shared_memory_byte_size": nbytes, **more}


def in_region(parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = {"name": "INPUT0", "shape": [2, 2], "datatype": "FP32", "parameters": parameters}
    return {"inputs": [entry], **more}


@pytest.mark.parametrize(
    "document",
    [
        in_region(place()),
        in_region(place(shared_memory_offset=48)),
        in_region(place("s", 0, shared_memory_offset=63)),
        in_region({"shared_memory_region": "r"}),
        in_region(place(), outputs=[{"name": "OUTPUT0", "parameters": place("s", 64)}]),
        in_region(place(), outputs=[{"name": "x", "parameters": place(binary_data=False, shared_memory_offset=1)}]),
        {"inputs": [], "outputs": [{"name": "OUTPUT0", "parameters": {"shared_memory_region": "s"}}]},
    ],
)
def test_regions_are_taken(document: dict[str, Any], regions: RegionRegistry) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps(document, separators=separators).encode()
        assert compare(text, b"", regions)
        assert not compare(text, b"")
        assert not compare(text, b"x", regions)


@pytest.mark.parametrize(
    "document",
    [
        in_region(place("t")),
        in_region(place(nbytes=65)),
        in_region(place(shared_memory_offset=49)),
        in_region(place(shared_memory_offset=64, nbytes=0)),
        in_region(place(shared_memory_offset=2**64 - 16)),
        in_region(place(shared_memory_offset=-1)),
        in_region(place(shared_memory_offset="1")),
        in_region(place(binary_data_size=0)),
        in_region(place(binary_data=False)),
        in_region({"shared_memory_byte_size": 16}),
        in_region(place(), outputs=[{"name": "x", "parameters": place(binary_data=True)}]),
        in_region(place(), outputs=[{"name": "x", "parameters": place(classification=0)}]),
        in_region(place(), outputs=[{"name": "x", "parameters": {"shared_memory_offset": 0}}]),
        in_region(place(), outputs=[{"name": "x", "parameters": place(nbytes=65)}]),
    ],
)
def test_regions_that_are_wrong_are_declined(document: dict[str, Any], regions: RegionRegistry) -> None:
    assert not compare(json.dumps(document).encode(), b"", regions)


def random_place(source: random.Random) -> dict[str, Any]:
    members = [
        ("shared_memory_region", source.choice(["r", "r", "s", "t", ""])),
        ("shared_memory_byte_size", source.choice([0, 1, 16, 64, 65, 2**63, 2**64 - 1])),
        ("shared_memory_offset", source.choice([0, 0, 1, 48, 63, 64, 2**64 - 16])),
        ("binary_data_size", 0), ("binary_data", source.random() < 0.2),
    ]  # fmt: skip
    count = source.choice([2, 2, 3, 3, 3, 4])
    return dict(source.sample(members[:3] if source.random() < 0.8 else members, min(count, 3)))


def test_random_and_mutated_regions_mean_the_same_to_both_readers(regions: RegionRegistry) -> None:
    source = random.Random(13)
    alphabet = b'{}[]:,"\\0123456789.eE+-truefalsn \x00\xff'
    taken = 0
    for index in range(20_000):
        document = in_region(random_place(source))
        if source.random() < 0.5:
            document["outputs"] = [{"name": "OUTPUT0", "parameters": random_place(source)}]
        text = bytearray(json.dumps(document, separators=(",", ":")).encode())
        if index % 2:
            at = source.randrange(len(text))
            text[at : at + source.randint(0, 1)] = bytes([source.choice(alphabet)] * source.randint(0, 1))
        taken += compare(bytes(text), b"", regions)
    assert taken > 500


def test_duplicates_and_trailing_text_are_declined() -> None:
    text = json.dumps(header(id="1"))
    assert not compare(text.replace('{"inputs"', '{"id": "0", "inputs"', 1).encode(), SIXTEEN)
    assert not compare(text.replace('"datatype"', '"name": "b", "datatype"').encode(), SIXTEEN)
    assert not compare((text + "{}").encode(), SIXTEEN)
    assert not compare((text + "\0").encode(), SIXTEEN)
    assert compare((text + " \n").encode(), SIXTEEN)
    for cut in range(len(text)):
        assert not compare(text[:cut].encode(), SIXTEEN)


def random_document(source: random.Random) -> tuple[dict[str, Any], bytes]:
    tensors = []
    inputs = []
    for _ in range(source.randint(0, 3)):
        piece = source.randbytes(source.choice([0, 1, 4, 64]))
        tensors.append(piece)
        entry = {
            "name": source.choice(["INPUT0", "INPUT1", "x", ""]),
            "shape": [source.choice([0, 1, 3, 2**31, 2**40]) for _ in range(source.randint(0, 4))],
            "datatype": source.choice(NAMES),
            "parameters": {"binary_data_size": len(piece) + (source.random() < 0.02)},
        }
        inputs.append(dict(source.sample(sorted(entry.items()), len(entry))))
    document: dict[str, Any] = {"inputs": inputs}
    if source.random() < 0.5:
        document["id"] = source.choice(["", "1", "abc def", "\x7f", "\\"])
    if source.random() < 0.5:
        document["outputs"] = [
            {"name": "OUTPUT0", "parameters": {"binary_data": source.random() < 0.5}}
            for _ in range(source.randint(0, 2))
        ]
    if source.random() < 0.5:
        choices = {
            "binary_data_output": True, "sequence_id": source.choice([0, 5, 2**64 - 1, 2**64, "s", 1.5]),
            "sequence_start": True, "sequence_end": source.choice([True, False, 1]), "priority": 3,
            "timeout": source.choice([0, 10, -1]), "own": 1,
        }  # fmt: skip
        document["parameters"] = dict(source.sample(sorted(choices.items()), source.randint(0, 4)))
    return dict(source.sample(sorted(document.items()), len(document))), b"".join(tensors)


def test_random_headers_mean_the_same_to_both_readers() -> None:
    source = random.Random(11)
    taken = 0
    for _ in range(5_000):
        document, tensors = random_document(source)
        taken += compare(json.dumps(document, separators=source.choice([(",", ":"), (", ", ": ")])).encode(), tensors)
    assert taken > 1_000


def test_mutated_headers_mean_the_same_to_both_readers() -> None:
    source = random.Random(12)
    alphabet = b'{}[]:,"\\0123456789.eE+-truefalsn \x00\xff'
    taken = 0
    for _ in range(40_000):
        document, tensors = random_document(source)
        text = bytearray(json.dumps(document, separators=(",", ":")).encode())
        for _ in range(source.randint(1, 2)):
            at = source.randrange(len(text))
            text[at : at + source.randint(0, 1)] = bytes([source.choice(alphabet)] * source.randint(0, 1))
        taken += compare(bytes(text), tensors)
    assert taken > 500


def test_length_outside_of_the_body_is_refused() -> None:
    for length in (0, -1, 17):
        with pytest.raises(ValueError, match="header_length"):
            scan("m", -1, SIGNATURE, SIXTEEN, length)
