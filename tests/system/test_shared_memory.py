"""The option that lets clients register shared memory, on a server process without a GPU."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from server_process import ServerProcess, running_server
from tritonclient.utils import InferenceServerException

HANDLE = base64.b64encode(bytes(64))


@pytest.fixture(scope="module", params=["on", "off"])
def started(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[bool, ServerProcess]]:
    on = request.param == "on"
    options = ["--allow-client-shm=true"] if on else []
    folder: Path = tmp_path_factory.mktemp("server")
    with running_server([tmp_path_factory.mktemp("models")], folder, options) as process:
        yield on, process
        process.stop()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="with a GPU the refusals are others")
@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_registering_says_why_not(started: tuple[bool, ServerProcess], module: Any) -> None:
    on, process = started
    protocol = "http" if module is tritonclient.http else "grpc"
    with module.InferenceServerClient(process.url(protocol)) as client:
        assert ("cuda_shared_memory" in str(client.get_server_metadata())) is on
        with pytest.raises(InferenceServerException) as caught:
            client.register_cuda_shared_memory("r", HANDLE, 0, 64)
        message = caught.value.message()
        if on:
            expected = "failed to register CUDA shared memory region: 'r', GPUs not supported: no GPU can be used"
            assert message.startswith(expected)
            client.unregister_cuda_shared_memory("r")
            client.unregister_cuda_shared_memory()
        else:
            assert "--allow-client-shm=true" in message
            with pytest.raises(InferenceServerException, match="--allow-client-shm=true"):
                client.unregister_cuda_shared_memory()
        found = client.get_cuda_shared_memory_status()
        assert not (found if protocol == "http" else found.regions)
