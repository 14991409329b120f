"""Many models in one server: what they cost when they do nothing, and that one does not wait for another."""

from __future__ import annotations

import asyncio
import builtins
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from core_harness import request, run, running, write_model
from gated_backend import PATIENCE_S, Gate, GatedBackend, until
from onnx import TensorProto, helper

from triton_async.core import files
from triton_async.core.server import InferenceServer
from triton_async.defines import FILE_THREADS, STATISTICS_PER_TURN, UNLOAD_THREADS
from triton_async.errors import InternalError, ServerError

EXPLICIT = "--model-control-mode=explicit"
ALL = (EXPLICIT, "--load-model=*")


def write_onnx(root: Path, name: str) -> None:
    """An identity model FP32[n,2] without a config."""
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["n", 2]) for port in ("INPUT0", "OUTPUT0")]
    graph = helper.make_graph([helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])], "g", ports[:1], ports[1:])
    (root / name / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, root / name / "1" / "model.onnx")


def process_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def states(server: InferenceServer) -> dict[str, str]:
    return {row["name"]: row.get("state", "") for row in server.repository.index(False)}


def test_statistics_of_many_models_let_others_have_turns_in_between(tmp_path: Path) -> None:
    count = 5 * STATISTICS_PER_TURN + 1
    for index in range(count):
        write_model(tmp_path, f"m{index:03}")

    async def test() -> None:
        async with running(tmp_path) as server:
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            other = asyncio.ensure_future(others())
            entries = await server.all_statistics()
            other.cancel()
            assert turns >= 5
            assert entries == server.statistics()
            assert [entry["name"] for entry in entries] == [f"m{index:03}" for index in range(count)]
            assert server.statistics("m007") == server.statistics("m007", 1) == [entries[7]]
            for name, version in (("nobody", -1), ("m007", 2)):
                with pytest.raises(ServerError, match="is not available"):
                    server.statistics(name, version)

    run(test)


def test_fifty_onnx_models_take_the_threads_of_one(tmp_path: Path) -> None:
    for index in range(50):
        write_onnx(tmp_path, f"m{index}")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("m0")
            before = process_threads()
            await asyncio.gather(*(server.load_model(f"m{index}") for index in range(50)))
            # Those that load, unload and look at files start when they are wanted.
            workers = 4 + UNLOAD_THREADS + FILE_THREADS
            assert process_threads() <= before + workers
            assert len(states(server)) == 50
            assert set(states(server).values()) == {"READY"}
            for index in (3, 33):
                response = await server.infer(request(f"m{index}", [[1, 2]]))
                assert response.outputs[0].numpy().tolist() == [[1, 2]]
            assert process_threads() <= before + workers + 2

    run(test)


