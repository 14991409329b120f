"""What the container lets this process have, as far as libraries overlook it. Read anew at each call; any thread."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Bytes of memory that this process may use: the cgroup's limit, or those of the machine where there is none."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(name)
        if text:
            return machine if text == "max" else min(int(text), machine)
    return machine


def quota_cpus() -> int:
    """CPUs that the cgroup's quota comes to, rounded up; 0 when there is none. Engines that count cores overlook it."""
    # The second version has both in one file, and `max` for none; the first has -1.
    quota, _, period = _read("cpu.max").partition(" ")
    quota, period = quota or _read("cpu/cpu.cfs_quota_us"), period or _read("cpu/cpu.cfs_period_us")
    return -(-int(quota) // int(period)) if quota.isdigit() and period.isdigit() else 0


def _read(name: str) -> str:
    """A file's text; "" where there is none."""
    try:
        return (_FOLDER / name).read_text().strip()
    except OSError:
        return ""
