"""Python models in several model processes (--model-processes): how they live side by side."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_process_stage import (
    ACTS,
    EXIT,
    EXPLICIT,
    PID,
    PID_IO,
    SLEEP,
    TWO,
    alive,
    answers,
    parameter,
    pid,
    until,
)
from python_stage import IDENTITY, IO, Stage, body, of, request, stage, write

from triton_async.backends.python.isolated import host, models
from triton_async.errors import InternalError, ServerError

X = np.arange(4, dtype=np.float32)
# Uses up the descriptors of its process, but for as many as it is told.
HOARDS = body("""
import os, resource
response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([os.getpid()], np.float64))])
for descriptor in self.__dict__.pop('hoard', []):
    os.close(descriptor)
if x[0] >= 0:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    self.hoard = []
    try:
        while True:
            self.hoard.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        for _ in range(int(x[0])):
            os.close(self.hoard.pop())
""")


# -- side by side --------------------------------------------------------------------------------------------------

HELPED = """
import gc, os, sys
import helper

class Own%s:
    pass

class TritonPythonModel:
    def __init__(self):
        self.own, self.cycle = Own%s(), self

    def execute(self, requests):
        others = sum(type(one).__name__.startswith("Own") for one in gc.get_objects())
        found = np.float64([helper.VALUE, sys.modules["helper"].VALUE == helper.VALUE, others])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", found)]) for _ in requests]
"""


def test_modules_of_one_name_and_the_end_of_a_model(tmp_path: Path) -> None:
    """What is loaded in a process is nobody else's, and goes with its model."""
    for name, value in (("a", 1), ("b", 2)):
        write(tmp_path, name, HELPED % (name, name), PID_IO + parameter("x"), helper=f"VALUE = {value}")
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for name in "ab":
            server.run(server.server.load_model(name))
        assert server.ask("a", X).tolist() == [1, True, 2]
        assert server.ask("b", X).tolist() == [2, True, 2]
        server.run(server.server.unload_model("a"))
        until(lambda: server.ask("b", X).tolist() == [2, True, 1])
        (tmp_path / "a" / "1" / "helper.py").write_text("VALUE = 30")
        server.run(server.server.load_model("a"))
        assert server.ask("a", X).tolist() == [30, True, 2]
        assert server.ask("b", X).tolist() == [2, True, 2]


def test_instances_of_a_version_have_globals_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import threading, time
        KNOWN = []

        class TritonPythonModel:
            def initialize(self, args):
                KNOWN.append(args["model_instance_name"])

            def execute(self, requests):
                time.sleep(0.1)
                assert threading.current_thread().name == KNOWN[0]
                out = pb_utils.Tensor("OUT", np.array(KNOWN, dtype=np.object_))
                return [pb_utils.InferenceResponse([out]) for _ in requests]
    """, IO.replace('"OUT" data_type: TYPE_FP32', '"OUT" data_type: TYPE_STRING')
        + "instance_group { count: 2 kind: KIND_CPU }")  # fmt: skip
    with stage(tmp_path, TWO) as server:
        waiting = [server.send(request("m", IN=X)) for _ in range(8)]
        found = [one.all()[0].outputs[0].numpy().tolist() for one in waiting]
        assert all(len(names) == 1 for names in found)
        assert {names[0] for names in found} == {b"m_0_0", b"m_0_1"}
        del waiting


def test_a_process_is_there_as_long_as_it_has_models(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name, PID, PID_IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for name in ("a", "b"):
            server.run(server.server.load_model(name))
        first = pid(server, "a")
        server.run(server.server.unload_model("a"))
        assert pid(server, "b") == first
        server.run(server.server.unload_model("b"))
        until(lambda: not alive(first))
        assert server.metrics("triton_async_model_process_up") == []
        server.run(server.server.load_model("a"))
        assert pid(server, "a") != first
        assert server.metrics("triton_async_model_process_restarts_total") == [
            'triton_async_model_process_restarts_total{process="0"} 0'
        ]


def test_many_models_are_in_few_processes(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(40)]
    for name in names:
        write(tmp_path, name, PID, PID_IO)
    with stage(tmp_path, "--model-processes=3") as server:
        found = [pid(server, name) for name in names]
        assert len(set(found)) == 3
        assert sorted(found.count(one) for one in set(found)) == [13, 13, 14]
        lines = server.metrics("triton_async_model_process_instances")
        assert sorted(int(line.rsplit(" ", 1)[1]) for line in lines) == [13, 13, 14]
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not any("memfd:" in os.readlink(link) for link in links)  # mapped here, handed over there


def test_loads_that_fail_cost_no_other_model_anything(tmp_path: Path) -> None:
    write(tmp_path, "good", PID, PID_IO + parameter("0"))
    raises = "class TritonPythonModel:\n    def initialize(self, args):\n        {}\n    execute = 1\n"
    for name, code in (("raises", "raise ValueError('so it is')"), ("leaves", "raise SystemExit(3)")):
        write(tmp_path, name, raises.format(code), IO + parameter("0"))
    write(tmp_path, "syntax", "def\n", IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT) as server:
        server.run(server.server.load_model("good"))
        before = pid(server, "good")
        for name, text in (("raises", "ValueError: so it is"), ("leaves", "SystemExit: 3"), ("syntax", "SyntaxError")):
            with pytest.raises(ServerError, match=text):
                server.run(server.server.load_model(name))
        assert pid(server, "good") == before
        assert server.metrics("triton_async_model_process_instances") == [
            'triton_async_model_process_instances{process="0"} 1'
        ]


def test_a_model_that_does_not_end_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = models._worker_options
    monkeypatch.setattr(models, "_worker_options", lambda *given: replace(made(*given), finalize_s=0.5))
    write(tmp_path, "hangs", PID + "\n    def finalize(self):\n        import time\n        time.sleep(600)\n",
          PID_IO + parameter("0"))  # fmt: skip
    write(tmp_path, "good", PID, PID_IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for name in ("hangs", "good"):
            server.run(server.server.load_model(name))
        before = pid(server, "good")
        server.run(server.server.unload_model("hangs"))
        until(lambda: server.metrics("triton_async_model_process_instances")[0].endswith(" 1"))
        assert pid(server, "good") == before
        server.run(server.server.load_model("hangs"))
        assert pid(server, "hangs") == before
    until(lambda: not alive(before))


KEEPS = """
import threading

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            kept = [request, request.get_response_sender(), self]
            kept.append(kept)

    def finalize(self):
        family = pb_utils.MetricFamily("kept", "k", pb_utils.MetricFamily.COUNTER)
        metric = family.Metric()

        def ask(family=family, value=metric.value, increment=metric.increment):
            while True:
                increment(1)
                value()

        for _ in range(3):
            threading.Thread(target=ask).start()
