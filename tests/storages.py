"""Object storages as processes of this machine, for tests: S3 (moto) and Azure (azurite).

GCS is spoken to by its XML API, which for what we ask is that of S3: moto answers for it too, without credentials.
"""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import obstore
from obstore.store import AzureStore, S3Store

START_S = 60.0
# What the emulators take; azurite's is the one that its documentation gives to everybody.
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret-of-s3", "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


@contextmanager
def _running(command: Sequence[str], port: int, folder: Path) -> Iterator[str]:
    with (folder / "storage.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "storage.log").read_text()
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """host:port of an S3 server without a bucket."""
    port = _free_port()
    program = "import sys; from moto.server import main; sys.exit(main())"
    with _running([sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)], port, folder) as address:
        yield address


def bucket(address: str, name: str = "bucket") -> Any:
    """A new bucket of the S3 server, as obstore.store.S3Store, to put objects into."""
    call = urllib.request.Request(f"http://{address}/{name}", method="PUT")
    urllib.request.urlopen(call, timeout=30).close()
    return S3Store(
        name, config={"endpoint": f"http://{address}", "access_key_id": "an-id", "secret_access_key": "a-secret-of-s3"},
        client_options={"allow_http": True},
    )  # fmt: skip


def put(store: Any, objects: Mapping[str, bytes]) -> None:
    """Objects by their keys."""
    for key, content in objects.items():
        obstore.put(store, key, content)


def put_public(address: str, objects: Mapping[str, bytes], name: str) -> None:
    """Objects that everybody may read."""
    for key, content in objects.items():
        headers = {"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"}
        call = urllib.request.Request(f"http://{address}/{name}/{key}", data=content, headers=headers, method="PUT")
        urllib.request.urlopen(call, timeout=30).close()


def put_folder(address: str, key: str, name: str = "bucket") -> None:
    """The object that stands for an empty folder, as consoles make it."""
    call = urllib.request.Request(f"http://{address}/{name}/{key}/", data=b"", method="PUT")
    urllib.request.urlopen(call, timeout=30).close()


def azurite() -> str | None:
    """The command of Azure's emulator, where it is installed (npm install azurite)."""
    return os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")


def azure_container(address: str, name: str) -> Any:
    """A new container of the Azure server, as obstore.store.AzureStore, to put objects into."""
    path = f"/{AZURE_ACCOUNT}/{name}"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "PUT" + "\n" * 12 + "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
    signed += f"/{AZURE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"http://{address}{path}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="PUT"), timeout=30).close()
    return AzureStore(
        container_name=name, account_name=AZURE_ACCOUNT, client_options={"allow_http": True},
        config={"endpoint": f"http://{address}/{AZURE_ACCOUNT}", "account_key": AZURE_KEY},
    )  # fmt: skip


@contextmanager
def azure_server(folder: Path) -> Iterator[str]:
    """host:port of an Azure server without a container."""
    port = _free_port()
    command = azurite()
    assert command is not None
    arguments = [command, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder),
                 "--skipApiVersionCheck", "--silent"]  # fmt: skip
    with _running(arguments, port, folder) as address:
        yield address
