"""PyTorch models that are Python code (`runtime: "model.py"`), behind a server."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from python_stage import Stage, request, stage, write
from torch_models import parameter, script, torch

from triton_async.backends.pytorch.modules.torch_module_runtime import TritonPythonModel
from triton_async.errors import ServerError

MODULE = 'backend: "pytorch"\nruntime: "model.py"\n'
PAIR = MODULE + """
    input { name: "A" data_type: TYPE_FP32 dims: 4 }
    input { name: "B" data_type: TYPE_FP32 dims: 4 }
    output { name: "SUM" data_type: TYPE_FP32 dims: 4 }
    output { name: "DIFFERENCE" data_type: TYPE_FP32 dims: 4 }
"""
ADD_SUB = """
    import torch

    class AddSub(torch.nn.Module):
        def forward(self, a, b):
            return a + b, a - b
"""
LINEAR_IO = MODULE + """
    max_batch_size: 8
    input { name: "IN" data_type: TYPE_FP32 dims: 3 }
    output { name: "OUT" data_type: TYPE_FP32 dims: 2 }
"""
LINEAR = """
    import torch
    from torch.nn import Identity
    from parts import Half

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.smaller = Half()

        def forward(self, x):
            return self.smaller(self.layer(x))
"""
PARTS = """
    import torch

    class Half(torch.nn.Module):
        def forward(self, x):
            return x / 2
"""
A, B = np.arange(4, dtype=np.float32), np.full(4, 2, np.float32)
ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


def linear(root: Path, more: str = "") -> np.ndarray:
    """A model with weights in a file of their own, and what it makes of ROWS."""
    folder = write(root, "linear", LINEAR, LINEAR_IO + more, parts=PARTS) / "1"
    torch.manual_seed(7)
    layer = torch.nn.Linear(3, 2)
    torch.save({f"layer.{name}": weight for name, weight in layer.state_dict().items()}, folder / "model.pt")
    with torch.no_grad():
        found: np.ndarray = (layer(torch.from_numpy(ROWS)) / 2).numpy()
    return found


@pytest.mark.parametrize("more", [
    "", "instance_group { kind: KIND_MODEL }\n", parameter("NUM_THREADS", "1") + parameter("NUM_INTEROP_THREADS", "1"),
    parameter("TORCH_COMPILE_OPTIONAL_PARAMETERS", '{"disable": true}'),
    parameter("TORCH_COMPILE_OPTIONAL_PARAMETERS", '{"backend": "eager"}'), parameter("ISOLATION", "process"),
])  # fmt: skip
def test_a_module_without_weights(tmp_path: Path, more: str) -> None:
    write(tmp_path, "m", ADD_SUB, PAIR + more)
    with stage(tmp_path) as server:
        found = server.infer(request("m", A=A, B=B))
    assert np.array_equal(found["SUM"], A + B) and np.array_equal(found["DIFFERENCE"], A - B)


@pytest.mark.parametrize("options", [[], ["--model-processes=2"], ["--backend-config=python,isolation=process"]])
def test_weights_lie_beside_a_module(tmp_path: Path, options: list[str]) -> None:
    expected = linear(tmp_path)
    with stage(tmp_path, *options) as server:
        np.testing.assert_allclose(server.ask("linear", ROWS), expected, rtol=1e-5)
        np.testing.assert_allclose(server.ask("linear", ROWS[:1]), expected[:1], rtol=1e-5)


def test_requests_of_a_batch_are_one_call(tmp_path: Path) -> None:
    expected = linear(tmp_path, "dynamic_batching { max_queue_delay_microseconds: 3000000 preferred_batch_size: 8 }\n")
    parts = [slice(0, 1), slice(1, 3), slice(3, 6), slice(6, 8)]
    with stage(tmp_path) as server, ThreadPoolExecutor() as pool:
        for part, found in zip(parts, pool.map(lambda part: server.ask("linear", ROWS[part]), parts), strict=True):
            np.testing.assert_allclose(found, expected[part], rtol=1e-5)
        statistics = server.statistics("linear")
    assert (statistics["inference_count"], statistics["execution_count"]) == (8, 1)


def test_the_file_may_be_torchscript(tmp_path: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor):  # type: ignore[no-untyped-def]
            return 2 * x

    (tmp_path / "m" / "1").mkdir(parents=True)
    torch.jit.save(script(Double()), tmp_path / "m" / "1" / "model.pt")
    (tmp_path / "m" / "config.pbtxt").write_text(LINEAR_IO.replace("dims: 2", "dims: 3"))
    with stage(tmp_path) as server:
        assert np.array_equal(server.ask("m", ROWS), 2 * ROWS)


def test_a_module_may_return_its_input_and_have_another_file(tmp_path: Path) -> None:
    config = LINEAR_IO.replace("dims: 2", "dims: 3") + 'default_model_filename: "same.py"'
    folder = write(tmp_path, "m", "", config) / "1"
    (folder / "same.py").write_text("from torch.nn import Identity\n")
    with stage(tmp_path) as server:
        first = server.ask("m", ROWS)
        server.ask("m", -ROWS)
    assert np.array_equal(first, ROWS)


@pytest.mark.parametrize(("code", "config", "problem"), [
    ("x = 1\n", PAIR, "Cannot find a subclass of torch.nn.Module"),
    ("import torch\nraise ValueError('as it does')\n", PAIR, "ValueError: as it does"),
    (ADD_SUB, PAIR + parameter("TORCH_COMPILE_OPTIONAL_PARAMETERS", '{"model": 1}'), "'model' is not an optional"),
    (ADD_SUB, PAIR + 'default_model_filename: "a.b.py"', "there is a dot in its name"),
])  # fmt: skip
def test_what_is_no_module_does_not_load(tmp_path: Path, code: str, config: str, problem: str) -> None:
    folder = write(tmp_path, "m", code, config) / "1"
    (folder / "a.b.py").write_text("")
    with stage(tmp_path, "--exit-on-error=false") as server:
        assert problem in server.reason("m")


def test_fewer_results_than_outputs_fail_the_request(tmp_path: Path) -> None:
    write(tmp_path, "m", ADD_SUB.replace("a + b, a - b", "a + b"), PAIR)
    with stage(tmp_path) as server:
        assert "returned 1 results, its config has 2 outputs" in server.error(request("m", A=A, B=B)).message


def test_a_module_of_the_backend_directory_goes_first(tmp_path: Path) -> None:
    backends, models = tmp_path / "backends", tmp_path / "models"
    (backends / "pytorch").mkdir(parents=True)
    (backends / "pytorch" / "model.py").write_text("""
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        made = [pb_utils.Tensor(name, np.full(4, 9, np.float32)) for name in ("SUM", "DIFFERENCE")]
        return [pb_utils.InferenceResponse(made) for _ in requests]
