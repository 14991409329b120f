"""What is simulated: one replica against measurements, many behind balancers, many that come and go."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bench.e2e.curves_load import arrivals

from .measure import Subject
from .simulator import Replica, Result, Scaling, Simulation, poisson

COUNTS = (10, 100, 1000)
_SHARES = (0.3, 0.5, 0.7, 0.85, 0.95)
_BALANCES = {"random": "at random", "turn": "in turn", "two": "the less busy of two"}
_REQUESTS, _REQUESTS_EACH = 200_000, 500  # at least, and for each replica
_ROUNDS = 5
# Scaling takes minutes of many replicas: their executions are made so long that each answers so many a second. What
# waits, and when replicas come, does not depend on how long one execution takes while it is short beside both.
_SLOW_PER_S = 8.0
_LOW, _HIGH, _BEGIN_S, _RISE_S, _END_S = 0.3, 0.9, 120.0, 60.0, 900.0


def validation(subject: Subject, replica: Replica, seconds: float) -> list[dict[str, Any]]:
    """Mean, percentiles and batches at several loads, as measured and as simulated. Of several measurements that
    one counts which others on the machine have disturbed least: what they do can only make it slower.
    """
    rows = []
    for share in _SHARES:
        per_s = share * replica.capacity_per_s
        several = [subject.open(per_s, seconds) for _ in range(_ROUNDS)]
        found, size = min(several, key=lambda one: one[0].mean_ms)
        # The very arrivals that were sent, and of their answers those that were counted.
        made = Simulation(replica, 1).run(arrivals(per_s, seconds))
        counted = made.took_s[made.arrived_s >= seconds / 5]
        rows.append({
            "load": f"{share:.0%}",
            "measured": {"mean_ms": found.mean_ms, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms, "rows": size},
            "simulated": {
                "mean_ms": 1e3 * float(counted.mean()), "p50_ms": 1e3 * float(np.percentile(counted, 50)),
                "p99_ms": 1e3 * float(np.percentile(counted, 99)), "rows": made.mean_size,
            },
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def balance(replica: Replica, quick: bool) -> list[dict[str, Any]]:
    """p99 by number of replicas, load and balancer."""
    rows = []
    for count in COUNTS:
        for share in _SHARES:
            per_s = share * count * replica.capacity_per_s
            wanted = max(_REQUESTS, _REQUESTS_EACH * count) / (10 if quick else 1)
            asked = poisson(per_s, wanted / per_s, seed=count)
            row: dict[str, Any] = {"replicas": count, "load": f"{share:.0%}"}
            for name, text in _BALANCES.items():
                made = Simulation(replica, count, balance=name).run(asked)
                row[text] = round(1e3 * made.percentile_s(99, from_s=float(asked[len(asked) // 5])), 1)
            rows.append(row)
            print(row, flush=True)
    return rows


def _slowed(replica: Replica, start_s: float) -> Replica:
    factor = replica.capacity_per_s / _SLOW_PER_S
    service = replica.service
    slow = dataclasses.replace(
        service, times_s=tuple(factor * one for one in service.times_s), gap_s=factor * service.gap_s
    )
    return dataclasses.replace(replica, service=slow, start_s=start_s)


def _rising(count: int) -> np.ndarray:
    """Arrivals at _LOW of the capacity of `count` replicas, then at _HIGH, with a rise between."""
    full = count * _SLOW_PER_S
    steps = [poisson(_LOW * full, _BEGIN_S, 1)]
    pieces = 12
    for piece in range(pieces):
        share = _LOW + (_HIGH - _LOW) * (piece + 0.5) / pieces
        from_s = _BEGIN_S + _RISE_S * piece / pieces
        steps.append(poisson(share * full, from_s + _RISE_S / pieces, 2 + piece, from_s))
    steps.append(poisson(_HIGH * full, _END_S, 99, _BEGIN_S + _RISE_S))
    return np.concatenate(steps)


def _line(made: Result, window_s: float = 10.0) -> dict[str, list[float]]:
    """Replicas, and p99 by the time of arrival."""
    edges = np.arange(0, _END_S, window_s)
    where = np.digitize(made.arrived_s, edges) - 1
    tails = [made.took_s[where == number] for number in range(len(edges))]
    return {
        "at_s": [float(edge) for edge in edges],
        "p99_s": [float(np.percentile(tail, 99)) if len(tail) else float("nan") for tail in tails],
        "looks_s": [at_s for at_s, _, _ in made.replicas],
        "ready": [ready for _, ready, _ in made.replicas],
    }


def surge(replica: Replica, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A load that trebles, by number of replicas, by target and by how long a replica takes to start."""
    rows, lines = [], []
    settings = [
        (8.0, 0.0, 15.0, 20.0), (8.0, 0.7, 15.0, 20.0), (4.0, 0.7, 15.0, 20.0), (8.0, 0.7, 5.0, 5.0),
        (8.0, 0.7, 15.0, 90.0),
    ]  # fmt: skip
    for count in COUNTS if not quick else COUNTS[:2]:
        asked = _rising(count)
        for target, busy, every_s, start_s in settings if count < 1000 else settings[:2]:
            slow = _slowed(replica, start_s)
            scaling = Scaling(
                target, least=max(count // 3, 1), most=round(1.5 * count), every_s=every_s, mean_s=2 * every_s,
                busy=busy,
            )  # fmt: skip
            made = Simulation(slow, scaling.least, scaling=scaling).run(asked, until_s=_END_S)
            whole_s = slow.service.mean_s(slow.max_batch)
            line = _line(made)
            late = [at_s for at_s, tail in zip(line["at_s"], line["p99_s"], strict=True) if tail > 5 * whole_s]
            rows.append({
                "replicas that it takes": count, "target": target, "busy": busy or "-", "look every s": every_s,
                "start s": start_s,
                "most replicas": max(line["ready"]),
                "replicas at the end": line["ready"][-1],
                "seconds with p99 above 5 executions": round(10.0 * len(late)),
                "worst p99 ÷ one execution": round(max(line["p99_s"]) / whole_s, 1),
            })  # fmt: skip
            text = f"{target:g} wait{f', {busy:.0%} busy' if busy else ''}, every {every_s:g} s, start {start_s:g} s"
            lines.append({"count": count, "text": text, "whole_s": whole_s, **line})
            print(rows[-1], flush=True)
    return rows, lines
