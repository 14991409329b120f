"""What must hold for any bytes that an HTTP/2 client sends, whatever the server answers meanwhile: shared by the seeded
tests and tests/fuzz.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from typing import Any

from compiled import load
from fuzzing import mutate

from triton_async import defines

EventSession = load("http2_events").EventSession

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0"), (b"grpc-message", b"m")]
PING, GOAWAY, CONTINUATION = 6, 7, 9
# What the server says unasked: its settings, and why it ends.
GREETING_NBYTES = 256
# Largest answer to one byte received: a reset of 13 bytes for a HEADERS frame of 10.
LARGEST_ANSWER = 3
# Frames of one step of the server, without payload.
STEP_NBYTES = 128


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def frames(data: bytes) -> tuple[list[tuple[int, int, int, bytes]], bytes]:
    """(type, flags, stream, payload) of every complete frame, and what is left."""
    found = []
    at = 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        if end > len(data):
            break
        found.append((data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : end]))
        at = end
    return found, data[at:]


class Conversation:
    """A session, and what it is known to owe."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.session = EventSession()
        self.session.auto_consume = bool(seed & 1)
        self.session.refuse = seed % 16 == 15
        self.acts = seed % 4 > 0  # does anything but listen
        self.now_ns = 0
        self.received = 0
        self.allowed = GREETING_NBYTES  # bytes that may have been sent
        self.sent = bytearray()

    def hear(self, data: bytes) -> None:
        over = self.session.ended
        events = len(self.session.events)
        self.session.feed(data, self.now_ns)
        self.received += len(data)
        self.allowed += LARGEST_ANSWER * len(data)
        self.now_ns += self.choose.choice([0, 0, 1_000, 1_000_000])
        assert not over or len(self.session.events) == events, "listens after the end"
        live = sum(stream.state != 3 for stream in self.session.opened.values())
        assert live <= defines.GRPC_MAX_CONCURRENT_STREAMS

    def act(self) -> None:
        """What a server may do, at any time and with any stream it ever had."""
        choose, session = self.choose, self.session
        self.allowed += STEP_NBYTES
        kind = choose.randrange(16)
        if kind == 0:
            session.say_ping()
        elif kind == 1 and not session.ended and choose.random() < 0.1:
            session.say_shutdown()
        if not session.opened:
            return
        stream = choose.choice(list(session.opened.values())[-8:])
        if kind < 6 and stream.state == 0:
            stream.respond(HEAD, end=choose.random() < 0.3)
        elif kind < 10 and stream.state == 1:
            parts = [choose.randbytes(choose.randrange(20)), bytes(choose.choice([1, 300, 9000, 40_000]))]
            stream.send(parts)
            self.allowed += sum(map(len, parts)) * 10  # the client may have them one by one
        elif kind < 13 and stream.state == 1:
            stream.finish(TRAILERS)
        elif kind == 14:
            stream.cancel(choose.randrange(14))
        elif kind == 15:
            stream.give_back(0)

    def speak(self, limit: int) -> None:
        """Takes the output and checks it."""
        parts = self.session.output(limit, self.now_ns)
        self.sent += b"".join(parts)
        assert len(self.sent) <= self.allowed, "says more than it was made to"
        queued = sum(stream.queued_nbytes for stream in self.session.opened.values())
        assert self.session.held_nbytes == queued

    def check_events(self) -> None:
        """Every stream was opened, told of its parts in order, and closed once."""
        opened, ended, closed = set(), set(), set()
        nbytes = 0
        for event in self.session.events:
            kind, stream = event[0], event[1] if len(event) > 1 else 0
            if kind == "open":
                assert stream not in opened
                assert stream % 2 == 1
                opened.add(stream)
                size = sum(len(name) + len(value) + 32 for name, value in event[2])
                assert size <= defines.GRPC_MAX_HEADER_LIST_NBYTES
            elif kind in ("data", "end", "sent", "close"):
                assert stream in opened
                assert stream not in closed
                if kind == "data":
                    assert stream not in ended
                    nbytes += len(event[2])
                elif kind == "end":
                    assert stream not in ended
                    ended.add(stream)
                elif kind == "close":
                    closed.add(stream)
        assert nbytes <= self.received
        assert opened == closed == set(self.session.opened)
        assert self.session.held_nbytes == 0


