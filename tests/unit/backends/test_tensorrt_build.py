"""Plans built from ONNX by TensorRT-RTX, which needs no GPU for it: what is built, from what, and what is refused."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backend_models import FLOAT, INT64, model, node, tensor
from onnx import helper
from tensorrt_models import FP32, config, io_text, linear, parameters, rtx, write_onnx

from triton_async import datatypes
from triton_async.backends.tensorrt import build as build_module
from triton_async.backends.tensorrt.api import Library
from triton_async.backends.tensorrt.build import BuildOptions, Network, NetworkInput, resolve_profiles
from triton_async.backends.tensorrt.options import BackendSettings, ShapeRange, build_parameters
from triton_async.backends.tensorrt.plans import PlanCache
from triton_async.backends.tensorrt.sources import PlanSource
from triton_async.config.autocomplete import complete
from triton_async.config.external_data import external_files
from triton_async.errors import InternalError, InvalidArg, ServerError, Unsupported
from triton_async.memory.devices import DeviceInfo

DYNAMIC = "max_batch_size: 8\n" + io_text({"x": [16]}, {"y": [16]})
X = NetworkInput("x", (-1, 16))
IMAGE = NetworkInput("image", (-1, 3, -1, -1))


@pytest.fixture(scope="module")
def library() -> Library:
    return rtx()


# -- profiles from the config ----------------------------------------------------------------------


def profiles(text: str, *inputs: NetworkInput) -> Any:
    proto = config(text)
    return resolve_profiles(inputs, proto, build_parameters(proto))


def test_batches_up_to_the_largest() -> None:
    assert profiles(DYNAMIC, X) == ({"x": ShapeRange((1, 16), (8, 16), (8, 16))},)


def test_the_largest_preferred_batch_is_the_optimum() -> None:
    text = DYNAMIC + "dynamic_batching { preferred_batch_size: [2, 4] }"
    assert profiles(text, X)[0]["x"].optimum == (4, 16)


def test_sizes_that_the_config_fixes() -> None:
    text = "max_batch_size: 2\n" + io_text({"image": [3, 224, 160]}, {})
    assert profiles(text, IMAGE) == ({"image": ShapeRange((1, 3, 224, 160), (2, 3, 224, 160), (2, 3, 224, 160))},)
    unbatched = io_text({"x": [4, 16]}, {})
    assert profiles(unbatched, X) == ({"x": ShapeRange((4, 16), (4, 16), (4, 16))},)


def test_what_the_model_sees_is_the_reshape() -> None:
    text = "max_batch_size: 2 input { name: 'x' data_type: TYPE_FP32 dims: [4, 4] reshape { shape: [16] } }"
    assert profiles(text, X)[0]["x"].maximum == (2, 16)


def test_nothing_to_say_about_fixed_inputs() -> None:
    assert profiles(io_text({"x": [4, 16]}, {}), NetworkInput("x", (4, 16))) == ()


def test_parameters_come_first() -> None:
    given = parameters(
        trt_profile_min_shapes="image:1x3x32x32,image:8x3x32x32",
        trt_profile_opt_shapes="image:2x3x64x64,image:8x3x32x32",
        trt_profile_max_shapes="image:4x3x64x64,image:8x3x32x32",
    )
    text = "max_batch_size: 8\n" + io_text({"image": [3, -1, -1], "x": [16]}, {}) + given
    first, second = profiles(text, IMAGE, X)
    assert first["image"].maximum == (4, 3, 64, 64)
    assert second["image"].minimum == (8, 3, 32, 32)
    assert first["x"] == second["x"] == ShapeRange((1, 16), (8, 16), (8, 16))


@pytest.mark.parametrize(
    ("text", "given", "kind", "message"),
    [
        (
            "max_batch_size: 2\n" + io_text({"image": [3, -1, 160]}, {}),
            IMAGE,
            InvalidArg,
            "input 'image' of model 'm' has variable dimensions [3,-1,160]: a plan needs their range, by the "
            "parameters 'trt_profile_min_shapes'",
        ),
        (io_text({"x": [16]}, {}), X, InvalidArg, "the model expects 2 dimensions (shape [-1,16]) but the model"),
        (io_text({}, {}), X, InvalidArg, "expected configuration for input 'x' for m"),
        (DYNAMIC, NetworkInput("x", (2,), shape_tensor=True), Unsupported, "input 'x' is a shape tensor"),
        (
            parameters(trt_profile_min_shapes="z:1", trt_profile_opt_shapes="z:1", trt_profile_max_shapes="z:1"),
            X,
            InvalidArg,
            "names 'z', which is no input; there are: x",
        ),
        (
            parameters(trt_profile_min_shapes="x:1", trt_profile_opt_shapes="x:1", trt_profile_max_shapes="x:1"),
            X,
            InvalidArg,
            "must have its 2 dimensions, and the sizes that the model fixes: [-1,16]",
        ),
        (
            parameters(
                trt_profile_min_shapes="x:1x15", trt_profile_opt_shapes="x:1x16", trt_profile_max_shapes="x:1x16"
            ),
            X,
            InvalidArg,
            "the sizes that the model fixes",
        ),
    ],
)
def test_sizes_that_stay_open(text: str, given: NetworkInput, kind: type[ServerError], message: str) -> None:
    with pytest.raises(kind) as error:
        profiles(text, given)
    assert message in error.value.message


# -- the builder -----------------------------------------------------------------------------------


def network(library: Library, made: Any, precision: str = "") -> Network:
    return Network(library, made.SerializeToString(), Path("/nowhere/model.onnx"), precision)


def test_what_an_onnx_model_declares(library: Library) -> None:
    parsed = network(library, linear())
    assert parsed.inputs() == (X,)
    found = parsed.model_io()
    assert [(info.name, info.datatype, info.dims) for info in (*found.inputs, *found.outputs)] == [
        ("x", FP32, (-1, 16)),
        ("y", FP32, (-1, 16)),
    ]
    assert found.max_batch_size is None
    proto = config("")
    complete(proto, found, default_max_batch_size=4)
    assert (proto.max_batch_size, list(proto.input[0].dims)) == (4, [16])


OPTIONS = BuildOptions(({"x": ShapeRange((1, 16), (4, 16), (8, 16))},), 0, 1 << 30, "")


def test_a_plan_is_built(library: Library) -> None:
    plan = network(library, linear()).build(OPTIONS, "m", on_device=False)
    assert len(plan) > 1000
    two = network(library, linear()).build(replace(OPTIONS, profiles=OPTIONS.profiles * 2), "m", on_device=False)
    assert len(two) > len(plan)


def test_a_build_lets_other_threads_run(library: Library) -> None:
    parsed = network(library, linear())
    done = threading.Event()
    turns = 0

    def work() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            done.wait(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    before = turns
    parsed.build(OPTIONS, "m", on_device=False)
    after = turns
    done.set()
    thread.join()
    assert after > before


def test_progress_is_told(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build_module, "PROGRESS_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO, "triton_async.tensorrt"):
        network(library, linear()).build(OPTIONS, "net", on_device=False)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("building a TensorRT plan of model 'net' with tensorrt_rtx 1.")
    assert any("Building engine, 1 of " in line for line in lines)
    assert lines[-1].startswith("built the plan of model 'net': ")


def test_the_librarys_reason_is_told(library: Library) -> None:
    with pytest.raises(InternalError) as error:
        network(library, linear()).build(BuildOptions((), -1, 0, ""), "net", on_device=False)
    assert error.value.message.startswith("unable to build TensorRT plan of model 'net': ")
    assert "no optimization profile has been defined" in error.value.message


def test_the_workspace_is_limited(library: Library) -> None:
    with pytest.raises(InternalError, match="workspace"):
        network(library, linear()).build(replace(OPTIONS, workspace_nbytes=1 << 20), "net", on_device=False)


def test_two_threads_hear_their_own_reasons(library: Library) -> None:
    reasons: dict[str, str] = {}
    ready = threading.Barrier(2)

    def work(name: str, made: Any, options: BuildOptions) -> None:
        parsed = network(library, made)
        ready.wait()
        try:
            parsed.build(options, name, on_device=False)
        except InternalError as error:
            reasons[name] = error.message

    wrong = BuildOptions(({"x": ShapeRange((1, 16), (4, 16), (8, 16)), "z": ShapeRange((1,), (1,), (1,))},), 0, 0, "")
    threads = [
        threading.Thread(target=work, args=("a", linear(), BuildOptions((), 0, 0, ""))),
        threading.Thread(target=work, args=("b", linear(), wrong)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "no optimization profile has been defined" in reasons["a"]
    assert "no optimization profile has been defined" not in reasons.get("b", "")


def bad_operator() -> Any:
    return model([node("NoSuchOperator", ["x"], ["y"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])])


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x08" * 100, linear().SerializeToString()[:200]],
    ids=["empty", "text", "numbers", "cut"],
)
def test_what_is_no_onnx_model(library: Library, content: bytes) -> None:
    with pytest.raises(InvalidArg, match="failed to parse ONNX model: "):
        Network(library, content, Path("/nowhere/model.onnx"))


def test_an_operator_that_is_not_known(library: Library) -> None:
    with pytest.raises(InvalidArg, match="NoSuchOperator"):
        network(library, bad_operator())


@pytest.mark.parametrize("precision", ["FP32", "FP16", "BF16", "INT8"])
def test_the_datatypes_are_those_of_the_model(library: Library, precision: str) -> None:
    with pytest.raises(Unsupported) as error:
        network(library, linear(), precision)
    assert f"'precision_mode' is {precision}" in error.value.message
    assert "convert the model" in error.value.message


def test_a_datatype_that_requests_cannot_carry(library: Library) -> None:
    fp8 = onnx.TensorProto.FLOAT8E4M3FN
    scale = helper.make_tensor("s", FLOAT, [], [1.0])
    made = model(
        [node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        [tensor("x", FLOAT, [4])],
        [tensor("y", fp8, [4])],
        [scale, helper.make_tensor("z", fp8, [], [0.0])],
        opset=19,
    )
    with pytest.raises(Unsupported, match="tensor 'y' has TensorRT datatype FP8"):
        network(library, made).model_io()


def test_integer_inputs(library: Library) -> None:
    made = model(
        [node("Gather", ["table", "ids"], ["y"])],
        [tensor("ids", INT64, ["n"])],
        [tensor("y", FLOAT, ["n", 4])],
        [helper.make_tensor("table", FLOAT, [8, 4], np.zeros(32, np.float32).tobytes(), raw=True)],
    )
    found = network(library, made).model_io()
    assert found.inputs[0].datatype == datatypes.from_name("INT64")


# -- external data ---------------------------------------------------------------------------------


def external(directory: Path, location: str = "weights.bin") -> Path:
    directory.mkdir(parents=True)
    onnx.save(
        linear(), directory / "model.onnx", save_as_external_data=True, location=location, size_threshold=0
    )
    return directory / "model.onnx"


def nested(location: str) -> bytes:
    """A model whose only external tensor is in a subgraph of an attribute."""
    weight = helper.make_tensor("w", FLOAT, [1], [1.0])
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="offset", value="0")
    weight.external_data.add(key="location", value=location)
    inner = helper.make_graph([node("Identity", ["w"], ["z"])], "inner", [], [tensor("z", FLOAT, [1])], [weight])
    made = model(
        [node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        [tensor("c", onnx.TensorProto.BOOL, [])],
        [tensor("y", FLOAT, [1])],
    )
    content: bytes = made.SerializeToString()
    return content


def test_files_beside_the_model(tmp_path: Path) -> None:
    assert external_files(external(tmp_path / "m").read_bytes()) == ("weights.bin",)
    assert external_files(linear().SerializeToString()) == ()
    assert external_files(nested("sub/weights")) == ("sub/weights",)


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x3a\x05ab",
        b"\x3b",
        b"\x09\x00",
        b"\x0d\x00",
        b"\x3a\x02\x0f\x00",
    ],
)
def test_bytes_that_are_no_message(content: bytes) -> None:
    with pytest.raises(InvalidArg, match="failed to parse ONNX model"):
        external_files(content)


@pytest.mark.parametrize(("graphs", "fine"), [(21, True), (22, False)])
def test_the_depth_of_graphs_in_graphs_is_bounded(graphs: int, fine: bool) -> None:
    content = b""
    for _ in range(graphs):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # graph of an attribute, attribute of a node, node of a graph
            size = len(content)
            length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            content = tag + length + content
    with nullcontext() if fine else pytest.raises(InvalidArg, match="nested too deeply"):
        assert external_files(b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7]) + content) == ()


# -- from a file, through the cache ----------------------------------------------------------------

GPU = DeviceInfo(0, "GPU of a test", (8, 9), 1 << 30, "0000:01:00.0")


def source(library: Library, path: Path, text: str = DYNAMIC, plugins: str = "") -> PlanSource:
    return PlanSource(library, BackendSettings(plugins=plugins), path, True, config(text))


def test_a_plan_is_built_once_and_kept(library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_onnx(tmp_path / "m", linear())
    cache = PlanCache(tmp_path / "plans", 1 << 30)
    with caplog.at_level(logging.INFO, "triton_async.tensorrt"):
        plan = source(library, path).plan(None, cache)
        assert source(library, path).plan(None, cache) == plan
        assert len(source(library, path).plan(None, None)) > 1000
    assert sum(record.getMessage().startswith("built") for record in caplog.records) == 2


def test_what_a_plan_depends_on_is_its_key(library: Library, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a", linear())
    weights = external(tmp_path / "b" / "1")
    keys = [
        source(library, path).key(None),
        source(library, path).key(GPU),
        source(library, path).key(replace(GPU, compute_capability=(9, 0))),
        source(library, path).key(replace(GPU, name="another")),
        source(library, path, DYNAMIC.replace("8", "4", 1)).key(None),
        source(library, path, DYNAMIC + "dynamic_batching { preferred_batch_size: 2 }").key(None),
        source(library, path, DYNAMIC + parameters(trt_builder_optimization_level="1")).key(None),
        source(library, path, plugins="a.so").key(None),
        source(library, write_onnx(tmp_path / "c", linear(seed=1))).key(None),
        source(library, weights).key(None),
    ]
    (weights.parent / "weights.bin").write_bytes(bytes(1024))
    keys.append(source(library, weights).key(None))
    assert len(set(keys)) == len(keys)
    # The index of a GPU and what the config says of instances change nothing.
    assert source(library, path).key(replace(GPU, index=1, pci_bus_id="x")) == keys[1]
    assert source(library, path, DYNAMIC + "instance_group { count: 2 }").key(None) == keys[0]


def test_a_model_with_external_data_is_built(library: Library, tmp_path: Path) -> None:
    path = external(tmp_path / "m" / "1")
    assert len(source(library, path).plan(None, PlanCache(tmp_path / "plans", 1 << 30))) > 1000
    (path.parent / "weights.bin").unlink()
    with pytest.raises(InvalidArg, match="external data of model 'm'"):
        source(library, path).plan(None, PlanCache(tmp_path / "plans", 1 << 30))
    with pytest.raises(InvalidArg) as error:
        source(library, path).plan(None, None)
    assert str(tmp_path) not in error.value.message


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b"])
def test_external_data_stays_in_the_models_directory(library: Library, tmp_path: Path, location: str) -> None:
    path = tmp_path / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(nested(location))
    for use in (lambda found: found.onnx_io(), lambda found: found.key(None), lambda found: found.plan(None, None)):
        with pytest.raises(InvalidArg, match="external data of model 'm'"):
            use(source(library, path))


def test_a_model_that_cannot_be_built_is_not_kept(library: Library, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m", linear(("n", "k")))
    cache = PlanCache(tmp_path / "plans", 1 << 30)
    text = "max_batch_size: 8\n" + io_text({"x": [-1]}, {"y": [-1]})
    with pytest.raises(InvalidArg, match="variable dimensions"):
        source(library, path, text).plan(None, cache)
    assert not list((tmp_path / "plans").glob("*.plan"))


def test_a_plan_is_read_as_it_is(library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan")
    text = DYNAMIC + parameters(trt_builder_optimization_level="1")
    found = PlanSource(library, BackendSettings(), tmp_path / "model.plan", False, config(text))
    assert found.plan(None, None) == b"plan"
    assert "parameter 'trt_builder_optimization_level' is for building one" in caplog.text
