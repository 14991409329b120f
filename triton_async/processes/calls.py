"""Control calls of front-end processes: their names, arguments and outcomes as JSON, and who answers in the model
process."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from triton_async.backends.python.isolated.wire import WireError
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, ServerError
from triton_async.processes.parts import error_number, numbered_error

log = logging.getLogger("triton_async.processes")

# Calls that change what other front-ends must know before they are answered.
CHANGING = frozenset((
    "load_model", "unload_model", "change_log_settings", "set_trace_settings", "register_cuda_region",
    "register_system_region", "unregister_regions",
))  # fmt: skip
# What is ready is so at every front-end, and so is what is told of models.
READY = frozenset(("is_ready", "model_is_ready"))
TELLING = frozenset(("repository_index", "model_statistics", "all_statistics"))
CALLS = CHANGING | READY | TELLING | frozenset((
    "ask_trace_settings", "log_settings", "ask_regions", "metrics_parts", "made_metrics",
))  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {"d": [[_plain(key), _plain(inner)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _again(value: Any) -> Any:
    if isinstance(value, list):
        return [_again(inner) for inner in value]
    if isinstance(value, dict):
        if "b" in value:
            return base64.b64decode(value["b"])
        return {_again(key): _again(inner) for key, inner in value["d"]}
    return value


def encoded(value: Any) -> bytes:
    """JSON of what is made of dicts, lists, texts, bytes and numbers."""
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def decoded(text: bytes) -> Any:
    """The same again, tuples as lists. WireError for what is none."""
    try:
        return _again(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise WireError("a text that is not JSON of this server") from None


def outcome(text: bytes) -> Any:
    """What was answered. ServerError, when that was the answer."""
    kind, value = decoded(text)
    if kind == "error":
        raise numbered_error(*value)
    return value


class Answering:
    """The model process's part. `settle(changed)`: waits until all front-ends know what is in force, which the call may
    have changed."""

    def __init__(self, server: InferenceServer, settle: Callable[[bool], Awaitable[None]]) -> None:
        self._server = server
        self._settle = settle
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, text: bytes, answer: Callable[[bytes], None]) -> None:
        """Has a call answered. WireError for what is none."""
        called = decoded(text)
        if (
            not isinstance(called, list)
            or len(called) != 2
            or called[0] not in CALLS
            or not isinstance(called[1], list)
        ):
            raise WireError("a call of no known name")
        task = asyncio.ensure_future(self._answer(called[0], called[1], answer))
        # A client that goes away does not stop a load half-way.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, name: str, arguments: list[Any], answer: Callable[[bytes], None]) -> None:
        try:
            found = ["ok", await getattr(self._server, name)(*arguments)]
        except ServerError as error:
            found = ["error", [error_number(error), error.message]]
        except Exception:
            log.exception("a call of a front-end process could not be answered")
            found = ["error", [error_number(InternalError("")), "internal error, see the log of the server"]]
        told = name in TELLING and found[0] == "ok"
        if name in CHANGING or told or (name in READY and found == ["ok", True]):
            await self._settle(name in CHANGING)
        try:
            answer(encoded(found))
        except (ServerError, MemoryError) as error:
            known = error if isinstance(error, ServerError) else InternalError("no memory for the answer to a call")
            answer(encoded(["error", [error_number(known), known.message]]))
