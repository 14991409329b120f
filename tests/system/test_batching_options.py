"""What goes beyond Triton in dynamic batching, and the variables that hold schedulers, in real servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess, poll, running_server
from triton_clients import client_module

# Says of each request how many shared its batch, and as which of all it ran.
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.ran = 0

    def execute(self, requests):
        responses = []
        time.sleep(SECONDS)
        for request in requests:
            self.ran += 1
            values = np.float32([[len(requests), self.ran]])
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values)]))
        return responses
"""
CONFIG = """
backend: "python" max_batch_size: 8
input { name: "IN" data_type: TYPE_FP32 dims: 1 } output { name: "OUT" data_type: TYPE_FP32 dims: 2 }
instance_group { kind: KIND_CPU count: 1 }
"""


@contextmanager
def serving(folder: Path, config: str, *options: str, seconds: float = 0.0) -> Iterator[ServerProcess]:
    """The model `m` with this beside CONFIG."""
    directory = folder / "models" / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").write_text(MODEL.replace("SECONDS", str(seconds)))
    (directory / "config.pbtxt").write_text(CONFIG + config)
    with running_server([folder / "models"], folder, options) as server:
        yield server


def ask(server: ServerProcess, timeout_s: float | None = None, **more: Any) -> tuple[int, int]:
    """(size of its batch, as which it ran)"""
    module = client_module("grpc")
    tensor = module.InferInput("IN", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.float32([[1]]))
    with module.InferenceServerClient(server.grpc_url) as client:
        size, number = client.infer("m", [tensor], client_timeout=timeout_s, **more).as_numpy("OUT")[0]
    return int(size), int(number)


def waiting(server: ServerProcess) -> int:
    """Requests that wait, as the metrics say."""
    return int(server.metrics()['nv_inference_pending_request_count{model="m",version="1"}'])


@pytest.mark.parametrize("count", [4, 8])
def test_a_held_scheduler_takes_nothing_before_so_many_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("TRITONSERVER_DELAY_SCHEDULER", str(count))
    with serving(tmp_path, "dynamic_batching { }") as server, ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(ask, server) for _ in range(count - 1)]
        poll(lambda: waiting(server) == count - 1, "all but one to wait")
        time.sleep(0.2)
        assert not any(one.done() for one in asked)
        assert "for tests: schedulers wait" in server.output()
        asked.append(threads.submit(ask, server))
        assert {one.result(60)[0] for one in asked} == {count}
        assert ask(server)[0] == 1  # once


def test_a_backlog_that_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONSERVER_BACKLOG_DELAY_SCHEDULER", "2")
    with serving(tmp_path, "sequence_batching { }") as server, ThreadPoolExecutor(10) as threads:

        def whole(number: int) -> tuple[int, int]:
            return ask(server, sequence_id=number, sequence_start=True, sequence_end=True)

        asked = [threads.submit(whole, number) for number in range(1, 10)]
        poll(lambda: waiting(server) == 9, "nine to wait")  # one of them for a slot
        time.sleep(0.2)
        assert not any(one.done() for one in asked)
        asked.append(threads.submit(whole, 10))
        assert sorted(one.result(60)[1] for one in asked) == list(range(1, 11))


@pytest.mark.parametrize(("strict", "sizes"), [("true", [2, 2, 4, 4, 4, 4]), ("false", [6] * 6)])
def test_preferred_sizes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: str, sizes: list[int]
) -> None:
    """Six have waited for longer than the delay: Triton's rule takes them all, the strict one what has a size."""
    monkeypatch.setenv("TRITONSERVER_DELAY_SCHEDULER", "6")
    config = """
        dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 100000 }
        parameters { key: "dynamic_batching.strict_preferred_batch_size" value { string_value: "%s" } }
    """
    with serving(tmp_path, config % strict) as server, ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, server) for _ in range(5)]
        poll(lambda: waiting(server) == 5, "five to wait")
        time.sleep(0.2)
        asked.append(threads.submit(ask, server))
        assert sorted(one.result(60)[0] for one in asked) == sizes


def test_the_earliest_deadline_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONSERVER_DELAY_SCHEDULER", "5")
    config = """
        dynamic_batching { preferred_batch_size: 1 }
        parameters { key: "dynamic_batching.earliest_deadline_first" value { string_value: "true" } }
    """
    with serving(tmp_path, config) as server, ThreadPoolExecutor(5) as threads:
        asked = []
        # A client's deadline, none, a timeout of the request in microseconds, another client's deadline, a far one.
        for number, more in enumerate([{"timeout_s": 9.0}, {}, {"timeout": 8_000_000}, {"timeout_s": 7.0},
                                       {"timeout_s": 60.0}]):  # fmt: skip
            asked.append(threads.submit(ask, server, **more))  # type: ignore[arg-type]
            if number < 4:
                poll(lambda number=number: waiting(server) == number + 1, "it to wait")  # type: ignore[misc]
        assert [one.result(60)[1] for one in asked] == [3, 4, 2, 1, 5]


def test_the_server_finds_the_delay(tmp_path: Path) -> None:
    """Eight clients that ask again at once share an execution, where without a delay they take turns in two groups."""
    with serving(tmp_path, "dynamic_batching { }", "--auto-queue-delay=true", seconds=0.05) as server:

        def client(number: int) -> list[int]:
            return [ask(server)[0] for _ in range(20)]

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(client, range(8)))
        late = [size for sizes in found for size in sizes[10:-2]]
    assert sum(late) / len(late) > 6