"""


def test_what_a_model_leaves_behind_harms_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Requests that are freed behind the end of their instance, threads that go on asking."""
    write(tmp_path, "m", KEEPS, IO + parameter("0") + "model_transaction_policy { decoupled: true }")
    write(tmp_path, "good", PID, PID_IO + parameter("0"))
    server = Stage(tmp_path, TWO)
    before = pid(server, "good")
    server.send(request("m", IN=X))
    server.end_instances("m")
    threads = Path(f"/proc/{before}/task")
    until(lambda: len(list(threads.iterdir())) == 2)
    assert pid(server, "good") == before
    server.close()
    until(lambda: not alive(before))
    assert not capfd.readouterr().err


# -- ends ----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_process_costs_what_its_models_had(tmp_path: Path) -> None:
    for name, place in (("a", "0"), ("b", "0"), ("c", "1")):
        write(tmp_path, name, ACTS, PID_IO + parameter(place))
    with stage(tmp_path, TWO) as server:
        before = {name: pid(server, name) for name in "abc"}
        time.sleep(1.1)  # what has run so long is replaced at once
        waiting = {name: server.send(request(name, IN=np.float32([SLEEP, 0.5]))) for name in "bc"}
        assert server.error(request("a", IN=np.float32([EXIT]))).message == (
            "the worker of model instance 'a_0' exited with status 3"
        )
        (lost,) = waiting.pop("b").all()
        assert isinstance(lost.error, InternalError)
        assert lost.error.message == "the worker of model instance 'b_0' exited with status 3"
        (kept,) = waiting.pop("c").all()
        assert kept.error is None and kept.outputs[0].numpy().tolist() == [before["c"]]
        after = {name: pid(server, name) for name in "abc"}  # those that come now wait for it
        assert after["a"] == after["b"] != before["a"] and after["c"] == before["c"]
        assert server.metrics("triton_async_model_process_restarts_total") == [
            'triton_async_model_process_restarts_total{process="0"} 1',
            'triton_async_model_process_restarts_total{process="1"} 0',
        ]
        del lost, kept


def test_models_are_not_ready_while_their_process_is_away(tmp_path: Path) -> None:
    for name, place in (("a", "0"), ("b", "0"), ("c", "1")):
        write(tmp_path, name, ACTS, PID_IO + parameter(place))

    def ready(name: str) -> bool:
        return bool(server.run(server.server.model_is_ready(name)))

    with stage(tmp_path, TWO) as server:
        assert all(map(ready, "abc"))
        seen = []
        for _ in range(3):  # one after the other, so that there is a pause
            server.send(request("a", IN=np.float32([EXIT]))).all()
            seen += [ready("b"), ready("c")]
            until(lambda: answers(server, "b"))
        assert not all(seen[::2]) and all(seen[1::2])
        until(lambda: all(map(ready, "abc")))


