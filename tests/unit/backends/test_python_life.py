"""The life of Python models: loading, completion, siblings, readiness, reloads, the end; what goes wrong in each."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from python_stage import IDENTITY, IO, Stage, body, request, stage, write

from triton_async.backends.python.worker.loader import Loader, Source

X = np.arange(4, dtype=np.float32)


def constant(value: str) -> str:
    """A model whose output is this expression."""
    return body(f"response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.float32([{value}]))])")


@pytest.mark.parametrize(("code", "reason"), [
    ("class X(:\n", "Internal: SyntaxError: invalid syntax (model.py, line 3)"),
    ("x = 1\n", "Internal: AttributeError: module '1.model' has no attribute 'TritonPythonModel'"),
    ("import nobody_has_this\n", "Internal: ModuleNotFoundError: No module named 'nobody_has_this'\n\nAt:\n"
                                 "  {file}(3): <module>\n"),
    ("class TritonPythonModel:\n    pass\n",
     "Internal: Python model {file} does not implement `execute` method."),
    ("class TritonPythonModel:\n    def initialize(self, args):\n        raise RuntimeError('text')\n"
     "    def execute(self, requests):\n        pass\n",
     "Internal: RuntimeError: text\n\nAt:\n  {file}(5): initialize\n"),
    ("class TritonPythonModel:\n    def __init__(self):\n        raise SystemExit(1)\n"
     "    def execute(self, requests):\n        pass\n", "Internal: SystemExit: 1\n\nAt:\n  {file}(5): __init__\n"),
    ("class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(config):\n        return 3\n"
     "    def execute(self, requests):\n        pass\n",
     "Internal: auto_complete_config function in model 'm' must return a valid pb.ModelConfig object."),
])  # fmt: skip
def test_loads_that_fail(tmp_path: Path, code: str, reason: str) -> None:
    write(tmp_path, "m", code)
    write(tmp_path, "other", IDENTITY)
    with stage(tmp_path) as server:
        assert server.reason("m").strip() == reason.format(file=tmp_path / "m" / "1" / "model.py").strip()
        assert server.ask("other", X).tolist() == X.tolist()


def test_a_directory_without_the_file(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY)
    (tmp_path / "m" / "1" / "model.py").unlink()
    with stage(tmp_path) as server:
        assert server.reason("m") == "Not found: Python model file not found in '1' of model 'm'"


def test_arguments_and_names(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import json, os
        GLOBAL = []

        class TritonPythonModel:
            def initialize(self, args):
                GLOBAL.append(1)
                config = json.loads(args.pop("model_config"))
                assert config["name"] == "m" and config["max_batch_size"] == 0
                assert config["parameters"] == {"k": {"string_value": "v"}}
                assert pb_utils.get_input_config_by_name(config, "IN")["dims"] == [-1]
                assert pb_utils.get_output_config_by_name(config, "NO") is None
                assert not pb_utils.using_decoupled_model_transaction_policy(config)
                self.known = [args, __name__, __file__, pb_utils.get_model_dir(), os.getcwd(), len(GLOBAL)]
                return "ignored"

            def execute(self, requests):
                text = np.array([json.dumps(self.known)], np.object_)
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", text)]) for _ in requests]
    """, """
        input { name: "IN" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUT" data_type: TYPE_STRING dims: -1 }
        parameters { key: "k" value { string_value: "v" } }
        instance_group { count: 2 }
    """, version=3)  # fmt: skip
    with stage(tmp_path) as server:
        import json

        names = set()
        for _ in range(20):
            args, module, file, directory, cwd, count = json.loads(
                server.infer(request("m", IN=X))["OUT"][0]
            )  # fmt: skip
            names.add(args.pop("model_instance_name"))
            assert args == {
                "model_instance_kind": "CPU", "model_instance_device_id": "0",
                "model_repository": str(tmp_path / "m"), "model_version": "3", "model_name": "m",
            }  # fmt: skip
            version = tmp_path / "m" / "3"
            assert (module, file, directory) == ("3.model", str(version / "model.py"), str(version))
            assert cwd == str(Path.cwd())
            assert count == 1  # globals are the instance's own
        assert names <= {"m_0_0", "m_0_1"}


