"""The HTTP/2 session alone: frames in, events and frames out. The client is h2, or frames made by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from compiled import load
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes
from hpack import Encoder

from triton_async import defines

EventSession = load("http2_events").EventSession

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11
SECOND = 1_000_000_000

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "x"), ("te", "trailers")]
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields: list[tuple[str, str]] = REQUEST) -> bytes:
    return Encoder().encode(fields, huffman=False)


def request(stream: int = 1, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, block(), flags, stream)


HELLO = PREFACE + frame(SETTINGS)


def sent(session: Any) -> bytes:
    return b"".join(session.output())


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of every frame."""
    found = []
    while data:
        nbytes = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + nbytes
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + nbytes]))
        data = data[9 + nbytes :]
    return found


def goaway_code(data: bytes) -> int | None:
    return next((int.from_bytes(p[4:8], "big") for kind, _, _, p in frames(data) if kind == GOAWAY), None)


def reset_codes(data: bytes) -> dict[int, int]:
    return {stream: int.from_bytes(p, "big") for kind, _, stream, p in frames(data) if kind == RST_STREAM}


class Peer:
    """An h2 client and our session, joined."""

    def __init__(self, window: int | None = None) -> None:
        self.session = EventSession()
        self.h2 = H2Connection(H2Configuration(header_encoding=None))
        if window is not None:
            self.h2.local_settings = type(self.h2.local_settings)(
                client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self.h2.initiate_connection()
        self.heard: list[Any] = []
        self.turn()

    def turn(self) -> None:
        """Carries bytes both ways until nothing moves."""
        while True:
            out = self.h2.data_to_send()
            if out:
                self.session.feed(out)
            back = sent(self.session)
            if back:
                self.heard += self.h2.receive_data(back)
            if not out and not back:
                return

    def ask(self, data: bytes = b"", end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, REQUEST, end_stream=end and not data)
        if data:
            self.h2.send_data(stream, data, end_stream=end)
        self.turn()
        return int(stream)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]

    def body(self, stream: int) -> bytes:
        return b"".join(event.data for event in self.of(DataReceived) if event.stream_id == stream)


def test_a_call_from_head_to_trailers() -> None:
    peer = Peer()
    stream = peer.ask(b"question")
    assert peer.session.events == [
        ("open", 1, [(n, v) for n, v in REQUEST], False), ("data", 1, b"question"), ("end", 1),
    ]  # fmt: skip
    ours = peer.session.opened[stream]
    ours.respond(HEAD)
    ours.send([b"ans", b"wer"])
    ours.finish(TRAILERS)
    peer.turn()
    assert peer.body(stream) == b"answer"
    assert peer.of(ResponseReceived)[0].headers == HEAD
    assert peer.of(TrailersReceived)[0].headers == TRAILERS
    assert peer.session.events[-1] == ("close", 1, NO_ERROR)
    assert ours.state == 3
    assert peer.session.held_nbytes == 0


def test_settings_and_windows_are_announced_first() -> None:
    session = EventSession()
    kinds = frames(sent(session))
    assert [kind for kind, *_ in kinds] == [SETTINGS, WINDOW_UPDATE]
    entries = dict(struct.iter_unpack(">HI", kinds[0][3]))
    assert entries[SettingCodes.MAX_CONCURRENT_STREAMS] == defines.GRPC_MAX_CONCURRENT_STREAMS
    assert entries[SettingCodes.INITIAL_WINDOW_SIZE] == defines.GRPC_STREAM_WINDOW_NBYTES
    assert entries[SettingCodes.MAX_FRAME_SIZE] == defines.GRPC_MAX_FRAME_NBYTES
    assert int.from_bytes(kinds[1][3], "big") == defines.GRPC_CONNECTION_WINDOW_NBYTES - 65535


