"""The server for programs without a loop: `triton_async.SyncServer`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triton_async
from triton_async.errors import DecoupledModel, InvalidArg, NotFound, Unavailable


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[triton_async.SyncServer]:
    with triton_async.SyncServer(model_repository=repository, model_control_mode="explicit", load_model="*") as running:
        yield running


def test_it_answers_whatever_thread_asks(server: triton_async.SyncServer) -> None:
    def ask(value: int) -> float:
        total = 0.0
        for model in ("same", "chain"):
            total += float(server.infer(model, {"IN": np.float32([value])})["OUT"][0])
        return total

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(100))) == [2.0 * value for value in range(100)]
    assert server.ready("same") and not server.ready("none") and server.live()
    assert server.metadata("same")["name"] == "same" and server.config("same")["backend"] == "identity"
    assert server.statistics("same")[0]["inference_count"] >= 200
    assert {row["state"] for row in server.index(ready_only=True)} == {"READY"}
    assert "nv_inference_count" in server.metrics()
    many = np.array([b"x"] * 100_000, dtype=object)
    assert server.infer("strings", {"IN": many})["OUT"].shape == (100_000,)


def test_responses_are_streamed(server: triton_async.SyncServer) -> None:
    assert [float(one["OUT"][0]) for one in server.stream("count", {"IN": np.float32([2])})] == [0, 1]
    with server.stream("count", {"IN": np.float32([1000])}) as stream:
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(DecoupledModel):
        server.infer("count", {"IN": np.float32([1])})


def test_errors_are_those_of_the_server(server: triton_async.SyncServer) -> None:
    with pytest.raises(NotFound, match="unknown model: 'none'"):
        server.infer("none", {})
    with pytest.raises(InvalidArg, match="unexpected shape for input 'IN'"):
        server.infer("same", {"IN": np.float32([[1]])})
    with pytest.raises(InvalidArg, match="given as INT8"):
        server.infer("same", {"IN": (np.float32([1]), "INT8")})


def test_who_waits_long_enough_gives_up(server: triton_async.SyncServer) -> None:
    with pytest.raises(TimeoutError):
        server.infer("slow", {"IN": np.float32([60])}, timeout_s=0.1)
    assert server.infer("slow", {"IN": np.float32([0])}, timeout_s=30)["OUT"][0] == 1


def test_servers_follow_each_other_and_run_side_by_side(repository: Path) -> None:
    before = set(threading.enumerate())

    def make() -> triton_async.SyncServer:
        return triton_async.SyncServer(model_repository=repository, model_control_mode="explicit", load_model="add")

    values = {"A": np.float32([[1, 2]]), "B": np.float32([[3, 4]])}
    for _ in range(2):
        with make() as one, make() as other:
            for each in (one, other):
                np.testing.assert_array_equal(each.infer("add", values)["SUM"], [[4, 6]])
            other.unload("add")
            assert one.ready("add") and not other.ready("add")
        with pytest.raises(Unavailable):
            one.infer("add", values)
        with pytest.raises(Unavailable):
            one.metrics()
        with pytest.raises(Unavailable):
            one.start()
        assert not one.live() and not one.ready()
        one.stop()
    assert not {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}
    failing = triton_async.SyncServer(model_repository="/dev/null/nothing")
    with pytest.raises(triton_async.ServerError):
        failing.start()


@pytest.mark.parametrize("options", [{"model_processes": 2}, {"backend_config": "python,isolation=process"}])
def test_models_in_processes_leave_nothing_of_a_server(repository: Path, options: dict[str, Any]) -> None:
    def there() -> tuple[set[threading.Thread], int, list[str]]:
        gc.collect()
        children = [child for of in Path("/proc/self/task").glob("*/children") for child in of.read_text().split()]
        return set(threading.enumerate()), len(os.listdir("/proc/self/fd")), children

    _, _, before = there()
    found = []
    for _ in range(3):
        with triton_async.SyncServer(
            model_repository=repository, model_control_mode="explicit", load_model="slow", **options
        ) as server:
            assert server.infer("slow", {"IN": np.float32([0])})["OUT"][0] == 1
        found.append(there())
    # The first one opens what there is once in a program.
    assert found[1] == found[2] and set(found[0][2]) <= set(before)


def test_arrays_outlive_their_server(repository: Path) -> None:
    with triton_async.SyncServer(model_repository=repository, model_control_mode="explicit", load_model="add") as one:
        found = one.infer("add", {"A": np.float32([[1, 2]]), "B": np.float32([[3, 4]])})
    np.testing.assert_array_equal(found["SUM"], [[4, 6]])


def test_a_server_that_is_forgotten_does_not_keep_its_process(repository: Path) -> None:
    program = (
        "import triton_async, numpy\n"
        f"server = triton_async.SyncServer(model_repository={str(repository)!r}, model_control_mode='explicit',\n"
        "    load_model=['same', 'count'])\n"
        "server.start()\n"
        "print(server.infer('same', {'IN': numpy.float32([3])})['OUT'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3.]\n", "")


def test_a_server_that_is_stopped_while_the_interpreter_ends_is_over_already(repository: Path) -> None:
    program = (
        "import atexit\n"
        "def end():\n"
        "    server.stop()\n"
        "    try:\n"
        "        server.infer('same', {'IN': numpy.float32([3])})\n"
        "    except triton_async.errors.Unavailable as error:\n"
        "        print(error.message, server.ready())\n"
        "atexit.register(end)\n"  # behind the server's own end
        "import triton_async, numpy\n"
        f"server = triton_async.SyncServer(model_repository={str(repository)!r}, model_control_mode='explicit',\n"
        "    load_model=['same'])\n"
        "server.start()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Server exiting False\n", "")
