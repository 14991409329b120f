"""Which cores the parts of a server run on (--cpu-affinity), and how many its engines may count on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from triton_async.cgroup import quota_cpus

if TYPE_CHECKING:
    from triton_async.config.settings import Settings

FRONT_ENDS, MODELS = "front-ends", "models"
NONE = "none"

_PARTS = (FRONT_ENDS, MODELS)
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?\Z", re.ASCII)
_NODE = re.compile(r"node([0-9]{1,5})\Z", re.ASCII)
_MACHINE = Path("/sys/devices/system")


class AffinityProblem(ValueError):
    """A value that can not be; its text says how it is to be."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """Cores of each part, ascending: the same of both where the server is not divided, () for any."""

    front_ends: tuple[int, ...] = ()
    models: tuple[int, ...] = ()

    @property
    def divided(self) -> bool:
        """Whether the parts have cores of their own."""
        return self.front_ends != self.models


ANYWHERE = Affinity()


def parse_affinity(texts: Sequence[str]) -> Affinity:
    """`none`, `<cores>` of the whole server, or `<part>:<cores>`, and the other part gets the other cores. A later text
    for a part wins, and `none` over all before it. AffinityProblem, for cores that are not to be had, too.
    """
    given: dict[str, str] = {}
    for text in texts:
        if text == NONE:
            given.clear()
            continue
        part, colon, cores = text.rpartition(":")
        if colon and part not in _PARTS:
            raise AffinityProblem(f"the parts of a server are {FRONT_ENDS} and {MODELS}. Got {text}")
        given[part] = cores
    if not given:
        return ANYWHERE
    if "" in given and len(given) > 1:
        raise AffinityProblem(f"give the cores of the whole server or those of its parts. Got {', '.join(texts)}")
    allowed = os.sched_getaffinity(0)
    found = {part: _cores(cores, allowed) for part, cores in given.items()}
    if "" in found:
        whole = tuple(sorted(found[""]))
        return Affinity(whole, whole)
    for part, other in (_PARTS, _PARTS[::-1]):
        if part in found and other not in found:
            found[other] = allowed - found[part]
            if not found[other]:
                raise AffinityProblem(f"no core is left for the {other}: this process may use {ranges(allowed)}")
    shared = found[FRONT_ENDS] & found[MODELS]
    if shared:
        raise AffinityProblem(
            f"the {FRONT_ENDS} and the {MODELS} both have {_named(shared)}: give each part cores of its own, or name "
            "no part"
        )
    return Affinity(tuple(sorted(found[FRONT_ENDS])), tuple(sorted(found[MODELS])))


def _cores(text: str, allowed: set[int]) -> set[int]:
    cores: set[int] = set()
    for piece in text.split(","):
        node = _NODE.match(piece)
        if node is not None:
            cores |= _of_node(int(node[1]), allowed)
            continue
        match = _RANGE.match(piece)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise AffinityProblem(
                f"cores are <core>, <first>-<last> or node<NUMA node>, with commas in between. Got {text!r}"
            )
        cores |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    there = _read(_MACHINE / "cpu" / "online") or allowed
    for missing, why in (
        (cores - there, f"not on this machine, which has {ranges(there)}"),
        (cores - allowed, f"not for this process, which its container or who started it lets use {ranges(allowed)}"),
    ):
        if missing:
            raise AffinityProblem(f"{_named(missing)}: {why}")
    return cores


def _of_node(node: int, allowed: set[int]) -> set[int]:
    """Those of a NUMA node that may be used."""
    found = _read(_MACHINE / "node" / f"node{node}" / "cpulist")
    if found is None:
        nodes = _read(_MACHINE / "node" / "online")
        have = "no NUMA nodes" if nodes is None else f"{'node' if len(nodes) == 1 else 'nodes'} {ranges(nodes)}"
        raise AffinityProblem(f"NUMA node {node} is not on this machine, which has {have}")
    if not found & allowed:
        raise AffinityProblem(f"no core of NUMA node {node} is for this process, which may use {ranges(allowed)}")
    return found & allowed


def _read(file: Path) -> set[int] | None:
    """The numbers of a list as the kernel writes it; None where there is no such file."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    found: set[int] = set()
    for piece in filter(None, text.split(",")):
        first, _, last = piece.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _named(cores: set[int]) -> str:
    return f"{'core' if len(cores) == 1 else 'cores'} {ranges(cores)}"


def ranges(cores: Iterable[int]) -> str:
    """`0-3,8` of numbers."""
    found: list[list[int]] = []
    for core in sorted(cores):
        if found and core == found[-1][1] + 1:
            found[-1][1] = core
        else:
            found.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def own_cores(settings: Settings) -> tuple[int, ...]:
    """Those that the process of the models runs on, () for any: with one process its event loop is the front-end."""
    affinity = settings.cpu_affinity
    return affinity.front_ends if settings.frontend_processes == 1 else affinity.models


def instance_cores(settings: Settings) -> tuple[int, ...]:
    """Those that the threads of models run on, where they are others than the process's; else ()."""
    affinity = settings.cpu_affinity
    return affinity.models if affinity.divided and settings.frontend_processes == 1 else ()


def engine_cores(settings: Settings) -> int:
    """How many cores the engines may count on, where neither a model nor --backend-config says how many threads; 0:
    all that an engine finds. Front-end and model processes have a core each, but not more than half of all.
    """
    affinity, quota = settings.cpu_affinity, quota_cpus()
    cores = len(affinity.models or os.sched_getaffinity(0))
    cores = min(cores, quota or cores)
    others = [settings.model_processes] if affinity.divided else [settings.model_processes, settings.frontend_processes]
    taken = sum(count for count in others if count > 1)
    if taken:
        return max(cores - taken, (cores + 1) // 2)
    return cores if quota or affinity.models else 0


def division(settings: Settings) -> str:
    """What is in force, in words, for the log."""
    affinity, quota = settings.cpu_affinity, quota_cpus()
    count = settings.frontend_processes
    loop = "the event loop" if count == 1 else f"{count} front-end processes"
    if affinity.divided:
        told = f"{loop} on {_named(set(affinity.front_ends))}, the models on {_named(set(affinity.models))}"
    else:
        told = f"{loop} and the models on {_named(set(affinity.models) or os.sched_getaffinity(0))}"
    if settings.model_processes > 1:
        told += f", Python models in {settings.model_processes} processes"
    if quota:
        told += f", with a quota of {quota} CPU{'' if quota == 1 else 's'}"
    engines = engine_cores(settings)
    return f"{told}; thread pools of engines count on {engines or 'all'} of them"
