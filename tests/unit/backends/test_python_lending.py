"""Inner requests that run on the thread which waits for them, on instances that are borrowed. Real threads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_models import FLOAT, INT64, model, node, tensor
from bls_stage import ask, problem, request, with_server, write
from gated_backend import Recorder, until
from onnx import numpy_helper

from triton_async.backends.python.affinity import is_neutral
from triton_async.core.server import InferenceServer
from triton_async.errors import InvalidArg

ANY = 'parameters { key: "ANY_THREAD" value { string_value: "yes" } }'
OWN = 'parameters { key: "ANY_THREAD" value { string_value: "no" } }'

# Which thread it runs on, as far as a FP32 tells them apart.
THREAD = """
    def execute(self, requests):
        return [y(np.float32([threading.get_native_id() % 1000000])) for request in requests]
"""
# Its own thread, and that of the model it asks.
THREADS = """
    def execute(self, requests):
        own = np.float32([threading.get_native_id() % 1000000])
        return [or_error(ask("NEXT", x_of(request)).exec(), lambda other: np.concatenate([own, other]))
                for request in requests]
"""
ADD = """
    def execute(self, requests):
        return [y(x_of(request) + 1) for request in requests]
"""
CHAIN = """
    def execute(self, requests):
        return [or_error(ask("NEXT", x_of(request)).exec(), lambda array: array + 1) for request in requests]
"""
# Asks X[0] times.
TIMES = """
    def execute(self, requests):
        x = x_of(requests[0])
        for _ in range(int(x[0])):
            found = ask("NEXT", x).exec()
            if found.has_error():
                return [pb_utils.InferenceResponse(error=found.error())]
        return [y(x)]
"""
SLEEPS = """
    def execute(self, requests):
        import time
        time.sleep(float(x_of(requests[0])[0]))
        return [y(x_of(request)) for request in requests]
"""
RAISES = """
    def execute(self, requests):
        raise ValueError(f"on purpose {x_of(requests[0])[0]:g}")
"""
# Answers from another thread, when `execute` has returned.
LATE = """
    def execute(self, requests):
        def answer(sender, array):
            time.sleep(0.02)
            sender.send(y(array), FINAL)
        import time
        for request in requests:
            threading.Thread(target=answer, args=(request.get_response_sender(), x_of(request) + 1)).start()
        return [None] * len(requests)
"""
IN_A_LOOP = """
    def execute(self, requests):
        async def ask_there():
            return or_error(ask("NEXT", x_of(requests[0])).exec(), lambda array: array + 1)
        return [asyncio.run(ask_there())]
"""
LOOPS = """
    def execute(self, requests):
        async def add(array):
            await asyncio.sleep(0)
            return array + 1
        return [y(asyncio.run(add(x_of(request)))) for request in requests]
"""
UNTIL_CANCELLED = """
    def execute(self, requests):
        import time
        for _ in range(2000):
            if x_of(requests[0])[0] > 0 and requests[0].is_cancelled():
                return [y(np.float32([-1]))]
            if x_of(requests[0])[0] <= 0:
                break
            time.sleep(0.005)
        return [y(x_of(requests[0]))]
