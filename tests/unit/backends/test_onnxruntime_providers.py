"""Execution providers: what configs ask for, in ONNX Runtime's words, and what a library without them says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from backend_models import FLOAT, add_sub, model, tensor, write
from google.protobuf import text_format
from onnx import helper

from triton_async.backends.base import LoadContext
from triton_async.backends.onnxruntime import OnnxRuntimeBackend
from triton_async.backends.onnxruntime.api import Library, find_library, pick_library
from triton_async.backends.onnxruntime.cuda_libraries import cuda_major, library_files, preload
from triton_async.backends.onnxruntime.options import session_settings
from triton_async.backends.onnxruntime.providers import CUDA, OPENVINO, TENSORRT, Provider, plain_error, providers
from triton_async.config.model_config import InstanceKind, ModelConfig, freeze
from triton_async.errors import InternalError, InvalidArg, ServerError, Unsupported
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool
from triton_async.protos import ModelConfig as ModelConfigProto

CPU, GPU = InstanceKind.CPU, InstanceKind.GPU


def config(text: str = "") -> ModelConfig:
    return freeze(text_format.Parse(f"name: 'm' {text}", ModelConfigProto()))


def accelerator(name: str, where: str = "gpu", **parameters: str) -> str:
    inner = "".join(f"parameters {{ key: '{key}' value: '{value}' }}" for key, value in parameters.items())
    return f"optimization {{ execution_accelerators {{ {where}_execution_accelerator {{ name: '{name}' {inner} }} }} }}"


def parameters(**given: str) -> str:
    return "".join(f"parameters {{ key: '{k}' value {{ string_value: '{v}' }} }}" for k, v in given.items())


def options(found: tuple[Provider, ...], name: str) -> dict[str, str]:
    return dict(next(provider.options for provider in found if provider.name == name))


def test_instances_on_a_gpu_get_cuda_on_their_device_and_others_nothing() -> None:
    assert providers(config(), GPU, 3) == (Provider(CUDA, (("device_id", "3"),)),)
    assert providers(config(), CPU, 3) == ()
    assert providers(config(), InstanceKind.MODEL, 0) == ()
    settings = session_settings(config(), GPU, 3)
    assert (settings.device, settings.providers) == (3, (Provider(CUDA, (("device_id", "3"),)),))
    assert session_settings(config()).device == -1


def test_parameters_of_the_cuda_accelerator() -> None:
    text = accelerator("cuda", cudnn_conv_algo_search="HEURISTIC", cudnn_conv_use_max_workspace="True",
                       gpu_mem_limit="4294967296", arena_extend_strategy="kSameAsRequested",
                       do_copy_in_default_stream="false", sdpa_kernel="2", use_tf32="0")  # fmt: skip
    assert options(providers(config(text), GPU, 1), CUDA) == {
        "cudnn_conv_algo_search": "HEURISTIC", "cudnn_conv_use_max_workspace": "1", "gpu_mem_limit": "4294967296",
        "arena_extend_strategy": "kSameAsRequested", "do_copy_in_default_stream": "0", "sdpa_kernel": "2",
        "use_tf32": "0", "device_id": "1",
    }  # fmt: skip


def test_parameters_of_the_model_go_before_those_of_the_accelerator() -> None:
    text = accelerator("cuda", cudnn_conv_algo_search="HEURISTIC", use_tf32="1")
    older = parameters(cudnn_conv_algo_search="2", arena_extend_strategy="1", gpu_mem_limit="100",
                       do_copy_in_default_stream="0")  # fmt: skip
    assert options(providers(config(text + older), GPU, 0), CUDA) == {
        "cudnn_conv_algo_search": "DEFAULT", "use_tf32": "1", "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "100", "do_copy_in_default_stream": "0", "device_id": "0",
    }  # fmt: skip


def test_tensorrt_is_asked_first_and_cuda_takes_what_it_leaves() -> None:
    text = accelerator("tensorrt", precision_mode="FP16", max_workspace_size_bytes="1073741824",
                       trt_engine_cache_enable="true", trt_engine_cache_path="cache", trt_max_partition_iterations="5",
                       int8_calibration_table_name="t", int8_use_native_calibration_table="false",
                       trt_profile_min_shapes="x:1x3")  # fmt: skip
    found = providers(config(text), GPU, 2)
    assert [provider.name for provider in found] == [TENSORRT, CUDA]
    assert options(found, TENSORRT) == {
        "trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824", "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "cache", "trt_max_partition_iterations": "5",
        "trt_int8_calibration_table_name": "t", "trt_int8_use_native_calibration_table": "0",
        "trt_profile_min_shapes": "x:1x3", "device_id": "2",
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "key"), [
    ("FP16", "trt_fp16_enable"), ("BF16", "trt_bf16_enable"), ("INT8", "trt_int8_enable"), ("FP32", None),
])  # fmt: skip
def test_precision_modes(mode: str, key: str | None) -> None:
    found = options(providers(config(accelerator("tensorrt", precision_mode=mode)), GPU, 0), TENSORRT)
    assert found == ({key: "1"} if key else {}) | {"device_id": "0"}


def test_openvino_serves_instances_of_any_kind() -> None:
    found = config(accelerator("openvino", "cpu"))
    expected = Provider(OPENVINO, (("device_type", "CPU"),))
    assert providers(found, CPU, 0) == (expected,)
    assert providers(found, GPU, 0) == (Provider(CUDA, (("device_id", "0"),)), expected)


@pytest.mark.parametrize("kind", [CPU, GPU])
@pytest.mark.parametrize(("text", "message"), [
    (accelerator("rocm"), "unknown Execution Accelerator 'rocm' is requested"),
    (accelerator("tensorrt", "cpu"), "unknown Execution Accelerator 'tensorrt' is requested"),
    (accelerator("openvino", "cpu", streams="2"), "unknown parameter 'streams' is provided for OpenVINO Execution"),
    (accelerator("tensorrt", nope="1"), "unknown parameter 'nope' is provided for TensorRT Execution Accelerator"),
    (accelerator("tensorrt", precision_mode="FP8"), "unsupported precision mode 'FP8' is requested"),
    (accelerator("tensorrt", trt_dla_enable="maybe"), "'trt_dla_enable' of .* is 'maybe', expected true, false"),
    (accelerator("tensorrt", max_workspace_size_bytes="1GB"), "is '1GB', expected a number"),
    (accelerator("cuda", gpu_mem_limit="-1"), "is '-1', expected a number"),
    (accelerator("cuda", gpu_mem_limit="18446744073709551616"), "expected a number"),
    (accelerator("cuda", device_id="1"), "'device_id' of Execution Accelerator 'cuda' is set by the server"),
    (accelerator("cuda", user_compute_stream="4096"), "'user_compute_stream' .* is set by the server"),
    (accelerator("cuda", gpu_external_alloc="4096"), "'gpu_external_alloc' .* is set by the server"),
    (accelerator("cuda", enable_cuda_graph="1"), "'enable_cuda_graph' .* is not supported: a captured graph"),
    (accelerator("tensorrt", trt_cuda_graph_enable="1"), "'trt_cuda_graph_enable' .* is not supported"),
    (parameters(cudnn_conv_algo_search="3"), "unsupported cudnn_conv_algo_search value '3' is requested"),
    (parameters(arena_extend_strategy="x"), "unsupported arena_extend_strategy value 'x' is requested"),
    (parameters(gpu_mem_limit="much"), "'gpu_mem_limit' .* is 'much', expected a number"),
])  # fmt: skip
def test_what_no_provider_takes_is_refused_wherever_the_instances_are(
    text: str, message: str, kind: InstanceKind
) -> None:
    with pytest.raises((InvalidArg, Unsupported), match=message) as caught:
        session_settings(config(text), kind, 0)
    assert caught.value.message.startswith("model 'm': ")


def test_graphs_that_are_off_are_fine() -> None:
    found = options(providers(config(accelerator("cuda", enable_cuda_graph="0")), GPU, 0), CUDA)
    assert found["enable_cuda_graph"] == "0"


@pytest.mark.parametrize(("value", "cpu", "gpu"), [
    ("cpu:0", "cpu:0", "cpu:0"), ("gpu:1", "", "gpu:1"), ("cpu:0;gpu:1", "cpu:0", "cpu:0;gpu:1"), ("gpu:0", "", ""),
])  # fmt: skip
def test_arenas_are_shrunk_where_the_session_has_them(value: str, cpu: str, gpu: str) -> None:
    found = config(parameters(**{"memory.enable_memory_arena_shrinkage": value}))
    for settings, expected in ((session_settings(found), cpu), (session_settings(found, GPU, 1), gpu)):
        assert [text for _, text in settings.run_entries] == ([expected] if expected else [])


def test_messages_of_gpu_providers_lose_the_functions_they_came_through() -> None:
    through = "onnx runtime error 1: a.cc:63 static Info onnx::From(const Options&) "
    assert plain_error(
        through + "[ONNXRuntimeError] : 1 : FAIL : utils.h:187 Parse: CUDA failure 35: CUDA driver version is "
        "insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; file=a.cc"
    ) == "onnx runtime error: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    assert plain_error(
        through + "[ONNXRuntimeError] : 1 : FAIL : Failed to load library x.so with error: y.so: not found"
    ) == "onnx runtime error 1: Failed to load library x.so with error: y.so: not found"
    assert plain_error("onnx runtime error 7: other") == "onnx runtime error 7: other"


class Model:
    """An ONNX model with a config of its own, to be loaded by a fresh backend."""

    def __init__(self, root: Path, pool: SlabPool, text: str) -> None:
        self.path = write(root, add_sub()) / "1" / "model.onnx"
        self.backend = OnnxRuntimeBackend()
        tensors = "".join(f"input {{ name: 'INPUT{i}' data_type: TYPE_FP32 dims: 16 }}" for i in range(2))
        output = "output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: 16 }"
        self.config = config(f"backend: 'onnxruntime' max_batch_size: 4 {tensors} {output} {text}")
        self.context = LoadContext(self.config, 1, self.path, ModelSignature("m", 1, [], []), pool, {})

    def load(self) -> None:
        self.backend.load(self.context).close()


needs_cpu_wheel = pytest.mark.skipif(
    not OnnxRuntimeBackend().gpu_problem, reason="the installed ONNX Runtime has GPU providers"
)


@needs_cpu_wheel
@pytest.mark.parametrize(("text", "message"), [
    ("instance_group { name: 'g' kind: KIND_GPU count: 1 gpus: 0 }",
     "unable to load model 'm': this ONNX Runtime has no CUDAExecutionProvider: install onnxruntime-gpu"),
    ("instance_group { name: 'g' kind: KIND_GPU count: 1 gpus: 0 }" + accelerator("tensorrt"),
     "unable to load model 'm': this ONNX Runtime has no TensorrtExecutionProvider: install onnxruntime-gpu"),
    ("instance_group { name: 'g' kind: KIND_CPU count: 1 }" + accelerator("openvino", "cpu"),
     "unable to load model 'm': this ONNX Runtime has no OpenVINOExecutionProvider: install onnxruntime-openvino"),
])  # fmt: skip
def test_a_provider_that_the_library_lacks_is_named_with_its_package(
    tmp_path: Path, pool: SlabPool, text: str, message: str
) -> None:
    if message.split(":")[1].rsplit(maxsplit=1)[-1] in Library().providers:
        pytest.skip("the installed ONNX Runtime has this one")
    with pytest.raises(Unsupported) as caught:
        Model(tmp_path, pool, text).load()
    assert caught.value.message == message


@needs_cpu_wheel
def test_a_library_for_the_cpu_makes_no_instances_on_gpus() -> None:
    backend = OnnxRuntimeBackend()
    assert backend.kinds == (InstanceKind.CPU, InstanceKind.MODEL)
    assert backend.gpu_problem == "this ONNX Runtime has no CUDAExecutionProvider: install onnxruntime-gpu"


def test_accelerators_of_gpus_that_no_instance_uses_are_told(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    group = "instance_group { name: 'g' kind: KIND_CPU count: 1 }"
    with caplog.at_level(logging.WARNING):
        Model(tmp_path, pool, group + accelerator("tensorrt", precision_mode="FP16")).load()
    assert "model 'm' has no instance on a GPU: its accelerators are not used: tensorrt" in caplog.text


def test_an_accelerator_nobody_knows_fails_the_load(tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(ServerError, match="model 'm': unknown Execution Accelerator 'x' is requested"):
        Model(tmp_path, pool, "instance_group { kind: KIND_CPU }" + accelerator("x")).load()


def write_gpu_only(root: Path) -> Path:
    """A model with an operator that has no kernel for the CPU."""
    spectrum = helper.make_node("Rfft", ["x"], ["y"], domain="com.microsoft", signal_ndim=1, normalized=0, onesided=1)
    made = model([spectrum], [tensor("x", FLOAT, ["n", 16])], [tensor("y", FLOAT, ["n", 9, 2])])
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return write(root, made) / "1" / "model.onnx"


def test_a_model_for_gpus_alone_is_not_inspected_on_the_cpu(tmp_path: Path) -> None:
    path = write_gpu_only(tmp_path)
    with pytest.raises(InternalError, match=r"onnx runtime error 9: .*Rfft"):
        OnnxRuntimeBackend().inspect(path, ModelConfigProto(name="m"))


@needs_cpu_wheel
def test_a_model_for_gpus_alone_asks_for_the_provider(tmp_path: Path) -> None:
    proto = ModelConfigProto(name="m")
    proto.instance_group.add(kind=GPU, gpus=[1], count=1)
    with pytest.raises(Unsupported, match=r"unable to load model 'm': this ONNX Runtime has no CUDAExecutionProvider"):
        OnnxRuntimeBackend().inspect(write_gpu_only(tmp_path), proto)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_nvidias_libraries_are_found_in_one_folder_since_cuda_13(tmp_path: Path) -> None:
    touch(tmp_path, "nvidia/cu13/lib/libcublas.so.13", "nvidia/cu13/lib/libcublasLt.so.13",
          "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu12/lib/libcudart.so.12", "nvidia/cudnn/lib/libcudnn.so.9",
          "nvidia/cudnn/lib/libcudnn_ops.so.9", "trt/libnvinfer.so.10", "trt/libnvonnxparser.so.10")  # fmt: skip
    found = library_files(13, [tmp_path / "nvidia"], [tmp_path / "trt"])
    assert [path.name for path in found] == [
        "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9", "libnvinfer.so.10",
        "libnvonnxparser.so.10",
    ]  # fmt: skip


def test_nvidias_libraries_are_found_in_folders_of_their_own_before(tmp_path: Path) -> None:
    touch(tmp_path, "nvidia/cuda_runtime/lib/libcudart.so.12", "nvidia/cublas/lib/libcublas.so.12",
          "nvidia/cu13/lib/libcudart.so.13", "nvidia/cudnn/lib/libcudnn.so.9")  # fmt: skip
    found = library_files(12, [tmp_path / "nvidia"], [])
    assert [path.name for path in found] == ["libcudart.so.12", "libcublas.so.12", "libcudnn.so.9"]
    assert library_files(12, [], []) == []


def test_the_package_tells_its_version_of_cuda(tmp_path: Path) -> None:
    assert cuda_major(tmp_path) == 0
    (tmp_path / "build_and_package_info.py").write_text("package_name = 'onnxruntime'\n__version__ = '1.31.1'\n")
    assert cuda_major(tmp_path) == 0
    (tmp_path / "build_and_package_info.py").write_text("package_name = 'x'\ncuda_version = '12.8'\n")
    assert cuda_major(tmp_path) == 12


def test_the_library_is_that_of_the_package_installed_last(tmp_path: Path) -> None:
    assert pick_library(tmp_path) is None
    touch(tmp_path, "libonnxruntime.so.1.30.0", "libonnxruntime.so.1.31.1", "libonnxruntime_providers_cuda.so")
    assert pick_library(tmp_path) == tmp_path / "libonnxruntime.so.1.30.0"
    (tmp_path / "build_and_package_info.py").write_text("package_name = 'onnxruntime-gpu'\n__version__ = '1.31.1'\n")
    assert pick_library(tmp_path) == tmp_path / "libonnxruntime.so.1.31.1"
    (tmp_path / "build_and_package_info.py").write_text("__version__ = '1.29.0'\n")
    assert pick_library(tmp_path) == tmp_path / "libonnxruntime.so.1.30.0"


def test_libraries_that_do_not_load_are_left_to_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "nvidia/cudnn/lib/libcudnn.so.9")
    monkeypatch.syspath_prepend(str(tmp_path))
    preload(find_library().parent)
