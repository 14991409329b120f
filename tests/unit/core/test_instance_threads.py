"""When the threads of instances start: with the first batch, where engines need not be made on their own thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, GatedInstance, GatedModel, until

from triton_async.backends.base import LoadContext, LoadedModel, ModelInstance
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable

EXPLICIT = "--model-control-mode=explicit"
TWO = "instance_group { count: 2 kind: KIND_CPU }"


class FreeInstance(GatedInstance):
    def run(self, inputs: list[object]) -> list[object]:
        self.backend.ran_on.append(threading.get_ident())  # type: ignore[attr-defined]
        return super().run(inputs)  # type: ignore[arg-type]

    def close(self) -> None:
        self.backend.closed_on.append(threading.get_ident())  # type: ignore[attr-defined]
        super().close()


class FreeModel(GatedModel):
    thread_bound = False

    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        self.backend.meet(f"create {name}")
        self.backend.made_on.append(threading.get_ident())  # type: ignore[attr-defined]
        return FreeInstance(self.backend, name, self.context)


class FreeBackend(GatedBackend):
    """Its engines may be made anywhere. Notes the threads that made, ran and closed them."""

    def __init__(self) -> None:
        super().__init__()
        self.made_on: list[int] = []
        self.ran_on: list[int] = []
        self.closed_on: list[int] = []

    def load(self, context: LoadContext) -> LoadedModel:
        self.meet(f"load {context.config.name}")
        return FreeModel(self, context)


def instance_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("instance ")}


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of the system: no instance can start a thread."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("instance "):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_fifty_models_have_no_thread_before_their_first_batch(tmp_path: Path) -> None:
    for index in range(50):
        write_model(tmp_path, f"m{index}", more=TWO)
    before = instance_threads()

    async def test() -> None:
        async with running(tmp_path) as server:
            assert instance_threads() == before
            assert (await server.infer(request("m7", [7]))).outputs[0].numpy().tolist() == [7]
            assert len(instance_threads() - before) == 1
            assert (instance_threads() - before).pop().startswith("instance m7_0_")

    run(test)
    assert instance_threads() == before


def test_engines_are_made_and_closed_on_load_threads_and_run_on_their_own(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=TWO)
    backend = FreeBackend()
    loop_thread = threading.get_ident()

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            assert len(backend.made_on) == 2
            assert loop_thread not in backend.made_on
            await server.infer(request("m", [1]))
            await server.infer(request("m", [2]))
            assert len(set(backend.ran_on)) == 1
            assert not {loop_thread, *backend.made_on} & set(backend.ran_on)
            await server.unload_model("m")
            await until(lambda: len(backend.closed) == 3, "freed")
            assert sorted(backend.closed) == ["m_0_0", "m_0_1", "model 1"]
            assert loop_thread not in backend.closed_on
            # The one that ran is closed where it ran, the other one's thread never was.
            assert len(set(backend.ran_on) & set(backend.closed_on)) == 1

    run(test)


def test_a_thread_that_cannot_start_fails_its_batch_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m")
    backend = FreeBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            with monkeypatch.context() as limit:
                no_threads(limit)
                for _ in range(3):
                    with pytest.raises(Unavailable, match="the thread of model instance 'm_0' could not be started"):
                        await server.infer(request("m", [1]))
            assert backend.ran_on == []
            assert (await server.infer(request("m", [2]))).outputs[0].numpy().tolist() == [2]
            assert "the thread of instance 'm_0' could not be started: can't start new thread" in caplog.text

    run(test)
    assert backend.closed == ["m_0", "model 1"]


def test_an_instance_without_a_thread_leaves_requests_to_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "m", more=TWO)
    backend = FreeBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            backend.run_gate.shut = True
            first = asyncio.ensure_future(server.infer(request("m", [1])))
            running_first = await backend.run_gate.arrival()
            no_threads(monkeypatch)
            with pytest.raises(Unavailable, match="could not be started"):
                await server.infer(request("m", [2]))
            backend.run_gate.open()
            running_first.set()
            await first
            for value in range(3):
                assert (await server.infer(request("m", [value]))).outputs[0].numpy().tolist() == [value]

    run(test)


@pytest.mark.parametrize("trouble", [InvalidArg("words for the client"), RuntimeError("path /secret")])
def test_engines_made_before_one_failed_are_closed_and_so_is_the_model(tmp_path: Path, trouble: Exception) -> None:
    write_model(tmp_path, "m", more="instance_group { count: 3 kind: KIND_CPU }")
    backend = FreeBackend()
    backend.troubles["create m_0_2"] = trouble

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            with pytest.raises(ServerError) as caught:
                await server.load_model("m")
            assert "secret" not in caught.value.message
            assert backend.closed == ["m_0_0", "m_0_1", "model 1"]
            backend.troubles.clear()
            await server.load_model("m")

    run(test)
    trouble.__traceback__ = None


def test_what_a_close_raises_is_logged_and_keeps_nothing_else_from_being_freed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m", more=TWO)
    backend = FreeBackend()

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            backend.troubles["instance close"] = InternalError("stuck")
            await server.unload_model("m")
            await until(lambda: len(backend.closed) == 3, "freed")
            await until(lambda: server.repository.index(False)[0]["state"] == "UNAVAILABLE", "unloaded")

    run(test)
    assert sorted(backend.closed) == ["m_0_0", "m_0_1", "model 1"]
    assert "stuck" in caplog.text
    backend.troubles.clear()
