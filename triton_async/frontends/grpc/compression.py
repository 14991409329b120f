"""Message compression of gRPC: gzip and deflate (zlib format), bounded. Small messages on the loop, others beside."""

from __future__ import annotations

import asyncio
import zlib

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from triton_async.defines import GRPC_COMPRESS_INLINE_NBYTES
from triton_async.memory.buffer import Buffer
from triton_async.memory.inflate import inflate

# zlib's name for the container formats.
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}

ACCEPTED = "identity,deflate,gzip"

# --grpc-infer-response-compression-level as zlib's level.
LEVELS = {"none": 0, "low": 1, "medium": 6, "high": 9}


def known(encoding: str) -> bool:
    return encoding == "identity" or encoding in _WBITS


def choose(accepted: str) -> str | None:
    """The encoding to answer with, of those in `grpc-accept-encoding`; None when the client takes none of ours."""
    offered = {name.strip() for name in accepted.split(",")}
    return next((name for name in _WBITS if name in offered), None)


async def decompress(data: bytes, encoding: str, limit: int) -> Buffer:
    """GRPCError: INTERNAL for broken data, RESOURCE_EXHAUSTED beyond `limit` bytes."""
    if encoding not in _WBITS:
        raise GRPCError(Status.INTERNAL, "message is compressed but the call has no grpc-encoding")
    found = None
    if len(data) < GRPC_COMPRESS_INLINE_NBYTES:
        # A small message may still be a bomb: what does not end within the bound continues beside the loop.
        found = _decompress(data, encoding, min(limit, GRPC_COMPRESS_INLINE_NBYTES * 4))
    if found is None:
        found = await asyncio.to_thread(_decompress, data, encoding, limit)
    if found is None:
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED,
            f"Decompressed message larger than max ({limit} bytes)",
        )
    return found


def _decompress(data: bytes, encoding: str, limit: int) -> Buffer | None:
    """None when there is more than `limit`."""
    try:
        inflated = inflate(data, _WBITS[encoding], limit)
    except zlib.error:
        raise GRPCError(Status.INTERNAL, f"message is not valid {encoding} data") from None
    if inflated is None:
        return None
    if not inflated.ended or inflated.trailed:
        raise GRPCError(Status.INTERNAL, f"message is not complete {encoding} data")
    return inflated.body


async def compress(data: bytes, encoding: str, level: int) -> bytes:
    if len(data) < GRPC_COMPRESS_INLINE_NBYTES:
        return _compress(data, encoding, level)
    return await asyncio.to_thread(_compress, data, encoding, level)


def _compress(data: bytes, encoding: str, level: int) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, _WBITS[encoding])
    return stream.compress(data) + stream.flush()
