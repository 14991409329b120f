"""The texts of --cpu-affinity, and what follows from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from triton_async.config import affinity as module
from triton_async.config import processes
from triton_async.config.affinity import Affinity, division, engine_cores, instance_cores, own_cores
from triton_async.config.settings import Settings, UsageError, parse


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen cores in two NUMA nodes, of which twelve may be used."""
    for name, text in (
        ("cpu/online", "0-15"), ("node/online", "0-2"), ("node/node0/cpulist", "0-7"), ("node/node1/cpulist", "8-15"),
        ("node/node2/cpulist", ""),
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    monkeypatch.setattr(module, "_MACHINE", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    for user in (module, processes):
        monkeypatch.setattr(user, "quota_cpus", lambda: 0)
    return tmp_path


def settings(*texts: str, **more: str) -> Settings:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
    return parse(["--model-repository=/m", *(f"--cpu-affinity={text}" for text in texts), *options])


@pytest.mark.parametrize(
    ("texts", "front_ends", "models"),
    [
        ((), "", ""),
        (("none",), "", ""),
        (("3",), "3", "3"),
        (("0-3,8",), "0-3,8", "0-3,8"),
        (("8,0-1,1-3",), "0-3,8", "0-3,8"),
        (("node0",), "0-7", "0-7"),
        (("node1",), "8-11", "8-11"),
        (("node1,0",), "0,8-11", "0,8-11"),
        (("front-ends:0-1",), "0-1", "2-11"),
        (("models:4-11",), "0-3", "4-11"),
        (("front-ends:0-1", "models:4-7"), "0-1", "4-7"),
        (("models:node1", "front-ends:node0"), "0-7", "8-11"),
        (("models:4", "models:5"), "0-4,6-11", "5"),
        (("node0", "none", "front-ends:3"), "3", "0-2,4-11"),
        (("0", "1"), "1", "1"),
        (("99", "front-ends:x", "none"), "", ""),
    ],
)
def test_cores_of_the_server_or_of_its_parts(texts: tuple[str, ...], front_ends: str, models: str) -> None:
    found = settings(*texts).cpu_affinity
    assert (module.ranges(found.front_ends), module.ranges(found.models)) == (front_ends, models)
    assert found.divided is (front_ends != models)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("",), "cores are <core>, <first>-<last> or node<NUMA node>, with commas in between. Got ''"),
        (("models:",), "with commas in between. Got ''"),
        (("0,,1",), "Got '0,,1'"),
        (("0-",), "Got '0-'"),
        (("3-1",), "Got '3-1'"),
        (("-1",), "Got '-1'"),
        (("0 1",), "Got '0 1'"),
        (("\u0663",), "Got '\u0663'"),
        (("numa0",), "Got 'numa0'"),
        (("workers:1",), "the parts of a server are front-ends and models. Got workers:1"),
        ((":1",), "the parts of a server are front-ends and models. Got :1"),
        (("0", "models:1"), "give the cores of the whole server or those of its parts. Got 0, models:1"),
        (("16",), "core 16: not on this machine, which has 0-15"),
        (("10-17",), "cores 16-17: not on this machine"),
        (("9999999",), "Got '9999999'"),
        (("12-13",), "cores 12-13: not for this process, which its container or who started it lets use 0-11"),
        (("node3",), "NUMA node 3 is not on this machine, which has nodes 0-2"),
        (("node2",), "no core of NUMA node 2 is for this process, which may use 0-11"),
        (("models:0-11",), "no core is left for the front-ends: this process may use 0-11"),
        (("front-ends:node0,8-11",), "no core is left for the models: this process may use 0-11"),
        (("front-ends:0-4", "models:3-7"), "the front-ends and the models both have cores 3-4: give each part"),
        (("front-ends:1", "models:1"), "both have core 1: "),
    ],
)
def test_bad_values_say_what_is_wrong(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(*texts)
    assert message in caught.value.message
    assert caught.value.message.startswith('Bad option: "--cpu-affinity".\n')


def test_a_machine_without_numa_nodes(machine: Path) -> None:
    (machine / "node" / "online").unlink()
    with pytest.raises(UsageError, match="NUMA node 5 is not on this machine, which has no NUMA nodes"):
        settings("node5")


@pytest.mark.parametrize(
    ("texts", "count", "own", "instances"),
    [
        ((), "1", "", ""),
        (("0-3",), "1", "0-3", ""),
        (("0-3",), "2", "0-3", ""),
        (("front-ends:0",), "1", "0", "1-11"),
        (("front-ends:0-1",), "2", "2-11", ""),
    ],
)
def test_the_event_loop_is_the_front_end_of_one_process(
    texts: tuple[str, ...], count: str, own: str, instances: str
) -> None:
    found = settings(*texts, frontend_processes=count)
    assert (module.ranges(own_cores(found)), module.ranges(instance_cores(found))) == (own, instances)


@pytest.mark.parametrize(
    ("texts", "count", "quota", "cores"),
    [
        ((), "1", 0, 0),
        ((), "1", 5, 5),
        ((), "1", 64, 12),
        (("0-3",), "1", 0, 4),
        (("0-3",), "1", 2, 2),
        (("front-ends:0-1",), "1", 0, 10),
        (("front-ends:0-1",), "2", 0, 10),
        (("front-ends:0-1",), "2", 4, 4),
        ((), "2", 0, 10),
        ((), "6", 0, 6),
        ((), "10", 0, 6),
        ((), "2", 3, 2),
        (("0",), "2", 0, 1),
    ],
)
def test_engines_count_on_what_the_front_ends_leave(
    texts: tuple[str, ...], count: str, quota: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(*texts, frontend_processes=count)
    monkeypatch.setattr(module, "quota_cpus", lambda: quota)
    assert engine_cores(found) == cores


@pytest.mark.parametrize(
    ("texts", "front_ends", "models", "cores"),
    [((), "1", "2", 10), ((), "2", "2", 8), ((), "1", "12", 6), (("front-ends:0-1",), "2", "3", 7)],
)
def test_engines_count_on_what_model_processes_leave(
    texts: tuple[str, ...], front_ends: str, models: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(*texts, frontend_processes=front_ends, model_processes=models)
    monkeypatch.setattr(module, "quota_cpus", lambda: 0)
    assert engine_cores(found) == cores


@pytest.mark.parametrize(
    ("texts", "count"), [((), 6), (("0-3",), 2), (("front-ends:0-2",), 3), (("front-ends:1",), 1), (("5",), 1)]
)
def test_auto_is_a_front_end_for_each_core_that_they_are_given(texts: tuple[str, ...], count: int) -> None:
    assert settings(*texts, frontend_processes="auto").frontend_processes == count


@pytest.mark.parametrize(
    ("texts", "count", "quota", "told"),
    [
        ((), "1", 0, "the event loop and the models on cores 0-11; thread pools of engines count on all of them"),
        (
            ("front-ends:0-1",), "2", 4,
            "2 front-end processes on cores 0-1, the models on cores 2-11, with a quota of 4 CPUs; thread pools of "
            "engines count on 4 of them",
        ),
        (
            ("7",), "1", 1,
            "the event loop and the models on core 7, with a quota of 1 CPU; thread pools of engines count on 1 of "
            "them",
        ),
    ],
)  # fmt: skip
def test_the_log_has_the_division(
    texts: tuple[str, ...], count: str, quota: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(*texts, frontend_processes=count)
    monkeypatch.setattr(module, "quota_cpus", lambda: quota)
    assert division(found) == told


def test_nothing_is_bound_by_default() -> None:
    assert settings().cpu_affinity == Affinity()
