"""Answers in a response cache that is a shared library of the TRITONCACHE API, asked on threads of its own.

A library may block: whoever waits for it longer than a moment goes on without, and what it has not taken is dropped.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char_p, c_size_t, c_void_p
from functools import partial
from pathlib import Path

from triton_async import native
from triton_async.config.cache import LibraryCache
from triton_async.core.defines import NATIVE_CACHE_PENDING, NATIVE_CACHE_THREADS, NATIVE_CACHE_WAIT_S
from triton_async.core.families import Family
from triton_async.errors import InvalidArg, NotFound, ServerError

log = logging.getLogger("triton_async.native")

_FUNCTIONS = ("TRITONCACHE_CacheInitialize", "TRITONCACHE_CacheFinalize", "TRITONCACHE_CacheLookup",
              "TRITONCACHE_CacheInsert")  # fmt: skip

# Called with the value, or None, on the loop.
Told = Callable[[bytes | None], object]


class NativeStore:
    """`config`: which library, and its settings; `directory`: --cache-directory. Loop thread. ServerError when the
    library is none, or does not want these settings.
    """

    def __init__(self, config: LibraryCache, directory: str) -> None:
        self._config = config
        self._server = native.load()
        path = Path(directory) / config.name / f"libtritoncache_{config.name}.so"
        self._library = _loaded(config.name, path)
        self._cache = c_void_p()
        text = json.dumps(config.settings).encode()
        native.check(self._function("CacheInitialize")(byref(self._cache), c_char_p(text)))
        log.info("response cache '%s' is the library %s", config.name, path)
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(NATIVE_CACHE_THREADS, "cache")
        self._pending = 0
        self._failures: Counter[tuple[str, str]] = Counter()
        self._said: set[str] = set()

    def _function(self, name: str) -> Callable[..., int | None]:
        found = getattr(self._library, f"TRITONCACHE_{name}")
        found.restype = c_void_p
        function: Callable[..., int | None] = found
        return function

    async def close(self) -> None:
        """Waits for what the library has, and finalises it."""
        await self._loop.run_in_executor(None, self._threads.shutdown)
        try:
            native.check(await self._loop.run_in_executor(None, self._function("CacheFinalize"), self._cache))
        except ServerError as error:
            log.error("TRITONCACHE_CacheFinalize of '%s' failed: %s", self._config.name, error.message)

    def get(self, name: bytes, told: Told) -> bool:
        """Has `told` called with the value, None for none, later, once. False when the library is behind."""
        if not self._take("lookup"):
            return False
        waiting = [told]
        timer = self._loop.call_later(NATIVE_CACHE_WAIT_S, self._give_up, waiting)

        def done(value: bytes | None) -> None:
            self._pending -= 1
            timer.cancel()
            if waiting:
                waiting.pop()(value)

        self._threads.submit(self._look_up, name, done)
        return True

    def _give_up(self, waiting: list[Told]) -> None:
        self._failures["lookup", "busy"] += 1
        waiting.pop()(None)

    def put(self, name: bytes, value: bytes) -> None:
        """Keeps a value, unless the library is behind."""
        if self._take("insert"):
            self._threads.submit(self._insert, name, value)

    def _take(self, operation: str) -> bool:
        if self._pending >= NATIVE_CACHE_PENDING:
            self._failures[operation, "full"] += 1
            return False
        self._pending += 1
        return True

    # -- threads of the cache ------------------------------------------------------------------------

    def _look_up(self, name: bytes, done: Callable[[bytes | None], None]) -> None:
        value, nbytes, found = c_void_p(), c_size_t(), None
        self._server.ta_cache_lookup.restype = c_void_p
        try:
            native.check(self._server.ta_cache_lookup(
                self._library.TRITONCACHE_CacheLookup, self._cache, c_char_p(name), byref(value), byref(nbytes)
            ))  # fmt: skip
            found = ctypes.string_at(value.value or 0, nbytes.value)
            self._server.ta_cache_free(value)
        except NotFound:
            pass
        except ServerError as error:
            self._loop.call_soon_threadsafe(self._note, "lookup", error.message)
        except MemoryError:  # for a copy of the value
            self._loop.call_soon_threadsafe(self._note, "lookup", "no memory")
        self._loop.call_soon_threadsafe(done, found)

    def _insert(self, name: bytes, value: bytes) -> None:
        self._server.ta_cache_insert.restype = c_void_p
        failure = ""
        try:
            native.check(self._server.ta_cache_insert(
                self._library.TRITONCACHE_CacheInsert, self._cache, c_char_p(name), c_char_p(value),
                c_size_t(len(value)),
            ))  # fmt: skip
        except ServerError as error:
            failure = error.message
        except MemoryError:
            failure = "no memory"
        self._loop.call_soon_threadsafe(partial(self._inserted, failure))

    def _inserted(self, failure: str) -> None:
        self._pending -= 1
        if failure:
            self._note("insert", failure)

    def _note(self, operation: str, why: str) -> None:
        self._failures[operation, "error"] += 1
        if operation not in self._said:
            self._said.add(operation)
            log.warning("response cache '%s' failed at %s, which is said once: %s", self._config.name, operation, why)

    def note_broken(self) -> None:
        """A value was none of ours."""
        self._failures["lookup", "broken"] += 1

    def families(self) -> Iterable[Family]:
        """For the metrics."""
        samples = [({"operation": what, "reason": why}, count) for (what, why), count in sorted(self._failures.items())]
        return [
            ("triton_async_cache_failures_total", "counter",
             "Look-ups that were given up, and answers that were not kept, by reason", samples),
        ]  # fmt: skip


def _loaded(name: str, path: Path) -> ctypes.CDLL:
    if not path.is_file():
        raise NotFound(f"unable to find cache library '{path.name}' in the folder '{name}' of the cache directory")
    try:
        library = native.open_library(path)
    except OSError as error:
        log.error("unable to load shared library %s: %s", path, error)
        raise InvalidArg(f"unable to load shared library: {str(error).replace(f'{path.parent}/', '')}") from None
    missing = [function for function in _FUNCTIONS if not hasattr(library, function)]
    if missing:
        raise InvalidArg(f"unable to find required entrypoint '{missing[0]}' in cache library '{path.name}'")
    return library
