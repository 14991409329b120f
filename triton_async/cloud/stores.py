"""Calls to object storage, through obstore: what lies there, and its bytes. Blocking; any thread.

What goes wrong is said in our own words, by bucket, key and cause: the library's texts hold URLs, which may be signed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from triton_async.cloud.credentials import Credentials, find_credentials, s3_keys, s3_region, s3_virtual
from triton_async.cloud.defines import CHUNK_NBYTES, CONNECT_S, CREDENTIALS_S, OBJECT_S, READ_S, RETRIES, RETRY_S
from triton_async.config.locations import AZURE, GCS, S3, Location
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, Unsupported

_AUTH_TYPES = ("", "default", "managed_identity")
_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_KIND = re.compile(r"kind: (Connect|Timeout|Request|Decode|Interrupted)\b")
_TOKENS = re.compile(r"token request|credentials? from|instance role|metadata", re.IGNORECASE)
_KINDS = {
    "Connect": "the storage cannot be reached",
    "Timeout": "the storage did not answer in time",
    "Interrupted": "the connection was lost",
    "Decode": "the answer of the storage could not be read",
}
_STATUSES = {400: "the call was refused", 401: "not authenticated", 403: "access denied", 404: "not found"}


class Changed(Exception):
    """An object is not any more what it was when it was listed."""


class Object(NamedTuple):
    """One object. `path`: behind the bucket. `tag`: another one when its content is."""

    path: str
    nbytes: int
    tag: str


def library() -> Any:
    """obstore. Unsupported, saying how to install it, where it is not there."""
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise Unsupported(
            "repositories in object storage need the package obstore: pip install 'triton-async[cloud]'"
        ) from None
    return obstore


@dataclass(frozen=True, slots=True)
class Store:
    """One bucket, or container, as the credentials open it."""

    location: Location
    credentials: Credentials
    _bucket: Any

    def folders(self, path: str) -> list[str]:
        """Names of what lies in a folder and has objects below it. ServerError."""
        with self._telling(path):
            found = library().list_with_delimiter(self._bucket, path or None)
            return [prefix.rsplit("/", 1)[-1] for prefix in found["common_prefixes"]]

    def objects(self, path: str) -> Iterator[Object]:
        """All objects below a folder, in no order. ServerError."""
        with self._telling(path):
            for page in library().list(self._bucket, path or None, chunk_size=1000):
                for row in page:
                    yield Object(row["path"], row["size"], row["e_tag"] or row["last_modified"].isoformat())

    def read(self, source: Object, start: int, stop: int, write: Callable[[Any, int], object]) -> None:
        """Hands the bytes from `start` to `stop` of an object to `write`, with the place of each piece. ServerError;
        Changed.
        """
        options: dict[str, Any] = {"range": (start, stop)}
        if source.tag.startswith(('"', "0x")):
            options["if_match"] = source.tag
        at = start
        with self._telling(source.path):
            answer = library().get(self._bucket, source.path, options=options)
            if answer.meta["size"] != source.nbytes:
                raise Changed
            for piece in answer.stream(min_chunk_size=CHUNK_NBYTES):
                data = memoryview(piece)
                write(data, at)
                at += len(data)
        if at != stop:
            raise Unavailable(f"{self.location.shown(source.path)}: the object ended early")

    @contextmanager
    def _telling(self, path: str) -> Iterator[None]:
        exceptions = library().exceptions
        try:
            yield
        except (ServerError, Changed):
            raise
        except exceptions.PreconditionError:
            raise Changed from None
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise  # of this machine's disk
            where = self.location.shown(path)
            if isinstance(error, exceptions.InvalidPathError):
                raise InvalidArg(
                    f"{where}: an object there has a name with an empty part, '.' or '..', which cannot be the path of "
                    "a file: rename or remove it"
                ) from None
            raise Unavailable(f"{where}: {cause_of(error)}") from None


def cause_of(error: Exception) -> str:
    """Why a call failed, in words that hold nothing of the library's text but what is known to be harmless."""
    text = str(error)
    status, code, kind = _STATUS.search(text), _CODE.search(text), _KIND.search(text)
    if isinstance(error, FileNotFoundError) and status is None:
        return "not found"
    name = type(error).__name__
    if status is not None:
        number = int(status[1])
        said = _STATUSES.get(number, "the storage failed" if number >= 500 else "the call was refused")
        cause = f"{said} ({number}{' ' + code[1] if code else ''})"
    elif kind is not None:
        cause = _KINDS.get(kind[1], "the storage cannot be reached")
    elif name == "PermissionDeniedError":
        cause = "access denied"
    elif name == "UnauthenticatedError":
        cause = "not authenticated"
    else:
        cause = f"the call failed ({name})"
    if _TOKENS.search(text):
        cause = f"no credentials could be had: {cause}"
    return cause


