"""Who may call what: restricted APIs, forwarded headers and the file of API keys, as options say it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

# Categories of routes and RPCs (Triton's names), and ours for the metrics port.
METRICS = "metrics"
CATEGORIES = (
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace",
    "logging",
)  # fmt: skip
# In front of the names that --grpc-restricted-protocol gives.
GRPC_PREFIX = "triton-grpc-protocol-"

# Parameters of requests that are the protocol's, which a header must not set.
_RESERVED = frozenset({
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output",
})  # fmt: skip
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Category -> (name of the header as it was given, its value).
Restrictions = Mapping[str, tuple[str, str]]


class AccessProblem(ValueError):
    """An option that is wrong; its text says how."""


class Pattern(Protocol):
    """A regular expression."""

    def search(self, text: str, /) -> object | None:
        """Something where it is found in `text`."""


def parse_restrictions(option: str, texts: Sequence[str], prefix: str = "") -> Restrictions:
    """Of `<category>,...:<header>=<value>` of each text. AccessProblem, in Triton's words."""
    kind = "protocol" if prefix else "api"
    found: dict[str, tuple[str, str]] = {}
    for text in texts:
        names, colon, pair = text.partition(":")
        header, equals, value = pair.partition("=")
        if not (names and colon and equals and header and value):
            # What stands behind the name may be a secret.
            raise AccessProblem(f"--{option} option format is '<config name>:<setting>=<value>'. Got {names}")
        if not _TOKEN.fullmatch(header):
            raise AccessProblem(f"--{option}: '{header}' can not be the name of a header")
        for name in names.split(","):
            if name not in CATEGORIES:
                raise AccessProblem(f"unknown restricted {kind} '{name}'; there are {', '.join(CATEGORIES)}")
            if name in found:
                raise AccessProblem(
                    f"restricted {kind} '{name}' can not be specified in multiple config groups"
                )
            found[name] = (prefix + header, value)
    return MappingProxyType(found)


def parse_pattern(option: str, text: str) -> Pattern | None:
    """Of the names of headers that become parameters; None for none. Case does not count, but behind `(?-i)`.
    AccessProblem.

    Clients choose the names: RE2's time for one grows with its length alone, and Triton's own patterns are RE2's.
    """
    if not text:
        return None
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    try:
        found: Pattern = re2.compile(text, options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)
        raise AccessProblem(f"--{option}: '{text}' is no regular expression: {reason}") from None
    return found


def parse_exempt(option: str, text: str) -> frozenset[str]:
    """The categories that need no API key. AccessProblem."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in (*CATEGORIES, METRICS):
            known = ", ".join((*CATEGORIES, METRICS))
            raise AccessProblem(f"--{option}: unknown category '{name}'; there are {known}")
    return frozenset(names)


def with_forwarded(parameters: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """A request's parameters with those of headers, which win whatever case their names have."""
    names = {name.lower() for name in found}
    kept = {name: value for name, value in (parameters or {}).items() if name.lower() not in names}
    return {**kept, **found}


def is_reserved(name: str) -> bool:
    """Whether a parameter of this name is the protocol's."""
    return name.lower() in _RESERVED or name.lower().startswith("triton_")
