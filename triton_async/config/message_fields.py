"""Protobuf messages that are only looked through, such as ONNX models: fields by number, without a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of the length-delimited fields; the others hold no message. ValueError for what is no message."""
    at, end = 0, len(message)
    while at < end:
        tag, at = varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = varint(message, at)
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
            if at > end:
                raise ValueError("a field is longer than its message")
        elif wire_type == 2:
            size, at = varint(message, at)
            if size > end - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError("not a protobuf message")


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. ValueError."""
    if at < len(message) and (byte := message[at]) < 0x80:  # most of them
        return byte, at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not a protobuf message")


def file_varint(file: BinaryIO) -> int:
    """The number at the file's place, which is then behind it. ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not a protobuf message")
