"""Who may call what: restricted APIs, forwarded headers and the file of API keys, as options say it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from triton_async.config.re2 import compile_re2

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


def parse_pattern(option: str, text: str) -> re.Pattern[str] | None:
    """Of the names of headers that become parameters; None for none. Case does not count, but behind `(?-i)`.
    AccessProblem.
    """
    if not text:
        return None
    try:
        return compile_re2(text, re.IGNORECASE)
    except re.error as error:
        problem = error.msg
    except (RecursionError, OverflowError) as error:
        problem = str(error)
    raise AccessProblem(f"--{option}: '{text}' is no regular expression: {problem}")


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