""")
    write(models, "m", ADD_SUB, PAIR)
    with stage(models, f"--backend-directory={backends}") as server:
        assert server.infer(request("m", A=A, B=B))["SUM"].tolist() == [9] * 4


def test_the_engine_s_own_library_may_be_named(tmp_path: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor):  # type: ignore[no-untyped-def]
            return 2 * x

    for name, runtime in (("named", "libtriton_pytorch.so"), ("other", "libtriton_other.so")):
        (tmp_path / name / "1").mkdir(parents=True)
        torch.jit.save(script(Double()), tmp_path / name / "1" / "model.pt")
        config = LINEAR_IO.replace("dims: 2", "dims: 3").replace("model.py", runtime)
        (tmp_path / name / "config.pbtxt").write_text(config)
    with stage(tmp_path, "--exit-on-error=false") as server:
        assert np.array_equal(server.ask("named", ROWS), 2 * ROWS)
        assert "unable to find 'libtriton_other.so' for backend 'pytorch'" in server.reason("other")


def test_instances_have_modules_of_their_own(tmp_path: Path) -> None:
    code = """
    import os
    import torch

    class Counter(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Counter.calls += 1
            return torch.full((1,), Counter.calls), torch.full((1,), os.getpid())
"""
    io = MODULE + "input { name: 'IN' data_type: TYPE_FP32 dims: 1 }\n" + "".join(
        f"output {{ name: '{name}' data_type: TYPE_INT64 dims: 1 }}\n" for name in ("CALLS", "PID")
    )
    for name in ("one", "other"):
        write(tmp_path, name, code, io)
    with stage(tmp_path) as server:
        found = [server.infer(request(name, IN=np.zeros(1, np.float32))) for name in ("one", "one", "other")]
    assert [int(answer["CALLS"][0]) for answer in found] == [1, 2, 1]
    assert {int(answer["PID"][0]) for answer in found} == {os.getpid()}


def test_numbers_of_threads_are_of_the_model_that_has_set_them(tmp_path: Path) -> None:
    """PyTorch has a thread take what any has set last, at its own first call."""
    code = """
    import torch

    class Count(torch.nn.Module):
        def forward(self, x):
            return torch.full((1,), torch.get_num_threads())
"""
    io = MODULE + """
        input { name: "IN" data_type: TYPE_FP32 dims: 1 }
        output { name: "OUT" data_type: TYPE_INT64 dims: 1 }
    """
    before: list[int] = []
    others = threading.Thread(target=lambda: before.append(torch.get_num_threads()))
    others.start()
    others.join()
    for count in (1, 3, 2):
        write(tmp_path, f"m{count}", code, io + parameter("NUM_THREADS", str(count)))
    write(tmp_path, "plain", code, io)
    with stage(tmp_path) as server:
        found = [int(server.ask(f"m{count}", [0])[0]) for count in (1, 2, 3)]
        assert found == [1, 2, 3]
        assert int(server.ask("plain", [0])[0]) == before[0]


def test_a_model_that_is_loaded_again_sets_nobody_else_s_threads(tmp_path: Path) -> None:
    """Of several instances on one thread, such as those of a model process."""
    before: list[int] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: before.append(torch.get_num_threads()))
        thread.start()
        thread.join()

    look()
    runtime = TritonPythonModel()
    runtime._torch = torch

    def twice() -> None:
        for count in (before[0] + 1, before[0] + 2):
            runtime._set_threads({"NUM_THREADS": str(count)})

    setting = threading.Thread(target=twice)
    setting.start()
    setting.join()
    look()
    assert before[0] == before[1]


PICKY = """
    import torch

    class Picky(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Picky.calls += 1
            if (x < 0).any():
                raise ValueError("no negative values")
            return x.sum(1, keepdim=True), torch.full((len(x), 1), Picky.calls)
"""
PICKY_IO = MODULE + """
    max_batch_size: 8
    input { name: "IN" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
    output { name: "OUT" data_type: TYPE_FP32 dims: 1 }
    output { name: "CALL" data_type: TYPE_INT64 dims: 1 }
    dynamic_batching { max_queue_delay_microseconds: 3000000 preferred_batch_size: 5 }
"""


def picky(server: Stage, rows: list[list[float]]) -> list[Any]:
    """What becomes of these requests of one row each, in one batch: the sum and the call's number, or the error."""

    def ask(row: list[float]) -> Any:
        try:
            found = server.infer(request("m", IN=np.asarray([row], np.float32)))
        except ServerError as error:
            return error.message
        return found["OUT"].item(), found["CALL"].item()

    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(ask, rows))


def test_requests_of_unlike_shapes_are_a_call_for_each_shape(tmp_path: Path) -> None:
    write(tmp_path, "m", PICKY, PICKY_IO)
    with stage(tmp_path) as server:
        found = picky(server, [[1, 2], [3], [4, 5], [6, 7], [8]])
        assert server.statistics("m")["execution_count"] == 1
    assert [total for total, _ in found] == [3, 3, 9, 13, 8]
    calls = [call for _, call in found]
    assert sorted(set(calls)) == [1, 2]
    assert calls[0] == calls[2] == calls[3] and calls[1] == calls[4]


def test_requests_without_an_optional_input_are_one_call(tmp_path: Path) -> None:
    code = """
    import torch

    class Maybe(torch.nn.Module):
        calls = 0

        def forward(self, x, y):
            Maybe.calls += 1
            return torch.full((len(y), 1), Maybe.calls), y if x is None else x + y
"""
    write(tmp_path, "m", code, MODULE + """
        max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: 1 optional: true }
        input { name: "Y" data_type: TYPE_FP32 dims: 1 }
        output { name: "CALL" data_type: TYPE_INT64 dims: 1 }
        output { name: "OUT" data_type: TYPE_FP32 dims: 1 }
        dynamic_batching { max_queue_delay_microseconds: 3000000 preferred_batch_size: 4 }
    """)
    one = np.ones((1, 1), np.float32)
    with stage(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda y: server.infer(request("m", Y=y * one)), (1, 2, 3, 4)))
        assert server.infer(request("m", X=one, Y=one))["OUT"].item() == 2
    assert [answer["OUT"].item() for answer in found] == [1, 2, 3, 4]
    assert [answer["CALL"].item() for answer in found] == [1] * 4


def test_a_call_that_fails_is_the_error_of_its_own_requests(tmp_path: Path) -> None:
    write(tmp_path, "m", PICKY, PICKY_IO)
    with stage(tmp_path) as server:
        found = picky(server, [[1, 2], [-3], [4, 5], [6], [7, 8, 9]])
        assert server.statistics("m")["execution_count"] == 1
        again = picky(server, [[1, 2]] * 5)
    assert [found[0][0], found[2][0], found[4][0]] == [3, 9, 24]
    for failed in (found[1], found[3]):
        assert failed.startswith("Failed to process the request(s) for model 'm_0', message: ValueError: no negative")
    assert [total for total, _ in again] == [3] * 5


@pytest.mark.parametrize("named", ["model.pt", "weights.pt", "other.py"])
def test_a_named_file_that_is_not_there_leaves_those_of_the_usual_names(tmp_path: Path, named: str) -> None:
    write(tmp_path, "m", ADD_SUB, PAIR + f'default_model_filename: "{named}"\n')
    with stage(tmp_path) as server:
        assert np.array_equal(server.infer(request("m", A=A, B=B))["SUM"], A + B)


def test_no_file_of_any_name_is_an_error_that_says_what_lies_there(tmp_path: Path) -> None:
    folder = write(tmp_path, "m", ADD_SUB, PAIR + 'default_model_filename: "weights.pt"\n') / "1"
    (folder / "model.py").rename(folder / "net.py")
    with stage(tmp_path, "--exit-on-error=false") as server:
        assert "unable to find 'm/1/weights.pt' for model 'm': its folder holds net.py" in server.reason("m")
