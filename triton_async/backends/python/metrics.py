"""Metric families that Python models make. Any thread; a lock is held for some additions at most.

Handles end where their models let go of them, in finalizers too: the garbage collector may run these on a thread that
has the lock just now.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from triton_async.backends.python.worker.channel import COUNTER, GAUGE, HISTOGRAM, Refused
from triton_async.errors import Code

_KINDS = ("counter", "gauge", "histogram")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
# Families of the server itself.
_RESERVED = (
    "nv_inference_", "nv_model_", "nv_gpu_", "nv_energy_", "nv_cpu_", "nv_cache_", "nv_pinned_memory_", "triton_async_",
)  # fmt: skip

Labels = tuple[tuple[str, str], ...]


class _Lock:
    """A lock, and what is to be done under it by whoever has it. To be used in `with` blocks."""

    __slots__ = ("_ends", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._ends:
            self._see_to_ends()

    def end(self, function: Callable[[], None]) -> None:
        """Has it called under the lock: now, or by who has that, maybe this very thread."""
        self._ends.append(function)
        self._see_to_ends()

    def _see_to_ends(self) -> None:
        while self._ends and self._lock.acquire(blocking=False):
            try:
                while self._ends:
                    self._ends.popleft()()
            finally:
                self._lock.release()


class CustomMetrics:
    """All of a server. A family is there as long as one of its handles, or one of its metrics."""

    def __init__(self) -> None:
        self._lock = _Lock()
        self._families: dict[str, _Family] = {}

    def family(self, name: str, description: str, kind: int) -> FamilyHandle:
        """A handle of the family, which is made if there is none. Refused."""
        if not _NAME.match(name):
            raise Refused(Code.INVALID_ARG, "Invalid metric name")
        if name.startswith(_RESERVED):
            raise Refused(Code.INVALID_ARG, f"the metric family '{name}' is the server's own")
        with self._lock:
            family = self._families.get(name)
            if family is None:
                family = self._families[name] = _Family(name, description, kind)
            elif family.kind != kind:
                raise Refused(Code.INVALID_ARG, "Family name already exists with different type")
            family.handles += 1
        return FamilyHandle(self, family)

    def families(self, name: str = "") -> list[tuple[str, str, str, list[Any]]]:
        """Name, type, text and samples of each, or of that one: labels, value and, of a histogram, the end of the name.
        """
        with self._lock:
            found = self._families.values() if not name else [self._families[name]] if name in self._families else []
            return [
                (family.name, _KINDS[family.kind], " ".join(family.description.split()), list(family.samples()))
                for family in found
            ]

    def _drop(self, family: _Family) -> None:
        # Under the lock.
        if not family.handles and not family.metrics:
            self._families.pop(family.name, None)


class _Family:
    __slots__ = ("description", "handles", "kind", "metrics", "name")

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name
        self.description = description
        self.kind = kind
        self.handles = 0
        self.metrics: dict[Labels, _Metric] = {}

    def samples(self) -> Iterable[Any]:
        for labels, metric in self.metrics.items():
            known = dict(labels)
            if self.kind != HISTOGRAM:
                yield known, _number(metric.value)
                continue
            below = 0
            for bound, count in zip((*metric.bounds, float("inf")), metric.counts, strict=True):
                below += count
                yield {**known, "le": "+Inf" if bound == float("inf") else str(_number(bound))}, below, "_bucket"
            yield known, _number(metric.value), "_sum"
            yield known, below, "_count"


class _Metric:
    """`value`: of a histogram the sum. `counts`: observations below each bound, and above all."""

    __slots__ = ("bounds", "counts", "handles", "value")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.value = 0.0
        self.handles = 0


class FamilyHandle:
    """What one MetricFamily of a model stands on."""

    __slots__ = ("_family", "_metrics")

    def __init__(self, metrics: CustomMetrics, family: _Family) -> None:
        self._metrics = metrics
        self._family = family

    def metric(self, labels: dict[str, str], buckets: tuple[float, ...] | None) -> MetricHandle:
        """A handle of the metric with these labels, which is made if there is none. Refused."""
        family = self._family
        for name, value in labels.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise Refused(Code.INTERNAL, "attempt to access JSON non-string as string")
            if not _LABEL.match(name) or (family.kind == HISTOGRAM and name == "le"):
                raise Refused(Code.INVALID_ARG, "Invalid label name")
        if family.kind == HISTOGRAM and buckets is None:
            raise Refused(Code.INVALID_ARG, "buckets must be given for a metric of kind HISTOGRAM")
        if family.kind != HISTOGRAM and buckets is not None:
            raise Refused(Code.INVALID_ARG, "buckets are for metrics of kind HISTOGRAM only")
        bounds = buckets or ()
        if any(not low < high for low, high in pairwise(bounds)):
            raise Refused(Code.INVALID_ARG, "buckets must be in ascending order")
        key = tuple(sorted(labels.items()))
        with self._metrics._lock:
            metric = family.metrics.get(key)
            if metric is None:
                metric = family.metrics[key] = _Metric(bounds)
            metric.handles += 1
        return MetricHandle(self._metrics, family, key, metric)

    def drop(self) -> None:
        """The end of the handle."""
        self._metrics._lock.end(self._end)

    def _end(self) -> None:
        self._family.handles -= 1
        self._metrics._drop(self._family)


class MetricHandle:
    """What one Metric of a model stands on."""

    __slots__ = ("_family", "_key", "_metric", "_metrics")

    def __init__(self, metrics: CustomMetrics, family: _Family, key: Labels, metric: _Metric) -> None:
        self._metrics = metrics
        self._family = family
        self._key = key
        self._metric = metric

    def drop(self) -> None:
        """The end of the handle."""
        self._metrics._lock.end(self._end)

    def _end(self) -> None:
        self._metric.handles -= 1
        if not self._metric.handles:
            del self._family.metrics[self._key]
            self._metrics._drop(self._family)

    def increment(self, value: float) -> None:
        """Refused for a histogram, and below zero for a counter."""
        self._must_be(self._family.kind != HISTOGRAM, "Increment")
        if self._family.kind == COUNTER and value < 0:
            raise Refused(
                Code.INVALID_ARG,
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.",
            )
        with self._metrics._lock:
            self._metric.value += value

    def set(self, value: float) -> None:
        """Refused for all but gauges."""
        self._must_be(self._family.kind == GAUGE, "Set")
        with self._metrics._lock:
            self._metric.value = value

    def observe(self, value: float) -> None:
        """Refused for all but histograms."""
        self._must_be(self._family.kind == HISTOGRAM, "Observe")
        with self._metrics._lock:
            metric = self._metric
            metric.counts[bisect_left(metric.bounds, value)] += 1
            metric.value += value

    def value(self) -> float:
        """Refused for a histogram."""
        self._must_be(self._family.kind != HISTOGRAM, "Value")
        return self._metric.value

    def _must_be(self, supported: bool, operation: str) -> None:
        if not supported:
            kind = _KINDS[self._family.kind].upper()
            raise Refused(Code.UNSUPPORTED, f"TRITONSERVER_METRIC_KIND_{kind} does not support {operation}")


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
