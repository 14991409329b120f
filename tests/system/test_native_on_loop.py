"""Short executions of shared libraries on the server's loop thread: which get there, and that answers are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import native_libraries
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from server_process import ServerProcess, poll, running_server
from tritonclient.utils import InferenceServerException

from triton_async.defines import INLINE_AFTER

pytestmark = native_libraries.needs_compiler

TENSORS = """
    input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 }
    output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }
"""
ERROR, PARAMETER, RELEASED_FIRST, FAILS, KEPT, SILENT, STALLS = range(1, 8)  # as tests/native/fickle.c has them
TASTE = "this value is not to its taste"
GIVEN_UP = "model 'fickle' gave up a request without a final response"
EXTRA = {
    "waits": '#include "{source}"\n#include <unistd.h>\nvoid wait_a_little(void) {{ usleep(1); }}\n',
    "remembers": '#include "{source}"\n__thread int calls;\nint count_calls(void) {{ return ++calls; }}\n',
    "asks": '#include "{source}"\nvoid *asks(void) {{ return (void *)TRITONSERVER_ServerInferAsync; }}\n',
}
BATCHING = "dynamic_batching {}"
MODELS = {
    "fickle": ("fickle", BATCHING), "stalls": ("fickle", BATCHING),
    "turns": ("turns", ""), "stateful": ("fickle", "sequence_batching { }"),
    "decoupled": ("fickle", "model_transaction_policy { decoupled: true }"),
} | {name: (name, "") for name in EXTRA}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on_loop")
    native_libraries.backend(folder / "backends", "fickle", "fickle.c")
    turns = native_libraries.SOURCES / "fickle.c"
    sources = {name: text.format(source=turns) for name, text in EXTRA.items()} | {
        "turns": f'#include "{turns}"\nTRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {{ '
                 "return TRITONBACKEND_BackendSetExecutionPolicy(backend, TRITONBACKEND_EXECUTION_DEVICE_BLOCKING); }\n"
    }  # fmt: skip
    for name, text in sources.items():
        (folder / f"{name}.c").write_text(text)
        native_libraries.backend(folder / "backends", name, folder / f"{name}.c")
    for name, (backend, more) in MODELS.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(
            f'backend: "{backend}" max_batch_size: 8 {TENSORS} {more} instance_group {{ kind: KIND_CPU }}'
        )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with running_server([folder / "models"], folder, [f"--backend-directory={folder / 'backends'}"]) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Any]:
    with grpc_client.InferenceServerClient(server.url("grpc")) as client:
        yield client


def tensor_of(value: int) -> Any:
    tensor = grpc_client.InferInput("INPUT0", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.full((1, 1), value, np.int32))
    return tensor


def ask(client: Any, model: str, value: int, **more: Any) -> Any:
    return client.infer(model, [tensor_of(value)], **more)


def outcome(found: Any) -> Any:
    if isinstance(found, InferenceServerException):
        return found.message()
    return found.as_numpy("OUTPUT0").ravel().tolist()


def ask_for(client: Any, model: str, value: int) -> Any:
    try:
        return outcome(ask(client, model, value))
    except InferenceServerException as error:
        return outcome(error)


def on_loop(server: ServerProcess) -> int:
    return int(server.metrics()["triton_async_loop_executions_total"])


def lost_trust(server: ServerProcess, model: str) -> bool:
    return f"model '{model}' held up the event loop for " in server.output()


def earn_trust(server: ServerProcess, client: Any, model: str) -> None:
    """Asks until executions of the model run on the loop's thread: other work on this machine makes some too long."""
    before, end = on_loop(server), time.monotonic() + 120
    while on_loop(server) < before + 5:
        if lost_trust(server, model):
            pytest.skip(f"other work on this machine has made an execution of model '{model}' too long")
        assert time.monotonic() < end, f"model '{model}' was not trusted"
        for value in range(100, 100 + INLINE_AFTER + 16):
            assert ask_for(client, model, value) == [value]


def ran_on_loop(server: ServerProcess, client: Any, model: str, value: int) -> tuple[Any, int]:
    """What came of it, and how many executions there were on the loop's thread meanwhile."""
    before = on_loop(server)
    found = ask_for(client, model, value)
    return found, on_loop(server) - before


