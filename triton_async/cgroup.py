"""What the container lets this process have, as far as libraries overlook it. Read anew at each call; any thread."""

from __future__ import annotations

import os
from pathlib import Path


def memory_limit() -> int:
    """Bytes of memory that this process may use: the cgroup's limit, or those of the machine where there is none."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        return machine if text == "max" else min(int(text), machine)
    return machine


def quota_cpus() -> int:
    """CPUs that the cgroup's quota comes to, rounded up; 0 when there is none. Engines that count cores overlook it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else -(-int(quota) // int(period))
