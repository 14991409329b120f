"""Certificates made for a test run: an authority, a server's and a client's, and what should be refused."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and of its key."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """`other`: an authority that nobody here trusts; `stranger`: a client's certificate signed by it."""

    authority: Pair
    server: Pair
    client: Pair
    other: Pair
    stranger: Pair


def make(folder: Path) -> Certificates:
    """Writes all of them into `folder`."""
    authority = _authority(folder, "authority")
    other = _authority(folder, "other")
    return Certificates(
        authority,
        _signed(folder, "server", authority, "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        _signed(folder, "client", authority, "extendedKeyUsage=clientAuth"),
        other,
        _signed(folder, "stranger", other, "extendedKeyUsage=clientAuth"),
    )


def encrypt(key: Path, target: Path) -> None:
    """Writes the key protected by a password."""
    _openssl("ec", "-in", key, "-out", target, "-aes256", "-passout", "pass:secret")


def _authority(folder: Path, name: str) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl("req", "-x509", *_KEY, "-subj", f"/CN={name}", "-days", "2", "-keyout", pair.key, "-out", pair.cert)
    return pair


def _signed(folder: Path, name: str, authority: Pair, extension: str) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(extension + "\n")
    _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", authority.cert, "-CAkey", authority.key, "-CAcreateserial",
        "-days", "2", "-extfile", extensions, "-out", pair.cert,
    )  # fmt: skip
    return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
