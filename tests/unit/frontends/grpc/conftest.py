"""One server for the tests that do not change it; backends of the core's tests are used too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = str(Path(__file__).resolve().parents[2] / "core")

if CORE not in sys.path:
    sys.path.insert(0, CORE)

from grpc_harness import Running, live_objects, serving, until, write_model  # noqa: E402


@pytest.fixture(scope="module", params=[True, False], ids=["express", "grpclib"])
def express(request: pytest.FixtureRequest) -> bool:
    """Which lane serves: the whole suite runs through each."""
    return bool(request.param)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, express: bool) -> Iterator[Running]:
    """Explicit mode; models as their names say (batched: labels, at most 8); all but `unloaded` are loaded."""
    root: Path = tmp_path_factory.mktemp("grpc-models")
    write_model(root, "fp32")
    write_model(
        root, "batched", dims="4", max_batch_size=8, labels=["a", "b", "c", "d"], more="dynamic_batching { }"
    )
    write_model(root, "strings", datatype="TYPE_STRING")
    write_model(root, "int8", datatype="TYPE_INT8")
    write_model(root, "two", count=2)
    write_model(root, "slow", delay_ms=100)
    write_model(root, "unloaded")
    write_model(root, "decoupled", more="model_transaction_policy { decoupled: true }")
    names = ["decoupled", "fp32", "batched", "strings", "int8", "two", "slow"]
    options = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in names)]
    with serving(root, *options, express=express) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays_alive() -> Iterator[None]:
    """As for all unit tests, but a shared server may still be running what a test has cancelled."""
    before = live_objects()
    yield
    until(lambda: all(count <= before[kind] for kind, count in live_objects().items()), "nothing alive")
