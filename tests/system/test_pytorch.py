"""PyTorch models behind a real server, asked with tritonclient: sums, an exported program, Silero's voice detector."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess, running_server
from torch_repository import CHUNK, CONTEXT, RATE, build, detector, torch
from triton_clients import PROTOCOLS, Array, add_sub_rows, assert_add_sub, client_module, infer, make_inputs

CLIENTS = 48


@pytest.fixture(scope="module")
def torch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("torch-models")
    build(repository)
    with running_server([repository], tmp_path_factory.mktemp("torch-server")) as process:
        yield process
        process.stop()


@pytest.fixture(autouse=True)
def idle_afterwards(torch_server: ServerProcess) -> Iterator[None]:
    yield
    torch_server.wait_until_idle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_clients_share_executions(torch_server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol, ".aio")

    def statistics() -> dict[str, Any]:
        with client_module("http").InferenceServerClient(torch_server.http_url) as client:
            (entry,) = client.get_inference_statistics("torch_add_sub")["model_stats"]
        found: dict[str, Any] = entry
        return found

    async def ask(client: Any, number: int) -> None:
        arrays, expected = add_sub_rows(number, 1 + number % 3)
        assert_add_sub(await client.infer("torch_add_sub", make_inputs(module, arrays)), expected)

    async def main() -> None:
        async with module.InferenceServerClient(torch_server.url(protocol)) as client:
            await asyncio.gather(*(ask(client, number) for number in range(CLIENTS)))

    before = statistics()
    asyncio.run(main())
    after = statistics()
    assert after["inference_count"] - before["inference_count"] == sum(1 + n % 3 for n in range(CLIENTS))
    assert after["execution_count"] - before["execution_count"] < CLIENTS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_errors_of_a_model_reach_the_client(torch_server: ServerProcess, protocol: str) -> None:
    arrays = {"INPUT0": np.zeros((1, 16), np.int32), "INPUT1": np.zeros((1, 5), np.int32)}
    module = client_module(protocol)
    with module.InferenceServerClient(torch_server.url(protocol)) as client:
        with pytest.raises(Exception, match="PyTorch execute failure: The size of tensor a") as caught:
            client.infer("torch_loose", make_inputs(module, arrays))
    assert "File" not in str(caught.value)
    arrays["INPUT1"] = np.ones((1, 16), np.int32)
    assert infer(torch_server, protocol, "torch_loose", arrays, ["OUTPUT0"])[0].tolist() == [[1] * 16]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exported_program_needs_no_config(torch_server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    with module.InferenceServerClient(torch_server.url(protocol)) as client:
        options = {"as_json": True} if protocol == "grpc" else {}
        metadata = client.get_model_metadata("torch_exported", **options)
    assert metadata["platform"] == "torch_aoti"
    assert [(t["name"], [int(d) for d in t["shape"]]) for t in metadata["inputs"]] == [("input", [-1, 8])]
    x = np.random.default_rng(0).random((3, 8), np.float32)
    (found,) = infer(torch_server, protocol, "torch_exported", {"input": x}, ["OUTPUT__0"])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def sound(seconds: float, number: int) -> Array:
    """Something for the detector to hear: tones that come and go, and noise."""
    random = np.random.default_rng(number)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = random.uniform(100, 400)
    tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9))
    found: Array = (0.1 * tones * (np.sin(2 * np.pi * 3 * time) > 0) + 0.01 * random.standard_normal(len(time))).astype(
        np.float32
    )
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_voice_detection_with_state_tensors(torch_server: ServerProcess, protocol: str) -> None:
    """Three streams at once, their state kept by the client, give what the detector itself says."""
    streams = np.stack([sound(1.0, number) for number in range(3)])
    reference = detector()
    with torch.inference_mode():
        expected = np.concatenate(
            [
                reference(torch.from_numpy(streams[:, at : at + CHUNK].copy()), RATE).numpy()
                for at in range(0, RATE - CHUNK, CHUNK)
            ],
            axis=1,
        )
    module = client_module(protocol)
    state, context, found = np.zeros((2, 3, 128), np.float32), np.zeros((3, CONTEXT), np.float32), []
    with module.InferenceServerClient(torch_server.url(protocol)) as client:
        for at in range(0, RATE - CHUNK, CHUNK):
            x = np.concatenate([context, streams[:, at : at + CHUNK]], axis=1)
            result = client.infer("vad", make_inputs(module, {"x": x, "state": state}))
            state, context = result.as_numpy("OUTPUT__1"), x[:, -CONTEXT:]
            found.append(result.as_numpy("OUTPUT__0"))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-5)
    assert expected.max() > 2 * expected.min(), "the sound makes a difference"


def test_a_model_with_state_keeps_it_between_requests(torch_server: ServerProcess) -> None:
    stream = sound(0.5, 7)
    reference = detector()
    module = client_module("http")
    with module.InferenceServerClient(torch_server.http_url) as client, torch.inference_mode():
        for at in range(0, len(stream) - CHUNK, CHUNK):
            chunk = stream[None, at : at + CHUNK].copy()
            found = client.infer("vad_stateful", make_inputs(module, {"samples": chunk})).as_numpy("probability")
            expected = reference(torch.from_numpy(chunk), RATE).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_broken_file_is_reported_by_the_load_request(torch_server: ServerProcess, tmp_path: Path) -> None:
    directory = tmp_path / "broken" / "1"
    directory.mkdir(parents=True)
    (directory / "model.pt").write_bytes(b"no model")
    (directory.parent / "config.pbtxt").write_text(
        "backend: 'pytorch' input { name: 'x' data_type: TYPE_FP32 dims: 1 } "
        "output { name: 'y' data_type: TYPE_FP32 dims: 1 }"
    )
    options = ["--model-control-mode=explicit"]
    with running_server([tmp_path], tmp_path, options) as process:
        with client_module("http").InferenceServerClient(process.http_url) as client:
            with pytest.raises(Exception, match=r"'model.pt' is not a TorchScript file"):
                client.load_model("broken")
        process.stop()
