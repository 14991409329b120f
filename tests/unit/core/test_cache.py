"""The response cache: who gets a kept answer, and who must not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running, write_model

from triton_async.core.cache import LocalCache
from triton_async.core.server import InferenceServer
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.tensor import from_numpy

CACHED = "response_cache { enable: true }"
NAME = "m"


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


def serving(root: Path, nbytes: int, **more: Any) -> Any:
    return running(root, "--model-control-mode=explicit", "--load-model=*", cache=LocalCache(nbytes), **more)


def test_the_same_again_is_answered_without_the_model(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, max_batch_size=4, more=CACHED)
    write_model(tmp_path, "plain")

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            for _ in range(3):
                assert await ask(server, request(NAME, [[1, 2]], id="x")) == [[[1, 2]]]
                assert await ask(server, request("plain", [1])) == [[1]]
            assert counts(server) == (2, 1, 3, 1)
            assert counts(server, "plain") == (0, 0, 3, 3)
            (found,) = server.statistics(NAME)
            assert found["inference_count"] == 1
            page = b"".join(await server.metrics_parts()).decode()
            assert 'nv_cache_num_hits_per_model{model="m",version="1"} 2' in page
            assert 'nv_cache_num_misses_per_model{model="m",version="1"} 1' in page
            assert 'nv_cache_num_hits_per_model{model="plain"' not in page

    run(test)


def others() -> list[InferRequest]:
    """Requests that differ from each other in what an answer may depend on."""
    one = [[1.0, 2.0]]
    return [
        request(NAME, one), request(NAME, [[1.0, 2.5]]), request(NAME, [[1.0], [2.0]]),
        request(NAME, [[1.0, 2.0, 0.0]]),
        request(NAME, one, parameters={"a": 1}), request(NAME, one, parameters={"a": "1"}),
        request(NAME, one, parameters={"a": True}), request(NAME, one, parameters={"b": 1}),
        request(NAME, one, outputs=[RequestedOutput("OUTPUT0")]),
    ]  # fmt: skip


def test_what_differs_is_asked_anew(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, max_batch_size=4, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            number = len(others())
            for made in others():
                await ask(server, made)
            assert counts(server) == (0, number, number, number)
            for made in others():
                await ask(server, made)
            assert counts(server) == (number, number, 2 * number, number)

    run(test)


def test_identifiers_priorities_and_timeouts_make_no_difference(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            for more in ({"id": "a"}, {"id": "b"}, {"priority": 3}, {"timeout_us": 10**9}):
                await ask(server, request(NAME, [1], **more))
            assert counts(server)[:2] == (3, 1)

    run(test)


def test_an_answer_is_not_that_of_the_load_before(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        cache = LocalCache(1 << 20)
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=*", cache=cache) as server:
            await ask(server, request(NAME, [1]))
            assert len(cache) == 1
            await server.unload_model(NAME)
            await server.load_model(NAME)
            await ask(server, request(NAME, [1]))
            assert counts(server)[:2] == (0, 1)
            assert len(cache) == 1
            await server.unload_model(NAME)
        assert (len(cache), cache.nbytes) == (0, 0)

    run(test)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        cache = LocalCache(3 * 1400)  # an answer of one number takes 1284
        async with running(tmp_path, cache=cache) as server:
            for number in (1, 2, 3, 1, 4):
                await ask(server, request(NAME, [number]))
            assert (counts(server)[:2], len(cache)) == ((1, 4), 3)
            assert 0 < cache.nbytes <= cache.budget_nbytes
            for number in (1, 4, 3):
                await ask(server, request(NAME, [number]))
            assert counts(server)[:2] == (4, 4)
            await ask(server, request(NAME, [2]))
            assert counts(server)[:2] == (4, 5)

    run(test)


@pytest.mark.parametrize("columns", [1 << 10, 1 << 18, (1 << 18) + 1])
def test_what_is_too_large_is_not_kept(tmp_path: Path, columns: int) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        cache = LocalCache(1 << 19)
        async with running(tmp_path, cache=cache) as server:
            for _ in range(2):
                (found,) = await ask(server, request(NAME, np.ones(columns, np.float32)))
                assert len(found) == columns
            fits, has_key = columns < 1 << 16, columns <= 1 << 18
            assert counts(server)[:2] == (int(fits), (1 if fits else 2) if has_key else 0)
            assert len(cache) == int(fits)

    run(test)


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, max_batch_size=1, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            for _ in range(2):
                with pytest.raises(Exception, match="batch-size must be <= 1"):
                    await ask(server, request(NAME, [[1], [2]]))
            assert counts(server) == (0, 0, 0, 0)

    run(test)


def test_an_answer_that_a_client_changes_is_not_changed_for_others(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            array = np.array([1, 2], np.float32)
            await server.infer(InferRequest(NAME, inputs=[from_numpy("INPUT0", array)]))
            array[:] = 7
            response = await server.infer(request(NAME, [1, 2]))
            assert response.outputs[0].numpy().tolist() == [1, 2]
            assert not response.outputs[0].numpy().flags.writeable
            assert counts(server)[0] == 1
            del response

    run(test)


def test_without_a_cache_the_models_own_wish_changes_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, NAME, more=CACHED)

    async def test() -> None:
        async with running(tmp_path) as server:
            for _ in range(2):
                assert await ask(server, request(NAME, [1])) == [[1]]
            assert counts(server) == (0, 0, 2, 2)
            assert "nv_cache" not in b"".join(await server.metrics_parts()).decode()

    run(test)


def test_answers_keep_their_order(tmp_path: Path) -> None:
    """A kept answer waits for those before it where the config says so."""
    write_model(
        tmp_path, NAME, max_batch_size=1, delay_ms=50, more=CACHED + " dynamic_batching { preserve_ordering: true }"
    )

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            await ask(server, request(NAME, [[1]]))
            order: list[int] = []

            async def one(number: int) -> None:
                await ask(server, request(NAME, [[number]]))
                order.append(number)

            await asyncio.gather(one(2), one(1))
            assert order == [2, 1]
            assert counts(server)[0] == 1

    run(test)


def test_an_ensembles_own_answers_go_when_a_step_is_loaded_anew(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "step")
    (tmp_path / "e" / "1").mkdir(parents=True)
    (tmp_path / "e" / "config.pbtxt").write_text("""
        platform: "ensemble"
        input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
        ensemble_scheduling { step { model_name: "step" model_version: -1
            input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } } }
        response_cache { enable: true }
    """)

    async def test() -> None:
        async with serving(tmp_path, 1 << 20) as server:
            for _ in range(2):
                await ask(server, request("e", [1]))
            assert counts(server, "e")[:2] == (1, 1)
            (directory / "1" / "weights").write_bytes(b"new")
            await server.load_model("step")
            await ask(server, request("e", [1]))
            assert counts(server, "e")[:2] == (0, 1)
            assert counts(server, "step")[2:] == (1, 1)

    run(test)
