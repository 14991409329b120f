"""How many replicas the queue policy asks for. Without Ray: a context is what its documentation says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from triton_async.ray import QueuePolicy


def wanted(pending: list[float], busy: list[float], *, queued: float = 0, current: int = -1, **targets: Any) -> float:
    metrics = {"pending": dict(enumerate(pending)), "busy": dict(enumerate(busy))}
    current = len(busy) if current < 0 else current
    context = SimpleNamespace(
        current_num_replicas=current, aggregated_metrics=metrics, total_num_requests=queued,
        total_queued_requests=queued,
    )  # fmt: skip
    replicas, state = QueuePolicy(**targets)(context)
    assert state == {}
    return replicas


@pytest.mark.parametrize(("pending", "busy", "replicas"), [
    ([0], [0], 0), ([0], [0.5], 1), ([8], [1], 2), ([16], [0.2], 2), ([17], [0.2], 3), ([16.1], [0.2], 2),
    ([0, 0], [0.7, 0.7], 2), ([0, 0], [0.3, 0.4], 1), ([40, 40], [1, 1], 10), ([0, 0, 0], [0.8, 0.8, 0.8], 4),
])  # fmt: skip
def test_what_waits_and_how_busy_they_are_count(pending: list[float], busy: list[float], replicas: int) -> None:
    assert wanted(pending, busy) == replicas


def test_requests_that_wait_in_rays_own_queues_count() -> None:
    assert wanted([0], [0.1], queued=24) == 3


def test_replicas_that_have_not_reported_are_taken_to_be_as_busy() -> None:
    assert wanted([0], [0.9], current=3) == 4


def test_without_reports_nothing_changes_and_none_becomes_one_for_what_waits() -> None:
    assert wanted([], [], current=3) == 3
    assert wanted([], [], current=0) == 0
    assert wanted([], [], current=0, queued=5) == 1


def test_targets_are_arguments() -> None:
    assert wanted([16], [0.2], target_pending=4) == 4
    assert wanted([0], [0.9], target_busy=0.3) == 3


@pytest.mark.parametrize("targets", [
    {"target_pending": 0}, {"target_pending": -1}, {"target_pending": float("nan")}, {"target_busy": 0},
    {"target_busy": 1.01},
])  # fmt: skip
def test_targets_that_are_none_are_refused(targets: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(targets))):
        QueuePolicy(**targets)


def test_the_largest_target_is_taken() -> None:
    assert QueuePolicy(target_busy=1)
