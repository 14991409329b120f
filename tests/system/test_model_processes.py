"""Python models in several model processes, in a real server: who is where, what the end of one costs, what is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import python_worker_models
import worker_kills
from server_process import ServerProcess, poll, running_server
from triton_clients import client_module
from worker_kills import family, workers_of

from triton_async.backends.python.defines import WORKER_SILENCE_S

TWO = "--model-processes=2"
# Name -> source, config and MODEL_PROCESS: `echo`, `acts` and `helper` are in one process.
MODELS = {
    "echo": (python_worker_models.ECHO, python_worker_models.ECHO_IO, "0"),
    "acts": (python_worker_models.ACTS, python_worker_models.ACTS_IO, "0"),
    "helper": (python_worker_models.ACTS, python_worker_models.ACTS_IO, "0"),
    "other": (python_worker_models.ECHO, python_worker_models.ECHO_IO, "1"),
    "others": (python_worker_models.ACTS, python_worker_models.ACTS_IO, "1"),
}


def build(repository: Path, *names: str) -> Path:
    for name in names or MODELS:
        source, io, place = MODELS[name]
        text = f'backend: "python"\n{io}\nparameters {{ key: "MODEL_PROCESS" value {{ string_value: "{place}" }} }}\n'
        python_worker_models.add(repository, name, source, text)
    return repository


@contextmanager
def served(tmp: Path, *options: str, names: tuple[str, ...] = ()) -> Iterator[ServerProcess]:
    """A server with two model processes, which leaves no process behind."""
    with running_server([build(tmp / "models", *names)], tmp, [TWO, *options]) as server:
        yield server
        pids = family(server.pid)
        server.stop()
        poll(lambda: not any(map(alive, pids)), "the processes to end")


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with served(tmp_path_factory.mktemp("hosted"), "--model-control-mode=explicit", "--load-model=*") as server:
        yield server


@pytest.fixture(autouse=True)
def idle_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hosted" in request.fixturenames:
        request.getfixturevalue("hosted").wait_until_idle()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def post(server: ServerProcess, path: str, body: object) -> dict[str, Any]:
    """The answer, JSON in and out; errors too."""
    request = urllib.request.Request(f"http://{server.http_url}/v2/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found


def act(server: ServerProcess, what: str, model: str = "acts") -> str:
    """What the model says, or the error."""
    tensor = {"name": "ACT", "shape": [1], "datatype": "BYTES", "data": [what]}
    answer = post(server, f"models/{model}/infer", {"inputs": [tensor]})
    return str(answer["error"] if "error" in answer else answer["outputs"][0]["data"][0])


def echo(server: ServerProcess, model: str, data: list[float]) -> dict[str, Any]:
    tensor = {"name": "N", "shape": [1, len(data)], "datatype": "FP32", "data": data}
    return post(server, f"models/{model}/infer", {"inputs": [tensor]})


def pid(server: ServerProcess, model: str = "acts") -> int:
    found: list[int] = []

    def answers() -> bool:
        said = act(server, "pid", model)
        found.append(int(said) if said.isdigit() else 0)
        return bool(found[-1])

    poll(answers, f"an answer of {model}")
    return found[-1]


@contextmanager
def asked_all_the_time(server: ServerProcess, model: str, clients: int = 3) -> Iterator[Counter[str]]:
    """Clients of an echo model; what they are told: "right", or an error."""
    told: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        number = 0.0
        while not stop.is_set():
            number += 1
            answer = echo(server, model, [number] * 3)
            told[answer.get("error") or ("right" if answer["outputs"][0]["data"] == [number] * 3 else "wrong")] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# -- who is where --------------------------------------------------------------------------------------------------


def test_models_compute_in_the_processes_that_they_name(hosted: ServerProcess) -> None:
    first, second = pid(hosted), pid(hosted, "others")
    assert first == pid(hosted, "helper") != second
    assert sorted(workers_of(hosted)) == sorted([first, second])
    assert echo(hosted, "echo", [1.0])["parameters"]["pid"] == first
    assert echo(hosted, "other", [1.0])["parameters"]["pid"] == second
    assert hosted.metrics()['triton_async_model_process_instances{process="0"}'] == 3
    assert hosted.metrics()['triton_async_model_process_up{process="1"}'] == 1


@pytest.mark.parametrize("elements", [1000, 1 << 20])
def test_large_tensors_of_models_that_share_a_process(hosted: ServerProcess, elements: int) -> None:
    grpc = client_module("grpc")
    client = grpc.InferenceServerClient(hosted.grpc_url)

    def round_trip(seed: int) -> bool:
        array = np.random.default_rng(seed).random((1, elements), np.float32)
        wanted = grpc.InferInput("N", [1, elements], "FP32")
        wanted.set_data_from_numpy(array)
        return np.array_equal(client.infer(("echo", "other")[seed % 2], [wanted]).as_numpy("N_OUT"), array)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(30)))
    client.close()


def test_a_process_is_as_apart_as_a_worker(hosted: ServerProcess) -> None:
    assert act(hosted, "group") == "True"
    descriptors = eval(act(hosted, "descriptors"))
    # The connection to the server, and of each model one, the memory that it shares with the server, and its code.
    assert [name.partition(":")[0] for name in descriptors] == ["/memfd"] * 9 + ["socket"] * 4, descriptors


# -- ends ----------------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_costs_what_its_models_had(hosted: ServerProcess) -> None:
    kept = pid(hosted, "others")
    with asked_all_the_time(hosted, "other") as other, asked_all_the_time(hosted, "echo") as own:
        for _ in range(4):
            time.sleep(1.1)
            killed = pid(hosted)
            before = own["right"]
            os.kill(killed, signal.SIGKILL)
            poll(lambda killed=killed: pid(hosted) != killed, "another process")  # type: ignore[misc]
            poll(lambda before=before: own["right"] > before + 20, "answers")  # type: ignore[misc]
    assert set(other) == {"right"}
    assert set(own) <= {"right", "the worker of model instance 'echo_0' was killed by signal 9"}, own
    assert 1 <= own.total() - own["right"] <= 4 * 3  # no more than clients had under way
    assert pid(hosted, "others") == kept
    assert hosted.metrics()['triton_async_model_process_restarts_total{process="0"}'] >= 4


def test_a_worker_that_lies_ends_its_process(hosted: ServerProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(act, hosted, "sleep 5", "helper")
        time.sleep(0.3)
        said = act(hosted, "lie unknown kind")
        why = "was killed because it sent an event of the unknown kind 254"
        assert said == f"the worker of model instance 'acts_0' {why}"
        ended = f"the worker of model instance 'helper_0' ended with model process 0, where another one {why}"
        assert beside.result() == ended
    assert pid(hosted) == pid(hosted, "helper")


def test_a_process_that_hangs_is_replaced_in_due_time(hosted: ServerProcess) -> None:
    """Native code of one model keeps the interpreter's lock from all of them; a process is stopped."""

    def after(model: str, what: str) -> str:
        begun = time.monotonic()
        said = act(hosted, what, model)
        assert WORKER_SILENCE_S - 1 < time.monotonic() - begun < 2 * WORKER_SILENCE_S + 3
        return said

    before = pid(hosted, "others"), pid(hosted)
    os.kill(before[0], signal.SIGSTOP)
    assert act(hosted, "hold 100") == "will hold"
    time.sleep(1)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(after, *case) for case in (("others", "pid"), ("helper", "pid"))]
    silent = f"was killed because it took no request for {WORKER_SILENCE_S:g} s"
    assert [one.result() for one in found] == [
        f"the worker of model instance '{name}_0' {silent}" for name in ("others", "helper")
    ]
    assert not {pid(hosted, "others"), pid(hosted), pid(hosted, "helper")} & set(before)


