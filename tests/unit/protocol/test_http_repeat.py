"""A header that is the last one again means what reading it anew would say, and everything else is read."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from test_http_scan import SIGNATURE, SIXTEEN, header, place, regions, state

from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.memory.regions import RegionRegistry
from triton_async.protocol.http_repeat import scan_twice
from triton_async.protocol.http_scan import scan

ONE = {"name": "INPUT0", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
TEXT = {"name": "INPUT1", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 10}}
STRINGS = b"\x01\0\0\0a\x01\0\0\0b"
ANYTHING = ModelSignature(
    "m", 1,
    [TensorSpec("INPUT0", 11, (-1, -1), optional=True), TensorSpec("INPUT1", 13, (-1,), optional=True)],
    [TensorSpec("OUTPUT0", 11, (-1,)), TensorSpec("OUTPUT1", 11, (-1,))],
)  # fmt: skip

__all__ = ["regions"]


def again(first: Any, second: Any, bytes_one: bytes = SIXTEEN, bytes_two: bytes = b"x" * 16) -> InferRequest | None:
    """The second request, where it is known by the first; it has to equal what is read without that."""
    texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (first, second)]
    known = scan_twice("m", -1, ANYTHING, texts[0] + bytes_one, len(texts[0]), texts[1] + bytes_two, len(texts[1]))
    if known is not None:
        fresh = scan("m", -1, ANYTHING, texts[1] + bytes_two, len(texts[1]))
        assert fresh is not None
        assert state(known) == state(fresh)
        ANYTHING.validate(known)
        ANYTHING.validate(fresh)
        assert known.batch_size == fresh.batch_size
    return known


@pytest.mark.parametrize("more", [
    {}, {"outputs": []}, {"outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}, {"name": "OUTPUT0"}]},
    {"outputs": [{"name": "OUTPUT0", "parameters": {"classification": 3}}]},
    {"parameters": {"binary_data_output": True, "priority": 3, "timeout": 9, "sequence_start": True}},
    {"parameters": {"sequence_id": "abc"}}, {"parameters": {"sequence_id": 7, "sequence_end": True}},
])  # fmt: skip
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_the_same_header_is_known_whatever_its_id(more: dict[str, Any], separators: tuple[str, str]) -> None:
    def text(**members: Any) -> bytes:
        return json.dumps({**members, **header(**more)}, separators=separators).encode()

    assert again(text(), text()) is not None
    for one, other in (("1", "1"), ("1", "2"), ("9", "10"), ("", "a b"), ("a", "")):
        known = again(text(id=one), text(id=other))
        assert known is not None
        assert known.id == other


def test_each_request_has_its_own_bytes() -> None:
    known = again(header(), header(), bytes(16), SIXTEEN)
    assert known is not None
    assert bytes(known.inputs[0]) == SIXTEEN
    both = {"inputs": [TEXT, ONE]}
    known = again(both, both, STRINGS + bytes(16), STRINGS[::1] + SIXTEEN)
    assert known is not None
    assert [bytes(tensor) for tensor in known.inputs] == [STRINGS, SIXTEEN]
    assert again({"inputs": []}, {"inputs": []}, b"", b"") is not None


@pytest.mark.parametrize(("first", "second"), [
    ({}, {"id": "a"}), ({"id": "a"}, {}), ({}, {"parameters": {}}), ({"id": "a"}, {"id": "\u00e9"}),
    ({"id": "a"}, {"id": 'a"b'}), ({"id": "a"}, {"id": 1}), ({"id": "a", "parameters": {"priority": 1}}, {"id": "a"}),
])  # fmt: skip
def test_another_header_is_not_known(first: dict[str, Any], second: dict[str, Any]) -> None:
    texts = [json.dumps({**one, **header()}, ensure_ascii=False).encode() for one in (first, second)]
    assert again(*texts) is None


def test_neither_are_bodies_of_another_size() -> None:
    assert again(header(), header(), SIXTEEN, bytes(17)) is None
    assert again(header(), header(), SIXTEEN, bytes(15)) is None


def test_strings_are_validated_every_time() -> None:
    text = json.dumps({"inputs": [TEXT]}).encode()
    broken = STRINGS[:5] + b"\x02\0\0\0b"
    known = scan_twice("m", -1, ANYTHING, text + STRINGS, len(text), text + broken, len(text))
    assert known is not None
    with pytest.raises(InvalidArg, match="INPUT1"):
        ANYTHING.validate(known)


def test_another_signature_validates_what_was_valid_for_the_first() -> None:
    known = again(header(), header())
    assert known is not None
    with pytest.raises(InvalidArg, match="expected 2 inputs but got 1"):
        SIGNATURE.validate(known)


def test_a_region_is_looked_up_every_time(regions: RegionRegistry) -> None:
    entry = {"name": "INPUT0", "shape": [2, 2], "datatype": "FP32", "parameters": place()}
    for document in (
        {"inputs": [entry]}, {**header(), "outputs": [{"name": "OUTPUT0", "parameters": place()}]},
    ):  # fmt: skip
        text = json.dumps(document).encode()
        body = text + (SIXTEEN if document["inputs"] == [ONE] else b"")
        assert scan("m", -1, ANYTHING, body, len(text), 0, regions) is not None
        assert scan_twice("m", -1, ANYTHING, body, len(text), body, len(text), regions) is None


def test_mutated_headers_mean_what_they_say() -> None:
    source = random.Random(5)
    text = json.dumps({"id": "17", **header(parameters={"priority": 1, "sequence_id": 5})}).encode()
    hits = 0
    for _ in range(3000):
        changed = bytearray(text)
        for _ in range(source.choice([1, 1, 2])):
            at = source.randrange(min(len(changed), 14) if source.random() < 0.7 else len(changed))
            kind = source.random()
            if kind < 0.5:
                changed[at] = source.choice(b'0123456789"{}[],: \\ax\x7f')
            elif kind < 0.75:
                del changed[at]
            else:
                changed.insert(at, source.choice(b'0123456789", :'))
        hits += again(text, bytes(changed)) is not None
    assert hits > 100
