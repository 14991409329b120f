"""Python models in worker processes, in a real server: they answer, they die in every way, they lie."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import python_worker_models
import worker_kills
from server_process import ServerProcess, poll, running_server
from triton_clients import client_module
from worker_kills import family

from triton_async.backends.python.defines import WORKER_SILENCE_S


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose models are all in worker processes. It leaves no process behind."""
    repository = tmp_path_factory.mktemp("models")
    python_worker_models.build(repository)
    with running_server([repository], tmp_path_factory.mktemp("server")) as process:
        yield process
        pids = family(process.pid)
        process.stop()
        poll(lambda: not any(map(alive, pids)), "the workers to end")


@pytest.fixture(autouse=True)
def idle_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "workers" in request.fixturenames:
        request.getfixturevalue("workers").wait_until_idle()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ask(server: ServerProcess, model: str, inputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The answer of an inference request, JSON in and out; errors too."""
    body = json.dumps({"inputs": inputs, **more}).encode()
    url = f"http://{server.http_url}/v2/models/{model}/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found


def act(server: ServerProcess, what: str, model: str = "acts") -> str:
    """What the model says, or the error."""
    answer = ask(server, model, [{"name": "ACT", "shape": [1], "datatype": "BYTES", "data": [what]}])
    return str(answer["error"] if "error" in answer else answer["outputs"][0]["data"][0])


def is_ready(server: ServerProcess, model: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{model}/ready", timeout=10):
            return True
    except urllib.error.HTTPError:
        return False


def tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": [1, len(data)], "datatype": datatype, "data": data}


# -- answers -------------------------------------------------------------------------------------------------------


def test_tensors_of_every_kind_come_back(workers: ServerProcess) -> None:
    sent = [
        tensor("N", "FP32", [1.5, -2.0, 3.25]), tensor("S", "BYTES", ["", "ä", "x" * 5000]),
        tensor("I", "INT64", [2**62, -5]),
    ]  # fmt: skip
    answer = ask(workers, "echo", sent, parameters={"a": "ü", "n": 3})
    assert {output["name"]: output["data"] for output in answer["outputs"]} == {
        f"{one['name']}_OUT": one["data"] for one in sent
    }
    assert answer["parameters"]["pid"] != workers.pid
    empty = ask(workers, "echo", [tensor("N", "FP32", []), tensor("S", "BYTES", [])])
    assert [output["shape"] for output in empty["outputs"]] == [[1, 0], [1, 0]]


@pytest.mark.parametrize("elements", [1000, 1 << 20])
def test_large_tensors_go_through_shared_memory(workers: ServerProcess, elements: int) -> None:
    grpc = client_module("grpc")
    client = grpc.InferenceServerClient(workers.grpc_url)

    def round_trip(seed: int) -> bool:
        array = np.random.default_rng(seed).random((1, elements), np.float32)
        strings = np.array([[f"{seed} " + "x" * (elements // 8)] * 3], dtype=object)
        inputs = [grpc.InferInput("N", [1, elements], "FP32"), grpc.InferInput("S", [1, 3], "BYTES")]
        inputs[0].set_data_from_numpy(array)
        inputs[1].set_data_from_numpy(strings)
        answer = client.infer("echo", inputs)
        same = [text.decode() for text in answer.as_numpy("S_OUT")[0]] == list(strings[0])
        return same and np.array_equal(answer.as_numpy("N_OUT"), array)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(40)))
    client.close()


def test_an_answer_is_whole_whatever_becomes_of_its_worker(workers: ServerProcess) -> None:
    """A large answer is sent from the memory that the worker wrote it to, to a client that reads when it likes."""
    elements = 1 << 23
    array = np.arange(elements, dtype=np.float32)
    head = json.dumps({
        "inputs": [{"name": "N", "shape": [1, elements], "datatype": "FP32",
                    "parameters": {"binary_data_size": array.nbytes}}],
        "outputs": [{"name": "N_OUT", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    connection = http.client.HTTPConnection(workers.http_url)
    connection.request("POST", "/v2/models/echo/infer", head + array.tobytes(),
                       {"Inference-Header-Content-Length": str(len(head))})  # fmt: skip
    answer = connection.getresponse()
    said = json.loads(answer.read(int(answer.headers["Inference-Header-Content-Length"])))
    os.kill(said["parameters"]["pid"], signal.SIGKILL)
    poll(lambda: "error" not in ask(workers, "echo", [tensor("N", "FP32", [1.0])]), "another worker")
    assert np.array_equal(np.frombuffer(answer.read(), np.float32), array)
    connection.close()


def test_arrays_that_a_model_keeps_stay_as_they_are(workers: ServerProcess) -> None:
    data = [float(number) for number in range(5000)]
    first = ask(workers, "echo", [tensor("N", "FP32", data)], parameters={"keep": 1})
    for number in range(20):  # would be put where the first one was
        ask(workers, "echo", [tensor("N", "FP32", [float(number)] * 5000)])
    kept = ask(workers, "echo", [tensor("N", "FP32", [0.0])], parameters={"kept": 1})
    assert first["parameters"]["pid"] == kept["parameters"]["pid"]
    assert kept["outputs"][0]["data"] == data
    ask(workers, "echo", [tensor("N", "FP32", [0.0])], parameters={"keep": 1})  # gives it back


def test_many_requests_share_a_batch(workers: ServerProcess) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda n: ask(workers, "echo", [tensor("N", "FP32", [float(n)] * 3)]), range(300))
        assert [answer["outputs"][0]["data"][0] for answer in answers] == list(range(300))


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_decoupled_responses_come_in_order(workers: ServerProcess, count: int) -> None:
    assert streamed(workers, count) == list(range(count))


def test_a_sender_that_is_dropped_ends_its_request(workers: ServerProcess) -> None:
    assert "dropped a request and its response sender without a final response" in streamed(workers, -1)[0]


def streamed(server: ServerProcess, count: int) -> list[Any]:
    grpc = client_module("grpc")
    found: list[Any] = []
    over: list[bool] = []

    def hear(result: Any, error: Any) -> None:
        if error is not None:
            found.append(str(error))
            over.append(True)
        elif result.get_response().parameters["triton_final_response"].bool_param:
            over.append(True)
        else:
            found.append(int(result.as_numpy("N")[0]))

    with grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(hear)
        wanted = grpc.InferInput("COUNT", [1], "INT32")
        wanted.set_data_from_numpy(np.array([count], np.int32))
        client.async_stream_infer("stream", [wanted], enable_empty_final_response=True)
        poll(lambda: bool(over), "the final response")
        client.stop_stream()
    return found


def test_calls_of_other_models(workers: ServerProcess) -> None:
    def call(how: str) -> str:
        answer = ask(workers, "caller", [{"name": "HOW", "shape": [1], "datatype": "BYTES", "data": [how]}])
        return str(answer["error"] if "error" in answer else answer["outputs"][0]["data"][0])

    assert call("plain") == "4.0"
    assert call("several") == str(list(range(20)))
    assert call("large") == "True"
    assert call("unknown") == (
        "Model nothing - Error when running inference: Failed for execute the inference request. Model 'nothing' is "
        "not ready."
    )
    assert call("decoupled") == str(list(range(200)))
    assert call("ready") == "[True, False]"


def test_log_and_metrics_of_a_model(workers: ServerProcess) -> None:
    assert act(workers, "log a line\nand more") == "logged"
    poll(lambda: r'model.py:' in workers.output() and r'"a line\nand more"' in workers.output(), "the line in the log")
    before = float(act(workers, "metric 2"))
    assert float(act(workers, "metric 3")) == before + 3
    assert f'worker_counts{{a="b"}} {before + 3:g}' in workers.metrics_text()
    assert "monotonically" in act(workers, "refused_metric")
    act(workers, "kill 9")
    assert float(act(workers, "metric 1")) == 1  # they went with the worker


def test_cancellation_reaches_the_worker(workers: ServerProcess) -> None:
    grpc = client_module("grpc")
    with grpc.InferenceServerClient(workers.grpc_url) as client:
        wanted = grpc.InferInput("ACT", [1], "BYTES")
        wanted.set_data_from_numpy(np.array([b"cancelled 20"], dtype=object))
        answers: list[Any] = []
        call = client.async_infer("acts", [wanted], lambda result, error: answers.append(error or result))
        time.sleep(0.3)
        begun = time.monotonic()
        call.cancel()
        assert act(workers, "pid").isdigit()  # the next one on the only instance
        assert time.monotonic() - begun < 10


def phases(server: ServerProcess, model: str) -> dict[str, int]:
    """Nanoseconds of each phase so far."""
    with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{model}/stats", timeout=10) as answer:
        found = json.load(answer)["model_stats"][0]["inference_stats"]
    return {phase: found[phase]["ns"] for phase in ("compute_infer", "compute_output")}


def test_phases_of_an_execution_are_told_apart(workers: ServerProcess) -> None:
    before = phases(workers, "readies")
    assert act(workers, "sleep", "readies") == "done"
    found = {phase: ns - before[phase] for phase, ns in phases(workers, "readies").items()}
    assert found["compute_infer"] >= 100_000_000
    assert 0 < found["compute_output"] < found["compute_infer"]


def test_a_model_says_itself_whether_it_is_ready(workers: ServerProcess) -> None:
    assert is_ready(workers, "readies")
    for answer, ready in (("no", False), ("yes", True), ("raise", False), ("yes", True)):
        assert act(workers, answer, "readies") == "done"
        assert is_ready(workers, "readies") == ready
    with ThreadPoolExecutor(1) as pool:  # also while it works
        asleep = pool.submit(act, workers, "sleep", "readies")
        time.sleep(0.3)
        assert is_ready(workers, "readies")
        assert not asleep.done()
    assert asleep.result() == "done"


# -- what a worker is given ----------------------------------------------------------------------------------------


def test_a_worker_has_what_is_its_own_and_nothing_else(workers: ServerProcess) -> None:
    descriptors = eval(act(workers, "descriptors"))
    # Its connection, the memory that it shares with the server, and its code.
    assert [name.partition(":")[0] for name in descriptors] == ["/memfd", "/memfd", "/memfd", "socket"], descriptors
    assert act(workers, "group") == "True"
    assert act(workers, "variable PYTHONPATH") == "None"
    assert act(workers, "variable PATH") == os.environ["PATH"]


# -- ends ----------------------------------------------------------------------------------------------------------

ENDED = "the worker of model instance '{}_0' "


@pytest.mark.parametrize(("what", "model", "how"), [
    ("exit 3", "acts", "exited with status 3"), ("exit 0", "acts", "exited with status 0"),
    ("kill 9", "acts", "was killed by signal 9"), ("kill 11", "acts", "was killed by signal 11"),
    ("spin", "timed", "was killed because an execution took longer than 0.5 s"),
    ("close", "acts", "closed its connection to the server"),
])  # fmt: skip
def test_the_end_of_a_worker_costs_its_own_requests(workers: ServerProcess, what: str, model: str, how: str) -> None:
    assert act(workers, what, model) == ENDED.format(model) + how
    begun = time.monotonic()
    assert act(workers, "pid", model).isdigit()
    assert time.monotonic() - begun < 3
    poll(lambda: is_ready(workers, model), "the model to be ready")


def test_a_worker_that_hangs_is_replaced_in_due_time(workers: ServerProcess) -> None:
    """Stopped while it executes, stopped before, and native code that never lets go of the interpreter's lock."""

    def after(model: str, what: str) -> str:
        begun = time.monotonic()
        said = act(workers, what, model)
        assert WORKER_SILENCE_S - 1 < time.monotonic() - begun < 2 * WORKER_SILENCE_S + 3
        poll(lambda: is_ready(workers, model), "another worker")
        assert act(workers, "pid", model).isdigit()
        return said.removeprefix(ENDED.format(model))

    os.kill(int(act(workers, "pid", "idle_stopped")), signal.SIGSTOP)
    assert act(workers, "hold 100", "holding") == "will hold"
    time.sleep(1)
    no_request = f"was killed because it took no request for {WORKER_SILENCE_S:g} s"
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(after, *case) for case in (
            ("stopped", f"kill {int(signal.SIGSTOP)}"), ("idle_stopped", "pid"), ("holding", "pid")
        )]  # fmt: skip
    assert [one.result() for one in found] == ["was killed because it was stopped", no_request, no_request]


