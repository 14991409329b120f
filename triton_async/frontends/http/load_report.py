"""What a load balancer hears of a replica in the answer to a generate call, as ORCA's reports have it. Pure.

Triton reports how full the cache of an LLM engine is, which its backend, or a Python model, says in one metric family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ASKS = "endpoint-load-metrics-format"
ANSWERS = "endpoint-load-metrics"

# Of a sample: what it counts, and how many.
_SAMPLE = re.compile(
    rb'^nv_trt_llm_kv_cache_block_metrics\{(?:[^\n]*,)?kv_cache_block_type="(tokens_per|used|max)"[^\n]*\} '
    rb"([0-9.e+-]+)$", re.MULTILINE,
)


def load_report(form: str, page: Iterable[bytes]) -> str | None:
    """The header of the answer; None where there is nothing to report. `form`: what the client asks for, "json" or
    "text". `page`: that of the metrics.
    """
    found = {name.decode(): float(value) for part in page for name, value in _SAMPLE.findall(part)}
    if found.keys() != {"tokens_per", "used", "max"} or min(found.values()) < 0:
        return None
    used = found["used"] / found["max"] if found["max"] else 0.0
    capacity = int(found["max"] * found["tokens_per"])
    if form == "json":
        return f'JSON {{"named_metrics":{{"kv_cache_utilization":{used},"max_token_capacity":{capacity}}}}}'
    if form == "text":
        return f"TEXT named_metrics.kv_cache_utilization={used:f}, named_metrics.max_token_capacity={capacity}"
    return None
