"""Programs for NVIDIA's `tritonserver` package, as its users write them: `wheel_checks.py NAME REPOSITORY` runs one.

Run by CPython 3.12 with the real wheels, and this package's libtritonserver.so in the place of Triton's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonserver
from tritonserver import _c as binding
from tritonserver._api._logging import LogMessage

from triton_async import native

EXPLICIT = tritonserver.ModelControlMode.EXPLICIT
CHECKS: dict[str, Callable[[str], None]] = {}


def check(function: Callable[[str], None]) -> Callable[[str], None]:
    CHECKS[function.__name__] = function
    return function


@contextlib.contextmanager
def raises(kind: type[Exception], words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert type(error) is kind, repr(error)
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")


@contextlib.contextmanager
def started(repository: str, **options: Any) -> Iterator[tritonserver.Server]:
    server = tritonserver.Server(model_repository=repository, exit_timeout=10, **options)
    server.start(wait_until_ready=True, timeout=30)
    try:
        yield server
    finally:
        server.stop()


def floats(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def values_of(response: tritonserver.InferenceResponse) -> list[Any]:
    tensor = response.outputs["OUT"]
    if tensor.data_type == tritonserver.DataType.BYTES:
        return [word.decode() for word in tensor.to_bytes_array().reshape(-1)]
    return list(np.from_dlpack(tensor).reshape(-1).tolist())


@check
def questions(repository: str) -> None:
    with started(repository, server_id="asked") as server:
        assert server.live() and server.ready()
        metadata = server.metadata()
        assert metadata["name"] == "asked" and "model_repository" in metadata["extensions"], metadata
        models = server.models()
        assert {name for name, _ in models} == {"same", "strings", "batched", "count", "slow", "tells"}, models
        assert models["same", 1].state == "READY" and models["same"].ready()
        assert len(server.models(exclude_not_ready=True)) == 6
        model = server.model("batched")
        assert model.ready() and not model.version > 0
        assert model.metadata()["inputs"] == [{"name": "IN", "datatype": "INT32", "shape": [-1, 2]}]
        assert model.config()["max_batch_size"] == 4
        assert model.batch_properties() == tritonserver.ModelBatchFlag.FIRST_DIM
        assert model.transaction_properties() == tritonserver.ModelTxnPropertyFlag.ONE_TO_ONE
        count = server.model("count", 1)
        assert count.batch_properties() == tritonserver.ModelBatchFlag.UNKNOWN
        assert count.transaction_properties() == tritonserver.ModelTxnPropertyFlag.DECOUPLED
        for _ in range(3):
            list(model.infer(inputs={"IN": np.int32([[1, 2], [3, 4]])}))
        statistics = model.statistics()["model_stats"][0]
        assert (statistics["name"], statistics["version"]) == ("batched", "1")
        assert (statistics["inference_count"], statistics["execution_count"]) == (6, 3), statistics
        assert statistics["inference_stats"]["success"]["count"] == 3
        assert binding.api_version()[0] == 1


@check
def inference(repository: str) -> None:
    with started(repository) as server:
        same = server.model("same")
        for i in range(200):
            responses = list(same.infer(inputs={"IN": floats(i, 2)}, request_id=str(i)))
            assert [values_of(response) for response in responses] == [[i, 2]]
            response = responses[0]
            assert (response.request_id, response.final, response.error) == (str(i), True, None)
            assert (response.model.name, response.model.version) == ("same", 1)
        assert np.asarray(response.outputs["OUT"].shape).tolist() == [2]
        assert response.outputs["OUT"].memory_type == tritonserver.MemoryType.CPU
        large = np.random.default_rng(1).random(1 << 20, np.float32)
        [response] = same.infer(inputs={"IN": large}, output_memory_type="cpu")
        assert np.array_equal(np.from_dlpack(response.outputs["OUT"]), large)
        [response] = same.infer(inputs={"IN": tritonserver.Tensor.from_dlpack(large[:7])})
        assert np.array_equal(np.from_dlpack(response.outputs["OUT"]), large[:7])
        kept = response.outputs["OUT"]
        del response
        gc.collect()
        assert np.array_equal(np.from_dlpack(kept), large[:7])
        [response] = server.model("strings").infer(inputs={"IN": ["one", "", "drei ß"]})
        assert values_of(response) == ["one", "", "drei ß"]
        [response] = server.model("strings").infer(inputs={"IN": ["plain"]})
        assert response.outputs["OUT"].to_string_array().tolist() == ["plain"]
        [response] = same.infer(inputs={"IN": np.zeros(0, np.float32)})
        assert values_of(response) == []
        request = same.create_request(inputs={"IN": floats(5)})
        for _ in range(3):  # a request is used again
            [response] = same.infer(request)
            assert values_of(response) == [5]
        responses = queue.SimpleQueue()
        list(same.infer(inputs={"IN": floats(6)}, response_queue=responses))
        assert values_of(responses.get(timeout=10)) == [6]


@check
def what_requests_say(repository: str) -> None:
    with started(repository) as server:
        tells = server.model("tells")
        parameters = {"text": "t", "number": 7, "truth": True, "half": 0.5}
        [response] = tells.infer(
            inputs={"IN": ["x"]}, request_id="r", correlation_id=9, flags=1, timeout=10_000_000, parameters=parameters
        )
        told = values_of(response)[0].split("|")
        assert told[:3] == ["r", "9", "1"], told
        assert json.loads(told[3]) == parameters, told
        assert response.parameters == {"seen": 1, "word": "w", "yes": True}, response.parameters
        [response] = tells.infer(inputs={"IN": ["x"]}, correlation_id="a-word")
        assert values_of(response)[0].split("|")[1] == "a-word"


@check
def asynchronous_inference(repository: str) -> None:
    async def run(server: tritonserver.Server) -> None:
        same = server.model("same")

        async def one(i: int) -> None:
            async for response in same.async_infer(inputs={"IN": floats(i)}):
                assert values_of(response) == [i]

        await asyncio.gather(*(one(i) for i in range(200)))
        found = [values_of(response) async for response in server.model("count").async_infer(inputs={"IN": floats(2)})
                 if response.outputs]
        assert found == [[0], [1]]
        mailbox: asyncio.Queue[Any] = asyncio.Queue()
        async for response in same.async_infer(inputs={"IN": floats(3)}, response_queue=mailbox):
            assert values_of(response) == [3]
        assert values_of(await mailbox.get()) == [3]
        with raises(tritonserver.InvalidArgumentError, "expected 1 inputs but got 2"):
            same.async_infer(inputs={"IN": floats(1), "X": floats(1)})

    with started(repository) as server:
        asyncio.run(run(server))


@check
def decoupled_answers(repository: str) -> None:
    with started(repository) as server:
        count = server.model("count")
        responses = list(count.infer(inputs={"IN": floats(3)}))
        assert [values_of(response) for response in responses if response.outputs] == [[0], [1], [2]]
        assert [response.final for response in responses] == [False, False, False, True]
        # Behind the third an error, and then more.
        responses = list(count.infer(inputs={"IN": floats(5)}, raise_on_error=False))
        errors = [response.error for response in responses if response.error is not None]
        assert [type(error) for error in errors] == [tritonserver.InternalError]
        assert "three are out" in str(errors[0])
        assert len([response for response in responses if response.outputs]) == 5
        iterator = count.infer(inputs={"IN": floats(5)})
        with raises(tritonserver.InternalError, "three are out"):
            list(iterator)
        assert [values_of(response) for response in iterator if response.outputs] == [[3], [4]]
        assert list(count.infer(inputs={"IN": floats(0)}))[-1].final


@check
def cancellation(repository: str) -> None:
    with started(repository) as server:
        slow = server.model("slow")
        began = time.monotonic()
        responses = slow.infer(inputs={"IN": floats(60)}, raise_on_error=False)
        time.sleep(0.1)
        responses.cancel()
        [response] = responses
        assert response.error is not None and "cancelled" in str(response.error), response.error
        assert time.monotonic() - began < 30
        list(server.model("same").infer(inputs={"IN": floats(1)}))
        responses.cancel()  # too late, and no error


@check
def errors(repository: str) -> None:
    with raises(tritonserver.InvalidArgumentError, "Server not started"):
        tritonserver.Server(model_repository=repository).metadata()
    with raises(tritonserver.InvalidArgumentError, "--host-policy"):
        tritonserver.Server(model_repository=repository, host_policies={"cpu": {"no-such": "1"}}).start()
    with raises(tritonserver.InternalError, "failed to"):
        tritonserver.Server(model_repository="/not/there").start()
    with started(repository) as server:
        with raises(tritonserver.InvalidArgumentError, "already started"):
            server.start()
        with raises(tritonserver.NotFoundError, "unknown model: 'none'"):
            server.model("none").infer(inputs={"IN": floats(1)})
        with raises(tritonserver.NotFoundError, "unknown model: 'none'"):
            server.model("none").metadata()
        same = server.model("same")
        with raises(tritonserver.InvalidArgumentError, "expected 1 inputs but got 0"):
            same.infer()
        with raises(tritonserver.InvalidArgumentError, "data-type"):
            same.infer(inputs={"IN": np.int32([1])})
        with raises(tritonserver.InvalidArgumentError, "unexpected shape"):
            same.infer(inputs={"IN": np.float32([[1]])})
        with raises(tritonserver.InvalidArgumentError, "unexpected inference input 'X'"):
            same.infer(inputs={"X": floats(1)})
        with raises(tritonserver.UnavailableError, "polling is disabled"):
            server.poll_model_repository()
        with raises(tritonserver.UnavailableError, "not allowed"):
            server.load("same")
        [response] = server.model("tells").infer(inputs={"IN": ["fail"]}, raise_on_error=False)
        assert isinstance(response.error, tritonserver.InternalError) and "as it was told" in str(response.error)
        with raises(tritonserver.InternalError, "as it was told"):
            list(server.model("tells").infer(inputs={"IN": ["fail"]}))
        assert [values_of(response) for response in same.infer(inputs={"IN": floats(1)})] == [[1]]


@check
def explicit_control(repository: str) -> None:
    with started(repository, model_control_mode=EXPLICIT, startup_models=["same"]) as server:
        assert {key: model.state for key, model in server.models().items()}["same", 1] == "READY"
        assert server.models()["count", -1].state is None
        batched = server.load("batched")
        assert batched.ready()
        server.load("batched", {"config": json.dumps(batched.config() | {"max_batch_size": 2})})
        assert batched.config()["max_batch_size"] == 2
        config = {"backend": "python", "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
                  "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}]}
        code = (Path(repository) / "slow" / "1" / "model.py").read_bytes()
        made = server.load("made", {"config": json.dumps(config), "file:1/model.py": code})
        assert [values_of(response) for response in made.infer(inputs={"IN": floats(0)})] == [[1]]
        for name in ("made", "batched"):
            server.unload(name, wait_until_unloaded=True, timeout=30)
            assert server.models()[name, 1].state == "UNAVAILABLE" and not server.model(name).ready()
        server.unload(server.model("same"), unload_dependents=True, wait_until_unloaded=True)
        with raises(tritonserver.InternalError, "failed to load 'none'"):
            server.load("none")
        with raises(tritonserver.InvalidArgumentError, "must not contain path traversal"):
            server.load("../same")


@check
def repositories_that_come_and_go(repository: str) -> None:
    with tempfile.TemporaryDirectory() as empty, started(empty, model_control_mode=EXPLICIT) as server:
        assert server.models() == {}
        server.register_model_repository(repository, {"same": "renamed", "count": "batched"})
        assert {name for name, _ in server.models()} == {"renamed", "batched", "strings", "slow", "tells"}
        renamed = server.load("renamed")
        [response] = renamed.infer(inputs={"IN": floats(4)})
        assert values_of(response) == [4] and response.model.name == "renamed"
        assert server.load("batched").transaction_properties() == tritonserver.ModelTxnPropertyFlag.DECOUPLED
        with raises(tritonserver.InternalError, "failed to load 'same'"):
            server.load("same")
        with raises(tritonserver.AlreadyExistsError, "already been registered"):
            server.register_model_repository(repository)
        server.unload("renamed", wait_until_unloaded=True)
        server.unregister_model_repository(repository)
        with raises(tritonserver.NotFoundError, "was not registered"):
            server.unregister_model_repository(repository)
        with raises(tritonserver.InvalidArgumentError, "one name"):
            server.register_model_repository(repository, {"same": "x", "count": "x"})
        server.register_model_repository(repository)
        assert server.load("same").ready()
    with started(repository) as server, raises(tritonserver.UnsupportedError, "not EXPLICIT"):
        server.register_model_repository(empty)


@check
def polling(repository: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(repository) / "same", Path(folder) / "later"
        with started(folder, model_control_mode=tritonserver.ModelControlMode.POLL) as server:
            assert server.models() == {}
            copy.mkdir()
            (copy / "1").mkdir()
            (copy / "config.pbtxt").write_text((source / "config.pbtxt").read_text())
            server.poll_model_repository()
            assert server.model("later").ready()


@check
def metrics(repository: str) -> None:
    with started(repository) as server:
        list(server.model("same").infer(inputs={"IN": floats(1)}))
        page = server.metrics()
        assert 'nv_inference_count{model="same",version="1"} 1' in page, page
        family = tritonserver.MetricFamily(tritonserver.MetricKind.COUNTER, "my_counter", "What I count")
        metric = tritonserver.Metric(family, {"kind": "a"})
        metric.increment(2.5)
        assert metric.value == 2.5 and metric.kind == tritonserver.MetricKind.COUNTER
        with raises(tritonserver.UnsupportedError, "Set"):
            metric.set_value(1)
        level = tritonserver.Metric(tritonserver.MetricFamily(tritonserver.MetricKind.GAUGE, "my_level", "How much"))
        level.set_value(-3)
        page = server.metrics(tritonserver.MetricFormat.PROMETHEUS)
        assert "# HELP my_counter What I count" in page and 'my_counter{kind="a"} 2.5' in page and "my_level -3" in page
        del metric, level, family
    with started(repository, metrics=False) as server, raises(tritonserver.UnavailableError, "metrics"):
        server.metrics()


@check
def log_lines(repository: str) -> None:
    lines: list[tuple[Any, ...]] = []
    options = binding.TRITONSERVER_ServerOptions()
    options.set_log_callback(lambda *line: lines.append(line))
    binding.TRITONSERVER_LogMessage(binding.TRITONSERVER_LogLevel.ERROR, "model.cc", 42, "before any server")
    level, file, line, unix_us, text = lines.pop()
    assert (level, file, line, text) == (binding.TRITONSERVER_LogLevel.ERROR, "model.cc", 42, "before any server")
    assert abs(unix_us / 1e6 - time.time()) < 60 and not lines
    options.set_log_callback(None)
    binding.TRITONSERVER_LogMessage(binding.TRITONSERVER_LogLevel.ERROR, "model.cc", 42, "to nobody")
    assert not lines
    with started(repository, log_info=True, log_callback=lambda *line: lines.append(line)):
        LogMessage(binding.TRITONSERVER_LogLevel.INFO, "of the program")
        assert "of the program" in [line[4] for line in lines]
        assert any("successfully loaded 'same'" in line[4] for line in lines), lines
        assert not binding.TRITONSERVER_LogIsEnabled(binding.TRITONSERVER_LogLevel.VERBOSE)
    options.set_log_callback(None)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "log")
        with started(repository, log_verbose=1, log_file=file, log_format=tritonserver.LogFormat.ISO8601):
            LogMessage(binding.TRITONSERVER_LogLevel.VERBOSE, "in the file")
        text = Path(file).read_text()
        assert "in the file" in text and "successfully loaded 'same'" in text and "Z I " in text, text


@check
def traces(repository: str) -> None:
    with started(repository) as server:
        seen: list[Any] = []
        done = threading.Event()

        def on_activity(trace: Any, activity: Any, ns: int, told: Any) -> None:
            told.append((activity, ns))

        def on_tensor(  # noqa: PLR0917
            trace: Any, activity: Any, name: str, kind: Any, base: int, nbytes: int, shape: Any, memory: Any,
            memory_id: int, told: Any,
        ) -> None:
            data = np.frombuffer((np.ctypeslib.ctypes.c_char * nbytes).from_address(base), np.float32).tolist()
            told.append((activity, name, kind, shape.tolist(), data))

        def on_release(trace: Any, told: Any) -> None:
            told.append((trace.model_name, trace.model_version, trace.request_id))
            done.set()

        levels = binding.TRITONSERVER_InferenceTraceLevel
        level = int(levels.TIMESTAMPS) | int(levels.TENSORS)
        trace = binding.TRITONSERVER_InferenceTrace(level, 0, on_activity, on_tensor, on_release, seen)
        wanted = server.model("same").create_request(inputs={"IN": floats(1, 2)}, request_id="traced")
        request = wanted._create_tritonserver_inference_request()
        server._server.infer_async(request, trace)
        assert done.wait(30)
        del request
        activities = binding.TRITONSERVER_InferenceTraceActivity
        assert {entry[0] for entry in seen if len(entry) == 2} >= {activities.REQUEST_START, activities.REQUEST_END}
        tensors = [entry for entry in seen if len(entry) == 5]
        assert [entry[:2] for entry in tensors] == [
            (activities.TENSOR_QUEUE_INPUT, "IN"), (activities.TENSOR_BACKEND_INPUT, "IN"),
            (activities.TENSOR_BACKEND_OUTPUT, "OUT"),
        ], seen  # fmt: skip
        assert all(entry[2:] == (tritonserver.DataType.FP32, [2], [1, 2]) for entry in tensors), seen
        assert seen[-1] == ("same", 1, "traced")


@check
def all_options(repository: str) -> None:
    options = tritonserver.Options(
        model_repository=[repository], server_id="all", model_control_mode=EXPLICIT, startup_models=["same", "count"],
        strict_model_config=True, rate_limiter_mode=tritonserver.RateLimitMode.EXEC_COUNT,
        rate_limiter_resources=[tritonserver.RateLimiterResource("R", 2, 0)], pinned_memory_pool_size=1 << 20,
        cuda_memory_pool_sizes={}, cache_config=[("local", {"size": "1048576"})], cache_directory="/not/there",
        min_supported_compute_capability=6.0, exit_on_error=False, strict_readiness=False, exit_timeout=5,
        buffer_manager_thread_count=2, model_load_thread_count=2, model_load_retry_count=1, model_namespacing=False,
        enable_peer_access=False, metrics=True, gpu_metrics=False, cpu_metrics=True, metrics_interval=500,
        backend_directory="/not/there", repo_agent_directory="/not/there",
        backend_configuration={"python": {"shm-default-byte-size": "1048576"}},
        host_policies={"cpu": {"cpu-cores": "0-0"}}, metrics_configuration={"": {"summary_latencies": "true"}},
    )  # fmt: skip
    server = tritonserver.Server(options)
    server.start(wait_until_ready=True)
    assert server.metadata()["name"] == "all"
    list(server.model("same").infer(inputs={"IN": floats(1)}))
    assert "nv_inference_request_summary_us" in server.metrics()
    server.stop()


@check
def several_servers(repository: str) -> None:
    for _ in range(3):
        with started(repository) as server:
            assert [values_of(response) for response in server.model("same").infer(inputs={"IN": floats(1)})] == [[1]]
    with started(repository, server_id="one") as one, started(repository, server_id="two") as two:
        assert (one.metadata()["name"], two.metadata()["name"]) == ("one", "two")
        threads = [
            threading.Thread(target=lambda server=server: [
                list(server.model("same").infer(inputs={"IN": floats(1)})) for _ in range(100)
            ])
            for server in (one, two) for _ in range(4)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    server = tritonserver.Server(model_repository=repository).start()
    server = None  # nobody stops it
    gc.collect()


@check
def left_running(repository: str) -> None:
    """The process ends with a server, and with a request on its way."""
    globals()["kept"] = server = tritonserver.Server(model_repository=repository).start(wait_until_ready=True)
    list(server.model("same").infer(inputs={"IN": floats(1)}))
    globals()["waiting"] = server.model("slow").infer(inputs={"IN": floats(60)})


@check
def front_ends(repository: str) -> None:
    """Serves with NVIDIA's own front-ends until its input ends."""
    from tritonfrontend import KServeGrpc, KServeHttp, Metrics

    http, grpc, page = (int(port) for port in sys.argv[3:6])
    with started(repository, model_control_mode=EXPLICIT, startup_models=["*"]) as server:
        with raises(tritonserver.InvalidArgumentError, ""):
            KServeHttp(server, KServeGrpc.Options())
        with (
            KServeHttp(server, KServeHttp.Options(address="127.0.0.1", port=http, thread_count=2)),
            KServeGrpc(server, KServeGrpc.Options(address="127.0.0.1", port=grpc)),
            Metrics(server, Metrics.Options(address="127.0.0.1", port=page)),
        ):
            print("serving", flush=True)
            sys.stdin.read()
            assert native.drain(20)


if __name__ == "__main__":
    CHECKS[sys.argv[1]](sys.argv[2])
    print("done", flush=True)