def check_http2(data: bytes) -> str:
    """How the connection came out: `alive`, `waits` for the rest of a frame, `over` or `refused`. Anything else is
    an AssertionError.
    """
    seed = int.from_bytes(data[:2], "big")
    data = data[2:]
    talk = Conversation(seed)
    at = 0
    while at < len(data):
        size = talk.choose.choice([1, 9, 24, 100, 1000, 1 << 20])
        talk.hear(data[at : at + size])
        at += size
        if talk.acts:
            for _ in range(talk.choose.randrange(4)):
                talk.act()
        if talk.choose.random() < 0.7:
            talk.speak(talk.choose.choice([1, 100, 5000, 1 << 40]))
    talk.speak(1 << 40)
    result = _outcome(talk, data)
    talk.session.shut()
    talk.check_events()
    answered, rest = frames(bytes(talk.sent))
    assert rest == b"", "half a frame was sent"
    assert result != "refused" or any(kind == GOAWAY for kind, *_ in answered) or not data.startswith(PREFACE)
    if not talk.acts:
        _check_whole(talk, data)
    return result


def _outcome(talk: Conversation, data: bytes) -> str:
    """The connection is over with everything said, or still does what a client may ask."""
    session = talk.session
    if session.ended:
        assert session.finished(), "ended, but never finished"
        return "refused"
    if session.finished():
        return "over"
    if not data.startswith(PREFACE):
        assert PREFACE.startswith(data), "no HTTP/2, and not refused"
        return "waits"
    heard, rest = frames(data[len(PREFACE) :])
    if rest or not heard:
        return "waits"
    blocks = [flags & 4 for kind, flags, *_ in heard if kind in (1, 5, CONTINUATION)]
    if blocks and not blocks[-1] and heard[-1][0] in (1, 5, CONTINUATION):
        return "waits"
    before = len(talk.sent)
    talk.hear(frame(PING, b"ping-pon"))
    talk.speak(1 << 40)
    answered, _ = frames(bytes(talk.sent[before:]))
    assert (PING, 1, 0, b"ping-pon") in answered or session.ended or session.finished(), "deaf"
    return "alive"


def _check_whole(talk: Conversation, data: bytes) -> None:
    """The same bytes at once tell the same, unless a limit ended it: the guard looks ahead of what it was given."""
    heard, _ = frames(data[len(PREFACE) :])
    # Up to 1.70 nghttp2 takes each read of a continuation's head for one more continuation.
    if talk.session.refuse or any(kind == CONTINUATION for kind, *_ in heard):
        return
    whole = Conversation(0)
    whole.session.auto_consume = talk.session.auto_consume
    whole.hear(data)
    whole.speak(1 << 40)
    if whole.session.ended or talk.session.ended:
        return
    whole.session.shut()
    assert _told(whole.session) == _told(talk.session)


def _told(session: Any) -> tuple[dict[int, bytes], Counter[str]]:
    bodies: dict[int, bytes] = {}
    kinds: Counter[str] = Counter()
    for event in session.events:
        if event[0] == "data":
            bodies[event[1]] = bodies.get(event[1], b"") + event[2]
        elif event[0] in ("open", "end"):
            kinds[repr(event)] += 1
    return bodies, kinds


def mutate_frames(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A conversation with frames taken away, doubled, moved, cut or changed; their lengths stay right."""
    data = choose.choice(seeds)
    known, rest = frames(data[2 + len(PREFACE) :])
    for _ in range(choose.choice([1, 1, 2, 4])):
        at = choose.randrange(len(known) + 1)
        kind = choose.randrange(8)
        if kind == 0:
            known[at : at + 1] = []
        elif kind == 1 and known:
            known[at:at] = [choose.choice(known)] * choose.choice([1, 1, 2, 20])
        elif kind == 2:
            other, _ = frames(choose.choice(seeds)[2 + len(PREFACE) :])
            known[at:at] = other[: choose.randint(1, 4)]
        elif kind == 3:
            size = choose.choice([0, 4, 5, 6, 8, choose.randrange(300)])
            stream = choose.choice([0, 1, 3, 5, 2, 2**31 - 1])
            known[at:at] = [(choose.randrange(12), choose.choice([0, 1, 4, 5, 8, 9, 32, 255]), stream,
                             choose.randbytes(size))]  # fmt: skip
        elif at < len(known):
            name, flags, stream, payload = known[at]
            if kind == 4:
                flags ^= 1 << choose.randrange(8)
            elif kind == 5:
                stream = choose.choice([0, 1, 3, 5, 7, stream + 2, 2**31 | stream])
            elif kind == 6:
                payload = mutate(choose, [payload])[: 1 << 14]
            else:
                cut = choose.randint(0, len(payload))
                known[at : at + 1] = [(name, flags & ~5, stream, payload[:cut]),
                                      (choose.choice([name, 9]), flags, stream, payload[cut:])]  # fmt: skip
                continue
            known[at] = (name, flags, stream & 0xFFFFFFFF, payload)
    script = choose.randbytes(2) if choose.random() < 0.5 else data[:2]
    return script + PREFACE + b"".join(frame(n, p, f, s) for n, f, s, p in known) + rest
