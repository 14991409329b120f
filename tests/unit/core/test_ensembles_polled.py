"""Ensembles in poll mode, and with configs that load requests bring."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_harness import request, run, running, write_model
from test_ensembles_life import GONE, READY, settled, states, write_ensemble

from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError

POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")
EXPLICIT = ("--model-control-mode=explicit", "--load-model=e")


async def until(holds: Callable[[], bool], server: InferenceServer) -> None:
    # Counted in turns of the loop: however long the machine stands still, the server has had its turns, too.
    for _ in range(3000):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(states(server))


async def ask(server: InferenceServer, name: str) -> list[float]:
    response = await server.infer(request(name, [1, 2]))
    if response.error is not None:
        raise response.error
    found: list[float] = response.outputs[0].numpy().tolist()
    return found


def touch(path: Path) -> None:
    """Another time of change than it had, whatever the clock's steps."""
    os.utime(path, ns=(1, time.time_ns()))


def state(server: InferenceServer, name: str) -> tuple[str, str]:
    return states(server).get(name, ("", ""))


def test_an_ensemble_follows_what_is_in_the_repository(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, *POLL) as server:
            # It comes before a model that it asks, and waits for that.
            write_ensemble(tmp_path, "e", "m", "n")
            await until(lambda: "e" in server.repository.models, server)
            with pytest.raises(ServerError):
                await ask(server, "e")
            write_model(tmp_path, "n")
            await until(lambda: state(server, "e") == READY, server)
            assert await ask(server, "e") == [1, 2]
            # A model goes, and takes it along; both come back.
            shutil.rmtree(tmp_path / "n")
            await until(lambda: state(server, "n") == GONE and state(server, "e")[0] == "UNAVAILABLE", server)
            with pytest.raises(NotFound):
                await ask(server, "e")
            write_model(tmp_path, "n")
            await until(lambda: state(server, "e") == READY, server)
            # It goes itself, and leaves its models.
            shutil.rmtree(tmp_path / "e")
            await until(lambda: state(server, "e") == GONE, server)
            assert await ask(server, "m") == [1, 2]

    run(test)


def test_no_request_is_lost_while_its_models_are_polled_anew(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m", max_batch_size=0)
    write_ensemble(tmp_path, "e", "m", "m")

    async def test() -> None:
        async with running(tmp_path, *POLL) as server:
            done = 0
            before = server.repository.models["m"].versions[1].loaded
            for number in range(3):
                write_model(tmp_path, "m", delay_ms=number + 1)
                touch(directory / "config.pbtxt")
                while server.repository.models["m"].versions[1].loaded is before:
                    assert await ask(server, "e") == [1, 2]
                    done += 1
                before = server.repository.models["m"].versions[1].loaded
            (found,) = server.statistics("e")
            assert done > 10
            assert found["inference_stats"]["fail"]["count"] == 0

    run(test)


def test_a_circle_that_appears_is_refused_until_it_is_gone(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_ensemble(tmp_path, "a", "m")
    write_ensemble(tmp_path, "b", "a")

    async def test() -> None:
        async with running(tmp_path, *POLL) as server:
            assert [state(server, name) for name in "ab"] == [READY, READY]
            write_ensemble(tmp_path, "a", "b")
            touch(tmp_path / "a" / "config.pbtxt")
            await asyncio.sleep(1.5)
            # What was there before goes on.
            assert await ask(server, "b") == [1, 2]
            shutil.rmtree(tmp_path / "m")
            await until(lambda: state(server, "b")[0] == "UNAVAILABLE", server)
            write_model(tmp_path, "m")
            write_ensemble(tmp_path, "a", "m")
            touch(tmp_path / "a" / "config.pbtxt")
            await until(lambda: [state(server, name) for name in "ab"] == [READY, READY], server)
            assert await ask(server, "b") == [1, 2]

    run(test)


def ensemble_config(*models: str) -> dict[str, Any]:
    """Of a chain, as a load request brings it."""
    tensors = ["INPUT0", *(f"t{i}" for i in range(1, len(models))), "OUTPUT0"]
    return {
        "platform": "ensemble",
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": model, "model_version": -1, "input_map": {"INPUT0": tensors[i]},
                    "output_map": {"OUTPUT0": tensors[i + 1]},
                }
                for i, model in enumerate(models)
            ]
        },
    }  # fmt: skip


def test_a_load_may_bring_the_config_of_an_ensemble(tmp_path: Path) -> None:
    for name in ("m", "n"):
        write_model(tmp_path, name)
    write_ensemble(tmp_path, "e", "m")

    async def load(server: InferenceServer, *models: str) -> None:
        await server.load_model("e", {"config": json.dumps(ensemble_config(*models))})

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            assert state(server, "n") == ("", "")
            await load(server, "m", "n")
            assert await ask(server, "e") == [1, 2]
            assert state(server, "n") == READY
            (counted,) = server.statistics("n")
            assert counted["inference_count"] == 1
            # Bad ones change nothing.
            for models, error, text in (
                (("m", "x"), InvalidArg, "contains models that are not available or ambiguous: x"),
                (("e",), InvalidArg, "circular dependency between ensembles: e -> e"),
            ):
                with pytest.raises(error, match=text):
                    await load(server, *models)
                assert await ask(server, "e") == [1, 2]
            with pytest.raises(InternalError, match="failed to load 'e'"):
                await server.load_model("e", {"config": json.dumps({"platform": "ensemble", "nonsense": 1})})
            assert await ask(server, "e") == [1, 2]
            # The repository's own again.
            await server.load_model("e")
            before = server.statistics("n")[0]["inference_count"]
            assert await ask(server, "e") == [1, 2]
            assert server.statistics("n")[0]["inference_count"] == before

    run(test)


def test_a_step_that_is_loaded_with_another_config_takes_the_ensemble_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m")
    write_ensemble(tmp_path, "e", "m")
    config: dict[str, Any] = {
        "backend": "identity",
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    }

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            await server.load_model("m", {"config": json.dumps(config | {"max_batch_size": 8})})
            assert await ask(server, "e") == [1, 2]
            other = json.loads(json.dumps(config).replace("TYPE_FP32", "TYPE_INT32"))
            await server.load_model("m", {"config": json.dumps(other)})
            assert (await settled(server))["e"] == GONE
            assert "'e' is not served while it does not fit the models of its steps" in caplog.text
            assert "inconsistent data type" in caplog.text
            await server.load_model("m")
            assert state(server, "e") == READY
            assert await ask(server, "e") == [1, 2]

    run(test)
