"""The scanner either declines a header or reads from it exactly what the general decoder reads."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from triton_async.datatypes import NAMES
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.protocol.http_codec import decode_infer
from triton_async.protocol.http_scan import scan

SIGNATURE = ModelSignature(
    "m", 1, [TensorSpec("INPUT0", 11, (-1,)), TensorSpec("INPUT1", 13, (-1,))], [TensorSpec("OUTPUT0", 11, (-1,))]
)


def state(request: InferRequest) -> dict[str, Any]:
    return {
        "model": (request.model_name, request.model_version),
        "id": request.id,
        "inputs": [(t.name, t.datatype, t.shape, t.element_count, bytes(t)) for t in request.inputs],
        "outputs": [(o.name, o.binary, o.classification, o.parameters) for o in request.outputs],
        "parameters": request.parameters,
        "numbers": (request.priority, request.timeout_us, request.flags, request.binary_default),
        "sequence": (type(request.sequence_id), request.sequence_id),
    }


def compare(text: bytes, tensors: bytes) -> bool:
    """Whether the scanner took it; if so, both readers agree."""
    body = text + tensors
    if not text:
        return False
    found = scan("m", -1, SIGNATURE, body, len(text))
    if found is None:
        return False
    assert state(found) == state(decode_infer("m", -1, SIGNATURE, body, len(text), 1 << 26, 0))
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
