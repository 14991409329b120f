"""Prometheus text of the server: Triton's `nv_*` families with its labels, our histograms and live-object gauges.

Rendered from plain counters when somebody scrapes, some models at a time; the request path knows nothing of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.config.settings import Settings
from triton_async.core.cache import LocalCache
from triton_async.core.carried import Counts, plus
from triton_async.core.cpu_metrics import CpuMetrics
from triton_async.core.families import Family, family_head, family_text, label_text, number
from triton_async.core.host import Host
from triton_async.core.latencies import Latencies
from triton_async.core.lifecycle import LoadedVersion
from triton_async.core.phases import CACHE_SUMMARIES, HISTOGRAMS, SUMMARIES
from triton_async.core.placement import gpus_in_use
from triton_async.core.repository import ModelRepository
from triton_async.defines import METRICS_PART_NBYTES, METRICS_TURN_NS
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
# Of models whose answers are cached, in the order of ModelStatistics.cached.
_CACHE_FAMILIES = {
    "nv_cache_num_hits_per_model": "Number of cache hits per model",
    "nv_cache_num_misses_per_model": "Number of cache misses per model",
    "nv_cache_hit_duration_per_model": "Total cache hit duration per model, in microseconds",
    "nv_cache_miss_duration_per_model": "Total cache miss (insert+lookup) duration per model, in microseconds",
}


class Metrics:
    """The /metrics page. Loop thread."""

    def __init__(self, settings: Settings, repository: ModelRepository, host: Host) -> None:
        self._wanted = settings.metrics
        self._machine = host
        self._repository = repository
        self._quantiles = [quantile for quantile, _ in self._wanted.summary_quantiles]
        self._shown_quantiles = [f',quantile="{number(quantile)}"' for quantile in self._quantiles]
        own: list[Callable[[], Iterable[Family]]] = [self._pinned, *host.metric_sources, _live_objects]
        if isinstance(host.cache, LocalCache):
            own.insert(1, partial(_of_cache, host.cache))
        if settings.allow_cpu_metrics:
            own.insert(0, CpuMetrics(settings.metrics_interval_ms / 1000).families)
        self._sources = own
        # Families of models in the order of the page: name -> the lines above its samples.
        self._heads = {name: family_head(name, kind, text) for name, kind, text in self._families()}

    async def render(self) -> list[bytes]:
        """The whole page, UTF-8, in parts. In turns: others are served between some models and the next ones."""
        page = _Page()
        families: dict[str, list[str]] = {name: [] for name in self._heads}
        now_ns = time.monotonic_ns()
        for key in sorted(self._repository.models):
            entry = self._repository.models[key]
            named = {"model": entry.name, **({"namespace": entry.namespace} if entry.namespace else {})}
            for _, loaded in self._repository.ready_versions(key):
                self._add(families, named, loaded, now_ns)
            await page.breathe()
        for name, head in self._heads.items():
            # Let go of family by family: freeing the lines of them all at once takes its time, too.
            lines = families.pop(name)
            page.write(head)
            for text in lines:
                page.write(text)
                await page.breathe()
        for source in self._sources:
            for family in source():
                page.write(family_text(family))
            await page.breathe()
        page.write(self._machine.metrics_text())
        return page.close()

    def made(self, name: str) -> str:
        """The samples of the families of this name that models and libraries have made."""
        text = "".join(map(family_text, self._machine.made_families(name)))
        # What libraries have is only there as text.
        known = self._machine.metrics_text()
        return text + "".join(line for line in known.splitlines(True) if line.startswith((f"{name}{{", f"{name} ")))

    def _families(self) -> Iterable[tuple[str, str, str]]:
        yield _SUCCESS, "counter", "Number of successful inference requests, all batch sizes"
        yield _FAILURE, "counter", "Number of failed inference requests, all batch sizes"
        yield _COUNT, "counter", "Number of inferences performed (does not include cached requests)"
        yield _EXECUTIONS, "counter", "Number of model executions performed (does not include cached requests)"
        if self._wanted.counter_latencies:
            for key, text in _DURATIONS.items():
                yield f"nv_inference_{key}_duration_us", "counter", text
        yield _PENDING, "gauge", "Instantaneous number of pending requests awaiting execution per-model."
        yield _LOAD, "gauge", "Model load time in seconds"
        for family in self._wanted.histograms({}):
            yield family, "histogram", HISTOGRAMS[family].text
        summaries = dict(SUMMARIES) if self._wanted.summary_latencies else {}
        if self._machine.cache is not None:
            for family, text in _CACHE_FAMILIES.items():
                yield family, "counter", text
            summaries |= CACHE_SUMMARIES if summaries else {}
        for family, (_, _, text) in summaries.items():
            yield family, "summary", text

    def _add(
        self, families: dict[str, list[str]], named: Mapping[str, str], loaded: LoadedVersion, now_ns: int
    ) -> None:
        """Adds the samples of one version, to those of `families` that there are. `named`: labels of its model."""
        statistics = loaded.model.statistics
        labels = loaded.labels or self._labels(named, loaded)
        front, _, version = labels.rpartition(",")
        earlier: Counts = {} if loaded.earlier is None else loaded.earlier.counts()
        succeeded, failed, spent = statistics.counters()
        done = succeeded, statistics.inference_count, statistics.execution_count
        succeeded, inferences, executions = plus(done, earlier.get(("requests", 0)))
        failed = dict(zip(failed, plus([*failed.values()], earlier.get(("failed", 0))), strict=True))
        families[_SUCCESS].append(f"{_SUCCESS}{{{labels}}} {succeeded}\n")
        families[_FAILURE] += [
            f'{_FAILURE}{{{front},reason="{reason}",{version}}} {count}\n' for reason, count in failed.items()
        ]
        families[_COUNT].append(f"{_COUNT}{{{labels}}} {inferences}\n")
        families[_EXECUTIONS].append(f"{_EXECUTIONS}{{{labels}}} {executions}\n")
        if self._wanted.counter_latencies:
            whole = plus([*spent.values()], earlier.get(("spent", 0)))
            for key, microseconds in zip(spent, whole, strict=True):
                family = f"nv_inference_{key}_duration_us"
                families[family].append(f"{family}{{{labels}}} {microseconds}\n")
        if loaded.model.cache is not None:
            cached = plus(statistics.cached(), earlier.get(("cached", 0)))
            for family, count in zip(_CACHE_FAMILIES, cached, strict=True):
                families[family].append(f"{family}{{{labels}}} {count}\n")
        families[_PENDING].append(f"{_PENDING}{{{labels}}} {loaded.model.pending}\n")
        families[_LOAD].append(f"{_LOAD}{{{labels}}} {round(loaded.load_secs, 6)}\n")
        if statistics.latencies is not None:
            self._add_histograms(families, labels, loaded.model.config, statistics.latencies, earlier)
            self._add_summaries(families, labels, statistics.latencies, earlier, now_ns)

    def _add_histograms(
        self,
        families: dict[str, list[str]],
        labels: str,
        config: ModelConfig,
        latencies: Latencies,
        earlier: Counts,
    ) -> None:
        for family, buckets in self._wanted.histograms(config.metric_buckets).items():
            phase, unit_ns, _ = HISTOGRAMS[family]
            found = latencies.histogram(phase)
            if found is None:
                continue
            *counts, sum_ns = plus([*found[0], found[1]], earlier.get(("histogram", phase)))
            bounds = (*map(number, buckets), "+Inf")
            families[family].append(
                f"{family}_count{{{labels}}} {counts[-1]}\n{family}_sum{{{labels}}} {number(sum_ns / unit_ns)}\n"
                + "".join(
                    f'{family}_bucket{{{labels},le="{bound}"}} {count}\n'
                    for bound, count in zip(bounds, counts, strict=True)
                )
            )

    def _add_summaries(
        self, families: dict[str, list[str]], labels: str, latencies: Latencies, earlier: Counts, now_ns: int
    ) -> None:
        for family, (phase, unit_ns, _) in (*SUMMARIES.items(), *CACHE_SUMMARIES.items()):
            found = latencies.summary(phase, self._quantiles, now_ns)
            if found is None:
                continue
            values = found[0]
            count, sum_ns = plus(found[1:], earlier.get(("summary", phase)))
            families[family].append(
                f"{family}_count{{{labels}}} {count}\n{family}_sum{{{labels}}} {number(sum_ns / unit_ns)}\n"
                + "".join(
                    f"{family}{{{labels}{quantile}}} {number(value / unit_ns)}\n"
                    for quantile, value in zip(self._shown_quantiles, values, strict=True)
                )
            )

    def _labels(self, named: Mapping[str, str], loaded: LoadedVersion) -> str:
        """Labels of a version as text; `version` stands last. Kept, unless its GPU is not known yet."""
        config = loaded.model.config
        gpu = self._gpu_label(config)
        tags = {f"_{key}": value for key, value in config.metric_tags.items()}
        text = label_text({**named, "version": str(loaded.version), **tags, **gpu})
        if gpu or not gpus_in_use(config):
            loaded.labels = text
        return text

    def _gpu_label(self, config: ModelConfig) -> dict[str, str]:
        """Triton's label of what runs on one GPU. Our series are of a model, so one on several has none."""
        gpus = gpus_in_use(config)
        alone = len(gpus) == 1 and all(group.kind is InstanceKind.GPU for group in config.instance_groups)
        uuid = self._machine.gpu_uuid(gpus[0]) if alone else ""
        return {"gpu_uuid": uuid} if uuid else {}

    def _pinned(self) -> list[Family]:
        total, used = self._machine.pools.pinned_usage()
        return [
            (f"nv_pinned_memory_pool_{what}_bytes", "gauge", f"Pinned memory pool {what} memory size, in bytes",
             [({}, nbytes)])
            for what, nbytes in (("total", total), ("used", used))
        ]


