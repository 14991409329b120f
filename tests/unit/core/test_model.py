"""One model: who is answered when clients leave, sinks misbehave, and the model goes."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, Recorder, until

from triton_async.core.server import InferenceServer
from triton_async.defines import INSTANCE_RUN_AHEAD_MAX
from triton_async.errors import InternalError, Unavailable
from triton_async.infer.response import InferResponse

ONE = "instance_group { count: 1 kind: KIND_CPU } "
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")


def model_of(server: InferenceServer) -> Any:
    return server.repository.models["m"].versions[1].loaded.model  # type: ignore[union-attr]


def values(sink: Recorder) -> list[Any]:
    return [response.outputs[0].numpy().reshape(-1).tolist() for response in sink.responses]


def successes(server: InferenceServer) -> int:
    return int(server.statistics("m")[0]["inference_stats"]["success"]["count"])


def test_a_response_held_back_for_its_order_is_not_delivered_after_its_client_left(tmp_path: Path) -> None:
    two = "instance_group { count: 2 kind: KIND_CPU } "
    write_model(tmp_path, "m", max_batch_size=1, more=two + "dynamic_batching { preserve_ordering: true }")
    backend, sink = GatedBackend(), Recorder()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            first, second = request("m", [[1]]), request("m", [[2]])
            server.submit(first, sink)
            slow = await backend.run_gate.arrival()
            server.submit(second, sink)
            (await backend.run_gate.arrival()).set()
            await until(lambda: successes(server) == 1, "the second is done and held back")
            assert sink.responses == []
            server.cancel(second)
            slow.set()
            await until(lambda: model_of(server).in_flight == 0, "both are done")
            assert values(sink) == [[1]]
            sink.responses.clear()

    run(test)


def test_a_request_that_timed_out_is_not_answered_after_its_client_left(tmp_path: Path) -> None:
    policy = "dynamic_batching { default_queue_policy { allow_timeout_override: true } }"
    write_model(tmp_path, "m", max_batch_size=1, more=ONE + policy)
    backend, gone, kept = GatedBackend(), Recorder(), Recorder()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for _ in range(2):
                server.submit(request("m", [[0]]), kept)
            late = request("m", [[1]], timeout_us=1)
            server.submit(late, gone)
            due = time.monotonic_ns() + 2000
            while time.monotonic_ns() < due:
                pass
            server.submit(request("m", [[2]]), kept)  # notices that `late` has timed out
            server.cancel(late)
            backend.run_gate.open()
            await until(lambda: model_of(server).in_flight == 0, "all are done")
            assert gone.responses == []
            assert values(kept) == [[0], [0], [2]]
            kept.responses.clear()

    run(test)


def test_sinks_may_submit_from_deliver(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more=ONE + "dynamic_batching { }")
    total = 3000

    async def test() -> None:
        async with running(tmp_path) as server:
            done = asyncio.get_running_loop().create_future()

            def again(response: InferResponse) -> None:
                sink.responses.clear()
                count = int(response.outputs[0].numpy()[0, 0]) + 8
                if count < total:
                    server.submit(request("m", [[count]]), sink)
                elif not done.done() and model_of(server).in_flight == 1:  # the one that is being answered
                    done.set_result(None)

            sink = Recorder(again)
            for index in range(8):
                server.submit(request("m", [[index]]), sink)
            await asyncio.wait_for(done, 60)
            assert successes(server) == total

    run(test)


def test_a_sink_that_raises_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("triton_async.core"), "disabled", True)  # a captured traceback holds objects
    write_model(tmp_path, "m", max_batch_size=8, more=ONE + "dynamic_batching { preferred_batch_size: [ 4 ] "
                "max_queue_delay_microseconds: 60000000 }")  # fmt: skip

    def fail(response: InferResponse) -> None:
        raise RuntimeError("a front-end's mistake")

    async def test() -> None:
        async with running(tmp_path) as server:
            bad, good = Recorder(fail), Recorder()
            for index in range(4):
                server.submit(request("m", [[index]]), bad if index % 2 == 0 else good)
            await until(lambda: model_of(server).in_flight == 0, "all are done")
            assert values(good) == [[1], [3]]
            assert len(bad.responses) == 2
            good.responses.clear()
            bad.responses.clear()

    run(test)


@pytest.mark.parametrize("ordering", ["", "preserve_ordering: true"])
def test_a_sink_may_cancel_its_neighbours_from_deliver(tmp_path: Path, ordering: str) -> None:
    write_model(tmp_path, "m", max_batch_size=8, more=ONE + "dynamic_batching { preferred_batch_size: [ 4 ] "
                f"max_queue_delay_microseconds: 60000000 {ordering} }}")  # fmt: skip

    async def test() -> None:
        async with running(tmp_path) as server:
            sent = [request("m", [[index]]) for index in range(4)]
            sink = Recorder(lambda _: [server.cancel(item) for item in sent])  # type: ignore[func-returns-value,arg-type,return-value]
            for item in sent:
                server.submit(item, sink)
            await until(lambda: model_of(server).in_flight == 0, "all are done")
            assert values(sink) == [[0]]
            sink.responses.clear()

    run(test)


def test_cancelling_what_was_answered_or_never_sent_changes_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            never, answered = request("m", [1]), request("m", [2])
            server.cancel(never)
            await server.infer(answered)
            server.cancel(answered)
            server.cancel(answered)
            text = b"".join(await server.metrics_parts()).decode()
            assert 'reason="CANCELED",version="1"} 0' in text
            assert model_of(server).in_flight == 0

    run(test)


def test_a_request_is_sent_once(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            made = request("m", [1])
            await server.infer(made)
            with pytest.raises(AssertionError):  # Cython's assertions are compiled in
                server.submit(made, Recorder())

    run(test)


def test_the_last_cancellation_ends_a_drain(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=ONE)
    backend, sink = GatedBackend(), Recorder()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT, backends=backend) as server:
            sent = [request("m", [index]) for index in range(6)]
            for item in sent:
                server.submit(item, sink)
            running_batch = await backend.run_gate.arrival()
            await server.unload_model("m")
            for item in sent:
                server.cancel(item)
            assert server.repository.index(False)[0]["state"] == "UNLOADING"
            running_batch.set()
            await until(lambda: server.repository.index(False)[0]["state"] == "UNAVAILABLE", "unloaded")
            assert sink.responses == []
            assert len(backend.batches) == 1  # the one that ran; what was handed over ahead was taken back
            assert backend.closed == ["m_0_0", "model 1"]

    run(test)


def test_instances_run_further_ahead_the_shorter_their_executions_are(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=ONE)
    write_model(tmp_path, "slow", more=ONE + 'parameters { key: "execute_delay_ms" value { string_value: "1" } }')

    async def test() -> None:
        async with running(tmp_path) as server:
            slow = server.repository.models["slow"].versions[1].loaded.model  # type: ignore[union-attr]
            quick = model_of(server)
            assert (quick.run_ahead, slow.run_ahead) == (1, 1)
            for _ in range(30):
                await server.infer(request("slow", [1]))
                assert slow.run_ahead == 1
            for _ in range(100_000):
                await server.infer(request("m", [1]))
                if quick.run_ahead > 1:
                    break
            assert 1 < quick.run_ahead <= INSTANCE_RUN_AHEAD_MAX
            sink = Recorder()
            for index in range(200):
                server.submit(request("m", [index]), sink)
            await until(lambda: len(sink.responses) == 200, "all are answered")
            assert values(sink) == [[index] for index in range(200)]

    run(test)


def test_a_sink_that_submits_to_a_model_on_its_way_out_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=ONE)
    backend = GatedBackend()
    backend.run_gate.shut = True
    refused: list[str] = []

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT, backends=backend) as server:
            def again(response: InferResponse) -> None:
                try:
                    server.submit(request("m", [1]), sink)
                except (InternalError, Unavailable) as error:
                    refused.append(error.message)
                except Exception as error:
                    refused.append(type(error).__name__)

            sink = Recorder(again)
            server.submit(request("m", [0]), sink)
            await server.unload_model("m")
            backend.run_gate.open()
            await until(lambda: server.repository.index(False)[0]["state"] == "UNAVAILABLE", "unloaded")
            assert len(sink.responses) == len(refused) == 1
            sink.responses.clear()
            sink.react = None

    run(test)


def test_a_request_is_taken_or_refused_when_the_process_has_no_descriptor_left(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more=ONE + "dynamic_batching { max_queue_delay_microseconds: 100 }")

    async def test() -> None:
        async with running(tmp_path) as server:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            last = os.dup(0)
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
            taken = [last]
            try:
                while True:
                    try:
                        taken.append(os.dup(0))
                    except OSError:
                        break
                response = await server.infer(request("m", [[7]]))
                assert response.outputs[0].numpy().tolist() == [[7]]
            finally:
                for fd in taken:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(test)


@pytest.mark.parametrize(("levels", "default"), [(3, 2), (2**64 - 1, 2)])
def test_urgent_requests_overtake_those_that_wait(tmp_path: Path, levels: int, default: int) -> None:
    batching = f"dynamic_batching {{ priority_levels: {levels} default_priority_level: {default} }}"
    write_model(tmp_path, "m", max_batch_size=1, more=ONE + batching)
    backend, sink = GatedBackend(), Recorder()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for index, priority in enumerate([0, 0, levels, 0, 1, levels, 1]):
                server.submit(request("m", [[index]], priority=priority), sink)
            backend.run_gate.open()
            await until(lambda: len(sink.responses) == 7, "all answers")
            # Only the first had begun before anything urgent came.
            assert values(sink) == [[0], [4], [6], [1], [3], [2], [5]]
            sink.responses.clear()

    run(test)


def test_a_failed_batch_answers_all_its_requests_and_the_next_batch_runs(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more=ONE + "dynamic_batching { }")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            tasks = [asyncio.ensure_future(server.infer(request("m", np.full((2, 1), index)))) for index in range(5)]
            first = await backend.run_gate.arrival()
            first.set()
            for failing in (True, False):
                event = await backend.run_gate.arrival()
                if failing:
                    backend.batches[-1].clear()  # the instance then returns no output
                event.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [result for result in results if isinstance(result, InternalError)]
            assert len(failed) == 2
            assert "did not produce output 'OUTPUT0'" in failed[0].message
            assert 'reason="BACKEND",version="1"} 2' in b"".join(await server.metrics_parts()).decode()
            assert server.statistics("m")[0]["inference_stats"]["fail"]["count"] == 2

    run(test)
