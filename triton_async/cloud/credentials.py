"""Whose the calls to object storage are: the file of TRITON_CLOUD_CREDENTIAL_PATH, or the environment. Any thread."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from triton_async.cloud.defines import CREDENTIALS_MAX_NBYTES
from triton_async.config.locations import AZURE, GCS, S3, Location
from triton_async.config.paths import read_bounded
from triton_async.errors import InvalidArg

FILE_VARIABLE = "TRITON_CLOUD_CREDENTIAL_PATH"
_WHAT = f"the file of {FILE_VARIABLE}"

# Fields of an entry in the file, and what of the environment they stand for.
_FIELDS = {
    S3: {
        "key_id": "AWS_ACCESS_KEY_ID",
        "secret_key": "AWS_SECRET_ACCESS_KEY",
        "region": "AWS_DEFAULT_REGION",
        "session_token": "AWS_SESSION_TOKEN",
        "profile": "AWS_PROFILE",
        "use_virtual_addressing": "S3_USE_VIRTUAL_ADDRESSING",
    },
    GCS: {"": "GOOGLE_APPLICATION_CREDENTIALS"},
    AZURE: {
        "account_str": "AZURE_STORAGE_ACCOUNT",
        "account_key": "AZURE_STORAGE_KEY",
        "auth_type": "AZURE_STORAGE_AUTH_TYPE",
        "client_id": "AZURE_STORAGE_CLIENT_ID",
    },
}


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Static keys of AWS. `token`: of a session, or ""."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one location, by the names of the environment's variables. `given`: they come from the file, so that the
    environment has no say.
    """

    values: Mapping[str, str] = field(repr=False)
    given: bool = False

    def get(self, name: str) -> str:
        """A value, "" for none."""
        return self.values.get(name, "")

    def secrets(self) -> list[str]:
        """What no text may show."""
        return [value for name, value in self.values.items() if value and ("KEY" in name or "TOKEN" in name)]


def find_credentials(location: Location, environment: Mapping[str, str]) -> Credentials:
    """For a repository: of the file's entries the one whose key is the longest beginning of its URL, as in Triton; the
    environment where no file is named. InvalidArg.
    """
    path = environment.get(FILE_VARIABLE, "")
    names = set(_FIELDS[location.scheme].values()) | {"AWS_REGION"}
    if not path:
        return Credentials({name: value for name, value in environment.items() if name in names})
    entries = _entries(Path(path), location.scheme)
    # As it was given, and as it is meant: without slashes that count for nothing.
    urls = (location.url, location.shown(location.prefix))
    fitting = [key for key in entries if any(url.startswith(key) for url in urls)]
    if not fitting:
        raise InvalidArg(f"{_WHAT} has no credentials for {location.url}: add them under '{location.scheme}'")
    key = max(fitting, key=len)
    return Credentials(_read_entry(entries[key], location.scheme, key), given=True)


def _entries(path: Path, scheme: str) -> dict[str, Any]:
    try:
        document = orjson.loads(read_bounded(path, _WHAT, CREDENTIALS_MAX_NBYTES))
    except orjson.JSONDecodeError:
        # Its own message quotes the text, in which the secrets are.
        raise InvalidArg(f"{_WHAT} is no JSON") from None
    if not isinstance(document, dict):
        raise InvalidArg(f"{_WHAT} is no JSON object of '{S3}', '{GCS}' and '{AZURE}'")
    entries = document.get(scheme, {})
    if not isinstance(entries, dict):
        raise InvalidArg(f"'{scheme}' in {_WHAT} is no JSON object of URLs")
    return entries


def _read_entry(entry: Any, scheme: str, key: str) -> dict[str, str]:
    where = f"the entry '{key}' of '{scheme}' in {_WHAT}"
    fields = _FIELDS[scheme]
    if scheme == GCS:
        entry = {"": entry}
    if not isinstance(entry, dict):
        raise InvalidArg(f"{where} is no JSON object of {', '.join(fields)}")
    for name, value in entry.items():
        if name not in fields:
            raise InvalidArg(f"{where} has the field '{name}', which is none of {', '.join(fields)}")
        if not isinstance(value, str) and not (name == "use_virtual_addressing" and isinstance(value, bool)):
            raise InvalidArg(f"{where} has a field '{name}' that is no string")
    return {fields[name]: str(value) for name, value in entry.items() if value}


def s3_virtual(credentials: Credentials) -> bool:
    """Whether a bucket is part of the host's name, not of the path. InvalidArg."""
    text = credentials.get("S3_USE_VIRTUAL_ADDRESSING")
    if text.lower() in ("true", "on", "1"):
        return True
    if text.lower() in ("false", "off", "0", ""):
        return False
    raise InvalidArg(f"S3_USE_VIRTUAL_ADDRESSING is true or false. Got {text[:64]}")


def s3_keys(credentials: Credentials, environment: Mapping[str, str]) -> S3Keys | None:
    """Static keys; None where the machine's own are to be used (a role of the instance, the container or the service
    account). InvalidArg.
    """
    key_id, secret = credentials.get("AWS_ACCESS_KEY_ID"), credentials.get("AWS_SECRET_ACCESS_KEY")
    if bool(key_id) != bool(secret):
        raise InvalidArg("of an access key of AWS both the id and the secret are needed")
    if key_id:
        return S3Keys(key_id, secret, credentials.get("AWS_SESSION_TOKEN"))
    profile = credentials.get("AWS_PROFILE")
    if not profile and not (_shared_file(environment).is_file() and not _has_role(environment)):
        return None
    return _of_profile(profile or "default", environment, needed=bool(profile))


def s3_region(credentials: Credentials, environment: Mapping[str, str]) -> str:
    """The region; "us-east-1" where nothing says another one, as in Triton's library."""
    region = credentials.get("AWS_REGION") or credentials.get("AWS_DEFAULT_REGION")
    if region:
        return region
    profile = credentials.get("AWS_PROFILE") or "default"
    path = Path(environment.get("AWS_CONFIG_FILE") or Path(environment.get("HOME", "/")) / ".aws" / "config")
    section = "default" if profile == "default" else f"profile {profile}"
    return _section(path, section).get("region", "us-east-1")


def _has_role(environment: Mapping[str, str]) -> bool:
    return any(
        environment.get(name)
        for name in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                     "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    )  # fmt: skip


def _shared_file(environment: Mapping[str, str]) -> Path:
    named = environment.get("AWS_SHARED_CREDENTIALS_FILE")
    return Path(named) if named else Path(environment.get("HOME", "/")) / ".aws" / "credentials"


def _of_profile(profile: str, environment: Mapping[str, str], *, needed: bool) -> S3Keys | None:
    section = _section(_shared_file(environment), profile)
    key_id, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
    if key_id and secret:
        return S3Keys(key_id, secret, section.get("aws_session_token", ""))
    if needed:
        raise InvalidArg(
            f"the AWS profile '{profile}' has no access key in the shared credentials file. Profiles that lead to "
            "another source are not followed: put the output of 'aws configure export-credentials --format env' into "
            "the environment"
        )
    return None


def _section(path: Path, name: str) -> Mapping[str, str]:
    if not path.is_file():
        return {}
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(read_bounded(path, "a file of AWS profiles", CREDENTIALS_MAX_NBYTES).decode())
    except (configparser.Error, UnicodeDecodeError):
        # Its own message quotes the text, in which the secrets are.
        raise InvalidArg("a file of AWS profiles cannot be read: it is no text of sections and values") from None
    return parser[name] if parser.has_section(name) else {}