def test_a_load_that_ends_the_process_fails_and_the_others_come_back(tmp_path: Path) -> None:
    write(tmp_path, "good", PID, PID_IO + parameter("0"))
    ends = "import os\nclass TritonPythonModel:\n    def initialize(self, args):\n        os._exit(7)\n"
    write(tmp_path, "ends", f"{ends}    execute = 1\n", IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT) as server:
        server.run(server.server.load_model("good"))
        before = pid(server, "good")
        with pytest.raises(ServerError, match="the worker of model instance 'ends_0' exited with status 7"):
            server.run(server.server.load_model("ends"))
        until(lambda: answers(server, "good"))
        assert pid(server, "good") != before


def test_a_process_without_descriptors_takes_no_further_model(tmp_path: Path) -> None:
    write(tmp_path, "hoards", HOARDS, PID_IO + parameter("0"))
    write(tmp_path, "m", ACTS, PID_IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT, "--load-model=hoards") as server:
        for left in (0, 1, 2, 2):
            server.ask("hoards", [left])
            for _ in range(3):
                with pytest.raises(ServerError, match="could not be started: its process has no file descriptors left"):
                    server.run(server.server.load_model("m"))
        process = int(server.ask("hoards", [-1])[0])
        server.run(server.server.load_model("m"))
        assert pid(server, "m") == process


def test_loads_that_wait_for_a_thread_do_not_begin_behind_a_stop(tmp_path: Path) -> None:
    says = f"""
class TritonPythonModel:
    def initialize(self, args):
        import time
        open({str(tmp_path / "began")!r}, "a").write(args["model_name"])
        time.sleep(0.5)

    execute = 1
"""
    for name in "abcdefgh":
        write(tmp_path / "models", name, says, IO + "version_policy { all {} }\n")
    with stage(tmp_path / "models", TWO, EXPLICIT) as server:
        loads = [asyncio.run_coroutine_threadsafe(server.server.load_model(name), server._loop) for name in "abcdefgh"]
        until(lambda: (tmp_path / "began").exists() and len((tmp_path / "began").read_text()) == 4)
    assert len((tmp_path / "began").read_text()) == 4
    assert sum(load.exception() is None for load in loads) == 4


# Keeps the interpreter's lock, or stops its process.
HOLDS = body("""
import ctypes, os, signal, time
if x[0] == 1:
    ctypes.PyDLL(None).sleep(3600)
if x[0] == 2:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)
response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([os.getpid()], np.float64))])
""")


@pytest.mark.parametrize("how", [1, 2])
def test_a_process_where_no_load_begins_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int) -> None:
    write(tmp_path, "holds", HOLDS, PID_IO + parameter("0"))
    write(tmp_path, "m", ACTS, PID_IO + parameter("0"))
    with stage(tmp_path, TWO, EXPLICIT, "--load-model=holds") as server:
        before = pid(server, "holds")
        waiting = server.send(request("holds", IN=np.float32([how])))
        monkeypatch.setattr(host, "WORKER_FORK_TIMEOUT_S", 0.5)
        with pytest.raises(ServerError, match="was killed because no instance began there"):
            server.run(server.server.load_model("m"))
        monkeypatch.undo()
        assert waiting.all()[0].error is not None
        server.run(server.server.load_model("m"))
        until(lambda: answers(server, "holds"))
        assert pid(server, "m") == pid(server, "holds") != before


@pytest.mark.parametrize(
    "nonsense", ["b'nonsense'", "b'[]'", "b'{}'", "b'[' * 60000", """b'{"number": [], "how": 1}'"""]
)
def test_a_process_that_says_nonsense_is_ended(tmp_path: Path, nonsense: str) -> None:
    write(tmp_path, "lies", f"""
        import gc, time

        class TritonPythonModel:
            def execute(self, requests):
                (host,) = [one for one in gc.get_objects() if type(one).__name__ == "Host"]
                host._control.send({nonsense})
                time.sleep(10)
    """, IO + parameter("0"))  # fmt: skip
    write(tmp_path, "good", PID, PID_IO + parameter("1"))
    with stage(tmp_path, TWO) as server:
        before = pid(server, "good")
        assert server.error(request("lies", IN=X)).message == (
            "the worker of model instance 'lies_0' was killed because it sent nonsense about its instances"
        )
        assert pid(server, "good") == before


# -- what models ask -----------------------------------------------------------------------------------------------

