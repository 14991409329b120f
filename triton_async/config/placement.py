"""GPUs that a backend may use, and which configs have a use for them. Knows neither CUDA nor any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triton_async.config.model_config import InstanceKind


@dataclass(frozen=True, slots=True)
class PreferredGroup:
    """Instances that a backend would have where a config says nothing. `count` 0: as many as usual."""

    kind: InstanceKind
    count: int = 0
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpus:
    """What a backend may use. `problem`: why `usable` is empty, in plain words. `cpu_first`: only a group that names
    GPUs is on one. `preferred`: its groups, the best first.
    """

    usable: tuple[int, ...] = ()
    problem: str = "this server uses none"
    cpu_first: bool = False
    preferred: tuple[PreferredGroup, ...] = ()


# (backend name, whether the config names GPUs) -> its GPUs. May load CUDA: called once per config, and only for one
# that `may_use_gpus`.
FindGpus = Callable[[str, bool], Gpus]


def no_gpus(backend: str, named: bool) -> Gpus:
    """FindGpus of a server without GPUs."""
    return Gpus()


def may_use_gpus(proto: Any) -> bool:
    """Whether some instance group, not normalised yet, is to run on a GPU or on whatever there is."""
    if proto.HasField("ensemble_scheduling"):
        return False
    groups = proto.instance_group
    return not groups or any(group.kind in (InstanceKind.AUTO, InstanceKind.GPU) for group in groups)


def names_gpus(proto: Any) -> bool:
    """Whether some instance group is on a GPU by its kind or its list."""
    return any(group.kind == InstanceKind.GPU or group.gpus for group in proto.instance_group)
