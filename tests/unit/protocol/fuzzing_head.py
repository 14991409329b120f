"""What must hold for any bytes that an HTTP/1.1 client sends: the head parser, the chunk tracker, the choice of a
content coding and the scanner of infer headers against slow readers written from RFC 9110 and 9112 alone. Shared by the
seeded tests and tests/fuzz.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

from fuzzing import MODELS, mutate, mutate_json

from triton_async.infer.request import InferRequest
from triton_async.protocol.http_chunks import chunked_body
from triton_async.protocol.http_codec import decode_infer
from triton_async.protocol.http_head import classify, head_end
from triton_async.protocol.http_scan import scan

# Requests looked at in one stream.
PIPELINED = 8
MAX_FIELDS = 128
MAX_LINE_NBYTES = 8190
MAX_EXTENSION_NBYTES = 16384
MAX_TRAILER_NBYTES = 32768

TEXT = rb"[\t\x20-\x7e\x80-\xff]"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(rb"(?:%s+\r\n)+\r\n|\r\n" % TEXT)
HEAD_BEGUN = re.compile(rb"(?:%s+\r\n)*(?:%s+\r?|\r)?\Z" % (TEXT, TEXT))
FIELD = re.compile(rb"(%s):[ \t]*(.*?)[ \t]*" % TOKEN, re.DOTALL)
INFER_LINE = re.compile(rb"POST /v2/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]{1,18}))?/infer HTTP/1\.[01]")
LINE = re.compile(rb"([A-Z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])")
HOST = rb"[^\x00-\x20,/@\\]+"
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?")
NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")
EXTENSION = rb';%s(?:=(?:%s|"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\%s)*"))?' % (TOKEN, TOKEN, TEXT)
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,12})((?:%s)*)\r\n" % EXTENSION)
TRAILERS = re.compile(rb"((?:%s:%s*\r\n)*)\r\n" % (TOKEN, TEXT))
FRAMING_TRAILER = re.compile(rb"(?im)^(?:content-length|transfer-encoding):")


def check_head(data: bytes) -> str:
    """How the first request was taken. AssertionError when a reader here reads something else."""
    first, at = "more", 0
    for number in range(PIPELINED):
        rest = data[at:]
        kind, end, fields = classify(rest)
        found = HEAD.match(rest)
        assert end == (0 if found is None else found.end())
        assert found is not None or kind == ("bad" if HEAD_BEGUN.match(rest) is None else "more")
        assert head_end(_pieces(rest)) == (end if end or kind == "more" else -1)
        if number == 0:
            first = kind
        body = rest[end:]
        if end:
            expected = read_head(rest[:end])
            assert (kind, fields) == expected, (kind, fields, expected)
        if kind in ("more", "bad", "empty", "refused"):
            _check_chunks(rest)
            break
        if "chunked" in fields:
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


class Refused(Exception):
    """A head is against a rule: (status, a word of the message)."""


def read_head(head: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and fields of a complete head, as `classify` gives them. Slow, and by the grammar alone."""
    if head == b"\r\n":
        return "empty", {}
    lines = head[:-4].split(b"\r\n")
    try:
        authority = _read_line(lines[0])
        old = lines[0].endswith(b"0")
        named = _read_fields(lines[1:])
        _check_fields(named, old, authority)
    except Refused as refused:
        found = classify(head)[2]
        assert refused.args[0] == found["status"], (refused.args, found)
        assert refused.args[1] in str(found["message"]), (refused.args, found)
        return "refused", found
    return _describe(lines[0], named, old)


def _read_line(line: bytes) -> bytes | None:
    """The authority of a target in absolute form."""
    if line.startswith(b"CONNECT "):
        raise Refused(405, "Method")
    found = LINE.fullmatch(line)
    if found is None:
        raise Refused(400, "request head")
    method, target, version = found.groups()
    absolute = ABSOLUTE.fullmatch(target)
    if b"#" in target or b"\\" in target or not (
        target.startswith(b"/")
        or (absolute and re.fullmatch(HOST, absolute[1]))
        or (target == b"*" and method == b"OPTIONS")
    ):
        raise Refused(400, "target")
    if version not in (b"1.0", b"1.1"):
        raise Refused(505, "version")
    if len(line) > MAX_LINE_NBYTES:
        raise Refused(414, "line")
    return absolute[1] if absolute and not target.startswith(b"/") else None


