"""Session settings of a model: its config's parameters and the --backend-config settings, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from triton_async.backends.onnxruntime.providers import Provider, providers
from triton_async.cgroup import quota_cpus
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.errors import InvalidArg, ServerError

# optimization.graph.level -> GraphOptimizationLevel.
_LEVELS = {-1: 1, 0: 99, 1: 2, 2: 0}

# Parameters that go to the session as they are, and those among them that are about its threads.
_SESSION_PREFIXES = ("session.", "optimization.", "mlas.")
_THREAD_PREFIXES = ("session.intra_op", "session.inter_op")

# Idle pool threads that spin take the cores from the event loop and from other models' threads.
_QUIET = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}

_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"


class ThreadPools(NamedTuple):
    """Pools that sessions share: threads of each, 0 for the engine's choice. `for_all`: also for models that set
    something about threads, which get pools of their own else.
    """

    intra_op_threads: int
    inter_op_threads: int
    for_all: bool = True


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to make a session. `own_threads`: it has pools of its own, of these sizes (0: the engine's choice), where it
    does not have to share. `graph_level`: ONNX Runtime's number. `operators`: paths of libraries that have some.
    `device`: the GPU that it runs on, -1 for the CPU.
    """

    own_threads: bool = True
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    parallel: bool = False
    graph_level: int = 99
    mem_arena: bool = True
    mem_pattern: bool = True
    shared: bool = True
    entries: tuple[tuple[str, str], ...] = ()
    run_entries: tuple[tuple[str, str], ...] = ()
    providers: tuple[Provider, ...] = ()
    operators: tuple[str, ...] = ()
    device: int = -1


# For a look at what a model declares, without a config: nothing is optimised, no weight repacked, no thread started.
INSPECT = SessionSettings(
    intra_op_threads=1, inter_op_threads=1, graph_level=0, entries=(("session.disable_prepacking", "1"),)
)


def session_settings(
    config: ModelConfig, kind: InstanceKind = InstanceKind.CPU, device: int = 0, cores: int = 0
) -> SessionSettings:
    """Settings of a model's sessions for instances of this kind, on this GPU. InvalidArg, naming model and
    parameter, for a value that can not be. On the CPU they do not depend on what a config says of inputs and outputs.
    `cores`: see `usable_cores`.
    """
    if config.graph_level not in _LEVELS:
        raise InvalidArg(
            f"model '{config.name}': optimization.graph.level is {config.graph_level}, ONNX Runtime knows -1 "
            "(basic), 0 (all), 1 (extended) and 2 (none)"
        )
    parameters = config.parameters
    where = f"model '{config.name}': parameter"
    # The engine's CPU arena never gives back what one large request took, and costs as much as the C library's
    # allocator. Who asks for its shrinkage wants it.
    arena = _flag(
        where, parameters, "enable_mem_arena",
        kind is InstanceKind.GPU or "cpu:0" in parameters.get(_ARENA_SHRINKAGE, ""),
    )  # fmt: skip
    intra_op_threads = _count(where, parameters, "intra_op_thread_count")
    inter_op_threads = _count(where, parameters, "inter_op_thread_count")
    parallel = _execution_mode(where, parameters)
    # The engine keeps a memory plan for each shape it has seen, for as long as it lives: with dims that requests
    # choose that is a leak that clients control. On the CPU no run is any faster with one.
    patterns = kind is InstanceKind.GPU and not any(-1 in io.model_dims for io in config.engine_inputs)
    return SessionSettings(
        own_threads=bool(intra_op_threads or inter_op_threads or parallel) or any(map(_about_threads, parameters)),
        # The engine's own choice would pin its threads to cores, the same ones for every model, and knows nothing of
        # a container's CPU quota.
        intra_op_threads=intra_op_threads or usable_cores(cores),
        inter_op_threads=inter_op_threads,
        parallel=parallel,
        graph_level=_LEVELS[config.graph_level],
        mem_arena=arena,
        mem_pattern=_flag(where, parameters, "enable_mem_pattern", patterns),
        shared=_flag(where, parameters, "share_session_between_instances", True),
        entries=_entries(parameters),
        run_entries=_run_entries(where, parameters, arena, device if kind is InstanceKind.GPU else -1),
        providers=_providers(config, kind, device),
        device=device if kind is InstanceKind.GPU else -1,
    )


