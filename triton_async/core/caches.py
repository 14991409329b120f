"""The response cache that the options ask for, for as long as the server is there. Loop thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from triton_async.config.settings import Settings
from triton_async.core.cache import LocalCache, ResponseCache
from triton_async.core.families import MetricSource
from triton_async.core.shared_cache import SharedCache
from triton_async.errors import Unsupported


class OpenCache(NamedTuple):
    """The cache, None for none, and where its metrics come from."""

    cache: ResponseCache | None
    metric_sources: tuple[MetricSource, ...] = ()


@asynccontextmanager
async def open_cache(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[OpenCache]:
    """ServerError where it cannot be as the options say. A Redis server that does not answer is no error."""
    if settings.library_cache is not None:
        from triton_async.core.native_store import NativeStore

        library = NativeStore(settings.library_cache, settings.cache_directory)
        try:
            yield OpenCache(SharedCache(library), (library.families,))
        finally:
            await library.close()
        return
    if settings.redis_cache is None:
        nbytes = settings.response_cache_byte_size
        yield OpenCache(LocalCache(nbytes) if nbytes else None)
        return
    try:
        from triton_async.core.redis_store import RedisStore
    except ImportError:
        raise Unsupported(
            "--cache-config=redis needs the Python package redis: pip install 'triton-async[redis]'"
        ) from None
    store = RedisStore(settings.redis_cache.with_credentials(environ))
    await store.start()
    try:
        yield OpenCache(SharedCache(store, settings.redis_cache.namespace), (store.families,))
    finally:
        await store.close()
