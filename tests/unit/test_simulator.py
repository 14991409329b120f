"""The simulation of replicas (bench/simulate) against what queueing theory says, and its own rules."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "bench" / "simulate" / "simulator.py"

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="only the package is here")


def load() -> ModuleType:
    """The module alone: it needs nothing of ours."""
    spec = importlib.util.spec_from_file_location("simulator_under_test", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sim = load() if PATH.is_file() else ModuleType("none")
# Of the services below: a hundred a second, one at a time.
RATE = 100.0


def erlang_c(servers: int, offered: float) -> float:
    """The share of arrivals that wait, of M/M/c."""
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize("load_", [0.3, 0.7])
def test_one_exponential_server_is_m_m_1(load_: float) -> None:
    made = sim.Simulation(sim.Replica(sim.Service((1 / RATE,), spread=1)), 1).run(sim.poisson(load_ * RATE, 1000, 3))
    expected = 1 / (RATE * (1 - load_))
    assert made.took_s.mean() == pytest.approx(expected, rel=0.05)
    # Times in the system are exponential too.
    assert made.percentile_s(99) == pytest.approx(expected * math.log(100), rel=0.08)
    assert made.busy_s / 1000 == pytest.approx(load_, rel=0.03)


@pytest.mark.parametrize("load_", [0.3, 0.7])
def test_one_server_of_constant_time_is_m_d_1(load_: float) -> None:
    made = sim.Simulation(sim.Replica(sim.Service((1 / RATE,))), 1).run(sim.poisson(load_ * RATE, 800, 4))
    assert made.took_s.mean() == pytest.approx(1 / RATE + load_ / (2 * RATE * (1 - load_)), rel=0.05)
    assert made.took_s.min() == pytest.approx(1 / RATE)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_one_server_of_any_spread_is_m_g_1(spread: float) -> None:
    made = sim.Simulation(sim.Replica(sim.Service((1 / RATE,), spread)), 1).run(sim.poisson(0.5 * RATE, 1000, 5))
    # Pollaczek and Khinchine.
    assert made.took_s.mean() == pytest.approx(1 / RATE + 0.5 * (1 + spread**2) / (2 * RATE * 0.5), rel=0.08)


@pytest.mark.parametrize("instances", [2, 8])
def test_several_instances_are_m_m_c(instances: int) -> None:
    offered = 0.8 * instances
    replica = sim.Replica(sim.Service((1 / RATE,), spread=1), instances=instances)
    made = sim.Simulation(replica, 1).run(sim.poisson(offered * RATE, 800 / instances, 6))
    waits = erlang_c(instances, offered) / (RATE * (instances - offered))
    assert made.took_s.mean() == pytest.approx(1 / RATE + waits, rel=0.08)


def test_random_choice_makes_independent_queues() -> None:
    replica = sim.Replica(sim.Service((1 / RATE,), spread=1))
    made = sim.Simulation(replica, 10, balance="random").run(sim.poisson(6 * RATE, 120, 7))
    assert made.took_s.mean() == pytest.approx(1 / (RATE * 0.4), rel=0.06)


def test_the_less_busy_of_two_is_far_better_than_any() -> None:
    """Many queues, the shorter of two: the share of queues with i requests or more tends to load^(2^i - 1)."""
    replica, load_ = sim.Replica(sim.Service((1 / RATE,), spread=1)), 0.9
    made = sim.Simulation(replica, 200, balance="two").run(sim.poisson(200 * load_ * RATE, 8, 8))
    expected = sum(load_ ** (2**i - 2) for i in range(1, 12)) / RATE
    assert made.took_s[len(made.took_s) // 4 :].mean() == pytest.approx(expected, rel=0.1)


def test_a_batch_takes_what_waits_and_capacity_is_that_of_full_ones() -> None:
    replica = sim.Replica(sim.Service((0.01, 0.012, 0.014, 0.016)), max_batch=4)
    assert replica.capacity_per_s == pytest.approx(250)
    made = sim.Simulation(replica, 1).run(np.zeros(9))
    # The first goes alone, as it is idle then.
    assert made.sizes.tolist() == [0, 1, 0, 0, 2]
    assert sorted(set(made.took_s.round(6))) == [0.01, 0.026, 0.042]
    light = sim.Simulation(replica, 1).run(sim.poisson(10, 100, 9))
    assert 1 < light.mean_size < 1.15
    full = sim.Simulation(replica, 1).run(sim.poisson(245, 100, 9))
    assert full.mean_size > 3.3


def test_a_delay_holds_a_batch_back_until_it_is_full_or_due() -> None:
    replica = sim.Replica(sim.Service((0.01,) * 4), max_batch=4, delay_s=0.1)
    made = sim.Simulation(replica, 1).run([0, 0.05, 1, 1.01, 1.02, 1.03])
    assert made.sizes.tolist() == [0, 0, 1, 0, 1]
    assert made.took_s.round(6).tolist() == [0.11, 0.06, 0.04, 0.03, 0.02, 0.01]


def test_what_lies_outside_costs_time_but_no_capacity_and_gaps_cost_both() -> None:
    arrivals = sim.poisson(90, 300, 10)
    plain = sim.Simulation(sim.Replica(sim.Service((0.01,))), 1).run(arrivals)
    outside = sim.Simulation(sim.Replica(sim.Service((0.01,), outside_s=0.003)), 1).run(arrivals)
    assert (outside.took_s - plain.took_s).round(9).tolist() == [0.003] * len(arrivals)
    gap = sim.Replica(sim.Service((0.009,), gap_s=0.001))
    assert gap.capacity_per_s == pytest.approx(100)
    assert sim.Simulation(gap, 1).run(arrivals).took_s.mean() == pytest.approx(plain.took_s.mean() - 0.001)


def test_times_beyond_those_measured_go_on_along_the_last_two() -> None:
    service = sim.Service((0.01, 0.012))
    assert [service.mean_s(size) for size in (1, 2, 3, 5)] == pytest.approx([0.01, 0.012, 0.014, 0.018])
    assert sim.Service((0.01,)).mean_s(7) == 0.01


def test_replicas_come_with_what_waits_and_go_again() -> None:
    replica = sim.Replica(sim.Service((0.1,)), start_s=20)
    scaling = sim.Scaling(8, least=1, most=20, every_s=5, mean_s=10, down_s=60)
    arrivals = np.concatenate([sim.poisson(100, 300, 11), sim.poisson(1, 900, 12, 300)])
    made = sim.Simulation(replica, 1, scaling=scaling).run(arrivals, until_s=900)
    assert made.unanswered == 0 and len(made.took_s) == len(arrivals)
    ready = {round(at_s): there for at_s, there, _ in made.replicas}
    assert ready[5] == 1 and ready[20] == 1, "they take time to start"
    assert max(ready.values()) >= 10, "a hundred a second need ten"
    assert ready[895] == 1
    assert all(scaling.least <= wanted <= scaling.most for _, _, wanted in made.replicas)


def test_by_what_waits_alone_they_go_while_they_are_needed_and_by_how_busy_they_are_they_stay() -> None:
    replica, arrivals = sim.Replica(sim.Service((0.1,)), start_s=10), sim.poisson(70, 500, 14)
    ends = {}
    for busy in (0.0, 0.8):
        scaling = sim.Scaling(8, least=1, most=20, every_s=5, mean_s=10, down_s=30, busy=busy)
        made = sim.Simulation(replica, 10, scaling=scaling).run(arrivals, until_s=500)
        ends[busy] = {there for at_s, there, _ in made.replicas if at_s > 100}
    assert min(ends[0.0]) <= 5, "nothing waits, so they are not missed until they are gone"
    assert min(ends[0.8]) >= 8 and max(ends[0.8]) <= 13, "seventy a second keep seven busy"


def test_from_zero_the_first_request_waits_for_the_start_and_goes_back_to_zero() -> None:
    replica = sim.Replica(sim.Service((0.1,)), start_s=3)
    scaling = sim.Scaling(8, least=0, most=4, every_s=5, mean_s=5, down_s=30)
    made = sim.Simulation(replica, 0, scaling=scaling).run([10.0, 10.5, 100.0], until_s=200)
    assert made.took_s.round(6).tolist() == [3.1, 2.7, 3.1]
    assert [there for at_s, there, _ in made.replicas if round(at_s) in (20, 90, 110, 190)] == [1, 0, 1, 0]


def test_no_more_than_twice_as_many_or_four_more_at_a_look() -> None:
    replica = sim.Replica(sim.Service((10.0,)), start_s=1000)
    scaling = sim.Scaling(1, least=1, most=100, every_s=10, mean_s=10)
    made = sim.Simulation(replica, 1, scaling=scaling).run(np.zeros(5000), until_s=65)
    assert [wanted for _, _, wanted in made.replicas] == [5, 10, 20, 40, 80, 100]


def test_equal_arguments_give_equal_results_and_unknown_balancers_are_refused() -> None:
    replica, arrivals = sim.Replica(sim.Service((0.01,), spread=0.4), max_batch=3), sim.poisson(500, 5, 13)
    first, second = (sim.Simulation(replica, 4, seed=7).run(arrivals).took_s for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="balance"):
        sim.Simulation(replica, 4, balance="best")