"""


def counts(server: InferenceServer, name: str) -> tuple[int, int, int]:
    """Inferences, executions, failures."""
    [found] = server.statistics(name)
    failed: int = found["inference_stats"]["fail"]["count"]
    return found["inference_count"], found["execution_count"], failed


@pytest.mark.parametrize(("more", "shared"), [(ANY, True), (OWN, False), ("", False)])
def test_the_thread_that_waits_runs_what_may_run_anywhere(tmp_path: Path, more: str, shared: bool) -> None:
    write(tmp_path, "asks", THREADS, "thread")
    write(tmp_path, "thread", THREAD, more=more)

    async def test(server: InferenceServer) -> None:
        await ask(server, "asks", 1)  # from here on the other is known to be asked
        for _ in range(5):
            own, other = await ask(server, "asks", 1)
            assert (own == other) is shared
        # Its own clients get it on its own thread all the same.
        assert await ask(server, "thread", 1) != [own]
        assert counts(server, "thread") == (7, 7, 0)

    with_server(tmp_path, test)


def test_all_is_counted_before_the_answer(tmp_path: Path) -> None:
    write(tmp_path, "a", CHAIN, "b", more=ANY)
    write(tmp_path, "b", CHAIN, "c", more=ANY)
    write(tmp_path, "c", ADD, more=ANY)

    async def test(server: InferenceServer) -> None:
        for i in range(1, 8):
            assert await ask(server, "a", i) == [i + 3]
            await until(lambda done=i: counts(server, "a")[1] == done, "its own execution is counted")
            assert [counts(server, name) for name in "abc"] == [(i, i, 0)] * 3
        several = await asyncio.gather(*(ask(server, name, i) for i in range(50) for name in "abc"))
        assert several == [[i + more] for i in range(50) for more in (3, 2, 1)]
        await until(lambda: counts(server, "a")[0] == 57, "all are counted")
        assert [counts(server, name)[0] for name in "abc"] == [57, 107, 157]
        for entry in server.statistics():
            phases = entry["inference_stats"]
            assert all(phases[phase]["count"] == entry["inference_count"] for phase in ("success", "queue"))

    with_server(tmp_path, test)


def test_many_are_counted_while_the_model_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "times", TIMES, "sleeps")
    write(tmp_path, "sleeps", SLEEPS, more=ANY)

    async def test(server: InferenceServer) -> None:
        await ask(server, "times", 1)
        sink = Recorder()
        server.submit(request("times", 4, 0.0), sink)
        del sink
        server.submit(request("times", 300, 0.0), sink := Recorder())
        await until(lambda: counts(server, "sleeps")[0] > 5, "it is seen at work")
        await until(lambda: sink.responses, "it is over")
        sink.responses.clear()
        assert counts(server, "sleeps")[0] == 305

    write(tmp_path, "sleeps", SLEEPS.replace("float(x_of(requests[0])[0])", "0.001"), more=ANY)
    with_server(tmp_path, test)


def test_errors_of_a_borrowed_instance(tmp_path: Path) -> None:
    write(tmp_path, "asks", CHAIN, "raises")
    write(tmp_path, "raises", RAISES, more=ANY)

    async def test(server: InferenceServer) -> None:
        first = await problem(server, "asks", 1)
        assert first.startswith("Failed to process the request(s) for model 'raises_0_0', message: ValueError: on pur")
        for i in range(3):
            assert await problem(server, "asks", i) == first.replace("on purpose 1", f"on purpose {i}")
        assert counts(server, "raises") == (0, 4, 4)

    with_server(tmp_path, test)


def test_an_answer_that_comes_later_from_another_thread(tmp_path: Path) -> None:
    write(tmp_path, "asks", CHAIN, "late")
    write(tmp_path, "late", LATE, more=ANY)

    async def test(server: InferenceServer) -> None:
        for i in range(6):
            assert await ask(server, "asks", i) == [i + 2]
        await until(lambda: counts(server, "late") == (6, 6, 0), "all are counted")

    with_server(tmp_path, test)


def test_models_run_no_loop_within_a_loop(tmp_path: Path) -> None:
    write(tmp_path, "asks", IN_A_LOOP, "loops")
    write(tmp_path, "loops", LOOPS, more=ANY)

    async def test(server: InferenceServer) -> None:
        for i in range(4):
            assert await ask(server, "asks", i) == [i + 2]

    with_server(tmp_path, test)


@pytest.mark.parametrize("more", [ANY, OWN])
def test_circles_are_met_on_borrowed_instances(tmp_path: Path, more: str) -> None:
    write(tmp_path, "a", CHAIN, "b", more=more)
    write(tmp_path, "b", CHAIN, "c", more=more)
    write(tmp_path, "c", CHAIN, "a", more=more)
    write(tmp_path, "self", CHAIN, "self", instances=2, more=more)

    async def test(server: InferenceServer) -> None:
        for _ in range(4):
            assert "could never be answered" in await problem(server, "a", 1)
            assert "could never be answered" in await problem(server, "self", 1)
        answers = await asyncio.gather(*(problem(server, name, 1) for name in "abcabcabc"))
        assert all("could never be answered" in text for text in answers)

    with_server(tmp_path, test)


def test_a_client_gets_an_instance_back_that_is_borrowed(tmp_path: Path) -> None:
    write(tmp_path, "times", TIMES, "sleeps")
    write(tmp_path, "sleeps", SLEEPS.replace("float(x_of(requests[0])[0])", "0.01"), more=ANY)

    async def test(server: InferenceServer) -> None:
        await ask(server, "times", 1)
        server.submit(request("times", 100), sink := Recorder())
        await until(lambda: counts(server, "times")[1] == 1 and counts(server, "sleeps")[0] > 5, "it is at work")
        for i in range(10):
            assert await ask(server, "sleeps", i) == [i]
        assert not sink.responses  # the client need not wait for all of them
        await until(lambda: sink.responses, "it is over")
        sink.responses.clear()

    with_server(tmp_path, test)


def test_a_model_is_unloaded_while_it_is_borrowed(tmp_path: Path) -> None:
    write(tmp_path, "asks", CHAIN, "sleeps")
    write(tmp_path, "sleeps", SLEEPS, more=ANY)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "asks", 0) == [1]
        assert await ask(server, "asks", 0) == [1]
        server.submit(request("asks", 0.3), sink := Recorder())
        await asyncio.sleep(0.1)
        await server.unload_model("sleeps")
        assert not sink.responses
        await until(lambda: sink.responses, "it is answered")
        assert sink.responses[0].error is None
        sink.responses.clear()
        await until(lambda: len(list(server.repository.held_models())) == 1, "it is gone")
        assert "is not ready" in await problem(server, "asks", 0)
        await server.load_model("sleeps")
        for _ in range(3):
            assert await ask(server, "asks", 0) == [1]

    with_server(tmp_path, test, "--model-control-mode=explicit", "--load-model=asks", "--load-model=sleeps")


def test_a_cancelled_request_cancels_what_runs_for_its_sake(tmp_path: Path) -> None:
    write(tmp_path, "a", CHAIN, "b", more=ANY)
    write(tmp_path, "b", CHAIN, "waits", more=ANY)
    write(tmp_path, "waits", UNTIL_CANCELLED, more=ANY)

    async def test(server: InferenceServer) -> None:
        for _ in range(3):
            assert await ask(server, "a", 0) == [2]
        outer = request("a", 1)
        server.submit(outer, Recorder())
        await asyncio.sleep(0.1)
        server.cancel(outer)
        await until(lambda: not any(model.in_flight for model in server.repository.held_models()), "all end")
        assert [counts(server, name)[2] for name in ("a", "b", "waits")] == [1, 1, 1]
        del outer

    with_server(tmp_path, test)


STRICT = """
    def execute(self, requests):
        with np.errstate(divide="raise"):
            return [or_error(ask("NEXT", x_of(request)).exec()) for request in requests]
