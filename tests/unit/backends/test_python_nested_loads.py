"""Python models that load others while they are loaded: on every load thread at once, at the start, in rings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from python_stage import IDENTITY, IO, Stage, stage, write

from triton_async.errors import ServerError

ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
X = [1.0, 2.0]
EXPLICIT = "--model-control-mode=explicit"


def loading(*others: str, how: str = "pb_utils.load_model(other)") -> str:
    return IDENTITY + f"""
    def initialize(self, args):
        for other in {others!r}:
            {how}
"""


@pytest.fixture(params=["", ISOLATED], ids=["in the server", "isolated"])
def where(request: pytest.FixtureRequest) -> str:
    where: str = request.param
    return where


def load_all(server: Stage, names: list[str]) -> list[ServerError | None]:
    def load(name: str) -> ServerError | None:
        try:
            server.run(server.server.load_model(name))
        except ServerError as error:
            return error
        return None

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(load, names))


def ready(server: Stage) -> list[str]:
    rows = server.run(server.server.repository_index(True))
    return [row["name"] for row in rows]


def test_on_every_load_thread_at_once(tmp_path: Path, where: str) -> None:
    names = [f"a{number}" for number in range(8)]
    for name in names:
        write(tmp_path, name, loading(f"of_{name}", "of_all"), IO + where)
        write(tmp_path, f"of_{name}", IDENTITY, IO + where)
    write(tmp_path, "of_all", IDENTITY, IO + where)
    with stage(tmp_path, EXPLICIT) as server:
        assert load_all(server, names) == [None] * 8
        assert ready(server) == sorted([*names, *(f"of_{name}" for name in names), "of_all"])
        assert server.ask("a3", X).tolist() == X


def test_what_others_load_at_that_moment(tmp_path: Path, where: str) -> None:
    # More loads than threads, each of a model that another one asks for.
    for number in range(8):
        write(tmp_path, f"m{number}", loading(*(f"m{later}" for later in range(number + 1, 8))), IO + where)
    with stage(tmp_path, EXPLICIT) as server:
        assert load_all(server, [f"m{number}" for number in range(8)]) == [None] * 8


def test_at_the_start(tmp_path: Path, where: str) -> None:
    write(tmp_path, "first", loading("second"), IO + where)
    write(tmp_path, "second", loading("third"), IO + where)
    write(tmp_path, "third", IDENTITY, IO + where)
    with stage(tmp_path, EXPLICIT, "--load-model=first") as server:
        assert ready(server) == ["first", "second", "third"]
    with stage(tmp_path, EXPLICIT, "--load-model=*") as server:
        assert ready(server) == ["first", "second", "third"]


def test_rings_are_refused(tmp_path: Path, where: str) -> None:
    write(tmp_path, "itself", loading("itself"), IO + where)
    write(tmp_path, "a", loading("b"), IO + where)
    write(tmp_path, "b", loading("a"), IO + where)
    write(tmp_path, "outside", loading("a"), IO + where)
    write(tmp_path, "unloads", loading("unloads", how="pb_utils.unload_model(other)"), IO + where)
    with stage(tmp_path, EXPLICIT) as server:
        for name, ring in (
            ("itself", "itself -> itself"), ("a", "a -> b -> a"), ("b", "b -> a -> b"), ("outside", "a -> b -> a"),
            ("unloads", "unloads -> unloads"),
        ):  # fmt: skip
            (error,) = load_all(server, [name])
            assert error is not None
            assert f"by what its own load waits for: {ring}" in error.message
        errors = load_all(server, ["a", "b"])
        assert all(error is not None and "by what its own load waits for" in error.message for error in errors)
        assert ready(server) == []


def test_whoever_catches_the_error_is_loaded(tmp_path: Path, where: str) -> None:
    how = """
            try:
                pb_utils.load_model(other)
            except pb_utils.TritonModelException as error:
                assert "a -> b -> a" in str(error), error
            else:
                raise AssertionError
    """
    write(tmp_path, "a", loading("b"), IO + where)
    write(tmp_path, "b", loading("a", how=how), IO + where)
    with stage(tmp_path, EXPLICIT) as server:
        assert load_all(server, ["a"]) == [None]
        assert ready(server) == ["a", "b"]
        assert server.ask("b", X).tolist() == X


def test_threads_of_its_own(tmp_path: Path, where: str) -> None:
    how = """
            import threading
            caught = []
            def load():
                try:
                    pb_utils.load_model(other)
                except pb_utils.TritonModelException as error:
                    caught.append(str(error))
            thread = threading.Thread(target=load)
            thread.start()
            thread.join()
            assert bool(caught) == (other == "m"), caught
            assert not caught or "m -> m" in caught[0], caught
    """
    write(tmp_path, "m", loading("i", "m", how=how), IO + where)
    write(tmp_path, "i", IDENTITY)
    with stage(tmp_path, EXPLICIT) as server:
        assert load_all(server, ["m"]) == [None]


def test_behind_its_load_a_model_loads_what_it_likes(tmp_path: Path, where: str) -> None:
    write(tmp_path, "m", """
class TritonPythonModel:
    def initialize(self, args):
        pb_utils.load_model("i")
        self.ready = pb_utils.is_model_ready("i")

    def execute(self, requests):
        pb_utils.load_model("m")
        pb_utils.unload_model("i")
        x = np.float32([self.ready, pb_utils.is_model_ready("i")])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)]) for _ in requests]
""", IO + where)  # fmt: skip
    write(tmp_path, "i", IDENTITY)
    with stage(tmp_path, EXPLICIT) as server:
        assert load_all(server, ["m"]) == [None]
        assert server.ask("m", X).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("code", [
    "def finalize(self): pb_utils.load_model('i')",
    "@staticmethod\n    def auto_complete_config(config):\n        pb_utils.load_model('i')\n        return config",
])  # fmt: skip
def test_not_before_and_not_behind(tmp_path: Path, code: str, caplog: Any) -> None:
    write(tmp_path, "m", IDENTITY + f"\n    {code}\n")
    write(tmp_path, "i", IDENTITY)
    with stage(tmp_path, EXPLICIT) as server:
        load_all(server, ["m"])
        server.run(server.server.unload_model("m"))
        assert ready(server) == []
