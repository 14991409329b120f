"""The strict head parser: what it takes, what it leaves, and that cuts between segments change nothing."""

from __future__ import annotations

import random

import pytest

from triton_async.protocol.http_head import chunks_end, classify

LINE = b"POST /v2/models/m/infer HTTP/1.1\r\n"
HOST = b"Host: here:8000\r\n"
LENGTH = b"Content-Length: 5\r\n"


def kind(*lines: bytes) -> str:
    return classify(b"".join(lines) + b"\r\n")[0]


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ([LINE, HOST, LENGTH], {"content_length": 5, "model": b"m", "version": -1, "header_length": -1}),
        (
            [
                b"POST /v2/models/a-b_c.9/versions/12/infer HTTP/1.1\r\nhost:x\r\nCONTENT-LENGTH:\t77 \r\n",
                b"inference-header-content-length: 70\r\nConnection: Keep-Alive\r\nAccept-Encoding: identity\r\n",
                b"User-Agent: caf\xc3\xa9\r\nX-Empty:\r\nContent_Length: 9\r\nContent-Type: application/json\r\n",
            ],
            {"content_length": 77, "model": b"a-b_c.9", "version": 12, "header_length": 70},
        ),
        (
            [LINE, HOST, LENGTH, b"Inference-Header-Content-Length: 0\r\n"],
            {"content_length": 5, "model": b"m", "version": -1, "header_length": 0},
        ),
    ],
)
def test_plain_infer_requests_are_taken(lines: list[bytes], fields: dict[str, object]) -> None:
    head = b"".join(lines) + b"\r\n"
    assert classify(head) == ("infer", len(head), fields)
    assert classify(head + b"POST /") == ("infer", len(head), fields)
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
        b"POST /v2/models/m/generate HTTP/1.1\r\n",
    ],
)
def test_other_requests_have_a_known_length(line: bytes) -> None:
    assert kind(line, HOST, LENGTH) == "length"
    assert classify(line + HOST + b"\r\n")[2] == {"content_length": 0}


@pytest.mark.parametrize(
    "field",
    [
        b"Expect: 100-continue\r\n",
        b"Accept-Encoding: gzip\r\n",
        b"Accept-Encoding: identity, gzip\r\n",
        b"Accept-Encoding:\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: identity\r\n",
        b"Connection: close\r\n",
        b"Inference-Header-Content-Length: 05\r\n",
        b"Inference-Header-Content-Length: +5\r\n",
        b"Inference-Header-Content-Length: -5\r\n",
        b"Inference-Header-Content-Length: 5 5\r\n",
        b"Inference-Header-Content-Length:\r\n",
        b"Inference-Header-Content-Length: 5\r\nInference-Header-Content-Length: 5\r\n",
        b"".join(b"X-%d: y\r\n" % i for i in range(70)),
    ],
)
def test_fields_that_only_the_full_parser_may_answer(field: bytes) -> None:
    assert kind(LINE, HOST, LENGTH, field) == "length"
    assert kind(LINE, field, LENGTH, HOST) == "length"


def test_a_missing_host_is_left_to_the_full_parser() -> None:
    assert kind(LINE, LENGTH) == "length"


def status(*lines: bytes) -> object:
    found, _, fields = classify(b"".join(lines) + b"\r\n")
    assert found == "refused"
    return fields["status"]


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
        (b"POST  /v2 HTTP/1.1\r\n", 400), (b"POST /v2  HTTP/1.1\r\n", 400), (b"CONNECT here:80 HTTP/1.1\r\n", 405),
        (b"CONNECT /v2 HTTP/1.1\r\n", 405), (b"POST /v2/models/m/infer\r\n", 400),
        (b"POST /v2/models/m/infer HTTP/1.2\r\n", 505), (b"POST /v2/models/m/infer HTTP/2.0\r\n", 505),
    ],
)  # fmt: skip
def test_refused_request_lines(line: bytes, expected: int) -> None:
    assert status(line, HOST) == expected


def test_http_1_0_knows_no_chunks() -> None:
    assert status(LINE.replace(b"1.1", b"1.0"), HOST, b"Transfer-Encoding: chunked\r\n") == 400
    assert kind(LINE.replace(b"1.1", b"1.0"), LENGTH) == "other"


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
    assert kind(LINE, HOST, b"Content-Length: " + value + b"\r\n") == "other"
    assert status(LINE, HOST, b"Content-Length: 0" + value + b"5\r\n") == 400


