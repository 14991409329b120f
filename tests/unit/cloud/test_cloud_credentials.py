"""Whose the calls to object storage are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from triton_async.cloud.credentials import find_credentials, s3_keys, s3_region
from triton_async.cloud.defines import CREDENTIALS_MAX_NBYTES
from triton_async.cloud.stores import open_store
from triton_async.config.locations import parse_location
from triton_async.errors import InvalidArg

BUCKET = parse_location("s3://bucket/models")
SECRET = "not-to-be-seen"


def of_file(tmp_path: Path, document: Any) -> dict[str, str]:
    path = tmp_path / "credentials.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return {"TRITON_CLOUD_CREDENTIAL_PATH": str(path), "HOME": str(tmp_path)}


def test_the_longest_beginning_of_the_url_says_which_credentials(tmp_path: Path) -> None:
    environment = of_file(tmp_path, {"s3": {
        "": {"key_id": "any", "secret_key": SECRET},
        "s3://bucket": {"key_id": "of-bucket", "secret_key": SECRET, "region": "eu-west-1", "session_token": "t"},
        "s3://bucket/other": {"key_id": "of-other", "secret_key": SECRET},
    }}) | {"AWS_ACCESS_KEY_ID": "ignored", "AWS_SECRET_ACCESS_KEY": SECRET}  # fmt: skip
    keys = {}
    for url in ("s3://bucket/models", "s3://bucket/other/x", "s3:///bucket//other/y", "s3://else"):
        credentials = find_credentials(parse_location(url), environment)
        found = s3_keys(credentials, environment)
        assert found is not None and SECRET not in repr((found, credentials))
        keys[url] = found.key_id, found.token, s3_region(credentials, environment)
    assert keys == {
        "s3://bucket/models": ("of-bucket", "t", "eu-west-1"),
        "s3://bucket/other/x": ("of-other", "", "us-east-1"),
        "s3:///bucket//other/y": ("of-other", "", "us-east-1"),
        "s3://else": ("any", "", "us-east-1"),
    }


def test_without_a_file_the_environment_says(tmp_path: Path) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-2",
        "HOME": str(tmp_path),
    }  # fmt: skip
    credentials = find_credentials(BUCKET, environment)
    found = s3_keys(credentials, environment)
    assert found is not None and (found.key_id, found.secret, found.token) == ("id", SECRET, "t")
    assert s3_region(credentials, environment) == "eu-west-2"
    nothing = find_credentials(BUCKET, {"HOME": str(tmp_path)})
    assert s3_keys(nothing, {"HOME": str(tmp_path)}) is None


def test_profiles_of_the_shared_file_are_read(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = first\naws_secret_access_key = {SECRET}\n"
        f"[other]\naws_access_key_id = second\naws_secret_access_key = {SECRET}\naws_session_token = t\n"
        "[role]\nrole_arn = arn\nsource_profile = default\n"
    )
    (tmp_path / ".aws" / "config").write_text("[profile other]\nregion = eu-north-1\n")
    home = {"HOME": str(tmp_path)}
    by_default = s3_keys(find_credentials(BUCKET, home), home)
    assert by_default is not None and by_default.key_id == "first"
    named = home | {"AWS_PROFILE": "other"}
    other = s3_keys(find_credentials(BUCKET, named), named)
    assert other is not None and (other.key_id, other.token) == ("second", "t")
    assert s3_region(find_credentials(BUCKET, named), named) == "eu-north-1"
    for name in ("role", "none"):
        with pytest.raises(InvalidArg, match=f"the AWS profile '{name}' has no access key"):
            environment = home | {"AWS_PROFILE": name}
            s3_keys(find_credentials(BUCKET, environment), environment)
    # A role of the container goes before a file that happens to be there.
    role = home | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}
    assert s3_keys(find_credentials(BUCKET, role), role) is None


@pytest.mark.parametrize(("document", "says"), [
    (f"{{{SECRET}", "is no JSON"),
    ([SECRET], "is no JSON object of"),
    ({"s3": [SECRET]}, "'s3' in"),
    ({"s3": {"": SECRET}}, "the entry '' of 's3'"),
    ({"s3": {"": {"secret": SECRET}}}, "the field 'secret', which is none of key_id"),
    ({"s3": {"": {"secret_key": [SECRET]}}}, "a field 'secret_key' that is no string"),
    ({"s3": {"": {"use_virtual_addressing": 1}}}, "a field 'use_virtual_addressing' that is no string"),
    ({"s3": {"s3://other": {}}}, "has no credentials for s3://bucket/models"),
    ({"gs": {"": SECRET}}, "has no credentials for s3://bucket/models"),
    ("x" * (CREDENTIALS_MAX_NBYTES + 1), "is larger than"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_without_its_secrets(tmp_path: Path, document: Any, says: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        find_credentials(BUCKET, of_file(tmp_path, document))
    assert says in caught.value.message and SECRET not in caught.value.message


def test_a_file_that_is_gone_is_named_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(InvalidArg, match="TRITON_CLOUD_CREDENTIAL_PATH: No such file"):
        find_credentials(BUCKET, {"TRITON_CLOUD_CREDENTIAL_PATH": str(tmp_path / "none")})


def test_half_a_key_is_refused() -> None:
    for half in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with pytest.raises(InvalidArg, match="both the id and the secret") as caught:
            open_store(BUCKET, {half: SECRET})
        assert SECRET not in caught.value.message


def test_credentials_of_google_and_azure_are_read(tmp_path: Path) -> None:
    environment = of_file(tmp_path, {
        "gs": {"": "/google.json"},
        "as": {"as://one": {"account_str": "one", "account_key": SECRET}, "": {"auth_type": "managed_identity"}},
    })  # fmt: skip
    google = find_credentials(parse_location("gs://bucket"), environment)
    assert google.get("GOOGLE_APPLICATION_CREDENTIALS") == "/google.json"
    azure = find_credentials(parse_location("as://one/container"), environment)
    assert azure.get("AZURE_STORAGE_KEY") == SECRET and SECRET not in repr(azure)
    other = find_credentials(parse_location("as://two/container"), environment)
    assert other.get("AZURE_STORAGE_AUTH_TYPE") == "managed_identity"


def test_what_the_library_does_not_take_is_said_without_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "google.json").write_text(SECRET)
    for url, environment in (
        ("as://account/container", {"AZURE_STORAGE_KEY": f"{SECRET}!"}),
        ("gs://bucket", {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json")}),
    ):
        with pytest.raises(InvalidArg) as caught:
            open_store(parse_location(url), environment)
        assert caught.value.message.startswith(f"{url}: its credentials cannot be used")
        assert SECRET not in caught.value.message
    with pytest.raises(InvalidArg, match="'certificate' is none of default, managed_identity"):
        open_store(parse_location("as://account/container"), {"AZURE_STORAGE_AUTH_TYPE": "certificate"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The URLs of the calls, of whatever host: a proxy takes them all, and answers that there is one folder."""
    found: list[str] = []

    class Storage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(self.path)
            body = b"<ListBucketResult><CommonPrefixes><Prefix>m/</Prefix></CommonPrefixes></ListBucketResult>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def test_a_bucket_may_be_a_part_of_the_hosts_name(tmp_path: Path, asked: list[str]) -> None:
    location = parse_location("s3://storage.example:9000/bucket")
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": SECRET}
    entry = {"key_id": "id", "secret_key": SECRET, "use_virtual_addressing": True}
    for environment in (
        keys, keys | {"S3_USE_VIRTUAL_ADDRESSING": "0"}, keys | {"S3_USE_VIRTUAL_ADDRESSING": "true"},
        of_file(tmp_path, {"s3": {"": entry}}),
    ):  # fmt: skip
        assert open_store(location, environment).folders("") == ["m"]
    assert [url.partition("?")[0].rstrip("/") for url in asked] == [
        "http://storage.example:9000/bucket", "http://storage.example:9000/bucket",
        "http://bucket.storage.example:9000", "http://bucket.storage.example:9000",
    ]  # fmt: skip
    with pytest.raises(InvalidArg, match=r"S3_USE_VIRTUAL_ADDRESSING is true or false\. Got perhaps"):
        open_store(location, keys | {"S3_USE_VIRTUAL_ADDRESSING": "perhaps"})
