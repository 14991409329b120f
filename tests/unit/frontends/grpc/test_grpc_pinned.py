"""Large messages are received into pinned memory while a model that likes it is READY, on old streams too."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_devices import FakeDevices
from grpc_harness import serving, until, write_model
from pinned_backend import CPU, PINNED, PinnedBackend, write_pinned_model
from tritonclient.grpc import InferenceServerClient, InferInput

from triton_async.defines import INPUT_POOL_NBYTES
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

LARGE = INPUT_POOL_NBYTES // 4
SMALL = LARGE - 1000


def values(count: int) -> tuple[np.ndarray, list[InferInput]]:
    array = np.arange(count, dtype=np.float32)
    tensor = InferInput("INPUT0", [count], "FP32")
    tensor.set_data_from_numpy(array)
    return array, [tensor]


@pytest.fixture
def pools() -> Pools:
    return Pools(SlabPool(1 << 20), FakeDevices, pinned_nbytes=1 << 24)


def test_large_messages_land_in_pinned_memory(tmp_path: Path, pools: Pools) -> None:
    write_pinned_model(tmp_path, "pinned")
    backend = PinnedBackend()
    with serving(tmp_path, backends=backend, pools=pools) as server, InferenceServerClient(server.url) as client:
        for count in (LARGE, SMALL, 40 * LARGE):  # the last grows while it comes
            array, inputs = values(count)
            assert (client.infer("pinned", inputs).as_numpy("OUTPUT0") == array).all()
        assert backend.seen == [PINNED, CPU, PINNED]
        until(lambda: pools.pinned().leased == 0, "leases returned")


def test_an_old_stream_follows_the_models(tmp_path: Path, pools: Pools) -> None:
    write_pinned_model(tmp_path, "pinned")
    write_pinned_model(tmp_path, "off", "optimization { input_pinned_memory { enable: false } }")
    write_model(tmp_path, "cpu")
    backend = PinnedBackend()
    results: queue.Queue[Any] = queue.Queue()
    options = ["--model-control-mode=explicit", "--load-model=off"]
    with serving(tmp_path, *options, backends=backend, pools=pools) as server:
        with InferenceServerClient(server.url) as client:
            client.start_stream(lambda result, error: results.put((result, error)))
            for change in (None, client.load_model, client.unload_model):
                if change is not None:
                    change("pinned")
                array, inputs = values(LARGE)
                client.async_stream_infer("off", inputs)
                result, error = results.get(timeout=20)
                assert error is None and (result.as_numpy("OUTPUT0") == array).all()
            client.stop_stream()
        assert backend.seen == [CPU, PINNED, CPU]
        until(lambda: pools.pinned().leased == 0, "leases returned")
