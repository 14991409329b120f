"""HTTP/2 sessions end connections whose clients ask for work without end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder
from http2_harness import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEAD,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REQUEST,
    RST_STREAM,
    SECOND,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    EventSession,
    block,
    frame,
    goaway_code,
    request,
    sent,
)

from triton_async import defines


def ended_with(session: Any) -> int | None:
    code = goaway_code(sent(session))
    assert session.finished() == (code is not None)
    return code


def test_rapid_reset_ends_the_connection_before_the_burst_is_opened() -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO)
    for i in range(defines.GRPC_RESET_BURST + 1):
        stream = 2 * i + 1
        head = frame(HEADERS, encoder.encode(REQUEST), END_HEADERS | END_STREAM, stream)
        session.feed(head + frame(RST_STREAM, struct.pack(">I", CANCEL), 0, stream))
    assert len(session.opened) <= defines.GRPC_RESET_BURST + 1
    assert ended_with(session) == ENHANCE_YOUR_CALM


def test_nothing_is_opened_behind_the_reset_that_was_one_too_many() -> None:
    """All of it comes in one read."""
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO + b"".join(
        frame(HEADERS, encoder.encode(REQUEST), END_HEADERS | END_STREAM, 2 * i + 1)
        + frame(RST_STREAM, struct.pack(">I", CANCEL), 0, 2 * i + 1)
        for i in range(MANY)
    ))  # fmt: skip
    assert len(session.opened) <= defines.GRPC_RESET_BURST + 1
    assert ended_with(session) == ENHANCE_YOUR_CALM


MANY = 3 * defines.GRPC_RESET_BURST


def reset_many(session: EventSession, act: Callable[[Any], None]) -> bool:
    """Opens calls one after another, has the server `act` on each and resets it; whether the connection lives."""
    encoder = Encoder()
    session.feed(HELLO)
    for i in range(MANY):
        stream = 2 * i + 1
        session.feed(frame(HEADERS, encoder.encode(REQUEST), END_HEADERS | END_STREAM, stream), i)
        act(session.opened.get(stream))
        sent(session)
        session.feed(frame(RST_STREAM, struct.pack(">I", CANCEL), 0, stream), i)
        sent(session)
        if session.ended:
            return False
    assert len(session.opened) == MANY
    return True


def answer(stream: Any) -> None:
    stream.respond([*HEAD, *TRAILERS], end=True)


def begin_to_answer(stream: Any) -> None:
    stream.respond(HEAD)
    stream.send([bytes(100_000)])


@pytest.mark.parametrize("act", [answer, begin_to_answer])
def test_resets_of_calls_that_were_answered_cost_nothing(act: Callable[[Any], None]) -> None:
    assert reset_many(EventSession(), act)


@pytest.mark.parametrize(("late_ns", "lives"), [(-1, True), (0, False), (SECOND, False)])
def test_resets_of_calls_whose_deadline_has_come_cost_nothing(late_ns: int, lives: bool) -> None:
    session = EventSession()
    session.late_ns = late_ns
    assert reset_many(session, lambda stream: None) == lives


def test_resets_of_calls_that_were_refused_still_count() -> None:
    session = EventSession()
    session.refuse = True
    encoder = Encoder()
    session.feed(HELLO)
    head = (frame(HEADERS, encoder.encode(REQUEST), END_HEADERS, 2 * i + 1) for i in range(MANY))
    session.feed(b"".join(
        each + frame(RST_STREAM, struct.pack(">I", CANCEL), 0, 2 * i + 1) for i, each in enumerate(head)
    ))  # fmt: skip
    assert ended_with(session) == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(("per_second", "fine"), [(30, True), (100, False)])
def test_resets_of_ours_are_fine_at_a_human_pace(per_second: int, fine: bool) -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO)
    for i in range(3000):
        session.feed(frame(HEADERS, encoder.encode(REQUEST), END_HEADERS | END_STREAM, 2 * i + 1))
        if 2 * i + 1 in session.opened:
            session.opened[2 * i + 1].cancel(CANCEL)
        session.output(now_ns=i * SECOND // per_second)
    assert session.ended != fine
    assert (len(session.opened) == 3000) == fine


@pytest.mark.parametrize(
    "provoke",
    [
        lambda stream: frame(WINDOW_UPDATE, struct.pack(">I", 0), 0, stream),
        lambda stream: frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1), 0, stream),
        lambda stream: frame(DATA, b"more than said", END_STREAM, stream),
        lambda stream: frame(PRIORITY, b"\0\0\0", 0, stream),
        lambda stream: frame(PRIORITY, struct.pack(">IB", stream, 1), 0, stream),
        lambda stream: frame(DATA, b"12", END_STREAM, stream) + frame(DATA, b"x", 0, stream),
        lambda stream: frame(DATA, b"12", END_STREAM, stream) + frame(HEADERS, block(), END_HEADERS, stream),
    ],
    ids=["zero update", "overflow", "content-length", "priority size", "self-dependency", "data", "headers"],
)
def test_resets_that_the_client_provokes_count_too(provoke: Any) -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO)
    for i in range(defines.GRPC_RESET_BURST + 2):
        stream = 2 * i + 1
        head = encoder.encode([*REQUEST, ("content-length", "2")])
        session.feed(frame(HEADERS, head, END_HEADERS, stream) + provoke(stream))
        if goaway_code(sent(session)) is not None:
            break
    assert session.ended or session.finished()
    assert len(session.opened) <= defines.GRPC_RESET_BURST + 2


CONTROLS = {
    "ping": frame(PING, bytes(8)),
    "ping ack": frame(PING, bytes(8), ACK),
    "settings": frame(SETTINGS),
    "settings ack": frame(SETTINGS, flags=ACK),
    "priority": frame(PRIORITY, struct.pack(">IB", 0, 1), 0, 1),
    "empty data": frame(DATA, b"", 0, 1),
    "padding only": frame(DATA, b"", 0, 1),
    "unknown": frame(0xF0, b"abc", 0, 1),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_too_many_control_frames_end_the_connection(name: str) -> None:
    session = EventSession()
    session.feed(HELLO + request(1, END_HEADERS))
    session.feed(CONTROLS[name] * (defines.GRPC_CONTROL_BURST + 1))
    assert goaway_code(sent(session)) in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
    assert session.finished()


@pytest.mark.parametrize("name", ["ping", "settings", "priority", "empty data", "unknown"])
def test_the_same_frames_are_fine_at_a_human_pace(name: str) -> None:
    session = EventSession()
    session.feed(HELLO + request(1, END_HEADERS))
    for i in range(2 * defines.GRPC_CONTROL_BURST):
        session.feed(CONTROLS[name], i * SECOND // 90)
        assert goaway_code(sent(session)) is None


def test_too_many_continuations_end_the_connection() -> None:
    session = EventSession()
    session.feed(HELLO + frame(HEADERS, block(), END_STREAM, 1))
    session.feed(frame(CONTINUATION, b"", 0, 1) * (defines.GRPC_MAX_CONTINUATIONS + 1))
    assert ended_with(session) == ENHANCE_YOUR_CALM
    assert session.opened == {}


def test_a_large_header_block_ends_the_connection() -> None:
    session = EventSession()
    session.feed(HELLO)
    size = defines.GRPC_MAX_FRAME_NBYTES
    session.feed(frame(HEADERS, bytes(size), 0, 1)[:9])
    session.feed(bytes(size) + frame(CONTINUATION, b"x" * 16, 0, 1))
    assert session.ended


@pytest.mark.parametrize("kind", [GOAWAY, SETTINGS, 0x77])
def test_only_payload_comes_in_large_frames(kind: int) -> None:
    nbytes = defines.GRPC_MAX_HEADER_BLOCK_NBYTES + 6
    assert nbytes < defines.GRPC_MAX_FRAME_NBYTES
    session = EventSession()
    session.feed(HELLO + frame(kind, bytes(nbytes))[:100])
    assert ended_with(session) == ENHANCE_YOUR_CALM
    session = EventSession()
    accepted = frame(SETTINGS, b"", ACK)
    sent(session)
    session.feed(HELLO + accepted + request(flags=END_HEADERS) + frame(DATA, bytes(nbytes), END_STREAM, 1))
    assert ended_with(session) is None


def repeated(encoder: Encoder, nbytes: int, before: list[tuple[str, str]] = REQUEST) -> bytes:
    """A block that decodes to `nbytes` and more, of one field again and again."""
    field = ("x-again", "v" * 3000)
    return encoder.encode([*before, field]) + encoder.encode([field]) * (nbytes // 3039 + 1)


def test_a_list_too_long_is_cut_and_hpack_stays_in_step() -> None:
    session = EventSession()
    encoder = Encoder()
    block = repeated(encoder, 2 * defines.GRPC_MAX_HEADER_LIST_NBYTES)
    session.feed(HELLO + frame(HEADERS, block, END_HEADERS | END_STREAM, 1))
    after = encoder.encode([*REQUEST, ("x-after", "fine")])
    session.feed(frame(HEADERS, after, END_HEADERS | END_STREAM, 3))
    opened = [event for event in session.events if event[0] == "open"]
    assert opened[0][3] is True
    kept = sum(len(name) + len(value) + 32 for name, value in opened[0][2])
    assert kept <= defines.GRPC_MAX_HEADER_LIST_NBYTES
    assert opened[1][2][-1] == ("x-after", "fine")
    assert opened[1][3] is False
    assert goaway_code(sent(session)) is None


@pytest.mark.parametrize("trailers", [False, True])
def test_a_list_far_too_long_ends_the_connection(trailers: bool) -> None:
    session = EventSession()
    encoder = Encoder()
    opening = frame(HEADERS, encoder.encode(REQUEST), END_HEADERS, 1) if trailers else b""
    block = repeated(encoder, defines.GRPC_MAX_DECODED_HEADERS_NBYTES, [] if trailers else REQUEST)
    session.feed(HELLO + opening + frame(HEADERS, block, END_HEADERS | END_STREAM, 1))
    assert len(session.opened) == trailers
    assert ended_with(session) == ENHANCE_YOUR_CALM


def test_lists_too_long_count_like_resets() -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO)
    for i in range(defines.GRPC_RESET_BURST + 1):
        assert not session.ended
        block = repeated(encoder, defines.GRPC_MAX_HEADER_LIST_NBYTES)
        session.feed(frame(HEADERS, block, END_HEADERS | END_STREAM, 2 * i + 1))
        if 2 * i + 1 in session.opened:
            answer(session.opened[2 * i + 1])
        out = sent(session)
    assert goaway_code(out) == ENHANCE_YOUR_CALM


def test_a_window_opened_byte_by_byte_ends_the_connection() -> None:
    session = EventSession()
    session.feed(PREFACE + frame(SETTINGS, struct.pack(">HI", 4, 0)) + request(1))
    session.opened[1].respond(HEAD)
    session.opened[1].send([bytes(100_000)])
    for _ in range(2 * defines.GRPC_CONTROL_BURST):
        session.feed(frame(WINDOW_UPDATE, struct.pack(">I", 1), 0, 1))
        sent(session)
    assert session.ended


def test_the_compression_table_is_bounded_whatever_the_client_asks_for() -> None:
    session = EventSession()
    session.feed(PREFACE + frame(SETTINGS, struct.pack(">HI", 1, 2**32 - 1)) + request(1))
    session.opened[1].respond([*HEAD, (b"x", b"y" * 1000)], end=True)
    assert sent(session)
    # Asking for more than was allowed ends the connection.
    session.feed(frame(HEADERS, b"\x3f\xe1\xff\x03" + block(), END_HEADERS | END_STREAM, 3))
    assert ended_with(session) == COMPRESSION_ERROR
