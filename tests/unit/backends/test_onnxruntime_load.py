"""Loading ONNX models: what their configs may ask for, what is refused and in which words."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from backend_models import FLOAT, INT64, Loaded, add_sub, identity, model, node, tensor, write
from google.protobuf import text_format
from onnx import helper

from triton_async.backends.base import LoadContext
from triton_async.backends.onnxruntime import OnnxRuntimeBackend
from triton_async.backends.onnxruntime import backend as backend_module
from triton_async.backends.onnxruntime import options as options_module
from triton_async.backends.onnxruntime.api import Environment
from triton_async.backends.onnxruntime.backend import OpenedSession
from triton_async.backends.onnxruntime.options import (
    SessionSettings,
    ThreadPools,
    session_settings,
    thread_pools,
    usable_cores,
)
from triton_async.backends.onnxruntime.session import Session
from triton_async.config.model_config import InstanceKind, ModelConfig, freeze
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool
from triton_async.protos import ModelConfig as ModelConfigProto


def parameters(**given: str) -> ModelConfig:
    proto = ModelConfigProto(name="m")
    for key, value in given.items():
        proto.parameters[key].string_value = value
    return freeze(proto)


def entry(key: str, value: str) -> str:
    return f"parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}\n"


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def sessions_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, SessionSettings]]:
    """The sessions that are made from now on."""
    made: list[tuple[Path, SessionSettings]] = []

    def make(environment: Environment, path: Path, settings: SessionSettings) -> Session:
        made.append((path, settings))
        return Session(environment, path, settings)

    monkeypatch.setattr(backend_module, "Session", make)
    return made


@pytest.mark.parametrize("config", [None, "max_batch_size: 4", "optimization { graph { level: 1 } }"])
def test_a_model_is_opened_once(
    tmp_path: Path, pool: SlabPool, monkeypatch: pytest.MonkeyPatch, config: str | None
) -> None:
    made = sessions_made(monkeypatch)
    loaded = Loaded(write(tmp_path, add_sub(), config), pool)
    ones = np.ones((1, 16), np.float32)
    assert loaded.run_one(INPUT0=ones, INPUT1=ones)["OUTPUT0"].tolist() == [[2.0] * 16]
    assert len(made) == 1


def test_what_inspect_opened_is_for_one_load_of_the_same_model(
    tmp_path: Path, pool: SlabPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sessions_made(monkeypatch)
    loaded = Loaded(write(tmp_path, add_sub()), pool)
    opened = loaded.context.opened
    assert isinstance(opened, OpenedSession)
    loaded.model = OnnxRuntimeBackend().load(loaded.context)
    assert len(made) == 2
    other = write(tmp_path, identity(FLOAT, ["n", 2]), name="other") / "1" / "model.onnx"
    opened = OnnxRuntimeBackend().inspect(other, loaded.config.proto).opened
    context = LoadContext(loaded.config, 1, loaded.context.path, loaded.signature, pool, {}, opened=opened)
    OnnxRuntimeBackend().load(context)
    assert [path for path, _ in made[2:]] == [other, loaded.context.path]


def reshaped(op: str) -> object:
    """Optimising it settles the shape of its output: the counts are constants that the file works out in nodes."""
    constants = [helper.make_tensor("r", INT64, [2], [1, 1]), helper.make_tensor("r2", INT64, [2], [1, 2])]
    if op == "Expand":
        constants = [helper.make_tensor("r", INT64, [2], [1, 1]), helper.make_tensor("r2", INT64, [2], [3, 4])]
    nodes = [
        node("Mul", ["r", "r2"], ["product"]), node("Cast", ["product"], ["counts"], to=INT64),
        node(op, ["X", "counts"], ["Y"]),
    ]  # fmt: skip
    return model(nodes, [tensor("X", FLOAT, [1, 4])], [tensor("Y", FLOAT, ["n", "m"])], constants)


@pytest.mark.parametrize(("op", "shape"), [("Tile", [1, 8]), ("Expand", [3, 4]), ("Reshape", [1, 4])])
@pytest.mark.parametrize("written", [False, True])
def test_shapes_that_become_fixed_when_the_graph_is_optimised(
    tmp_path: Path, pool: SlabPool, op: str, shape: list[int], written: bool
) -> None:
    made = reshaped(op)
    if op == "Reshape":
        made.graph.initializer[1].int64_data[:] = [1, 4]
    config = f"max_batch_size: 0 output {{ name: 'Y' data_type: TYPE_FP32 dims: {shape} }}" if written else None
    loaded = Loaded(write(tmp_path, made, config), pool)
    assert list(loaded.config.outputs[0].dims) == shape
    assert list(loaded.run_one(X=np.ones((1, 4), np.float32))["Y"].shape) == shape


def test_small_models_share_their_threads(tmp_path: Path, pool: SlabPool) -> None:
    backend = OnnxRuntimeBackend()
    backend.settings = {"intra_op_thread_count": "3"}
    paths = [write(tmp_path, add_sub(), name=f"m{index}") / "1" / "model.onnx" for index in range(5)]
    sessions = [backend.inspect(paths[0], ModelConfigProto(name="m")).opened]
    before = threads()
    sessions += [backend.inspect(path, ModelConfigProto(name="m")).opened for path in paths]
    assert threads() == before
    # A model that says how many threads it wants has them.
    own = ModelConfigProto(name="m")
    own.parameters["intra_op_thread_count"].string_value = "4"
    sessions.append(backend.inspect(paths[0], own).opened)
    assert threads() == before + 3


def test_all_models_share_their_threads_when_told_to(tmp_path: Path, pool: SlabPool) -> None:
    config = entry("intra_op_thread_count", "4")
    given = {"enable-global-threadpool": "1", "intra_op_thread_count": "2"}
    first = Loaded(write(tmp_path, add_sub(), config), pool, given)
    before = threads()
    ones = np.ones((1, 16), np.float32)
    assert first.run_one(INPUT0=ones, INPUT1=ones)["OUTPUT0"].tolist() == [[2.0] * 16]
    backend = OnnxRuntimeBackend()
    backend.settings = given
    opened = backend.inspect(first.context.path, first.config.proto).opened
    assert threads() == before
    assert opened is not None


def test_models_are_inspected_and_loaded_in_parallel(tmp_path: Path, pool: SlabPool) -> None:
    directories = [write(tmp_path, add_sub(), name=f"m{i}") for i in range(8)]
    backend = OnnxRuntimeBackend()
    found: list[object] = []

    def work(directory: Path) -> None:
        path = directory / "1" / "model.onnx"
        model_io = backend.inspect(path, None)
        proto = ModelConfigProto(name=directory.name, max_batch_size=4)
        for target, tensors in ((proto.input, model_io.inputs), (proto.output, model_io.outputs)):
            for info in tensors:
                target.add(name=info.name, data_type=info.datatype, dims=info.dims[1:])
        context = LoadContext(freeze(proto), 1, path, ModelSignature("m", 1, [], []), pool, {})
        found.append(backend.load(context))

    threads = [threading.Thread(target=work, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8


def test_a_folder_with_external_data(tmp_path: Path, pool: SlabPool) -> None:
    weights = helper.make_tensor("w", FLOAT, [64, 64], np.eye(64, dtype=np.float32).tobytes(), raw=True)
    made = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FLOAT, ["n", 64])],
        [tensor("y", FLOAT, ["n", 64])],
        [weights],
    )
    folder = tmp_path / "m" / "1" / "model.onnx"
    folder.mkdir(parents=True)
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").stat().st_size >= 64 * 64 * 4
    loaded = Loaded(tmp_path / "m", pool)
    x = np.random.default_rng(0).random((2, 64), np.float32)
    np.testing.assert_array_equal(loaded.run_one(x=x)["y"], x)

    (folder / "weights.bin").unlink()
    with pytest.raises(ServerError) as caught:
        Loaded(tmp_path / "m", pool)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, Unavailable, "unable to find 'm/1/model.onnx' for model 'm'"),
        (b"", InvalidArg, "'model.onnx' is empty"),
        (b"\x08\x07", InternalError, "onnx runtime error"),
        (b"text, not a model", InternalError, "onnx runtime error 7: Load model from model.onnx failed"),
    ],
)
def test_broken_models(
    tmp_path: Path, pool: SlabPool, content: bytes | None, error: type[Exception], message: str
) -> None:
    directory = write(tmp_path, add_sub(), "backend: 'onnxruntime'")
    path = directory / "1" / "model.onnx"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        Loaded(directory, pool)
    assert str(tmp_path) not in str(caught.value)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"unable to find 'model\.onnx'"):
        OnnxRuntimeBackend().inspect(tmp_path, None)


FULL = """
    name: "m" backend: "onnxruntime" max_batch_size: 4
    input { name: "INPUT0" data_type: TYPE_FP32 dims: 16 }
    input { name: "INPUT1" data_type: TYPE_FP32 dims: 16 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: 16 }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"INPUT1"', '"NOPE"', "unexpected inference input 'NOPE', allowed inputs are: INPUT0, INPUT1"),
        ('"OUTPUT0"', '"NOPE"', "unexpected inference output 'NOPE', allowed outputs are: OUTPUT0, OUTPUT1"),
        (
            '"INPUT1" data_type: TYPE_FP32',
            '"INPUT1" data_type: TYPE_INT32',
            "configuration expects datatype TYPE_INT32 for input 'INPUT1', model provides TYPE_FP32",
        ),
        ("dims: 16 }\n    output", "dims: 8 }\n    output", "tensor 'INPUT1': the model expects 2 dimensions"),
        ('"OUTPUT0" data_type: TYPE_FP32 dims: 16', '"OUTPUT0" data_type: TYPE_FP32 dims: -1', "tensor 'OUTPUT0'"),
        ('input { name: "INPUT1" data_type: TYPE_FP32 dims: 16 }', "", "configuration expects 1 inputs"),
    ],
)
def test_configs_that_are_not_the_models(tmp_path: Path, pool: SlabPool, old: str, new: str, message: str) -> None:
    assert old in FULL
    path = write(tmp_path, add_sub()) / "1" / "model.onnx"
    config = freeze(text_format.Parse(FULL.replace(old, new), ModelConfigProto()))
    with pytest.raises(InvalidArg, match=message.replace("'", ".")):
        OnnxRuntimeBackend().load(LoadContext(config, 1, path, ModelSignature("m", 1, [], []), pool, {}))


