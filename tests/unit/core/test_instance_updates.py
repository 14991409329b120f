"""Loads that change nothing but the instances of a model, or its version policy: it goes on serving meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from core_harness import live_objects, request, run, running, write_model

from triton_async.config.override import parse_override
from triton_async.core.lifecycle import LoadedVersion
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError

EXPLICIT = ("--model-control-mode=explicit", "--load-model=m")


def group(count: int, name: str = "g", more: str = "") -> str:
    return f'instance_group {{ name: "{name}" count: {count} kind: KIND_CPU {more} }}'


def loaded(server: InferenceServer) -> LoadedVersion:
    version = server.repository.models["m"].versions[1].loaded
    assert version is not None
    return version


def names(server: InferenceServer) -> list[str]:
    return [instance.name for instance in loaded(server).made.values()]


async def until_gone(version: LoadedVersion) -> None:
    while version.leaving:
        await asyncio.wait(version.leaving)


def test_instances_come_and_go_and_the_model_stays(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=group(2))

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            version, model = loaded(server), loaded(server).model
            kept = dict(version.made)
            await server.infer(request("m", [1.0]))
            for count in (4, 1, 3):
                write_model(tmp_path, "m", more=group(count))
                await server.load_model("m")
                assert loaded(server) is version and version.model is model
                assert names(server) == [f"g_{i}" for i in range(count)]
                assert server.model_config("m").instance_group[0].count == count
                assert len(await asyncio.gather(*(server.infer(request("m", [i])) for i in range(20)))) == 20
                await until_gone(version)
            first = next(iter(kept))
            assert version.made[first] is kept[first]
            assert server.statistics("m")[0]["inference_count"] == 61

    before = live_objects()
    run(test)
    assert live_objects() == before


def test_names_and_groups_do_not_matter_and_passive_ones_get_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=group(2))

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            model, made = loaded(server).model, list(loaded(server).made.values())
            idle = group(1, "idle", "passive: true")
            for groups in (group(2, "other"), group(1, "a") + group(1, "b"), group(1) + idle + group(1, "c")):
                write_model(tmp_path, "m", more=groups)
                await server.load_model("m")
                assert loaded(server).model is model
                assert [instance for instance in loaded(server).made.values() if instance in made] == made
                await server.infer(request("m", [1.0]))
            assert names(server) == ["g_0", "idle_0", "g_1"]
            assert [instance.name for instance in loaded(server).passive] == ["idle_0"]
            write_model(tmp_path, "m", more=group(1, "other"))
            await server.load_model("m")
            assert loaded(server).model is model and names(server) == ["g_0"]
            await until_gone(loaded(server))

    run(test)


@pytest.mark.parametrize("change", ["files", "config", "override"])
def test_what_differs_in_more_is_loaded_anew(tmp_path: Path, change: str) -> None:
    write_model(tmp_path, "m", more=group(1))

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            model = loaded(server).model
            if change == "files":
                (tmp_path / "m" / "1" / "weights").write_bytes(b"new")
            write_model(tmp_path, "m", max_batch_size=8 * (change == "config"), more=group(2))
            if change == "override":
                config = {"backend": "identity", "max_batch_size": 4, "instance_group": [{"count": 2}],
                          "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
                          "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]}  # fmt: skip
                await server.repository.load("m", parse_override({"config": json.dumps(config)}))
            else:
                await server.load_model("m")
            assert loaded(server).model is not model and len(names(server)) == 2

    run(test)


def test_a_version_that_comes_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    policy = "version_policy { all { } }"
    write_model(tmp_path, "m", more=group(1) + policy)

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            first = loaded(server).model
            (tmp_path / "m" / "2").mkdir()
            await server.load_model("m")
            assert server.repository.models["m"].ready() == [1, 2] and loaded(server).model is first
            write_model(tmp_path, "m", more=group(1))
            await server.load_model("m")
            assert server.repository.models["m"].ready() == [2]

    run(test)


def test_what_an_instance_has_begun_is_finished_and_what_it_has_not_goes_to_others(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=100, more=group(4))

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            version = loaded(server)
            asked = [asyncio.ensure_future(server.infer(request("m", [float(i)]))) for i in range(12)]
            await asyncio.sleep(0.02)
            write_model(tmp_path, "m", delay_ms=100, more=group(1))
            await server.load_model("m")
            assert names(server) == ["g_0"]
            answers = await asyncio.gather(*asked)
            assert [float(answer.outputs[0].numpy()[0]) for answer in answers] == list(range(12))
            await until_gone(version)
            # And all of it may end while some are on their way out.
            asked = [asyncio.ensure_future(server.infer(request("m", [float(i)]))) for i in range(3)]
            write_model(tmp_path, "m", delay_ms=100, more=group(1, "other"))
            await server.load_model("m")
            await server.unload_model("m")
            assert len(await asyncio.gather(*asked)) == 3

    before = live_objects()
    run(test)
    assert live_objects() == before


def test_instances_that_can_not_be_made_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "m", more=group(1))

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            version = loaded(server)

            def fail(name: str, group: object, device: int) -> object:
                raise ServerError("no room for it")

            monkeypatch.setattr(version.loaded, "create_instance", fail)
            write_model(tmp_path, "m", more=group(2))
            with pytest.raises(ServerError, match="no room for it"):
                await server.load_model("m")
            assert loaded(server) is version and names(server) == ["g_0"]
            assert server.model_config("m").instance_group[0].count == 1
            await server.infer(request("m", [1.0]))
            monkeypatch.undo()
            await server.load_model("m")
            assert loaded(server) is version and names(server) == ["g_0", "g_1"]

    run(test)