def test_processes_that_are_killed_at_random_leave_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        worker_kills.run(server, "echo", 2)  # everything that stays open is open
        before = worker_kills.open_descriptors(server.pid), len(family(server.pid))
        outcome = worker_kills.run(server, "echo", float(os.environ.get("WORKER_KILL_SECONDS", "6")))
        assert not outcome.wrong, outcome
        assert outcome.answers["right"] > 5 * outcome.kills and outcome.kills > 3, outcome
        server.wait_until_idle()
        poll(lambda: (worker_kills.open_descriptors(server.pid), len(family(server.pid))) == before,
             "nothing to be left")  # fmt: skip


def test_however_many_there_are_they_come_back_together(tmp_path: Path) -> None:
    """More than the connection to a process that begins has room for."""
    count = 400
    name = 'triton_async_model_process_instances{process="0"}'
    io = f"{python_worker_models.ACTS_IO}instance_group [{{ count: {count} kind: KIND_CPU }}]"
    python_worker_models.add(tmp_path / "models", "many", python_worker_models.ACTS, f'backend: "python"\n{io}')
    with served(tmp_path, names=("others",)) as server:
        assert server.metrics()[name] == count
        time.sleep(1.1)
        killed = pid(server, "many")
        os.kill(killed, signal.SIGKILL)
        poll(lambda: pid(server, "many") != killed, "another process")
        poll(lambda: server.metrics()[name] == count, "all instances")
        assert "could not be started" not in server.output()


# -- coming and going ----------------------------------------------------------------------------------------------


def test_models_come_and_go_beside_others(hosted: ServerProcess) -> None:
    """No request to a model that shares the process is lost, and nothing of those that go is left."""
    own = pid(hosted)

    def held() -> tuple[int, int, int]:
        threads = len(os.listdir(f"/proc/{own}/task"))
        maps = Path(f"/proc/{own}/maps").read_text().count("memfd")
        return worker_kills.open_descriptors(own), threads, maps

    before = held()
    with asked_all_the_time(hosted, "echo") as told:
        for _ in range(8):
            assert "error" not in post(hosted, "repository/models/helper/unload", {})
            poll(lambda: "error" in post(hosted, "models/helper/infer", {"inputs": []}), "the model to be gone")
            assert "error" not in post(hosted, "repository/models/helper/load", {})
            assert pid(hosted, "helper") == own
    assert set(told) == {"right"}
    poll(lambda: held() == before, "what models had to be given back")


def test_front_end_processes_beside_model_processes(tmp_path: Path) -> None:
    with served(tmp_path, "--frontend-processes=2", names=("echo", "acts", "other")) as server:
        first = pid(server)
        assert echo(server, "other", [2.0])["parameters"]["pid"] != first
        data = [float(number) for number in range(20000)]
        assert echo(server, "echo", data)["outputs"][0]["data"] == data
        assert act(server, "kill 9") == "the worker of model instance 'acts_0' was killed by signal 9"
        assert pid(server) != first


def test_a_stop_waits_for_what_runs(tmp_path: Path) -> None:
    with served(tmp_path, names=("acts", "others")) as server, ThreadPoolExecutor(2) as pool:
        asleep = [pool.submit(act, server, "sleep 2", name) for name in ("acts", "others")]
        time.sleep(0.5)
        server.terminate()
        assert [one.result() for one in asleep] == ["slept"] * 2


def test_processes_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with running_server([build(tmp_path / "models", "acts")], tmp_path, [TWO]) as server:
        pids = family(server.pid)
        assert pid(server) in pids
        os.kill(server.pid, signal.SIGKILL)
        poll(lambda: not any(map(alive, pids)), "the model processes to end")
