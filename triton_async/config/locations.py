"""Where a repository in object storage is: `s3://`, `gs://` and `as://`, in every form that Triton takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

S3, GCS, AZURE = "s3", "gs", "as"

# One and several are the same to Triton in S3.
_SLASHES = re.compile("//+")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_FORMS = {
    S3: "s3://<bucket>/<path>, s3://<host>:<port>/<bucket>/<path> or s3://https://<host>:<port>/<bucket>/<path>",
    GCS: "gs://<bucket>/<path>",
    AZURE: "as://<account>/<container>/<path>",
}


class LocationProblem(Exception):
    """A location that cannot be used; its text says why."""


@dataclass(frozen=True, slots=True)
class Location:
    """A repository in object storage. `url` as it was given; `prefix` without slashes around it, "" for the whole
    bucket. `endpoint`: where S3 is spoken, "" for AWS. `account`: of Azure.
    """

    url: str
    scheme: str
    bucket: str
    prefix: str
    endpoint: str = ""
    account: str = ""

    def shown(self, path: str) -> str:
        """An object, or a folder, of the bucket, as texts name it. `path` begins behind the bucket."""
        if self.scheme == AZURE:
            return f"as://{self.account}/{self.bucket}/{path}"
        host = f"{self.endpoint}/" if self.endpoint else ""
        return f"{self.scheme}://{host}{self.bucket}/{path}"


def has_scheme(repository: str) -> bool:
    """Whether a --model-repository is no directory."""
    return _SCHEME.match(repository) is not None


def parse_location(repository: str) -> Location:
    """Of a --model-repository that has a scheme. LocationProblem."""
    match = _SCHEME.match(repository)
    scheme = match[1].lower() if match else ""
    if scheme not in _FORMS:
        raise LocationProblem(
            f"repositories at {scheme}:// are not supported: give a directory, or a place at {', '.join(_FORMS)}"
        )
    rest = repository[len(scheme) + 3 :]
    endpoint = ""
    if scheme == S3:
        endpoint, rest = _endpoint(rest.lstrip("/"))
        rest = _SLASHES.sub("/", rest.lstrip("/"))
    account = ""
    if scheme == AZURE:
        account, _, rest = rest.partition("/")
        if not _HOST.fullmatch(account):
            raise _wrong(scheme)
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise _wrong(scheme)
    if prefix and (not prefix.isprintable() or any(part in ("", ".", "..") for part in prefix.split("/"))):
        raise LocationProblem("its path has empty parts, '.' or '..', or characters that cannot be printed")
    return Location(repository, scheme, bucket, prefix, endpoint, account)


def _endpoint(rest: str) -> tuple[str, str]:
    """What stands in front of the bucket, as a URL, and what follows it."""
    for protocol in ("https://", "http://"):
        if rest.lower().startswith(protocol):
            host, _, path = rest[len(protocol) :].partition("/")
            break
    else:
        host, _, path = rest.partition("/")
        protocol = "http://"  # Triton's default for other servers than AWS
        if ":" not in host:
            return "", rest
    name, _, port = host.rpartition(":") if re.search(r":[0-9]+\Z", host) else (host, "", "")
    if not _HOST.fullmatch(name) or len(port) > 5 or not 0 <= int(port or 0) <= 65535:
        raise _wrong(S3)
    return f"{protocol}{host}", path


def _wrong(scheme: str) -> LocationProblem:
    return LocationProblem(f"the form is {_FORMS[scheme]}")