def _read_fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    """Values by name in lower case."""
    named: dict[bytes, list[bytes]] = {}
    for count, line in enumerate(lines, 1):
        found = FIELD.fullmatch(line)
        if found is None:
            raise Refused(400, "request head")
        if len(line) > MAX_LINE_NBYTES:
            raise Refused(431, "field")
        if count > MAX_FIELDS:
            raise Refused(431, "fields")
        name, value = found[1].lower(), found[2]
        values = named.setdefault(name, [])
        values.append(value)
        for rule_name, rule in RULES.items():
            if name == rule_name:
                rule(values)
    return named


def _check_host(values: list[bytes]) -> None:
    if len(values) > 1 or not re.fullmatch(HOST, values[0]):
        raise Refused(400, "Host")


def _check_length(values: list[bytes]) -> None:
    if len(values) > 1 or not NUMBER.fullmatch(values[0]):
        raise Refused(400, "Content-Length")


def _check_transfer_coding(values: list[bytes]) -> None:
    value = values[-1].lower()
    if len(values) > 1 or not re.match(TOKEN, value) or re.match(rb"chunked(?!%s)." % TOKEN, value):
        raise Refused(400, "Transfer-Encoding")
    if value != b"chunked":
        raise Refused(501, "transfer coding")


# Checked as the fields come: the first that is wrong is named.
RULES: dict[bytes, Callable[[list[bytes]], None]] = {
    b"host": _check_host, b"content-length": _check_length, b"transfer-encoding": _check_transfer_coding,
}  # fmt: skip


def _check_fields(named: dict[bytes, list[bytes]], old: bool, authority: bytes | None) -> None:
    if b"transfer-encoding" in named and old:
        raise Refused(400, "HTTP/1.0")
    if b"transfer-encoding" in named and b"content-length" in named:
        raise Refused(400, "not both")
    hosts = named.get(b"host", [])
    if not (hosts or old) or (hosts and authority is not None and hosts[0].lower() != authority.lower()):
        raise Refused(400, "Host")


def _describe(line: bytes, named: dict[bytes, list[bytes]], old: bool) -> tuple[str, dict[str, Any]]:
    connection = b",".join(named.get(b"connection", []))
    options = [option.strip(b" \t").lower() for option in connection.split(b",")]
    closes, keeps = b"close" in options, b"keep-alive" in options
    expect = [value.lower() for value in named.get(b"expect", [])]
    chunked = b"transfer-encoding" in named
    length = int(named.get(b"content-length", [b"0"])[0])
    sizes = named.get(b"inference-header-content-length", [])
    flags = {"chunked": chunked, "old": old, "upgrades": b"upgrade" in named}
    infer = INFER_LINE.fullmatch(line)
    plain = (
        all(re.fullmatch(TOKEN, option) for option in options if option)
        and (not expect or (expect == [b"100-continue"] and not old))
        and not (old and closes and keeps)
        and len(named.get(b"accept-encoding", [])) <= 1
        and named.get(b"content-encoding", [b""]) in ([b""], [b"identity"])
        and (not sizes or (len(sizes) == 1 and bool(NUMBER.fullmatch(sizes[0])) and int(sizes[0]) < 1 << 31))
    )
    kind = "infer" if infer and plain and (chunked or length) else "chunked" if chunked else "length"
    if kind == "infer":
        flags.update(closes=not keeps if old else closes, expects=bool(expect))
    fields: dict[str, Any] = {name: True for name, value in flags.items() if value}
    if not chunked:
        fields["content_length"] = length
    if infer is None or kind != "infer":
        return kind, fields
    fields["model"] = infer[1]
    fields["version"] = int(infer[2]) if infer[2] else -1
    fields["header_length"] = int(sizes[0]) if sizes else -1
    fields["coding"] = coding_of(named.get(b"accept-encoding", [b""])[0])
    return "infer", fields


CODINGS = {b"identity": 0, b"gzip": 1, b"deflate": 2}
ITEM = re.compile(rb"[ \t]*(%s)[ \t]*(?:;[ \t]*[qQ]=([01](?:\.[0-9]*)?)[ \t]*)?" % TOKEN)