@pytest.mark.parametrize(
    "lines",
    [
        [LENGTH, LENGTH],
        [LENGTH, b"content-length: 6\r\n"],
        [LENGTH, b"Transfer-Encoding: chunked\r\n"],
        [b"Transfer-Encoding: chunked\r\n", LENGTH],
        [b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n"],
        [b"Upgrade: h2c\r\n", LENGTH],
        [b"Connection: close, upgrade\r\n", LENGTH],
        [b"Trailer: X\r\n", LENGTH],
        [b"Content-Length : 5\r\n"],
        [b"Content-Length\t: 5\r\n"],
        [b" folded: yes\r\n", LENGTH],
        [LENGTH, b"X: a\r\n b\r\n"],
        [LENGTH, b"X: a\r\n\tb\r\n"],
        [LENGTH, b": empty\r\n"],
        [LENGTH, b"no colon\r\n"],
        [LENGTH, b"a(b): c\r\n"],
        [LENGTH, b"caf\xc3\xa9: c\r\n"],
    ],
)
def test_uncertain_framing_belongs_to_the_full_parser(lines: list[bytes]) -> None:
    assert kind(LINE, HOST, *lines) == "other"
    assert kind(b"GET /v2 HTTP/1.1\r\n", HOST, *lines) == "other"


@pytest.mark.parametrize(
    "line",
    [
        b"POST /v2/models/m/infer HTTP/1.0\r\n",
        b"POST /v2/models/m/infer http/1.1\r\n",
        b"POST /v2/models/m/infer HTTP/1.1 \r\n",
        b"POST\t/v2/models/m/infer HTTP/1.1\r\n",
        b"POST http://here/v2/models/m/infer HTTP/1.1\r\n",
        b"POST /v2/models/\xc3\xa9/infer HTTP/1.1\r\n",
        b"post /v2/models/m/infer HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"G" * 40 + b" / HTTP/1.1\r\n",
    ],
)
def test_request_lines_beyond_the_plain_form(line: bytes) -> None:
    assert kind(line, HOST, LENGTH) == "other"


@pytest.mark.parametrize(
    "text",
    [
        b"\r\nPOST / HTTP/1.1\r\n\r\n", b"\n", b"POST / HTTP/1.1\n", b"POST / HTTP/1.1\r\nA: b\n",
        b"POST / HTTP/1.1\rA", b"POST /\0 ", b"POST /\x7f", b"POST / HTTP/1.1\r\nA: \x01",
        b"POST / HTTP/1.1\r\nA: \x0b", b"\x16\x03\x01\x02", b"\x00",
    ],
)  # fmt: skip
def test_a_byte_that_no_head_has_is_seen_at_once(text: bytes) -> None:
    assert classify(text)[0] == "other"


@pytest.mark.parametrize("chunked", [b"chunked", b"Chunked", b" chunked "])
def test_chunked_bodies_are_known(chunked: bytes) -> None:
    assert kind(LINE, HOST, b"Transfer-Encoding:" + chunked + b"\r\n") == "chunked"


def test_random_bytes_never_disturb_the_parser() -> None:
    source = random.Random(7)
    whole = LINE + HOST + LENGTH + b"Inference-Header-Content-Length: 3\r\n\r\n"
    for _ in range(20_000):
        mutated = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(mutated))
            mutated[at : at + source.randint(0, 3)] = source.randbytes(source.randint(0, 3))
        found, end, fields = classify(bytes(mutated))
        assert found in ("more", "other", "infer", "length", "chunked", "refused")
        if found == "infer":
            assert mutated[:end].endswith(b"\r\n\r\n")
            assert mutated[:end].lower().count(b"content-length") in (1, 2)
            assert 0 < int(fields["content_length"]) < 10**18


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"0\r\n\r\n", (5, "done")),
        (b"5\r\nhello\r\n0\r\n\r\nPOST", (15, "done")),
        (b"A\r\n0123456789\r\n1\r\nx\r\n00\r\n\r\n", (27, "done")),
        (b"5;a\r\nhello\r\n0;b=c;d=\"e f\";g\r\n\r\n", (31, "done")),
        (b"5\r\nhell", (7, "more")),
        (b"5\r\nhello\r\n", (10, "more")),
        (b"", (0, "more")),
    ],
)
def test_chunks_are_followed(body: bytes, result: tuple[int, str]) -> None:
    assert chunks_end([body]) == result
    assert chunks_end([body[i : i + 1] for i in range(len(body))]) == result


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\n", b"+5\r\n", b" 5\r\n", b"5 \r\n", b"-1\r\n", b"5_0\r\n", b"\r\n", b"1" * 17 + b"\r\n",
        b"5\n", b"5\r5", b"3\r\nhello\r\n", b"5\r\nhello0\r\n", b"5\r\nhello\n0", b";a=b\r\n", b"0\r\n\n",
        b"0\r\n A: b", b"5;\r", b"5;a=\r", b"5;a\n", b"5;a\0", b'5;a="\r', b'5;a="b"c', b"5;a=b=c",
        b"5; a\r", b"5;" + b"a" * 16_385,
    ],
)  # fmt: skip
def test_malformed_chunks_are_seen(body: bytes) -> None:
    assert chunks_end([body])[1] == "bad"
    assert chunks_end([body[i : i + 1] for i in range(len(body))])[1] == "bad"


@pytest.mark.parametrize("body", [b'5;a="\\"', b"0\r\nA: b\r\n"])
def test_escapes_and_trailers_are_left_to_the_full_parser(body: bytes) -> None:
    assert chunks_end([body])[1] == "lost"
    assert chunks_end([body[i : i + 1] for i in range(len(body))])[1] == "lost"
