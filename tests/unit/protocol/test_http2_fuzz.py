"""Mutated conversations never raise, crash or leave bytes held; a fixed seed, so that a failure can be repeated."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from compiled import load

EventSession = load("http2_events").EventSession

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BLOCK = b"\x83\x86\x44\x01/\x41\x01x\x40\x02te\x08trailers"
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def conversation(rng: random.Random) -> list[bytes]:
    """Frames that mostly make sense."""
    found = [PREFACE, frame(4, struct.pack(">HI", 4, rng.choice([0, 1, 100, 65535, 2**20])))]
    for i in range(rng.randrange(1, 8)):
        stream = 2 * i + 1
        found.append(frame(1, BLOCK, rng.choice([4, 5, 0]), stream))
        for _ in range(rng.randrange(4)):
            kind = rng.choice([0, 0, 0, 1, 2, 3, 4, 6, 7, 8, 8, 9, 99])
            target = rng.choice([0, stream, stream, 1])
            size = {2: 5, 3: 4, 4: 6, 6: 8, 7: 8, 8: 4}.get(kind, rng.randrange(40))
            found.append(frame(kind, rng.randbytes(size), rng.choice([0, 1, 4, 5, 8, 9]), target))
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(found))
        match rng.randrange(3):
            case 0:
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randrange(5)]
            case 2:
                found[at:at] = rng.randbytes(rng.randrange(5))
        if not found:
            break
    return bytes(found)


def act(rng: random.Random, session: Any) -> None:
    """What a server may do, at any time and with any stream it ever had."""
    stream = rng.choice(list(session.opened.values()))
    match rng.randrange(5):
        case 0 if stream.state == 0:
            stream.respond(HEAD, end=rng.random() < 0.3)
        case 1 if stream.state == 1:
            stream.send([rng.randbytes(rng.randrange(20)), bytes(rng.randrange(1, 40_000))])
        case 2 if stream.state == 1:
            stream.finish([(b"grpc-status", b"0")])
        case 3:
            stream.cancel(rng.randrange(14))
        case _:
            stream.give_back(0)


def play(seed: int) -> None:
    rng = random.Random(seed)
    session = EventSession()
    data = b"".join(conversation(rng))
    if seed % 4:
        data = data[: rng.choice([0, len(PREFACE)])] + mutated(rng, data[rng.choice([0, len(PREFACE)]) :])
    while data:
        n = rng.randrange(1, 200)
        session.feed(data[:n])
        data = data[n:]
        for _ in range(rng.randrange(3)):
            if session.opened:
                act(rng, session)
        if rng.random() < 0.7:
            session.output(rng.choice([1, 100, 1 << 40]))
    assert session.held_nbytes == sum(stream.queued_nbytes for stream in session.opened.values())
    session.shut()
    assert session.held_nbytes == 0
    closed = [event[1] for event in session.events if event[0] == "close"]
    assert sorted(closed) == sorted(session.opened)


@pytest.mark.parametrize("part", range(4))
def test_conversations(part: int) -> None:
    for seed in range(part * 1000, (part + 1) * 1000):
        play(seed)


if __name__ == "__main__":
    import sys

    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            play(seed)
        except BaseException:
            print("seed", seed)
            raise
