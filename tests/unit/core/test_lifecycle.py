"""Loads and unloads that are interrupted, fail in odd ways or meet each other; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, until

from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable

EXPLICIT = "--model-control-mode=explicit"
THREE = "instance_group { count: 3 kind: KIND_CPU }"


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_of_others() -> None:
    """A server that other tests share may run in this process."""
    _others.clear()
    _others.update(threading.enumerate())


def instance_threads() -> list[str]:
    """Instance threads that this test made."""
    made = [thread for thread in threading.enumerate() if thread not in _others]
    return [thread.name for thread in made if thread.name.startswith("instance ")]


def test_a_load_goes_on_when_its_caller_leaves(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.load_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            caller = asyncio.ensure_future(server.load_model("m"))
            loading = await backend.load_gate.arrival()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert server.repository.index(False)[0]["state"] == "LOADING"
            loading.set()
            await until(lambda: server.repository.index(False)[0]["state"] == "READY", "loaded")
            assert (await server.infer(request("m", [3]))).outputs[0].numpy().tolist() == [3]

    run(test)
    assert instance_threads() == []
    assert backend.closed == ["m_0", "model 1"]


def test_stopping_waits_for_a_load_and_frees_it(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "other")
    backend = GatedBackend()
    backend.load_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            loads = [asyncio.ensure_future(server.load_model("m")) for _ in range(2)]
            loading = await backend.load_gate.arrival()
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="Server exiting"):
                await server.load_model("other")
            assert not stop.done()
            loading.set()
            await stop
            assert instance_threads() == []
            assert backend.closed == ["m_0", "model 1"]
            results = await asyncio.gather(*loads, return_exceptions=True)
            assert results[0] is None
            assert isinstance(results[1], Unavailable)
            with pytest.raises(Unavailable, match="Server exiting"):
                await server.load_model("m")
            assert server.repository.index(False)[0]["state"] == "UNAVAILABLE"

    run(test)


def test_unloading_while_loading_happens_after_it(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.load_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            load = asyncio.ensure_future(server.load_model("m"))
            loading = await backend.load_gate.arrival()
            unload = asyncio.ensure_future(server.unload_model("m"))
            await asyncio.sleep(0)
            loading.set()
            await asyncio.gather(load, unload)
            await until(lambda: server.repository.index(False)[0]["state"] == "UNAVAILABLE", "unloaded")
            assert server.repository.index(False)[0]["reason"] == "unloaded"
            assert instance_threads() == []

    run(test)


def test_a_version_on_its_way_out_says_so_until_it_is_gone(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m", more="instance_group { count: 1 kind: KIND_CPU }")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            def state() -> str:
                return server.repository.index(False)[0]["state"]

            tasks = [asyncio.ensure_future(server.infer(request("m", [1])))]
            first = await backend.run_gate.arrival()
            await server.unload_model("m")
            await server.unload_model("m")
            assert state() == "UNLOADING"
            await server.load_model("m")
            tasks.append(asyncio.ensure_future(server.infer(request("m", [2]))))
            second = await backend.run_gate.arrival()
            await server.unload_model("m")
            first.set()
            await until(lambda: len(backend.closed) == 2, "the first load is freed")
            await tasks[0]
            assert state() == "UNLOADING"
            second.set()
            await until(lambda: state() == "UNAVAILABLE", "unloaded")
            await tasks[1]
            assert directory.exists()

    run(test)


@pytest.mark.parametrize("place", ["inspect", "load bad", "create bad_0_0", "create bad_0_2"])
@pytest.mark.parametrize("trouble", [
    RuntimeError("path /secret"), OSError(5, "oops", "/secret"), KeyError("/secret"), MemoryError(),
    UnicodeDecodeError("utf-8", b"", 0, 1, "/secret"), InvalidArg("words for the client"),
], ids=lambda trouble: type(trouble).__name__)  # fmt: skip
def test_whatever_a_backend_raises_fails_one_model(tmp_path: Path, place: str, trouble: BaseException) -> None:
    write_model(tmp_path, "good")
    directory = write_model(tmp_path, "bad", more=THREE)
    text = (directory / "config.pbtxt").read_text()
    backend = GatedBackend()
    backend.troubles[place] = trouble

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=bad", backends=backend) as server:
            rows = {row["name"]: row for row in server.repository.index(False)}
            assert rows["bad"]["state"] == "UNAVAILABLE"
            assert "secret" not in rows["bad"]["reason"]
            assert instance_threads() == []
            with pytest.raises(ServerError):
                await server.load_model("bad")
            backend.troubles.clear()
            (directory / "config.pbtxt").write_text(text)
            await server.load_model("good")
            await server.load_model("bad")
            assert server.ready()
            assert len(instance_threads()) == 4

    if place == "inspect":  # only incomplete configs make a backend look at the model
        (directory / "config.pbtxt").write_text(text[: text.index("input {")] + THREE)
    run(test)
    trouble.__traceback__ = trouble.__context__ = trouble.__cause__ = None
    assert instance_threads() == []


def test_instances_made_before_one_failed_are_closed_and_so_is_the_model(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=THREE)
    backend = GatedBackend()
    backend.troubles["create m_0_1"] = InternalError("no memory for this one")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            with pytest.raises(InvalidArg, match="Internal: no memory for this one"):
                await server.load_model("m")
            assert sorted(backend.closed) == ["m_0_0", "m_0_2", "model 1"]
            assert instance_threads() == []

    run(test)
    backend.troubles.clear()


def test_threads_that_cannot_be_started_fail_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "m", more=THREE)
    backend = GatedBackend()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "instance m_0_1":
            raise RuntimeError("can't start new thread")
        start(thread)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            monkeypatch.setattr(threading.Thread, "start", limited)
            with pytest.raises(InvalidArg, match="the thread of instance 'm_0_1' could not be started"):
                await server.load_model("m")
            assert instance_threads() == []
            assert sorted(backend.closed) == ["m_0_0", "m_0_2", "model 1"]
            monkeypatch.setattr(threading.Thread, "start", start)
            await server.load_model("m")

    run(test)


@pytest.mark.parametrize("place", ["close", "instance close"])
def test_a_backend_that_fails_to_close_does_not_hold_up_the_rest(tmp_path: Path, place: str) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.troubles[place] = RuntimeError("stuck")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            await server.unload_model("m")
            await until(lambda: "model 1" in backend.closed, "freed")
            await until(lambda: server.repository.index(False)[0]["state"] == "UNAVAILABLE", "unloaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)
        run(test)
    assert instance_threads() == []


@pytest.mark.parametrize("name", [
    b"\xff\xfe", b"caf\xe9", "modèle".encode(), b"a b", b"a\nb", b"x" * 255, b"-", b"'\"", b"\x1b[2J",
])  # fmt: skip
def test_any_directory_name_lets_the_server_start_and_describe_itself(tmp_path: Path, name: bytes) -> None:
    write_model(tmp_path, "good")
    os.rename(write_model(tmp_path, "odd"), os.fsencode(tmp_path) + b"/" + name)

    async def test() -> None:
        async with running(tmp_path) as server:
            for row in await server.repository_index():
                assert all(isinstance(value.encode(), bytes) for value in row.values())
            assert b'model="good"' in b"".join(await server.metrics_parts())
            server.ready()
            await server.infer(request("good", [1]))

    run(test)


def test_odd_entries_of_a_repository_are_no_models(tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    (tmp_path / "file").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")

    async def test() -> None:
        async with running(tmp_path) as server:
            assert [row["name"] for row in await server.repository_index()] == ["good"]
            assert server.ready()

    run(test)


def test_watchers_of_readiness_that_leave_are_forgotten(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            async def watch_and_leave() -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await server.readiness_change()

            await watch_and_leave()
            gc.collect()
            before = sum(isinstance(item, asyncio.Future) for item in gc.get_objects())
            for _ in range(200):
                await watch_and_leave()
            gc.collect()
            assert sum(isinstance(item, asyncio.Future) for item in gc.get_objects()) < before + 100
            watching = asyncio.ensure_future(server.readiness_change())
            await asyncio.sleep(0)
            await server.load_model("m")
            await watching

    run(test)


def test_an_unreadable_repository_is_not_named_to_clients(tmp_path: Path) -> None:
    root = tmp_path / "secret"
    write_model(root, "m")

    async def test() -> None:
        async with running(root) as server:
            root.rename(tmp_path / "elsewhere")
            with pytest.raises(InternalError) as caught:
                await server.repository_index()
            assert "secret" not in caught.value.message
            assert "No such file or directory" in caught.value.message

    run(test)
