"""The strict head parser: what it takes, what it leaves to the full parser, what it refuses and why."""

from __future__ import annotations

import random

import pytest

from triton_async.protocol.http_head import classify

LINE = b"POST /v2/models/m/infer HTTP/1.1\r\n"
HOST = b"Host: here:8000\r\n"
LENGTH = b"Content-Length: 5\r\n"


def kind(*lines: bytes) -> str:
    return classify(b"".join(lines) + b"\r\n")[0]


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ([LINE, HOST, LENGTH], {"content_length": 5, "model": b"m", "version": -1, "header_length": -1, "coding": 0}),
        (
            [
                b"POST /v2/models/a-b_c.9/versions/12/infer HTTP/1.1\r\nhost:x\r\nCONTENT-LENGTH:\t77 \r\n",
                b"inference-header-content-length: 70\r\nConnection: Keep-Alive\r\nAccept-Encoding: identity\r\n",
                b"User-Agent: caf\xc3\xa9\r\nX-Empty:\r\nContent_Length: 9\r\nContent-Type: application/json\r\n",
            ],
            {"content_length": 77, "model": b"a-b_c.9", "version": 12, "header_length": 70, "coding": 0},
        ),
        (
            [LINE, HOST, LENGTH, b"Inference-Header-Content-Length: 0\r\n"],
            {"content_length": 5, "model": b"m", "version": -1, "header_length": 0, "coding": 0},
        ),
    ],
)
def test_plain_infer_requests_are_taken(lines: list[bytes], fields: dict[str, object]) -> None:
    head = b"".join(lines) + b"\r\n"
    assert classify(head) == ("infer", len(head), fields)
    assert classify(head + b"POST /") == ("infer", len(head), fields)
    for cut in range(len(head)):
        assert classify(head[:cut])[0] == "more"


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
@pytest.mark.parametrize("more", [b"", b"Inference-Header-Content-Length: 3\r\n", b"Accept-Encoding: gzip\r\n"])
def test_plain_generate_calls_are_taken_whose_answers_are_never_coded(call: str, more: bytes) -> None:
    line = LINE.replace(b"m/infer", b"m/versions/3/" + call.encode())
    for old in (False, True):
        head = b"".join([line.replace(b"1.1", b"1.0") if old else line, HOST, LENGTH, more, b"\r\n"])
        fields = {"content_length": 5, "model": b"m", "version": 3, "header_length": -1, "coding": 0, "call": call}
        assert classify(head) == ("infer", len(head), {**fields, **({"closes": True, "old": True} if old else {})})
        for cut in range(len(head)):
            assert classify(head[:cut])[0] == "more"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v2/models/m HTTP/1.1\r\n",
        b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\n",
        b"POST /v2/models/%6d/infer HTTP/1.1\r\n",
        b"POST /v2/models//infer HTTP/1.1\r\n",
        b"POST /v2/models/m/infer/ HTTP/1.1\r\n",
        b"POST /v2/models/m/versions//infer HTTP/1.1\r\n",
        b"POST /v2/models/m/versions/+1/infer HTTP/1.1\r\n",
        b"POST /v2/models/m/versions/1234567890123456789/infer HTTP/1.1\r\n",
        b"POST /v2/models/m/generate/ HTTP/1.1\r\n",
        b"POST /v2/models/m/generate_streams HTTP/1.1\r\n",
        b"POST /v2/models/m/generate_ HTTP/1.1\r\n",
        b"POST /v2/models/m/generates HTTP/1.1\r\n",
        b"POST /v2/models/m/infer_stream HTTP/1.1\r\n",
        b"GET /v2/models/m/generate HTTP/1.1\r\n",
    ],
)
def test_other_requests_have_a_known_length(line: bytes) -> None:
    assert kind(line, HOST, LENGTH) == "length"
    assert classify(line + HOST + b"\r\n")[2] == {"content_length": 0}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([b"Accept-Encoding: gzip, deflate, br, zstd\r\n"], {"coding": 1}),
        ([b"Accept-Encoding: deflate, gzip\r\n"], {"coding": 2}),
        ([b"Accept-Encoding: gzip, identity;q=0\r\n"], {"coding": 5}),
        ([b"Accept-Encoding: br\r\n"], {}),
        ([b"Accept-Encoding:\r\n"], {}),
        ([b"Content-Encoding: identity\r\n"], {}),
        ([b"Content-Type: text/plain;charset=UTF-8\r\n"], {}),
        ([b"Connection: close\r\n"], {"closes": True}),
        ([b"Connection: Keep-Alive\r\n"], {}),
        ([b"Connection: keep-alive, TE\r\n", b"TE: trailers\r\n"], {}),
        ([b"Connection: te,, Close ,\r\n"], {"closes": True}),
        ([b"Connection: keep-alive\r\n", b"Connection: close\r\n"], {"closes": True}),
        ([b"Connection: closed, not-close\r\n"], {}),
        ([b"Connection: Upgrade, HTTP2-Settings\r\n", b"Upgrade: h2c\r\n", b"HTTP2-Settings: AAEAAA\r\n"],
         {"upgrades": True}),
        ([b"Trailer: Digest\r\n"], {}),
        ([b"Expect: 100-Continue\r\n"], {"expects": True}),
        ([b"X-%d: y\r\n" % i for i in range(126)], {}),
    ],
)  # fmt: skip
def test_what_ordinary_clients_send_is_plain(lines: list[bytes], found: dict[str, object]) -> None:
    plain = {"content_length": 5, "model": b"m", "version": -1, "header_length": -1, "coding": 0}
    head = b"".join([LINE, HOST, *lines, LENGTH, b"\r\n"])
    assert classify(head) == ("infer", len(head), {**plain, **found})


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], {"closes": True}),
        ([HOST], {"closes": True}),
        ([b"Connection: keep-alive\r\n"], {}),
        ([b"Connection: te, keep-alive\r\n"], {}),
        ([b"Connection: te\r\n"], {"closes": True}),
    ],
)
def test_http_1_0_is_plain_too(lines: list[bytes], found: dict[str, object]) -> None:
    kind, _, fields = classify(b"".join([LINE.replace(b"1.1", b"1.0"), *lines, LENGTH, b"\r\n"]))
    assert (kind, fields.pop("old")) == ("infer", True)
    assert {name: value for name, value in fields.items() if name in ("closes", "expects")} == found


