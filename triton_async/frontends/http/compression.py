"""Compressed bodies: gzip and deflate (zlib), inflated with a bound so that a small body cannot become a huge one."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

from triton_async.defines import HTTP_COMPRESS_LEVEL
from triton_async.errors import InvalidArg
from triton_async.memory.buffer import Buffer
from triton_async.memory.inflate import Inflated, inflate

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


def _inflate(body: Any, limit: int) -> Inflated | None:
    try:
        return inflate(body, _DETECT, limit)
    except zlib.error:
        raise InvalidArg("failed to decompress the request body: it is not valid gzip or deflate data") from None


async def decompress(body: Any, limit: int) -> Buffer:
    """The inflated body. InvalidArg when it is empty, broken, cut short, followed by more, or beyond `limit` bytes."""
    if not len(body):
        raise InvalidArg("nothing to be decompressed")
    inflated = _inflate(body, min(limit, _INLINE_NBYTES)) if len(body) <= _INLINE_NBYTES else None
    if inflated is None and limit > _INLINE_NBYTES:
        inflated = await asyncio.to_thread(_inflate, body, limit)
    if inflated is None:
        raise _too_big(limit)
    if not inflated.ended:
        raise InvalidArg("failed to decompress the request body: the data ends early")
    if inflated.trailed:
        raise InvalidArg("failed to decompress the request body: unexpected data behind its end")
    return inflated.body


def deflate(encoding: str, parts: Sequence[Any]) -> bytes:
    """The parts as one compressed body; `encoding` is "gzip" or "deflate". Any thread; most of it without the GIL."""
    stream = zlib.compressobj(HTTP_COMPRESS_LEVEL, wbits=_WINDOW[encoding])
    pieces = [stream.compress(part) for part in parts]
    pieces.append(stream.flush())
    return b"".join(pieces)