def test_input_may_be_split_at_every_byte() -> None:
    data = (
        HELLO + request(1, END_HEADERS) + frame(DATA, b"abc", 0, 1) + frame(PING, b"12345678")
        + frame(HEADERS, block()[:7], 0, 3) + frame(CONTINUATION, block()[7:], END_HEADERS, 3)
        + frame(DATA, b"\x02xy\0\0", END_STREAM | PADDED, 3) + frame(DATA, b"d", END_STREAM, 1)
    )  # fmt: skip
    whole = EventSession()
    whole.feed(data)
    answer = sent(whole)

    def joined(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for event in events:
            if event[0] == "data" and found and found[-1][:2] == event[:2]:
                found[-1] = (*event[:2], found[-1][2] + event[2])
            else:
                found.append(event)
        return found

    for cut in range(1, len(data)):
        session = EventSession()
        session.feed(data[:cut])
        session.feed(data[cut:])
        assert joined(session.events) == joined(whole.events), cut
        assert sent(session) == answer
    slow = EventSession()
    # Not byte by byte: up to 1.70 nghttp2 takes each read of a continuation's head for one more continuation.
    for i in range(0, len(data), 2):
        slow.feed(data[i : i + 2])
    assert joined(slow.events) == joined(whole.events)


def test_large_parts_leave_as_views_and_small_ones_together() -> None:
    peer = Peer(window=2**24)
    peer.h2.increment_flow_control_window(2**24)
    stream = peer.session.opened[peer.ask()]
    payload = bytearray(300_000)
    stream.respond(HEAD)
    stream.send([b"head", memoryview(payload)])
    stream.finish(TRAILERS)
    peer.session.feed(peer.h2.data_to_send() or frame(PING, bytes(8)))
    parts = peer.session.output()
    views = [part for part in parts if isinstance(part, memoryview)]
    assert sum(len(view) for view in views) > 290_000
    assert all(view.obj is payload for view in views)
    assert peer.session.held_nbytes == 0
    peer.heard += peer.h2.receive_data(b"".join(parts))
    assert peer.body(stream.id) == b"head" + payload


def test_an_answer_waits_for_the_streams_window() -> None:
    peer = Peer(window=10)
    stream = peer.session.opened[peer.ask()]
    stream.respond(HEAD)
    stream.send([b"x" * 25])
    stream.finish(TRAILERS)
    peer.turn()
    assert peer.body(1) == b"x" * 10
    assert (stream.queued_nbytes, peer.session.held_nbytes) == (15, 15)
    peer.h2.increment_flow_control_window(7, 1)
    peer.turn()
    assert peer.body(1) == b"x" * 17
    assert not peer.of(TrailersReceived)
    peer.h2.increment_flow_control_window(100, 1)
    peer.turn()
    assert peer.body(1) == b"x" * 25
    assert len(peer.of(TrailersReceived)) == 1


def test_an_answer_waits_for_the_connections_window() -> None:
    peer = Peer(window=2**24)
    first, second = (peer.session.opened[peer.ask()] for _ in range(2))
    for stream in (first, second):
        stream.respond(HEAD)
        stream.send([bytes(50_000)])
        stream.finish(TRAILERS)
    peer.turn()
    assert len(peer.body(1)) + len(peer.body(3)) == 65535
    peer.h2.increment_flow_control_window(100_000)
    peer.turn()
    assert len(peer.body(1)) == len(peer.body(3)) == 50_000


def test_the_initial_window_may_change_in_flight() -> None:
    peer = Peer(window=10)
    stream = peer.session.opened[peer.ask()]
    stream.respond(HEAD)
    stream.send([bytes(100)])
    peer.turn()
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 4})  # now 6 bytes in debt
    peer.turn()
    assert len(peer.body(1)) == 10
    peer.h2.increment_flow_control_window(8, 1)
    peer.turn()
    assert len(peer.body(1)) == 12
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    peer.turn()
    assert len(peer.body(1)) == 100
    assert len(peer.of(SettingsAcknowledged)) == 3