def test_memory_has_a_bound(workers: ServerProcess) -> None:
    assert act(workers, f"eat {1 << 20}", "bounded") == str(1 << 20)
    assert "MemoryError" in act(workers, f"eat {1 << 30}", "bounded")
    assert act(workers, "pid", "bounded").isdigit()


def test_a_model_is_not_ready_while_no_worker_is(workers: ServerProcess) -> None:
    def end() -> None:
        act(workers, "exit 1", "pair")

    poll(lambda: is_ready(workers, "pair"), "the model to be ready")
    # Two in quick succession: there is a pause before the third worker.
    with ThreadPoolExecutor(2) as pool:
        seen: list[bool] = []
        for _ in range(2):
            ends = [pool.submit(end) for _ in range(2)]
            while not all(one.done() for one in ends):
                seen.append(is_ready(workers, "pair"))
    assert not all(seen)
    poll(lambda: is_ready(workers, "pair"), "the model to be ready")
    assert act(workers, "pid", "pair").isdigit()


def test_an_instance_goes_on_without_the_other(workers: ServerProcess) -> None:
    time.sleep(1.1)  # workers that have run so long are replaced at once
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: act(workers, "kill 9" if n == 20 else "pid", "pair"), range(100)))
    failed = [answer for answer in answers if not answer.isdigit()]
    # Those that the worker had: no other was given any.
    how = re.compile(r"the worker of model instance 'pair_0_[01]' was killed by signal 9")
    assert all(how.fullmatch(answer) for answer in failed), failed
    assert 1 <= len(failed) <= 8


