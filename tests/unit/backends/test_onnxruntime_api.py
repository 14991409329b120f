"""Every entry of the C API that we call does what its place in csrc/ort_api.h says."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from backend_models import (
    FLOAT,
    INT64,
    STRING,
    Loaded,
    add_sub,
    identity,
    model,
    node,
    request,
    tensor,
    values,
    write,
)
from compiled import load
from onnx import TensorProto, helper

from triton_async.backends.base import execute_requests
from triton_async.backends.onnxruntime.api import Environment, Library, clean, find_library
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.options import INSPECT, SessionSettings, ThreadPools
from triton_async.backends.onnxruntime.session import Session
from triton_async.config.autocomplete import TensorInfo
from triton_async.errors import InternalError, InvalidArg, Unavailable, Unsupported
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import decode_bytes, from_numpy
from triton_async.memory.slab import SlabPool

ONE_THREAD = SessionSettings(intra_op_threads=1, inter_op_threads=1)


def save(root: Path, made: object, name: str = "model.onnx") -> Path:
    path = root / name
    onnx.save(made, path)
    return path


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def grown(before: int, by: int) -> bool:
    """Whether `by` threads come to be; starting and ending them takes a moment."""
    deadline = time.monotonic() + 5
    while threads() - before != by and time.monotonic() < deadline:
        time.sleep(0.001)
    return threads() - before == by


def matmul_add(columns: int | str = 3) -> object:
    """At graph level `basic` and above its two nodes become one Gemm."""
    weights = helper.make_tensor("w", FLOAT, [3, 2], [1.0] * 6)
    bias = helper.make_tensor("b", FLOAT, [2], [1.0] * 2)
    nodes = [node("MatMul", ["x", "w"], ["t"]), node("Add", ["t", "b"], ["y"])]
    return model(nodes, [tensor("x", FLOAT, ["n", columns])], [tensor("y", FLOAT, ["n", 2])], [weights, bias])


def run(session: Session, pool: SlabPool, signature: ModelSignature, **arrays: object) -> list[object]:
    instance = OnnxRuntimeInstance("m_0", session, signature, pool)
    request = InferRequest("m", inputs=[from_numpy(name, np.asarray(array)) for name, array in arrays.items()])
    response = execute_requests(instance, signature, [request])[0]
    if response.error is not None:
        raise response.error
    return [
        decode_bytes(output) if output.datatype == 13 else output.numpy().tolist() for output in response.outputs
    ]


def test_library_is_the_installed_packages() -> None:
    version = Library().version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert find_library().name == f"libonnxruntime.so.{version}"


def test_describes_inputs_outputs_and_initializers(tmp_path: Path) -> None:
    made = model(
        [node("Add", ["x", "b"], ["y"]), node("Shape", ["s"], ["z"])],
        [tensor("x", FLOAT, ["n", 4]), tensor("s", STRING, [2, "m", 3]), tensor("b", FLOAT, [1])],
        [tensor("y", FLOAT, ["n", 4]), tensor("z", INT64, [3])],
        [helper.make_tensor("b", FLOAT, [1], [7.0])],
    )
    session = Session(Environment(Library()), save(tmp_path, made), INSPECT)
    assert session.inputs == (TensorInfo("x", 11, (-1, 4)), TensorInfo("s", 13, (2, -1, 3)))
    assert session.outputs == (TensorInfo("y", 11, (-1, 4)), TensorInfo("z", 9, (3,)))
    assert session.initializers == (TensorInfo("b", 11, (1,), optional=True),)
    assert session.model_io().inputs == session.inputs + session.initializers


def test_thread_counts(tmp_path: Path) -> None:
    environment = Environment(Library())
    path = save(tmp_path, add_sub())
    before = threads()
    Session(environment, path, replace(ONE_THREAD, inter_op_threads=4))
    assert grown(before, 0), "the inter-op pool is for parallel execution"
    session = Session(environment, path, replace(ONE_THREAD, intra_op_threads=4))
    assert grown(before, 3)
    del session
    assert grown(before, 0)
    session = Session(environment, path, replace(ONE_THREAD, inter_op_threads=3, parallel=True))
    assert threads() > before
    del session
    assert grown(before, 0)


def test_global_threads_serve_all_sessions(tmp_path: Path, pool: SlabPool) -> None:
    path = save(tmp_path, add_sub())
    before = threads()
    environment = Environment(Library(), ThreadPools(4, 1))
    assert grown(before, 3)
    sessions = [Session(environment, path, replace(ONE_THREAD, intra_op_threads=8)) for _ in range(3)]
    assert threads() - before == 3
    specs = [[TensorSpec(f"{what}{i}", 11, (16,)) for i in (0, 1)] for what in ("INPUT", "OUTPUT")]
    ones = np.ones((1, 16), np.float32)
    for session in sessions:
        assert run(session, pool, ModelSignature("m", 1, *specs, 8), INPUT0=ones, INPUT1=ones)[0] == [[2.0] * 16]
    del session, sessions, environment
    assert grown(before, 0)


def test_an_environment_ends_behind_values_that_are_given_back(tmp_path: Path, pool: SlabPool) -> None:
    driver = load("ort_calls")
    path = save(tmp_path, model([node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, ["n"])], [tensor("y", FLOAT, ["n"])]))
    signature = ModelSignature("m", 1, [TensorSpec("x", 11, (-1,))], [TensorSpec("y", 11, (-1,))])

    environment = Environment(Library())
    instance = OnnxRuntimeInstance("m_0", Session(environment, path, ONE_THREAD), signature, pool)
    driver.watch_releases(environment)
    sent = InferRequest("m", inputs=[from_numpy("x", np.ones(1 << 19, np.float32))])
    (response,) = execute_requests(instance, signature, [sent])
    del instance, sent
    del response  # its bytes are given back on a thread
    del environment
    assert driver.released_so_far() == "ve"


@pytest.mark.parametrize(("level", "operator"), [(0, "MatMul"), (1, "Gemm"), (2, "Gemm"), (99, "Gemm")])
def test_graph_optimization_level(tmp_path: Path, pool: SlabPool, level: int, operator: str) -> None:
    path = save(tmp_path, matmul_add("k"))
    session = Session(Environment(Library()), path, replace(ONE_THREAD, graph_level=level))
    signature = ModelSignature("m", 1, [TensorSpec("x", 11, (-1,))], [TensorSpec("y", 11, (2,))], 8)
    assert run(session, pool, signature, x=np.ones((2, 3), np.float32)) == [[[4.0, 4.0]] * 2]
    # The message of a failure names the node that ran.
    with pytest.raises(InternalError, match=f"while running {operator} node"):
        run(session, pool, signature, x=np.ones((2, 5), np.float32))


def test_arena_and_run_options(tmp_path: Path, pool: SlabPool) -> None:
    path = save(tmp_path, identity(FLOAT, ["n"]))
    signature = ModelSignature("m", 1, [TensorSpec("x", 11, (-1,))], [TensorSpec("y", 11, (-1,))])
    shrinking = replace(ONE_THREAD, run_entries=(("memory.enable_memory_arena_shrinkage", "cpu:0"),))
    x = np.arange(3, dtype=np.float32)
    environment = Environment(Library())
    assert run(Session(environment, path, shrinking), pool, signature, x=x) == [[0.0, 1.0, 2.0]]
    without = Session(environment, path, replace(shrinking, mem_arena=False))
    with pytest.raises(InternalError, match="arena"):
        run(without, pool, signature, x=x)


def test_runs_that_are_told_to_end(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n", 3])), pool)
    other = loaded.make_instance("m_1")
    driver = load("ort_calls")
    x = np.array([[0, 1, 2]], np.float32)
    for _ in range(2):
        driver.set_terminate(loaded.instance)
        for _ in range(2):
            with pytest.raises(InternalError, match="Exiting due to terminate flag being set to true") as caught:
                loaded.run_one(x=x)
            del caught
        answer = execute_requests(other, loaded.signature, [request(x=x)])[0]
        assert values(answer)["y"].tolist() == [[0, 1, 2]], "each instance has its own"
        driver.unset_terminate(loaded.instance)
        assert loaded.run_one(x=x)["y"].tolist() == [[0, 1, 2]]
        del answer


@pytest.mark.parametrize("pattern", [True, False])
def test_memory_patterns(tmp_path: Path, pool: SlabPool, pattern: bool) -> None:
    session = Session(Environment(Library()), save(tmp_path, matmul_add()), replace(ONE_THREAD, mem_pattern=pattern))
    signature = ModelSignature("m", 1, [TensorSpec("x", 11, (3,))], [TensorSpec("y", 11, (2,))], 8)
    for rows in (1, 3):
        assert run(session, pool, signature, x=np.ones((rows, 3), np.float32)) == [[[4.0, 4.0]] * rows]


def test_session_entries_reach_the_session(tmp_path: Path) -> None:
    settings = SessionSettings(intra_op_threads=2, entries=(("session.intra_op_thread_affinities", "nonsense"),))
    with pytest.raises(InternalError, match="onnx runtime error"):
        Session(Environment(Library()), save(tmp_path, add_sub()), settings)


def test_strings_both_ways(tmp_path: Path, pool: SlabPool) -> None:
    session = Session(Environment(Library()), save(tmp_path, identity(STRING, ["n"])), ONE_THREAD)
    signature = ModelSignature("m", 1, [TensorSpec("x", 13, (-1,))], [TensorSpec("y", 13, (-1,))])
    strings = [b"", b"a\0b", b"\xff\xfe", "ä".encode(), b"x" * 100_000, b"\0"]
    array = np.array(strings, dtype=object)
    assert run(session, pool, signature, x=array) == [strings]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", InvalidArg, "'model.onnx' is empty"),
        (b"\0", InternalError, "onnx runtime error 7: Load model from model.onnx failed:Protobuf parsing failed."),
        (b"not a model" * 100, InternalError, "onnx runtime error 7: Load model from model.onnx failed"),
        (None, Unavailable, "unable to find 'model.onnx'"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes | None, error: type[Exception], message: str) -> None:
    path = tmp_path / "with space" / "model.onnx"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        Session(Environment(Library()), path, INSPECT)
    assert str(caught.value).startswith(message)
    assert str(tmp_path) not in str(caught.value)


def test_truncated_model(tmp_path: Path) -> None:
    path = save(tmp_path, matmul_add())
    content = path.read_bytes()
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises((InternalError, InvalidArg, Unsupported)) as caught:
            Session(Environment(Library()), path, INSPECT)
        assert str(tmp_path) not in str(caught.value)


def test_a_sequence_is_refused(tmp_path: Path) -> None:
    output = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    made = model([node("SequenceConstruct", ["x"], ["y"])], [tensor("x", FLOAT, [2])], [output])
    with pytest.raises(Unsupported, match="Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'y', expected"):
        Session(Environment(Library()), save(tmp_path, made), INSPECT)


def test_a_type_we_do_not_have_is_refused(tmp_path: Path) -> None:
    cast = node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)
    made = model([cast], [tensor("x", FLOAT, [2])], [tensor("y", TensorProto.FLOAT8E4M3FN, [2])], opset=19)
    with pytest.raises(Unsupported, match=r"unsupported datatype .* for I/O 'y'"):
        Session(Environment(Library()), save(tmp_path, made), INSPECT)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Load model from /a/b.c/model.onnx failed", "Load model from model.onnx failed"),
        ("Message: /x/y.z/ops.h:540 void f() 2 by 3", "Message: ops.h:540 void f() 2 by 3"),
        ("Node:/layer1/Add Name:'/layer.0/Add'", "Node:/layer1/Add Name:'/layer.0/Add'"),
        ("\n two\nlines\n", "  two lines"),
        ("ratio 1/2.5 and/or.", "ratio 1/2.5 and/or."),
        ("(/srv/é/x.bin)", "(x.bin)"),
        ("", ""),
    ],
)
def test_messages_name_files_without_directories(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def external_sum(folder: Path, location: str = "weights.bin") -> Path:
    """y = x + w; its weights, all 3, are in a file of their own."""
    folder.mkdir()
    weights = onnx.numpy_helper.from_array(np.full((4, 1024), 3, np.float32), "w")
    made = model([node("Add", ["x", "w"], ["y"])], [tensor("x", FLOAT, [4, 1024])], [tensor("y", FLOAT, [4, 1024])],
                 [weights])  # fmt: skip
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "model.onnx"


@pytest.mark.parametrize("graph_level", [0, 99])
def test_weights_in_files_stay_what_they_were(tmp_path: Path, pool: SlabPool, graph_level: int) -> None:
    path = external_sum(tmp_path / "m")
    session = Session(Environment(Library(), None), path, replace(ONE_THREAD, graph_level=graph_level))
    assert "weights.bin" not in Path("/proc/self/maps").read_text()
    spec = [TensorSpec(name, 11, (4, 1024)) for name in "xy"]
    signature = ModelSignature("m", 1, spec[:1], spec[1:], 0)
    for content in (bytes(4 * 4096), b""):
        (path.parent / "weights.bin").write_bytes(content)
        (found,) = run(session, pool, signature, x=np.ones((4, 1024), np.float32))
        assert (np.asarray(found) == 4).all()
    (path.parent / "weights.bin").unlink()
    with pytest.raises(InternalError, match=r"weights\.bin"):
        Session(Environment(Library(), None), path, ONE_THREAD)
