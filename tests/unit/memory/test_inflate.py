"""Inflating: whole, bounded, and no more of it at a time than the loop can wait for."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest

from triton_async.defines import INFLATE_PIECE_NBYTES
from triton_async.memory.inflate import inflate

DETECT, GZIP = 15 | 32, 15 | 16
SIZES = [0, 1, 1000, INFLATE_PIECE_NBYTES - 1, INFLATE_PIECE_NBYTES, INFLATE_PIECE_NBYTES + 1, 3_000_000]
FORMS = [(gzip.compress, GZIP), (gzip.compress, DETECT), (zlib.compress, DETECT), (zlib.compress, 15)]


@pytest.mark.parametrize(("compress", "wbits"), FORMS)
@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("make", [os.urandom, lambda n: b"a" * n], ids=["random", "repeated"])
def test_what_was_compressed_comes_back(nbytes: int, compress, wbits: int, make) -> None:  # type: ignore[no-untyped-def]
    data = make(nbytes)
    packed = compress(data)
    found = inflate(packed, wbits, nbytes)
    assert found is not None and bytes(found.body) == data and found.ended and not found.trailed
    if nbytes:
        assert inflate(packed, wbits, nbytes - 1) is None
    found = inflate(memoryview(packed + b"x"), wbits, nbytes)
    assert found is not None and found.trailed and bytes(found.body) == data
    found = inflate(bytearray(packed[:-1]), wbits, nbytes)
    assert found is not None and not found.ended


def test_trailing_bytes_far_behind_the_end_are_seen() -> None:
    found = inflate(gzip.compress(b"body") + b"\0" * (4 * INFLATE_PIECE_NBYTES), GZIP, 100)
    assert found is not None and found.trailed and bytes(found.body) == b"body"


def test_broken_data_is_an_error() -> None:
    with pytest.raises(zlib.error):
        inflate(b"no compressed data at all", GZIP, 100)


def test_little_that_becomes_much_ends_at_the_bound() -> None:
    packed = gzip.compress(b"\0" * (64 << 20))
    assert len(packed) < 100_000
    assert inflate(packed, GZIP, 1 << 20) is None
