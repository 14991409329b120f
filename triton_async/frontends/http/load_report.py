"""What a load balancer hears of a replica in the answer to a generate call, as ORCA's reports have it. Pure.

Triton reports how full the cache of an LLM engine is, which its backend, or a Python model, says in one metric family.
"""

from __future__ import annotations

import math

ASKS = "endpoint-load-metrics-format"
ANSWERS = "endpoint-load-metrics"
#: What a client may ask for.
FORMS = ("json", "text")
#: Where the load is found.
FAMILY = "nv_trt_llm_kv_cache_block_metrics"

_KINDS = ("tokens_per", "used", "max")
_LABEL = 'kv_cache_block_type="'


def load_report(form: str, lines: str) -> str | None:
    """The header of the answer; None where there is nothing to report. `form`: one of FORMS. `lines`: those of FAMILY
    in Prometheus' text form.
    """
    found: dict[str, float] = {}
    for line in lines.split("\n"):
        kind = _kind(line) if line.startswith(f"{FAMILY}{{") else ""
        if kind:
            try:
                found[kind] = float(line.rpartition(" ")[2])
            except ValueError:
                return None
    if len(found) < len(_KINDS) or min(found.values()) < 0:
        return None
    used = found["used"] / found["max"] if found["max"] else 0.0
    tokens = found["max"] * found["tokens_per"]
    if not (math.isfinite(used) and math.isfinite(tokens)):
        return None
    if form == "json":
        return f'JSON {{"named_metrics":{{"kv_cache_utilization":{used},"max_token_capacity":{int(tokens)}}}}}'
    return f"TEXT named_metrics.kv_cache_utilization={used:f}, named_metrics.max_token_capacity={int(tokens)}"


def _kind(line: str) -> str:
    """What a sample counts; "" where it does not say so."""
    # In front of a label stands one of these. Quotes within values are escaped, so a value may only end like this, and
    # behind its own quote comes no kind.
    for before in "{,":
        for rest in line.split(before + _LABEL)[1:]:
            if (kind := rest.partition('"')[0]) in _KINDS:
                return kind
    return ""