def test_modules_of_one_name(tmp_path: Path) -> None:
    """Siblings are the model's own, in every form of import, and are read anew with it."""
    code = """
        import helper
        from helper import VALUE as first
        import parts.inner as inner
        from parts import other
        from . import helper as relative
        import json

        class TritonPythonModel:
            def execute(self, requests):
                import late
                values = [helper.VALUE, first, inner.VALUE, other.VALUE, relative.VALUE, late.VALUE, other.up.VALUE]
                assert json.__name__ == "json" and helper.__name__ == "helper" and inner.__name__ == "parts.inner"
                array = np.float32(values)
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for _ in requests]
    """

    def write_all(name: str, value: int) -> None:
        directory = write(tmp_path, name, code, helper=f"VALUE = {value}", late="from helper import VALUE as H\n"
                          "VALUE = H + 100")  # fmt: skip
        parts = directory / "1" / "parts"
        parts.mkdir(exist_ok=True)
        (parts / "__init__.py").write_text("")
        (parts / "inner.py").write_text(f"VALUE = {value + 10}")
        (parts / "other.py").write_text("from . import inner as up\nVALUE = up.VALUE + 10")

    def expected(value: int) -> list[float]:
        return [value, value, value + 10, value + 20, value, value + 100, value + 10]

    before = set(sys.modules)
    for value, name in ((1, "a"), (2, "b")):
        write_all(name, value)
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=*") as server:
        assert server.ask("a", X).tolist() == expected(1)
        assert server.ask("b", X).tolist() == expected(2)
        assert not hasattr(sys.modules["helper"], "VALUE")  # of two it is neither, for who is no model
        write_all("a", 5)
        server.run(server.server.load_model("a"))
        assert server.ask("a", X).tolist() == expected(5)
        assert server.ask("b", X).tolist() == expected(2)
        server.run(server.server.unload_model("b"))
    assert not list(tmp_path.rglob("__pycache__"))
    assert not {"helper", "late", "parts", "1.model", "1"} & (set(sys.modules) - before)


