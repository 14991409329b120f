"""The machine's processors and memory, as the kernel tells of them in /proc. Loop thread: nothing there blocks."""

from __future__ import annotations

import time
from pathlib import Path

from triton_async.core.families import Family


class CpuMetrics:
    """The families nv_cpu_*. `interval_s`: between two readings of the processors' times."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._at = time.monotonic()
        self._busy, self._total = _cpu_times()
        self._value = 0.0

    def families(self) -> list[Family]:
        """What they are now."""
        total, available = _memory()
        return [
            ("nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]", [({}, self._utilization())]),
            ("nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes", [({}, total)]),
            ("nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes", [({}, total - available)]),
        ]

    def _utilization(self) -> float:
        """Share of CPU time spent busy between the last two readings; 0.0 before the first interval is over."""
        now = time.monotonic()
        if now - self._at >= self._interval_s:
            busy, total = _cpu_times()
            if total > self._total:
                self._value = (busy - self._busy) / (total - self._total)
            self._at, self._busy, self._total = now, busy, total
        return self._value


def _cpu_times() -> tuple[int, int]:
    """Busy and all clock ticks of all CPUs; guest time is part of user time and must not count twice."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _memory() -> tuple[int, int]:
    """Bytes of memory that there are, and that could be had."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in found:
            found[key] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found["MemAvailable"]
