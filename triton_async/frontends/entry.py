"""What an express lane asks of an inference call by its headers, as the slow lane does of all calls. Event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from triton_async.config.access import Pattern, is_reserved, with_forwarded
from triton_async.errors import InvalidArg
from triton_async.frontends.gate import Gate, Headers
from triton_async.infer.request import InferRequest

Fields = Iterable[tuple[str, str]]


def forwarded_of(fields: Fields, pattern: Pattern) -> dict[str, str]:
    """The headers, among `fields`, whose names have `pattern` in them. InvalidArg for one that would be the protocol's
    own parameter.
    """
    found = {}
    for name, value in fields:
        if pattern.search(name):
            if is_reserved(name):
                raise InvalidArg(f"Header '{name[:200]}' is reserved for Triton usage and cannot be forwarded.")
            found[name] = value
    return found


def forward(request: InferRequest, found: Mapping[str, Any]) -> None:
    """Makes parameters of headers. They win over what the body says: a proxy that adds one must be believed."""
    if found:
        request.parameters = with_forwarded(request.parameters, found)


class Entry:
    """Of one front-end. `headers_of`: headers as the gate asks for them, and those that may be forwarded, of the fields
    of a head, both as the slow lane has them.
    """

    def __init__(
        self, gate: Gate, pattern: Pattern | None, headers_of: Callable[[Fields], tuple[Headers, Fields]]
    ) -> None:
        self._gate = gate
        self._pattern = pattern
        self._headers_of = headers_of

    @property
    def generation(self) -> int:
        """Changes with the API keys: what was let in may not be let in again."""
        return 0 if self._gate.keys is None else self._gate.keys.generation

    def admit(self, fields: Fields) -> dict[str, str] | None:
        """What becomes parameters of a call with these header fields; None when it is refused, which is for the slow
        lane to say.
        """
        headers, others = self._headers_of(fields)
        if self._gate.refusal("inference", headers) is not None:
            return None
        if self._pattern is None:
            return {}
        try:
            return forwarded_of(others, self._pattern)
        except InvalidArg:
            return None


def entry_of(
    gate: Gate, pattern: Pattern | None, headers_of: Callable[[Fields], tuple[Headers, Fields]]
) -> Entry | None:
    """None where nothing is asked of inference calls and none of their headers matter."""
    return Entry(gate, pattern, headers_of) if pattern is not None or gate.guards(("inference",)) else None
