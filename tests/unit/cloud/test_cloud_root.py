"""A model repository in object storage, against a real S3 server: what is seen, fetched and kept."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from storages import (
    AZURE_ACCOUNT,
    AZURE_KEY,
    azure_container,
    azure_server,
    azurite,
    bucket,
    put,
    put_folder,
    put_public,
)

from triton_async.cloud import defines, repository, stores
from triton_async.cloud.repository import CloudRoot
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable

SECRET = os.environ.get("AWS_SECRET_ACCESS_KEY", "a-secret-of-s3")


@contextmanager
def root_at(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudRoot]:
    for name in ("AWS", "GCS", "AZURE"):
        monkeypatch.setenv(f"TRITON_{name}_MOUNT_DIRECTORY", str(directory))
    root = CloudRoot(url)
    try:
        yield root
    finally:
        root.close()
        assert not list(directory.iterdir())


def tree(directory: Path) -> dict[str, bytes | None]:
    """Files by their paths; folders are None."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Objects whose bytes are asked for meanwhile."""
    asked: list[str] = []
    get = obstore.get

    def note(store: Any, path: str, **more: Any) -> Any:
        asked.append(path)
        return get(store, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "get", note)
        yield asked


def test_models_are_seen_and_copied(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(s3, "seen")
    put(store, {
        "models/m/config.pbtxt": b"", "models/m/1/model.onnx": b"weights", "models/m/2/sub/x y+z%.bin": b"more",
        "models/.hidden/1/x": b"x", "models/lost+found/x": b"x", "models/readme": b"x", "other/1/x": b"x",
        "m/1/x": b"of the bucket itself",
    })  # fmt: skip
    for folder in ("models/m", "models/m/3", "models/ensemble/1"):
        put_folder(s3, folder, "seen")
    with root_at(f"s3://{s3}/seen/models", tmp_path, monkeypatch) as root:
        assert sorted(root.names()) == ["ensemble", "m"] and root.survey() == []
        assert root.has("m") and not root.has("other") and not root.has("readme/..") and not root.has("mo")
        copy = root.fetch("m")
        assert copy.directory.name == "m" and tree(copy.directory) == {
            "1": None, "1/model.onnx": b"weights", "2": None, "2/sub": None, "2/sub/x y+z%.bin": b"more", "3": None,
            "config.pbtxt": b"",
        }  # fmt: skip
        assert copy.fingerprint == root.fingerprint("m") == root.fingerprints(["m"])["m"]
        assert tree(root.fetch("ensemble").directory) == {"1": None}
    with root_at(f"s3://http://{s3}/seen", tmp_path, monkeypatch) as root:
        assert sorted(root.names()) == ["m", "models", "other"]
        assert tree(root.fetch("m").directory) == {"1": None, "1/x": b"of the bucket itself"}
    with root_at(f"s3://{s3}/seen/none", tmp_path, monkeypatch) as root:
        assert root.names() == [] and "no models found at s3://" in root.survey()[0]


def test_only_what_has_changed_is_fetched_again(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(s3, "changes")
    put(store, {"m/config.pbtxt": b"old", "m/1/weights": b"w" * 5000, "m/1/gone": b"x", "m/1/empty": b""})
    with root_at(f"s3://{s3}/changes", tmp_path, monkeypatch) as root:
        first = root.fetch("m")
        before = tree(first.directory)
        put(store, {"m/config.pbtxt": b"new", "m/2/weights": b"v"})
        obstore.delete(store, "m/1/gone")
        with counting(monkeypatch) as asked:
            second = root.fetch("m")
        assert sorted(asked) == ["m/2/weights", "m/config.pbtxt"]
        assert second.fingerprint != first.fingerprint
        # Whoever is loaded from the first copy goes on with it.
        assert tree(first.directory) == before
        assert tree(second.directory)["config.pbtxt"] == b"new" and "1/gone" not in tree(second.directory)
        # A copy goes with its last user, and takes nothing along that others have.
        first.remove()
        assert not first.directory.exists() and tree(second.directory)["1/weights"] == b"w" * 5000
        second.remove()
        with counting(monkeypatch) as asked:
            root.fetch("m")
        assert len(asked) == 3  # but for the one without bytes


def test_large_objects_come_in_parts(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(1 << 20)
    put(bucket(s3, "large"), {"m/1/weights": content, "m/1/exact": content[: 1 << 18]})
    monkeypatch.setattr(repository, "PART_NBYTES", 1 << 17)
    with root_at(f"s3://{s3}/large", tmp_path, monkeypatch) as root, counting(monkeypatch) as asked:
        files = tree(root.fetch("m").directory)
        assert files["1/weights"] == content and files["1/exact"] == content[: 1 << 18]
        assert len(asked) == 8 + 2


def test_objects_that_change_while_they_are_read_are_read_again(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket(s3, "busy")
    put(store, {"m/1/weights": b"0" * 100})
    get = obstore.get
    writes = deque([b"1" * 100, b"2" * 200])

    def disturb(of: Any, path: str, **more: Any) -> Any:
        if writes:
            put(store, {path: writes.popleft()})
        return get(of, path, **more)

    monkeypatch.setattr(obstore, "get", disturb)
    with root_at(f"s3://{s3}/busy", tmp_path, monkeypatch) as root:
        assert tree(root.fetch("m").directory)["1/weights"] == b"2" * 200
        writes += [bytes([n]) * 100 for n in range(defines.CHANGES + 1)]
        with pytest.raises(Unavailable, match="the model has changed while it was read"):
            root.fetch("m")


@pytest.mark.parametrize("key", ["m/../../outside", "m/1/../../../outside", "m//x", "m/./x", "m/1/a\\b"])
def test_names_that_lead_out_of_the_copy_are_refused(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    name = f"leads{abs(hash(key)) % 10**6}"
    store = bucket(s3, name)
    put(store, {"m/1/fine": b"x", "other/1/fine": b"x"})
    # Straight to the server: clients that mean well do not write such names.
    subprocess.run(
        ["curl", "-sf", "--path-as-is", "-X", "PUT", "--data-binary", "x", f"http://{s3}/{name}/{key}"], check=True
    )
    (tmp_path / "copies").mkdir()
    with root_at(f"s3://{s3}/{name}", tmp_path / "copies", monkeypatch) as root:
        with pytest.raises(InvalidArg, match=r"(an object there has a name with|path that stays within)"):
            root.fetch("m")
        assert tree(root.fetch("other").directory) == {"1": None, "1/fine": b"x"}
        told = root.fingerprints(["m", "other"])
        assert told["other"] == root.fingerprint("other") and told["m"] == root.fingerprints(["m"])["m"]
    assert [path.name for path in tmp_path.iterdir()] == ["copies"]


def test_a_file_cannot_be_a_folder_too(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket(s3, "both"), {"m/1/a": b"x", "m/1/a/b": b"y"})
    with root_at(f"s3://{s3}/both", tmp_path, monkeypatch) as root:
        with pytest.raises(InvalidArg, match="m/1/a: there is an object of this name, and there are objects below it"):
            root.fetch("m")


def test_there_is_a_bound_of_objects(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket(s3, "many"), {f"{name}/1/{n}": b"" for name, count in (("m", 10), ("n", 11)) for n in range(count)})
    monkeypatch.setattr(repository, "MAX_OBJECTS", 10)
    with root_at(f"s3://{s3}/many", tmp_path, monkeypatch) as root:
        assert len(tree(root.fetch("m").directory)) == 11
        with pytest.raises(InvalidArg, match="'n' has more than 10 objects"):
            root.fetch("n")


def test_there_has_to_be_room(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket(s3, "room"), {"m/1/weights": b"x" * 1000})
    with root_at(f"s3://{s3}/room", tmp_path, monkeypatch) as root:
        for free in (999, 1000):
            monkeypatch.setattr(root._copies, "free_nbytes", lambda free=free: free)
            if free == 1000:
                root.fetch("m")
            else:
                with pytest.raises(Unavailable, match=r"1000 bytes are to be .* room for 999: set TRITON_AWS_MOUNT"):
                    root.fetch("m")


def failures(root: CloudRoot) -> Iterator[str]:
    calls: list[Callable[[], object]] = [root.names, lambda: root.has("m"), lambda: root.fetch("m")]
    for call in calls:
        with pytest.raises(ServerError) as caught:
            call()
        yield caught.value.message


def test_errors_name_the_place_and_the_cause_and_no_secret(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRIES", 0)
    with root_at(f"s3://{s3}/nowhere/models", tmp_path, monkeypatch) as root:
        for text in failures(root):
            assert f"s3://http://{s3}/nowhere/models" in text and "not found (404 NoSuchBucket)" in text
    with root_at("s3://127.0.0.1:1/bucket/models", tmp_path, monkeypatch) as root:
        for text in failures(root):
            assert "s3://http://127.0.0.1:1/bucket/models" in text and "cannot be reached" in text
    with answering(lambda path, headers: (403, b"<Error><Code>AccessDenied</Code></Error>")) as (address, _):
        with root_at(f"s3://{address}/bucket/models", tmp_path, monkeypatch) as root:
            for text in failures(root):
                assert "access denied (403 AccessDenied)" in text and SECRET not in text
    with answering(lambda path, headers: (500, SECRET.encode())) as (address, _):
        with root_at(f"s3://{address}/bucket/models", tmp_path, monkeypatch) as root:
            for text in failures(root):
                assert "the storage failed (500)" in text and SECRET not in text


def test_a_storage_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRIES", 0)
    monkeypatch.setattr(stores, "READ_S", 1)
    waiting = threading.Event()

    def late(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        waiting.wait(30)
        return 500, b""

    try:
        with answering(late) as (address, _):
            with root_at(f"s3://{address}/bucket/models", tmp_path, monkeypatch) as root:
                with pytest.raises(Unavailable, match="the storage did not answer in time"):
                    root.names()
            waiting.set()
    finally:
        waiting.set()


def test_keys_of_a_file_may_change_while_the_server_runs(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "CREDENTIALS_S", 0)
    file = tmp_path / "credentials"
    monkeypatch.setenv("TRITON_CLOUD_CREDENTIAL_PATH", str(file))

    def write(key_id: str) -> None:
        file.write_text(json.dumps({"s3": {"": {"key_id": key_id, "secret_key": "x", "region": "r"}}}))

    write("first")
    (tmp_path / "copies").mkdir()
    with answering(lambda path, headers: (404, b"")) as (address, calls):
        with root_at(f"s3://{address}/bucket", tmp_path / "copies", monkeypatch) as root:
            for key_id in ("first", "second"):
                write(key_id)
                with pytest.raises(ServerError):
                    root.names()
    used = [headers["authorization"].split("Credential=")[1].split("/")[0] for _, headers in calls]
    assert used == ["first", "second"]


def test_google_is_spoken_to_as_it_documents(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The XML API of GCS is that of S3, for what is asked here; the emulator asks for no credentials.
    bucket(s3, "google")
    put_public(s3, {"models/m/1/weights": b"x", "models/m/config.pbtxt": b"y"}, "google")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", s3)
    with root_at("gs://google/models", tmp_path, monkeypatch) as root:
        assert root.names() == ["m"] and root.has("m")
        assert tree(root.fetch("m").directory) == {"1": None, "1/weights": b"x", "config.pbtxt": b"y"}
    with root_at("gs://nowhere/models", tmp_path, monkeypatch) as root:
        for text in failures(root):
            assert "gs://nowhere/models" in text and "404" in text


@pytest.mark.skipif(azurite() is None, reason="Azure's emulator is not installed: npm install -g azurite")
def test_azure_is_read_with_an_account_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "azure").mkdir()
    (tmp_path / "copies").mkdir()
    with azure_server(tmp_path / "azure") as address:
        endpoint = f"http://{address}/{AZURE_ACCOUNT}"
        for name, value in (("ENDPOINT", endpoint), ("ACCOUNT", AZURE_ACCOUNT), ("KEY", AZURE_KEY)):
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        put(azure_container(address, "container"), {"models/m/1/weights": b"x"})
        with root_at(f"as://{AZURE_ACCOUNT}/container/models", tmp_path / "copies", monkeypatch) as root:
            assert root.names() == ["m"]
            assert tree(root.fetch("m").directory) == {"1": None, "1/weights": b"x"}


@contextmanager
def answering(
    answer: Callable[[str, dict[str, str]], tuple[int, bytes]],
) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """An HTTP server, host:port, and what it is asked: paths and headers."""
    calls: list[tuple[str, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            calls.append((self.path, headers))
            status, body = answer(self.path, headers)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_managed_identities_of_azure_are_asked_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the identity endpoint and the storage are asked, and what they answer, is Azure's documented form.
    listing = (
        b'<?xml version="1.0"?><EnumerationResults><Blobs><BlobPrefix><Name>models/m/</Name></BlobPrefix></Blobs>'
        b"<NextMarker/></EnumerationResults>"
    )
    token = json.dumps({
        "access_token": "a-token", "expires_in": "3600", "expires_on": "4102444800", "token_type": "Bearer",
        "resource": "https://storage.azure.com",
    }).encode()  # fmt: skip

    def answer(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        return (200, token) if path.startswith("/identity") else (200, listing)

    with answering(answer) as (address, calls):
        for name, value in (
            ("AZURE_STORAGE_AUTH_TYPE", "managed_identity"), ("AZURE_STORAGE_CLIENT_ID", "a-client"),
            ("AZURE_STORAGE_KEY", "bm90IHVzZWQ="), ("AZURE_STORAGE_ENDPOINT", f"http://{address}"),
            ("IDENTITY_ENDPOINT", f"http://{address}/identity"), ("IDENTITY_HEADER", "a-header"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        with root_at("as://account/container/models", tmp_path, monkeypatch) as root:
            assert root.names() == ["m"]
    asked = parse_qs(urlsplit(calls[0][0]).query)
    assert asked["client_id"] == ["a-client"] and asked["resource"] == ["https://storage.azure.com"]
    assert calls[1][1]["authorization"] == "Bearer a-token"


def test_copies_of_servers_that_were_killed_go(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket(s3, "killed"), {"m/1/weights": b"x"})
    url = f"s3://{s3}/killed"
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(tmp_path))
    code = (
        "import sys, time; from triton_async.cloud.repository import CloudRoot; "
        f"root = CloudRoot({url!r}); root.fetch('m'); print('there', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "there\n"
        with pytest.raises(AssertionError), root_at(url, tmp_path, monkeypatch):
            # What a process has that lives is left alone.
            assert len(list(tmp_path.iterdir())) == 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout and child.stdout.close()
    assert len(list(tmp_path.iterdir())) == 1
    with root_at(url, tmp_path, monkeypatch):
        assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_takes_nothing_is_named(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket(s3, "disk"), {"m/1/weights": b"x"})

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with root_at(f"s3://{s3}/disk", tmp_path, monkeypatch) as root:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(InternalError, match="could not be written to this machine's disk: No space left"):
                root.fetch("m")
        root.fetch("m")