ASKS = body("""
inner = pb_utils.InferenceRequest(
    model_name="{}", inputs=[pb_utils.Tensor("IN", x + 1)], requested_output_names=["OUT"]
).exec()
response = pb_utils.InferenceResponse(error=inner.error()) if inner.has_error() else pb_utils.InferenceResponse(
    [pb_utils.Tensor("OUT", pb_utils.get_output_tensor_by_name(inner, "OUT").as_numpy())])
""")


@pytest.mark.parametrize("places", ["0000", "0101", "0011"])
def test_models_that_ask_each_other(tmp_path: Path, places: str) -> None:
    """In one process and in two; a circle is refused, not waited for."""
    for name, target, place in zip("abcd", ("b", "c", "last", "d"), places, strict=True):
        write(tmp_path, name, ASKS.format(target), IO + parameter(place))
    write(tmp_path, "last", IDENTITY, IO + parameter(places[0]))
    write(tmp_path, "e", ASKS.format("f"), IO + parameter(places[0]))
    write(tmp_path, "f", ASKS.format("e"), IO + parameter(places[1]))
    with stage(tmp_path, TWO) as server:
        waiting = [server.send(request("a", IN=X + number)) for number in range(20)]
        found = [one.all()[0].outputs[0].numpy().tolist() for one in waiting]
        assert found == [(X + number + 3).tolist() for number in range(20)]
        for name in "def":
            error = server.error(request(name, IN=X))
            assert "waits for" in error.message or "circle" in error.message, error.message
        assert server.ask("a", X).tolist() == (X + 3).tolist()
        del waiting


STREAM = """
import threading

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.send, args=(request.get_response_sender(),)).start()

    def send(self, sender):
        for number in range(300):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.full(2, number, np.float32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
AWAITS = """
class TritonPythonModel:
    async def execute(self, requests):
        for request in requests:
            inner = pb_utils.InferenceRequest(
                model_name="stream", inputs=request.inputs(), requested_output_names=["OUT"])
            sender = request.get_response_sender()
            async for response in await inner.async_exec(decoupled=True):
                if response.output_tensors():
                    array = response.output_tensors()[0].as_numpy()
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def test_streams_from_threads_and_coroutines(tmp_path: Path) -> None:
    decoupled = "model_transaction_policy { decoupled: true }\n"
    write(tmp_path, "stream", STREAM, IO + decoupled)
    write(tmp_path, "awaits", AWAITS, IO + decoupled)
    with stage(tmp_path, TWO) as server:
        for name in ("stream", "awaits"):
            waiting = [server.send(request(name, IN=X)) for _ in range(3)]
            for one in waiting:
                *responses, last = one.all()
                assert [response.outputs[0].numpy()[0] for response in responses] == list(range(300))
                assert last.final and not last.outputs
                del responses, last
            del waiting, one


def test_what_else_a_model_may_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "m", """
        class TritonPythonModel:
            def initialize(self, args):
                self.family = pb_utils.MetricFamily("hosted_calls", "c", pb_utils.MetricFamily.COUNTER)
                self.calls = self.family.Metric(labels={"name": args["model_name"]})
                self.ready = True

            def is_ready(self):
                return self.ready

            def execute(self, requests):
                self.calls.increment(1)
                pb_utils.Logger.log_warn("said so")
                found = []
                for request in requests:
                    assert request.request_id() == "i" and request.parameters().replace(" ", "") == '{"p":3}'
                    self.ready = not self.ready
                    found.append(pb_utils.InferenceResponse(
                        [pb_utils.Tensor("OUT", np.float32([pb_utils.is_model_ready("other")]))], parameters={"q": 4}))
                return found
    """)  # fmt: skip
    write(tmp_path, "other", IDENTITY)
    with stage(tmp_path, TWO) as server:
        assert server.run(server.server.model_is_ready("m"))
        (response,) = server.send(of(request("m", IN=X), id="i", parameters={"p": 3})).all()
        assert response.error is None, response.error
        assert response.outputs[0].numpy().tolist() == [1] and response.parameters == {"q": 4}
        assert not server.run(server.server.model_is_ready("m"))
        assert server.metrics('hosted_calls{name="m"}') == ['hosted_calls{name="m"} 1']
        assert "said so" in caplog.text
        del response


def test_a_request_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        import time
        until = time.monotonic() + 20 * float(x[0])
        while time.monotonic() < until and not request.is_cancelled():
            time.sleep(0.01)
        self.seen = getattr(self, "seen", 0) + request.is_cancelled()
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([self.seen]))])
    """))
    with stage(tmp_path, TWO) as server:
        asked: Any = request("m", IN=np.float32([1]))
        server.send(asked)
        time.sleep(0.2)
        server.call(server.server.cancel, asked)
        assert server.ask("m", [0]).tolist() == [1]
        del asked
