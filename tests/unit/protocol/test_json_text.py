"""JSON text: what is taken, and rapidjson's reasons and offsets for what is not."""

from __future__ import annotations

import json
import math

import orjson
import pytest

from triton_async.errors import InvalidArg
from triton_async.protocol.json_text import error_body, loads

# Recorded from Triton 2.51.
REFUSED = {
    "": "The document is empty. at 0",
    "  ": "The document is empty. at 2",
    "hello": "Invalid value. at 0",
    "{": "Missing a name for object member. at 1",
    '{"inputs":[{"name":"INPUT0"': "Missing a comma or '}' after an object member. at 27",
    '{"id":"a" "inputs":[]}': "Missing a comma or '}' after an object member. at 10",
    '{"id":"a",}': "Missing a name for object member. at 10",
    '{"inputs":[]} x': "The document root must not be followed by other values. at 14",
    "{'inputs':[]}": "Missing a name for object member. at 1",
    '{"inputs" []}': "Missing a colon after a name of object member. at 10",
    "{1:2}": "Missing a name for object member. at 1",
    '{"id":"\\q"}': "Invalid escape character in string. at 7",
    '{"id":"\\u12"}': "Incorrect hex digit after \\u escape in string. at 7",
    '{"id":"\\ud800"}': "The surrogate pair in string is invalid. at 7",
    '{"id":"abc': "Missing a closing quotation mark in string. at 10",
    '{"id":"a"/*x*/}': "Missing a comma or '}' after an object member. at 9",
    '{"inputs":[1 2]}': "Missing a comma or ']' after an array element. at 13",
    '{"a":1.}': "Miss fraction part in number. at 7",
    '{"a":1e}': "Miss exponent in number. at 7",
    '{"a":+1}': "Invalid value. at 5",
    '{"a":01}': "Missing a comma or '}' after an object member. at 6",
    '{"a":1e999}': "Number too big to be stored in double. at 5",
    '{"a":tru}': "Invalid value. at 8",
    '{"a":"\0"}': "Missing a closing quotation mark in string. at 6",
    # By the grammar, not recorded.
    '{"a":"\n"}': "Invalid encoding in string. at 6",
    "[1,]": "Invalid value. at 3",
    "[nul]": "Invalid value. at 4",
    "-": "Invalid value. at 1",
    "[-x]": "Invalid value. at 2",
    "[Infinite]": "Invalid value. at 8",
    "[Nan]": "Invalid value. at 3",
    '{"a":"\\udc00"}': "The surrogate pair in string is invalid. at 6",
    '{"a":"\\ud800\\u0041"}': "The surrogate pair in string is invalid. at 6",
    "[" + "9" * 400 + "]": "Number too big to be stored in double. at 1",
}


@pytest.mark.parametrize("text", REFUSED)
def test_malformed_text_is_refused_with_reason_and_offset(text: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        loads(text.encode())
    assert caught.value.message == "failed to parse the request JSON buffer: " + REFUSED[text]


@pytest.mark.parametrize(
    "text", ["NaN", "-NaN", "Inf", "-Inf", "Infinity", "-Infinity", ' [ {"a" : [ NaN , 1.5e3 , "\\u00e9\\n" ] } ] ']
)
def test_tokens_of_what_is_not_finite_are_taken(text: str) -> None:
    found = loads(text.encode())
    plain = text.replace("Infinity", "Inf").replace("Inf", "Infinity").replace("-NaN", "NaN")
    expected = json.loads(plain)
    assert repr(found) == repr(expected)


def test_numbers_keep_their_kind_in_both_readers() -> None:
    text = b"[0,-0,1,-1,18446744073709551615,-9223372036854775808,18446744073709551616,1.0,1e2,0.1,-5E-2]"
    plain = loads(text)
    careful = loads(text[:-1] + b",NaN]")
    assert math.isnan(careful.pop())
    assert [(type(x), x) for x in plain] == [(type(x), x) for x in careful]
    assert type(plain[4]) is int
    assert type(plain[6]) is float


def test_a_byte_order_mark_is_skipped() -> None:
    assert loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize("text", [b'{"id":"\xff"}', b'{"\xc3":1}', b'["\xed\xa0\x80"]'])
def test_strings_have_to_be_utf8(text: bytes) -> None:
    with pytest.raises(InvalidArg, match="Invalid encoding in string"):
        loads(text)


@pytest.mark.parametrize("depth", [99, 100, 103, 104, 1000, 1025])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_bounded_however_the_text_ends(depth: int, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    for text in (opening * depth + "NaN" + closing * depth, opening * depth):
        if depth <= 103 and text.endswith(closing):
            loads(text.encode())
            continue
        with pytest.raises(InvalidArg) as caught:
            loads(text.encode())
        if depth > 103:
            assert caught.value.message == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_any_buffer_is_read() -> None:
    text = b'{"a":[1]}'
    assert loads(bytearray(text)) == loads(memoryview(b"x" + text)[1:]) == {"a": [1]}
    with pytest.raises(InvalidArg):
        loads(memoryview(text)[:-1])


def test_every_cut_and_every_changed_byte_gives_a_value_or_an_error() -> None:
    text = b'{"id":"a\\u00e9\\n","n":[0,-1.5e+3,true,false,null,NaN,-Infinity],"o":{"p":{}}}'
    for at in range(len(text) + 1):
        for byte in (None, 0, 0x20, 0x22, 0x2C, 0x30, 0x5B, 0x5C, 0x5D, 0x7B, 0x7D, 0x80, 0xFF):
            changed = text[:at] if byte is None else text[:at] + bytes([byte]) + text[at + 1 :]
            try:
                loads(changed)
            except InvalidArg as error:
                assert int(error.message.rpartition(" ")[2]) <= len(changed)


@pytest.mark.parametrize("message", ["plain", 'a "b" \\ c', "line\nbreak\x1b\x00", "grüß", "\ud800 lone", ""])
def test_an_error_body_is_compact_json(message: str) -> None:
    body = error_body(message)
    assert body.startswith(b'{"error":"')
    assert json.loads(body) == {"error": message.encode("utf-8", "replace").decode()}


def test_names_come_back_in_part() -> None:
    """Whatever a client sends, its error is short; texts of our own are not cut."""
    for length in (10, 200, 204):
        assert error_body(f"unexpected '{'x' * (length - 2)}' here") == (
            b'{"error":"unexpected \'' + b"x" * (length - 2) + b"' here\"}"
        )
    text = error_body(f"unexpected inference input '{'x' * 10_000_000}' for model 'm'").decode()
    assert text == f"{{\"error\":\"unexpected inference input '{'x' * 199}...' for model 'm'\"}}"
    assert len(error_body("a b " * 1_000_000)) < 70_000
    traceback = "\n".join(f'  File "model.py", line {number}, in execute' for number in range(500))
    assert orjson.loads(error_body(traceback))["error"] == traceback
