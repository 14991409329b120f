"""The garbage collector and the allocator of the serving process, set on purpose; what a container lets it have.

Both express lanes make no cyclic garbage (tests/unit/frontends), the slow lanes make some. So collection stays on with
Python's thresholds, over a heap that holds the requests and connections of the moment only: 53,000 objects of imports
and loaded models cost 5 ms of standstill in each full collection before `settle`, nothing after it.
Nothing of glibc's allocator is set, because nothing gave anything (bench/results/memory.md).
"""

from __future__ import annotations

import gc
from pathlib import Path


def settle() -> None:
    """To be called once, when what stays for the life of the process is there: models loaded, ports open."""
    gc.collect()
    gc.freeze()


def quota_cpus() -> int:
    """CPUs that the cgroup's quota comes to, rounded up; 0 when there is none. Engines that count cores overlook it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else -(-int(quota) // int(period))