def test_what_looks_modules_up_by_name(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import pickle
        from dataclasses import dataclass
        from typing import ClassVar
        import shapes_of_m

        @dataclass
        class Own:
            x: int
            y: "ClassVar[int]" = 3

        class TritonPythonModel:
            def execute(self, requests):
                assert pickle.loads(pickle.dumps(shapes_of_m.Shape(4))).size == 4
                assert pickle.loads(pickle.dumps(Own(5))) == Own(5)
                assert pickle.loads(pickle.dumps(requests[0].inputs()[0].as_numpy()))[1] == 1
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([1]))]) for _ in requests]
    """, shapes_of_m="""
        class Shape:
            def __init__(self, size):
                self.size = size
    """)  # fmt: skip
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == [1]


def test_a_module_that_is_being_run_is_found_by_name(tmp_path: Path) -> None:
    """Making a dataclass takes it, also where another model has a module of that name."""
    for value, name in ((1, "a"), (2, "b")):
        write(tmp_path, name, """
            from shapes import Shape

            class TritonPythonModel:
                def execute(self, requests):
                    array = np.float32([Shape().size])
                    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for _ in requests]
        """, shapes=f"""
            from __future__ import annotations
            from dataclasses import dataclass
            from typing import ClassVar

            @dataclass
            class Shape:
                size: int = {value}
                kinds: ClassVar[list[int]] = []
        """)  # fmt: skip
    with stage(tmp_path) as server:
        assert [server.ask(name, X).tolist() for name in "ab"] == [[1], [2]]
        assert not hasattr(sys.modules["shapes"], "Shape")
    assert "shapes" not in sys.modules


@pytest.mark.parametrize("file", ["model.py", "shapes.py"])
def test_modules_of_one_name_that_are_run_at_once_are_each_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Each calls ClassVar otherwise: the other one's names would not do for its dataclass."""
    monkeypatch.setattr(threading, "both_run", threading.Barrier(2), raising=False)
    found: dict[str, object] = {}

    def load(own: str) -> None:
        folder = tmp_path / own / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text("from shapes import Shape")
        (folder / file).write_text(dedent(f"""
            from __future__ import annotations
            import threading
            from dataclasses import dataclass
            from typing import ClassVar as {own}

            threading.both_run.wait(10)

            @dataclass
            class Shape:
                size: int = 1
                kinds: {own}[list[int]] = []

            threading.both_run.wait(10)
        """))
        loader = Loader(Source(str(folder / "model.py")), {}, "1.model")
        try:
            found[own] = loader.load().Shape().size
        except Exception as error:
            found[own] = error
            threading.both_run.abort()  # type: ignore[attr-defined]
        finally:
            loader.close()

    threads = [threading.Thread(target=load, args=(own,)) for own in ("First", "Second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"First": 1, "Second": 1}
    assert "shapes" not in sys.modules and "1.model" not in sys.modules


def test_what_is_installed_comes_before_a_sibling(tmp_path: Path) -> None:
    write(tmp_path, "m", "import colorsys, yarl\nassert colorsys.rgb_to_hsv and yarl.URL\n" + constant("1"),
          colorsys="x = 1", yarl="x = 1")  # fmt: skip
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == [1]


def test_a_sibling_that_fails(tmp_path: Path) -> None:
    write(tmp_path, "m", "import broken\n" + constant("1"), broken="x = 1\nraise ValueError('b')\n")
    write(tmp_path, "n", "from parts import nobody\n" + constant("1"), parts="x = 1")
    with stage(tmp_path) as server:
        folder = tmp_path / "m" / "1"
        assert server.reason("m") == (
            f"Internal: ValueError: b\n\nAt:\n  {folder}/broken.py(2): <module>\n  {folder}/model.py(3): <module>\n"
        )
        assert "ImportError: cannot import name 'nobody' from 'parts'" in server.reason("n")
        assert "broken" not in sys.modules


def test_an_edited_model_is_loaded_anew(tmp_path: Path) -> None:
    write(tmp_path, "m", constant("1"))
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        assert server.ask("m", X).tolist() == [1]
        write(tmp_path, "m", constant("2"))
        server.run(server.server.load_model("m"))
        assert server.ask("m", X).tolist() == [2]
        write(tmp_path, "m", "raise ValueError('broken')\n" + constant("3"))
        with pytest.raises(Exception, match="version 1 is at UNAVAILABLE state: Internal: ValueError: broken"):
            server.run(server.server.load_model("m"))
        assert server.ask("m", X).tolist() == [2]  # the older one serves on


@pytest.mark.parametrize("broken", [
    "raise ValueError('broken')", "TritonPythonModel.auto_complete_config = staticmethod(lambda config: int('broken'))",
])  # fmt: skip
def test_a_load_blames_the_version_that_is_broken(tmp_path: Path, broken: str) -> None:
    write(tmp_path, "m", constant("1"))
    with (tmp_path / "m" / "config.pbtxt").open("a") as config:
        config.write("version_policy { all {} }\n")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "model.py").write_text(f'{constant("2")}\n{broken}\n')
    with stage(tmp_path, "--model-control-mode=explicit") as server:
        with pytest.raises(Exception, match="version 2 is at UNAVAILABLE state: Internal: ValueError: ") as caught:
            server.run(server.server.load_model("m"))
        assert "version 1" not in str(caught.value)
        reasons = {row["version"]: row["reason"] for row in server.server.repository.index(False)}
        assert reasons["1"] == "unloaded" and "broken" in reasons["2"]


def test_the_end_of_a_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "triton_async")
    write(tmp_path, "m", IDENTITY + """
    def finalize(self):
        import pathlib
        pathlib.Path(pb_utils.get_model_dir(), "ended").write_text("x")
        raise RuntimeError("at the end")
    """)  # fmt: skip
    with stage(tmp_path):
        pass
    assert (tmp_path / "m" / "1" / "ended").exists()
    assert "finalize of model 'm_0' failed: RuntimeError: at the end" in caplog.text


COMPLETE = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        assert config.as_dict()["name"] == "m"
        config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_input({"name": "MORE", "data_type": "TYPE_FP32", "dims": [2], "optional": True})
        config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]})
        config.set_max_batch_size(16)
        config.set_dynamic_batching()
        config.as_dict()["instance_group"] = [{"count": 7}]
        return config
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""


def completed(server: Stage) -> dict[str, object]:
    found: dict[str, object] = server.call(server.server.model_config_json, "m")
    return found


@pytest.mark.parametrize("config", ["", "max_batch_size: 4", 'input { name: "IN" data_type: TYPE_FP32 dims: -1 }'])
def test_completion(tmp_path: Path, config: str) -> None:
    write(tmp_path, "m", COMPLETE, config)
    with stage(tmp_path) as server:
        assert server.ask("m", [[1.0, 2.0]]).tolist() == [[1, 2]]
        found = completed(server)
        assert found["max_batch_size"] == 16
        assert [io["name"] for io in found["input"]] == ["IN", "MORE"]  # type: ignore[attr-defined]
        assert found["input"][1]["optional"] is True  # type: ignore[index]
        assert "dynamic_batching" in found
        assert found["instance_group"][0]["count"] == 1  # type: ignore[index]


def test_completion_switched_off(tmp_path: Path) -> None:
    write(tmp_path, "m", COMPLETE, IO)
    with stage(tmp_path, "--disable-auto-complete-config") as server:
        assert completed(server)["max_batch_size"] == 0


