"""Addresses that a front-end listens at: a host name or number, or `unix:<path>` for a socket file.

Numbers of IPv6 may be in brackets, and there may be `ipv6:` or `ipv4:` in front, as the parts of Triton write them.
"""

from __future__ import annotations

_UNIX = "unix:"
_FAMILIES = ("ipv6:", "ipv4:")


def unix_path(address: str) -> str | None:
    """The path in `unix:<path>` or, as gRPC also writes it, `unix://<absolute path>`; None for another address."""
    if not address.startswith(_UNIX):
        return None
    path = address.removeprefix(_UNIX)
    return path[2:] if path.startswith("//") else path


def host_of(address: str) -> str:
    """The bare host of an address that names no socket file."""
    for family in _FAMILIES:
        if address.startswith(family):
            address = address.removeprefix(family)
            break
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return address


def shown(address: str, port: int) -> str:
    """`host:port`, IPv6 in brackets; an address without a port, of a socket file, as it is."""
    if unix_path(address) is not None or not port:
        return address
    host = host_of(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
