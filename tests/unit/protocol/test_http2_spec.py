"""The cases of h2spec that concern servers, at the session: connection error, stream error, ignored or fine."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from compiled import load
from hpack import Encoder

from triton_async import defines

EventSession = load("http2_events").EventSession

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIES = 1, 1, 4, 8, 32
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 7, 8, 9

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "x")]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def fields(*more: tuple[str, str], base: Sequence[tuple[str, str]] = REQUEST, drop: str = "") -> bytes:
    """A header block without any state, so that blocks can be put together in any order."""
    found = b""
    for name, value in [*(item for item in base if item[0] != drop), *more]:
        found += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return found


def head(*more: tuple[str, str], stream: int = 1, flags: int = END_HEADERS | END_STREAM, drop: str = "") -> bytes:
    return frame(HEADERS, fields(*more, drop=drop), flags, stream)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, struct.pack(">HI", key, value))


OPEN = head(flags=END_HEADERS)  # stream 1, the client still sends
HALF = head()  # stream 1, the client has ended
RESET = OPEN + frame(RST_STREAM, u32(CANCEL), 0, 1)

# The length of a frame that nobody may send.
LARGER = (defines.GRPC_MAX_FRAME_NBYTES + 1).to_bytes(3, "big")

# What the connection says: `connection` error codes, or `stream` error codes, or nothing; then whether it still lives.
CONNECTION = {
    "3.5 no preface": (None, b"GET / HTTP/1.1\r\n\r\n" + bytes(30)),
    "4.2 frame too large": (FRAME_SIZE_ERROR, LARGER + bytes([DATA, 0]) + u32(1)),
    "4.2 settings too large": (FRAME_SIZE_ERROR, LARGER + bytes([SETTINGS, 0]) + u32(0)),
    "4.3 broken field block": (COMPRESSION_ERROR, frame(HEADERS, b"\x82\x87\x40\xff\xff\xff\xff\xff", 5, 1)),
    "4.3 frame between headers and continuation": (
        PROTOCOL_ERROR, frame(HEADERS, fields(), 0, 1) + frame(PRIORITY, bytes(5), 0, 1)),
    "4.3 headers of another stream between": (
        PROTOCOL_ERROR, frame(HEADERS, fields(), 0, 1) + head(stream=3)),
    "5.1 idle: data": (PROTOCOL_ERROR, frame(DATA, b"x", END_STREAM, 1)),
    "5.1 idle: rst_stream": (PROTOCOL_ERROR, frame(RST_STREAM, u32(CANCEL), 0, 1)),
    "5.1 idle: window_update": (PROTOCOL_ERROR, frame(WINDOW_UPDATE, u32(1), 0, 1)),
    "5.1 idle: continuation": (PROTOCOL_ERROR, frame(CONTINUATION, fields(), END_HEADERS, 1)),
    "5.1 half-closed: continuation": (PROTOCOL_ERROR, HALF + frame(CONTINUATION, fields(), END_HEADERS, 1)),
    "5.1.1 even stream": (PROTOCOL_ERROR, head(stream=2)),
    "6.1 data on stream 0": (PROTOCOL_ERROR, frame(DATA, b"x")),
    "6.1 padding too long": (PROTOCOL_ERROR, OPEN + frame(DATA, b"\x06abcd", PADDED, 1)),
    "6.2 headers on stream 0": (PROTOCOL_ERROR, frame(HEADERS, fields(), 5, 0)),
    "6.2 padding too long": (PROTOCOL_ERROR, frame(HEADERS, b"\xff" + fields(), 5 | PADDED, 1)),
    "6.4 rst_stream on stream 0": (PROTOCOL_ERROR, frame(RST_STREAM, u32(CANCEL))),
    "6.4 rst_stream of 3 bytes": (FRAME_SIZE_ERROR, OPEN + frame(RST_STREAM, b"abc", 0, 1)),
    "6.5 settings ack with payload": (FRAME_SIZE_ERROR, frame(SETTINGS, bytes(6), ACK)),
    "6.5 settings on a stream": (PROTOCOL_ERROR, frame(SETTINGS, bytes(6), 0, 1)),
    "6.5 settings of 3 bytes": (FRAME_SIZE_ERROR, frame(SETTINGS, b"abc")),
    "6.5.2 enable_push 2": (PROTOCOL_ERROR, setting(2, 2)),
    "6.5.2 initial window 2^31": (FLOW_CONTROL_ERROR, setting(4, 2**31)),
    "6.5.2 max frame size 16383": (PROTOCOL_ERROR, setting(5, 16383)),
    "6.5.2 max frame size 2^24": (PROTOCOL_ERROR, setting(5, 2**24)),
    "6.6 push_promise": (PROTOCOL_ERROR, OPEN + frame(PUSH_PROMISE, u32(2) + fields(), END_HEADERS, 1)),
    "6.7 ping on a stream": (PROTOCOL_ERROR, frame(PING, bytes(8), 0, 1)),
    "6.7 ping of 6 bytes": (FRAME_SIZE_ERROR, frame(PING, bytes(6))),
    "6.8 goaway on a stream": (PROTOCOL_ERROR, frame(GOAWAY, bytes(8), 0, 1)),
    "6.9 increment 0 on the connection": (PROTOCOL_ERROR, frame(WINDOW_UPDATE, u32(0))),
    "6.9 window_update of 3 bytes": (FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, b"abc")),
    "6.9.1 connection window overflow": (FLOW_CONTROL_ERROR, frame(WINDOW_UPDATE, u32(2**31 - 1)) * 2),
    "6.10 continuation on stream 0": (
        PROTOCOL_ERROR, frame(HEADERS, fields(), 0, 1) + frame(CONTINUATION, fields(), END_HEADERS, 0)),
    "6.10 continuation after the end": (PROTOCOL_ERROR, head() + frame(CONTINUATION, fields(), END_HEADERS, 1)),
    "6.10 continuation after data": (
        PROTOCOL_ERROR, OPEN + frame(DATA, b"x", 0, 1) + frame(CONTINUATION, fields(), END_HEADERS, 1)),
    "hpack 2.3.3 index 0": (COMPRESSION_ERROR, frame(HEADERS, b"\x80" + fields(), 5, 1)),
    "hpack 2.3.3 index out of the table": (COMPRESSION_ERROR, frame(HEADERS, b"\xff\x80\x01" + fields(), 5, 1)),
    "hpack 4.2 size update at the end": (COMPRESSION_ERROR, frame(HEADERS, fields() + b"\x20", 5, 1)),
    "hpack 5.1 integer padding": (
        COMPRESSION_ERROR, frame(HEADERS, b"\xff" + b"\x80" * 20 + b"\x00" + fields(), 5, 1)),
    "hpack 5.2 padding of 8 bits": (
        COMPRESSION_ERROR, frame(HEADERS, fields() + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff", 5, 1)),
    "hpack 5.2 padding of zeros": (
        COMPRESSION_ERROR, frame(HEADERS, fields() + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90", 5, 1)),
    "hpack 5.2 end of string": (
        COMPRESSION_ERROR,
        frame(HEADERS, fields() + b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f", 5, 1)),
    "hpack 6.3 table size beyond the setting": (
        COMPRESSION_ERROR, frame(HEADERS, b"\x3f\xe1\xff\x03" + fields(), 5, 1)),
}  # fmt: skip

STREAM = {
    "5.1 half-closed: data": (STREAM_CLOSED, HALF + frame(DATA, b"x", 0, 1)),
    "5.1 half-closed: headers": (STREAM_CLOSED, HALF + head()),
    "6.9 increment 0 on a stream": (PROTOCOL_ERROR, OPEN + frame(WINDOW_UPDATE, u32(0), 0, 1)),
    "6.9.1 stream window overflow": (FLOW_CONTROL_ERROR, OPEN + frame(WINDOW_UPDATE, u32(2**31 - 1), 0, 1) * 2),
    "6.9.2 overflow by settings": (
        FLOW_CONTROL_ERROR, OPEN + frame(WINDOW_UPDATE, u32(2**31 - 1 - 65535), 0, 1) + setting(4, 65536)),
    "8.1 trailers without end": (PROTOCOL_ERROR, OPEN + frame(HEADERS, b"\0\1a\1b", END_HEADERS, 1)),
    "8.1.2 upper case name": (PROTOCOL_ERROR, head(("X-Test", "ok"))),
    "8.1.2.1 unknown pseudo header": (PROTOCOL_ERROR, head((":test", "ok"))),
    "8.1.2.1 response pseudo header": (PROTOCOL_ERROR, head((":status", "200"))),
    "8.1.2.1 pseudo header in trailers": (PROTOCOL_ERROR, OPEN + frame(HEADERS, fields((":method", "GET")), 5, 1)),
    "8.1.2.1 pseudo header after others": (
        PROTOCOL_ERROR, frame(HEADERS, fields(("x", "y"), (":path", "/"), drop=":path"), 5, 1)),
    "8.1.2.2 connection header": (PROTOCOL_ERROR, head(("connection", "keep-alive"))),
    "8.1.2.2 te other than trailers": (PROTOCOL_ERROR, head(("te", "trailers, deflate;q=0.5"))),
    "8.1.2.3 empty path": (PROTOCOL_ERROR, head((":path", ""), drop=":path")),
    "8.1.2.3 no method": (PROTOCOL_ERROR, head(drop=":method")),
    "8.1.2.3 no scheme": (PROTOCOL_ERROR, head(drop=":scheme")),
    "8.1.2.3 no path": (PROTOCOL_ERROR, head(drop=":path")),
    "8.1.2.3 two methods": (PROTOCOL_ERROR, frame(HEADERS, fields((":method", "POST")), 5, 1)),
    "8.1.2.3 two schemes": (PROTOCOL_ERROR, frame(HEADERS, fields((":scheme", "http")), 5, 1)),
    "8.1.2.3 two paths": (PROTOCOL_ERROR, frame(HEADERS, fields((":path", "/")), 5, 1)),
    "8.1.2.6 content-length of one frame": (
        PROTOCOL_ERROR, head(("content-length", "1"), flags=END_HEADERS) + frame(DATA, b"test", END_STREAM, 1)),
    "8.1.2.6 content-length of two frames": (
        PROTOCOL_ERROR,
        head(("content-length", "1"), flags=END_HEADERS) + frame(DATA, b"te", 0, 1) + frame(DATA, b"st", 1, 1)),
    "two content-lengths": (PROTOCOL_ERROR, head(("content-length", "1"), ("content-length", "1"))),
    "line break in a value": (PROTOCOL_ERROR, head(("x", "a\r\nb"))),
}  # fmt: skip

FINE = {
    "2 padded everything": frame(HEADERS, b"\x03" + fields() + bytes(3), END_HEADERS | PADDED, 1)
    + frame(DATA, b"\x02xy\0\0", END_STREAM | PADDED, 1),
    "3.2 priority flag": frame(HEADERS, bytes(5) + fields(), 5 | PRIORITIES, 1),
    "3.3 priority frames": frame(PRIORITY, bytes(5), 0, 1) + HALF + frame(PRIORITY, u32(0) + b"\xff", 0, 1),
    "3.10 continuations": frame(HEADERS, fields()[:5], END_STREAM, 1)
    + frame(CONTINUATION, fields()[5:9], 0, 1) + frame(CONTINUATION, fields()[9:], END_HEADERS, 1),
    "4.1 unknown frame": HALF + frame(0xBB, b"any", 0x77, 1) + frame(0xBB, b"any"),
    "4.1 reserved bits": head(stream=1 | 1 << 31),
    "4.1 unknown flags": frame(PING, bytes(8), 0x16) + HALF,
    "5.1 closed: priority": RESET + frame(PRIORITY, bytes(5), 0, 1) + head(stream=3),
    "6.5.2 unknown setting": setting(0xFF, 1) + HALF,
    "6.5.3 settings are applied in order": frame(
        SETTINGS, struct.pack(">HI", 4, 100) + struct.pack(">HI", 4, 1)) + HALF,
    "6.9.2 negative window": setting(4, 0) + HALF,
    "7 unknown error code": OPEN + frame(RST_STREAM, u32(0xFF), 0, 1) + head(stream=3),
    "8.1 trailers": OPEN + frame(DATA, b"x", 0, 1) + frame(HEADERS, b"\0\1a\1b", 5, 1),
    "closed: window_update": RESET + frame(WINDOW_UPDATE, u32(1), 0, 1) + head(stream=3),
}  # fmt: skip

# What nghttp2 ignores although it is an error: a stream that the client has skipped counts as closed, and priorities
# are off.
IGNORED = {
    "5.1.1 smaller stream": head(stream=5) + head(stream=3),
    "6.3 priority on stream 0": frame(PRIORITY, bytes(5)),
}

# Section 5.1 lets a server treat these as errors of the stream or the connection, or ignore them, once it was reset.
AFTER_RESET = {
    "data": frame(DATA, b"x", 0, 1),
    "headers": head(),
    "rst_stream": frame(RST_STREAM, u32(CANCEL), 0, 1),
}


def said(data: bytes) -> tuple[int | None, list[int]]:
    """Error code of GOAWAY, and those of resets."""
    session = EventSession()
    session.feed(PREFACE + frame(SETTINGS) + data if data[:3] != b"GET" else data)
    out = b"".join(session.output())
    goaway, resets = None, []
    while out:
        nbytes = int.from_bytes(out[:3], "big")
        payload = out[9 : 9 + nbytes]
        if out[3] == GOAWAY:
            goaway = int.from_bytes(payload[4:8], "big")
        elif out[3] == RST_STREAM:
            resets.append(int.from_bytes(payload, "big"))
        out = out[9 + nbytes :]
    assert session.finished() == (goaway is not None)
    return goaway, resets


@pytest.mark.parametrize("case", CONNECTION)
def test_connection_errors(case: str) -> None:
    expected, data = CONNECTION[case]
    goaway, _ = said(data)
    assert goaway is not None
    assert expected is None or goaway == expected


@pytest.mark.parametrize("case", STREAM)
def test_stream_errors(case: str) -> None:
    expected, data = STREAM[case]
    goaway, resets = said(data)
    if goaway is None:
        # Which code a malformed request is reset with is the server's choice.
        assert resets
    else:
        assert goaway == expected


@pytest.mark.parametrize("case", FINE)
def test_what_must_be_accepted(case: str) -> None:
    assert said(FINE[case]) == (None, [])


@pytest.mark.parametrize("case", IGNORED)
def test_what_is_ignored(case: str) -> None:
    session = EventSession()
    session.feed(PREFACE + frame(SETTINGS) + IGNORED[case])
    assert [event[1] for event in session.events if event[0] == "open"] in ([], [5])


@pytest.mark.parametrize("case", AFTER_RESET)
def test_what_follows_a_reset(case: str) -> None:
    goaway, resets = said(RESET + AFTER_RESET[case])
    assert goaway in (None, STREAM_CLOSED, PROTOCOL_ERROR)
    assert resets in ([], [STREAM_CLOSED])


def test_an_endpoint_that_runs_out_of_streams() -> None:
    goaway, _ = said(head(stream=2**31 - 1))
    assert goaway is None


def test_hpack_indexes_stay_in_step_after_a_stream_error() -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(PREFACE + frame(SETTINGS))
    bad = encoder.encode([*REQUEST, ("x-kept", "value"), ("connection", "close")])
    session.feed(frame(HEADERS, bad, 5, 1))
    session.feed(frame(HEADERS, encoder.encode([*REQUEST, ("x-kept", "value")]), 5, 3))
    assert session.events[0][:2] == ("open", 3)
    assert session.events[0][2][-1] == ("x-kept", "value")
