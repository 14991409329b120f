"""Certificates and rules of TLS: makes the SSLContext that a front-end serves with. Before the event loop."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from triton_async.errors import InvalidArg

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_TRUSTED_CERTIFICATE = b"-----BEGIN TRUSTED CERTIFICATE-----"
_PRIVATE_KEY = b"PRIVATE KEY-----"


class ServerTls(Protocol):
    """What a listening socket needs of an SSLContext."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = ...
    ) -> ssl.SSLObject: ...


class Certificate:
    """A front-end's context that follows its files: connections made from now on use what `renew` has put in force.
    Stands for the SSLContext, of which a transport needs `wrap_bio` alone.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], paths: tuple[Path, ...]) -> None:
        """`make`: of the files at `paths`. InvalidArg. Blocks."""
        self._make = make
        self._current = make()
        self.paths = paths

    def renew(self) -> Callable[[], None]:
        """See renewal.Renewable."""
        made = self._make()

        def put() -> None:
            self._current = made

        return put

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = True
    ) -> ssl.SSLObject:
        """A new connection's half, as of SSLContext."""
        return self._current.wrap_bio(incoming, outgoing, server_side=server_side)


def certificate(service: str, *, cert: str, key: str, root: str, mutual: bool, alpn: str) -> Certificate:
    """`server_context` of these, renewed."""
    make = partial(server_context, service, cert=cert, key=key, root=root, mutual=mutual, alpn=alpn)
    return Certificate(make, tuple(Path(path) for path in (cert, key, *([root] if mutual else ()))))


def server_context(service: str, *, cert: str, key: str, root: str, mutual: bool, alpn: str) -> ssl.SSLContext:
    """The context of `service` (`grpc` or `http`, as its options begin). InvalidArg names the option that is wrong.

    `mutual`: clients must show a certificate that leads to one in `root`. `alpn`: the one protocol offered.
    """
    _require(f"--{service}-server-cert", cert, "certificate", _CERTIFICATE, _TRUSTED_CERTIFICATE)
    _require(f"--{service}-server-key", key, "private key", _PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that renegotiates makes the server compute for nothing (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([alpn])
    _load_chain(context, service, cert, key)
    if mutual:
        _require(f"--{service}-root-cert", root, "certificate", _CERTIFICATE, _TRUSTED_CERTIFICATE)
        try:
            context.load_verify_locations(cafile=root)
        except (ssl.SSLError, OSError) as error:
            raise InvalidArg(f"--{service}-root-cert: cannot use '{root}': {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require(option: str, path: str, what: str, *marks: bytes) -> None:
    # OpenSSL tells neither which of its files is at fault nor why, so look before it does.
    file = Path(path)
    try:
        if file.exists() and not file.is_file():
            raise InvalidArg(f"{option}: '{path}' is not a file")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidArg(f"{option}: cannot read '{path}': {_reason(error)}") from None
    if not any(mark in content for mark in marks):
        raise InvalidArg(f"{option}: '{path}' holds no {what} in PEM form")


def _load_chain(context: ssl.SSLContext, service: str, cert: str, key: str) -> None:
    option = f"--{service}-server-key"
    encrypted = False

    def password() -> bytes:
        # Without an answer OpenSSL would ask the terminal, and the server would not start.
        nonlocal encrypted
        encrypted = True
        return b""

    try:
        context.load_cert_chain(cert, key, password)
    except (ssl.SSLError, OSError) as error:
        if encrypted:
            reason = f"'{key}' is encrypted; give a key without a password"
        elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            reason = f"'{key}' is not the key of the certificate in --{service}-server-cert '{cert}'"
        else:
            reason = f"cannot use '{key}' with --{service}-server-cert '{cert}': {_reason(error)}"
        raise InvalidArg(f"{option}: {reason}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not valid PEM").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
