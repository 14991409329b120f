"""What a front-end asks before it does anything for a client: whether the call is allowed. Event-loop thread."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from triton_async.config.access import Restrictions
from triton_async.defines import API_KEYS_MAX_NBYTES
from triton_async.errors import InvalidArg

log = logging.getLogger("triton_async.app")


class Headers(Protocol):
    """Of a request, by names in lower case; the case of names does not count where the protocol says so."""

    def get(self, name: str, /) -> str | None: ...


class Refusal(Enum):
    """Why a call is not allowed."""

    RESTRICTED = 1
    NO_KEY = 2


class ApiKeys:
    """The keys of a file, one a line; empty lines and those that begin with `#` do not count. Only digests are kept, so
    that how long a comparison takes tells nothing of a key.
    """

    def __init__(self, path: str) -> None:
        """InvalidArg when the file cannot be read or holds no key. Blocks."""
        self._path = Path(path)
        self._digests: frozenset[bytes] = frozenset()
        #: Of the keys in force.
        self.generation = 0
        self._replace(self.read())

    def read(self) -> frozenset[bytes]:
        """Digests of what the file has now. InvalidArg. Blocks."""
        try:
            with self._path.open("rb") as file:
                content = file.read(API_KEYS_MAX_NBYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidArg(f"--api-key-file: cannot read '{self._path}': {reason}") from None
        if len(content) > API_KEYS_MAX_NBYTES:
            raise InvalidArg(f"--api-key-file: '{self._path}' is larger than {API_KEYS_MAX_NBYTES} bytes")
        lines = [line.strip() for line in content.splitlines()]
        keys = [line for line in lines if line and not line.startswith(b"#")]
        if not keys:
            raise InvalidArg(f"--api-key-file: '{self._path}' holds no key")
        return frozenset(hashlib.sha256(key).digest() for key in keys)

    def _replace(self, digests: frozenset[bytes]) -> None:
        self._digests = digests
        self.generation += 1

    def renew(self) -> Callable[[], None]:
        """Reads the file; what is returned puts its keys in force, on the loop. InvalidArg. Blocks."""
        digests = self.read()
        return lambda: self._replace(digests)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files it is made of."""
        return (self._path,)

    def holds(self, headers: Headers) -> bool:
        """Whether a request shows one of the keys: as `Authorization: Bearer <key>`, or as `X-API-Key: <key>`."""
        shown = headers.get("x-api-key")
        if shown is None:
            scheme, _, shown = (headers.get("authorization") or "").partition(" ")
            if scheme.lower() != "bearer":
                return False
        digest = hashlib.sha256(shown.strip().encode("utf-8", "surrogateescape")).digest()
        return digest in self._digests


@dataclass(frozen=True, slots=True)
class Gate:
    """`restrictions`: a header that calls of a category must show. `keys`: of clients, None where they need none;
    `exempt` are the categories that are open without.
    """

    restrictions: Restrictions = field(default_factory=dict)
    keys: ApiKeys | None = None
    exempt: frozenset[str] = frozenset()

    def guards(self, categories: Iterable[str]) -> bool:
        """Whether anything is asked of calls of these categories."""
        return any(
            name in self.restrictions or (self.keys is not None and name not in self.exempt) for name in categories
        )

    def refusal(self, category: str, headers: Headers) -> Refusal | None:
        """Why a call is not allowed; None when it is."""
        if self.keys is not None and category not in self.exempt and not self.keys.holds(headers):
            return Refusal.NO_KEY
        restriction = self.restrictions.get(category)
        if restriction is not None:
            name, value = restriction
            shown = headers.get(name.lower()) or ""
            if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), value.encode()):
                return Refusal.RESTRICTED
        return None

    def header_of(self, category: str) -> str:
        """The name of the header that calls of a restricted category must show."""
        return self.restrictions[category][0]


OPEN = Gate()
NEEDS_KEY = "an API key is required: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


def check_categories(found: Mapping[str, str | None]) -> None:
    """ValueError for a route or RPC of `found` without a known category: it would be open to all."""
    missing = sorted(name for name, category in found.items() if category is None)
    if missing:
        raise ValueError(f"no restricted-API category: {', '.join(missing)}")
