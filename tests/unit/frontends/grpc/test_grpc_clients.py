"""Triton's own gRPC client, sync and asyncio, against the front-end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from grpc_harness import Running, serving, until, write_model
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException


def tensor(array: np.ndarray, name: str = "INPUT0", datatype: str = "FP32", module: Any = client) -> Any:
    found = module.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


@pytest.fixture
def triton(shared: Running) -> Any:
    with client.InferenceServerClient(shared.url) as found:
        yield found


def test_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("fp32")
    assert triton.is_model_ready("fp32", "1")
    assert triton.get_server_metadata().name == "triton"
    metadata = triton.get_model_metadata("batched")
    assert (metadata.name, list(metadata.versions)) == ("batched", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("INPUT0", "FP32", [-1, 4])]
    config = triton.get_model_config("batched").config
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")


def test_infer_echoes(triton: Any) -> None:
    for count in (1, 3, 1000, 300_000, 3_000_000):
        array = np.random.default_rng(count).random(count, np.float32)
        result = triton.infer("fp32", [tensor(array)], request_id=f"r{count}")
        assert np.array_equal(result.as_numpy("OUTPUT0"), array)
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == (f"r{count}", "fp32", "1")


def test_strings_and_several_inputs(triton: Any) -> None:
    words = np.array([b"one", b"", "größer".encode(), bytes(range(256))], dtype=np.object_)
    result = triton.infer("strings", [tensor(words, datatype="BYTES")])
    assert result.as_numpy("OUTPUT0").tolist() == words.tolist()
    arrays = [np.arange(n, dtype=np.float32) for n in (3, 5)]
    inputs = [tensor(arrays[i], f"INPUT{i}") for i in (1, 0)]
    result = triton.infer("two", inputs, outputs=[client.InferRequestedOutput("OUTPUT1")])
    assert np.array_equal(result.as_numpy("OUTPUT1"), arrays[1])
    assert result.as_numpy("OUTPUT0") is None


def test_classification_with_labels(triton: Any) -> None:
    array = np.array([[0.1, 0.4, 0.2, 0.3], [4, 3, 2, 1]], np.float32)
    result = triton.infer("batched", [tensor(array)], outputs=[client.InferRequestedOutput("OUTPUT0", 2)])
    expected = [[b"0.400000:1:b", b"0.300000:3:d"], [b"4.000000:0:a", b"3.000000:1:b"]]
    assert result.as_numpy("OUTPUT0").tolist() == expected


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [10, 400_000])
def test_compressed_requests(triton: Any, algorithm: str, count: int) -> None:
    array = np.zeros(count, np.float32)
    result = triton.infer("fp32", [tensor(array)], compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_compressed_answers(tmp_path: Path, level: str, express: bool) -> None:
    write_model(tmp_path, "fp32")
    serve = serving(tmp_path, compression=level, express=express)
    with serve as running, client.InferenceServerClient(running.url) as triton:
        for count in (1, 400_000):
            array = np.zeros(count, np.float32)
            assert np.array_equal(triton.infer("fp32", [tensor(array)]).as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize(
    ("model", "version", "status", "message"),
    [
        ("nope", "", "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        ("fp32", "9", "NOT_FOUND", "Request for unknown model: 'fp32' version 9 is not found"),
        ("fp32", "x", "INVALID_ARGUMENT", "failed to get model version from specified version string 'x'"),
    ],
)
def test_lookup_errors(triton: Any, model: str, version: str, status: str, message: str) -> None:
    array = np.zeros(1, np.float32)
    for ask in (
        lambda: triton.infer(model, [tensor(array)], model_version=version),
        lambda: triton.get_model_metadata(model, version),
        lambda: triton.get_model_config(model, version),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == f"StatusCode.{status}"
        assert caught.value.message().startswith(message)


def test_validation_errors_carry_the_exact_text(triton: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("batched", [tensor(np.zeros((9, 4), np.float32))], request_id="ü%1")
    assert caught.value.message() == (
        "[request id: ü%1] inference request batch-size must be <= 8 for 'batched'"
    )
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("fp32", [tensor(np.zeros(2, np.int32), datatype="INT32")])
    assert caught.value.message() == (
        "[request id: <id_unknown>] inference input 'INPUT0' data-type is 'INT32', but model 'fp32' expects 'FP32'"
    )
    # What follows on the same connection is not disturbed.
    assert triton.infer("fp32", [tensor(np.ones(2, np.float32))]).as_numpy("OUTPUT0").tolist() == [1, 1]


def test_statistics(triton: Any) -> None:
    triton.infer("int8", [tensor(np.zeros(2, np.int8), datatype="INT8")])
    (entry,) = triton.get_inference_statistics("int8").model_stats
    assert (entry.name, entry.version) == ("int8", "1")
    assert entry.inference_count >= 1
    assert entry.inference_stats.success.count >= 1
    assert entry.batch_stats[0].batch_size == 1
    assert {e.name for e in triton.get_inference_statistics().model_stats} >= {"fp32", "batched"}
    with pytest.raises(InferenceServerException, match="requested model 'nope' is not available"):
        triton.get_inference_statistics("nope")


def test_model_control(tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    options = ("--model-control-mode=explicit", "--load-model=a")
    with serving(tmp_path, *options, express=express) as running, client.InferenceServerClient(running.url) as triton:
        index = {m.name: m.state for m in triton.get_model_repository_index().models}
        assert index == {"a": "READY", "b": ""}
        triton.load_model("b")
        assert triton.is_model_ready("b")
        triton.unload_model("b")
        until(lambda: not is_ready(triton, "b"), "unloaded")
        with pytest.raises(InferenceServerException, match="failed to load 'nope', failed to poll"):
            triton.load_model("nope")


def is_ready(triton: Any, name: str) -> bool:
    try:
        return bool(triton.is_model_ready(name))
    except InferenceServerException:
        return False


def test_what_is_not_allowed_says_so(triton: Any) -> None:
    disabled = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    for call in (
        lambda: triton.register_system_shared_memory("r", "/key", 64),
        lambda: triton.unregister_system_shared_memory("r"),
        lambda: triton.register_cuda_shared_memory("r", b"h" * 64, 0, 64),
        triton.unregister_cuda_shared_memory,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert (caught.value.status(), caught.value.message()) == ("StatusCode.UNIMPLEMENTED", disabled)
    assert not triton.get_system_shared_memory_status().regions
    assert not triton.get_cuda_shared_memory_status().regions
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'r'"):
        triton.get_system_shared_memory_status("r")
    with pytest.raises(InferenceServerException, match="trace file name is not given") as caught:
        triton.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_async_infer_and_aio(shared: Running, triton: Any) -> None:
    found: list[Any] = []
    for index in range(50):
        array = np.full(index + 1, index, np.float32)
        triton.async_infer("fp32", [tensor(array)], lambda result, error: found.append(error or result))
    until(lambda: len(found) == 50, "answers")
    assert sorted(len(r.as_numpy("OUTPUT0")) for r in found) == list(range(1, 51))

    async def many() -> None:
        async with aio.InferenceServerClient(shared.url) as asynchronous:
            arrays = [np.full((1 + i % 4, 4), i, np.float32) for i in range(100)]
            results = await asyncio.gather(*(asynchronous.infer("batched", [tensor(a, module=aio)]) for a in arrays))
            for array, result in zip(arrays, results, strict=True):
                assert np.array_equal(result.as_numpy("OUTPUT0"), array)

    asyncio.run(many())


def test_deadline_and_cancel(shared: Running, triton: Any) -> None:
    array = np.zeros(1, np.float32)
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("slow", [tensor(array)], client_timeout=0.02)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    found: list[Any] = []
    context = triton.async_infer("slow", [tensor(array)], lambda result, error: found.append(error))
    context.cancel()
    until(lambda: bool(found), "callback")
    assert found[0].status() == "StatusCode.CANCELLED"
    model = shared.server.repository.models["slow"].versions[1].loaded.model
    until(lambda: model.in_flight == 0, "the batches that ran are over")
