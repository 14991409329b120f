"""Loading OpenVINO models: files that are broken or foreign, configs that do not fit, parameters."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backend_models import add_sub, identity, node, tensor
from backend_models import model as onnx_model
from openvino_models import EXACT, Loaded, config, one, op, ov, parameter, write

from triton_async.backends.openvino import OpenVINOBackend
from triton_async.backends.openvino.options import model_options
from triton_async.errors import InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.memory.slab import SlabPool


def weighted(x: Any) -> Any:
    return op.matmul(x, op.constant(np.ones((16, 16), np.float32)), False, False)


PAIR = config(["x FP32 [16]"], ["y FP32 [16]"], 4)


def write_onnx(root: Path, made: Any, text: str) -> Path:
    directory = root / "m"
    (directory / "1").mkdir(parents=True)
    onnx.save(made, directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(text)
    return directory


def test_onnx_models_are_served(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write_onnx(tmp_path, add_sub(), 'backend: "openvino"\n' + EXACT), pool)
    assert loaded.config.max_batch_size == 4
    a = np.arange(32, dtype=np.float32).reshape(2, 16)
    found = loaded.run_one(INPUT0=a, INPUT1=a[::-1].copy())
    assert np.array_equal(found["OUTPUT0"], a + a[::-1]) and np.array_equal(found["OUTPUT1"], a - a[::-1])


def test_a_folder_of_the_models_name_and_another_file_name(tmp_path: Path, pool: SlabPool) -> None:
    directory = write(tmp_path, one(weighted, [-1, 16]), PAIR)
    folder = directory / "1" / "folder"
    folder.mkdir()
    for suffix in ("xml", "bin"):
        (directory / "1" / f"model.{suffix}").rename(folder / f"model.{suffix}")
    folder.rename(directory / "1" / "model.xml")
    assert Loaded(directory, pool).run_one(x=np.ones((1, 16), np.float32))["y"][0, 0] == 16
    named = write(tmp_path, one(weighted, [-1, 16]), PAIR + 'default_model_filename: "net.xml"', "n")
    for suffix in ("xml", "bin"):
        (named / "1" / f"model.{suffix}").rename(named / "1" / f"net.{suffix}")
    assert Loaded(named, pool).run_one(x=np.ones((1, 16), np.float32))["y"][0, 0] == 16


@pytest.mark.parametrize(("location", "refused"), [("weights.bin", False), ("../../weights.bin", True)])
def test_external_data_of_onnx_models(tmp_path: Path, pool: SlabPool, location: str, refused: bool) -> None:
    weights = onnx.numpy_helper.from_array(np.full((1, 4096), 3, np.float32), "w")
    made = onnx_model([node("Add", ["x", "w"], ["y"])], [tensor("x", 1, ["n", 4096])], [tensor("y", 1, ["n", 4096])],
                      [weights])  # fmt: skip
    directory = tmp_path / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text('backend: "openvino"')
    onnx.save(made, directory / "1" / "model.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    if refused:
        read = onnx.load(directory / "1" / "model.onnx", load_external_data=False)
        read.graph.initializer[0].external_data[0].value = location
        shutil.copyfile(directory / "1" / "weights.bin", tmp_path / "weights.bin")
        (directory / "1" / "model.onnx").write_bytes(read.SerializeToString())
        with pytest.raises(InvalidArg, match="external data of model 'm'"):
            Loaded(directory, pool)
        return
    assert set(Loaded(directory, pool).run_one(x=np.ones((1, 4096), np.float32))["y"].ravel()) == {4}


def spoil(directory: Path, how: str) -> None:
    xml, weights = directory / "1" / "model.xml", directory / "1" / "model.bin"
    if how == "cut":
        xml.write_bytes(xml.read_bytes()[: xml.stat().st_size // 2])
    elif how == "foreign":
        xml.write_text("<html><body>404 Not Found</body></html>")
    elif how == "empty":
        xml.write_bytes(b"")
    elif how == "without weights":
        weights.unlink()
    elif how == "short weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "of another version":
        xml.write_text(xml.read_text().replace('type="MatMul"', 'type="FooBar"'))
    else:
        xml.unlink()


@pytest.mark.parametrize(("how", "message"), [
    ("cut", "unable to load model 'm': 'model.xml' can not be read: "),
    ("foreign", "unable to load model 'm': 'model.xml' is no OpenVINO IR: it has no element <net>"),
    ("empty", "unable to load model 'm': 'model.xml' is empty"),
    ("without weights", "'model.xml' can not be read: its weights 'model.bin' are missing beside it: an IR is two"),
    ("short weights", "'model.xml' can not be read: 'model.bin' is too short for it, or that of another model"),
    ("of another version", "'model.xml' can not be read: .*FooBar"),
    ("gone", "model.xml"),
])  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, pool: SlabPool, how: str, message: str) -> None:
    directory = write(tmp_path, one(weighted, [-1, 16]), PAIR)
    spoil(directory, how)
    with pytest.raises(ServerError, match=message) as caught:
        Loaded(directory, pool)
    assert str(tmp_path) not in caught.value.message
    assert "src/" not in caught.value.message


def test_weights_that_are_longer_than_the_model_says_are_warned_of(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    directory = write(tmp_path, one(weighted, [-1, 16]), PAIR)
    Loaded(directory, pool)
    assert "answers are wrong" not in caplog.text
    weights = directory / "1" / "model.bin"
    weights.write_bytes(weights.read_bytes() + bytes(64))
    Loaded(directory, pool)
    assert "'model.bin' has 1088 bytes, 'model.xml' uses 1024 of them: if they are of different models" in caplog.text


@pytest.mark.parametrize("content", [b"\x08\x07\x12", b"no model at all", None])
def test_broken_onnx_files_are_named(tmp_path: Path, pool: SlabPool, content: bytes | None) -> None:
    directory = write_onnx(tmp_path, add_sub(), 'backend: "openvino"')
    file = directory / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:90] if content is None else content)
    with pytest.raises(InvalidArg, match=r"unable to load model 'm': 'model\.onnx' can not be read: "):
        Loaded(directory, pool)


@pytest.mark.parametrize(("text", "message"), [
    (config(["x FP16 [16]"], ["y FP32 [16]"], 4), "expects datatype TYPE_FP16 for input 'x', model provides TYPE_FP32"),
    (config(["x FP32 [16]"], ["y INT32 [16]"], 4), "expects datatype TYPE_INT32 for output 'y'"),
    (config(["z FP32 [16]"], ["y FP32 [16]"], 4), "unexpected inference input 'z', allowed inputs are: x"),
    (config(["x FP32 [16]"], ["z FP32 [16]"], 4), "unexpected inference output 'z', allowed outputs are: y"),
    (config(["x FP32 [17]"], ["y FP32 [16]"], 4), "Set the parameter RESHAPE_IO_LAYERS to YES"),
    (config(["x FP32 [17]"], ["y FP32 [16]"], 4, parameter("RESHAPE_IO_LAYERS", "YES")),
     "model 'm': it can not be reshaped for the dims of its configuration: "),
    (config(["x FP32 [16]", "w FP32 [1]"], ["y FP32 [16]"], 4), "expects 2 inputs, model provides 1"),
])  # fmt: skip
def test_configs_that_are_not_of_the_model(tmp_path: Path, pool: SlabPool, text: str, message: str) -> None:
    with pytest.raises(InvalidArg, match=message):
        Loaded(write(tmp_path, one(weighted, [-1, 16]), text), pool)


def test_strings_and_unknown_ranks_are_refused_early(tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(Unsupported, match=r"input 'x' has strings \(BYTES\), .* with backend 'onnxruntime'"):
        Loaded(write_onnx(tmp_path, identity(onnx.TensorProto.STRING, ["n"]), 'backend: "openvino"'), pool)
    unranked = one(op.relu, ov.PartialShape.dynamic())
    with pytest.raises(Unsupported, match="input 'x' has no fixed number of dimensions"):
        Loaded(write(tmp_path, unranked, None, "u"), pool)
    text = config(["x FP32 [2, 2]"], ["y FP32 [2, 2]"], 4, EXACT + parameter("RESHAPE_IO_LAYERS", "YES"))
    loaded = Loaded(write(tmp_path, unranked, text, "v"), pool)
    assert loaded.run_one(x=np.full((3, 2, 2), -1, np.float32))["y"].max() == 0
    with pytest.raises(Unsupported, match="elements of type 'u4'"):
        Loaded(write(tmp_path, one(op.result, [2], ov.Type.u4), None, "w"), pool)


def test_custom_operators_need_their_library(tmp_path: Path, pool: SlabPool) -> None:
    text = PAIR + parameter("CPU_EXTENSION_PATH", str(tmp_path / "libops.so"))
    with pytest.raises(InvalidArg, match=r"'CPU_EXTENSION_PATH' names 'libops\.so', which can not be loaded"):
        Loaded(write(tmp_path, one(weighted, [-1, 16]), text), pool)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match=r"OpenVINO can not be imported .*pip install 'triton-async\[openvino\]'"):
        OpenVINOBackend().inspect(tmp_path / "model.xml", None)


def properties(
    parameters: dict[str, str], settings: dict[str, str] | None = None, instances: int = 1
) -> dict[str, Any]:
    found = model_options("m", parameters, settings or {}, instances).properties
    return {key: value for key, value in found.items() if key != "ENABLE_CPU_PINNING" or value}


@pytest.mark.parametrize(("parameters", "expected"), [
    ({"NUM_STREAMS": "auto"}, {"NUM_STREAMS": "AUTO"}),
    ({"CPU_THROUGHPUT_STREAMS": "2"}, {"NUM_STREAMS": 2}),
    ({"HINT_BF16": "YES"}, {"INFERENCE_PRECISION_HINT": "bf16"}),
    ({"ENFORCE_BF16": "NO"}, {"INFERENCE_PRECISION_HINT": "f32"}),
    ({"INFERENCE_PRECISION": "FP32"}, {"INFERENCE_PRECISION_HINT": "f32"}),
    ({"EXECUTION_MODE": "accuracy"}, {"EXECUTION_MODE_HINT": "ACCURACY"}),
    ({"PERFORMANCE_HINT": "throughput"}, {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": 1}),
    ({"CPU_BIND_THREAD": "YES"}, {"ENABLE_CPU_PINNING": True}),
    ({"CACHE_DIR": "/c"}, {"CACHE_DIR": "/c"}),
])  # fmt: skip
def test_parameters_become_properties(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], expected: dict[str, Any]
) -> None:
    monkeypatch.setattr("triton_async.backends.openvino.options.quota_cpus", lambda: 0)
    assert properties(parameters) == expected
    assert properties({}, parameters) == expected


def test_threads_streams_and_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton_async.backends.openvino.options.quota_cpus", lambda: 3)
    assert properties({}) == {"INFERENCE_NUM_THREADS": 3}
    assert properties({"CPU_THREADS_NUM": "2"}) == {"INFERENCE_NUM_THREADS": 2}
    assert model_options("m", {}, {}, 1, 2).properties["INFERENCE_NUM_THREADS"] == 2
    assert model_options("m", {"CPU_THREADS_NUM": "4"}, {}, 1, 2).properties["INFERENCE_NUM_THREADS"] == 4
    assert properties({}, instances=4) == {
        "INFERENCE_NUM_THREADS": 3, "PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": 4,
    }  # fmt: skip
    assert properties({"NUM_STREAMS": "2"}, instances=4) == {"INFERENCE_NUM_THREADS": 3, "NUM_STREAMS": 2}
    assert properties({"INFERENCE_PRECISION": "bf16"}, {"ENFORCE_BF16": "NO"})["INFERENCE_PRECISION_HINT"] == "bf16"


@pytest.mark.parametrize(("parameters", "message"), [
    ({"NUM_STREAMS": "many"}, "parameter 'NUM_STREAMS' is 'many', expected AUTO, NUMA or a number"),
    ({"NUM_STREAMS": "0"}, "'NUM_STREAMS' is '0'"),
    ({"INFERENCE_NUM_THREADS": "-1"}, "expected a non-negative number"),
    ({"INFERENCE_NUM_THREADS": "99999"}, "up to 1024"),
    ({"COMPILATION_NUM_THREADS": "x"}, "expected a non-negative number"),
    ({"HINT_BF16": "NO"}, "expected YES; for exact results set INFERENCE_PRECISION to f32"),
    ({"ENFORCE_BF16": "maybe"}, "expected YES or NO"),
    ({"INFERENCE_PRECISION": "int8"}, "expected f32, bf16 or f16"),
    ({"HINT_BF16": "YES", "INFERENCE_PRECISION": "f32"}, "and 'INFERENCE_PRECISION' says otherwise: set one of them"),
    ({"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"}, "expected LATENCY or THROUGHPUT"),
    ({"SKIP_OV_DYNAMIC_BATCHSIZE": "2"}, "expected YES or NO"),
    ({"INT64_OUTSIDE_INT32": "warn"}, "expected refuse or pass"),
])  # fmt: skip
def test_values_that_can_not_be(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArg, match=message):
        model_options("m", parameters, {}, 1)


def test_what_has_no_effect_is_said(tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture) -> None:
    text = PAIR + parameter("COMPILATION_NUM_THREADS", "1") + parameter("CPU_BIND_THREAD", "NUMA")
    Loaded(write(tmp_path, one(weighted, [-1, 16]), text), pool)
    assert "'COMPILATION_NUM_THREADS' has no effect" in caplog.text
    assert "'CPU_BIND_THREAD' is 'NUMA'" in caplog.text


def test_a_precision_that_the_processor_does_not_have_is_said(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = ov.Core().compile_model(one(weighted, [-1, 16]), "CPU", {"INFERENCE_PRECISION_HINT": "f16"})
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    caplog.set_level(logging.INFO)
    text = config(["x FP32 [16]"], ["y FP32 [16]"], 4, parameter("INFERENCE_PRECISION", "f16"))
    Loaded(write(tmp_path, one(weighted, [-1, 16]), text), pool)
    assert f"inference precision {found}" in caplog.text
    assert ("precision f16 was asked for" in caplog.text) == (found != "f16")


def test_several_properties_reach_the_engine(tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = PAIR + parameter("NUM_STREAMS", "2") + parameter("INFERENCE_NUM_THREADS", "2")
    loaded = Loaded(write(tmp_path, one(weighted, [-1, 16]), text), pool)
    assert "NUM_STREAMS 2, INFERENCE_NUM_THREADS 2" in caplog.text
    assert loaded.run_one(x=np.ones((2, 16), np.float32))["y"][1, 3] == 16


def test_a_second_version_is_checked_too(tmp_path: Path, pool: SlabPool) -> None:
    directory = write(tmp_path, one(weighted, [-1, 16]), PAIR)
    loaded = Loaded(directory, pool)
    other = one(op.relu, [-1, 3])
    ov.save_model(other, directory / "1" / "model.xml")
    loaded.context.opened = None
    with pytest.raises(InvalidArg, match="the model expects 2 dimensions"):
        OpenVINOBackend().load(loaded.context)
    shutil.rmtree(directory)
    with pytest.raises(Unavailable, match=r"unable to find 'model\.xml' for model 'm'"):
        OpenVINOBackend().load(loaded.context)


# As threads that load models at once do it, as far as it matters, with turns that are as short as can be.
AT_ONCE = """
import sys, threading
from triton_async.backends.openvino.library import Library
sys.setswitchinterval(1e-6)
library = Library() if sys.argv[1] == "shared" else None
begin = threading.Barrier(4)

def load():
    begin.wait()
    (library or Library()).openvino.Type.f32.to_dtype()

threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("library", ["shared", "each"])
@pytest.mark.parametrize("turn", range(4))
def test_threads_that_load_the_first_models_at_once_do_not_wait_for_each_other(turn: int, library: str) -> None:
    """OpenVINO makes its table of NumPy's types when it is first asked, under a lock that knows nothing of the GIL."""
    subprocess.run([sys.executable, "-c", AT_ONCE, library], check=True, timeout=60)


# The same of Python models that use it themselves.
IN_MODELS = """
import sys, threading
from triton_async.backends.python.worker.loader import Loader, Source
begin = threading.Barrier(4)

def load():
    loader = Loader(Source(sys.argv[1]), {}, "1.model")
    begin.wait()
    loader.load()

import numpy
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("turn", range(4))
def test_neither_do_python_models_that_use_it(tmp_path: Path, turn: int) -> None:
    (tmp_path / "model.py").write_text("import openvino\nopenvino.Type.f32.to_dtype()\n")
    subprocess.run([sys.executable, "-c", IN_MODELS, str(tmp_path / "model.py")], check=True, timeout=60)
