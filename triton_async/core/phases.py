"""Which histograms and summaries models have: families, units, and what is measured for them."""

from __future__ import annotations

from typing import NamedTuple

from triton_async.config.metrics_config import FIRST_RESPONSE as FIRST_RESPONSE_FAMILY
from triton_async.config.metrics_config import PHASE_HISTOGRAMS, MetricsConfig
from triton_async.config.model_config import ModelConfig
from triton_async.core.latencies import Latencies

# Phases of a request, numbered as in latencies.pxd.
REQUEST, QUEUE, COMPUTE_INPUT, COMPUTE_INFER, COMPUTE_OUTPUT, FIRST_RESPONSE, CACHE_HIT, CACHE_MISS = range(8)

_US, _MS = 1_000, 1_000_000
_CACHED, _NOT_CACHED = "(includes cached requests)", "(does not include cached requests)"


class Distribution(NamedTuple):
    """A family of histograms or summaries. `unit_ns`: nanoseconds of its unit."""

    phase: int
    unit_ns: int
    text: str


HISTOGRAMS = {
    FIRST_RESPONSE_FAMILY: Distribution(
        FIRST_RESPONSE, _MS, "Duration from request to first response in milliseconds"
    ),
    **dict(
        zip(
            PHASE_HISTOGRAMS,
            (
                Distribution(REQUEST, _US, f"Durations of requests in microseconds {_CACHED}"),
                Distribution(QUEUE, _US, f"Times of requests in the queue in microseconds {_CACHED}"),
                Distribution(COMPUTE_INPUT, _US, f"Durations of compute input in microseconds {_NOT_CACHED}"),
                Distribution(COMPUTE_INFER, _US, f"Durations of compute inference in microseconds {_NOT_CACHED}"),
                Distribution(COMPUTE_OUTPUT, _US, f"Durations of compute output in microseconds {_NOT_CACHED}"),
            ),
            strict=True,
        )
    ),
}
SUMMARIES = {
    "nv_inference_request_summary_us": Distribution(
        REQUEST, _US, f"Summary of inference request duration in microseconds {_CACHED}"
    ),
    "nv_inference_queue_summary_us": Distribution(
        QUEUE, _US, f"Summary of inference queuing duration in microseconds {_CACHED}"
    ),
    "nv_inference_compute_input_summary_us": Distribution(
        COMPUTE_INPUT, _US, f"Cumulative compute input duration in microseconds {_NOT_CACHED}"
    ),
    "nv_inference_compute_infer_summary_us": Distribution(
        COMPUTE_INFER, _US, f"Cumulative compute inference duration in microseconds {_NOT_CACHED}"
    ),
    "nv_inference_compute_output_summary_us": Distribution(
        COMPUTE_OUTPUT, _US, f"Cumulative inference compute output duration in microseconds {_NOT_CACHED}"
    ),
}
# Of models whose answers are cached.
CACHE_SUMMARIES = {
    "nv_cache_hit_summary_per_model": Distribution(
        CACHE_HIT, _US, "Summary of cache hit counts/durations per model, in microseconds."
    ),
    "nv_cache_miss_summary_per_model": Distribution(
        CACHE_MISS, _US, "Summary of cache miss counts/durations per model, in microseconds."
    ),
}


def latencies_of(config: ModelConfig, wanted: MetricsConfig, cached: bool) -> Latencies | None:
    """What a model's requests are to be measured with; None: nothing is asked for. `cached`: its answers are kept."""
    histograms: list[list[int] | None] = [None] * 8
    summaries = [False] * 8
    for family, buckets in wanted.histograms(config.metric_buckets).items():
        if family == FIRST_RESPONSE_FAMILY and not config.decoupled:  # as in Triton
            continue
        phase, unit_ns, _ = HISTOGRAMS[family]
        histograms[phase] = [round(bound * unit_ns) for bound in buckets]
    if wanted.summary_latencies:
        for phase, _, _ in (*SUMMARIES.values(), *(CACHE_SUMMARIES.values() if cached else ())):
            summaries[phase] = True
    if not any(summaries) and all(bounds is None for bounds in histograms):
        return None
    return Latencies(histograms, summaries)