def thread_pools(backend_config: Mapping[str, str], cores: int = 0) -> ThreadPools | None:
    """The pools that sessions share; None when each session is to have its own. `cores`: see `usable_cores`."""
    where = "--backend-config=onnxruntime"
    shared = _flag(where, backend_config, "enable-global-threadpool", True)
    intra_op_threads = _count(where, backend_config, "intra_op_thread_count") or usable_cores(cores)
    for_all = "enable-global-threadpool" in backend_config
    # Inter-op threads are for models of parallel execution, which may have their own.
    inter_op_threads = _count(where, backend_config, "inter_op_thread_count") or (0 if for_all else 1)
    return ThreadPools(intra_op_threads, inter_op_threads, for_all) if shared else None


def usable_cores(cores: int = 0) -> int:
    """Physical cores that this process may use, at most `cores`: affinity and a cgroup's CPU quota counted in."""
    found = _physical_cores()
    return max(1, min(found, cores or quota_cpus() or found))


@cache
def _physical_cores() -> int:
    """As of the first call."""
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _about_threads(key: str) -> bool:
    return key.startswith(_THREAD_PREFIXES)


def _siblings(cpu: int) -> str:
    # Two hyper-threads of a core share its vector units: a second compute thread there only gets in the way.
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _entries(parameters: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    given = {key: value for key, value in parameters.items() if key.startswith(_SESSION_PREFIXES)}
    return tuple({**_QUIET, **given}.items())


def _providers(config: ModelConfig, kind: InstanceKind, device: int) -> tuple[Provider, ...]:
    try:
        return providers(config, kind, device)
    except ServerError as error:
        raise type(error)(f"model '{config.name}': {error.message}") from None


def _run_entries(
    where: str, parameters: Mapping[str, str], arena: bool, device: int
) -> tuple[tuple[str, str], ...]:
    value = parameters.get(_ARENA_SHRINKAGE, "")
    if not value:
        return ()
    if not re.fullmatch(r"(cpu:0|gpu:[0-9]{1,4})(;(cpu:0|gpu:[0-9]{1,4}))*", value, re.ASCII):
        raise InvalidArg(f"{where} '{_ARENA_SHRINKAGE}' is '{value}', expected arenas such as 'cpu:0;gpu:0'")
    arenas = value.split(";")
    if "cpu:0" in arenas and not arena:
        raise InvalidArg(f"{where} '{_ARENA_SHRINKAGE}' needs 'enable_mem_arena'")
    # A session refuses the name of an arena that it does not have.
    mine = [name for name in arenas if name in ("cpu:0", f"gpu:{device}")]
    return ((_ARENA_SHRINKAGE, ";".join(mine)),) if mine else ()


def _execution_mode(where: str, parameters: Mapping[str, str]) -> bool:
    value = parameters.get("execution_mode", "0").strip()
    if value not in ("0", "1"):
        raise InvalidArg(f"{where} 'execution_mode' is '{value}', expected 0 (sequential) or 1 (parallel)")
    return value == "1"


def _count(where: str, settings: Mapping[str, str], key: str) -> int:
    value = settings.get(key, "0").strip()
    if not (value.isascii() and value.isdigit()) or int(value) > 1024:
        raise InvalidArg(f"{where} '{key}' is '{value}', expected a number of threads, 0 for the default")
    return int(value)


def _flag(where: str, settings: Mapping[str, str], key: str, default: bool) -> bool:
    value = settings.get(key)
    if value is None:
        return default
    lowered = value.strip().lower()
    if lowered not in ("0", "1", "true", "false"):
        raise InvalidArg(f"{where} '{key}' is '{value}', expected true, false, 1 or 0")
    return lowered in ("1", "true")
