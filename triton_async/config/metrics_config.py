"""What is measured of inference, as --metrics-config and the configs of models say: histograms, summaries, counters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from triton_async.defines import METRICS_MAX_BUCKETS, METRICS_MAX_QUANTILES

_TRUE = frozenset(("true", "on", "1"))
_FALSE = frozenset(("false", "off", "0"))
# Names of switches, each a field of MetricsConfig, and of lists.
_SWITCHES = ("counter_latencies", "histogram_latencies", "summary_latencies", "phase_histograms")
_SETTINGS = (*_SWITCHES, "summary_quantiles", "phase_buckets")
_NUMBER = re.compile(r"([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][+-]?[0-9]{1,2})?\Z", re.ASCII)

# Triton's histogram and its bounds, in milliseconds.
FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"
_FIRST_RESPONSE_BUCKETS = (100.0, 500.0, 2000.0, 5000.0)
# Ours, in microseconds: one for each phase of a request.
PHASE_HISTOGRAMS = (
    "triton_async_request_duration_us", "triton_async_queue_duration_us", "triton_async_compute_input_duration_us",
    "triton_async_compute_infer_duration_us", "triton_async_compute_output_duration_us",
)  # fmt: skip
_PHASE_BUCKETS = (
    50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 1e7,
)  # fmt: skip
# Histograms of models: what `metric_control` of a config can name.
HISTOGRAMS = (FIRST_RESPONSE, *PHASE_HISTOGRAMS)
# Triton's.
_QUANTILES = ((0.5, 0.05), (0.9, 0.01), (0.95, 0.001), (0.99, 0.001), (0.999, 0.001))


class MetricsProblem(ValueError):
    """A setting that is wrong; its text says how."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """`counter_latencies`: cumulative times. `histogram_latencies`: of first responses. `summary_latencies`: quantiles
    of the last minute, those of `summary_quantiles`, each with the error that is allowed. `phase_histograms`: one for
    each phase of requests, with upper bounds `phase_buckets`, in microseconds.
    """

    counter_latencies: bool = True
    histogram_latencies: bool = False
    summary_latencies: bool = False
    phase_histograms: bool = False
    summary_quantiles: tuple[tuple[float, float], ...] = _QUANTILES
    phase_buckets: tuple[float, ...] = _PHASE_BUCKETS

    def histograms(self, given: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        """Family -> upper bounds, in the family's unit, of a model whose config has `given`."""
        found: dict[str, tuple[float, ...]] = {}
        if self.histogram_latencies:
            found[FIRST_RESPONSE] = _FIRST_RESPONSE_BUCKETS
        if self.phase_histograms:
            found |= dict.fromkeys(PHASE_HISTOGRAMS, self.phase_buckets)
        return {family: given.get(family, buckets) for family, buckets in found.items()}


def parse_metrics(texts: Sequence[str]) -> MetricsConfig:
    """Of `<setting>=<value>` of each text; a later one wins. MetricsProblem."""
    found: dict[str, Any] = {}
    for text in texts:
        setting, equals, value = text.partition("=")
        if not equals or not setting or not value:
            raise MetricsProblem(f"--metrics-config option format is <setting>=<value>. Got {text}")
        if setting not in _SETTINGS:
            near = get_close_matches(setting, _SETTINGS, n=1, cutoff=0.0)
            raise MetricsProblem(f"unknown setting '{setting}'; the nearest is {near[0]}")
        if setting == "summary_quantiles":
            found[setting] = _quantiles(value)
        elif setting == "phase_buckets":
            found[setting] = _buckets(value)
        else:
            found[setting] = _switch(value)
    return MetricsConfig(**found)


def _switch(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise MetricsProblem(f"invalid value for bool option: {value}")


def _quantiles(value: str) -> tuple[tuple[float, float], ...]:
    """`<quantile>:<error>,...`, all from 0 to 1."""
    found: dict[float, float] = {}
    for pair in value.split(","):
        quantile, colon, error = pair.partition(":")
        if not colon or not _NUMBER.match(quantile) or not _NUMBER.match(error):
            raise MetricsProblem(f"summary_quantiles is '<quantile>:<error>,...'. Got {value}")
        if float(quantile) > 1.0 or float(error) > 1.0:
            raise MetricsProblem(f"quantiles and errors of summary_quantiles are from 0 to 1. Got {pair}")
        if float(quantile) in found:
            raise MetricsProblem(f"summary_quantiles has a quantile twice: {pair}")
        found[float(quantile)] = float(error)
    if len(found) > METRICS_MAX_QUANTILES:
        raise MetricsProblem(f"summary_quantiles has more than {METRICS_MAX_QUANTILES} quantiles")
    return tuple(found.items())


def _buckets(value: str) -> tuple[float, ...]:
    """`<bound>,...` in microseconds, ascending."""
    parts = value.split(",")
    if not all(_NUMBER.match(part) for part in parts):
        raise MetricsProblem(f"phase_buckets is '<microseconds>,...'. Got {value}")
    found = tuple(float(part) for part in parts)
    problem = buckets_problem(found)
    if problem:
        raise MetricsProblem(f"phase_buckets {problem}. Got {value}")
    return found


def buckets_problem(buckets: Sequence[float]) -> str:
    """What is wrong with upper bounds of a histogram; "" for nothing."""
    if any(math.isnan(bound) for bound in buckets) or any(
        not low < high for low, high in pairwise(buckets)
    ):
        return "must be ascending"
    if len(buckets) > METRICS_MAX_BUCKETS:
        return f"must be at most {METRICS_MAX_BUCKETS}"
    return ""


def given_buckets(proto: Any) -> dict[str, tuple[float, ...]]:
    """Family -> upper bounds that a model's config has for it. The one without a bound is implied."""
    return {
        control.metric_identifier.family: tuple(
            bound for bound in control.histogram_options.buckets if not math.isinf(bound)
        )
        for control in proto.model_metrics.metric_control
    }


def unknown_families(proto: Any) -> list[str]:
    """Lines for the log about families of `metric_control` that there are not."""
    return [
        f"model '{proto.name}' has buckets for the metric family '{family}', which is no histogram of models: there "
        f"are {', '.join(HISTOGRAMS)}"
        for family in given_buckets(proto)
        if family not in HISTOGRAMS
    ]
