"""What the container lets this process have, as far as libraries overlook it. Read anew at each call; any thread."""

from __future__ import annotations

from pathlib import Path


def quota_cpus() -> int:
    """CPUs that the cgroup's quota comes to, rounded up; 0 when there is none. Engines that count cores overlook it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else -(-int(quota) // int(period))
