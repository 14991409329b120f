"""Session settings of a model: its config's parameters and the --backend-config settings, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from triton_async.backends.onnxruntime.providers import Provider, providers
from triton_async.cgroup import quota_cpus
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.errors import InvalidArg, ServerError

# optimization.graph.level -> GraphOptimizationLevel.
_LEVELS = {-1: 1, 0: 99, 1: 2, 2: 0}

# Parameters that go to the session as they are.
_SESSION_PREFIXES = ("session.", "optimization.", "mlas.")

# Idle pool threads that spin take the cores from the event loop and from other models' threads.
_QUIET = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}

_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to make a session. Thread counts 0: the engine's choice. `graph_level`: ONNX Runtime's number. `device`:
    the GPU that it runs on, -1 for the CPU.
    """

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
    device: int = -1


# Reads what a model declares: nothing is optimised, no weight repacked and no thread started.
INSPECT = SessionSettings(
    intra_op_threads=1, inter_op_threads=1, graph_level=0, entries=(("session.disable_prepacking", "1"),)
)


def session_settings(
    config: ModelConfig, kind: InstanceKind = InstanceKind.CPU, device: int = 0
) -> SessionSettings:
    """Settings of a model's sessions for instances of this kind, on this GPU. InvalidArg, naming model and
    parameter, for a value that can not be.
    """
    if config.graph_level not in _LEVELS:
        raise InvalidArg(
            f"model '{config.name}': optimization.graph.level is {config.graph_level}, ONNX Runtime knows -1 "
            "(basic), 0 (all), 1 (extended) and 2 (none)"
        )
    parameters = config.parameters
    where = f"model '{config.name}': parameter"
    arena = _flag(where, parameters, "enable_mem_arena", True)
    # The engine keeps a memory plan for each shape it has seen, for as long as it lives: with dims that requests
    # choose that is a leak that clients control.
    dynamic = any(-1 in io.model_dims for io in config.inputs)
    return SessionSettings(
        # Sessions of one model share the pool; the engine's own choice would pin its threads to cores, the same
        # ones for every model, and knows nothing of a container's CPU quota.
        intra_op_threads=_count(where, parameters, "intra_op_thread_count") or usable_cores(),
        inter_op_threads=_count(where, parameters, "inter_op_thread_count"),
        parallel=_execution_mode(where, parameters),
        graph_level=_LEVELS[config.graph_level],
        mem_arena=arena,
        mem_pattern=_flag(where, parameters, "enable_mem_pattern", not dynamic),
        shared=_flag(where, parameters, "share_session_between_instances", True),
        entries=_entries(parameters),
        run_entries=_run_entries(where, parameters, arena, device if kind is InstanceKind.GPU else -1),
        providers=_providers(config, kind, device),
        device=device if kind is InstanceKind.GPU else -1,
    )


def global_threads(backend_config: Mapping[str, str]) -> tuple[int, int] | None:
    """Intra-op and inter-op thread counts of the pools that all sessions share; None when each has its own."""
    where = "--backend-config=onnxruntime"
    if not _flag(where, backend_config, "enable-global-threadpool", False):
        return None
    return (
        _count(where, backend_config, "intra_op_thread_count") or usable_cores(),
        _count(where, backend_config, "inter_op_thread_count"),
    )


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and a cgroup's CPU quota counted in."""
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    return max(1, min(len(cores), quota_cpus() or len(cores)))


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
