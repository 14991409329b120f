"""Huge pages under memory in use: only there, only so many, contents as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from triton_async.memory import huge_pages

SCRIPT = """
import mmap, os, sys
from triton_async.memory.huge_pages import collapse

PAGE, HUGE = mmap.PAGESIZE, 2 << 20
used, unused = (mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2))
pattern = os.urandom(PAGE)
for at in range(0, len(used), PAGE):
    used[at:at + PAGE] = pattern
for at in range(0, len(unused), HUGE):
    unused[at] = 1

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

before = resident()
most = int(sys.argv[1])
done = collapse(most)
print(done, resident() - before, all(used[at:at + PAGE] == pattern for at in range(0, len(used), PAGE)))
"""


def _can() -> str:
    """Why huge pages cannot be had here, or nothing."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        return "huge pages are off on this machine"
    if tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) < (6, 1):
        return "the kernel is older than 6.1"
    return ""


def _run(most: int) -> tuple[int, int, bool]:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(most)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    return int(found[0]), int(found[1]), found[2] == "True"


@pytest.mark.skipif(bool(_can()), reason=_can() or "-")
def test_memory_in_use_gets_huge_pages_and_memory_that_is_not_stays_unused() -> None:
    done, more_kib, same = _run(1 << 30)
    assert done >= 12 << 20
    assert same
    assert more_kib < 6 << 10  # a quarter of what was done, at most; far from the 16 MiB that nobody has touched


@pytest.mark.skipif(bool(_can()), reason=_can() or "-")
def test_no_more_than_was_asked_for() -> None:
    done, _, same = _run(5 << 20)
    assert done == 4 << 20
    assert same


def test_a_kernel_that_knows_no_such_call_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_MADV_COLLAPSE", 9999)
    assert huge_pages.collapse() == 0


def test_a_system_that_says_never_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_SETTING", str(setting))
    assert huge_pages.collapse() == 0