def test_a_stream_is_fed_in_pieces() -> None:
    peer = Peer()
    stream = peer.session.opened[peer.ask()]
    stream.respond(HEAD)
    for piece in (b"a", b"bc", b"def"):
        stream.send([piece])
        peer.turn()
    assert peer.body(1) == b"abcdef"
    assert [event for event in peer.session.events if event[0] == "sent"] == [("sent", 1, 0)] * 3
    stream.finish(TRAILERS)
    peer.turn()
    assert len(peer.of(StreamEnded)) == 1


def test_a_stream_that_is_always_a_little_behind_keeps_no_place_for_what_has_left() -> None:
    """Its queue is never empty, hour after hour."""
    peer = Peer(window=1)
    stream = peer.session.opened[peer.ask()]
    stream.respond(HEAD)
    stream.send([b"first"])
    peer.h2.increment_flow_control_window(1 << 20)
    expected, heard = b"first", b""
    for turn in range(2000):
        parts = [bytes([turn % 251]) * (70 + turn % 7), b"", bytes([turn % 241]) * 3]
        stream.send(parts)
        # As much as there was before.
        peer.h2.increment_flow_control_window(len(expected) - len(heard) or 1, 1)
        expected += b"".join(parts)
        peer.turn()
        heard += peer.body(1)
        peer.heard.clear()
        assert stream.queued_nbytes > 0
        assert stream.n_parts < 100
    stream.finish(TRAILERS)
    peer.h2.increment_flow_control_window(1 << 20, 1)
    peer.turn()
    assert heard + peer.body(1) == expected