def coding_of(accept: bytes) -> int:
    """What RFC 9110 12.5.3 makes of the field: 0 to 2, and 4 more when nothing but that will do."""
    weights: dict[bytes, float] = {}
    best, best_weight = 0, 0.0
    for item in accept.split(b","):
        found = ITEM.fullmatch(item)
        if found is None:
            continue
        name = found[1].lower()
        weight = min(float(found[2][:5]), 1.0) if found[2] else 1.0
        weights.setdefault(name, weight)
        if name in CODINGS and weight > best_weight:
            best, best_weight = CODINGS[name], weight
    identity = weights.get(b"identity", weights.get(b"*", 1.0))
    return best + 4 if best and identity == 0 else best


def _check_chunks(body: bytes) -> int:
    """Bytes of a complete chunked body at the front; -1 when it is not complete or not plain."""
    found = chunked_body([body])
    assert chunked_body(_pieces(body)) == found
    if len(body) < 256:
        assert chunked_body([body[i : i + 1] for i in range(len(body))]) == found
    taken, data = _chunked_end(body)
    assert (found[1] == "done") == (taken >= 0)
    assert taken < 0 or found == (taken, "done", data)
    return taken


def _pieces(data: bytes) -> list[bytes]:
    """The same bytes as some reads may bring them."""
    choose = random.Random(zlib.crc32(data))
    cuts = [0, *sorted(choose.randint(0, len(data)) for _ in range(choose.randint(1, 6))), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


def _chunked_end(body: bytes) -> tuple[int, bytes]:
    """Where RFC 9112 7.1 sees the end of a body, and its data; -1: nowhere."""
    at = extensions = 0
    data = b""
    while True:
        line = SIZE_LINE.match(body, at)
        if line is None:
            return -1, b""
        extensions += len(line[2])  # without its first byte, with the CR
        if extensions > MAX_EXTENSION_NBYTES:
            return -1, b""
        size = int(line[1], 16)
        if size == 0:
            break
        at = line.end() + size
        if body[at : at + 2] != b"\r\n":
            return -1, b""
        data += body[line.end() : at]
        at += 2
    trailers = TRAILERS.match(body, line.end())
    if trailers is None or FRAMING_TRAILER.search(trailers[1]) or (
        len(trailers[1].replace(b"\r\n", b"\r")) > MAX_TRAILER_NBYTES
    ):
        return -1, b""
    return trailers.end(), data


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
    b"Inference-Header-Content-Length: 2147483648", b"Accept-Encoding: gzip, deflate, br, zstd", b"Expect: tea",
    b"Accept-Encoding: gzip;q=0.5,deflate; q=1.0, *;q=0", b"Accept-Encoding: deflate ;Q=0.123, identity;q=0",
    b"Connection: Keep-Alive", b"Connection: TE,, close", b'Connection: "close"', b"Content-Encoding: identity",
    b"Connection: close upgrade", b"HTTP2-Settings: AAMA", b"Content-Encoding:", b"Accept-Encoding: gzip", b"X",
    b": y", b"caf\xc3\xa9: z", b"X: \x7f", b"X: \0", b"",
]  # fmt: skip
LINES = [
    b"POST /v2/models/m/infer HTTP/1.1", b"POST /v2/models/m/versions/1/infer HTTP/1.1", b"GET /v2 HTTP/1.1",
    b"POST /v2/models/m/versions/999999999999999999/infer HTTP/1.1", b"POST /v2/models/m/infer HTTP/1.0", b"GET /v2",
    b"POST /v2/models/m/infer  HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/2.0",
    b"OPTIONS * HTTP/1.1", b"GET http://a/v2 HTTP/1.1", b"GET HTTPS://A?x HTTP/1.0", b"GET http://u@a/ HTTP/1.1",
    b"GET * HTTP/1.1", b"GET /# HTTP/1.1",
]  # fmt: skip
CHUNKS = [
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"00005;a=b\r\nhello\r\n", b'1;a="b c";d\r\nx\r\n', b"1;a\r\n",
    b"0\r\nT: x\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nA:\r\nB: \tc\r\n\r\n", b'2;a="\\\\b\\""\r\nhi\r\n',
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
