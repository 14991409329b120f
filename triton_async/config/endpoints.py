"""Rules about where the front-ends listen and with what TLS: which options go together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from triton_async.addresses import host_of, shown, unix_path
from triton_async.defines import UNIX_PATH_MAX_NBYTES

_TLS_FILES = ("server_cert", "server_key", "root_cert")


class Listens(NamedTuple):
    """One front-end that is on: its name, and its address and port as the options say."""

    name: str
    address: str
    port: int


def address_problem(front_ends: list[Listens]) -> str | None:
    """What is wrong with the addresses: none, an unusable socket path, or two front-ends in one place."""
    for name, address, _ in front_ends:
        if not host_of(address):
            return f"The server cannot listen to {name} requests at '{address}': it names no address"
        named = _socket_file(address)
        if named is not None:
            path = os.fsencode(named)
            if not path or b"\0" in path:
                return f"The server cannot listen to {name} requests at '{address}': it names no socket file"
            if len(path) > UNIX_PATH_MAX_NBYTES:
                return (
                    f"The server cannot listen to {name} requests at '{address}': "
                    f"the path of a socket has at most {UNIX_PATH_MAX_NBYTES} bytes"
                )
    for index, one in enumerate(front_ends):
        for other in front_ends[index + 1 :]:
            both = f"The server cannot listen to {one.name} requests and {other.name} requests at the same address"
            named = _socket_file(one.address)
            if named is not None and named == _socket_file(other.address):
                return f"{both} {one.address}"
            # Port 0 asks the system for a free one, so it never collides.
            if one.port and one.port == other.port and host_of(one.address) == host_of(other.address):
                return f"{both} and port {shown(one.address, one.port)}"
    return None


def safe_ports_problem(sagemaker: Listens, others: list[Listens], ports: range) -> str | None:
    """Which of `others` listens where SageMaker does, at a port that SageMaker keeps for itself. Its own may be any."""
    for name, address, port in others:
        if unix_path(address) is None and host_of(address) == host_of(sagemaker.address) and port not in ports:
            return (
                f"The server cannot listen to {name} requests at port {port}, allowed port range is "
                f"[{ports[0]}, {ports[-1]}]"
            )
    return None


def _socket_file(address: str) -> str | None:
    path = unix_path(address)
    return os.path.normpath(path) if path else path


def tls_problem(service: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the TLS options of `grpc` or `http`. `given`: values by field name."""

    def value(name: str) -> Any:
        return given.get(f"{service}_{name}")

    def option(name: str) -> str:
        return f"--{service}-{name.replace('_', '-')}"

    mutual = value("use_ssl_mutual")
    if value("use_ssl") or mutual:
        needed = _TLS_FILES if mutual else _TLS_FILES[:2]
        for name in needed:
            if not value(name):
                switch = "use_ssl_mutual" if mutual else "use_ssl"
                return f"Error: '{option(switch)}' requires setting '{option(name)}' as well."
        return None
    if value("use_ssl") is None and mutual is None:
        for name in _TLS_FILES:
            if value(name):
                # Triton would quietly serve without TLS. Who wants that says so by use-ssl=false.
                return f"Error: Use of '{option(name)}' requires setting '{option('use_ssl')}=true' as well."
    return None
