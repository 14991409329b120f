"""Instances whose host policy has cores or a NUMA node (--host-policy)."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
from core_harness import request, run, running, write_model
from onnx import TensorProto, helper

from triton_async.backends.registry import BackendRegistry
from triton_async.config.host_policy import HostPolicy
from triton_async.errors import ServerError
from triton_async.memory import binding

CORES = sorted(os.sched_getaffinity(0))
LAST = CORES[-1]


def threads_of(name: str) -> list[int]:
    prefix = f"instance {name}_"
    return [thread.native_id or 0 for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_threads_of_instances_run_where_their_policy_says(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    for name in ("bound", "free"):
        policy = 'host_policy: "mine"' if name == "bound" else ""
        write_model(tmp_path, name, more=f'instance_group {{ name: "{name}" count: 2 kind: KIND_CPU {policy} }}')

    async def test() -> None:
        async with running(tmp_path, policies={"mine": HostPolicy(cpu_cores=(LAST,))}) as server:
            for _ in range(20):
                for name in ("m", "bound", "free"):
                    await server.infer(request(name, [1.0, 2.0]))
            assert [os.sched_getaffinity(thread) for thread in threads_of("bound")] == [{LAST}, {LAST}]
            assert all(os.sched_getaffinity(thread) == set(CORES) for thread in threads_of("free"))
            assert os.sched_getaffinity(0) == set(CORES)

    run(test)


def test_every_instance_without_a_policy_has_that_of_its_kind(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more='instance_group { name: "g" kind: KIND_CPU }')

    async def test() -> None:
        async with running(tmp_path, policies={"cpu": HostPolicy(cpu_cores=(LAST,))}) as server:
            await server.infer(request("m", [1.0]))
            assert [os.sched_getaffinity(thread) for thread in threads_of("g")] == [{LAST}]

    run(test)


@pytest.mark.parametrize("policy", [HostPolicy(cpu_cores=(9999,)), HostPolicy(numa_node=1023)])
def test_a_policy_that_can_not_be_applied_fails_the_load(tmp_path: Path, policy: HostPolicy) -> None:
    write_model(tmp_path, "m", more='instance_group { name: "g" kind: KIND_CPU }')
    options = ("--model-control-mode=explicit",)

    async def test() -> None:
        async with running(tmp_path, *options, policies={"cpu": policy}) as server:
            with pytest.raises(ServerError, match="host policy 'cpu' can not be applied: "):
                await server.load_model("m")

    run(test)


def write_onnx(root: Path, name: str, config: str) -> None:
    """A product of matrices."""
    (root / name / "1").mkdir(parents=True)
    value = [helper.make_tensor_value_info(side, TensorProto.FLOAT, ["n", 64]) for side in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.5] * 64 * 64)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, root / name / "1" / "model.onnx")
    (root / name / "config.pbtxt").write_text(f'backend: "onnxruntime" {config}')


def places() -> dict[str, set[int]]:
    """Cores of each thread of the process that is no Python one."""
    python = {str(thread.native_id) for thread in threading.enumerate()}
    return {name: os.sched_getaffinity(int(name)) for name in set(os.listdir("/proc/self/task")) - python}


@pytest.mark.skipif(len(CORES) < 2, reason="there is one core")
def test_threads_of_an_engine_go_along_where_they_are_one_models_alone(tmp_path: Path) -> None:
    for name, count in (("own", 4), ("shared", 0)):
        threads = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{count}" }} }}'
        write_onnx(tmp_path, name, f'instance_group {{ kind: KIND_CPU host_policy: "mine" }} {threads}')
    backends = BackendRegistry({"onnxruntime": {"intra_op_thread_count": "3"}})

    async def test() -> None:
        policies = {"mine": HostPolicy(cpu_cores=(LAST,))}
        options = ("--model-control-mode=explicit",)
        async with running(tmp_path, *options, policies=policies, backends=backends) as server:
            before = places()
            await server.load_model("shared")
            pool = {thread: cores for thread, cores in places().items() if thread not in before}
            assert len(pool) >= 2 and all(cores == set(CORES) for cores in pool.values())
            await server.load_model("own")
            new = {thread: cores for thread, cores in places().items() if thread not in {**before, **pool}}
            assert len(new) >= 3 and all(cores == {LAST} for cores in new.values())

    run(test)


def memory_policy() -> int:
    """Of the calling thread, as the kernel tells it."""
    mode = ctypes.c_int(-1)
    number = {"x86_64": 239, "aarch64": 236}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.byref(mode), None, 0, None, 0) == 0
    return mode.value


def test_memory_comes_from_the_node_that_is_named() -> None:
    found: list[Any] = []

    def test() -> None:
        try:
            with binding.bound([LAST], 0):
                found.append((memory_policy(), os.sched_getaffinity(0)))
            found.append((memory_policy(), os.sched_getaffinity(0)))
        except OSError as error:  # a container may forbid it
            found.append(error)

    thread = threading.Thread(target=test)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        pytest.skip(f"memory policies: {found[0]}")
    assert found == [(2, {LAST}), (0, set(CORES))]