def test_a_model_with_all_settings_runs(tmp_path: Path, pool: SlabPool) -> None:
    config = "".join(
        [
            "optimization { graph { level: -1 } }",
            entry("intra_op_thread_count", "2"),
            entry("inter_op_thread_count", "2"),
            entry("execution_mode", "1"),
            entry("enable_mem_arena", "true"),
            entry("enable_mem_pattern", "0"),
            entry("memory.enable_memory_arena_shrinkage", "cpu:0"),
            entry("session.intra_op.allow_spinning", "1"),
            entry("session.use_device_allocator_for_initializers", "1"),
            entry("share_session_between_instances", "false"),
        ]
    )
    loaded = Loaded(write(tmp_path, add_sub(), config), pool)
    ones = np.ones((1, 16), np.float32)
    for _ in range(2):
        assert loaded.run_one(INPUT0=ones, INPUT1=ones)["OUTPUT1"].tolist() == [[0.0] * 16]


def test_settings_from_parameters() -> None:
    settings = session_settings(
        parameters(
            **{
                "intra_op_thread_count": "3",
                "inter_op_thread_count": "2",
                "execution_mode": "1",
                "enable_mem_arena": "0",
                "enable_mem_pattern": "False",
                "session.intra_op.allow_spinning": "1",
                "unknown": "ignored",
            }
        )
    )
    assert settings == SessionSettings(
        intra_op_threads=3,
        inter_op_threads=2,
        parallel=True,
        mem_arena=False,
        mem_pattern=False,
        entries=(("session.intra_op.allow_spinning", "1"), ("session.inter_op.allow_spinning", "0")),
    )
    assert session_settings(parameters()).intra_op_threads == usable_cores()
    assert session_settings(parameters(share_session_between_instances="0")).shared is False


