"""The HTTP/2 session alone: frames in, events and frames out. The client is h2, or frames made by hand."""

from __future__ import annotations

import struct
from typing import Any

from h2.events import (
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
from http2_harness import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HEAD,
    HEADERS,
    HELLO,
    NO_ERROR,
    PADDED,
    PING,
    REFUSED_STREAM,
    REQUEST,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    EventSession,
    Peer,
    block,
    frame,
    frames,
    goaway_code,
    request,
    reset_codes,
    sent,
)

from triton_async import defines


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
