"""Addresses that a front-end listens at: a host name or number, or `unix:<path>` for a socket file."""

from __future__ import annotations

_UNIX = "unix:"


def unix_path(address: str) -> str | None:
    """The path in `unix:<path>` or, as gRPC also writes it, `unix://<absolute path>`; None for another address."""
    if not address.startswith(_UNIX):
        return None
    path = address.removeprefix(_UNIX)
    return path[2:] if path.startswith("//") else path
