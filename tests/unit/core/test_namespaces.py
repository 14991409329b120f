"""Models of one name in several repositories (--model-namespacing)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from test_ensembles_life import write_ensemble

from triton_async.core.server import InferenceServer
from triton_async.errors import InvalidArg, NotFound, ServerError

AMBIGUOUS = (
    "There are 2 identifiers of model 'both' in global map, model namespace must be provided to resolve ambiguity."
)
EXPLICIT = "--model-control-mode=explicit"


def repositories(tmp_path: Path, *options: str) -> tuple[Path, list[str]]:
    """`a` and `b`, whose models `both` differ in how many rows they take; and the options of a server with both."""
    for name, rows in (("a", 2), ("b", 4)):
        write_model(tmp_path / name, "both", max_batch_size=rows)
        write_model(tmp_path / name, f"only_{name}")
    return tmp_path / "a", ["--model-namespacing=true", f"--model-repository={tmp_path / 'b'}", *options]


async def ready(server: InferenceServer) -> list[str]:
    return [row["name"] for row in await server.repository_index(ready_only=True)]


async def ask(server: InferenceServer, name: str) -> list[float]:
    response = await server.infer(request(name, [[1.0, 2.0]] if "both" in name else [1.0, 2.0]))
    if response.error is not None:
        raise response.error
    found: list[float] = response.outputs[0].numpy().ravel().tolist()
    return found


def test_names_mean_the_only_model_and_keys_one_of_several(tmp_path: Path) -> None:
    root, options = repositories(tmp_path)

    async def test() -> None:
        async with running(root, *options) as server:
            assert await ready(server) == ["both", "only_a", "both", "only_b"]
            assert await ask(server, "only_a") == [1, 2]
            with pytest.raises(InvalidArg) as caught:
                await ask(server, "both")
            assert caught.value.message == AMBIGUOUS
            for name, rows in (("a", 2), ("b", 4)):
                key = f"{tmp_path / name}::both"
                assert await ask(server, key) == [1, 2]
                assert server.model_config(key).max_batch_size == rows
                assert [entry["inference_count"] for entry in server.statistics(key)] == [1]
            with pytest.raises(InvalidArg, match="Request for unknown model: 'neither' is not found"):
                await ask(server, "neither")
            with pytest.raises(ServerError):
                server.model_ready("both")
            assert server.ready() and len(server.statistics()) == 4

    run(test)


def test_without_namespaces_a_name_of_two_repositories_is_none(tmp_path: Path) -> None:
    root, options = repositories(tmp_path)

    async def test() -> None:
        async with running(root, *options[1:], "--strict-readiness=false") as server:
            assert await ready(server) == ["only_a", "only_b"]
            with pytest.raises(NotFound):
                await ask(server, f"{tmp_path / 'a'}::only_a")

    run(test)


def test_ensembles_take_the_models_of_their_own_repository_first(tmp_path: Path) -> None:
    root, options = repositories(tmp_path, "--strict-readiness=false")
    for name in ("a", "b"):
        write_ensemble(tmp_path / name, f"e_{name}", "only_a", "only_b")
    write_model(tmp_path / "b", "only_a")
    (tmp_path / "c").mkdir()
    write_ensemble(tmp_path / "c", "lost", "only_a")

    async def test() -> None:
        async with running(root, *options, f"--model-repository={tmp_path / 'c'}") as server:
            for name, first in (("e_a", "a"), ("e_b", "b")):
                assert await ask(server, name) == [1, 2]
                steps = server.model_config(name).ensemble_scheduling.step
                assert [step.model_namespace for step in steps] == [str(tmp_path / first), str(tmp_path / "b")]
            (reason,) = [row["reason"] for row in await server.repository_index() if row["name"] == "lost"]
            assert reason == "ensemble lost contains models that are not available or ambiguous: only_a"

    run(test)


def test_a_load_is_of_all_models_of_the_name_and_a_key_of_one(tmp_path: Path) -> None:
    root, options = repositories(tmp_path, EXPLICIT)
    key = f"{tmp_path / 'b'}::both"

    async def test() -> None:
        async with running(root, *options) as server:
            assert await ready(server) == []
            await server.load_model(key)
            # The other one is not loaded, and not meant.
            assert server.model_config("both").max_batch_size == 4
            await server.load_model("both")
            assert await ready(server) == ["both", "both"]
            with pytest.raises(InvalidArg, match="2 identifiers"):
                await ask(server, "both")
            await server.unload_model(key)
            assert server.model_config("both").max_batch_size == 2
            await server.unload_model("both")
            assert await ready(server) == []
            with pytest.raises(ServerError, match="path traversal"):
                await server.load_model(f"{tmp_path / 'c'}::both")
            with pytest.raises(ServerError, match="failed to poll from model repository"):
                await server.load_model(f"{tmp_path / 'b'}::../a/both")
            with pytest.raises(ServerError, match="failed to load 'neither'"):
                await server.load_model("neither")

    run(test)


def test_an_ensemble_that_is_loaded_brings_the_models_of_its_repository(tmp_path: Path) -> None:
    root, options = repositories(tmp_path, EXPLICIT)
    write_ensemble(tmp_path / "b", "e", "only_b")
    write_model(tmp_path / "a", "only_b")

    async def test() -> None:
        async with running(root, *options) as server:
            await server.load_model("e")
            assert await ready(server) == ["e", "only_b"]
            assert await ask(server, "e") == [1, 2] == await ask(server, "only_b")
            await server.unload_model("e", True)
            assert await ready(server) == []

    run(test)


def test_a_model_that_goes_makes_its_name_plain(tmp_path: Path) -> None:
    root, options = repositories(tmp_path, EXPLICIT, "--load-model=both")

    async def test() -> None:
        async with running(root, *options) as server:
            with pytest.raises(InvalidArg, match="2 identifiers"):
                await ask(server, "both")
            shutil.rmtree(tmp_path / "b" / "both")
            await server.load_model("both")
            assert server.model_config("both").max_batch_size == 2

    run(test)


def test_metrics_have_the_namespace(tmp_path: Path) -> None:
    root, options = repositories(tmp_path)

    async def test() -> None:
        async with running(root, *options) as server:
            await ask(server, f"{root}::both")
            page = b"".join(await server.metrics_parts()).decode()
            for name, count in (("a", 1), ("b", 0)):
                labels = f'model="both",namespace="{tmp_path / name}",version="1"'
                assert f"nv_inference_request_success{{{labels}}} {count}\n" in page

    run(test)
