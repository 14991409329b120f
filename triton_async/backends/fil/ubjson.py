"""Universal Binary JSON (draft 12, https://ubjson.org), as XGBoost writes it: bytes to plain objects. Load threads.

Nothing is believed of a length before the bytes are there, so that memory stays in proportion to the file.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from triton_async.backends.fil.defines import UBJSON_MAX_DEPTH
from triton_async.backends.fil.ensemble import Fault

_NUMBERS = {
    b"i": struct.Struct(">b"), b"U": struct.Struct(">B"), b"I": struct.Struct(">h"), b"l": struct.Struct(">i"),
    b"L": struct.Struct(">q"), b"d": struct.Struct(">f"), b"D": struct.Struct(">d"),
}  # fmt: skip
_DTYPES = {b"i": "i1", b"U": "u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_LITERALS = {b"Z": None, b"T": True, b"F": False}


def loads(data: bytes) -> Any:
    """The value in `data`; arrays of one type of number are numpy arrays. Fault, with the offset, for anything else."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if data[reader.at :].strip(b"N\0\n "):
        raise Fault(f"there are {len(data) - reader.at} bytes behind the UBJSON value, at offset {reader.at}")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise Fault(
                f"the UBJSON ends early: {count} bytes are expected at offset {self.at}, the file has "
                f"{len(self.data)}: it may not be complete, copy it again"
            )
        found = self.data[self.at : self.at + count]
        self.at += count
        return found

    def marker(self) -> bytes:
        """The next type marker; no-ops stand for nothing."""
        found = self.take(1)
        while found == b"N":
            found = self.take(1)
        return found

    def value(self, marker: bytes, depth: int) -> Any:
        if marker in _NUMBERS:
            packed = _NUMBERS[marker]
            return packed.unpack(self.take(packed.size))[0]
        if marker == b"S":
            return self.text()
        if marker in (b"{", b"["):
            if depth >= UBJSON_MAX_DEPTH:
                raise Fault(f"more than {UBJSON_MAX_DEPTH} containers lie within each other at offset {self.at}")
            return self.mapping(depth) if marker == b"{" else self.array(depth)
        if marker in _LITERALS:
            return _LITERALS[marker]
        if marker == b"C":
            return self.take(1).decode("latin-1")
        if marker == b"H":
            return self.text()
        raise Fault(f"there is no UBJSON type {marker!r}, at offset {self.at - 1}")

    def length(self) -> int:
        marker = self.take(1)
        if marker not in b"iUIlL":
            raise Fault(f"a length of type {marker!r} at offset {self.at - 1}")
        value = int(self.value(marker, 0))
        if value < 0:
            raise Fault(f"a length of {value} at offset {self.at}")
        return value

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8", "replace")

    def header(self) -> tuple[bytes, int]:
        """Type and count of an optimised container: b"" and -1 where they are not said."""
        kind, count = b"", -1
        if self.data[self.at : self.at + 1] == b"$":
            self.at += 1
            kind = self.take(1)
        if self.data[self.at : self.at + 1] == b"#":
            self.at += 1
            count = self.length()
        elif kind:
            raise Fault(f"an array of type {kind!r} without a count at offset {self.at}")
        return kind, count

    def array(self, depth: int) -> Any:
        kind, count = self.header()
        if kind in _DTYPES:
            dtype = np.dtype(_DTYPES[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
        if kind:
            raise Fault(f"an array whose elements are of type {kind!r} at offset {self.at}")
        found: list[Any] = []
        while True:
            if count < 0:
                marker = self.marker()
                if marker == b"]":
                    return found
            elif len(found) == count:
                return found
            else:
                marker = self.marker()
            found.append(self.value(marker, depth + 1))

    def mapping(self, depth: int) -> dict[str, Any]:
        kind, count = self.header()
        if kind:
            raise Fault(f"an object whose values are of type {kind!r} at offset {self.at}")
        found: dict[str, Any] = {}
        seen = 0
        while seen != count:
            if count < 0 and self.data[self.at : self.at + 1] == b"}":
                self.at += 1
                return found
            name = self.text()
            if name in found:
                raise Fault(f"the field '{name[:60]}' is there twice, at offset {self.at}")
            found[name] = self.value(self.marker(), depth + 1)
            seen += 1
        return found
