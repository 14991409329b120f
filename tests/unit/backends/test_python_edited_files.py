"""What serves keeps serving the code that was loaded, whatever happens to its files until it is loaded anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from model_process_stage import EXPLICIT, TWO, until
from python_stage import IO, Stage, stage, write

from triton_async.errors import ServerError

LOADED = (EXPLICIT, "--load-model=m")
ISOLATED = "--backend-config=python,isolation=process"
# Ends its process, where it is told to.
MODEL = """
import os
import helper
from parts import inner
from . import beside

class TritonPythonModel:
    def execute(self, requests):
        import late, lib.deep
        responses = []
        for request in requests:
            if pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0] == 2:
                os._exit(3)
            said = [VALUE, helper.VALUE, inner.VALUE, beside.VALUE, late.VALUE, lib.deep.VALUE]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(said, np.float32))]))
        return responses
"""


def say(root: Path, value: int, main: str = "model.py") -> None:
    """Writes the model, each of whose files says `value`."""
    text = f"VALUE = {value}\n"
    directory = write(root, "m", f"{text}{MODEL}", IO + f'default_model_filename: "{main}"',
                      helper=text, beside=text, late=text)  # fmt: skip
    folder = directory / "1"
    if main != "model.py":
        (folder / "model.py").rename(folder / main)
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "inner.py").write_text(text)
    (directory / "lib").mkdir(exist_ok=True)  # above the version, without an __init__.py
    (directory / "lib" / "deep.py").write_text(text)


def end_worker(server: Stage) -> None:
    with pytest.raises(ServerError, match="exited with status 3"):
        server.ask("m", [2])


@pytest.mark.parametrize("where", [ISOLATED, TWO])
@pytest.mark.parametrize("main", ["model.py", "other.py"])
def test_a_worker_that_is_started_again_runs_what_was_loaded(tmp_path: Path, where: str, main: str) -> None:
    say(tmp_path, 1, main)
    with stage(tmp_path, *LOADED, where) as server:
        say(tmp_path, 2, main)  # also what is imported only now
        assert server.ask("m", [0]).tolist() == [1] * 6
        end_worker(server)
        assert server.ask("m", [0]).tolist() == [1] * 6
        say(tmp_path, 3, main)
        (tmp_path / "m" / "1" / "helper").mkdir()  # hides helper.py
        (tmp_path / "m" / "1" / "helper" / "__init__.py").write_text("VALUE = 3\n")
        end_worker(server)
        assert server.ask("m", [0]).tolist() == [1] * 6
        server.run(server.server.load_model("m"))
        assert server.ask("m", [0]).tolist() == [3] * 6
        shutil.rmtree(tmp_path / "m")
        end_worker(server)
        assert server.ask("m", [0]).tolist() == [3] * 6


def test_what_a_model_in_the_server_imports_late_is_what_was_loaded(tmp_path: Path) -> None:
    say(tmp_path, 1)
    with stage(tmp_path, *LOADED) as server:
        say(tmp_path, 2)
        assert server.ask("m", [0]).tolist() == [1] * 6
        server.run(server.server.load_model("m"))
        assert server.ask("m", [0]).tolist() == [2] * 6


@pytest.mark.parametrize("where", [(), (ISOLATED,)], ids=["server", "isolated"])
def test_an_instance_that_is_added_runs_what_was_loaded(tmp_path: Path, where: tuple[str, ...]) -> None:
    one = "instance_group { count: 1 kind: KIND_CPU }"
    code = """
class TritonPythonModel:
    def execute(self, requests):
        import helper
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([helper.VALUE], np.float32))])
                for _ in requests]
"""
    write(tmp_path, "m", code, IO + one, helper="VALUE = 1")
    with stage(tmp_path, *LOADED, *where) as server:
        write(tmp_path, "m", code, IO + one.replace("1", "3"), helper="VALUE = 1")
        server.run(server.server.load_model("m"))
        write(tmp_path, "m", code, IO, helper="VALUE = 2")
        assert {float(server.ask("m", [0])[0]) for _ in range(30)} == {1.0}


GENERATES = """
import os, pathlib

class TritonPythonModel:
    def initialize(self, args):
        folder = pathlib.Path(pb_utils.get_model_dir())
        (folder / "made.py").write_text((folder / "made.txt").read_text())
        (folder / "new.py").write_text((folder / "made.txt").read_text())
        if (folder / "early").exists():
            import made, new

    def execute(self, requests):
        import made, new
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0] == 2:
            os._exit(3)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([made.VALUE, new.VALUE], np.float32))])
                for _ in requests]
"""


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("where", [(), (ISOLATED,)], ids=["server", "isolated"])
def test_modules_that_a_model_writes_in_initialize_are_read_as_it_has_written_them(
    tmp_path: Path, where: tuple[str, ...], early: bool
) -> None:
    directory = write(tmp_path, "m", GENERATES, made="VALUE = 0")
    (directory / "1" / "made.txt").write_text("VALUE = 1")
    if early:
        (directory / "1" / "early").touch()
    with stage(tmp_path, *LOADED, *where) as server:
        assert server.ask("m", [0]).tolist() == [1, 1]
        if where:  # files that it opens are read as they are then
            (directory / "1" / "made.txt").write_text("VALUE = 2")
            end_worker(server)
            until(lambda: server.ask("m", [0]).tolist() == [2, 2])


@pytest.mark.parametrize("where", [(), (ISOLATED,)], ids=["server", "isolated"])
def test_siblings_found_by_a_search_path_that_the_model_sets(tmp_path: Path, where: tuple[str, ...]) -> None:
    """As many models do, though they need not."""
    code = """
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import helper_on_path

class TritonPythonModel:
    def execute(self, requests):
        import late_on_path
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0] == 2:
            os._exit(3)
        said = [helper_on_path.VALUE, late_on_path.VALUE]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(said, np.float32))]) for _ in requests]

    def finalize(self):
        sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
"""
    write(tmp_path, "m", code, helper_on_path="VALUE = 1", late_on_path="VALUE = 1")
    with stage(tmp_path, *LOADED, *where) as server:
        write(tmp_path, "m", code, helper_on_path="VALUE = 2", late_on_path="VALUE = 2")
        assert server.ask("m", [0]).tolist() == [1, 1]
        if where:
            end_worker(server)
            assert server.ask("m", [0]).tolist() == [1, 1]
        server.run(server.server.load_model("m"))
        assert server.ask("m", [0]).tolist() == [2, 2]
