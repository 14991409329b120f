"""Models that have others loaded and unloaded while they are loaded themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bls_stage import ask, with_server, write

from triton_async.core.server import InferenceServer

# Has models loaded in `initialize`, and answers with whether each was.
LOADS = """
    def initialize(self, args):
        self.said = []
        for name in "NEXT".split():
            try:
                pb_utils.load_model(name)
                self.said.append(float(pb_utils.is_model_ready(name)))
            except pb_utils.TritonModelException as error:
                assert "by what its own load waits for" in str(error), error
                self.said.append(-1.0)

    def execute(self, requests):
        return [y(np.float32(self.said)) for _ in requests]
"""
EXPLICIT = "--model-control-mode=explicit"


async def load(server: InferenceServer, *names: str) -> None:
    await asyncio.wait_for(asyncio.gather(*map(server.load_model, names)), 30)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_model_loads_what_it_asks(tmp_path: Path, isolated: bool) -> None:
    """As the documentation of Triton's model loading API has it, each of several instances, over several levels."""
    write(tmp_path, "top", LOADS, "middle other", isolated=isolated, instances=3)
    write(tmp_path, "middle", LOADS, "low", isolated=isolated)
    write(tmp_path, "low", LOADS, isolated=isolated)
    write(tmp_path, "other", LOADS, isolated=isolated)

    async def test(server: InferenceServer) -> None:
        await load(server, "top")
        assert await ask(server, "top", 0) == [1, 1]
        assert await ask(server, "middle", 0) == [1]
        await server.unload_model("middle")
        await load(server, "top")  # nothing has changed
        assert not server.serves("middle", -1)

    with_server(tmp_path, test, EXPLICIT)


@pytest.mark.parametrize("isolated", [False, True])
def test_loads_in_a_circle_are_refused(tmp_path: Path, isolated: bool) -> None:
    write(tmp_path, "itself", LOADS, "itself", isolated=isolated)
    for name, target in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, name, LOADS, target, isolated=isolated)

    async def test(server: InferenceServer) -> None:
        await load(server, "itself")
        assert await ask(server, "itself", 0) == [-1]
        # From all ends at once: whoever would close the circle is refused, the others get what they ask.
        await load(server, "a", "b", "c")
        said = [await ask(server, name, 0) for name in "abc"]
        assert sorted(said).count([-1]) == 1, said

    with_server(tmp_path, test, EXPLICIT)


def test_unloads_that_would_wait_for_themselves_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "m", """
    def initialize(self, args):
        self.said = []
        for name in ("m", "low", "nobody"):
            try:
                pb_utils.unload_model(name)
                self.said.append(1.0)
            except pb_utils.TritonModelException:
                self.said.append(-1.0)

    def execute(self, requests):
        return [y(np.float32(self.said)) for _ in requests]
    """)
    write(tmp_path, "low", LOADS)

    async def test(server: InferenceServer) -> None:
        await load(server, "low")
        await load(server, "m")
        assert await ask(server, "m", 0) == [-1, 1, 1]
        assert not server.serves("low", -1)

    with_server(tmp_path, test, EXPLICIT)


def test_an_ensemble_of_a_model_that_is_being_loaded(tmp_path: Path) -> None:
    """It has what it asks in vain: the ensemble would wait for the model. Neither hangs."""
    write(tmp_path, "step", """
    def initialize(self, args):
        try:
            pb_utils.load_model("whole")
            self.loaded = 1
        except pb_utils.TritonModelException:
            self.loaded = 0

    def execute(self, requests):
        return [y(np.float32([self.loaded])) for _ in requests]
    """)
    (tmp_path / "whole/1").mkdir(parents=True)
    (tmp_path / "whole/config.pbtxt").write_text("""
        platform: "ensemble"
        input { name: "X" data_type: TYPE_FP32 dims: -1 }
        output { name: "Y" data_type: TYPE_FP32 dims: -1 }
        ensemble_scheduling { step {
            model_name: "step" model_version: -1
            input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }
        } }
    """)

    async def test(server: InferenceServer) -> None:
        await load(server, "whole")
        assert await ask(server, "whole", 0) == [0]

    with_server(tmp_path, test, EXPLICIT)