def test_windows_are_given_back_when_bytes_are_used() -> None:
    peer = Peer()
    peer.session.auto_consume = False
    stream = peer.ask(end=False)
    window = defines.GRPC_STREAM_WINDOW_NBYTES
    for _ in range(window // 100_000):
        peer.h2.send_data(stream, bytes(100_000))
        peer.turn()
    assert not [event for event in peer.of(WindowUpdated) if event.stream_id == stream]
    peer.session.opened[stream].give_back(window // 100_000 * 100_000)
    peer.turn()
    updates = [event.delta for event in peer.of(WindowUpdated) if event.stream_id == stream]
    assert updates == [window // 100_000 * 100_000]


def test_a_closed_stream_gives_its_bytes_back_to_the_connection() -> None:
    peer = Peer()
    peer.session.auto_consume = False
    window = peer.h2.outbound_flow_control_window
    for _ in range(12):
        stream = peer.ask(end=False)
        for _ in range(40):
            peer.h2.send_data(stream, bytes(100_000))
            peer.turn()
        peer.h2.reset_stream(stream, CANCEL)
        peer.turn()
    assert peer.h2.outbound_flow_control_window > window // 2


def test_a_receive_window_that_is_exceeded() -> None:
    session = EventSession()
    session.auto_consume = False
    session.feed(HELLO + frame(SETTINGS, flags=ACK) + request(1, END_HEADERS))
    chunk = frame(DATA, bytes(defines.GRPC_MAX_FRAME_NBYTES), 0, 1)
    for _ in range(defines.GRPC_STREAM_WINDOW_NBYTES // defines.GRPC_MAX_FRAME_NBYTES + 1):
        session.feed(chunk)
    out = sent(session)
    assert reset_codes(out).get(1) == FLOW_CONTROL_ERROR or goaway_code(out) == FLOW_CONTROL_ERROR


def test_an_answer_before_the_clients_end_resets_without_error() -> None:
    peer = Peer()
    stream = peer.session.opened[peer.ask(b"part", end=False)]
    stream.respond([*HEAD, *TRAILERS], end=True)
    peer.turn()
    assert [event.error_code for event in peer.of(StreamReset)] == [NO_ERROR]
    assert peer.session.events[-1] == ("close", 1, NO_ERROR)


def test_resets_of_either_side_close_the_stream_once() -> None:
    peer = Peer()
    ours, theirs = (peer.session.opened[peer.ask(b"x", end=False)] for _ in range(2))
    for stream in (ours, theirs):
        stream.respond(HEAD)
        stream.send([bytes(100_000)])
    ours.cancel(CANCEL)
    peer.h2.reset_stream(theirs.id, CANCEL)
    peer.turn()
    closed = [event for event in peer.session.events if event[0] == "close"]
    assert sorted(closed) == [("close", 1, CANCEL), ("close", 3, CANCEL)]
    assert peer.session.held_nbytes == 0
    # What comes late is ignored.
    ours.send([b"late"])
    ours.finish(TRAILERS)
    ours.cancel(CANCEL)
    theirs.give_back(0)
    assert ours.state == theirs.state == 3


def test_closing_the_session_closes_every_stream() -> None:
    peer = Peer()
    streams = [peer.session.opened[peer.ask(b"x", end=False)] for _ in range(3)]
    streams[0].respond(HEAD)
    streams[0].send([bytes(100_000)])
    peer.session.shut()
    peer.session.shut()
    assert [event[1] for event in peer.session.events if event[0] == "close"] == [1, 3, 5]
    assert peer.session.held_nbytes == 0
    assert peer.session.output() == []
    assert peer.session.finished()


def test_refused_streams() -> None:
    session = EventSession()
    session.refuse = True
    session.feed(HELLO + request(1) + request(3, END_HEADERS) + frame(DATA, b"abc", END_STREAM, 3))
    assert reset_codes(sent(session)) == {1: REFUSED_STREAM, 3: REFUSED_STREAM}


def test_too_many_streams_are_refused_by_number() -> None:
    session = EventSession()
    encoder = Encoder()
    session.feed(HELLO + frame(SETTINGS, flags=ACK))
    sent(session)
    for i in range(defines.GRPC_MAX_CONCURRENT_STREAMS + 2):
        session.feed(frame(HEADERS, encoder.encode(REQUEST), END_HEADERS, 2 * i + 1))
    assert len(session.opened) == defines.GRPC_MAX_CONCURRENT_STREAMS
    assert goaway_code(sent(session)) == ENHANCE_YOUR_CALM or session.finished()


def test_pings_both_ways() -> None:
    peer = Peer()
    peer.h2.ping(b"abcdefgh")
    peer.turn()
    assert [event.ping_data for event in peer.of(PingAckReceived)] == [b"abcdefgh"]
    peer.session.say_ping()
    peer.turn()
    assert [event for event in peer.session.events if event[0] in ("ping", "pong")] == [("ping",), ("pong",)]


def test_shutdown_lets_open_streams_finish() -> None:
    peer = Peer()
    stream = peer.session.opened[peer.ask()]
    peer.session.say_shutdown()
    early = peer.ask()  # was on its way
    assert early in peer.session.opened
    peer.session.say_goaway(NO_ERROR)
    terminated = frames(sent(peer.session))
    assert terminated[0][0] == GOAWAY
    assert int.from_bytes(terminated[0][3][:4], "big") == early
    peer.session.feed(request(early + 2))
    assert early + 2 not in peer.session.opened
    assert not peer.session.finished()
    for each in (stream, peer.session.opened[early]):
        each.respond([*HEAD, *TRAILERS], end=True)
    assert sent(peer.session)
    assert peer.session.finished()


def test_goaway_says_why() -> None:
    session = EventSession()
    session.feed(HELLO)
    sent(session)
    session.say_goaway(ENHANCE_YOUR_CALM, b"too_many_pings", end=True)
    (kind, _, _, payload), = frames(sent(session))
    assert (kind, payload[4:8], payload[8:]) == (GOAWAY, struct.pack(">I", ENHANCE_YOUR_CALM), b"too_many_pings")
    assert session.finished()


def test_output_comes_in_portions() -> None:
    peer = Peer(window=2**24)
    peer.h2.increment_flow_control_window(2**24)
    stream = peer.session.opened[peer.ask()]
    peer.session.feed(peer.h2.data_to_send())
    stream.respond(HEAD)
    stream.send([bytes(1_000_000)])
    first = b"".join(peer.session.output(100_000))
    assert 100_000 <= len(first) < 300_000
    assert peer.session.held_nbytes > 700_000


# -- limits ------------------------------------------------------------------------------------------


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
