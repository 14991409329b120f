"""Compressed bodies: gzip and deflate (zlib), inflated with a bound so that a small body cannot become a huge one."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Sequence
from typing import Any

from triton_async.errors import InvalidArg

# Work on more bytes than this happens on another thread, so that the event loop does not wait for it.
_INLINE_NBYTES = 1 << 18
# Lets zlib tell gzip and zlib streams apart itself, as Triton does.
_DETECT = 15 | 32
_WINDOW = {"gzip": 15 | 16, "deflate": 15}
_WEIGHT = re.compile(r"[ \t]*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def request_encoding(values: Sequence[str]) -> str | None:
    """Coding of a request body from its Content-Encoding lines: "gzip", "deflate", "" for none, None when unknown."""
    if not values or (len(values) == 1 and values[0] in ("", "identity")):
        return ""
    if len(values) == 1 and values[0] in _WINDOW:
        return values[0]
    return None


def response_encoding(accept: str) -> str:
    """Coding for the response from Accept-Encoding: the first of highest weight; "" for none."""
    best, best_weight = "", 0.0
    for item in accept.split(","):
        name, found, rest = item.strip(" ").partition(";q=")
        weight = 1.0
        if found:
            match = _WEIGHT.match(rest)
            if match is None:
                continue
            weight = float(match[1])
        if name in ("identity", "gzip", "deflate") and weight > best_weight:
            best, best_weight = name, weight
    return "" if best == "identity" else best


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


def _deflate(encoding: str, parts: Sequence[Any]) -> bytes:
    stream = zlib.compressobj(wbits=_WINDOW[encoding])
    pieces = [stream.compress(part) for part in parts]
    pieces.append(stream.flush())
    return b"".join(pieces)


async def compress(encoding: str, parts: Sequence[Any]) -> bytes:
    """The parts as one compressed body; `encoding` is "gzip" or "deflate"."""
    if sum(len(part) for part in parts) <= _INLINE_NBYTES:
        return _deflate(encoding, parts)
    return await asyncio.to_thread(_deflate, encoding, parts)
