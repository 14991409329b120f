"""Compressed bodies: gzip and deflate (zlib), inflated with a bound so that a small body cannot become a huge one."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

from triton_async.defines import HTTP_COMPRESS_LEVEL
from triton_async.errors import InvalidArg

# More bytes than this are inflated on another thread, so that the event loop does not wait for it.
_INLINE_NBYTES = 1 << 18
# Lets zlib tell gzip and zlib streams apart itself, as Triton does.
_DETECT = 15 | 32
_WINDOW = {"gzip": 15 | 16, "deflate": 15}


def request_encoding(values: Sequence[str]) -> str | None:
    """Coding of a request body from its Content-Encoding lines: "gzip", "deflate", "" for none, None when unknown."""
    if not values or (len(values) == 1 and values[0] in ("", "identity")):
        return ""
    if len(values) == 1 and values[0] in _WINDOW:
        return values[0]
    return None


def _too_big(limit: int) -> InvalidArg:
    return InvalidArg(
        f"Decompressed data size exceeds the maximum allowed value of {limit} bytes. "
        "Use --http-max-input-size to increase the limit."
    )


def _inflate(stream: Any, data: Any, budget: int) -> bytes:
    """At most `budget` + 1 bytes more of the stream."""
    try:
        return bytes(stream.decompress(data, budget + 1))
    except zlib.error:
        raise InvalidArg("failed to decompress the request body: it is not valid gzip or deflate data") from None


async def decompress(body: Any, limit: int) -> bytes:
    """The inflated body. InvalidArg when it is empty, broken, cut short, followed by more, or beyond `limit` bytes."""
    if not len(body):
        raise InvalidArg("nothing to be decompressed")
    stream = zlib.decompressobj(_DETECT)
    inflated = _inflate(stream, body, min(limit, _INLINE_NBYTES))
    if stream.unconsumed_tail and len(inflated) <= limit:
        rest = await asyncio.to_thread(_inflate, stream, stream.unconsumed_tail, limit - len(inflated))
        inflated += rest
    if len(inflated) > limit:
        raise _too_big(limit)
    if not stream.eof:
        raise InvalidArg("failed to decompress the request body: the data ends early")
    if stream.unused_data:
        raise InvalidArg("failed to decompress the request body: unexpected data behind its end")
    return inflated


def deflate(encoding: str, parts: Sequence[Any]) -> bytes:
    """The parts as one compressed body; `encoding` is "gzip" or "deflate". Any thread; most of it without the GIL."""
    stream = zlib.compressobj(HTTP_COMPRESS_LEVEL, wbits=_WINDOW[encoding])
    pieces = [stream.compress(part) for part in parts]
    pieces.append(stream.flush())
    return b"".join(pieces)
