"""Where Python models are put among several model processes (--model-processes)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from model_process_stage import (
    ACTS,
    EXPLICIT,
    INSTANCES,
    PID,
    PID_IO,
    SLEEP,
    TWO,
    alive,
    instances,
    parameter,
    pid,
    until,
)
from python_stage import IDENTITY, IO, request, stage, write


def test_models_are_divided_among_the_processes(tmp_path: Path) -> None:
    for name in "abcdef":
        write(tmp_path, name, PID, PID_IO)
    with stage(tmp_path, TWO) as server:
        found = [pid(server, name) for name in "abcdef"]
        assert os.getpid() not in found
        assert sorted(found.count(one) for one in set(found)) == [3, 3]
    until(lambda: not any(map(alive, found)))


def test_one_process_is_the_server(tmp_path: Path) -> None:
    write(tmp_path, "m", PID, PID_IO)
    write(tmp_path, "named", PID, PID_IO + parameter("some"))
    write(tmp_path, "first", PID, PID_IO + parameter("0"))
    with stage(tmp_path, "--model-processes=1") as server:
        assert {pid(server, name) for name in ("m", "named", "first")} == {os.getpid()}


def test_a_config_says_which_process(tmp_path: Path) -> None:
    places = {"zero": "0", "one": "1", "this": "a_name", "that": "a_name", "other": "b.2-x", "here": "server"}
    for name, place in places.items():
        write(tmp_path, name, PID, PID_IO + parameter(place))
    with stage(tmp_path, TWO) as server:
        found = {name: pid(server, name) for name in places}
        assert found.pop("here") == os.getpid()
        assert found["zero"] != found["one"] and found["this"] == found["that"]
        assert set(found.values()) == {found["zero"], found["one"]}


def test_instances_of_a_model_share_a_process_unless_they_are_to_be_spread(tmp_path: Path) -> None:
    four = "instance_group { count: 4 kind: KIND_CPU }\n"
    write(tmp_path, "together", ACTS, PID_IO + four)
    write(tmp_path, "spread", ACTS, PID_IO + four + parameter("spread"))
    with stage(tmp_path, TWO) as server:
        for name, count in (("together", 1), ("spread", 2)):
            waiting = [server.send(request(name, IN=np.float32([SLEEP, 0.3]))) for _ in range(4)]
            found = {one.all()[0].outputs[0].numpy()[0] for one in waiting}
            assert len(found) == count and os.getpid() not in found
        del waiting


def test_the_process_with_the_fewest_instances_is_next(tmp_path: Path) -> None:
    write(tmp_path, "many", PID, PID_IO + "instance_group { count: 3 kind: KIND_CPU }")
    for name in "abc":
        write(tmp_path, name, PID, PID_IO)
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for name in ("many", "a", "b", "c"):
            server.run(server.server.load_model(name))
        found = {name: pid(server, name) for name in ("many", "a", "b", "c")}
        assert found["a"] == found["b"] == found["c"] != found["many"]


def test_instances_that_were_added_count(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name, PID, PID_IO)
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for name in "ab":
            server.run(server.server.load_model(name))
        found = {name: pid(server, name) for name in "ab"}
        write(tmp_path, "a", PID, PID_IO + "instance_group { count: 4 kind: KIND_CPU }")
        for name in "ac":
            server.run(server.server.load_model(name))
        assert pid(server, "a") == found["a"]
        assert pid(server, "c") == found["b"]


def test_instances_that_went_do_not_count(tmp_path: Path) -> None:
    def count(name: str, number: int, more: str = "") -> None:
        group = f"instance_group {{ count: {number} kind: KIND_CPU }}\n"
        (tmp_path / name / "config.pbtxt").write_text(f'backend: "python"\n{PID_IO}{group}{more}')
        server.run(server.server.load_model(name))
        until(lambda: sum(map(instances, server.metrics(INSTANCES))) == number)

    for name in ("spread", "together", "next", "last"):
        write(tmp_path, name, ACTS, PID_IO)
    with stage(tmp_path, TWO, EXPLICIT) as server:
        for number in (2, 1, 2):
            count("spread", number, parameter("spread"))
        waiting = [server.send(request("spread", IN=np.float32([SLEEP, 0.3]))) for _ in range(2)]
        assert len({one.all()[0].outputs[0].numpy()[0] for one in waiting}) == 2
        del waiting
        server.run(server.server.unload_model("spread"))
        until(lambda: not server.metrics(INSTANCES))
        for number in (3, 1):
            count("together", number)
        for name in ("next", "last"):
            server.run(server.server.load_model(name))
        assert [pid(server, name) == pid(server, "together") for name in ("next", "last")] == [False, True]


@pytest.mark.parametrize(("more", "reason"), [
    (parameter("2"), "parameter 'MODEL_PROCESS' of model 'm' is 2, but the server has --model-processes=2: 0 to 1"),
    (parameter("99999999999"), "must be the number of a model process, a name"),
    (parameter("-1"), "must be the number of a model process"), (parameter("a b"), "got 'a b'"),
    (parameter("x" * 65), "64 at most"),
    (parameter("1") + parameter("process", "ISOLATION"), "is '1', but each of its instances has a process of its own"),
    (parameter("a") + parameter("/nowhere", "EXECUTION_ENV_PATH"), "is 'a', but each of its instances has a process"),
    (parameter("server") + parameter("process", "ISOLATION"), "is 'server', but each of its instances has a process"),
    (parameter("yes", "ANY_THREAD"), "runs in a model process (--model-processes): leave it out, or set MODEL_PROCESS"),
    (parameter("2", "EXECUTION_TIMEOUT_SECONDS"), "is for models that run in a process of their own: set ISOLATION"),
    (parameter(str(1 << 30), "MEMORY_LIMIT_BYTES"), "is for models that run in a process of their own: set ISOLATION"),
])  # fmt: skip
def test_what_can_not_be_is_refused(tmp_path: Path, more: str, reason: str) -> None:
    write(tmp_path, "m", IDENTITY, IO + more)
    with stage(tmp_path, TWO) as server:
        assert reason in server.reason("m")


def test_a_number_that_is_not_there_is_refused_of_one_process_too(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY, IO + parameter("1"))
    with stage(tmp_path) as server:
        assert "is 1, but the server has --model-processes=1: 0 to 0" in server.reason("m")


def test_models_that_are_isolated_or_get_inputs_on_gpus_are_in_none(tmp_path: Path) -> None:
    write(tmp_path, "apart", PID, PID_IO + parameter("process", "ISOLATION"))
    write(tmp_path, "gpu", PID, PID_IO + parameter("no", "FORCE_CPU_ONLY_INPUT_TENSORS"))
    write(tmp_path, "a", PID, PID_IO)
    write(tmp_path, "b", PID, PID_IO + parameter("none", "ISOLATION"))
    with stage(tmp_path, TWO) as server:
        assert len({pid(server, name) for name in ("apart", "gpu", "a", "b")}) == 4
        assert pid(server, "gpu") == os.getpid()


def python_based(root: Path, *files: str) -> Path:
    """A backend directory with the backend `where`, whose models say in which process they run."""
    folder = root / "backends" / "where"
    folder.mkdir(parents=True)
    for file in files or ("model.py",):
        (folder / file).write_text("import numpy as np\nimport triton_python_backend_utils as pb_utils\n" + PID)
    return folder.parent


def test_models_of_python_based_backends_are_in_the_same_processes(tmp_path: Path) -> None:
    backends = python_based(tmp_path)
    root = tmp_path / "models"
    write(root, "based", "", PID_IO + 'backend: "where"' + parameter("here"))
    (root / "based" / "1" / "model.py").unlink()
    write(root, "plain", PID, PID_IO + parameter("here"))
    with stage(root, TWO, f"--backend-directory={backends}") as server:
        assert pid(server, "based") == pid(server, "plain") != os.getpid()
        assert server.metrics("triton_async_model_process_instances") == [
            'triton_async_model_process_instances{process="0"} 2'
        ]


def test_settings_of_the_python_backend_are_those_of_backends_based_on_it(tmp_path: Path) -> None:
    backends = python_based(tmp_path)
    root = tmp_path / "models"
    (write(root, "based", "", PID_IO + 'backend: "where"') / "1" / "model.py").unlink()
    options = [f"--backend-directory={backends}", "--backend-config=python,isolation=process"]
    with stage(root, *options) as server:
        assert pid(server, "based") != os.getpid()
    with stage(root, *options, "--backend-config=where,isolation=none") as server:
        assert pid(server, "based") == os.getpid()


def test_a_python_based_backend_has_no_other_runtime(tmp_path: Path) -> None:
    backends, root = python_based(tmp_path, "model.py", "other.py"), tmp_path / "models"
    for name, runtime in (("none", ""), ("same", "model.py"), ("gone", "libtriton_gone.so"), ("other", "other.py")):
        (write(root, name, "", f'{PID_IO} backend: "where" runtime: "{runtime}"') / "1" / "model.py").unlink()
    with stage(root, f"--backend-directory={backends}", "--exit-on-error=false") as server:
        assert pid(server, "none") == pid(server, "same") == os.getpid()
        assert "unable to find 'libtriton_gone.so' for backend 'where'" in server.reason("gone")
        assert "runtime 'other.py' of backend 'where' is no library" in server.reason("other")


def test_an_environment_beside_a_backend_is_that_of_its_models(tmp_path: Path) -> None:
    backends = python_based(tmp_path)
    (backends / "where" / "pb_exec_env_model.py.tar.gz").write_bytes(b"not yet whole")
    root = tmp_path / "models"
    own = parameter(sys.prefix, "EXECUTION_ENV_PATH")
    for name, more in (("based", ""), ("own", own)):
        (write(root, name, "", PID_IO + 'backend: "where"' + more) / "1" / "model.py").unlink()
    with stage(root, f"--backend-directory={backends}", "--exit-on-error=false") as server:
        assert "no whole tar archive" in server.reason("based")
        assert str(tmp_path) not in server.reason("based")
        assert pid(server, "own") != os.getpid()


def test_models_have_the_environment_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "only_by_path.py").write_text("VALUE = 7")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "extra"), os.environ.get("PYTHONPATH", "")]))
    write(tmp_path / "models", "m", """
        import only_by_path

        class TritonPythonModel:
            @staticmethod
            def auto_complete_config(config):
                assert only_by_path.VALUE == 7
                config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]})
                return config

            def execute(self, requests):
                out = pb_utils.Tensor("OUT", np.float32([only_by_path.VALUE]))
                return [pb_utils.InferenceResponse([out]) for _ in requests]
    """, 'input { name: "IN" data_type: TYPE_FP32 dims: -1 }')  # fmt: skip
    with stage(tmp_path / "models", TWO) as server:
        assert server.ask("m", [0]).tolist() == [7]
