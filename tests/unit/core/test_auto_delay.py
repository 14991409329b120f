"""A delay that the server finds itself: nothing is added at low load, batches are full at saturation. Made-up clock."""

from __future__ import annotations

import pytest
from batching_stage import MS, US, Stage

from triton_async.config.model_config import QueuePolicy

# Overhead and time per row in microseconds, as of a GPU, of a CPU, and of a small model.
KINDS = {"gpu": (8000, 500), "cpu": (1000, 8000), "both": (2000, 2000), "small": (100, 10)}


def stage(kind: str, **more: object) -> Stage:
    return Stage(*KINDS[kind], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_at_low_load_nothing_is_added(kind: str) -> None:
    made = stage(kind)
    alone_us = sum(KINDS[kind])
    made.arrivals(0.05 * 1e6 / alone_us, seconds=1000 * alone_us / 1e6)
    made.run()
    assert made.held_us < 0.01 * sum(made.took_us)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_one_client_is_never_held_back(kind: str, count: int) -> None:
    """Nor is one with an instance for each."""
    made = stage(kind, n_instances=count)
    made.clients(count, 200)
    made.run(1)
    made.forget()
    made.run(1)
    # Two that take turns with two instances may meet now and then.
    assert made.held_us <= (0 if count == 1 else 0.03 * sum(made.took_us))


@pytest.mark.parametrize(("kind", "clients"), [("gpu", 40), ("gpu", 24), ("both", 64), ("small", 40)])
def test_at_saturation_batches_are_full(kind: str, clients: int) -> None:
    made = stage(kind)
    made.clients(clients, 0.05 * sum(KINDS[kind]))
    made.run(2)
    made.forget()
    made.run(2)
    assert made.mean_size > 15.5


@pytest.mark.parametrize("clients", [2, 4, 8, 12])
def test_clients_that_ask_again_at_once_share_one_batch(clients: int) -> None:
    """Without a delay they fall into groups that take turns, at nearly half the rate."""
    made, greedy = stage("gpu"), stage("gpu", delay_us=0)
    for each in (made, greedy):
        each.clients(clients, 200)
        each.run(3)
        each.forget()
        each.run(3)
    assert made.mean_size > clients - 0.2
    assert greedy.mean_size <= clients / 2 + 0.5
    assert len(made.took_us) > 1.4 * len(greedy.took_us)


def test_bursts_share_a_batch_and_nothing_is_waited_for_behind_them() -> None:
    made = stage("gpu")
    made.arrivals(100, seconds=5, burst=8)
    made.run(2.5)
    made.forget()
    made.run()
    assert made.mean_size > 7
    # Most of it is the burst coming in, 10 us apart.
    assert made.held_us / len(made.sizes) < 1_000


@pytest.mark.parametrize("load", [0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("kind", ["gpu", "both"])
def test_arrivals_at_random_are_not_waited_for(kind: str, load: float) -> None:
    overhead_us, row_us = KINDS[kind]
    per_second = load * 16 * 1e6 / (overhead_us + 16 * row_us)
    found = {}
    for delay_us in (None, 0):
        made = stage(kind, delay_us=delay_us)
        made.arrivals(per_second, seconds=30)
        made.run()
        found[delay_us] = made.mean_us
    assert found[None] < 1.05 * found[0]


@pytest.mark.parametrize("kind", ["gpu", "cpu", "both"])
@pytest.mark.parametrize("clients", [1, 2, 4, 8, 16, 24, 40])
def test_no_fixed_delay_serves_clients_better(kind: str, clients: int) -> None:
    """Within five in a hundred of the best of them."""
    alone_us = sum(KINDS[kind])
    counts = {}
    for delay_us in (None, 0, alone_us // 10, alone_us // 4, alone_us):
        made = stage(kind, delay_us=delay_us)
        made.clients(clients, alone_us / 20)
        made.run(2)
        made.forget()
        made.run(6)
        counts[delay_us] = len(made.took_us)
    assert counts.pop(None) > 0.95 * max(counts.values())


@pytest.mark.parametrize("load", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("kind", ["gpu", "both"])
def test_no_fixed_delay_serves_bursts_better(kind: str, load: float) -> None:
    overhead_us, row_us = KINDS[kind]
    per_second = load * 16 * 1e6 / (overhead_us + 16 * row_us)
    means = {}
    for delay_us in (None, 0, 500, 2_000, 8_000):
        made = stage(kind, delay_us=delay_us)
        made.arrivals(per_second, seconds=30, burst=8)
        made.run(3)
        made.forget()
        made.run()
        means[delay_us] = made.mean_us
    assert means.pop(None) < 1.05 * min(means.values())


def test_clients_that_have_gone_are_forgotten() -> None:
    made = stage("gpu")
    made.clients(12, 200)
    made.run(2)
    made.leave()
    made.run()
    made.forget()
    made.arrivals(10, seconds=10)  # far apart
    made.run()
    # The first one may be held once for each number of outstanding requests; then it is known that nobody comes.
    assert made.held_us < 100_000
    made.forget()
    made.arrivals(10, seconds=10)
    made.run()
    assert made.held_us < 0.01 * sum(made.took_us)


def test_instances_share_those_who_come() -> None:
    made = stage("gpu", n_instances=2)
    made.clients(16, 200)
    made.run(3)
    made.forget()
    made.run(3)
    one = stage("gpu", n_instances=2, delay_us=0)
    one.clients(16, 200)
    one.run(6)
    assert len(made.took_us) > 0.95 * len(one.took_us) / 2
    assert made.idle <= 2


def test_nothing_is_held_beyond_the_bound() -> None:
    longest = {}
    for bound_us in (0, 100):
        made = stage("gpu", bound_us=bound_us)
        made.clients(12, 2_000)
        made.run(3)
        made.forget()
        made.run(3)
        longest[bound_us] = made.held_us / len(made.sizes)
    assert longest[100] <= 101
    assert longest[0] > 500


def learned(**more: object) -> Stage:
    """One that would hold a request: it knows of twelve clients."""
    made = stage("gpu", **more)
    made.clients(12, 2_000)
    made.run(2)
    made.leave()
    made.run()
    made.now_ns += 4 * MS
    return made


def test_a_clients_deadline_is_not_spent_on_waiting() -> None:
    made = learned()
    made.ask()
    assert made.batcher.wait_until_ns > made.now_ns
    made.ask(end_by_ns=made.now_ns + made.batcher.mean_execution_ns + 10 * US)
    assert made.batcher.wait_until_ns <= made.now_ns + 10 * US
    made.run()
    assert made.dropped == 0


@pytest.mark.parametrize("timeout_us", [1_000, 20_000])
def test_a_queue_timeout_does_not_pass_while_the_server_lets_wait(timeout_us: int) -> None:
    made = learned(policy=QueuePolicy(allow_timeout_override=True))
    made.ask(timeout_us=timeout_us)
    made.run()
    assert made.dropped == 0


def test_what_is_held_and_cancelled_leaves_nothing_behind() -> None:
    made = learned()
    request = made.ask()
    until_ns = made.batcher.wait_until_ns
    assert until_ns > made.now_ns
    made.batcher.remove(request)
    made.now_ns = until_ns
    assert made.batcher.take(None, True, made.now_ns) is None
    assert made.batcher.wait_until_ns == 0
    made.ask()
    assert made.batcher.pending in (0, 1)
    made.run()
    assert made.batcher.pending == 0
