"""Short executions on the loop thread: which models get them, and what a turn of the loop runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import load
from core_harness import request, run, running, write_model
from gated_backend import Recorder, until

from triton_async.backends.base import Backend, LoadContext, LoadedModel
from triton_async.core.inline import InlinePolicy, switches
from triton_async.core.server import InferenceServer
from triton_async.defines import (
    INLINE_AFTER,
    INLINE_MEAN_NS,
    INLINE_NBYTES,
    INLINE_STALL_NS,
    INLINE_STEADY_NS,
    INLINE_SURELY_NS,
    INLINE_WATCHED,
)
from triton_async.errors import ServerError

ONE = "instance_group { count: 1 kind: KIND_CPU } "
BATCHING = ONE + "dynamic_batching { }"
SHORT_NS = 5_000


def trusted(policy: InlinePolicy, runs: int = INLINE_AFTER) -> bool:
    """Whether the loop thread may run the next batch after so many short executions."""
    return [policy.noted(SHORT_NS, SHORT_NS, False) for _ in range(runs)][-1]


def test_a_model_is_trusted_after_a_streak_of_short_executions() -> None:
    policy = InlinePolicy()
    assert not trusted(policy, INLINE_AFTER - 1)
    assert trusted(policy, 1)


def test_a_long_execution_on_an_instance_ends_the_streak() -> None:
    policy = InlinePolicy()
    assert trusted(policy)
    assert not policy.noted(INLINE_STEADY_NS + 1, SHORT_NS, False)
    assert not trusted(policy, INLINE_AFTER - 1)
    assert trusted(policy, 1)


def test_a_model_is_not_trusted_while_its_mean_is_long() -> None:
    policy = InlinePolicy()
    assert trusted(policy)
    assert not policy.noted(SHORT_NS, INLINE_MEAN_NS + 1, True)
    assert policy.noted(SHORT_NS, INLINE_MEAN_NS, False)


def test_one_stall_of_the_loop_ends_it_for_good() -> None:
    policy = InlinePolicy()
    assert trusted(policy)
    policy.noted(INLINE_STALL_NS, SHORT_NS, True)
    assert not policy.ended, "just as long as is allowed"
    assert trusted(policy)
    assert not policy.noted(INLINE_STALL_NS + 1, SHORT_NS, True)
    assert policy.ended
    assert not trusted(policy, 1000 * INLINE_AFTER)


def test_trust_is_for_one_exact_shape_and_as_many_rows_as_were_seen() -> None:
    policy = InlinePolicy()
    for _ in range(INLINE_AFTER):
        known = policy.noted(SHORT_NS, SHORT_NS, False, dims=(3, 4), rows=2)
    assert known
    assert not policy.noted(SHORT_NS, SHORT_NS, False, dims=(4, 3), rows=2)
    assert not policy.noted(SHORT_NS, SHORT_NS, False, dims=(12,), rows=2)
    assert policy.noted(SHORT_NS, SHORT_NS, True, dims=(3, 4), rows=1)
    assert policy.noted(SHORT_NS, SHORT_NS, False, dims=(3, 4), rows=3), "three rows were steady, too"
    assert not policy.noted(INLINE_STEADY_NS + 1, SHORT_NS, False, dims=(3, 4), rows=4)
    assert not policy.noted(SHORT_NS, SHORT_NS, False, dims=(3, 4), rows=1)


def test_few_shapes_are_kept_and_the_oldest_goes_first() -> None:
    policy = InlinePolicy()
    for size in range(1, 17):
        for _ in range(INLINE_AFTER):
            policy.noted(SHORT_NS, SHORT_NS, False, dims=(size,))
    assert policy.noted(SHORT_NS, SHORT_NS, False, dims=(1,))
    assert not policy.noted(SHORT_NS, SHORT_NS, False, dims=(17,))
    assert not policy.noted(SHORT_NS, SHORT_NS, False, dims=(1,))
    assert policy.noted(SHORT_NS, SHORT_NS, False, dims=(3,))


def test_the_loop_thread_that_lost_the_processor_costs_no_trust() -> None:
    policy = InlinePolicy()
    assert trusted(policy)
    for _ in range(100):
        assert policy.noted(INLINE_STALL_NS + 1, SHORT_NS, True, True)


def test_a_stall_that_nobody_watched_is_forgiven_once_unless_it_was_very_long() -> None:
    for again_ns in (INLINE_STALL_NS + 1, INLINE_SURELY_NS + 1):
        policy = InlinePolicy()
        assert trusted(policy)
        assert all(policy.noted(SHORT_NS, SHORT_NS, True) for _ in range(INLINE_WATCHED))
        assert not policy.watched
        assert not policy.noted(again_ns, SHORT_NS, True)
        assert policy.ended == (again_ns > INLINE_SURELY_NS)
        assert policy.watched == INLINE_WATCHED
        if not policy.ended:
            assert trusted(policy)
            assert not policy.noted(INLINE_STALL_NS + 1, SHORT_NS, True)
        assert policy.ended


def test_a_thread_that_waits_is_told_from_one_that_loses_the_processor() -> None:
    before = switches()
    time.sleep(0.001)
    assert switches()[1] > before[1]
    cpus = os.sched_getaffinity(0)
    here = {min(cpus)}
    hog = f"import os; os.sched_setaffinity(0, {here}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", hog], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            os.sched_setaffinity(0, here)
            before, end = switches(), time.monotonic() + 20
            while switches()[0] == before[0] and time.monotonic() < end:
                pass
            after = switches()
        finally:
            os.sched_setaffinity(0, cpus)
            process.kill()
    assert after[0] > before[0]
    assert after[1] == before[1]


def model_of(server: InferenceServer) -> Any:
    return server.repository.models["m"].versions[1].loaded.model  # type: ignore[union-attr]


def executions(server: InferenceServer) -> dict[int, int]:
    """Batch size -> executions."""
    stats = server.statistics("m")[0]["batch_stats"]
    return {int(row["batch_size"]): int(row["compute_infer"]["count"]) for row in stats}


async def until_answered(sink: Recorder, count: int) -> None:
    await until(lambda: len(sink.responses) >= count, f"{count} answers")


class NappingModel(LoadedModel):
    thread_bound = False

    def create_instance(self, name: str, group: object, device_id: int) -> Any:
        return load("puppet").NappingEngine(name)


class NappingBackend(Backend):
    """Also the registry of itself."""

    def get(self, name: str, place: object = None) -> Backend:
        return self

    def load(self, context: LoadContext) -> LoadedModel:
        return NappingModel()


def test_an_engine_that_waits_on_the_loop_thread_loses_trust(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=BATCHING)
    sink = Recorder()

    async def test() -> None:
        async with running(tmp_path, backends=NappingBackend()) as server:
            policy = model_of(server).inline
            assert trusted(policy)
            server.submit(request("m", [[1]]), sink)
            await asyncio.sleep(0)  # the turn
            assert len(sink.responses) == 1
            assert policy.ended
            assert not trusted(policy)
            sink.responses.clear()

    run(test)


def test_requests_of_one_turn_of_the_loop_share_an_execution(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=BATCHING)
    sink = Recorder()

    async def test() -> None:
        async with running(tmp_path) as server:
            assert trusted(model_of(server).inline)
            for value in range(20):
                server.submit(request("m", [[value]]), sink)
            assert sink.responses == [], "nothing is delivered from inside submit"
            await until_answered(sink, 20)
            assert executions(server)[8] >= 1  # an instance would have taken the first request alone
            assert 1 not in executions(server)
            assert sorted(response.outputs[0].numpy().item() for response in sink.responses) == list(range(20))
            sink.responses.clear()

    run(test)


def test_a_request_cancelled_before_the_turn_is_never_executed(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=BATCHING)
    sink, gone = Recorder(), Recorder()

    async def test() -> None:
        async with running(tmp_path) as server:
            assert trusted(model_of(server).inline)
            cancelled = request("m", [[1], [2]])
            server.submit(cancelled, gone)
            server.submit(request("m", [[3]]), sink)
            server.cancel(cancelled)
            await until_answered(sink, 1)
            assert executions(server) == {1: 1}
            assert gone.responses == []
            sink.responses.clear()

    run(test)


def test_large_tensors_go_to_an_instance(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=BATCHING)
    sink = Recorder()
    large = np.zeros((1, INLINE_NBYTES // 4 + 1), np.float32)

    async def test() -> None:
        async with running(tmp_path) as server:
            for _ in range(INLINE_AFTER):
                model_of(server).inline.noted(SHORT_NS, SHORT_NS, False, dims=large.shape[1:])
            server.submit(request("m", large), sink)
            await asyncio.sleep(0)  # the turn
            assert sink.responses == [], "what the loop thread runs is delivered in its turn"
            await until_answered(sink, 1)
            sink.responses.clear()

    run(test)


def test_an_option_keeps_all_executions_off_the_loop_thread(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=BATCHING)
    sink = Recorder()

    async def test() -> None:
        for option, here in (("true", True), ("false", False)):
            async with running(tmp_path, f"--allow-loop-execution={option}") as server:
                assert trusted(model_of(server).inline)
                server.submit(request("m", [[1]]), sink)
                await asyncio.sleep(0)  # the turn
                await until_answered(sink, 1)
                # Instances have a thread from their first batch on.
                started = any(thread.name.startswith("instance m") for thread in threading.enumerate())
                assert started is not here
                sink.responses.clear()

    run(test)


def test_a_model_that_waits_on_purpose_stays_with_its_instances(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, delay_ms=20, more=BATCHING)
    sink = Recorder()

    async def test() -> None:
        async with running(tmp_path) as server:
            assert trusted(model_of(server).inline)
            server.submit(request("m", [[1]]), sink)
            for _ in range(3):
                await asyncio.sleep(0)
            assert sink.responses == []
            await until_answered(sink, 1)
            sink.responses.clear()

    run(test)


def test_a_delayed_batch_runs_at_its_deadline(tmp_path: Path) -> None:
    delay = ONE + "dynamic_batching { max_queue_delay_microseconds: 2000 }"
    write_model(tmp_path, "m", max_batch_size=8, more=delay)
    sink = Recorder()

    async def test() -> None:
        async with running(tmp_path) as server:
            assert trusted(model_of(server).inline)
            server.submit(request("m", [[1]]), sink)
            server.submit(request("m", [[2]]), sink)
            await asyncio.sleep(0)
            assert sink.responses == []
            await until_answered(sink, 2)
            assert executions(server) == {2: 1}
            sink.responses.clear()

    run(test)


@pytest.mark.parametrize("more", [ONE, BATCHING, ONE + "dynamic_batching { preserve_ordering: true }"])
def test_all_is_answered_when_the_model_goes_before_its_turn(tmp_path: Path, more: str) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more=more)
    sink = Recorder()

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=*") as server:
            assert trusted(model_of(server).inline)
            for value in range(10):
                server.submit(request("m", [[value]]), sink)
            await server.unload_model("m")
            with pytest.raises(ServerError):
                server.submit(request("m", [[1]]), sink)
            await until_answered(sink, 10)
            assert all(response.error is None for response in sink.responses)
            sink.responses.clear()

    run(test)


def test_answers_that_ask_again_neither_recurse_nor_stop(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more=BATCHING)
    left = 3000

    async def test() -> None:
        async with running(tmp_path) as server:
            assert trusted(model_of(server).inline)
            done = asyncio.get_running_loop().create_future()

            def again(_: object) -> None:
                nonlocal left
                left -= 1
                sink.responses.clear()
                if left > 0:
                    server.submit(request("m", [[left]]), sink)
                elif not done.done():
                    done.set_result(None)

            sink = Recorder(again)
            for value in range(3):
                server.submit(request("m", [[value]]), sink)
            await asyncio.wait_for(done, 60)
            await until(lambda: model_of(server).in_flight == 0, "the others are answered")
            sink.responses.clear()

    run(test)