class Watch:
    """Notes who asks the file system for something below `root`."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self._root = str(root)
        self.asked: list[tuple[str, bool]] = []
        self._loop_thread = threading.get_ident()
        for module, name in (
            (os, "scandir"), (os, "listdir"), (os, "stat"), (os, "lstat"), (os, "open"), (os, "readlink"),
            (os, "access"), (io, "open"), (builtins, "open"),
        ):  # fmt: skip
            patch.setattr(module, name, self._watched(name, getattr(module, name)))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Any = ".", *arguments: Any, **more: Any) -> Any:
            if not isinstance(path, int) and os.fsdecode(path).startswith(self._root):
                self.asked.append((name, threading.get_ident() == self._loop_thread))
            return function(path, *arguments, **more)

        return watched


def test_the_loop_thread_does_not_touch_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "m")
    write_onnx(tmp_path, "onnx")
    (tmp_path / "broken" / "1").mkdir(parents=True)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m") as server:
            watch = Watch(tmp_path, monkeypatch)
            assert len(await server.repository_index()) == 3
            await server.repository_index(ready_only=True)
            for name in ("onnx", "m", "broken", "nope", ""):
                try:
                    await server.load_model(name)
                except ServerError:
                    assert name in {"broken", "nope", ""}
            (tmp_path / "m" / "config.pbtxt").write_text((tmp_path / "m" / "config.pbtxt").read_text() + "\n")
            os.utime(tmp_path / "m" / "config.pbtxt", ns=(1, 1))
            watch.asked.clear()  # this test's own
            await server.load_model("m")
            await server.load_model("m")
            await server.infer(request("m", [1]))
            for name, version in (("nope", -1), ("m", 7)):
                with pytest.raises(ServerError):
                    await server.infer(request(name, [1], model_version=version))
            server.ready()
            server.statistics()
            await server.metrics_parts()
            await server.unload_model("onnx")
            await server.repository_index()
            assert [name for name, on_loop in watch.asked if on_loop] == []
            assert {"scandir", "stat"} <= {name for name, _ in watch.asked}
            monkeypatch.undo()

    run(test)


def test_what_is_answered_is_in_the_next_index(tmp_path: Path) -> None:
    for index in range(30):
        write_model(tmp_path, f"m{index:02d}")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            async def check(name: str) -> None:
                async def row() -> dict[str, str]:
                    return dict(next(row for row in await server.repository_index() if row["name"] == name))

                assert await row() == {"name": name}
                await server.load_model(name)
                assert await row() == {"name": name, "version": "1", "state": "READY"}
                assert name in [row["name"] for row in await server.repository_index(ready_only=True)]
                await server.unload_model(name)
                assert (await row())["state"] in {"UNLOADING", "UNAVAILABLE"}
                assert name not in [row["name"] for row in await server.repository_index(ready_only=True)]
                await until(lambda: states(server)[name] == "UNAVAILABLE", "unloaded")
                assert (await row())["reason"] == "unloaded"

            await asyncio.gather(*(check(f"m{index:02d}") for index in range(30)))
            write_model(tmp_path, "zz")
            assert [row["name"] for row in await server.repository_index()][-2:] == ["m29", "zz"]
            (tmp_path / "zz" / "1").rmdir()
            (tmp_path / "zz" / "config.pbtxt").unlink()
            (tmp_path / "zz").rmdir()
            assert (await server.repository_index())[-1]["name"] == "m29"

    run(test)


def test_a_change_of_one_model_touches_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(20):
        write_model(tmp_path, f"m{index}")

    async def test() -> None:
        async with running(tmp_path, *ALL) as server:
            asked: list[str] = []
            ready_versions = server.repository.ready_versions

            def noted(name: str) -> Any:
                asked.append(name)
                return ready_versions(name)

            monkeypatch.setattr(server.repository, "ready_versions", noted)
            await server.unload_model("m3")
            await until(lambda: states(server)["m3"] == "UNAVAILABLE", "unloaded")
            await server.load_model("m3")
            assert set(asked) == {"m3"}
            for index in range(20):
                assert (await server.infer(request(f"m{index}", [index]))).outputs[0].numpy().tolist() == [index]
                assert server.model_ready(f"m{index}", 1)

    run(test)


def test_a_scrape_of_many_models_holds_the_loop_for_less_than_a_millisecond_at_a_time(tmp_path: Path) -> None:
    count = 400
    for index in range(count):
        write_model(tmp_path, f"m{index}")
    all_of_it = "--metrics-config=phase_histograms=true", "--metrics-config=summary_latencies=true"

    async def test() -> None:
        async with running(tmp_path, *ALL, *all_of_it) as server:
            await asyncio.gather(*(server.infer(request(f"m{index}", [1])) for index in range(count)))
            spent: list[int] = []
            scrape = server.metrics_parts()
            while True:
                # The processor's time of this thread: what others take of a busy machine does not count.
                begun_ns = time.thread_time_ns()
                try:
                    scrape.send(None)
                except StopIteration as end:
                    page = b"".join(end.value).decode()
                    break
                finally:
                    spent.append(time.thread_time_ns() - begun_ns)
                await asyncio.sleep(0)
            assert page.count("\nnv_inference_count{") == count
            spent.sort()
            assert spent[len(spent) * 9 // 10] < 1_000_000, spent[-20:]
            assert len(spent) > 10

    run(test)


def test_a_model_that_leaves_while_metrics_are_written_does_no_harm(tmp_path: Path) -> None:
    for index in range(100):
        write_model(tmp_path, f"m{index:03d}")

    async def test() -> None:
        async with running(tmp_path, *ALL) as server:
            page = asyncio.ensure_future(server.metrics_parts())
            await asyncio.sleep(0)
            await asyncio.gather(*(server.unload_model(name) for name in list(server.repository.models)))
            await until(lambda: set(states(server).values()) == {"UNAVAILABLE"}, "unloaded")
            assert (await page)[-1].endswith(b"\n")

    run(test)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Where looks at the file system stop, as with one that hangs. Open at first."""
    gate = Gate()
    for name in ("scan", "find", "fingerprint"):
        function = getattr(files, name)

        def look(*arguments: Any, function: Callable[..., Any] = function) -> Any:
            gate.pass_through()
            return function(*arguments)

        monkeypatch.setattr(files, name, look)
    yield gate
    gate.open()


