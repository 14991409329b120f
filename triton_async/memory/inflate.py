"""Compressed bytes, inflated in steps none of which holds the interpreter for long. Any thread."""

from __future__ import annotations

import zlib
from collections import deque
from typing import NamedTuple

from triton_async.defines import INFLATE_PIECE_NBYTES
from triton_async.memory.buffer import Buffer
from triton_async.memory.slab import transient


class Inflated(NamedTuple):
    """What came out; whether the stream has come to its end, and whether there is more behind that."""

    body: Buffer
    ended: bool
    trailed: bool


def inflate(data: bytes | bytearray | memoryview, wbits: int, limit: int) -> Inflated | None:
    """All of `data`; None when that is more than `limit` bytes. `wbits` as zlib's. zlib.error where it is broken."""
    stream = zlib.decompressobj(wbits)
    pieces: deque[bytes] = deque()
    nbytes = at = 0
    rest: bytes | memoryview = b""
    view = memoryview(data)
    while not stream.eof:
        if not rest:
            rest = view[at : at + INFLATE_PIECE_NBYTES]
            at += len(rest)
        last = not rest
        piece = stream.decompress(rest, INFLATE_PIECE_NBYTES)
        rest = stream.unconsumed_tail
        if last and not piece:
            break
        nbytes += len(piece)
        if nbytes > limit:
            return None
        pieces.append(piece)
    return Inflated(_joined(pieces, nbytes), stream.eof, bool(stream.unused_data) or at < len(view))


def _joined(pieces: deque[bytes], nbytes: int) -> Buffer:
    body = transient(nbytes)
    view = memoryview(body)
    at = 0
    while pieces:
        piece = pieces.popleft()
        view[at : at + len(piece)] = piece
        at += len(piece)
    return body
