"""The HTTP/1.1 attack table: every bad head or body is refused, and what is smuggled behind it never answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from core_harness import run, write_model
from http_harness import Client, serving

HOST = b"Host: x\r\n"
POST = b"POST /v2/models/m/infer HTTP/1.1\r\n" + HOST
GET = b"GET /v2/health/live HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"\r\nhello\r\n0\r\n\r\n"
POISON = b"GET /v2/poison HTTP/1.1\r\nHost: x\r\n\r\n"


def length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


def coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"


def trailer(line: bytes) -> bytes:
    return CHUNKED + b"5\r\nhello\r\n0\r\n" + line + b"\r\n\r\n"


def field(line: bytes) -> bytes:
    return GET + HOST + line + b"\r\n\r\n"


def target(text: bytes) -> bytes:
    return b"GET " + text + b" HTTP/1.1\r\n" + HOST + b"\r\n"


# Answered with the status, then closed; nothing behind is answered.
REFUSED: list[tuple[int, bytes]] = [
    # Framing by two lengths, or by one and chunks.
    (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    *((400, length(v)) for v in (b"5, 5", b"5,6", b"+5", b"-0", b"0x5", b"5_0", b"5 5", b"", b"\xd9\xa5", b"005")),
    *((400, length(v)) for v in (b"18446744073709551616", b"1" * 30)),
    # Codings.
    *((501, coding(v)) for v in (b"xchunked", b"identity", b"gzip, chunked")),
    *((400, coding(v)) for v in (b"chunked, chunked", b"chunked, gzip", b", chunked", b"chunked;q=1")),
    *((400, coding(v)) for v in (b"\x0bchunked", b"chunked\x00", b"chunked\r\nTransfer-Encoding: chunked")),
    (400, CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n"),
    # Names, folding, line ends, control characters.
    *((400, field(v)) for v in (b"Content-Length : 5", b"Content-Length\t: 5", b": 5", b"a b: c", b"nocolon")),
    *((400, field(v)) for v in (b" folded: x", b"X: a\r\n b", b"X: a\r\n\tb", b"caf\xc3\xa9: x")),
    *((400, field(v)) for v in (b"X: a\rb", b"X: a\0b", b"X: a\x7fb", b"X: a\x01b", b"X: a\nY: b")),
    (400, GET + b" X: a\r\n" + HOST + b"\r\n"),
    (400, GET + b"Host: x\n\r\n"),
    (400, GET.replace(b"\r", b"") + HOST + b"\r\n"),
    # Chunks.
    *((400, CHUNKED + v + LAST) for v in (b"0x5", b"+5", b" 5", b"5 ", b"-1", b"5_0", b"", b"1" * 17)),
    *((400, CHUNKED + v + LAST) for v in (b"5;", b"5;a\n", b"5;a\0", b'5;a="', b"5\n")),
    (400, CHUNKED + b"3\r\nhello\r\n0\r\n\r\n"),
    (400, CHUNKED + b"7\r\nhello\r\n0\r\n\r\n"),
    *((400, trailer(v)) for v in (b" X: a", b"X : a", b"X: a\0", b"X", b"X: a\r\n b", b": a", b"X: a\rb")),
    *((400, trailer(v)) for v in (b"Content-Length: 5", b"transfer-encoding: chunked", b"X: " + b"a" * 33_000)),
    # Host, target, method, version.
    *((400, GET + v + b"\r\n") for v in (b"", HOST + HOST, b"Host:\r\n", b"Host: a,b\r\n", b"Host: u@a\r\n")),
    (400, GET + b"Host: a/b\r\n\r\n"),
    *((400, target(v)) for v in (b"x:80", b"*", b"", b"/v2 b", b"/v2/\0", b"/v2/\xe9", b"/v2#x", b"/v2\\x")),
    *((400, target(v)) for v in (b"http://u@x/v2", b"http:///v2", b"http://y/v2", b"ftp://x/v2", b"http:/v2")),
    (405, b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    *((400, v + b" /v2 HTTP/1.1\r\n" + HOST + b"\r\n") for v in (b"get", b"FOO", b"G" * 40, b"G" * 8192)),
    *((400, b"GET /v2" + v + b"\r\n" + HOST + b"\r\n") for v in (b"", b" HTTP/1.1 ", b" http/1.1", b" HTTP/1")),
    *((400, b"GET /v2" + v + b"\r\n" + HOST + b"\r\n") for v in (b" HTTP/01.1",)),
    *((505, b"GET /v2" + v + b"\r\n" + HOST + b"\r\n") for v in (b" HTTP/2.0", b" HTTP/1.2", b" HTTP/0.9")),
    *((400, b"GET /v2" + v + b"\r\n" + HOST + b"\r\n") for v in (b"  HTTP/1.1", b"\tHTTP/1.1")),
    (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # In front of a request.
    *((400, v + GET + HOST + b"\r\n") for v in (b"\n", b"\r\n\n", b"\r\n\r\n", b"\r\n" * 100, b" \r\n", b"\r")),
    # Sizes.
    (414, b"GET /v2/" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    (431, GET + HOST + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1_000) for i in range(70)) + b"\r\n"),
    (414, b"GET /v2/" + b"a" * 8_190 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    (431, GET + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n"),
    (431, GET + HOST + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n"),
    (417, POST + b"Content-Length: 5\r\nExpect: x\r\n\r\n"),
]

# Answered, and the connection serves what comes next.
ACCEPTED: list[tuple[int, bytes]] = [
    (200, field(b"Transfer_Encoding: chunked")),
    (200, field(b"Content_Length: 5")),
    (200, field(b"X: \xe9")),
    (200, field(b"Connection: keep-alive")),
    (400, CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    (400, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
    (400, CHUNKED + b'5;a="\\"b"\r\nhello\r\n0\r\nX: y\r\nHost: z\r\n\r\n'),
    (200, GET.replace(b"/v2", b"http://x/v2") + HOST + b"\r\n"),
    (404, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    (200, field(b"Connection: upgrade\r\nUpgrade: foo")),
    (200, field(b"Connection: keep-alive, te\r\nTE: trailers")),
    (400, POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"),
    (200, GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n"),
    (200, b"\r\n" + GET + HOST + b"\r\n"),
    (404, b"GET /v2/" + b"a" * (8_190 - 17) + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    (200, GET + HOST + b"X: " + b"a" * (8_190 - 3) + b"\r\n\r\n"),
    (200, GET + HOST + b"X: y\r\n" * 127 + b"\r\n"),
    (200, GET + HOST + (b"X: " + b"y" * 8_000 + b"\r\n") * 4 + b"\r\n"),
    (200, GET + HOST + b"Content-Length: 5\r\n\r\nhello"),
    (405, b"HEAD /v2/health/live HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, POST + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"),
    (501, POST + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello"),
    *(
        (404, b"POST /v2/models/" + name + b"/infer HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello")
        for name in (b"%00", b"%0d%0aX:y", b"%2f", b"%c0%ae", b"..", b"a%2fb")
    ),
]


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_bad_requests_are_refused_and_nothing_behind_them_is_answered(tmp_path: Path, piece: int) -> None:
    write_model(tmp_path, "m")

    async def refused(port: int, status: int, request: bytes) -> None:
        client = await Client.connect(port)
        data = request + POISON
        for at in range(0, len(data), piece):
            if client.writer.is_closing():
                break
            client.writer.write(data[at : at + piece])
            # Lets the server read between the pieces, as far as the loop alternates.
            await asyncio.sleep(0)
        answer = await client.receive(head_only=False)
        assert answer.status == status, (request[:200], answer)
        assert await client.closed(), request[:200]
        client.close()

    async def test() -> None:
        cases = [case for case in REFUSED if piece > 1 or len(case[1]) <= 1_000]
        async with serving(tmp_path) as (_, endpoint):
            # At once: the server lingers for a second after a refusal, so that its answer arrives.
            await asyncio.gather(*(refused(endpoint.port, status, request) for status, request in cases))

    run(test)


def test_good_requests_with_odd_looks_are_answered(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for status, request in ACCEPTED:
                client = await Client.connect(endpoint.port)
                await client.send(request + GET + HOST + b"\r\n")
                answer = await client.receive(head_only=request.startswith(b"HEAD"))
                assert answer.status == status, (request[:200], answer)
                assert (await client.receive()).status == 200, request[:200]
                client.close()

    run(test)


def test_ends_in_the_middle_call_nobody(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    whole = POST + b"Content-Length: 5\r\n\r\nhello"

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            for request in (whole, CHUNKED + b"5" + LAST, GET + HOST + b"\r\n"):
                for cut in range(1, len(request) - 1):
                    client = await Client.connect(endpoint.port)
                    await client.send(request[:cut])
                    client.writer.write_eof()
                    assert not (await client.reader.read()).startswith(b"HTTP/1.1 200")
                    client.close()
            assert server.statistics("m")[0]["inference_count"] == 0

    run(test)