def open_store(location: Location, environment: Mapping[str, str] | None = None) -> Store:
    """Of a location; makes no call. InvalidArg for credentials that cannot be used; Unsupported without the library."""
    environment = os.environ if environment is None else environment
    credentials = find_credentials(location, environment)
    stores = library().store
    retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
    client: dict[str, Any] = {
        "connect_timeout": f"{CONNECT_S}s", "read_timeout": f"{READ_S}s", "timeout": f"{OBJECT_S}s",
    }  # fmt: skip
    common = {"client_options": client, "retry_config": retry}
    try:
        if location.scheme == S3:
            bucket = _open_s3(stores, location, credentials, environment, common)
        elif location.scheme == GCS:
            bucket = _open_gcs(stores, location, credentials, environment, common)
        else:
            assert location.scheme == AZURE
            bucket = _open_azure(stores, location, credentials, environment, common)
    except ServerError:
        raise
    except Exception as error:
        # Its text may quote a key.
        raise InvalidArg(f"{location.url}: its credentials cannot be used ({type(error).__name__})") from None
    return Store(location, credentials, bucket)


def _open_s3(
    stores: Any, location: Location, credentials: Credentials, environment: Mapping[str, str], common: Any
) -> Any:
    config: dict[str, Any] = {"region": s3_region(credentials, environment)}
    virtual = config["virtual_hosted_style_request"] = s3_virtual(credentials)
    if location.endpoint:
        # With the bucket in its name it is the bucket's own.
        protocol, _, host = location.endpoint.partition("://")
        config["endpoint"] = f"{protocol}://{location.bucket}.{host}" if virtual else location.endpoint
        common["client_options"]["allow_http"] = protocol == "http"
    more: dict[str, Any] = {}
    if s3_keys(credentials, environment) is not None:
        more["credential_provider"] = _provider(location, environment)
    return stores.S3Store(location.bucket, config=config, **more, **common)


def _provider(location: Location, environment: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """Asked for keys again and again, so that files of credentials may change."""

    def provide() -> dict[str, Any]:
        keys = s3_keys(find_credentials(location, environment), environment)
        if keys is None:
            raise InternalError("the credentials are gone")
        return {
            "access_key_id": keys.key_id, "secret_access_key": keys.secret, "token": keys.token or None,
            "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_S),
        }  # fmt: skip

    return provide


def _open_gcs(
    stores: Any, location: Location, credentials: Credentials, environment: Mapping[str, str], common: Any
) -> Any:
    config: dict[str, Any] = {}
    if path := credentials.get("GOOGLE_APPLICATION_CREDENTIALS"):
        config["application_credentials"] = path
    # As Google's own libraries: an emulator asks for no credentials.
    if emulator := environment.get("STORAGE_EMULATOR_HOST", ""):
        base = emulator if "://" in emulator else f"http://{emulator}"
        config = {"base_url": base.rstrip("/"), "skip_signature": True}
        common["client_options"]["allow_http"] = base.startswith("http://")
    return stores.GCSStore(location.bucket, config=config, **common)


def _open_azure(
    stores: Any, location: Location, credentials: Credentials, environment: Mapping[str, str], common: Any
) -> Any:
    auth = credentials.get("AZURE_STORAGE_AUTH_TYPE")
    if auth not in _AUTH_TYPES:
        raise InvalidArg(f"the authentication of Azure '{auth[:64]}' is none of {', '.join(_AUTH_TYPES[1:])}")
    host = location.account
    account = host.split(".", 1)[0] if "." in host else credentials.get("AZURE_STORAGE_ACCOUNT") or host
    config: dict[str, Any] = {"account_name": account}
    if endpoint := environment.get("AZURE_STORAGE_ENDPOINT", ""):
        config["endpoint"] = endpoint
        common["client_options"]["allow_http"] = endpoint.startswith("http://")
    elif "." in host:
        config["endpoint"] = f"https://{host}"
    if auth == "managed_identity":
        if client_id := credentials.get("AZURE_STORAGE_CLIENT_ID"):
            config["client_id"] = client_id
        for name in ("IDENTITY_ENDPOINT", "MSI_ENDPOINT"):
            if url := environment.get(name, ""):
                config["msi_endpoint"] = url
                common["client_options"]["allow_http"] = True
                break
    elif key := credentials.get("AZURE_STORAGE_KEY"):
        config["account_key"] = key
    return stores.AzureStore(location.bucket, config=config, **common)
