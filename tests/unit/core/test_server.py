"""The server without front-ends: inference, cancellation, queues, load, unload, shutdown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, Recorder, until

from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError, Unavailable
from triton_async.infer.request import InferRequest

EXPLICIT = "--model-control-mode=explicit"


def test_every_request_gets_its_own_answer_from_shared_batches(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8, delay_ms=2, more="dynamic_batching { }")

    async def one(server, index: int) -> None:  # type: ignore[no-untyped-def]
        values = np.full((1 + index % 3, 2 + index // 50), index, np.float32)
        response = await server.infer(request("m", values))
        assert np.array_equal(response.outputs[0].numpy(), values)

    async def test() -> None:
        async with running(tmp_path) as server:
            await asyncio.gather(*(one(server, index) for index in range(200)))
            entry = server.statistics("m")[0]
            assert entry["inference_count"] == sum(1 + index % 3 for index in range(200))
            assert entry["execution_count"] < 150
            assert sum(b["compute_infer"]["count"] for b in entry["batch_stats"]) == entry["execution_count"]
            assert entry["inference_stats"]["success"]["count"] == 200

    run(test)


def test_zero_rows_and_empty_tensors_pass(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more="dynamic_batching { }")
    write_model(tmp_path, "plain")

    async def test() -> None:
        async with running(tmp_path) as server:
            for name, shape in (("m", (0, 3)), ("m", (2, 0)), ("plain", (0,))):
                response = await server.infer(request(name, np.zeros(shape)))
                assert response.outputs[0].shape == shape

    run(test)


def test_a_cancelled_request_is_dropped_from_the_queue_before_it_runs(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="instance_group { count: 1 kind: KIND_CPU }")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            tasks = [asyncio.ensure_future(server.infer(request("m", [index]))) for index in range(20)]
            first = await backend.run_gate.arrival()
            for task in tasks[5:]:
                task.cancel()
            await asyncio.wait(tasks[5:])
            backend.run_gate.open()
            first.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in done[5:])
            assert server.statistics("m")[0]["execution_count"] == 5

    run(test)


def test_a_cancelled_running_request_delivers_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            sink, sent = Recorder(), request("m", [1])
            server.submit(sent, sink)
            running_batch = await backend.run_gate.arrival()
            server.cancel(sent)
            server.cancel(sent)
            running_batch.set()
            loaded = server.repository.models["m"].versions[1].loaded
            await until(lambda: loaded.model.in_flight == 0, "batch back")
            assert sink.responses == []
            assert "reason=\"CANCELED\",version=\"1\"} 1" in b"".join(await server.metrics_parts()).decode()

    run(test)


def test_queue_limits_answer_unavailable_and_count_as_rejected(tmp_path: Path) -> None:
    policy = "default_queue_policy { max_queue_size: 2 default_timeout_microseconds: 30000 }"
    write_model(
        tmp_path, "m", max_batch_size=1,
        more=f"instance_group {{ count: 1 kind: KIND_CPU }} dynamic_batching {{ {policy} }}",
    )  # fmt: skip

    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            tasks = [asyncio.ensure_future(server.infer(request("m", [[index]]))) for index in range(6)]
            await until(lambda: sum(task.done() for task in tasks) == 5, "refusals and timeouts")
            backend.run_gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            messages = [r.message for r in results if isinstance(r, Unavailable)]
            # One runs, two wait and time out, three find the queue full.
            assert sum("Exceeds maximum queue size" in m for m in messages) == 3
            assert messages.count("Request timeout expired") == 2
            assert "reason=\"REJECTED\",version=\"1\"} 5" in b"".join(await server.metrics_parts()).decode()

    run(test)


def test_preserved_order_holds_back_faster_answers(tmp_path: Path) -> None:
    write_model(
        tmp_path, "m", max_batch_size=1,
        more="instance_group { count: 4 kind: KIND_CPU } dynamic_batching { preserve_ordering: true }",
    )  # fmt: skip

    async def test() -> None:
        async with running(tmp_path) as server:
            sink = Recorder()
            sent = [request("m", [[index]]) for index in range(200)]
            for item in sent:
                server.submit(item, sink)
            server.cancel(sent[3])
            await until(lambda: len(sink.responses) == 199, "all answers")
            assert [r.request for r in sink.responses] == sent[:3] + sent[4:]

    run(test)


def test_lookups_answer_as_triton_does(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "other")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m") as server:
            for name, version, error, text in (
                ("nope", -1, NotFound, "Request for unknown model: 'nope' is not found"),
                ("other", -1, NotFound, "Request for unknown model: 'other' is not found"),
                ("m", 9, NotFound, "Request for unknown model: 'm' version 9 is not found"),
            ):
                with pytest.raises(error) as caught:
                    await server.infer(InferRequest(name, version))
                assert caught.value.message == text
            await server.unload_model("m")
            with pytest.raises(NotFound, match="'m' has no available versions"):
                await server.infer(InferRequest("m"))
            with pytest.raises(Unavailable, match="'m' version 1 is not at ready state"):
                await server.infer(InferRequest("m", 1))
            with pytest.raises(InvalidArg, match="requested model 'nope' is not available"):
                server.statistics("nope")

    run(test)


def test_load_and_unload_are_refused_outside_explicit_mode(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            for call in (server.load_model("m"), server.unload_model("m")):
                with pytest.raises(Unavailable, match="explicit model load / unload is not allowed"):
                    await call

    run(test)


def test_a_reload_swaps_without_losing_a_request(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m", delay_ms=1)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=*") as server:
            stop = False
            served = 0

            async def client() -> None:
                nonlocal served
                while not stop:
                    response = await server.infer(request("m", [7]))
                    assert response.outputs[0].numpy()[0] == 7
                    served += 1

            clients = [asyncio.ensure_future(client()) for _ in range(8)]
            for version in range(2, 8):
                (directory / str(version)).mkdir()
                await server.load_model("m")
                assert server.model_metadata("m")["versions"] == [str(version)]
            stop = True
            await asyncio.gather(*clients)
            assert served > 0
            index = {row["version"]: row for row in server.repository.index(False)}
            assert index["7"]["state"] == "READY"
            assert index["1"] == {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
            assert server.ready()

    run(test)


def test_a_failed_reload_keeps_the_old_version_serving(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m") as server:
            good = (directory / "config.pbtxt").read_text()
            (directory / "config.pbtxt").write_text("max_batch_size: oops")
            with pytest.raises(InternalError, match="failed to load 'm', failed to poll from model repository"):
                await server.load_model("m")
            assert (await server.infer(request("m", [3]))).outputs[0].numpy()[0] == 3
            (directory / "config.pbtxt").write_text(good.replace('"0"', '"soon"'))
            with pytest.raises(InvalidArg, match="load failed for model 'm': version 1 is at UNAVAILABLE state: "):
                await server.load_model("m")
            assert (await server.infer(request("m", [4]))).outputs[0].numpy()[0] == 4
            (directory / "config.pbtxt").write_text(good)
            await server.load_model("m")

    run(test)


def test_bad_names_and_parameters_of_loads(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            for name, error in (
                ("", InvalidArg), ("  ", InvalidArg), ("../m", InvalidArg), ("a/b", InvalidArg),
                ("nope", InternalError), ("a\0b", InvalidArg), ("x" * 300, InternalError),
            ):  # fmt: skip
                with pytest.raises(error):
                    await server.load_model(name)
            for parameters in ({"config": "{"}, {"file:1/x": b""}, {"config": "{}", "file:../x": b""}):
                with pytest.raises(InternalError, match="failed to poll from model repository: "):
                    await server.load_model("m", parameters)
            await server.unload_model("nope")

    run(test)


def test_the_same_name_in_two_repositories_does_not_load(tmp_path: Path) -> None:
    for root in ("a", "b"):
        write_model(tmp_path / root, "m")

    async def test() -> None:
        async with running(tmp_path / "a", f"--model-repository={tmp_path / 'b'}") as server:
            assert server.ready()  # as in Triton, which knows of no such model
            row = server.repository.index(False)[0]
            assert (row["state"], row["reason"]) == ("UNAVAILABLE", "model appears in two or more repositories")

    run(test)


def test_stopping_finishes_what_is_in_flight(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=20, more="instance_group { count: 1 kind: KIND_CPU }")

    async def test() -> None:
        async with running(tmp_path) as server:
            tasks = [asyncio.ensure_future(server.infer(request("m", [index]))) for index in range(5)]
            await asyncio.sleep(0)
            await server.stop()
            assert [t.result().outputs[0].numpy()[0] for t in tasks] == [0, 1, 2, 3, 4]
            with pytest.raises(Unavailable):
                await server.infer(request("m", [1]))
            with pytest.raises(Unavailable, match="Server exiting"):
                server.live()

    run(test)


def test_parallel_loads_unloads_and_requests_leave_a_legal_state(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            async def control(index: int) -> None:
                for turn in range(10):
                    try:
                        if (index + turn) % 3:
                            (directory / f"touched{index}").write_text(str(turn))
                            await server.load_model("m")
                        else:
                            await server.unload_model("m")
                    except ServerError as error:
                        raise AssertionError(error.message) from error

            async def client() -> None:
                for _ in range(100):
                    try:
                        await server.infer(request("m", [1]))
                    except (InvalidArg, NotFound, Unavailable):
                        await asyncio.sleep(0.001)

            await asyncio.gather(*(control(i) for i in range(6)), *(client() for _ in range(6)))
            await server.load_model("m")
            assert (await server.infer(request("m", [5]))).outputs[0].numpy()[0] == 5

    run(test)