def test_loads_that_take_long_hold_up_nothing_else(tmp_path: Path) -> None:
    for name in ("ready", "other", *(f"slow{index}" for index in range(6))):
        write_model(tmp_path, name)
    backend = GatedBackend()

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=ready", "--load-model=other", backends=backend) as server:
            backend.load_gate.shut = True
            loads = [asyncio.ensure_future(server.load_model(f"slow{index}")) for index in range(6)]
            arrived = [await backend.load_gate.arrival() for _ in range(4)]
            await server.load_model("ready")  # has not changed
            await server.unload_model("ready")
            await until(lambda: states(server)["ready"] == "UNAVAILABLE", "unloaded")
            assert backend.closed == ["ready_0", "model 1"]
            assert len(await server.repository_index()) == 8
            assert not any(load.done() for load in loads)
            assert (await server.infer(request("other", [1]))).error is None
            backend.load_gate.open()
            for load in arrived:
                load.set()
            await asyncio.gather(*loads)

    run(test)


def test_a_file_system_that_hangs_holds_up_no_inference_and_no_unload(tmp_path: Path, looks: Gate) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "other")

    async def test() -> None:
        async with running(tmp_path, *ALL) as server:
            looks.shut = True
            index = asyncio.ensure_future(server.repository_index())
            reload = asyncio.ensure_future(server.load_model("m"))
            waiting = [await looks.arrival() for _ in range(2)]
            assert (await server.infer(request("m", [1]))).error is None
            await server.unload_model("other")
            await until(lambda: states(server)["other"] == "UNAVAILABLE", "unloaded")
            assert await server.repository_index(ready_only=True)
            assert server.ready()
            # Given up by its client, the look goes on, and the server waits for it when it stops.
            index.cancel()
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            assert not stop.done()
            looks.open()
            for look in waiting:
                look.set()
            await asyncio.gather(reload, return_exceptions=True)
            await asyncio.wait_for(stop, PATIENCE_S)
            assert index.cancelled()

    run(test)


def test_a_name_that_is_looked_for_changes_nothing_before_it_is_found(tmp_path: Path, looks: Gate) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m") as server:
            looks.shut = True
            loads = [asyncio.ensure_future(server.load_model("nope")) for _ in range(2)]
            look = await looks.arrival()
            unload = asyncio.ensure_future(server.unload_model("nope"))
            await asyncio.sleep(0)
            assert server.ready()
            assert states(server) == {"m": "READY"}
            looks.open()
            look.set()
            for load in loads:
                with pytest.raises(InternalError, match="failed to load 'nope', failed to poll from model repository"):
                    await load
            await unload
            assert states(server) == {"m": "READY"}
            assert server.ready()

    run(test)


def test_an_unload_that_comes_while_a_new_model_is_looked_for_follows_its_load(tmp_path: Path, looks: Gate) -> None:
    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            looks.shut = True
            write_model(tmp_path, "m")
            load = asyncio.ensure_future(server.load_model("m"))
            look = await looks.arrival()
            unload = asyncio.ensure_future(server.unload_model("m"))
            await asyncio.sleep(0)
            looks.open()
            look.set()
            await asyncio.gather(load, unload)
            await until(lambda: states(server)["m"] == "UNAVAILABLE", "unloaded")

    run(test)


def test_what_fails_while_a_model_is_freed_is_not_told_as_a_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.troubles["close"] = OSError(5, "stuck")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", backends=backend) as server:
            await server.unload_model("m")
            await until(lambda: states(server)["m"] == "UNAVAILABLE", "unloaded")

    run(test)
    assert "stuck" in caplog.text
    assert "loading" not in [word for record in caplog.records if record.exc_info for word in record.message.split()]