def test_no_memory_plans_for_shapes_that_requests_choose() -> None:
    proto = ModelConfigProto(name="m")
    proto.input.add(name="x", data_type=11, dims=[3, -1])
    assert session_settings(freeze(proto)).mem_pattern is False
    assert session_settings(freeze(proto), InstanceKind.GPU).mem_pattern is False
    proto.parameters["enable_mem_pattern"].string_value = "1"
    assert session_settings(freeze(proto)).mem_pattern is True
    proto.input[0].reshape.shape.extend([3, 4])
    del proto.parameters["enable_mem_pattern"]
    assert session_settings(freeze(proto)).mem_pattern is False
    assert session_settings(freeze(proto), InstanceKind.GPU).mem_pattern is True


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intra_op_thread_count", "two", "'intra_op_thread_count' is 'two', expected a number of threads"),
        ("intra_op_thread_count", "-1", "expected a number of threads"),
        ("inter_op_thread_count", "100000", "expected a number of threads"),
        ("execution_mode", "2", r"expected 0 \(sequential\) or 1 \(parallel\)"),
        ("enable_mem_arena", "maybe", "expected true, false, 1 or 0"),
        ("memory.enable_memory_arena_shrinkage", "cpu:1", "expected arenas such as 'cpu:0;gpu:0'"),
        ("memory.enable_memory_arena_shrinkage", "gpu:0;", "expected arenas such as 'cpu:0;gpu:0'"),
    ],
)
def test_bad_parameters_are_named(key: str, value: str, message: str) -> None:
    with pytest.raises(InvalidArg, match=message) as caught:
        session_settings(parameters(**{key: value}))
    assert str(caught.value).startswith(f"model 'm': parameter '{key}'")


