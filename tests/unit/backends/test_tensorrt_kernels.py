"""How execution contexts are made by libraries of different age, and the kernels that TensorRT-RTX keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_models import rtx

from triton_async.backends.tensorrt.kernels import Kernels, context_maker
from triton_async.backends.tensorrt.plans import PlanCache, cache_key
from triton_async.errors import Unsupported

KEY = cache_key("a plan")


class RuntimeCache:
    """The vendor's IRuntimeCache: takes back what it gave out."""

    def __init__(self) -> None:
        self.content = b"compiled"

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return content.startswith(b"compiled")

    def serialize(self) -> bytes:
        return self.content + b" and more"


class Engine:
    """The vendor's ICudaEngine, as far as contexts are made of it."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(create_runtime_cache=RuntimeCache, calls=[])
        self.config.set_execution_context_allocation_strategy = self.config.calls.append
        self.config.set_runtime_cache = self.config.calls.append

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, how: Any) -> Any:
        return how


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans", 1 << 20)


def test_kernels_are_found_again(cache: PlanCache) -> None:
    first = Kernels.open(Engine(), cache, lambda: KEY)
    assert first is not None
    assert first.runtime_cache.content == b"compiled"
    first.save()
    second = Kernels.open(Engine(), cache, lambda: KEY)
    assert second is not None
    assert second.runtime_cache.content == b"compiled and more"


def test_kernels_of_another_machine_are_told(cache: PlanCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.store_kernels(KEY, b"other")
    with caplog.at_level("INFO", "triton_async.tensorrt"):
        assert Kernels.open(Engine(), cache, lambda: KEY) is not None
    assert "do not fit this machine" in caplog.text


def test_nothing_is_kept_without_a_cache_of_either_kind(cache: PlanCache) -> None:
    def no_key() -> str:
        raise AssertionError("nobody needs it")

    assert Kernels.open(Engine(), None, no_key) is None
    assert Kernels.open(SimpleNamespace(), cache, no_key) is None
    assert Kernels.open(SimpleNamespace(create_runtime_config=SimpleNamespace), cache, no_key) is None


def library(**names: Any) -> Any:
    return SimpleNamespace(name="tensorrt", version="8.6.1", optional=names.get)


def test_a_library_without_strategies() -> None:
    assert context_maker(library(), "STATIC", None, graphs=True) is None
    with pytest.raises(Unsupported, match=r"is ON_PROFILE_CHANGE, which tensorrt 8\.6\.1 does not know"):
        context_maker(library(), "ON_PROFILE_CHANGE", None, graphs=False)


@pytest.mark.parametrize("strategy", ["STATIC", "ON_PROFILE_CHANGE"])
def test_the_strategy_is_passed_on(strategy: str) -> None:
    real = rtx()
    make = context_maker(real, strategy, None, graphs=False)
    assert make is not None
    assert make(Engine()) == getattr(real.trt.ExecutionContextAllocationStrategy, strategy)


def test_kernels_and_graphs_go_with_the_context(cache: PlanCache) -> None:
    real = rtx()
    kernels = Kernels.open(Engine(), cache, lambda: KEY)
    assert kernels is not None
    make = context_maker(real, "STATIC", kernels, graphs=True)
    assert make is not None
    config = make(Engine())
    assert config.calls == [real.trt.ExecutionContextAllocationStrategy.STATIC, kernels.runtime_cache]
    assert config.cuda_graph_strategy == real.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def test_driver_calls_without_a_driver() -> None:
    code = """
from triton_async.backends.tensorrt.calls import copy_async, synchronize
from triton_async.errors import InternalError
for call, arguments in ((copy_async, (256, 512, 8, 0)), (synchronize, (0,))):
    try:
        call(*arguments)
    except InternalError as error:
        assert error.message == "the CUDA driver is not loaded", error.message
    else:
        raise AssertionError(call)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
