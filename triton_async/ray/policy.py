"""When Ray Serve adds and removes replicas: by what waits in their servers, and how busy their instances are."""

from __future__ import annotations

import math
from typing import Any, Protocol

#: Names of what a replica reports: requests that have not begun, and the share of time its instances ran, 0 to 1.
PENDING, BUSY = "pending", "busy"
TARGET_PENDING = 8.0
TARGET_BUSY = 0.7


class Context(Protocol):
    """What is used of Ray's AutoscalingContext: means over its look-back period, by metric and replica."""

    current_num_replicas: int
    aggregated_metrics: dict[str, dict[Any, float]] | None
    total_num_requests: float
    total_queued_requests: float


class QueuePolicy:
    """An autoscaling policy of Ray Serve, for its config: `triton_async.ray:QueuePolicy`.

    A replica for each `target_pending` requests that wait, in servers and in Ray's own queues in front of them, and as
    many as keep their instances busy for `target_busy` of the time: the larger of the two. Ray applies its delays,
    factors and bounds to that. Without reports of replicas, as in the first moments, it leaves their number as it is;
    where there are none, it makes one for what waits.
    """

    def __init__(self, target_pending: float = TARGET_PENDING, target_busy: float = TARGET_BUSY) -> None:
        """ValueError for targets that are none."""
        if not target_pending > 0:
            raise ValueError(f"target_pending must be more than 0, not {target_pending}")
        if not 0 < target_busy <= 1:
            raise ValueError(f"target_busy must be more than 0 and at most 1, not {target_busy}")
        self._target_pending = float(target_pending)
        self._target_busy = float(target_busy)

    def __call__(self, context: Context) -> tuple[float, dict[str, Any]]:
        """How many there should be, and nothing to remember."""
        metrics = context.aggregated_metrics or {}
        pending, busy = metrics.get(PENDING) or {}, metrics.get(BUSY) or {}
        if not context.current_num_replicas:
            return float(context.total_queued_requests > 0 or context.total_num_requests > 0), {}
        if not busy:
            return float(context.current_num_replicas), {}
        waiting = sum(pending.values()) + context.total_queued_requests
        # Replicas that have not reported are as busy as the others.
        work = sum(busy.values()) / len(busy) * context.current_num_replicas
        wanted = max(waiting / self._target_pending, work / self._target_busy)
        # What is almost a whole number is one: means are never exact.
        return float(math.ceil(wanted - 0.05)), {}
