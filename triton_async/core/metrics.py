"""Prometheus text of the server: Triton's `nv_*` families with its labels, and our live-object gauges.

Rendered from plain counters when somebody scrapes, some models at a time; the request path knows nothing of it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.config.settings import Settings
from triton_async.core.families import add_family, family_head, label_text
from triton_async.core.host import Host
from triton_async.core.lifecycle import LoadedVersion
from triton_async.core.placement import gpus_in_use
from triton_async.core.repository import ModelRepository
from triton_async.defines import METRICS_MODELS_PER_TURN
from triton_async.infer.batch import live_batches
from triton_async.infer.request import live_requests
from triton_async.infer.response import live_responses
from triton_async.infer.tensor import live_tensors
from triton_async.memory.buffer import live_buffers

_DURATIONS = {
    "request": "Cumulative inference request duration in microseconds (includes cached requests)",
    "queue": "Cumulative inference queuing duration in microseconds (includes cached requests)",
    "compute_input": "Cumulative compute input duration in microseconds (does not include cached requests)",
    "compute_infer": "Cumulative compute inference duration in microseconds (does not include cached requests)",
    "compute_output": "Cumulative inference compute output duration in microseconds (does not include cached "
    "requests)",
}
_SUCCESS, _FAILURE = "nv_inference_request_success", "nv_inference_request_failure"
_COUNT, _EXECUTIONS = "nv_inference_count", "nv_inference_exec_count"
_PENDING, _LOAD = "nv_inference_pending_request_count", "nv_model_load_duration_secs"
# Families of models, in the order of the page: name -> type and text.
_FAMILIES = {
    _SUCCESS: ("counter", "Number of successful inference requests, all batch sizes"),
    _FAILURE: ("counter", "Number of failed inference requests, all batch sizes"),
    _COUNT: ("counter", "Number of inferences performed (does not include cached requests)"),
    _EXECUTIONS: ("counter", "Number of model executions performed (does not include cached requests)"),
    **{f"nv_inference_{key}_duration_us": ("counter", text) for key, text in _DURATIONS.items()},
    _PENDING: ("gauge", "Instantaneous number of pending requests awaiting execution per-model."),
    _LOAD: ("gauge", "Model load time in seconds"),
}
# Of models whose answers are cached, in the order of ModelStatistics.cached.
_CACHE_FAMILIES = {
    "nv_cache_num_hits_per_model": ("counter", "Number of cache hits per model"),
    "nv_cache_num_misses_per_model": ("counter", "Number of cache misses per model"),
    "nv_cache_hit_duration_per_model": ("counter", "Total cache hit duration per model, in microseconds"),
    "nv_cache_miss_duration_per_model": ("counter", "Total cache miss duration per model, in microseconds"),
}


class Metrics:
    """The /metrics page. Loop thread."""

    def __init__(self, settings: Settings, repository: ModelRepository, host: Host) -> None:
        self._settings = settings
        self._machine = host
        self._repository = repository
        self._cpu = CpuUtilization(settings.metrics_interval_ms / 1000)

    async def render(self) -> bytes:
        """The whole page, UTF-8. In turns: others are served between some models and the next ones."""
        page = bytearray()
        for lines in await self._models():
            page += _text(lines)
            await asyncio.sleep(0)
        lines = []
        if self._settings.allow_cpu_metrics:
            self._host(lines)
        total, used = self._machine.pools.pinned_usage()
        add_family(lines, "nv_pinned_memory_pool_total_bytes", "gauge", "Pinned memory pool size, in bytes",
                   [({}, total)])  # fmt: skip
        add_family(lines, "nv_pinned_memory_pool_used_bytes", "gauge", "Pinned memory pool in use, in bytes",
                   [({}, used)])  # fmt: skip
        for source in self._machine.metric_sources:
            for name, kind, text, samples in source():
                add_family(lines, name, kind, text, samples)
        live = {
            "request": live_requests(),
            "response": live_responses(),
            "batch": live_batches(),
            "tensor": live_tensors(),
            "lease": live_buffers(),
        }
        add_family(
            lines, "triton_async_live_objects", "gauge", "Objects of the request path that are alive",
            [({"kind": kind}, count) for kind, count in live.items()],
        )  # fmt: skip
        return bytes(page + _text(lines))

    async def _models(self) -> list[list[str]]:
        """The lines of each family of models."""
        families = {
            name: family_head(name, kind, text)
            for name, (kind, text) in _FAMILIES.items()
            if self._settings.counter_latencies or not name.endswith("_duration_us")
        }
        if self._machine.cache is not None:
            families |= {name: family_head(name, kind, text) for name, (kind, text) in _CACHE_FAMILIES.items()}
        for index, name in enumerate(sorted(self._repository.models), 1):
            for _, loaded in self._repository.ready_versions(name):
                self._add(families, name, loaded)
            if index % METRICS_MODELS_PER_TURN == 0:
                await asyncio.sleep(0)
        return list(families.values())

    def _add(self, families: dict[str, list[str]], name: str, loaded: LoadedVersion) -> None:
        """Adds the samples of one version, to those of `families` that there are."""
        statistics = loaded.model.statistics
        labels = loaded.labels or self._labels(name, loaded)
        front, _, version = labels.rpartition(",")
        succeeded, failed, spent = statistics.counters()
        families[_SUCCESS].append(f"{_SUCCESS}{{{labels}}} {succeeded}")
        families[_FAILURE] += [
            f'{_FAILURE}{{{front},reason="{reason}",{version}}} {number}' for reason, number in failed.items()
        ]
        families[_COUNT].append(f"{_COUNT}{{{labels}}} {statistics.inference_count}")
        families[_EXECUTIONS].append(f"{_EXECUTIONS}{{{labels}}} {statistics.execution_count}")
        if self._settings.counter_latencies:
            for key, microseconds in spent.items():
                family = f"nv_inference_{key}_duration_us"
                families[family].append(f"{family}{{{labels}}} {microseconds}")
        if loaded.model.cache is not None:
            for family, number in zip(_CACHE_FAMILIES, statistics.cached(), strict=True):
                families[family].append(f"{family}{{{labels}}} {number}")
        families[_PENDING].append(f"{_PENDING}{{{labels}}} {loaded.model.pending}")
        families[_LOAD].append(f"{_LOAD}{{{labels}}} {round(loaded.load_secs, 6)}")

    def _labels(self, name: str, loaded: LoadedVersion) -> str:
        """Labels of a version as text; `version` stands last. Kept, unless its GPU is not known yet."""
        config = loaded.model.config
        gpu = self._gpu_label(config)
        tags = {f"_{key}": value for key, value in config.metric_tags.items()}
        text = label_text({"model": name, "version": str(loaded.version), **tags, **gpu})
        if gpu or not gpus_in_use(config):
            loaded.labels = text
        return text

    def _gpu_label(self, config: ModelConfig) -> dict[str, str]:
        """Triton's label of what runs on one GPU. Our series are of a model, so one on several has none."""
        gpus = gpus_in_use(config)
        alone = len(gpus) == 1 and all(group.kind is InstanceKind.GPU for group in config.instance_groups)
        uuid = self._machine.gpu_uuid(gpus[0]) if alone else ""
        return {"gpu_uuid": uuid} if uuid else {}

    def _host(self, lines: list[str]) -> None:
        memory = _memory()
        add_family(lines, "nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]",
                [({}, self._cpu.value())])  # fmt: skip
        add_family(lines, "nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes",
                [({}, memory["MemTotal"])])  # fmt: skip
        add_family(lines, "nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes",
                [({}, memory["MemTotal"] - memory["MemAvailable"])])  # fmt: skip


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


class CpuUtilization:
    """Share of CPU time spent busy between two readings of /proc/stat, at least `interval_s` apart."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._at = time.monotonic()
        self._busy, self._total = _cpu_times()
        self._value = 0.0

    def value(self) -> float:
        """0.0 to 1.0; 0.0 before the first interval is over."""
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


def _memory() -> dict[str, int]:
    """Bytes by field of /proc/meminfo."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in found:
            found[key] = int(rest.split()[0]) * 1024
    return found
