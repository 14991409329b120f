"""Histograms and summaries: counts that are exact, quantiles that are close, a minute that passes."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_async.core.latencies import Latencies
from triton_async.core.phases import FIRST_RESPONSE, QUEUE, REQUEST

S = 1_000_000_000
BOUNDS = [0, 50_000, 100_000, 1 << 40]
TIMES = st.lists(st.integers(0, 1 << 45), max_size=60)


def latencies(bounds: list[int] | None = None, *, summary: bool = False) -> Latencies:
    histograms: list[list[int] | None] = [None] * 8
    histograms[REQUEST] = bounds
    return Latencies(histograms, [summary and phase == REQUEST for phase in range(8)])


def quantiles(times: list[int], wanted: list[float], now_ns: int = 0) -> list[float]:
    measured = latencies(summary=True)
    for ns in times:
        measured.observe(REQUEST, ns, now_ns)
    found = measured.summary(REQUEST, wanted, now_ns)
    assert found is not None
    assert found[1:] == (len(times), sum(times))
    return found[0]


@given(TIMES)
def test_a_histogram_counts_what_is_not_above_each_bound(times: list[int]) -> None:
    measured = latencies(BOUNDS)
    for ns in times:
        measured.observe(REQUEST, ns, 0)
    counts = [sum(ns <= bound for ns in times) for bound in BOUNDS] + [len(times)]
    assert measured.histogram(REQUEST) == (counts, sum(times))


@given(TIMES, TIMES)
def test_histograms_add_up(one: list[int], other: list[int]) -> None:
    found = []
    for times in (one, other, one + other):
        measured = latencies(BOUNDS)
        for ns in times:
            measured.observe(REQUEST, ns, 0)
        found.append(measured.histogram(REQUEST))
    (first, first_ns), (second, second_ns), whole = found  # type: ignore[misc]
    assert whole == ([a + b for a, b in zip(first, second, strict=True)], first_ns + second_ns)


def test_a_time_on_a_bound_is_below_it_and_one_without_bounds_is_counted() -> None:
    measured = latencies([10, 20])
    for ns in (10, 11, 20, 21, -5):
        measured.observe(REQUEST, ns, 0)
    assert measured.histogram(REQUEST) == ([2, 4, 5], 62)
    whole = latencies([])
    whole.observe(REQUEST, 7, 0)
    assert whole.histogram(REQUEST) == ([1], 7)


@given(st.lists(st.integers(128, (1 << 37) - 1), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_as_close_to_the_true_one_as_is_said(times: list[int], quantile: float) -> None:
    true = sorted(times)[max(math.ceil(quantile * len(times)), 1) - 1]
    assert quantiles(times, [quantile])[0] == pytest.approx(true, rel=1 / 64)


def test_quantiles_come_in_the_order_that_was_asked_for() -> None:
    times = [1_000 * (index + 1) for index in range(1000)]
    found = quantiles(times, [0.99, 0.5, 1.0, 0.0])
    assert found == [pytest.approx(true, rel=1 / 64) for true in (990_000, 500_000, 1_000_000, 1_000)]


@pytest.mark.parametrize("ns", [0, 1, 127])
def test_the_shortest_times_share_a_place(ns: int) -> None:
    assert quantiles([ns], [0.5]) == [64.0]


def test_the_longest_times_share_a_place() -> None:
    assert quantiles([1 << 60], [0.5]) == [float(1 << 37)]


def test_what_is_older_than_a_minute_leaves_the_quantiles_but_not_the_sum() -> None:
    measured = latencies(summary=True)
    measured.observe(REQUEST, 1_000_000, 5 * S)
    measured.observe(REQUEST, 1_000, 30 * S)

    def largest(now_s: int) -> float:
        found = measured.summary(REQUEST, [1.0], now_s * S)
        assert found is not None
        assert found[1:] == (2, 1_001_000)
        return found[0][0]

    assert largest(59) == pytest.approx(1_000_000, rel=1 / 64)
    assert largest(60) == pytest.approx(1_000, rel=1 / 64)
    assert largest(83) == pytest.approx(1_000, rel=1 / 64)
    assert math.isnan(largest(84))
    measured.observe(REQUEST, 2_000, 1000 * S)
    assert measured.summary(REQUEST, [0.5], 1000 * S)[0] == [pytest.approx(2_000, rel=1 / 64)]  # type: ignore[index]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(128, 1 << 30)), min_size=1, max_size=60))
def test_the_window_is_that_of_the_last_five_ages(steps: list[tuple[int, int]]) -> None:
    measured = latencies(summary=True)
    times = list(accumulate(step for step, _ in steps))
    for now_s, (_, ns) in zip(times, steps, strict=True):
        measured.observe(REQUEST, ns, now_s * S)
    now_s = times[-1]
    kept = [ns for at, (_, ns) in zip(times, steps, strict=True) if at // 12 > now_s // 12 - 5]
    found = measured.summary(REQUEST, [1.0], now_s * S)
    assert found is not None
    assert found[0] == [pytest.approx(max(kept), rel=1 / 64)]


def test_a_summary_without_observations_has_no_quantiles() -> None:
    found = latencies(summary=True).summary(REQUEST, [0.5, 0.9], 0)
    assert found is not None
    values, count, sum_ns = found
    assert [math.isnan(value) for value in values] == [True, True]
    assert (count, sum_ns) == (0, 0)


def test_what_is_not_wanted_is_not_there() -> None:
    measured = latencies([1])
    measured.observe(QUEUE, 5, 0)
    assert measured.histogram(QUEUE) is None
    assert measured.summary(FIRST_RESPONSE, [0.5], 0) is None