@pytest.mark.parametrize(("config", "text"), [
    ('input { name: "IN" data_type: TYPE_STRING dims: -1 }',
     "ValueError: unable to load model 'm', configuration expects datatype TYPE_STRING for input 'IN', model provides "
     "TYPE_FP32"),
    ('input { name: "IN" data_type: TYPE_FP32 dims: 3 }',
     "ValueError: model 'm', tensor 'IN': the model expects dims [-1] but the model configuration specifies dims [3]"),
    ("max_batch_size: 32", "ValueError: configuration specified max_batch_size 32, but in auto-complete-config "
                           "function for model 'm' specified max_batch_size 16"),
])  # fmt: skip
def test_completion_that_contradicts(tmp_path: Path, config: str, text: str) -> None:
    write(tmp_path, "m", COMPLETE, config)
    with stage(tmp_path) as server:
        assert server.reason("m").startswith(f"Internal: {text}\n\nAt:\n")


def test_no_inputs_and_no_outputs(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY, "")
    with stage(tmp_path) as server:
        assert server.reason("m") == ""
        with pytest.raises(Exception, match="expected 0 inputs but got 1 inputs"):
            server.send(request("m", IN=X))


@pytest.mark.parametrize(("lines", "ready"), [
    ("def is_ready(self):\n        return True", True), ("def is_ready(self):\n        return False", False),
    ("async def is_ready(self):\n        return True", True), ("def is_ready(self):\n        return 1", False),
    ("def is_ready(self):\n        raise ValueError('r')", False),
])  # fmt: skip
def test_readiness(tmp_path: Path, lines: str, ready: bool) -> None:
    write(tmp_path, "m", IDENTITY + f"\n    {lines}\n")
    with stage(tmp_path) as server:
        assert server.run(server.server.model_is_ready("m")) is ready
        assert server.run(server.server.is_ready()) is ready
        assert server.ask("m", X).tolist() == X.tolist()  # it is served all the same


def test_readiness_that_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton_async.core import readiness

    monkeypatch.setattr(readiness, "MODEL_READY_TIMEOUT_S", 0.2)
    write(tmp_path, "m", "import time\n" + IDENTITY + "\n    def is_ready(self):\n        time.sleep(0.6)\n"
          "        return True\n")  # fmt: skip
    with stage(tmp_path) as server:
        begun = time.monotonic()
        assert not server.run(server.server.model_is_ready("m"))
        assert time.monotonic() - begun < 0.6
        assert server.ask("m", X).tolist() == X.tolist()
        time.sleep(0.5)  # until it has said so


def test_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "triton_async")
    write(tmp_path, "m", body("""
        pb_utils.Logger.log_warn("warned")
        pb_utils.Logger.log("said", pb_utils.Logger.VERBOSE)
        try:
            pb_utils.Logger.log("x", 5)
        except TypeError:
            response = pb_utils.InferenceResponse()
    """))
    with stage(tmp_path) as server:
        server.infer(request("m", IN=X))
    found = {record.getMessage(): record for record in caplog.records if record.name == "triton_async.python"}
    assert (found["warned"].levelname, found["warned"].filename, found["warned"].lineno) == ("WARNING", "model.py", 9)
    assert found["said"].levelname == "DEBUG"


def test_a_python_based_backend(tmp_path: Path) -> None:
    backends = tmp_path / "backends"
    (backends / "twice").mkdir(parents=True)
    (backends / "twice" / "model.py").write_text(
        "import shared\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\nimport own\n"
        + body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x * shared.FACTOR + own.PLUS)])")
    )
    (backends / "twice" / "shared.py").write_text("FACTOR = 2")
    repository = tmp_path / "models"
    for plus in (0, 1):
        directory = write(repository, f"m{plus}", "", IO + 'backend: "twice"', own=f"PLUS = {plus}")
        (directory / "1" / "model.py").unlink()
    with stage(repository, f"--backend-directory={backends}") as server:
        assert server.ask("m0", X).tolist() == (X * 2).tolist()
        assert server.ask("m1", X).tolist() == (X * 2 + 1).tolist()


def test_metrics_of_a_python_based_backend_that_is_alone(tmp_path: Path) -> None:
    backends = tmp_path / "backends"
    (backends / "counts").mkdir(parents=True)
    (backends / "counts" / "model.py").write_text(dedent("""
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                self.family = pb_utils.MetricFamily("based_total", "b", pb_utils.MetricFamily.COUNTER)
                self.counter = self.family.Metric()

            def execute(self, requests):
                self.counter.increment(len(requests))
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())])
                        for request in requests]
    """))
    repository = tmp_path / "models"
    (write(repository, "m", "", IO + 'backend: "counts"') / "1" / "model.py").unlink()
    with stage(repository, f"--backend-directory={backends}") as server:
        server.ask("m", X)
        assert server.metrics("based_total") == ["based_total 1"]


