"""Models that fork, as multiprocessing does: what a child asks is refused, and disturbs nothing of the parent's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from python_stage import IO, stage, write

X = np.float32([1, 2])
RETURNS = """
    import os, sys

    def status(leave):
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        leave()

    class TritonPythonModel:
        def execute(self, requests):
            found = []
            for code in (7, None, "a word"):
                found.append(status(lambda: sys.exit(code)))
            child = os.fork()
            if not child:
                return []
            found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32(found))]) for _ in requests]
"""
FORKS = """
    import multiprocessing

    def doubled(value):
        pb_utils.Logger.log_info("a word of a child")
        return value * 2

    def asked(what):
        try:
            return repr(ASKS[what]())
        except pb_utils.TritonModelException as error:
            return str(error)

    def inner():
        request = pb_utils.InferenceRequest(model_name="m", inputs=[], requested_output_names=[])
        return request.exec()

    ASKS = {
        "inner": inner,
        "ready": lambda: pb_utils.is_model_ready("m"),
        "counts": lambda: COUNT.increment(1),
        "answers": lambda: SENDERS[0].send(pb_utils.InferenceResponse()),
    }
    SENDERS = []

    class TritonPythonModel:
        def initialize(self, args):
            global FAMILY, COUNT
            FAMILY = pb_utils.MetricFamily("forks", "d", pb_utils.MetricFamily.COUNTER)
            COUNT = FAMILY.Metric()

        def execute(self, requests):
            SENDERS[:] = [request.get_response_sender() for request in requests]
            with multiprocessing.get_context("fork").Pool(2) as pool:
                found = pool.map(doubled, requests[0].inputs()[0].as_numpy().tolist())
                said = pool.map(asked, list(ASKS))
            assert all("a process that the model has forked can not ask" in text for text in said), said
            SENDERS.clear()
            COUNT.increment(1)
            assert COUNT.value() == 1
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32(found))]) for _ in requests]
"""


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_children_compute_and_do_not_ask(tmp_path: Path, isolation: str) -> None:
    write(tmp_path, "m", FORKS, IO + f'parameters {{ key: "ISOLATION" value {{ string_value: "{isolation}" }} }}')
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == [2, 4]
        assert server.metrics("forks ") == ["forks 1"]


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_child_that_comes_back_from_the_model_ends(tmp_path: Path, isolation: str) -> None:
    write(tmp_path, "m", RETURNS, IO + f'parameters {{ key: "ISOLATION" value {{ string_value: "{isolation}" }} }}')
    with stage(tmp_path) as server:
        for _ in range(2):
            assert server.ask("m", X).tolist() == [7, 0, 1, 0]
