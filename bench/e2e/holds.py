"""What a server and all that it started hold of the system, to see that nothing is left of those that are gone."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from .perf import family

# Memory that kills of processes may leave a server bigger by: what allocators keep, not what is lost for each of them.
SLACK_MB = 24.0


@dataclass(frozen=True)
class Holds:
    """Counts of all processes together, but for `descriptors` and `resident_mb`, which are the server's own process's.

    `memory_files`: open ones and mapped ones. `proportional_mb`: memory that processes share counts once.
    """

    processes: int
    descriptors: int
    memory_files: int
    resident_mb: float
    proportional_mb: float

    def same_as(self, before: Holds) -> bool:
        """Nothing is left: what can be counted is as before, memory about."""
        return (
            (self.processes, self.memory_files) == (before.processes, before.memory_files)
            and self.descriptors <= before.descriptors
            and self.resident_mb <= before.resident_mb + SLACK_MB
            and self.proportional_mb <= before.proportional_mb + SLACK_MB
        )

    def row(self, name: str) -> str:
        """A line of a table."""
        return (
            f"| {name} | {self.processes} | {self.descriptors} | {self.memory_files} | {self.resident_mb:.1f} | "
            f"{self.proportional_mb:.1f} |"
        )


HEAD = (
    "| | processes | descriptors, server | memory files, all | resident MB, server | proportional MB, all |\n"
    "|---|---|---|---|---|---|"
)


def holds(server: int) -> Holds:
    """Of the process with this id and its descendants."""
    pids = family(server)
    files, proportional_kb = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it may end meanwhile
            files += sum("/memfd:" in link for link in _links(pid))
            files += Path(f"/proc/{pid}/maps").read_text().count("/memfd:")
            proportional_kb += _kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    own_kb = _kb(Path(f"/proc/{server}/status"), "VmRSS:")
    return Holds(len(pids), len(_links(server)), files, own_kb / 1024, proportional_kb / 1024)


def _links(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"{folder}/{name}"))
    return found


def _kb(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))
