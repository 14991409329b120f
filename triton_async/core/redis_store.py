"""Values in a Redis server, by name, for the response cache. Nothing waits for it for long, or fails with it.

Requests that come in one turn of the loop share a command. Each connection is a task that connects, works until
something fails, and tries again behind a pause that grows; while none is there nobody is asked.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from triton_async.config.cache import RedisConfig
from triton_async.config.redis_defines import (
    REDIS_ENTRY_NBYTES,
    REDIS_EXCHANGE_NBYTES,
    REDIS_INSERT_NBYTES,
    REDIS_INSERTS,
    REDIS_KEYS_PER_EXCHANGE,
    REDIS_LOOK_S,
    REDIS_RETRY_MAX_S,
    REDIS_RETRY_MIN_S,
)
from triton_async.core.families import Family
from triton_async.errors import InternalError

log = logging.getLogger("triton_async.core")

Told = Callable[[bytes | None], object]

# What Redis refuses for good: the options are wrong, not the network.
_MISTAKES = (AuthenticationError, NoPermissionError, ResponseError)
_FAILURES = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError, EOFError)


class _Line:
    """What waits for a connection, and the connections that wait for something to do."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, bytes, Any]] = deque()
        self.connected = 0
        self._idle: list[asyncio.Future[None]] = []

    def add(self, deadline_s: float, name: bytes, what: Any) -> None:
        """Something to do, for one connection to see to."""
        self.waiting.append((deadline_s, name, what))
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                return

    async def wait(self) -> None:
        """Until there may be something to do. TimeoutError after REDIS_LOOK_S."""
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            async with asyncio.timeout(REDIS_LOOK_S):
                await future
        finally:
            if future in self._idle:
                self._idle.remove(future)


