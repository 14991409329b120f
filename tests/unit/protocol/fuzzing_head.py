"""What must hold for any bytes that an HTTP/1.1 client sends: the head parser, the chunk tracker and the scanner of
infer headers against slow readers written from RFC 9112 alone. Shared by the seeded tests and tests/fuzz.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import struct
import zlib
from typing import Any

from fuzzing import MODELS, mutate, mutate_json

from triton_async.infer.request import InferRequest
from triton_async.protocol.http_codec import decode_infer
from triton_async.protocol.http_head import chunks_end, classify, head_end
from triton_async.protocol.http_scan import scan

# Requests looked at in one stream.
PIPELINED = 8
MAX_FIELDS = 64
MAX_EXTENSION_NBYTES = 16384

TEXT = rb"[\t\x20-\x7e\x80-\xff]"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(rb"(?:%s+\r\n)+\r\n" % TEXT)
HEAD_BEGUN = re.compile(rb"(?:%s+\r\n)*(?:%s+\r?|\r)?\Z" % (TEXT, TEXT))
INFER_LINE = re.compile(rb"POST /v2/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]{1,18}))?/infer HTTP/1\.1")
LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")
EXTENSION = rb';%s(?:=(?:%s|"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*"))?' % (TOKEN, TOKEN)
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,12})((?:%s)*)\r\n" % EXTENSION)


def check_head(data: bytes) -> str:
    """How the first request was taken. AssertionError when a reader here reads something else."""
    first, at = "more", 0
    for number in range(PIPELINED):
        rest = data[at:]
        kind, end, fields = classify(rest)
        found = HEAD.match(rest)
        assert end == (0 if found is None else found.end())
        assert found is not None or kind == ("other" if HEAD_BEGUN.match(rest) is None else "more")
        assert head_end(_pieces(rest)) == (end if end or kind == "more" else -1)
        if number == 0:
            first = kind
        body = rest[end:]
        if end:
            assert _agrees(rest[:end], kind, fields), (kind, fields)
        if kind in ("more", "other", "refused"):
            _check_chunks(rest)
            break
        if kind == "chunked":
            taken = _check_chunks(body)
            if taken < 0:
                break
            at += end + taken
            continue
        nbytes = int(fields["content_length"])
        if kind == "infer":
            for size in {nbytes, len(body)}:
                _check_scan(body[:size], int(fields["header_length"]))
        if nbytes > len(body):
            break
        at += end + nbytes
    return first


def _agrees(head: bytes, kind: str, fields: dict[str, Any]) -> bool:
    """Whether the reading of a complete head may be acted on."""
    if kind == "other":
        return fields == {}
    lines = head[:-4].split(b"\r\n")
    named: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        # A bad request line is enough to refuse a request, whatever follows.
        assert kind == "refused" or (colon and re.fullmatch(TOKEN, name)), line
        named.setdefault(name.lower(), []).append(value.strip(b" \t"))
    if kind == "refused":
        return _is_wrong(lines[0], named, fields["status"])
    first = LINE.fullmatch(lines[0])
    assert first is not None
    assert (first[1] == b"CONNECT", first[3]) == (False, b"1")
    assert len(named.get(b"host", [])) <= 1
    assert not named.keys() & {b"upgrade", b"trailer"}
    assert {value.lower() for value in named.get(b"connection", [])} <= {b"keep-alive", b"close"}
    lengths, codings = named.get(b"content-length", []), named.get(b"transfer-encoding", [])
    if kind == "chunked":
        assert lengths == []
        assert [coding.lower() for coding in codings] == [b"chunked"]
        return fields == {}
    assert codings == []
    assert len(lengths) <= 1
    assert all(NUMBER.fullmatch(value) for value in lengths)
    expected: dict[str, Any] = {"content_length": int(lengths[0]) if lengths else 0}
    if kind == "infer":
        infer = INFER_LINE.fullmatch(lines[0])
        assert infer is not None
        assert expected["content_length"] > 0
        assert len(named[b"host"]) == 1
        assert len(lines) - 1 <= MAX_FIELDS
        assert not named.keys() & {b"expect", b"content-encoding"}
        assert {value.lower() for value in named.get(b"connection", [])} <= {b"keep-alive"}
        assert {value.lower() for value in named.get(b"accept-encoding", [])} <= {b"identity"}
        sizes = named.get(b"inference-header-content-length", [])
        assert len(sizes) <= 1
        assert all(NUMBER.fullmatch(value) for value in sizes)
        expected["model"] = infer[1]
        expected["version"] = int(infer[2]) if infer[2] else -1
        expected["header_length"] = int(sizes[0]) if sizes else -1
    return fields == expected


def _is_wrong(line: bytes, named: dict[bytes, list[bytes]], status: int) -> bool:
    """Whether there is a reason to refuse the request with this status."""
    hosts, codings = named.get(b"host", []), named.get(b"transfer-encoding", [])
    reasons = set()
    if len(hosts) > 1 or any(not host or re.search(rb"[\x00-\x20,/@\\]", host) for host in hosts):
        reasons.add(400)
    if any(len(value) > 1 and value[:1] == b"0" for value in named.get(b"content-length", [])):
        reasons.add(400)
    reasons |= {501 if re.match(TOKEN, coding) else 400 for coding in codings if coding.lower() != b"chunked"}
    reasons |= {400 for coding in codings if re.match(rb"(?i)chunked[^!#$%&'*+\-.^_`|~0-9A-Za-z]", coding)}
    if codings and line.endswith(b" HTTP/1.0"):
        reasons.add(400)
    if re.match(rb"[A-Z]{1,16}  ", line) or re.fullmatch(rb"[A-Z]{1,16} /[\x21-\x7e]*(?:  .*)?", line):
        reasons.add(400)
    if line.startswith(b"CONNECT"):
        reasons.add(405)
    if re.search(rb" HTTP/[0-9]\.[0-9]\Z", line) and not line.endswith((b"1.0", b"1.1")):
        reasons.add(505)
    return status in reasons


def _check_chunks(body: bytes) -> int:
    """Bytes of a complete chunked body at the front; -1 when it is not complete or not plain."""
    found = chunks_end([body])
    assert chunks_end(_pieces(body)) == found
    if len(body) < 256:
        assert chunks_end([body[i : i + 1] for i in range(len(body))]) == found
    taken = _chunked_end(body)
    assert (found[1] == "done") == (taken >= 0)
    assert taken < 0 or found[0] == taken
    return taken


def _pieces(data: bytes) -> list[bytes]:
    """The same bytes as some reads may bring them."""
    choose = random.Random(zlib.crc32(data))
    cuts = [0, *sorted(choose.randint(0, len(data)) for _ in range(choose.randint(1, 6))), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


def _chunked_end(body: bytes) -> int:
    """Where RFC 9112 7.1 sees the end of a body without trailers and escapes; -1: nowhere."""
    at = extensions = 0
    while True:
        line = SIZE_LINE.match(body, at)
        if line is None:
            return -1
        extensions += len(line[2])  # without its first byte, with the CR
        if extensions > MAX_EXTENSION_NBYTES:
            return -1
        size = int(line[1], 16)
        at = line.end() + size
        if body[at : at + 2] != b"\r\n":
            return -1
        at += 2
        if size == 0:
            return at


def _state(request: InferRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "inputs": [(t.name, t.datatype, t.shape, t.element_count, bytes(t)) for t in request.inputs],
        "outputs": [(o.name, o.binary, o.classification, o.parameters) for o in request.outputs],
        "parameters": request.parameters,
        "numbers": (request.priority, request.timeout_us, request.flags, request.binary_default),
        "sequence": (type(request.sequence_id), request.sequence_id),
    }


def _check_scan(body: bytes, header_length: int) -> None:
    """The scanner declines, or reads what the general decoder reads."""
    if not 0 < header_length <= len(body):
        return
    found = scan("m", -1, MODELS[6], body, header_length)
    if found is not None:
        assert _state(found) == _state(decode_infer("m", -1, MODELS[6], body, header_length, 1 << 26, 0))


FIELDS = [
    b"Host: a", b"Host: ", b"Host: a,b", b"Content-Length: 5", b"Content-Length: 05", b"Content-Length: 5, 5",
    b"content-length:\t7 ", b"Content-Length: 999999999999999999", b"Content-Length: 9223372036854775808",
    b"Content-Length : 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Expect: 100-continue",
    b"Transfer-Encoding: chunked, gzip", b"transfer-encoding:Chunked", b"Transfer-Encoding: chunked;q=1",
    b"Connection: close", b"Connection: keep-alive, upgrade", b"Upgrade: h2c", b"Trailer: x", b" folded",
    b"Inference-Header-Content-Length: 10", b"Inference-Header-Content-Length: -1", b"Accept-Encoding: identity",
    b"Accept-Encoding: gzip", b"Content-Encoding: gzip", b"X", b": y", b"caf\xc3\xa9: z", b"X: \x7f", b"X: \0", b"",
]  # fmt: skip
LINES = [
    b"POST /v2/models/m/infer HTTP/1.1", b"POST /v2/models/m/versions/1/infer HTTP/1.1", b"GET /v2 HTTP/1.1",
    b"POST /v2/models/m/versions/999999999999999999/infer HTTP/1.1", b"POST /v2/models/m/infer HTTP/1.0", b"GET /v2",
    b"POST /v2/models/m/infer  HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/2.0",
]  # fmt: skip
CHUNKS = [
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"00005;a=b\r\nhello\r\n", b'1;a="b c";d\r\nx\r\n', b"1;a\r\n",
    b"0\r\nT: x\r\n\r\n",
    b"ffffffffffff\r\n", b"1000000000000\r\n", b"A\r\n0123456789\r\n", b'0;a="\\"\r\n\r\n', b"5 \r\nhello\r\n", b"\r\n",
]  # fmt: skip


def mutate_lines(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A stream with lines of its first head taken away, doubled, replaced or moved."""
    head, gap, body = choose.choice(seeds).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(lines)) if lines else 0
        kind = choose.randrange(5)
        if kind == 0:
            lines[at : at + 1] = []
        elif kind == 1:
            lines[at:at] = [choose.choice(lines or FIELDS)]
        elif kind == 2:
            lines[1:1] = [choose.choice(FIELDS)]
        elif kind == 3:
            lines[:1] = [choose.choice(LINES)]
        else:
            choose.shuffle(lines)
    return choose.choice([b"\r\n", b"\r\n", b"\r\n", b"\n"]).join(lines) + gap + body


