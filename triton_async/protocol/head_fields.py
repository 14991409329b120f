"""The fields of a plain HTTP/1.1 request head, for who wants them all: traces, forwarding. No I/O."""

from __future__ import annotations


def head_fields(head: bytes) -> list[tuple[str, str]]:
    """(name, value) of each field, in order, of a head that `parse_head` has found to be plain, bytes as Latin-1."""
    found: list[tuple[str, str]] = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return found
