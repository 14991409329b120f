"""Instances whose host policy has cores or a NUMA node (--host-policy)."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from core_harness import request, run, running, write_model

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
