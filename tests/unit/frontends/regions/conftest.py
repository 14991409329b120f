"""A server that the tests of this folder share, and clients of it; the harnesses of gRPC and of the core are used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

for folder in (HERE.parents[1] / "core", HERE.parent / "grpc"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from region_harness import Client, Server, serving, until, write_model  # noqa: E402


@pytest.fixture(scope="package", params=[True, False], ids=["express", "slow"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("models")
    write_model(root, "fp32")
    write_model(root, "two", count=2)
    write_model(root, "strings", datatype="TYPE_STRING")
    together = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 60000000 }"
    write_model(root, "four", dims="4", max_batch_size=4, more=together)
    write_model(root, "strings4", datatype="TYPE_STRING", dims="1", max_batch_size=4, more=together)
    write_model(root, "labelled", dims="4", labels=["a", "b", "c", "d"])
    for name, backend, more in (
        ("gated", "gated", {}), ("gpu", "gpu", {}), ("gpu_strings", "gpu", {"datatype": "TYPE_STRING"}),
        ("on_gpu", "placed", {"more": "instance_group { count: 1 kind: KIND_GPU gpus: 1 }"}),
        ("gpu4", "gpu", {"dims": "4", "max_batch_size": 4, "more": together}),
        ("gpu_strings4", "gpu", {"datatype": "TYPE_STRING", "dims": "1", "max_batch_size": 4, "more": together}),
    ):  # fmt: skip
        write_model(root, name, **more)
        config = root / name / "config.pbtxt"
        config.write_text(config.read_text().replace('"identity"', f'"{backend}"'))
    with serving(root, "--allow-client-shm=true", express=request.param) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client; whatever it registers is gone behind the test, and nothing is leased any more."""
    made = Client(server, request.param)
    yield made
    for name in made.status():
        made.triton.unregister_cuda_shared_memory(name)
    until(lambda: server.regions.leases == 0, "no lease is out")
    until(lambda: list(server.gpus.opened) == [server.engine.address], "regions are closed")
    made.close()
