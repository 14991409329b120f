"""The server on a loop of the same process: `triton_async.Server`."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

import triton_async
from triton_async.config.settings import parse
from triton_async.errors import (
    Cancelled,
    Code,
    DecoupledModel,
    InternalError,
    InvalidArg,
    NotFound,
    ServerError,
    Unavailable,
)

Work = Callable[[triton_async.Server], Coroutine[Any, Any, None]]


def serve(
    repository: Path, work: Work, run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run, **options: Any
) -> None:
    """Runs `work` with a server that has all models, on a loop of its own."""

    async def main() -> None:
        async with triton_async.Server(model_repository=repository, **options) as server:
            await work(server)

    options.setdefault("model_control_mode", "explicit")
    run(main())


def test_models_of_all_kinds_answer(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        assert server.live() and await server.ready() and await server.ready("add") and not await server.ready("none")
        a, b = np.float32([[1, 2], [3, 4]]), np.float32([[10, 20], [30, 40]])
        response = await server.infer("add", {"A": a, "B": b}, request_id="7")
        np.testing.assert_array_equal(response["SUM"], a + b)
        assert (response.model_name, response.model_version, response.request_id) == ("add", 1, "7")
        assert response.final and list(response) == ["SUM"] and response.datatype("SUM") == "FP32"
        assert not response["SUM"].flags.writeable
        for model in ("same", "chain"):
            found = await server.infer(model, {"IN": np.float32([1, 2])}, outputs=["OUT"])
            np.testing.assert_array_equal(found["OUT"], [1, 2])
        # Columns of an array are no contiguous memory.
        columns = await server.infer("add", {"A": a.T, "B": a})
        np.testing.assert_array_equal(columns["SUM"], a.T + a)

    serve(repository, work, load_model="*")


def test_strings_and_types_that_numpy_lacks(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        expected = ["ä".encode(), b"", b"\0x"]
        for given in (np.array(["ä", "", b"\0x"], dtype=object), ["ä", "", "\0x"], np.array(expected, dtype=object)):
            response = await server.infer("strings", {"IN": given})
            assert list(response["OUT"]) == expected
        many = np.array([b"x"] * 100_000, dtype=object)
        assert (await server.infer("strings", {"IN": many}))["OUT"].shape == (100_000,)
        bits = np.uint16([1, 2, 3])
        response = await server.infer("halves", {"IN": (bits, "BF16")})
        assert response.datatype("OUT") == "BF16" and list(response["OUT"]) == [1, 2, 3]

    serve(repository, work, load_model=["strings", "halves"])


def test_the_request_says_what_clients_can_say(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        response = await server.infer(
            "tells", {"IN": ["x"]}, request_id="r", sequence_id=5, sequence_start=True, sequence_end=True,
            parameters={"one": 1, "text": "t", "yes": True, "half": 0.5}, priority=0, timeout_us=10_000_000,
        )  # fmt: skip
        told = response["OUT"][0].decode()
        assert told.startswith("r|5|3|") and all(name in told for name in ("one", "text", "yes", "half"))
        assert response.parameters == {"seen": 1}
        values = []
        for step in range(3):
            response = await server.infer(
                "sums", {"IN": np.float32([[step + 1]])}, sequence_id="s", sequence_start=step == 0,
                sequence_end=step == 2,
            )  # fmt: skip
            values.append(float(response["OUT"][0, 0]))
        assert values == [1, 3, 6]

    serve(repository, work, load_model=["tells", "sums"])


def test_responses_are_streamed(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        found = [float(response["OUT"][0]) async for response in server.stream("count", {"IN": np.float32([2])})]
        assert found == [0, 1]
        # Of a model that answers once.
        once = [response["OUT"] async for response in server.stream("same", {"IN": np.float32([2])})]
        assert len(once) == 1
        # An error among the responses does not end them.
        stream = server.stream("count", {"IN": np.float32([4])})
        heard: list[object] = []
        while True:
            try:
                heard.append(float((await anext(stream))["OUT"][0]))
            except ServerError as error:
                heard.append(error.message)
            except StopAsyncIteration:
                break
        assert heard == [0, 1, 2, "two is reached", 3]
        # Who reads slowly holds the model back, and loses nothing.
        seen = 0
        async for response in server.stream("count", {"IN": np.float32([2])}):
            await asyncio.sleep(0)
            seen += len(response)
        assert seen == 2
        async with server.stream("count", {"IN": np.float32([1000])}) as some:
            await anext(some)
        with pytest.raises(StopAsyncIteration):
            await anext(some)
        with pytest.raises(DecoupledModel, match="ask it with stream"):
            await server.infer("count", {"IN": np.float32([2])})

    serve(repository, work, load_model=["count", "same"])


def test_bad_requests_hear_what_clients_hear(repository: Path) -> None:
    good = np.float32([1, 2])
    cases: list[tuple[type[ServerError], str, dict[str, Any]]] = [
        (NotFound, "Request for unknown model: 'none' is not found", {"model": "none"}),
        (InvalidArg, "expected 1 inputs but got 2 inputs for model 'same'", {"inputs": {"IN": good, "OTHER": good}}),
        (InvalidArg, "unexpected inference input 'OTHER' for model 'same'", {"inputs": {"OTHER": good}}),
        (InvalidArg, "expected 1 inputs but got 0 inputs for model 'same'", {"inputs": {}}),
        (InvalidArg, "inference input 'IN' data-type is 'INT64', but model 'same' expects 'FP32'",
         {"inputs": {"IN": [1, 2]}}),
        (InvalidArg, "unexpected shape for input 'IN' for model 'same'", {"inputs": {"IN": np.float32([[1]])}}),
        (InvalidArg, "unexpected inference output 'NONE' for model 'same'", {"outputs": ["NONE"]}),
        (InvalidArg, "outputs must be names", {"outputs": "OUT"}),
        (InvalidArg, "Unable to parse 'priority'", {"priority": -1}),
        (InvalidArg, "Unable to parse 'timeout'", {"timeout_us": "1"}),
        (InvalidArg, "Unable to parse 'sequence_start'", {"sequence_start": "yes"}),
        (InvalidArg, "Unable to parse 'sequence_id'", {"sequence_id": 1.5}),
        (InvalidArg, "there is an argument for it", {"parameters": {"timeout": 1}}),
        (InvalidArg, "reserved for Triton usage", {"parameters": {"triton_x": 1}}),
        (InvalidArg, "parameter 'x' has invalid type", {"parameters": {"x": [1]}}),
        (InvalidArg, "failed to get model version", {"version": "1"}),
        (InvalidArg, "Unable to parse 'id'", {"request_id": 5}),
        (InvalidArg, "invalid datatype 'FP31' for input 'IN'", {"inputs": {"IN": (good, "FP31")}}),
        (InvalidArg, "is given as BF16, but its elements are float32", {"inputs": {"IN": (good, "BF16")}}),
        (InvalidArg, "NumPy type complex128 has no tensor datatype", {"inputs": {"IN": np.zeros(2, complex)}}),
        (InvalidArg, "has 17 dimensions", {"inputs": {"IN": np.zeros([1] * 17, np.float32)}}),
        (InvalidArg, "inputs must be a mapping", {"inputs": [good]}),
    ]  # fmt: skip

    async def work(server: triton_async.Server) -> None:
        for kind, text, more in cases:
            arguments: dict[str, Any] = {"model": "same", "inputs": {"IN": good}} | more
            with pytest.raises(kind) as caught:
                await server.infer(**arguments)
            assert text in caught.value.message, caught.value.message
            assert isinstance(caught.value.code, Code)
            with pytest.raises(kind):
                async for _ in server.stream(**arguments):
                    pass
        with pytest.raises(InvalidArg, match="requested model 'none' is not available"):
            await server.statistics("none")

    serve(repository, work, load_model="same")


def test_a_cancelled_task_cancels_its_request(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.infer("slow", {"IN": np.float32([60])})
        # The one instance is free again at once.
        async with asyncio.timeout(20):
            assert (await server.infer("slow", {"IN": np.float32([0])}))["OUT"][0] == 1

    serve(repository, work, load_model="slow")


def test_models_come_and_go(repository: Path) -> None:
    async def work(server: triton_async.Server) -> None:
        assert {row["name"] for row in await server.index()} >= {"same", "add"}
        assert await server.index(ready_only=True) == []
        await server.load("same")
        assert await server.index(ready_only=True) == [{"name": "same", "version": "1", "state": "READY"}]
        assert server.metadata()["name"] == "triton"
        assert server.metadata("same")["inputs"] == [{"name": "IN", "datatype": "FP32", "shape": [-1]}]
        assert server.config("same")["backend"] == "identity"
        await server.infer("same", {"IN": np.float32([1])})
        (row,) = await server.statistics("same")
        assert row["inference_count"] == 1
        assert 'nv_inference_request_success{model="same",version="1"} 1\n' in await server.metrics()
        config = {"backend": "identity", "input": [{"name": "X", "data_type": "TYPE_INT8", "dims": [1]}],
                  "output": [{"name": "Y", "data_type": "TYPE_INT8", "dims": [1]}]}  # fmt: skip
        await server.load("made", config=config, files={"1/x": b""})
        assert list((await server.infer("made", {"X": np.int8([4])}))["Y"]) == [4]
        await server.unload("same")
        with pytest.raises(NotFound, match="'same' has no available versions"):
            await server.infer("same", {"IN": np.float32([1])})
        with pytest.raises(InternalError, match="failed to load 'none'"):
            await server.load("none")

    serve(repository, work)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_ports_are_opened_for_who_asks(repository: Path, run: Callable[..., Any]) -> None:
    async def work(server: triton_async.Server) -> None:
        assert set(server.ports) == {"http"}
        url = f"http://127.0.0.1:{server.ports['http']}/v2/models/same/ready"
        loop = asyncio.get_running_loop()
        assert (await loop.run_in_executor(None, urllib.request.urlopen, url)).status == 200

    listening = {"http_port": 0, "http_address": "127.0.0.1", "exit_grace_secs": 0}
    serve(repository, work, run, load_model="same", **listening)

    async def closed(server: triton_async.Server) -> None:
        assert server.ports == {}

    serve(repository, closed)


def test_settings_are_taken_as_they_are(repository: Path) -> None:
    settings = parse([f"--model-repository={repository}", "--id=mine", "--model-control-mode=explicit",
                      "--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"])  # fmt: skip

    async def main() -> None:
        async with triton_async.Server(settings) as server:
            assert server.metadata()["name"] == "mine"

    asyncio.run(main())


@pytest.mark.parametrize(("options", "text"), [
    ({}, "--model-repository must be specified"),
    ({"model_repository": "x", "model_repositroy": "x"}, "unknown option 'model_repositroy'"),
    ({"model_repository": "x", "http_port": 70000}, "out of bound"),
    ({"model_repository": "x", "http_port": object()}, "can not be of type object"),
    ({"model_repository": "x", "help": True}, "unknown option 'help'"),
    ({"model_repository": "x", "log_format": "json"}, "needs log_file"),
    ({"model_repository": "x", "disable_auto_complete_config": 1}, "is True or False"),
    ({"model_repository": "x", "http_port": 0, "frontend_processes": 2}, "has no front-end processes"),
    ({"model_repository": "x", "cpu_affinity": "0"}, "leaves the program's threads where they are"),
    ({"model_repository": "x", "load_model": "y"}, "requires setting '--model-control-mode=explicit'"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        triton_async.Server(**options)
    assert text in caught.value.message
    with pytest.raises(InvalidArg):
        triton_async.SyncServer(**options)


def test_a_start_that_fails_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "config.pbtxt").write_text('backend: "none_such"')
    threads = set(threading.enumerate())

    async def main() -> None:
        server = triton_async.Server(model_repository=[repository, tmp_path], load_model="*",
                                     model_control_mode="explicit")  # fmt: skip
        with pytest.raises(InternalError, match="failed to load all models: bad: "):
            await server.start()
        assert not server.live()
        with pytest.raises(Unavailable, match="started before"):
            await server.start()
        await server.stop()
        for place in (str(tmp_path / "not there"), "/dev/null"):
            with pytest.raises(ServerError):
                await triton_async.Server(model_repository=place).start()

    asyncio.run(main())
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= threads | {threading.main_thread()}


def test_a_start_that_is_cancelled_leaves_nothing(repository: Path) -> None:
    async def main() -> None:
        server = triton_async.Server(model_repository=repository)
        starting = asyncio.ensure_future(server.start())
        await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not server.live()

    asyncio.run(main())


@pytest.mark.parametrize("wait_s", [0, 0.05, 0.3])
def test_nor_does_one_with_models_in_processes(repository: Path, wait_s: float) -> None:
    async def main() -> None:
        server = triton_async.Server(
            model_repository=repository, model_control_mode="explicit", load_model=["slow", "count"], model_processes=2
        )
        starting = asyncio.ensure_future(server.start())
        await asyncio.sleep(wait_s)
        starting.cancel()
        with suppress(asyncio.CancelledError):  # it may be through by now
            await starting
        await server.stop()

    def left() -> list[str]:
        children = [child for of in Path("/proc/self/task").glob("*/children") for child in of.read_text().split()]
        return children + [thread.name for thread in threading.enumerate() if thread.name == "python workers"]

    before = left()
    asyncio.run(main())
    deadline = time.monotonic() + 5
    while left() != before:
        assert time.monotonic() < deadline, left()
        time.sleep(0.01)


def test_stopping_waits_for_what_runs_and_no_longer_than_is_said(repository: Path) -> None:
    async def main() -> None:
        server = triton_async.Server(model_repository=repository, model_control_mode="explicit", load_model="slow")
        with pytest.raises(Unavailable, match="Server not ready"):
            await server.infer("slow", {"IN": np.float32([0])})
        await server.start()
        running = asyncio.ensure_future(server.infer("slow", {"IN": np.float32([0.3])}))
        await asyncio.sleep(0.1)
        await server.stop()
        assert (await running)["OUT"][0] == 1
        await server.stop()
        with pytest.raises(Unavailable):
            await server.infer("slow", {"IN": np.float32([0])})
        late = triton_async.Server(
            model_repository=repository, model_control_mode="explicit", load_model="slow", exit_timeout_secs=1,
        )  # fmt: skip
        await late.start()
        running = asyncio.ensure_future(late.infer("slow", {"IN": np.float32([3])}))
        await asyncio.sleep(0.1)
        with pytest.raises(InternalError, match="Exit timeout expired"):
            await late.stop()
        running.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await running
        await asyncio.sleep(3)

    asyncio.run(main())


def test_nothing_of_the_process_changes(repository: Path, tmp_path: Path) -> None:
    program = f"""
