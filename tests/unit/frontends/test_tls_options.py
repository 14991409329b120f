"""Certificate files and options that cannot be used: the message names the option and says why."""

from __future__ import annotations

import ssl
from pathlib import Path

import certificates
import pytest
from certificates import Certificates

from triton_async.config.settings import Settings, UsageError, parse
from triton_async.errors import InvalidArg
from triton_async.frontends.tls import server_context


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


def context(certs: Certificates, **changed: object) -> ssl.SSLContext:
    arguments: dict[str, object] = {
        "cert": str(certs.server.cert),
        "key": str(certs.server.key),
        "root": str(certs.authority.cert),
        "mutual": True,
        "alpn": "h2",
        **changed,
    }
    return server_context("grpc", **arguments)  # type: ignore[arg-type]


def refusal(certs: Certificates, **changed: object) -> str:
    with pytest.raises(InvalidArg) as caught:
        context(certs, **changed)
    return caught.value.message


def test_rules_of_the_context(certs: Certificates) -> None:
    mutual, plain = context(certs), context(certs, mutual=False, root="")
    assert mutual.verify_mode == ssl.CERT_REQUIRED
    assert plain.verify_mode == ssl.CERT_NONE
    assert mutual.minimum_version == ssl.TLSVersion.TLSv1_2
    assert mutual.options & ssl.OP_NO_RENEGOTIATION
    assert mutual.options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize(
    ("field", "option"), [("cert", "server-cert"), ("key", "server-key"), ("root", "root-cert")]
)
def test_files_that_are_no_pem_files(certs: Certificates, tmp_path: Path, field: str, option: str) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\0garbage")
    for value, reason in (
        (tmp_path / "absent", "No such file or directory"),
        (tmp_path, "is not a file"),
        (garbage, "in PEM form"),
        ("nul\0", "null byte"),
    ):
        message = refusal(certs, **{field: str(value)})
        assert message.startswith(f"--grpc-{option}: ")
        assert reason in message


def test_broken_pem(certs: Certificates, tmp_path: Path) -> None:
    for field, pair_file in (("cert", certs.server.cert), ("root", certs.authority.cert)):
        broken = tmp_path / f"{field}.crt"
        broken.write_text(pair_file.read_text().replace("MII", "MIX", 1)[:200] + "\n-----END CERTIFICATE-----\n")
        assert f"cannot use '{broken}'" in refusal(certs, **{field: str(broken)}) or field == "cert"
    assert "--grpc-server-cert" in refusal(certs, cert=str(tmp_path / "cert.crt"))


def test_a_key_of_another_certificate(certs: Certificates) -> None:
    message = refusal(certs, key=str(certs.client.key))
    assert message == (
        f"--grpc-server-key: '{certs.client.key}' is not the key of the certificate in "
        f"--grpc-server-cert '{certs.server.cert}'"
    )


def test_an_encrypted_key_asks_nobody(certs: Certificates, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    certificates.encrypt(certs.server.key, locked)
    assert "is encrypted; give a key without a password" in refusal(certs, key=str(locked))


REPOSITORY = "--model-repository=/models"


def settings(service: str, *options: str) -> Settings:
    return parse([REPOSITORY, *(f"--{service}-{option}" for option in options)])


def usage_error(service: str, *options: str) -> str:
    with pytest.raises(UsageError) as caught:
        settings(service, *options)
    return caught.value.message


FILES = ("server-cert=c", "server-key=k", "root-cert=r")


@pytest.mark.parametrize("service", ["grpc", "http"])
def test_options_go_together(service: str) -> None:
    got = settings(service, "use-ssl=true", *FILES)
    assert getattr(got, f"{service}_use_ssl")
    assert getattr(got, f"{service}_server_key") == "k"
    # As in Triton, mutual is enough.
    settings(service, "use-ssl-mutual=true", *FILES)
    # Switched off on purpose.
    settings(service, "use-ssl=false", *FILES)
    assert f"'--{service}-server-cert'" in usage_error(service, "use-ssl=true", "server-key=k")
    assert f"'--{service}-server-key'" in usage_error(service, "use-ssl=true", "server-cert=c")
    message = usage_error(service, "use-ssl-mutual=true", *FILES[:2])
    assert message == (
        f"Error: '--{service}-use-ssl-mutual' requires setting '--{service}-root-cert' as well."
    )
    for option in FILES:
        message = usage_error(service, option)
        assert f"requires setting '--{service}-use-ssl=true' as well" in message


def test_socket_files_have_no_ports() -> None:
    addresses = ("--http-address=unix:/run/a", "--grpc-address=unix:/run/b", "--metrics-address=unix:/run/c")
    parse([REPOSITORY, *addresses, "--http-port=8001", "--metrics-port=8001"])
    # What a browser asks for stays where it was.
    assert parse([REPOSITORY, addresses[0]]).metrics_address == "0.0.0.0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--http-address=unix:"], "it names no socket file"),
        (["--grpc-address=unix://"], "it names no socket file"),
        (["--grpc-address=unix:/" + "x" * 107], "at most 107 bytes"),
        (["--http-address=unix:/a", "--grpc-address=unix:/a"], "at the same address unix:/a"),
        (["--http-address=unix:/a/../b", "--grpc-address=unix:///b"], "at the same address"),
    ],
)
def test_socket_files_that_cannot_be(options: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([REPOSITORY, *options])
    assert message in caught.value.message