def test_a_backend_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY, IO + 'backend: "nobody"')
    with stage(tmp_path, f"--backend-directory={tmp_path}") as server:
        assert "unable to find backend library for backend 'nobody'" in server.reason("m")


def test_settings_of_the_backend(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "m", IDENTITY)
    with stage(tmp_path, "--backend-config=python,shm-default-byte-size=1048576") as server:
        assert server.ask("m", X).tolist() == X.tolist()
    assert "--backend-config=python,shm-default-byte-size has no effect" in caplog.text
    with stage(tmp_path, "--backend-config=python,nobody=1") as server:
        assert "the Python backend has no setting 'nobody'" in server.reason("m")
    with stage(tmp_path, "--backend-config=python,isolation=maybe") as server:
        assert "--backend-config=python,isolation must be" in server.reason("m")


def test_metrics_of_models(tmp_path: Path) -> None:
    code = """
        class TritonPythonModel:
            def initialize(self, args):
                kinds = pb_utils.MetricFamily
                self.family = kinds("calls_total", "Calls\\nof it", kinds.COUNTER)
                self.again = kinds(name="calls_total", description="other", kind=kinds.COUNTER)
                self.counter = self.family.Metric(labels={"model": "m"})
                self.same = self.again.Metric(labels={"model": "m"})
                self.gauge = kinds("level", "l", kinds.GAUGE).Metric
                self.times = kinds("times", "t", kinds.HISTOGRAM)
                self.histogram = self.times.Metric(labels={"a": "b"}, buckets=[0.1, 1])

            def execute(self, requests):
                kinds = pb_utils.MetricFamily
                self.counter.increment(1)
                self.same.increment(2)
                assert self.same.value() == self.counter.value()
                for value in (0.05, 0.1, 0.5, 3):
                    self.histogram.observe(value)
                family = kinds("level", "l", kinds.GAUGE)
                gauge = family.Metric()
                gauge.set(2.5)
                gauge.increment(-1)
                for wrong, text in (
                    (lambda: self.counter.increment(-1), "monotonically by non-negative values."),
                    (lambda: self.counter.set(1), "TRITONSERVER_METRIC_KIND_COUNTER does not support Set"),
                    (lambda: gauge.observe(1), "TRITONSERVER_METRIC_KIND_GAUGE does not support Observe"),
                    (lambda: kinds("calls_total", "", kinds.GAUGE), "already exists with different type"),
                    (lambda: kinds("bad name", "", kinds.GAUGE), "Invalid metric name"),
                    (lambda: kinds("nv_inference_count", "", kinds.GAUGE), "the server's own"),
                    (lambda: family.Metric(labels={"1": "x"}), "Invalid label name"),
                    (lambda: family.Metric(labels={"a": 1}), "attempt to access JSON non-string as string"),
                    (lambda: self.times.Metric(), "buckets must be given"),
                ):
                    try:
                        wrong()
                    except pb_utils.TritonModelException as error:
                        assert text in str(error), error
                    else:
                        raise AssertionError(text)
                del family
                try:
                    gauge.set(1)
                except pb_utils.TritonModelException as error:
                    assert "has been deleted" in str(error)
                return [pb_utils.InferenceResponse() for _ in requests]
    """
    write(tmp_path, "m", code, IO + "instance_group { count: 2 }")
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        for _ in range(3):
            server.infer(request("m", IN=X))
        assert server.metrics("calls_total") == ['calls_total{model="m"} 9']
        assert server.metrics("# HELP calls_total") == ["# HELP calls_total Calls of it"]
        assert server.metrics("# TYPE times") == ["# TYPE times histogram"]
        *lines, total, count = server.metrics("times")
        assert [*lines, count] == [
            'times_bucket{a="b",le="0.1"} 6', 'times_bucket{a="b",le="1"} 9', 'times_bucket{a="b",le="+Inf"} 12',
            'times_count{a="b"} 12',
        ]  # fmt: skip
        assert total.startswith('times_sum{a="b"} ') and float(total.split()[1]) == pytest.approx(10.95)
        assert server.metrics("level") == []
        server.run(server.server.unload_model("m"))
        deadline = time.monotonic() + 10
        while server.metrics("calls_total"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