class RedisStore:
    """Loop thread. Every `get` that is taken is answered within `wait_timeout` and `socket_timeout`, whatever happens.

    Invariants: nothing waits while no connection is there; `_insert_nbytes` is the sum of the values that wait.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._lookups = _Line()
        self._inserts = _Line()
        self._insert_nbytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._there = False
        # Something has failed since the last exchange: that it can be reached alone does not count then.
        self._suspect = False
        self._failures: Counter[tuple[str, str]] = Counter()
        self._said: set[str] = set()

    # -- beginning and end ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects; a server that does not answer is tried again and again. InternalError in Triton's words where it
        answers that the options are wrong, or the files of TLS cannot be used.
        """
        _check_files(self._config)
        client = self._client()
        try:
            await self._connect(client)
        except _MISTAKES as error:
            raise InternalError(f"Failed to initialize RedisCache: {error}") from None
        except _FAILURES as error:
            self._say_away(error)
        finally:
            await _close(client)
        self._tasks = [
            asyncio.create_task(self._work(self._lookups, self._look_up)) for _ in range(self._config.pool_size)
        ]
        self._tasks.append(asyncio.create_task(self._work(self._inserts, self._insert)))

    async def close(self) -> None:
        """Answers who waits, and lets go of all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._give_up(self._lookups)
        if self._timer is not None:
            self._timer.cancel()

    # -- what the cache asks -------------------------------------------------------------------------

    def get(self, name: bytes, told: Told) -> bool:
        """Has `told` called with the value, None for none, later, once. False while Redis is away: it is not called."""
        if not self._lookups.connected:
            self._failures["lookup", "away"] += 1
            return False
        deadline_s = time.monotonic() + self._config.wait_timeout / 1000
        self._lookups.add(deadline_s, name, told)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._config.wait_timeout / 1000, self._expire)
        return True

    def put(self, name: bytes, value: bytes) -> None:
        """Keeps a value, if there is room among those that are on their way."""
        if not self._inserts.connected:
            self._failures["insert", "away"] += 1
        elif len(self._inserts.waiting) >= REDIS_INSERTS or self._insert_nbytes + len(value) > REDIS_INSERT_NBYTES:
            self._failures["insert", "full"] += 1
        else:
            self._insert_nbytes += len(value)
            self._inserts.add(0, name, value)

    def note_broken(self) -> None:
        """A value was none of ours."""
        self._failures["lookup", "broken"] += 1
        if "broken" not in self._said:
            self._said.add("broken")
            log.warning("the response cache at %s has values that are no answers, which are not used",
                        self._config.where)  # fmt: skip

    def families(self) -> Iterable[Family]:
        """For the metrics."""
        samples = [({"operation": what, "reason": why}, count) for (what, why), count in sorted(self._failures.items())]
        return [
            ("triton_async_cache_up", "gauge", "Whether the Redis server of the response cache answers",
             [({}, int(bool(self._lookups.connected)))]),
            ("triton_async_cache_failures_total", "counter",
             "Look-ups that were given up, and answers that were not kept, by reason", samples),
        ]  # fmt: skip

    def _expire(self) -> None:
        """Who has waited too long for a connection goes on."""
        self._timer = None
        now_s = time.monotonic()
        waiting = self._lookups.waiting
        while waiting and waiting[0][0] <= now_s:
            self._failures["lookup", "busy"] += 1
            _tell(waiting.popleft()[2], None)
        if waiting:
            self._timer = asyncio.get_running_loop().call_later(max(waiting[0][0] - now_s, 0.001), self._expire)

    # -- connections ---------------------------------------------------------------------------------

    def _client(self) -> Redis:
        config = self._config
        tls: dict[str, Any] = {}
        if config.tls:
            tls = {
                "ssl": True, "ssl_certfile": config.cert or None, "ssl_keyfile": config.key or None,
                "ssl_ca_certs": config.cacert or None, "ssl_ca_path": config.cacert_dir or None,
            }  # fmt: skip
        return Redis(
            host=config.host, port=config.port, unix_socket_path=config.path, db=config.db,
            username=config.user or None, password=config.password or None, max_connections=1, protocol=2,
            # Time is kept here, for all of a command and for all of connecting.
            socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0), **tls,
        )  # fmt: skip

    async def _connect(self, client: Redis) -> None:
        async with asyncio.timeout(self._config.connect_timeout / 1000):
            await client.ping()

    async def _work(self, line: _Line, do: Callable[[Redis], Awaitable[None]]) -> None:
        pause_s = REDIS_RETRY_MIN_S
        while True:
            client = self._client()
            connected = False
            try:
                await self._connect(client)
                line.connected += 1
                connected = True
                if not self._suspect:
                    self._say_there()
                while True:
                    if line.waiting:
                        await do(client)
                        pause_s, self._suspect = REDIS_RETRY_MIN_S, False
                        self._say_there()
                        continue
                    try:
                        await line.wait()
                    except TimeoutError:
                        await self._connect(client)
            except _FAILURES as error:
                self._say_away(error)
            except Exception as error:
                log.exception("a connection to the response cache is given up")
                self._say_away(error)
            finally:
                if connected:
                    line.connected -= 1
                    if not line.connected:
                        self._give_up(line)
                await _close(client)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, REDIS_RETRY_MAX_S)

    def _give_up(self, line: _Line) -> None:
        """Nobody is left to see to what waits."""
        waiting, line.waiting = line.waiting, deque()
        if line is self._inserts:
            self._insert_nbytes = 0
            self._failures["insert", "away"] += len(waiting)
            return
        for _, _, told in waiting:
            self._failures["lookup", "away"] += 1
            _tell(told, None)

    # -- exchanges -----------------------------------------------------------------------------------

    async def _look_up(self, client: Redis) -> None:
        waiting = self._lookups.waiting
        asked = [waiting.popleft() for _ in range(min(len(waiting), REDIS_KEYS_PER_EXCHANGE))]
        values: list[Any] = []
        try:
            pipeline = client.pipeline(transaction=False)
            for _, name, _ in asked:
                # Not GET: nobody bounds what may stand there.
                pipeline.getrange(name, 0, REDIS_ENTRY_NBYTES)
            values = await self._execute(pipeline)
        except TimeoutError:
            self._failures["lookup", "timeout"] += len(asked)
            raise
        except _FAILURES:
            self._failures["lookup", "error"] += len(asked)
            raise
        finally:
            values += [None] * (len(asked) - len(values))
            for (_, _, told), value in zip(asked, values, strict=True):
                _tell(told, self._checked(value))

    def _checked(self, value: object) -> bytes | None:
        if isinstance(value, Exception):
            self._note_refusal("lookup", value)
            return None
        if not isinstance(value, bytes) or not value:
            return None
        if len(value) > REDIS_ENTRY_NBYTES:
            self.note_broken()
            return None
        return value

    async def _insert(self, client: Redis) -> None:
        waiting = self._inserts.waiting
        pipeline = client.pipeline(transaction=False)
        nbytes = count = 0
        while waiting and nbytes < REDIS_EXCHANGE_NBYTES:
            _, name, value = waiting.popleft()
            pipeline.set(name, value, ex=self._config.ttl or None)
            nbytes += len(value)
            count += 1
        self._insert_nbytes -= nbytes
        try:
            results = await self._execute(pipeline)
        except TimeoutError:
            self._failures["insert", "timeout"] += count
            raise
        except _FAILURES:
            self._failures["insert", "error"] += count
            raise
        for result in results:
            if isinstance(result, Exception):
                self._note_refusal("insert", result)

    async def _execute(self, pipeline: Any) -> list[Any]:
        async with asyncio.timeout(self._config.socket_timeout / 1000):
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            return results

    # -- the log -------------------------------------------------------------------------------------

    def _note_refusal(self, operation: str, error: Exception) -> None:
        """Redis is there, and does not do it: it is full, a name has something else, rights are missing."""
        self._failures[operation, "refused"] += 1
        kind = f"{operation} {type(error).__name__}"
        if kind not in self._said:
            self._said.add(kind)
            log.warning("the response cache at %s refused a%s: %s", self._config.where,
                        "n insert" if operation == "insert" else " look-up", error)  # fmt: skip

    def _say_away(self, error: BaseException) -> None:
        self._suspect = True
        if self._there or "away" not in self._said:
            self._there = False
            self._said.add("away")
            told = str(error) or type(error).__name__
            reason = "it did not answer in time" if isinstance(error, TimeoutError) else told
            log.warning("the response cache at %s is away: %s. Requests go on without it until it is back",
                        self._config.where, reason)  # fmt: skip

    def _say_there(self) -> None:
        if not self._there:
            self._there = True
            log.info("the response cache at %s is there", self._config.where)


def _tell(told: Told, value: bytes | None) -> None:
    try:
        told(value)
    except Exception:
        log.exception("a request could not go on behind its look-up")


async def _close(client: Redis) -> None:
    """Does not wait for the other side."""
    with suppress(*_FAILURES):
        async with asyncio.timeout(REDIS_RETRY_MIN_S):
            await client.connection_pool.disconnect()


def _check_files(config: RedisConfig) -> None:
    if not config.tls:
        return
    try:
        context = ssl.create_default_context(cafile=config.cacert or None, capath=config.cacert_dir or None)
        if config.cert:
            context.load_cert_chain(config.cert, config.key)
    except (OSError, ValueError) as error:
        raise InternalError(f"Failed to initialize RedisCache: cert, key, cacert or cacert_dir: {error}") from None
