"""The response cache in a Redis server: who gets a kept answer, and that nothing depends on the server being there."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running, write_model

from triton_async.config.cache import RedisConfig
from triton_async.config.redis_defines import REDIS_ENTRY_NBYTES, REDIS_INSERT_NBYTES
from triton_async.core.server import InferenceServer
from triton_async.core.shared_cache import SharedCache
from triton_async.errors import InternalError, Unavailable
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.tensor import from_numpy

sys.path.append(str(Path(__file__).resolve().parents[2]))

from redis_server import RedisServer, redis_server

CACHED = "response_cache { enable: true }"
NAME = "m"
# Of the servers of the test.
STORES: dict[int, Any] = {}


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


def config(redis: RedisServer, **more: Any) -> RedisConfig:
    values: dict[str, Any] = {"host": "127.0.0.1", "port": redis.port, "connect_timeout": 2000, "socket_timeout": 2000}
    return RedisConfig(**values | more)


@asynccontextmanager
async def serving(root: Path, settings: RedisConfig, *options: str, **more: Any) -> AsyncIterator[InferenceServer]:
    from triton_async.core.redis_store import RedisStore

    store = RedisStore(settings)
    await store.start()
    try:
        async with running(root, *options, cache=SharedCache(store, settings.namespace),
                           metric_sources=(store.families,), **more) as server:  # fmt: skip
            STORES[id(server)] = store
            if settings.connect_timeout > 1:
                await until(lambda: is_up(server), "a connection")
            yield server
    finally:
        STORES.clear()
        await store.close()


def is_up(server: InferenceServer) -> bool:
    (_, _, _, ((_, value),)), _ = STORES[id(server)].families()
    return bool(value)


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, f"waited for {what}"
        await asyncio.sleep(0.01)


async def kept(redis: RedisServer, number: int) -> None:
    await until(lambda: len(redis.names()) == number, f"{number} kept answers")


def counts(server: InferenceServer, name: str = NAME) -> tuple[int, int, int, int]:
    """Hits, misses, successes, executions."""
    (found,) = server.statistics(name)
    stats = found["inference_stats"]
    return (
        stats["cache_hit"]["count"], stats["cache_miss"]["count"], stats["success"]["count"], found["execution_count"]
    )  # fmt: skip


async def ask(server: InferenceServer, made: InferRequest) -> list[list[float]]:
    response = await server.infer(made)
    if response.error is not None:
        raise response.error
    return [output.numpy().tolist() for output in response.outputs]


async def failures(server: InferenceServer) -> dict[tuple[str, str], int]:
    """By operation and reason."""
    page = b"".join(await server.metrics_parts()).decode()
    found = {}
    for line in page.splitlines():
        if line.startswith("triton_async_cache_failures_total{"):
            labels, _, number = line.removeprefix("triton_async_cache_failures_total").rpartition(" ")
            _, operation, _, reason, _ = labels.split('"')
            found[operation, reason] = int(number)
    return found


# -- who gets a kept answer ------------------------------------------------------------------------


def test_the_same_again_is_answered_without_the_model(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, max_batch_size=4, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            assert await ask(server, request(NAME, [[1, 2]])) == [[[1, 2]]]
            await kept(redis, 1)
            assert await ask(server, request(NAME, [[1, 2]], id="x")) == [[[1, 2]]]
            assert counts(server) == (1, 1, 2, 1)
            page = b"".join(await server.metrics_parts()).decode()
            assert 'nv_cache_num_hits_per_model{model="m",version="1"} 1' in page
            assert "triton_async_cache_up 1" in page
            assert not await failures(server)

    run(test)


def others() -> list[InferRequest]:
    """Requests that differ from each other in what an answer may depend on."""
    one = [[1.0, 2.0]]
    return [
        request(NAME, one), request(NAME, [[1.0, 2.5]]), request(NAME, [[1.0], [2.0]]),
        request(NAME, one, parameters={"a": 1}), request(NAME, one, parameters={"a": "1"}),
        request(NAME, one, outputs=[RequestedOutput("OUTPUT0")]),
    ]  # fmt: skip


def test_what_differs_is_asked_anew(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, max_batch_size=4, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            number = len(others())
            for made in others():
                await ask(server, made)
            await kept(redis, number)
            assert counts(server) == (0, number, number, number)
            for made in others():
                await ask(server, made)
            assert counts(server) == (number, number, 2 * number, number)

    run(test)


def test_another_server_with_the_same_files_has_the_answers(tmp_path: Path, redis: RedisServer) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        (write_model(root, NAME, more=CACHED) / "1" / "weights").write_bytes(b"1")

    async def test() -> None:
        async with serving(tmp_path / "a", config(redis)) as server:
            await ask(server, request(NAME, [1]))
            await kept(redis, 1)
        async with serving(tmp_path / "b", config(redis)) as server:
            assert await ask(server, request(NAME, [1])) == [[1]]
            assert counts(server) == (1, 0, 1, 0)

    run(test)


def test_other_files_configs_and_namespaces_have_answers_of_their_own(tmp_path: Path, redis: RedisServer) -> None:
    directory = write_model(tmp_path, NAME, more=CACHED)

    async def misses(**more: Any) -> None:
        before = len(redis.names())
        async with serving(tmp_path, config(redis, **more)) as server:
            await ask(server, request(NAME, [1]))
            assert counts(server)[:2] == (0, 1)
            await kept(redis, before + 1)

    async def test() -> None:
        await misses()
        await misses(namespace="other")
        (directory / "1" / "weights").write_bytes(b"1")
        await misses()
        (directory / "1" / "weights").write_bytes(b"2")
        await misses()
        write_model(tmp_path, NAME, max_batch_size=0, delay_ms=1, more=CACHED)
        await misses()

    run(test)


def test_an_answer_is_not_that_of_the_load_before(tmp_path: Path, redis: RedisServer) -> None:
    weights = write_model(tmp_path, NAME, more=CACHED) / "1" / "weights"
    weights.write_bytes(b"1")

    async def test() -> None:
        options = ("--model-control-mode=explicit", "--load-model=*")
        async with serving(tmp_path, config(redis), *options) as server:
            await ask(server, request(NAME, [1]))
            await kept(redis, 1)
            weights.write_bytes(b"22")
            await server.load_model(NAME)
            await ask(server, request(NAME, [1]))
            assert counts(server)[:2] == (0, 1)
            await kept(redis, 2)
            weights.write_bytes(b"1")
            await server.load_model(NAME)
            await ask(server, request(NAME, [1]))
            assert counts(server)[:2] == (1, 0)

    run(test)


@pytest.mark.parametrize("fits", [True, False])
def test_what_is_too_large_is_not_kept(tmp_path: Path, redis: RedisServer, fits: bool) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    # The head of an answer, the name and the shape of its output take 64 bytes.
    array = np.ones((REDIS_ENTRY_NBYTES - 64) // 4 + (not fits), np.float32)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            await ask(server, request(NAME, array))
            await ask(server, request(NAME, [1]))
            await kept(redis, 1 + fits)
            assert await ask(server, request(NAME, array)) == [array.tolist()]
            assert counts(server)[0] == int(fits)
            assert not await failures(server)

    run(test)


def test_an_error_is_not_kept(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, max_batch_size=1, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            with pytest.raises(Exception, match="batch-size must be <= 1"):
                await ask(server, request(NAME, [[1], [2]]))
            assert counts(server) == (0, 0, 0, 0)
            assert not redis.names()

    run(test)


def test_answers_keep_their_order(tmp_path: Path, redis: RedisServer) -> None:
    write_model(
        tmp_path, NAME, max_batch_size=1, delay_ms=50, more=CACHED + " dynamic_batching { preserve_ordering: true }"
    )

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            await ask(server, request(NAME, [[1]]))
            await kept(redis, 1)
            order: list[int] = []

            async def one(number: int) -> None:
                await ask(server, request(NAME, [[number]]))
                order.append(number)

            await asyncio.gather(one(2), one(1))
            assert order == [2, 1]
            assert counts(server)[0] == 1

    run(test)


def test_an_ensemble_has_answers_of_its_own_and_of_its_steps(tmp_path: Path, redis: RedisServer) -> None:
    weights = write_model(tmp_path, "step", more=CACHED) / "1" / "weights"
    weights.write_bytes(b"1")
    write_ensemble(tmp_path)

    async def test() -> None:
        for content, hits in ((b"1", 0), (b"1", 1), (b"2", 0)):
            weights.write_bytes(content)
            async with serving(tmp_path, config(redis)) as server:
                assert await ask(server, request("e", [1])) == [[1]]
                assert counts(server, "e")[:2] == (hits, 1 - hits)
                await until(lambda: len(redis.names()) in (2, 4), "the answers of both")

    run(test)


def write_ensemble(root: Path) -> None:
    (root / "e" / "1").mkdir(parents=True)
    (root / "e" / "config.pbtxt").write_text("""
        platform: "ensemble"
        input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
        ensemble_scheduling { step { model_name: "step" model_version: -1
            input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } } }
        response_cache { enable: true }
    """)


# -- values that are none ----------------------------------------------------------------------------


def test_values_that_are_no_answers_are_not_believed(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            for number in (1, 2):
                await ask(server, request(NAME, [number]))
                await kept(redis, number)
            names = redis.names()
            values = [redis.run("get", name) for name in names]
            foreign = [
                b"x", b"garbage" * 100, values[0][:-1], values[0] + b"\0", values[0][:60] + b"\1" + values[0][61:],
                bytes(2 * REDIS_ENTRY_NBYTES), b"TAc0" + values[0][4:], values[1],
            ]  # fmt: skip
            for count, value in enumerate(foreign, 1):
                redis.run("set", names[0], data=value)
                redis.run("set", names[1], data=values[0] if value == values[1] else values[1])
                for number in (1, 2):
                    assert await ask(server, request(NAME, [number])) == [[number]]
                assert (await failures(server))["lookup", "broken"] >= count
                await until(lambda: redis.run("get", names[0]) == values[0], "the answer to be kept again")
            redis.run("del", names[0])
            redis.run("rpush", names[0], "a")
            for number in (1, 2):
                assert await ask(server, request(NAME, [number])) == [[number]]
            assert (await failures(server))["lookup", "refused"] == 1

    run(test)


# -- a server that is gone, or slow ------------------------------------------------------------------


def test_a_server_that_hangs_costs_a_short_time_once(
    tmp_path: Path, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    caplog.set_level(logging.INFO, "triton_async.core")

    async def test() -> None:
        async with serving(tmp_path, config(redis, socket_timeout=200, connect_timeout=200)) as server:
            await ask(server, request(NAME, [1]))
            await kept(redis, 1)
            redis.hang()
            begun = time.monotonic()
            assert await asyncio.gather(*(ask(server, request(NAME, [n])) for n in range(40))) == [
                [[n]] for n in range(40)
            ]
            assert 0.15 < time.monotonic() - begun < 5
            begun = time.monotonic()
            for number in range(20):
                assert await ask(server, request(NAME, [number])) == [[number]]
            assert time.monotonic() - begun < 0.15
            assert counts(server)[:2] == (0, 61)
            told = await failures(server)
            assert told["lookup", "timeout"] + told["lookup", "away"] + told.get(("lookup", "busy"), 0) == 60
            assert "triton_async_cache_up 0" in b"".join(await server.metrics_parts()).decode()
            redis.go_on()
            await until(lambda: is_up(server), "Redis to be asked again")
            assert await ask(server, request(NAME, [1])) == [[1]]
            assert counts(server)[0] == 1
        assert caplog.text.count("is away: it did not answer in time") == 1
        assert caplog.text.count("is there") == 2

    run(test)


def test_a_server_that_goes_and_comes_back_is_used_again(
    tmp_path: Path, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            await ask(server, request(NAME, [1]))
            redis.kill()
            for _ in range(50):
                assert await ask(server, request(NAME, [1])) == [[1]]
            assert counts(server)[1:] == (51, 51, 51)
            assert caplog.text.count("is away") == 1
            redis.start()
            await until(lambda: is_up(server), "the new Redis")
            # Answers go there on a connection of their own.
            deadline = time.monotonic() + 20
            while not redis.names():
                assert await ask(server, request(NAME, [1])) == [[1]]
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    run(test)


def test_a_server_that_is_not_there_at_first_costs_nothing(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    redis.kill()

    async def test() -> None:
        async with serving(tmp_path, config(redis, connect_timeout=1)) as server:
            assert await ask(server, request(NAME, [1])) == [[1]]
            assert (await failures(server))["lookup", "away"] == 1

    run(test)


def test_a_client_that_goes_during_its_look_up_leaves_nothing(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    write_model(tmp_path, "step")
    write_ensemble(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            redis.hang()
            waiting = [asyncio.ensure_future(ask(server, request(name, [n]))) for name in (NAME, "e") for n in range(3)]
            await asyncio.sleep(0.05)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            redis.go_on()
            await until(lambda: server.repository.in_flight() == 0, "the requests to go")
            (found,) = server.statistics(NAME)
            assert (found["inference_stats"]["fail"]["count"], found["execution_count"]) == (3, 0)

    run(test)


def test_requests_that_wait_for_a_look_up_are_served_behind_an_unload(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    write_model(tmp_path, "step")
    write_ensemble(tmp_path)

    async def test() -> None:
        options = ("--model-control-mode=explicit", "--load-model=*")
        async with serving(tmp_path, config(redis), *options) as server:
            redis.hang()
            waiting = [asyncio.ensure_future(ask(server, request(name, [1]))) for name in (NAME, "e")]
            await asyncio.sleep(0.05)
            for name in ("step", NAME):
                await server.unload_model(name)
            redis.go_on()
            assert await asyncio.gather(*waiting) == [[[1]], [[1]]]

    run(test)


def test_a_request_that_the_queue_refuses_behind_its_look_up_gets_an_error(tmp_path: Path, redis: RedisServer) -> None:
    write_model(
        tmp_path, NAME, max_batch_size=1, delay_ms=200,
        more=CACHED + " dynamic_batching { default_queue_policy { max_queue_size: 1 } }",
    )  # fmt: skip

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            done = await asyncio.gather(*(ask(server, request(NAME, [[n]])) for n in range(6)), return_exceptions=True)
            refused = [one for one in done if isinstance(one, Unavailable)]
            assert refused
            assert all("Exceeds maximum queue size" in str(one) for one in refused)
            (found,) = server.statistics(NAME)
            assert found["inference_stats"]["fail"]["count"] == len(refused)

    run(test)


def test_a_server_that_is_full_is_said_and_counted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, NAME, more=CACHED)
    with redis_server(tmp_path_factory.mktemp("small"), "--maxmemory", "1kb") as redis:

        async def test() -> None:
            async with serving(tmp_path, config(redis)) as server:
                for number in (1, 2):
                    assert await ask(server, request(NAME, [number])) == [[number]]
                await asyncio.sleep(0.2)
                assert (await failures(server))["insert", "refused"] == 2
                assert caplog.text.count("refused an insert: ") == 1

        run(test)


def test_answers_on_their_way_are_bounded(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            store = STORES[id(server)]
            value = bytes(1 << 20)
            fit = REDIS_INSERT_NBYTES // len(value)
            for number in range(fit + 1):
                store.put(b"%d" % number, value)
            assert (await failures(server))["insert", "full"] == 1
            await kept(redis, fit)

    run(test)


def test_a_look_up_waits_for_a_connection_no_longer_than_it_may(tmp_path: Path, redis: RedisServer) -> None:
    """The connection is busy with the keys of others, for longer than `wait_timeout`."""
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis, wait_timeout=50)) as server:
            redis.hang()
            first = asyncio.ensure_future(ask(server, request(NAME, [1])))
            await asyncio.sleep(0.02)
            begun = time.monotonic()
            assert await ask(server, request(NAME, [2])) == [[2]]
            assert time.monotonic() - begun < 1
            assert not first.done()
            redis.go_on()
            assert await first == [[1]]
            assert (await failures(server))["lookup", "busy"] == 1

    run(test)


# -- options that are wrong --------------------------------------------------------------------------


def test_wrong_credentials_end_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    from triton_async.core.redis_store import RedisStore

    with redis_server(tmp_path_factory.mktemp("redis"), "--requirepass", "right") as redis:

        async def starts(**more: Any) -> None:
            store = RedisStore(config(redis, **more))
            try:
                await store.start()
            finally:
                await store.close()

        async def test() -> None:
            await starts(password="right")
            await starts(password="right", user="default")
            for more, text in (
                ({}, "Authentication required"), ({"password": "wrong"}, "invalid username-password pair"),
                ({"password": "right", "db": 99}, "DB index is out of range"),
            ):  # fmt: skip
                with pytest.raises(InternalError, match=f"Failed to initialize RedisCache: .*{text}"):
                    await starts(**more)
            with pytest.raises(InternalError, match="cacert"):
                await starts(cacert="/nowhere.pem")

        run(test)


def test_a_tensor_of_a_kept_answer_is_read_only_and_its_own(tmp_path: Path, redis: RedisServer) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, config(redis)) as server:
            array = np.array([1, 2], np.float32)
            await server.infer(InferRequest(NAME, inputs=[from_numpy("INPUT0", array)]))
            array[:] = 7
            await kept(redis, 1)
            response = await server.infer(request(NAME, [1, 2]))
            assert response.outputs[0].numpy().tolist() == [1, 2]
            assert not response.outputs[0].numpy().flags.writeable
            del response

    run(test)