def test_what_a_worker_has_started_ends_with_it(workers: ServerProcess) -> None:
    child = int(act(workers, "child"))
    assert alive(child)
    act(workers, "exit 0")
    poll(lambda: not alive(child), "the child to end")


def test_an_exception_leaves_the_worker_alone(workers: ServerProcess) -> None:
    before = act(workers, "pid")
    assert "ValueError: told" in act(workers, "raises told")
    assert act(workers, "pid") == before


def test_workers_that_are_killed_at_random_cost_what_they_had(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    two = "instance_group [{ count: 2 kind: KIND_CPU }]"
    python_worker_models.add(
        repository, "echo", python_worker_models.ECHO, python_worker_models.config(python_worker_models.ECHO_IO + two)
    )
    with running_server([repository], tmp_path) as server:
        worker_kills.run(server, "echo", 2)  # everything that stays open is open
        before = worker_kills.open_descriptors(server.pid), len(family(server.pid))
        outcome = worker_kills.run(server, "echo", float(os.environ.get("WORKER_KILL_SECONDS", "8")))
        assert not outcome.wrong, outcome
        assert outcome.answers["right"] > 10 * outcome.kills and outcome.kills > 3, outcome
        assert sorted(outcome.away_s)[len(outcome.away_s) // 2] < 1, outcome
        server.wait_until_idle()
        poll(lambda: (worker_kills.open_descriptors(server.pid), len(family(server.pid))) == before,
             "nothing to be left")  # fmt: skip
        server.stop()


# -- lies ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_lies_loses_its_own_requests(workers: ServerProcess) -> None:
    lies = act(workers, "lie all").split("|")
    assert len(lies) > 25
    other = act(workers, "pid", "bounded")
    for lie in lies:
        time.sleep(0.05)
        said = act(workers, f"lie {lie}")
        assert re.match(r"the worker of model instance 'acts_0' was killed because it (sent|ended) ", said), (lie, said)
        assert "could not deal with" not in said, (lie, said)
    assert act(workers, "pid", "bounded") == other
    poll(lambda: is_ready(workers, "acts"), "the model to be ready")


# -- the server ----------------------------------------------------------------------------------------------------


def test_workers_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    python_worker_models.add(
        repository, "acts", python_worker_models.ACTS, python_worker_models.config(python_worker_models.ACTS_IO)
    )
    with running_server([repository], tmp_path) as server:
        pids = family(server.pid)
        assert int(act(server, "pid")) in pids
        os.kill(server.pid, signal.SIGKILL)
        poll(lambda: not any(map(alive, pids)), "the workers to end")


def test_load_failures_say_why(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    wrong = {
        "raises": "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('so it is')\n"
                  "    def execute(self, requests):\n        pass\n",
        "dies": "import os\nos._exit(7)\n",
        "syntax": "def\n",
    }  # fmt: skip
    for name, source in wrong.items():
        python_worker_models.add(repository, name, source, python_worker_models.config(python_worker_models.ACTS_IO))
    options = ["--model-control-mode=explicit"]
    with running_server([repository], tmp_path, options) as server:
        for name, text in (("raises", "ValueError: so it is"), ("dies", "exited with status 7"),
                           ("syntax", "SyntaxError")):  # fmt: skip
            url = f"http://{server.http_url}/v2/repository/models/{name}/load"
            with pytest.raises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60)
            assert text in json.load(raised.value)["error"]
        poll(lambda: len(family(server.pid)) <= 1, "the workers to be gone")
        server.stop()