"""
RAISES_AT_ZERO = """
    def execute(self, requests):
        return [y(np.float32([np.geterr()["divide"] == "raise"])) for request in requests]
"""


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy keeps it for the thread")
def test_a_model_is_not_run_in_the_context_of_another(tmp_path: Path) -> None:
    write(tmp_path, "strict", STRICT, "lax")
    write(tmp_path, "lax", RAISES_AT_ZERO, more=ANY)

    async def test(server: InferenceServer) -> None:
        for _ in range(3):
            assert await ask(server, "strict", 0) == [0]

    with_server(tmp_path, test)


def test_large_tensors_of_borrowed_instances(tmp_path: Path) -> None:
    write(tmp_path, "a", CHAIN, "b")
    write(tmp_path, "b", ADD, more=ANY)

    async def test(server: InferenceServer) -> None:
        large = np.arange(1 << 18, dtype=np.float32)
        for _ in range(3):
            assert await ask(server, "a", *large) == (large + 2).tolist()

    with_server(tmp_path, test)


def write_gather(root: Path, name: str) -> None:
    """An ONNX model: Y is the table's entries at X, an error where it has none."""
    table = numpy_helper.from_array(np.float32([10, 20, 30]), "table")
    made = model(
        [node("Cast", ["X"], ["at"], to=INT64), node("Gather", ["table", "at"], ["Y"])],
        [tensor("X", FLOAT, ["n"])], [tensor("Y", FLOAT, ["n"])], [table],
    )  # fmt: skip
    (root / name / "1").mkdir(parents=True)
    (root / name / "1/model.onnx").write_bytes(made.SerializeToString())
    (root / name / "config.pbtxt").write_text('''
        backend: "onnxruntime"
        input { name: "X" data_type: TYPE_FP32 dims: -1 }
        output { name: "Y" data_type: TYPE_FP32 dims: -1 }
    ''')


