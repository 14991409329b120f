"""A plan from its file to answers, on the fake CUDA driver: what the backend makes of it runs in an instance.

TensorRT itself is a stand-in behind the import seam, whose one plan computes sums and differences on the fake GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
from backend_models import request, signature_of, values

from triton_async.backends.base import LoadContext, execute_requests
from triton_async.backends.registry import BackendRegistry
from triton_async.config.load import load
from triton_async.config.model_config import InstanceKind, freeze
from triton_async.errors import InvalidArg
from triton_async.memory.slab import SlabPool


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Location(Enum):
    DEVICE = 0
    HOST = 1


class Strategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1


FLOAT = SimpleNamespace(name="FLOAT")
LINEAR = SimpleNamespace(name="LINEAR")


class Context:
    """IExecutionContext: `SUM` and `DIFF` of `A` and `B`."""

    def __init__(self, engine: Engine, strategy: Strategy) -> None:
        self.engine = engine
        self.strategy = strategy
        self.profile = 0
        self.addresses: dict[str, int] = {}
        self.dims: dict[str, tuple[int, ...]] = {}
        self.event = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return bool(stream)

    def set_input_shape(self, name: str, dims: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.dims[name] = dims
        return all(a <= b <= c for a, b, c in zip(low, dims, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.dims["A"] if self.engine.rows == -1 else (self.engine.rows, 4)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0

    def set_input_consumed_event(self, event: int) -> bool:
        self.event = event
        return True

    def execute_async_v3(self, stream: int) -> bool:
        library = fake_cuda.library()
        count = int(np.prod(self.get_tensor_shape("A")))
        addresses = [self.addresses[name] for name in ("A", "B", "SUM", "DIFF")]
        failed = library.fake_add_sub(stream, *addresses, count, None)
        if self.event:
            failed = failed or library.cuEventRecord(self.event, stream)
        self.engine.runs.append(self.profile)
        return not failed


class Engine:
    """ICudaEngine of a plan. `rows`: its batch size, -1 for any of the profiles."""

    num_io_tensors = 4
    num_optimization_profiles = 2

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.runs: list[int] = []
        self.strategies: list[Strategy] = []

    def get_tensor_name(self, index: int) -> str:
        return ("A", "B", "SUM", "DIFF")[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in "AB" else Mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.rows, 4)

    def get_tensor_dtype(self, name: str) -> Any:
        return FLOAT

    def get_tensor_format(self, name: str) -> Any:
        return LINEAR

    def get_tensor_location(self, name: str) -> Location:
        return Location.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        if self.rows != -1:
            return [(self.rows, 4)] * 3
        return [(rows, 4) for rows in ((1, 2, 4) if profile == 0 else (3, 8, 8))]

    def create_execution_context(self, strategy: Strategy) -> Context:
        self.strategies.append(strategy)
        return Context(self, strategy)


class Runtime:
    """A plan is its batch size as text."""

    made: list[Engine]

    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        Runtime.made.append(Engine(int(plan)))
        return Runtime.made[-1]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """The stand-in for TensorRT 10; the engines it makes. Nothing may be left on the GPU at the end."""
    module = ModuleType("tensorrt")
    names = {
        "__version__": "10.16.0",
        "ILogger": object,
        "IOutputAllocator": object,
        "ICudaEngine": Engine,
        "Runtime": Runtime,
        "TensorIOMode": Mode,
        "TensorLocation": Location,
        "ExecutionContextAllocationStrategy": Strategy,
    }
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    Runtime.made = []
    before = fake_cuda.library() and fake_cuda.state().live()
    yield Runtime.made
    assert fake_cuda.state().live() == before


class Served:
    """A model directory with a plan, loaded as a server with a GPU does it, with one instance."""

    def __init__(self, root: Path, pool: SlabPool, rows: int = -1, config: str = "") -> None:
        directory = root / "m"
        (directory / "1").mkdir(parents=True)
        (directory / "1" / "model.plan").write_bytes(str(rows).encode())
        (directory / "config.pbtxt").write_text(config)
        pools = SimpleNamespace(devices=fake_cuda.FakeDevices(), pinned=lambda: pool, device=lambda index: None)
        settings = {"library": "tensorrt", "plan-cache-byte-size": "0"}
        backend = BackendRegistry({"tensorrt": settings}, pools).get("tensorrt")
        completed = load(directory, "m", inspect=lambda name, path, proto: backend.inspect(path, proto))
        for group in completed.proto.instance_group:
            group.kind = InstanceKind.GPU
            group.gpus[:] = [0]
        self.config = freeze(completed.proto)
        self.signature = signature_of(self.config)
        path = directory / "1" / self.config.default_model_filename
        context = LoadContext(self.config, 1, path, self.signature, pool, backend.settings, pools)
        self.model = backend.load(context)
        self.instance = self.model.create_instance("m_0", self.config.instance_groups[0], 0)

    def run(self, *sizes: int) -> None:
        """One batch of requests with so many rows each; checks the answers."""
        requests = []
        for number, rows in enumerate(sizes):
            whole = np.full((rows, 4), number + 1, np.float32)
            requests.append(request(A=2 * whole, B=whole))
        responses = execute_requests(self.instance, self.signature, requests)
        for number, (rows, response) in enumerate(zip(sizes, responses, strict=True)):
            found = values(response)
            assert found["SUM"].tolist() == [[3.0 * (number + 1)] * 4] * rows
            assert found["DIFF"].tolist() == [[number + 1.0] * 4] * rows

    def close(self) -> None:
        self.instance.close()
        self.model.close()


TWO_PROFILES = "instance_group { kind: KIND_AUTO profile: ['0', '1'] }\n"


def test_a_plan_is_served(tmp_path: Path, pool: SlabPool, engines: list[Engine]) -> None:
    served = Served(tmp_path, pool)
    assert served.config.max_batch_size == 4
    for sizes in ((1,), (1, 2), (4,), (1, 1, 1, 1), (2,)):
        served.run(*sizes)
    served.close()
    assert engines[-1].runs == [0] * 5
    assert engines[-1].strategies == [Strategy.STATIC]


def test_each_batch_runs_in_the_nearest_profile(tmp_path: Path, pool: SlabPool, engines: list[Engine]) -> None:
    served = Served(tmp_path, pool, config=TWO_PROFILES)
    assert served.config.max_batch_size == 8
    for sizes in ((1,), (3,), (5,), (4, 4), (2,)):
        served.run(*sizes)
    served.close()
    assert engines[-1].runs == [0, 0, 1, 1, 0]


def test_a_plan_of_one_batch_size_runs_smaller_batches(
    tmp_path: Path, pool: SlabPool, engines: list[Engine]
) -> None:
    served = Served(tmp_path, pool, rows=4)
    assert served.config.max_batch_size == 4
    for sizes in ((4,), (1,), (2, 1), (4,)):
        served.run(*sizes)
    served.close()


def test_graphs_are_captured(tmp_path: Path, pool: SlabPool, engines: list[Engine]) -> None:
    served = Served(tmp_path, pool, config="optimization { cuda { graphs: true } }")
    assert served.instance.graph_count == 2 * 2  # batches of 1 and 4, in both slots
    before = len(engines[-1].runs)
    for sizes in ((1,), (4,), (2, 2), (1, 3)):
        served.run(*sizes)
    assert len(engines[-1].runs) == before
    served.run(2)  # no graph of that size
    assert len(engines[-1].runs) == before + 1
    served.close()


def test_two_instances_share_an_engine(tmp_path: Path, pool: SlabPool, engines: list[Engine]) -> None:
    served = Served(tmp_path, pool)
    count = len(engines)
    second = served.model.create_instance("m_1", served.config.instance_groups[0], 0)
    assert len(engines) == count
    served.run(1)
    second.close()
    served.run(2)
    served.close()


def test_the_allocation_strategy_reaches_the_context(
    tmp_path: Path, pool: SlabPool, engines: list[Engine]
) -> None:
    key = "execution_context_allocation_strategy"
    text = f"parameters {{ key: '{key}' value {{ string_value: 'ON_PROFILE_CHANGE' }} }}\n"
    served = Served(tmp_path, pool, config=text)
    served.close()
    assert engines[-1].strategies == [Strategy.ON_PROFILE_CHANGE]


def test_a_config_that_does_not_fit_the_plan(tmp_path: Path, pool: SlabPool, engines: list[Engine]) -> None:
    text = "input { name: 'A' data_type: TYPE_FP16 dims: 4 }"
    with pytest.raises(InvalidArg, match="unexpected datatype TYPE_FP32 for inference input 'A'"):
        Served(tmp_path, pool, config=text)