def test_shrinkage_needs_the_arena() -> None:
    with pytest.raises(InvalidArg, match="needs 'enable_mem_arena'"):
        session_settings(parameters(**{"memory.enable_memory_arena_shrinkage": "cpu:0", "enable_mem_arena": "0"}))


@pytest.mark.parametrize(("level", "expected"), [(-1, 1), (0, 99), (1, 2), (2, 0)])
def test_graph_levels(level: int, expected: int) -> None:
    proto = ModelConfigProto(name="m")
    proto.optimization.graph.level = level
    assert session_settings(freeze(proto)).graph_level == expected


def test_an_unknown_graph_level_is_refused() -> None:
    proto = ModelConfigProto(name="m")
    proto.optimization.graph.level = 7
    with pytest.raises(InvalidArg, match=r"optimization\.graph\.level is 7"):
        session_settings(freeze(proto))


def test_threads_of_the_pools_that_sessions_share() -> None:
    assert thread_pools({}) == ThreadPools(usable_cores(), 1, for_all=False)
    assert thread_pools({"intra_op_thread_count": "3"}) == ThreadPools(3, 1, for_all=False)
    assert thread_pools({"enable-global-threadpool": "0"}) is None
    given = {"enable-global-threadpool": "1", "intra_op_thread_count": "3", "inter_op_thread_count": "2"}
    assert thread_pools(given) == ThreadPools(3, 2, for_all=True)
    assert thread_pools({"enable-global-threadpool": "1"}) == ThreadPools(usable_cores(), 0, for_all=True)
    with pytest.raises(InvalidArg, match="--backend-config=onnxruntime 'intra_op_thread_count' is 'x'"):
        thread_pools({"intra_op_thread_count": "x"})


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("intra_op_thread_count", True), ("inter_op_thread_count", True), ("execution_mode", True),
        ("session.intra_op.allow_spinning", True), ("session.inter_op.allow_spinning", True),
        ("session.intra_op_thread_affinities", True), ("enable_mem_arena", False),
        ("session.disable_prepacking", False),
    ],
)  # fmt: skip
def test_a_model_that_sets_something_about_threads_has_its_own(key: str, own: bool) -> None:
    assert session_settings(parameters()).own_threads is False
    assert session_settings(parameters(**{key: "1"})).own_threads is own
    assert session_settings(parameters(intra_op_thread_count="0", execution_mode="0")).own_threads is False


def test_a_cpu_quota_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(options_module, "_siblings", lambda cpu: str(cpu // 2))
    monkeypatch.setattr(options_module, "_physical_cores", options_module._physical_cores.__wrapped__)
    monkeypatch.setattr(options_module, "quota_cpus", lambda: 0)
    assert usable_cores() == 8
    monkeypatch.setattr(options_module, "quota_cpus", lambda: 3)
    assert usable_cores() == 3
    assert [usable_cores(count) for count in (2, 5, 100)] == [2, 5, 8]


def test_inspect_marks_defaults_as_optional(tmp_path: Path) -> None:
    made = model(
        [node("Add", ["x", "b"], ["y"])],
        [tensor("x", INT64, ["n"]), tensor("b", INT64, [1])],
        [tensor("y", INT64, ["n"])],
        [helper.make_tensor("b", INT64, [1], [1])],
    )
    found = OnnxRuntimeBackend().inspect(write(tmp_path, made) / "1" / "model.onnx", None)
    assert [(t.name, t.optional) for t in found.inputs] == [("x", False), ("b", True)]


def test_names_may_be_any_text(tmp_path: Path, pool: SlabPool) -> None:
    made = identity(FLOAT, ["n", 2])
    made.graph.input[0].name = made.graph.node[0].input[0] = "täñsör/0:a b"
    loaded = Loaded(write(tmp_path, made), pool)
    x = np.ones((1, 2), np.float32)
    assert loaded.run_one(**{"täñsör/0:a b": x})["y"].tolist() == [[1, 1]]
