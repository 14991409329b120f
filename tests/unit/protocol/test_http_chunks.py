"""Chunked bodies: their data at every cut, and what is refused."""

from __future__ import annotations

import pytest

from triton_async import defines
from triton_async.protocol.http_chunks import chunked_body


def every_cut(body: bytes) -> tuple[int, str, bytes]:
    """The same for the body in one piece, in two, and byte by byte."""
    whole = chunked_body([body])
    for cut in range(len(body) if len(body) < 200 else 0):
        assert chunked_body([body[:cut], body[cut:]]) == whole
    assert chunked_body([body[i : i + 1] for i in range(len(body))]) == whole
    return whole


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"0\r\n\r\n", (5, "done", b"")),
        (b"5\r\nhello\r\n0\r\n\r\nPOST", (15, "done", b"hello")),
        (b"A\r\n0123456789\r\n1\r\nx\r\n00\r\n\r\n", (27, "done", b"0123456789x")),
        (b"5;a\r\nhello\r\n0;b=c;d=\"e f\";g\r\n\r\n", (31, "done", b"hello")),
        (b'5;a="\\"\\\\";b\r\nhello\r\n0\r\n\r\n', (26, "done", b"hello")),
        (b"2\r\n\r\n\r\n0\r\nDigest: x\ty\r\nHost:\r\ncontent-lengths: 5\r\n\r\nGET", (52, "done", b"\r\n")),
        (b"5\r\nhell", (7, "more", b"hell")),
        (b"5\r\nhello\r\n", (10, "more", b"hello")),
        (b"0\r\nA: b\r\n", (9, "more", b"")),
        (b"", (0, "more", b"")),
    ],
)
def test_chunks_are_followed(body: bytes, result: tuple[int, str, bytes]) -> None:
    assert every_cut(body) == result


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\n", b"+5\r\n", b" 5\r\n", b"5 \r\n", b"-1\r\n", b"5_0\r\n", b"\r\n", b"1" * 17 + b"\r\n",
        b"5\n", b"5\r5", b"3\r\nhello\r\n", b"5\r\nhello0\r\n", b"5\r\nhello\n0", b";a=b\r\n", b"0\r\n\n",
        b"5;\r", b"5;a=\r", b"5;a\n", b"5;a\0", b'5;a="\r', b'5;a="b"c', b"5;a=b=c", b"5; a\r",
        b'5;a="\\\x01', b'5;a="\\\r', b"0\r\n A: b", b"0\r\n: b", b"0\r\nA : b", b"0\r\nA\r", b"0\r\nA: b\n",
        b"0\r\nA: \0", b"0\r\nA: b\r\n c", b"0\r\nA: b\r\r", b"0\r\nA: b\r\n\r\r", b"0\r\ncaf\xc3\xa9: b",
        b"0\r\nContent-Length:", b"0\r\nA: b\r\ntransfer-ENCODING:",
    ],
)  # fmt: skip
def test_malformed_chunks_are_seen_at_their_byte(body: bytes) -> None:
    taken, state, _ = every_cut(body)
    assert state == "bad"
    assert every_cut(body[: taken - 1])[1] == "more"


def test_what_nobody_reads_is_bounded() -> None:
    assert every_cut(b"1;" + b"a" * defines.HTTP_MAX_EXTENSION_NBYTES + b"\r\n")[1] == "bad"
    assert every_cut(b"1;" + b"a" * (defines.HTTP_MAX_EXTENSION_NBYTES - 1) + b"\r\n")[1] == "more"
    field = b"A: " + b"b" * 997
    count = defines.HTTP_MAX_HEADERS_NBYTES // len(field)
    assert every_cut(b"0\r\n" + (field + b"\r\n") * count)[1] == "more"
    assert every_cut(b"0\r\n" + (field + b"\r\n") * (count + 1))[1] == "bad"


def test_the_number_of_chunks_is_bounded() -> None:
    most = b"1\r\nx\r\n" * defines.HTTP_MAX_CHUNKS
    assert chunked_body([most + b"0\r\n\r\n"])[1:] == ("done", b"x" * defines.HTTP_MAX_CHUNKS)
    assert chunked_body([most + b"1\r\nx"])[1] == "many"
