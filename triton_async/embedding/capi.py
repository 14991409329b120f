"""Control calls of C programs (csrc/tritonserver/server.h): makes and ends their servers, and answers their questions.

Imported by libtritonserver.so, in a process that Python runs in or that it has started Python in. Calls come on any
thread, which waits here for the server's own; nothing of the process is changed, and nothing is printed unless the
program turned lines of the log on.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from triton_async import native
from triton_async.config.settings import UsageError, parse
from triton_async.embedding import capi_log, control
from triton_async.embedding.blocking import SyncServer, leave_all
from triton_async.embedding.capi_infer import NativeDesk, register
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable

log = logging.getLogger("triton_async.native")

# What a program in C has no front-end options for.
_QUIET = ("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false")


class NativeServer(SyncServer):
    """The server of a C program."""

    def __init__(self, texts: Sequence[str]) -> None:
        arguments, self.counts = _arguments(texts)
        try:
            settings = parse([*capi_log.QUIET, *arguments, *_QUIET])
        except UsageError as error:
            raise InvalidArg(" ".join(error.message.split())) from None
        super().__init__(settings)
        self.asynchronous.desk_type = NativeDesk
        self.asynchronous.log_handler = capi_log.handler

    @property
    def number_of_desk(self) -> int:
        """By which the C library finds it for inference."""
        desk = self.asynchronous.desk
        assert isinstance(desk, NativeDesk)
        return desk.address


def _arguments(texts: Sequence[str]) -> tuple[list[str], bool]:
    """Arguments of the command line for what options.c has noted, and whether the page of metrics is wanted."""
    found: list[str] = []
    counts = True
    for text in texts:
        name, _, value = text.partition("=")
        if name.startswith("--"):
            found.append(text)
        elif name == "strict-model-config":
            found += ["--disable-auto-complete-config"] if value == "true" else []
        elif name == "metrics":
            counts = value == "true"
        elif name == "cache-config":
            cache, _, document = value.partition(",")
            found += [f"--cache-config={cache},{key}={one}" for key, one in _members(cache, document)]
        else:  # the directories of agents and caches
            found.append(f"--{text}")
    return found, counts


def _members(cache: str, document: str) -> list[tuple[str, str]]:
    try:
        members = orjson.loads(document)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise InvalidArg(f"the configuration of cache '{cache}' is no JSON object")
    return [(key, value if isinstance(value, str) else orjson.dumps(value).decode()) for key, value in members.items()]


# -- the calls, by name: server, texts -> answer -------------------------------------------------------

_servers: dict[int, NativeServer] = {}
_numbers = itertools.count(1)


def _new(texts: Sequence[bytes]) -> bytes:
    server = NativeServer([text.decode() for text in texts])
    server.start()
    number = next(_numbers)
    _servers[number] = server
    return f"{number} {server.number_of_desk}".encode()


def _stop(server: NativeServer, _: Sequence[bytes]) -> None:
    server.stop()


def _exit_timeout(server: NativeServer, texts: Sequence[bytes]) -> None:
    core = server.asynchronous
    core.settings = replace(core.settings, exit_timeout_secs=int(texts[1]))


def _poll(server: NativeServer, _: Sequence[bytes]) -> None:
    if server.settings.model_control_mode != "poll":
        raise Unavailable("polling is disabled")
    server.run(server.asynchronous.core.repository.poll_now())


def _register(server: NativeServer, texts: Sequence[bytes]) -> None:
    place, *pairs = [text.decode() for text in texts]
    names = dict(zip(pairs[::2], pairs[1::2], strict=True))
    server.run(server.asynchronous.register_repository(place, names))


def _unregister(server: NativeServer, texts: Sequence[bytes]) -> None:
    server.run(server.asynchronous.unregister_repository(texts[0].decode()))


_CALLS: dict[str, Callable[[NativeServer, Sequence[bytes]], None]] = {
    "stop": _stop, "exit_timeout": _exit_timeout, "poll": _poll, "register": _register, "unregister": _unregister,
}  # fmt: skip


def _answer(number: int, what: str, texts: Sequence[bytes]) -> control.Answer:
    if what == "new":
        return _new(texts)
    if what == "log":
        capi_log.change(texts[0].decode(), texts[1].decode())
        return None
    if what == "delete":
        _servers.pop(number).stop()
        return None
    server = _servers[number]
    if what in _CALLS:
        return _CALLS[what](server, texts)
    if what == "live":
        return int(server.live())
    if what == "ready":
        return int(server.ready())
    if what == "metrics" and not server.counts:
        raise Unavailable("metrics are not enabled: see TRITONSERVER_ServerOptionsSetMetrics")
    return control.answer(server.asynchronous.core, server.run, what, texts)


# -- the table -----------------------------------------------------------------------------------------


class _Text(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("nbytes", ctypes.c_uint64)]


_CallFunction = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.POINTER(_Text), ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
)  # fmt: skip


class _ControlCalls(ctypes.Structure):
    _fields_ = [("call", _CallFunction)]


def _call(server: int, what: bytes, texts: Any, count: int, answer: Any) -> int | None:
    """The address of an error, or None. Never raises."""
    try:
        given = [ctypes.string_at(one.data, one.nbytes) if one.nbytes else b"" for one in texts[:count]]
        found = _answer(server, what.decode(), given)
        if found is not None and answer:
            text = found if isinstance(found, bytes) else str(found).encode()
            return _new_message(answer, text, len(text)) or None
    except ServerError as error:
        return _new_error(error.code, error.message.encode(errors="backslashreplace")) or None
    except UnicodeDecodeError:
        return _new_error(InvalidArg.code, b"a text of the call is not UTF-8") or None
    except BaseException as error:
        log.exception("a call of the C API failed")
        return _new_error(InternalError.code, type(error).__name__.encode()) or None
    return None


_library = native.load()
_new_error = _library.TRITONSERVER_ErrorNew
_new_error.restype = ctypes.c_void_p
_new_error.argtypes = (ctypes.c_int, ctypes.c_char_p)
_new_message = _library.TRITONSERVER_MessageNewFromSerializedJson
_new_message.restype = ctypes.c_void_p
_new_message.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_size_t)

_calls = _ControlCalls(_CallFunction(_call))
register(native.address("ta_register_infer"))
_library.ta_register_control(ctypes.byref(_calls))


@atexit.register
def _end() -> None:
    """The program may keep servers to its end: nobody calls here any more then."""
    leave_all()
    _library.ta_end_python()