import asyncio, gc, os, signal, sys, triton_async
def state():
    return ([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)], sys.getswitchinterval(),
            gc.get_freeze_count(), os.getcwd())
before = state()
async def main():
    for _ in range(2):
        async with triton_async.Server(model_repository={str(repository)!r}, model_control_mode="explicit") as server:
            await server.load("add")
            await server.load("slow")
            await server.unload("slow")
            try:
                await server.load("none")
            except triton_async.ServerError:
                pass
asyncio.run(main())
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_log_goes_where_the_program_wants_it(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def load(server: triton_async.Server) -> None:
        await server.load("same")

    level = logging.getLogger("triton_async").level
    serve(repository, load, log_verbose=1)
    assert any("same" in record.getMessage() for record in caplog.records)
    caplog.clear()
    serve(repository, load, log_file=tmp_path / "log", log_format="json")
    assert caplog.records == [] and '"severity": "INFO"' in (tmp_path / "log").read_text()
    assert logging.getLogger("triton_async").level == level


def test_models_of_a_further_repository_get_other_names(repository: Path, tmp_path: Path) -> None:
    async def rename(server: triton_async.Server) -> None:
        await server.register_repository(str(repository), {"same": "renamed", "add": "same"})
        await server.load("renamed")
        await server.load("same")
        assert server.config("renamed")["backend"] == "identity" and server.config("same")["backend"] == "onnxruntime"
        response = await server.infer("renamed", {"IN": np.float32([3])})
        assert response["OUT"].tolist() == [3] and response.model_name == "renamed"
        with pytest.raises(triton_async.ServerError, match="failed to load 'add'"):
            await server.load("add")
        with pytest.raises(triton_async.ServerError, match="one name"):
            await server.register_repository(str(tmp_path), {"a": "x", "b": "x"})

    (tmp_path / "empty").mkdir()
    serve(tmp_path / "empty", rename)
