"""What the counters of a version's metrics begin with: those of the loads in whose place it serves. Loop thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triton_async.config.model_config import ModelConfig
from triton_async.core.phases import CACHE_MISS, REQUEST
from triton_async.core.placement import gpus_in_use
from triton_async.core.stats import ModelStatistics

# Loads that may still have requests. What older ones than these end later is not counted.
KEPT = 8

# By what they count; of histograms and summaries by "histogram" or "summary" and their phase.
Counts = Mapping[tuple[str, int], Sequence[int]]


class Earlier:
    """Of loads of one version that followed each other while it served, the last of them with `statistics`, and what it
    began with itself.
    """

    def __init__(self, statistics: ModelStatistics, before: Earlier | None) -> None:
        self._ended: Counts = {} if before is None else before._ended
        self._last: list[ModelStatistics] = [] if before is None else [*before._last]
        self._last.append(statistics)
        while len(self._last) > KEPT:
            self._ended = added(self._ended, counts_of(self._last.pop(0)))

    def counts(self) -> Counts:
        """All that they have counted until now."""
        total = self._ended
        for statistics in self._last:
            total = added(total, counts_of(statistics))
        return total


def same_series(old: ModelConfig, new: ModelConfig) -> bool:
    """Whether the metrics of both have the same labels and buckets."""
    mine, others = ((config.metric_tags, config.metric_buckets, gpus_in_use(config)) for config in (old, new))
    return mine == others


def counts_of(statistics: ModelStatistics) -> Counts:
    """What one load has counted, as the metrics have it."""
    succeeded, failed, spent = statistics.counters()
    found: dict[tuple[str, int], Sequence[int]] = {
        ("requests", 0): [succeeded, statistics.inference_count, statistics.execution_count],
        ("failed", 0): [*failed.values()],
        ("spent", 0): [*spent.values()],
        ("cached", 0): statistics.cached(),
    }
    if statistics.latencies is not None:
        for phase in range(REQUEST, CACHE_MISS + 1):
            histogram = statistics.latencies.histogram(phase)
            if histogram is not None:
                found["histogram", phase] = [*histogram[0], histogram[1]]
            summary = statistics.latencies.summary(phase, [], 0)
            if summary is not None:
                found["summary", phase] = summary[1:]
    return found


def plus(numbers: Sequence[int], earlier: Sequence[int] | None) -> Sequence[int]:
    """The sums of numbers and of as many earlier ones, if there are any."""
    return numbers if earlier is None else [now + before for now, before in zip(numbers, earlier, strict=True)]


def added(earlier: Counts, later: Counts) -> Counts:
    """The sums of what two loads have counted, whose series are the same."""
    return {**earlier, **{what: plus(numbers, earlier.get(what)) for what, numbers in later.items()}}
