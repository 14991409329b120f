"""A load of several versions: all of them serve what it brings, or none does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, GatedModel, until

from triton_async.backends.base import LoadContext, LoadedModel, ModelInstance
from triton_async.core.lifecycle import LoadedVersion
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, InvalidArg

EXPLICIT = "--model-control-mode=explicit"
ALL = "version_policy { all {} } "
BROKEN = "Internal: told to fail"


class SomeModel(GatedModel):
    backend: SomeFail

    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        if self.context.version in self.backend.full:
            raise InternalError("told to fail")
        return super().create_instance(name, group, device_id)


class SomeFail(GatedBackend):
    """`broken`: versions that do not load. `slow`: those whose load is held up by the gate. `full`: those that make no
    instance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[int] = set()
        self.slow: set[int] = set()
        self.full: set[int] = set()

    def load(self, context: LoadContext) -> LoadedModel:
        if context.version in self.broken:
            raise InternalError("told to fail")
        if context.version in self.slow:
            self.load_gate.pass_through()
        return SomeModel(self, context)


def write_versions(root: Path, *versions: int, more: str = "") -> None:
    directory = write_model(root, "m", more=ALL + more)
    for version in versions:
        (directory / str(version)).mkdir(exist_ok=True)
        (directory / str(version) / "model.txt").write_text("first")


def rows(server: InferenceServer) -> dict[str, tuple[str, str]]:
    index = server.repository.index(False)
    return {row["version"]: (row["state"], row.get("reason", "")) for row in index if "version" in row}


def served(server: InferenceServer) -> dict[int, LoadedVersion]:
    versions = server.repository.models["m"].versions
    return {version: entry.loaded for version, entry in versions.items() if entry.loaded is not None}


def swapped(server: InferenceServer, before: dict[int, LoadedVersion]) -> set[int]:
    """Versions that another load serves than before, or that are new."""
    return {version for version, loaded in served(server).items() if before.get(version) is not loaded}


READY = ("READY", "")


def test_where_one_version_does_not_load_none_of_the_load_serves(tmp_path: Path) -> None:
    write_versions(tmp_path, 1, 2, 3)
    backend = SomeFail()
    backend.broken = {2}

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            with pytest.raises(InvalidArg) as caught:
                await server.load_model("m")
            assert caught.value.message.strip() == (
                f"load failed for model 'm': version 2 is at UNAVAILABLE state: {BROKEN};"
            )
            gone = ("UNAVAILABLE", "unloaded")
            assert rows(server) == {"1": gone, "2": ("UNAVAILABLE", BROKEN), "3": gone}
            assert sorted(name for name in backend.closed if name.startswith("model")) == ["model 1", "model 3"]
            backend.broken.clear()
            await server.load_model("m")
            assert rows(server) == dict.fromkeys("123", READY)

    run(test)


def test_what_served_goes_on_where_one_version_of_a_reload_fails(tmp_path: Path) -> None:
    write_versions(tmp_path, 1, 2)
    backend = SomeFail()

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            before = served(server)
            # One that is new, one that has another file, and a config that is another for all.
            backend.broken = {3}
            write_versions(tmp_path, 3)
            (tmp_path / "m" / "1" / "model.txt").write_text("other")
            for more in ("", 'metric_tags { key: "a" value: "b" }', "instance_group { count: 3 kind: KIND_CPU }"):
                write_versions(tmp_path, more=more)
                with pytest.raises(InvalidArg, match="load failed for model 'm': version 3 is at UNAVAILABLE state: "):
                    await server.load_model("m")
                assert not swapped(server, before)
                assert rows(server) == {"1": READY, "2": READY, "3": ("UNAVAILABLE", BROKEN)}
                assert [len(loaded.made) for loaded in before.values()] == [1, 1]
            assert (await server.infer(request("m", [1]))).error is None
            backend.broken.clear()
            await server.load_model("m")
            assert rows(server) == dict.fromkeys("123", READY)
            assert swapped(server, before) == {1, 3}
            assert [len(loaded.made) for loaded in served(server).values()] == [3, 3, 3]

    run(test)


def test_instances_change_in_place_for_all_versions_or_for_none(tmp_path: Path) -> None:
    write_versions(tmp_path, 1, 2)
    backend = SomeFail()

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            before = served(server)
            write_versions(tmp_path, more="instance_group { count: 3 kind: KIND_CPU }")
            backend.full = {2}
            with pytest.raises(InvalidArg, match="load failed for model 'm': version 2 is at UNAVAILABLE state: "):
                await server.load_model("m")
            assert [len(loaded.made) for loaded in before.values()] == [1, 1]
            assert len([name for name in backend.closed if name.startswith("m_")]) == 2
            assert (await server.infer(request("m", [1]))).error is None
            backend.full.clear()
            await server.load_model("m")
            assert not swapped(server, before)
            assert [len(loaded.made) for loaded in before.values()] == [3, 3]

    run(test)


def test_all_versions_of_a_load_are_ready_at_once(tmp_path: Path) -> None:
    write_versions(tmp_path, 1, 2)
    backend = SomeFail()
    backend.slow = {1}
    backend.load_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            load = asyncio.ensure_future(server.load_model("m"))
            loading = await backend.load_gate.arrival()
            assert rows(server) == dict.fromkeys("12", ("LOADING", ""))
            loading.set()
            await load
            assert rows(server) == dict.fromkeys("12", READY)
            first = served(server)
            (tmp_path / "m" / "1" / "model.txt").write_text("other")
            (tmp_path / "m" / "2" / "model.txt").write_text("other")
            load = asyncio.ensure_future(server.load_model("m"))
            loading = await backend.load_gate.arrival()
            assert not swapped(server, first)
            loading.set()
            await load
            assert swapped(server, first) == {1, 2}
            await until(lambda: len(backend.closed) == 4, "the end of what served")

    run(test)
