"""The route table: one row per path and method, from which routing and restricted categories are generated.

Paths are matched whole and undecoded, as Triton matches them: no trailing slash, the query does not count. Names in
them are decoded once, behind that: what looks like a part of the path then is none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from triton_async.config.access import CATEGORIES

H = TypeVar("H")

_MODEL = r"/v2/models/([^/]+)"
_VERSION = r"(?:/versions/([0-9]+))?"
_BROKEN = re.compile("%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Route(Generic[H]):
    """`pattern`: regular expression of the whole path; its groups are the handler's arguments."""

    pattern: str
    method: str
    category: str
    handler: H


# Path patterns, shared by the rows below and by whoever writes rows of its own.
LIVE = r"/v2/health/live"
READY = r"/v2/health/ready"
SERVER = r"/v2"
OPENAPI = r"/v2/openapi\.json"
ALL_STATISTICS = r"/v2/models/stats"
INFER = _MODEL + _VERSION + "/infer"
MODEL = _MODEL + _VERSION
MODEL_READY = _MODEL + _VERSION + "/ready"
MODEL_CONFIG = _MODEL + _VERSION + "/config"
MODEL_STATISTICS = _MODEL + _VERSION + "/stats"
GENERATE = _MODEL + _VERSION + "/(generate|generate_stream)"
MODEL_TRACE = _MODEL + "/trace/setting"
TRACE = r"/v2/trace/setting"
LOGGING = r"/v2/logging"
INDEX = r"/v2/repository(?:/([^/]+))?/index"
LOAD = r"/v2/repository(?:/([^/]+))?/models/([^/]+)/load"
UNLOAD = r"/v2/repository(?:/([^/]+))?/models/([^/]+)/unload"
REGION_STATUS = r"/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/status"
REGION_REGISTER = r"/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/register"
REGION_UNREGISTER = r"/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/unregister"


class Found(Generic[H]):
    """What a path leads to: a handler per method, the category of all of them, and the groups of the path."""

    __slots__ = ("arguments", "category", "handlers")

    def __init__(self, category: str, handlers: dict[str, H], arguments: tuple[str | None, ...]) -> None:
        self.category = category
        self.handlers = handlers
        self.arguments = arguments


class RouteTable(Generic[H]):
    """Immutable. A row with no known category is a mistake that stops the start: it would be open to all."""

    def __init__(self, routes: Iterable[Route[H]]) -> None:
        self.routes = tuple(routes)
        self._patterns: dict[str, tuple[re.Pattern[str], str, dict[str, H]]] = {}
        for route in self.routes:
            if route.category not in CATEGORIES:
                raise ValueError(f"route {route.method} {route.pattern} has no restricted-API category")
            made: tuple[re.Pattern[str], str, dict[str, H]] = (re.compile(route.pattern), route.category, {})
            _, category, handlers = self._patterns.setdefault(route.pattern, made)
            if category != route.category:
                raise ValueError(f"route {route.method} {route.pattern} has another category than its path")
            if route.method in handlers:
                raise ValueError(f"route {route.method} {route.pattern} appears twice")
            handlers[route.method] = route.handler
        # Clients ask for a handful of paths over and over; the bound keeps odd ones from piling up.
        self.find = functools.lru_cache(maxsize=1024)(self._find)

    def _find(self, path: str) -> Found[H] | None:
        for pattern, category, handlers in self._patterns.values():
            match = pattern.fullmatch(path)
            if match is not None:
                try:
                    return Found(category, handlers, tuple(map(_decoded, match.groups())))
                except ValueError:
                    return None
        return None


def _decoded(text: str | None) -> str | None:
    """A segment without percent-encoding. ValueError when that is none, or of no text (RFC 3986 2.1)."""
    if text is None or "%" not in text:
        return text
    if _BROKEN.search(text):
        raise ValueError(text)
    return unquote_to_bytes(text).decode()


def path_of(target: str) -> str:
    """Path of a request target: without query, fragment, and the scheme and authority of the absolute form."""
    if not target.startswith("/"):
        scheme, found, rest = target.partition("://")
        if found and scheme.lower() in ("http", "https"):
            target = "/" + rest.partition("/")[2]
    return target.partition("?")[0].partition("#")[0]
