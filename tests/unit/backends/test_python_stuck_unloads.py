"""Unloads of Python models whose `execute` does not come back: they say what they wait for, and end where they can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from model_process_stage import EXPLICIT, TWO, alive, parameter, until
from python_stage import IO, Stage, of, request, stage, write

from triton_async.core import lifecycle
from triton_async.core.lifecycle import State
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest

# Returns from `execute` when a file is there.
WAITS = """
import os, pathlib, time

class TritonPythonModel:
    def execute(self, requests):
        folder = pathlib.Path(pb_utils.get_model_dir())
        (folder / "begun").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(0.01)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
# Never sends its final response.
STREAMS = """
import os, pathlib, threading, time

SENDERS = []

class TritonPythonModel:
    def execute(self, requests):
        folder = pathlib.Path(pb_utils.get_model_dir())
        (folder / "begun").write_text(str(os.getpid()))
        SENDERS.extend(request.get_response_sender() for request in requests)
"""
DECOUPLED = IO + "model_transaction_policy { decoupled: true }\n"
SEQUENCES = DECOUPLED + "sequence_batching { max_sequence_idle_microseconds: 60000000 }\n"
PID = """
import os

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([os.getpid() % 2**20], np.float32))])
                for _ in requests]
"""
ISOLATED = ("--backend-config=python,isolation=process",)
ONE = np.ones(1, np.float32)
BRIEF = parameter("0.2", "UNLOAD_TIMEOUT_SECONDS")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an unload waits for is told at once."""
    monkeypatch.setattr(lifecycle, "UNLOAD_TOLD_S", 0.05)
    monkeypatch.setattr(lifecycle, "UNLOAD_GIVE_UP_S", 0.05)
    yield


def begun(root: Path, name: str) -> int:
    """The process in which it has begun to execute."""
    file = root / name / "1" / "begun"
    told = [""]

    # The next execution writes it anew: for a moment it is empty again.
    def is_told() -> bool:
        if file.exists():
            told[0] = file.read_text()
        return bool(told[0])

    until(is_told)
    return int(told[0])


def whole(sequence: int) -> InferRequest:
    """A sequence of one request, START and END, for models that have such."""
    return of(request("m", IN=ONE), sequence_id=sequence, flags=3)


def state(server: Stage, name: str) -> str:
    rows = server.run(server.server.repository_index())
    return str(next(row["state"] for row in rows if row["name"] == name))


def unload(server: Stage, name: str) -> None:
    server.run(server.server.unload_model(name))


def test_an_unload_in_the_server_says_what_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "m", WAITS)
    with stage(tmp_path, EXPLICIT, "--load-model=m") as server:
        sent = server.send(request("m", IN=ONE))
        begun(tmp_path, "m")
        unload(server, "m")
        reason = "waits for the execution on instance 'm_0' to end"
        until(lambda: server.reason("m") == reason)
        assert state(server, "m") == State.UNLOADING.value
        assert f"the unload of 'm' version 1 {reason}" in caplog.text
        (tmp_path / "m" / "1" / "go").touch()
        (response,) = sent.all()
        assert response.error is None
        until(lambda: server.reason("m") == "unloaded")
        assert state(server, "m") == State.UNAVAILABLE.value


@pytest.mark.parametrize("config", [DECOUPLED, SEQUENCES], ids=["requests", "sequences"])
def test_an_unload_says_that_it_waits_for_responses(tmp_path: Path, config: str) -> None:
    write(tmp_path, "m", STREAMS + """
        threading.Thread(target=self.end, args=(folder,)).start()

    def end(self, folder):
        while not (folder / "go").exists():
            time.sleep(0.01)
        SENDERS.pop().send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""", config)  # fmt: skip
    with stage(tmp_path, EXPLICIT, "--load-model=m") as server:
        sent = server.send(whole(1))
        begun(tmp_path, "m")
        unload(server, "m")
        until(lambda: server.reason("m") == "waits for responses of instance 'm_0'")
        (tmp_path / "m" / "1" / "go").touch()
        assert sent.all()[-1].final
        until(lambda: server.reason("m") == "unloaded")


@pytest.mark.parametrize(("code", "config"), [
    (WAITS, IO), (STREAMS, DECOUPLED), (STREAMS, SEQUENCES),
], ids=["execute", "sender", "sequence's sender"])  # fmt: skip
@pytest.mark.parametrize("where", [*ISOLATED, TWO])
def test_a_worker_that_does_not_come_back_is_ended(
    tmp_path: Path, where: str, code: str, config: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "m", code, config + BRIEF)
    write(tmp_path, "other", PID)
    loads = ("--load-model=m", "--load-model=other")
    with stage(tmp_path, EXPLICIT, *loads, where) as server:
        other = server.ask("other", [0]).tolist()
        sent = [server.send(whole(number)) for number in range(1, 4)]
        process = begun(tmp_path, "m")
        unload(server, "m")
        errors = [collected.all()[-1].error for collected in sent]
        assert all(error is not None for error in errors)
        assert "it is unloaded, and it had not ended what it executed within 0.2 s" in str(errors[0])
        until(lambda: server.reason("m") == "unloaded")
        if where != TWO:
            until(lambda: not alive(process))
        assert server.ask("other", [0]).tolist() == other
        assert "another one is started" not in caplog.text
        (tmp_path / "m" / "1" / "begun").unlink()
        (tmp_path / "m" / "1" / "go").touch()
        server.run(server.server.load_model("m"))
        if code == WAITS:
            assert server.ask("m", [4]).tolist() == [4]


def test_a_worker_that_comes_back_in_time_answers(tmp_path: Path) -> None:
    write(tmp_path, "m", WAITS)
    with stage(tmp_path, EXPLICIT, "--load-model=m", *ISOLATED) as server:
        sent = server.send(request("m", IN=ONE))
        begun(tmp_path, "m")
        unload(server, "m")
        until(lambda: server.reason("m").startswith("waits for the execution on instance 'm_0' to end"))
        (tmp_path / "m" / "1" / "go").touch()
        assert sent.all()[0].error is None
        until(lambda: server.reason("m") == "unloaded")


@pytest.mark.parametrize("where", [*ISOLATED, TWO])
def test_the_server_gives_up_workers_at_its_end(tmp_path: Path, where: str) -> None:
    write(tmp_path, "m", WAITS)
    with stage(tmp_path, where) as server:
        sent = server.send(request("m", IN=ONE))
        begun(tmp_path, "m")
        server.call(server.server.interrupt)
        with pytest.raises(ServerError, match="the server ends"):
            raise sent.all()[0].error or AssertionError


@pytest.mark.parametrize("value", ["0", "x", "-1", "2e7"])
def test_a_bound_that_is_none(tmp_path: Path, value: str) -> None:
    write(tmp_path, "m", PID, IO + parameter(value, "UNLOAD_TIMEOUT_SECONDS"))
    with stage(tmp_path, *ISOLATED) as server:
        assert "parameter 'UNLOAD_TIMEOUT_SECONDS' of model 'm' must be a number of seconds" in server.reason("m")


def test_the_bound_is_for_models_that_can_be_ended(tmp_path: Path) -> None:
    write(tmp_path, "m", PID, IO + BRIEF)
    with stage(tmp_path, EXPLICIT) as server:
        with pytest.raises(ServerError) as raised:
            server.run(server.server.load_model("m"))
        assert "'UNLOAD_TIMEOUT_SECONDS' of model 'm' is for models that run in a process" in str(raised.value)


@pytest.mark.parametrize("where", [*ISOLATED, TWO])
@pytest.mark.parametrize("executed", [False, True])
def test_instances_end_together(tmp_path: Path, where: str, executed: bool) -> None:
    """Each `finalize` waits for those of the others."""
    write(tmp_path, "m", PID + """
    def initialize(self, args):
        self.name = args["model_instance_name"]

    def finalize(self):
        import pathlib, time
        folder = pathlib.Path(pb_utils.get_model_dir())
        (folder / f"{self.name}.ends").touch()
        end = time.monotonic() + 10
        while len(list(folder.glob("*.ends"))) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        (folder / f"{self.name}.saw").write_text(str(len(list(folder.glob("*.ends")))))
""", IO + "instance_group { count: 3 kind: KIND_CPU }")  # fmt: skip
    with stage(tmp_path, EXPLICIT, "--load-model=m", where) as server:
        if executed:
            server.ask("m", [0])
        unload(server, "m")
        until(lambda: server.reason("m") == "unloaded")
    assert [file.read_text() for file in (tmp_path / "m" / "1").glob("*.saw")] == ["3"] * 3