@pytest.mark.parametrize(
    "field",
    [
        b"Expect: tea\r\n",
        b"Expect: 100-continue\r\nExpect: 100-continue\r\n",
        b"Accept-Encoding: gzip\r\nAccept-Encoding: gzip\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: Identity\r\n",
        b"Content-Encoding: identity\r\nContent-Encoding: identity\r\n",
        b'Connection: "close"\r\n',
        b"Connection: close keep-alive\r\n",
        b"Inference-Header-Content-Length: 05\r\n",
        b"Inference-Header-Content-Length: +5\r\n",
        b"Inference-Header-Content-Length: -5\r\n",
        b"Inference-Header-Content-Length: 5 5\r\n",
        b"Inference-Header-Content-Length:\r\n",
        b"Inference-Header-Content-Length: 2147483648\r\n",
        b"Inference-Header-Content-Length: 5\r\nInference-Header-Content-Length: 5\r\n",
    ],
)
def test_fields_that_only_the_full_parser_may_answer(field: bytes) -> None:
    assert kind(LINE, HOST, LENGTH, field) == "length"
    assert kind(LINE, field, LENGTH, HOST) == "length"
    assert kind(LINE, HOST, field, b"Transfer-Encoding: chunked\r\n") == "chunked"


@pytest.mark.parametrize("call", [b"generate", b"generate_stream"])
def test_who_asks_for_the_load_is_answered_by_the_full_parser_where_the_answer_has_it(call: bytes) -> None:
    field = b"Endpoint-Load-Metrics-Format: json\r\n"
    assert kind(LINE.replace(b"/infer", b"/" + call), HOST, LENGTH) == "infer"
    assert kind(LINE.replace(b"/infer", b"/" + call), HOST, field, LENGTH) == "length"
    assert kind(LINE, HOST, field, LENGTH) == "infer"
    assert kind(b"GET /v2 HTTP/1.1\r\n", HOST, field) == "length"


@pytest.mark.parametrize("field", [b"Expect: 100-continue\r\n", b"Connection: keep-alive, close\r\n"])
def test_what_http_1_0_does_not_know_is_for_the_full_parser(field: bytes) -> None:
    assert kind(LINE.replace(b"1.1", b"1.0"), LENGTH, field) == "length"


def status(*lines: bytes) -> object:
    found, _, fields = classify(b"".join(lines) + b"\r\n")
    assert found == "refused"
    # What a client sent is never repeated.
    assert not any(line[:20].decode("latin-1") in str(fields["message"]) for line in lines)
    return fields["status"]


