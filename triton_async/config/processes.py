"""Into how many processes a server is divided."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from triton_async.addresses import unix_path
from triton_async.cgroup import quota_cpus
from triton_async.config.affinity import ANYWHERE, Affinity
from triton_async.config.trace_config import OPENTELEMETRY

if TYPE_CHECKING:
    from triton_async.config.settings import Settings

# Each has its own memory and sockets, and more of them than cores only wait for each other.
MAX_FRONTENDS = 64
MAX_MODEL_PROCESSES = 64

# Cores for each front-end of `auto`: the models need some, too.
CORES_PER_FRONTEND = 2

AUTO = "auto"


class ProcessProblem(Exception):
    """What is wrong with a count of processes."""


def usable_cores() -> int:
    """Those that this process may use, by its affinity and its quota."""
    return max(1, min(len(os.sched_getaffinity(0)), quota_cpus() or 1 << 30))


def parse_count(text: str, affinity: Affinity = ANYWHERE) -> int:
    """Front-end processes. ProcessProblem."""
    if text == AUTO:
        if affinity.divided:
            return max(1, min(len(affinity.front_ends), quota_cpus() or MAX_FRONTENDS, MAX_FRONTENDS))
        cores = min(usable_cores(), len(affinity.models) or MAX_FRONTENDS * CORES_PER_FRONTEND)
        return max(1, min(cores // CORES_PER_FRONTEND, MAX_FRONTENDS))
    return _count(text, "front-end", MAX_FRONTENDS)


def parse_model_count(text: str, front_ends: int = 1, affinity: Affinity = ANYWHERE) -> int:
    """Model processes, beside so many front-ends. ProcessProblem."""
    if text != AUTO:
        return _count(text, "model", MAX_MODEL_PROCESSES)
    cores = min(usable_cores(), len(affinity.models) or MAX_FRONTENDS + MAX_MODEL_PROCESSES)
    if not affinity.divided:
        cores -= front_ends
    return max(1, min(cores, MAX_MODEL_PROCESSES))


def _count(text: str, what: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise ProcessProblem(f"the number of {what} processes is 1 to {most}, or auto. Got {text}")
    return int(text)


def process_problem(settings: Settings) -> str | None:
    """What front-end processes can not be combined with."""
    if settings.frontend_processes == 1:
        return None
    count = f"--frontend-processes={settings.frontend_processes}"
    for allowed, name, address in (
        (settings.allow_http, "http-address", settings.http_address),
        (settings.allow_grpc, "grpc-address", settings.grpc_address),
    ):
        if allowed and unix_path(address) is not None:
            return f"Error: {count} needs a port that processes can share, and --{name}={address} is a socket file."
    if settings.trace.file or settings.trace.mode == OPENTELEMETRY:
        return (
            f"Error: {count} and tracing (--trace-config=triton,file=… or mode=opentelemetry) can not be combined: use "
            "--frontend-processes=1 to trace."
        )
    if settings.model_namespacing:
        return f"Error: {count} and --model-namespacing can not be combined: use --frontend-processes=1."
    if not settings.allow_http and not settings.allow_grpc:
        return f"Error: {count} needs --allow-http or --allow-grpc: there is nothing for front-end processes to do."
    return None
