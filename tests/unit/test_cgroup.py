"""What a container's limits come to, by the files of both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_async import cgroup


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "_FOLDER", tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000", 0), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("50000 25000", 2), ("", 0)],
)
def test_a_quota_is_rounded_up(folder: Path, text: str, cpus: int) -> None:
    write(folder, "cpu.max", text)
    assert cgroup.quota_cpus() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 0), ("300000", 3), ("250000", 3), ("", 0)])
def test_so_is_one_of_the_first_version(folder: Path, quota: str, cpus: int) -> None:
    write(folder, "cpu/cpu.cfs_quota_us", quota)
    write(folder, "cpu/cpu.cfs_period_us", "100000")
    assert cgroup.quota_cpus() == cpus


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_what_the_container_has_but_no_more_than_the_machine(folder: Path, name: str) -> None:
    machine = cgroup.memory_limit()
    write(folder, name, "1048576")
    assert cgroup.memory_limit() == 1048576
    write(folder, name, str(1 << 62))
    assert cgroup.memory_limit() == machine
    write(folder, name, "max")
    assert cgroup.memory_limit() == machine


def test_there_need_be_no_limits(folder: Path) -> None:
    assert cgroup.quota_cpus() == 0 and cgroup.memory_limit() > 0