@pytest.mark.parametrize("line", [LINE, b"GET /v2 HTTP/1.1\r\n"])
def test_http_1_1_needs_a_host(line: bytes) -> None:
    assert status(line, LENGTH) == 400


@pytest.mark.parametrize("host", [b"", b" a,b", b" a/b", b" u@a", b" a b", b" a\\b", b" a\r\nHost: a"])
def test_hosts_that_name_no_one_host_are_refused(host: bytes) -> None:
    assert status(LINE, b"Host:" + host + b"\r\n", LENGTH) == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"xchunked", 501), (b"identity", 501), (b"gzip, chunked", 501), (b"chunkedx", 501), (b"", 400),
        (b"chunked, chunked", 400), (b"chunked, gzip", 400), (b", chunked", 400), (b"chunked;q=1", 400),
    ],
)  # fmt: skip
def test_transfer_codings(value: bytes, expected: int) -> None:
    assert status(LINE, HOST, b"Transfer-Encoding: " + value + b"\r\n") == expected
    assert status(LINE, HOST, LENGTH, b"Transfer-Encoding: " + value + b"\r\n") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"OPTIONS /v2#x HTTP/1.1\r\n", 400), (b"GET /v2\\health HTTP/1.1\r\n", 400), (b"GET * HTTP/1.1\r\n", 400),
        (b"GET v2 HTTP/1.1\r\n", 400), (b"GET http://u@here:8000/v2 HTTP/1.1\r\n", 400),
        (b"GET http:///v2 HTTP/1.1\r\n", 400), (b"GET ftp://here:8000/v2 HTTP/1.1\r\n", 400),
        (b"GET http://there/v2 HTTP/1.1\r\n", 400), (b"PRI * HTTP/2.0\r\n", 400), (b"G" * 40 + b" / HTTP/1.1\r\n", 400),
        (b"POST /v2/models/m/infer http/1.1\r\n", 400), (b"POST /v2/models/m/infer HTTP/1.1 \r\n", 400),
        (b"POST\t/v2/models/m/infer HTTP/1.1\r\n", 400), (b"POST /v2/models/\xc3\xa9/infer HTTP/1.1\r\n", 400),
        (b"post /v2/models/m/infer HTTP/1.1\r\n", 400), (b"GET /" + b"a" * 8_200 + b" HTTP/1.1\r\n", 414),
        (b"POST  /v2 HTTP/1.1\r\n", 400), (b"POST /v2  HTTP/1.1\r\n", 400), (b"CONNECT here:80 HTTP/1.1\r\n", 405),
        (b"CONNECT /v2 HTTP/1.1\r\n", 405), (b"POST /v2/models/m/infer\r\n", 400),
        (b"POST /v2/models/m/infer HTTP/1.2\r\n", 505), (b"POST /v2/models/m/infer HTTP/2.0\r\n", 505),
    ],
)  # fmt: skip
def test_refused_request_lines(line: bytes, expected: int) -> None:
    assert status(line, HOST) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"POST http://here:8000/v2/models/m/infer HTTP/1.1\r\n", b"GET https://HERE:8000?x HTTP/1.1\r\n",
        b"GET HTTP://here:8000 HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"M-SEARCH /v2 HTTP/1.1\r\n",
        b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\n",
    ],
)  # fmt: skip
def test_request_lines_for_the_full_parser(line: bytes) -> None:
    assert kind(line, HOST, LENGTH) == "length"


def test_http_1_0_knows_no_chunks() -> None:
    assert status(LINE.replace(b"1.1", b"1.0"), HOST, b"Transfer-Encoding: chunked\r\n") == 400


def test_a_body_without_a_length_is_none() -> None:
    assert kind(LINE, HOST) == "length"
    assert kind(LINE, HOST, b"Content-Length: 0\r\n") == "length"


@pytest.mark.parametrize(
    "value",
    [
        b"+5", b"-0", b"-5", b"5x0", b"5_0", b"5 5", b"", b"5,5", b"5, 5", b"5;", b"\xd9\xa5", b"1e3",
        b"9223372036854775808", b"18446744073709551616", b"1" * 30,
    ],
)  # fmt: skip
def test_no_guessing_at_content_length(value: bytes) -> None:
    assert status(LINE, HOST, b"Content-Length: " + value + b"\r\n") == 400
    assert status(LINE, HOST, b"Content-Length: 0" + value + b"5\r\n") == 400