def test_engines_that_answer_a_batch_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, "asks", CHAIN, "gather")
    write_gather(tmp_path, "gather")

    async def test(server: InferenceServer) -> None:
        for _ in range(4):
            assert await ask(server, "asks", 2, 0) == [31, 11]
        for _ in range(3):
            assert "out of data bounds" in await problem(server, "asks", 7)
        assert await ask(server, "gather", 1) == [20]
        assert await ask(server, "asks", 1) == [21]
        assert counts(server, "gather") == (6, 6, 3)
        several = await asyncio.gather(*(ask(server, name, i % 3) for i in range(60) for name in ("asks", "gather")))
        assert several == [[(i % 3 + 1) * 10 + more] for i in range(60) for more in (1, 0)]

    with_server(tmp_path, test)


NEUTRAL = {
    "import numpy as np\nimport json, os.path\ndef f():\n    from collections import deque\n": True,
    "import triton_python_backend_utils as pb_utils\nclass A:\n    def f(self, r):\n        return r.exec()\n": True,
    "from .sibling import x\n": True,
    "import sibling\n": True,
    "import re\nre.compile('x')\n": True,
    "import threading\n": False,
    "import sqlite3\n": False,
    "import torch\n": False,
    "def f():\n    import asyncio\n": False,
    "class A:\n    def f(self):\n        return lambda: __import__('sqlite3')\n": False,
    "import importlib\n": False,
    "exec('import sqlite3')\n": False,
    "import numpy as np\nnp.seterr(all='raise')\n": False,
    "import other\n": False,
}


@pytest.mark.parametrize(("code", "neutral"), list(NEUTRAL.items()))
def test_which_files_may_run_on_any_thread(code: str, neutral: bool) -> None:
    files = {Path("/m/1/model.py"): code, Path("/m/1/sibling.py"): "import math\n"}
    compiled: dict[Path, Any] = {path: compile(text, str(path), "exec") for path, text in files.items()}
    assert is_neutral(compiled) is neutral


def test_the_parameter_is_checked(tmp_path: Path) -> None:
    from triton_async.backends.python.options import read_options

    with pytest.raises(InvalidArg, match="parameter 'ANY_THREAD' of model 'm' must be 'yes' or 'no', got 'maybe'"):
        read_options("m", {"ANY_THREAD": "maybe"}, {})
    with pytest.raises(InvalidArg, match="runs in a process of its own"):
        read_options("m", {"ANY_THREAD": "yes", "ISOLATION": "process"}, {})
    assert read_options("m", {"ANY_THREAD": "no", "ISOLATION": "process"}, {}).any_thread is False
    assert read_options("m", {}, {}).any_thread is None
