"""The fields of a plain HTTP/1.1 request head, for who wants them all: traces, access, forwarding. No I/O."""

from __future__ import annotations

from collections.abc import Iterable


def head_fields(head: bytes) -> list[tuple[str, str]]:
    """(name, value) of each field, in order, of a head that `parse_head` has found to be plain; text as the full parser
    decodes it.
    """
    found: list[tuple[str, str]] = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.decode("latin-1"), value.strip(b" \t").decode("utf-8", "surrogateescape")))
    return found


def headers_of(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, str], Iterable[tuple[str, str]]]:
    """The first value of each name, in lower case; and all of them."""
    found: dict[str, str] = {}
    for name, value in fields:
        found.setdefault(name.lower(), value)
    return found, fields