@pytest.mark.parametrize(
    "lines",
    [
        [LENGTH, LENGTH],
        [LENGTH, b"content-length: 6\r\n"],
        [LENGTH, b"Transfer-Encoding: chunked\r\n"],
        [b"Transfer-Encoding: chunked\r\n", LENGTH],
        [b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n"],
        [b"Content-Length : 5\r\n"],
        [b"Content-Length\t: 5\r\n"],
        [b" folded: yes\r\n", LENGTH],
        [LENGTH, b"X: a\r\n b\r\n"],
        [LENGTH, b"X: a\r\n\tb\r\n"],
        [LENGTH, b": empty\r\n"],
        [LENGTH, b"no colon\r\n"],
        [LENGTH, b"nocolon\r\n"],
        [LENGTH, b"a(b): c\r\n"],
        [LENGTH, b"caf\xc3\xa9: c\r\n"],
    ],
)
def test_uncertain_framing_is_refused(lines: list[bytes]) -> None:
    assert status(LINE, HOST, *lines) == 400
    assert status(b"GET /v2 HTTP/1.1\r\n", HOST, *lines) == 400


def test_two_kinds_of_framing_are_refused_with_the_remedy() -> None:
    fields = classify(LINE + HOST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n")[2]
    assert "leave out Content-Length" in str(fields["message"])


@pytest.mark.parametrize(("fields", "expected"), [([b"X: " + b"a" * 8_188], 431), ([b"X: y"] * 128, 431)])
def test_fields_beyond_the_limits_are_refused(fields: list[bytes], expected: int) -> None:
    lines = [field + b"\r\n" for field in fields]
    assert status(LINE, HOST, *lines) == expected
    assert kind(LINE, HOST, *[line[:-3] + b"\r\n" for line in lines[:127]]) == "length"


@pytest.mark.parametrize(
    "text",
    [
        b"\n", b"POST / HTTP/1.1\n", b"POST / HTTP/1.1\r\nA: b\n",
        b"POST / HTTP/1.1\rA", b"POST /\0 ", b"POST /\x7f", b"POST / HTTP/1.1\r\nA: \x01",
        b"POST / HTTP/1.1\r\nA: \x0b", b"\x16\x03\x01\x02", b"\x00",
    ],
)  # fmt: skip
def test_a_byte_that_no_head_has_is_seen_at_once(text: bytes) -> None:
    assert classify(text)[0] == "bad"


@pytest.mark.parametrize("offset", range(20))
def test_control_characters_are_seen_wherever_they_stand(offset: int) -> None:
    for byte in range(256):
        value = b"a" * offset + bytes([byte]) + b"b" * 20
        found = kind(LINE, HOST, LENGTH, b"X: " + value + b"\r\n")
        assert found == ("bad" if (byte < 0x20 and byte != 9) or byte == 0x7F else "infer"), byte


def test_an_empty_line_is_no_head() -> None:
    assert classify(b"\r\nPOST / HTTP/1.1\r\n\r\n") == ("empty", 2, {})


@pytest.mark.parametrize("chunked", [b"chunked", b"Chunked", b" chunked "])
def test_chunked_bodies_are_known(chunked: bytes) -> None:
    head = LINE + HOST + b"Transfer-Encoding:" + chunked + b"\r\n\r\n"
    fields = {"chunked": True, "model": b"m", "version": -1, "header_length": -1, "coding": 0}
    assert classify(head) == ("infer", len(head), fields)
    assert kind(b"GET /v2 HTTP/1.1\r\n", HOST, b"Transfer-Encoding:" + chunked + b"\r\n") == "chunked"


def test_random_bytes_never_disturb_the_parser() -> None:
    source = random.Random(7)
    whole = LINE + HOST + LENGTH + b"Inference-Header-Content-Length: 3\r\n\r\n"
    for _ in range(20_000):
        mutated = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(mutated))
            mutated[at : at + source.randint(0, 3)] = source.randbytes(source.randint(0, 3))
        found, end, fields = classify(bytes(mutated))
        assert found in ("more", "bad", "empty", "infer", "length", "chunked", "refused")
        if found == "infer":
            assert mutated[:end].endswith(b"\r\n\r\n")
            assert mutated[:end].lower().count(b"content-length") in (1, 2)
            assert 0 < int(fields["content_length"]) < 10**18