@pytest.mark.parametrize(("value", "expected"), [
    (ERROR, TASTE),
    (PARAMETER, [PARAMETER]),
    (RELEASED_FIRST, [RELEASED_FIRST]),
    (FAILS, "the execution went wrong"),
    (SILENT, GIVEN_UP),
])  # fmt: skip
def test_whatever_is_answered_on_the_loops_thread_arrives(
    server: ServerProcess, client: Any, value: int, expected: object
) -> None:
    earn_trust(server, client, "fickle")
    there, tries = 0, 0
    while not there:  # what takes too long beside other work ends the trust
        for _ in range(3):
            found, count = ran_on_loop(server, client, "fickle", value)
            assert found == expected
            there += count
            assert ran_on_loop(server, client, "fickle", 50)[0] == [50]
        tries += 1
        assert tries < 10, "nothing ran on the loop's thread"


def test_requests_that_are_kept_are_answered_by_a_later_execution(server: ServerProcess, client: Any) -> None:
    earn_trust(server, client, "fickle")
    found: list[Any] = []
    for done in range(1, 4):
        client.async_infer("fickle", [tensor_of(KEPT)], lambda result, error: found.append(outcome(error or result)))
        poll(lambda: ask_for(client, "fickle", 60) == [60] and len(found) == done, "its answer")  # noqa: B023
    assert found == [[KEPT]] * 3


def test_requests_of_one_batch_are_told_apart(server: ServerProcess, client: Any) -> None:
    earn_trust(server, client, "fickle")
    values = [70, ERROR, 71, PARAMETER, 72, RELEASED_FIRST, SILENT, 73] * 4
    found: dict[int, Any] = {}

    def note(place: int) -> Any:
        return lambda result, error: found.__setitem__(place, outcome(error or result))

    for place, value in enumerate(values):
        client.async_infer("fickle", [tensor_of(value)], note(place))
    poll(lambda: len(found) == len(values), "all answers")
    texts = {ERROR: TASTE, SILENT: GIVEN_UP}
    assert [found[place] for place in range(len(values))] == [texts.get(value, [value]) for value in values]


def test_what_runs_there_is_counted_like_all_else(server: ServerProcess, client: Any) -> None:
    earn_trust(server, client, "fickle")

    def counts() -> tuple[int, int, int]:
        stats = client.get_inference_statistics("fickle").model_stats[0]
        return stats.inference_count, stats.inference_stats.success.count, stats.inference_stats.fail.count

    before = counts()
    for value in (80, ERROR, 81, PARAMETER, SILENT):
        ask_for(client, "fickle", value)
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 3, 2]


def test_one_stall_sends_a_model_back_to_its_threads(server: ServerProcess, client: Any) -> None:
    def was_caught() -> bool:  # one in which the kernel gave the processor to others is forgiven
        if not lost_trust(server, "stalls"):
            for value in range(100, 100 + INLINE_AFTER + 16):
                assert ask_for(client, "stalls", value) == [value]
            ask(client, "stalls", STALLS)
        return lost_trust(server, "stalls")

    poll(was_caught, "a stall that is the model's", 300)
    for value in range(100, 300):
        assert ran_on_loop(server, client, "stalls", value) == ([value], 0)


@pytest.mark.parametrize("model", ["turns", "stateful", "decoupled", *EXTRA])
def test_what_may_depend_on_its_thread_keeps_it(server: ServerProcess, client: Any, model: str) -> None:
    more = {"sequence_id": 5, "sequence_start": True} if model == "stateful" else {}
    before = on_loop(server)
    if model == "decoupled":
        found: list[Any] = []
        client.start_stream(lambda result, error: found.append(outcome(error or result)))
        for value in range(100, 300):
            client.async_stream_infer(model, [tensor_of(value)])
        client.stop_stream()
        assert found == [[value] for value in range(100, 300)]
    else:
        for value in range(100, 300):
            assert outcome(ask(client, model, value, **more)) == [value]
            more.pop("sequence_start", None)
    assert on_loop(server) == before


def test_it_can_be_switched_off(folder: Path) -> None:
    options = [f"--backend-directory={folder / 'backends'}", "--allow-loop-execution=false"]
    with (
        running_server([folder / "models"], folder, options) as server,
        grpc_client.InferenceServerClient(server.url("grpc")) as client,
    ):
        for value in range(100, 300):
            assert ran_on_loop(server, client, "fickle", value) == ([value], 0)
