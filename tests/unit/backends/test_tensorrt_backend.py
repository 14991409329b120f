"""The TensorRT backend without a GPU: configs from ONNX models, what is said where there is none, what loads touch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backend_models import signature_of
from tensorrt_models import io_text, linear, parameters, rtx, write_onnx

from triton_async.backends.base import LoadContext
from triton_async.backends.registry import BackendRegistry
from triton_async.backends.tensorrt import TensorRTBackend
from triton_async.config.load import load
from triton_async.config.model_config import ModelConfig, freeze
from triton_async.errors import InternalError, InvalidArg, ServerError, Unsupported
from triton_async.memory.devices import DeviceInfo
from triton_async.memory.slab import SlabPool

NO_GPU = "unable to load model 'm', TensorRT backend supports only GPU device: no GPU can be used: "


class Devices:
    """A GPU that is not there: what is asked of it before TensorRT is."""

    def __init__(self) -> None:
        self.infos = (DeviceInfo(0, "GPU of a test", (8, 9), 1 << 30, "0000:01:00.0"),)
        self.used: list[int] = []

    def use(self, device: int) -> None:
        self.used.append(device)


def no_devices() -> Any:
    class Pools:
        @property
        def devices(self) -> Any:
            raise Unsupported("no GPU can be used: none is plugged in")

    return Pools()


def backend(pools: Any = None, **settings: str) -> TensorRTBackend:
    rtx()
    made = BackendRegistry({"tensorrt": {"library": "rtx", **settings}}, pools).get("tensorrt")
    assert isinstance(made, TensorRTBackend)
    return made


def configured(directory: Path, made: TensorRTBackend, **options: Any) -> ModelConfig:
    return load(directory, directory.name, inspect=lambda name, path, proto: made.inspect(path, proto), **options)


def context(config: ModelConfig, directory: Path, pool: SlabPool, made: TensorRTBackend) -> LoadContext:
    path = directory / "1" / config.default_model_filename
    return LoadContext(config, 1, path, signature_of(config), pool, made.settings, made.pools)


def onnx_model(root: Path, text: str = "", made: Any = None) -> Path:
    write_onnx(root / "m", made or linear())
    (root / "m" / "config.pbtxt").write_text("backend: 'tensorrt'\n" + text)
    return root / "m"


def on_gpu(config: ModelConfig) -> ModelConfig:
    """The config as a server with a GPU completes it."""
    proto = config.proto
    del proto.instance_group[:]
    proto.instance_group.add(name="m", kind=1, count=1, gpus=[0])
    return freeze(proto)


def test_a_model_without_a_plan_is_described_by_its_onnx(tmp_path: Path) -> None:
    config = configured(onnx_model(tmp_path), backend())
    assert (config.backend, config.platform, config.default_model_filename) == (
        "tensorrt",
        "tensorrt_plan",
        "model.plan",
    )
    assert config.max_batch_size == 4
    assert [(io.name, io.dims) for io in (*config.inputs, *config.outputs)] == [("x", (16,)), ("y", (16,))]
    assert config.dynamic_batching is not None


def test_a_config_that_does_not_fit_the_onnx(tmp_path: Path) -> None:
    with pytest.raises(InvalidArg, match="making complete shape \\[-1,17\\]"):
        configured(onnx_model(tmp_path, "max_batch_size: 2\n" + io_text({"x": [17]}, {"y": [16]})), backend())


def test_the_profiles_of_the_config_say_the_largest_batch(tmp_path: Path) -> None:
    text = parameters(
        trt_profile_min_shapes="x:1x16,x:1x16",
        trt_profile_opt_shapes="x:1x16,x:1x16",
        trt_profile_max_shapes="x:2x16,x:3x16",
    )
    assert configured(onnx_model(tmp_path, text), backend()).max_batch_size == 3
    (tmp_path / "m" / "config.pbtxt").write_text(f"backend: 'tensorrt' max_batch_size: 4 {text}")
    with pytest.raises(InternalError, match="specified max-batch 4 but TensorRT engine only supports max-batch 3"):
        configured(tmp_path / "m", backend())


def test_auto_complete_can_be_off(tmp_path: Path) -> None:
    directory = onnx_model(tmp_path, "max_batch_size: 2\n" + io_text({"x": [16]}, {"y": [16]}))
    assert configured(directory, backend(), auto_complete=False).max_batch_size == 2


def test_cuda_graphs_may_be_asked_for(tmp_path: Path) -> None:
    text = "optimization { cuda { graphs: true } }"
    assert configured(onnx_model(tmp_path, text), backend()).proto.optimization.cuda.graphs


def test_a_version_without_a_model(tmp_path: Path) -> None:
    directory = onnx_model(tmp_path)
    (directory / "1" / "model.onnx").unlink()
    with pytest.raises(InvalidArg, match=r"unable to find 'model\.plan' of version 1 of model 'm'"):
        configured(directory, backend())


def plan_model(root: Path) -> Path:
    directory = root / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.plan").write_bytes(b"plan")
    return directory


def test_a_plan_needs_a_gpu_to_be_described(tmp_path: Path) -> None:
    with pytest.raises(InvalidArg) as error:
        configured(plan_model(tmp_path), backend(no_devices()))
    assert error.value.message == NO_GPU + "none is plugged in"


def test_no_gpu_is_told_before_tensorrt_is_touched(tmp_path: Path, pool: SlabPool) -> None:
    made = backend(no_devices())
    directory = onnx_model(tmp_path)
    config = configured(directory, made)
    with pytest.raises(InvalidArg) as error:
        made.load(context(config, directory, pool, made))
    assert error.value.message == NO_GPU + "none is plugged in"


@pytest.mark.parametrize("kind", ["KIND_CPU", "KIND_MODEL"])
def test_only_gpus(tmp_path: Path, pool: SlabPool, kind: str) -> None:
    made = backend(SimpleNamespace(devices=Devices()))
    directory = onnx_model(tmp_path, f"instance_group {{ name: 'g' kind: {kind} }}")
    config = configured(directory, made)
    with pytest.raises(InvalidArg) as error:
        made.load(context(config, directory, pool, made))
    assert error.value.message == (
        f"unable to load model 'm', TensorRT backend supports only GPU device: instance group 'g' is of {kind}"
    )


def test_a_gpu_that_does_not_work_fails_the_load(tmp_path: Path, pool: SlabPool) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has the driver")
    devices = Devices()
    made = backend(SimpleNamespace(devices=devices), **{"plan-cache-directory": str(tmp_path / "plans")})
    directory = onnx_model(tmp_path)
    config = on_gpu(configured(directory, made))
    with pytest.raises(InternalError, match=r"unable to build TensorRT plan of model 'm': .*Cuda Runtime"):
        made.load(context(config, directory, pool, made))
    assert set(devices.used) == {0}
    (directory / "1" / "model.plan").write_bytes(b"plan")
    with pytest.raises(InternalError, match="unable to create TensorRT engine: "):
        made.load(context(config, directory, pool, made))
    with pytest.raises(InternalError, match="unable to load plan file to auto complete config: unable to create"):
        configured(directory, made)


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"version-compatible": "maybe"}, "", (InvalidArg, "version-compatible is 'maybe'")),
        (
            {"plan-cache-directory": "/proc/nowhere", "plan-cache-byte-size": "1000"},
            "",
            (InvalidArg, "the plan cache directory cannot be used"),
        ),
        ({"plugins": "/nowhere/plugin.so"}, "", (InvalidArg, "unable to load TensorRT plugin library 'plugin.so'")),
        ({}, parameters(execution_context_allocation_strategy="USER"), (InvalidArg, "is 'USER', expected one of")),
        ({}, parameters(trt_profile_shapes="x"), (InvalidArg, "parameter 'trt_profile_shapes' is not known")),
        ({}, parameters(precision_mode="FP16"), (Unsupported, "convert the model to that precision")),
    ],
)
def test_what_cannot_be_asked_for(
    tmp_path: Path, pool: SlabPool, settings: dict[str, str], text: str, expected: tuple[type[ServerError], str]
) -> None:
    kind, message = expected
    directory = onnx_model(tmp_path, text)
    made = backend(SimpleNamespace(devices=Devices()), **{"plan-cache-byte-size": "0", **settings})
    with pytest.raises(kind) as error:
        config = on_gpu(configured(directory, backend()))
        made.load(context(config, directory, pool, made))
    assert message in error.value.message


def test_settings_for_all_backends_reach_it() -> None:
    registry = BackendRegistry({"": {"default-max-batch-size": "8"}, "tensorrt": {"library": "rtx"}})
    assert registry.get("tensorrt").settings == {"default-max-batch-size": "8", "library": "rtx"}


def test_the_backend_loads_no_library_by_itself() -> None:
    code = (
        "import sys; from triton_async.backends.registry import BackendRegistry;"
        "BackendRegistry().get('tensorrt');"
        "sys.exit(', '.join({'cupy', 'tensorrt', 'tensorrt_rtx', 'torch'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