class _Page:
    """Text in parts of some size, and who asks when others are to be let on the loop."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._open: list[str] = []
        self._nbytes = 0
        self._until_ns = time.monotonic_ns() + METRICS_TURN_NS

    def write(self, text: str) -> None:
        """Appends it."""
        self._open.append(text)
        self._nbytes += len(text)
        if self._nbytes >= METRICS_PART_NBYTES:
            self._end_part()

    def close(self) -> list[bytes]:
        """All that was written."""
        self._end_part()
        return self._parts

    def _end_part(self) -> None:
        self._parts.append("".join(self._open).encode())
        self._open = []
        self._nbytes = 0

    async def breathe(self) -> None:
        """Goes on in a later turn of the loop, when this one's time is over."""
        if time.monotonic_ns() >= self._until_ns:
            await asyncio.sleep(0)
            self._until_ns = time.monotonic_ns() + METRICS_TURN_NS


def _of_cache(cache: LocalCache) -> list[Family]:
    """Of the cache as a whole; gauges, as Triton's local one has them."""
    rows: tuple[tuple[str, str, float | int], ...] = (
        ("util", "Cache utilization [0.0 - 1.0]", cache.nbytes / cache.budget_nbytes),
        ("num_entries", "Number of responses stored in response cache", len(cache)),
        ("num_hits", "Number of cache hits in response cache", cache.hits),
        ("num_misses", "Number of cache misses in response cache", cache.misses),
        ("num_lookups", "Number of cache lookups in response cache", cache.hits + cache.misses),
        ("num_evictions", "Number of cache evictions in response cache", cache.evictions),
        ("lookup_duration", "Total cache lookup duration (hit and miss), in microseconds", cache.lookup_ns // 1000),
        ("insertion_duration", "Total cache insertion duration, in microseconds", cache.insertion_ns // 1000),
    )
    return [(f"nv_cache_{name}", "gauge", text, [({}, value)]) for name, text, value in rows]


def live_objects() -> dict[str, int]:
    """Objects of the request path that are alive in this process, by their kind."""
    return {
        "request": live_requests(),
        "response": live_responses(),
        "batch": live_batches(),
        "tensor": live_tensors(),
        "lease": live_buffers(),
    }


def _live_objects() -> list[Family]:
    samples = [({"kind": kind}, count) for kind, count in live_objects().items()]
    return [("triton_async_live_objects", "gauge", "Objects of the request path that are alive", samples)]