def mutate_chunks(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A chunked request made of good and bad chunks."""
    head = b"\r\n".join([choose.choice(LINES), b"Host: a", b"Transfer-Encoding: chunked"]) + b"\r\n\r\n"
    body = b"".join(choose.choice(CHUNKS) for _ in range(choose.randint(0, 4))) + b"0\r\n\r\n"
    if choose.random() < 0.5:
        body = mutate(choose, [body])
    return head + body + choose.choice([b"", choose.choice(seeds)])


def _shuffled(choose: random.Random, value: Any) -> Any:
    """With the members of every object in another order."""
    if isinstance(value, list):
        return [_shuffled(choose, item) for item in value]
    if isinstance(value, dict):
        return {key: _shuffled(choose, value[key]) for key in choose.sample(sorted(value), len(value))}
    return value


def mutate_infer(choose: random.Random, seeds: list[bytes]) -> bytes:
    """An infer request with another JSON or tensor, whose lengths are right."""
    infers = [seed for seed in seeds if seed.startswith(b"POST /v2/models/") and b"nference-" in seed]
    head, _, body = choose.choice(infers or seeds).partition(b"\r\n\r\n")
    found = re.search(rb"(?i)inference-header-content-length: *([0-9]{1,6})", head)
    if found is None:
        return mutate_lines(choose, seeds)
    size = int(found[1])
    text, tensors = body[:size], body[size:]
    kind = choose.random()
    if kind < 0.6 and len(text) == size > 0:
        separators = choose.choice([(",", ":"), (", ", ": "), ("\n,\t", " : ")])
        text = json.dumps(_shuffled(choose, json.loads(text)), separators=separators).encode()
        if kind < 0.3:
            text = mutate_json(choose, [struct.pack("<BH", 0, len(text)) + text])[3:]
    elif kind < 0.9:
        text = mutate(choose, [text])
    else:
        tensors = mutate(choose, [tensors])
    if choose.random() < 0.2:
        text = re.sub(rb'"binary_data_size": ?[0-9]+', b'"binary_data_size":%d' % len(tensors), text, count=1)
    head = re.sub(rb"(?i)\ncontent-length:[^\r]*", b"\nContent-Length: %d" % (len(text) + len(tensors)), head)
    head = re.sub(rb"(?i)(inference-header-content-length:)[^\r]*", rb"\1 %d" % len(text), head)
    return head + b"\r\n\r\n" + text + tensors
