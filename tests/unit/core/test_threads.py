"""Pools of threads that wait for others, or hang: what they are given is done all the same."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

from triton_async.core.defines import BODY_NICE
from triton_async.core.threads import Threads, for_bodies, waiting
from triton_async.defines import POOL_WAITS
from triton_async.errors import Unavailable

SECONDS = 20.0


def held(pool: Threads, count: int) -> tuple[threading.Event, list[Future[Any]]]:
    """So many jobs that have begun, and what they wait for."""
    gate, begun = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        begun.release()
        assert gate.wait(SECONDS)

    jobs = [pool.submit(job) for _ in range(count)]
    for _ in range(count):
        assert begun.acquire(timeout=SECONDS)
    return gate, jobs


def test_so_many_at_a_time_in_order() -> None:
    pool = Threads(2, "some")
    order: list[int] = []
    gate, jobs = held(pool, 2)
    later = [pool.submit(order.append, number) for number in range(5)]
    first = pool.submit_first(order.append, -1)
    time.sleep(0.05)
    assert not order
    gate.set()
    wait([*jobs, *later, first], SECONDS)
    assert sorted(order) == [-1, 0, 1, 2, 3, 4]
    assert pool.submit(divmod, 7, 2).result(SECONDS) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(SECONDS)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(divmod, 7, 2)


def test_one_thread_keeps_the_order_and_what_is_first() -> None:
    pool = Threads(1, "one")
    order: list[int] = []
    gate, _ = held(pool, 1)
    for number in range(5):
        pool.submit(order.append, number)
    pool.submit_first(order.append, -1)
    gate.set()
    pool.shutdown()
    assert order == [-1, 0, 1, 2, 3, 4]


def test_who_waits_has_another_in_his_place() -> None:
    pool = Threads(1, "nested")

    def nested(depth: int) -> int:
        if depth == 0:
            return 0
        with waiting():
            return pool.submit_first(nested, depth - 1).result(SECONDS) + 1

    assert pool.submit(nested, 40).result(SECONDS) == 40
    # The threads beyond those that are asked for have gone.
    deadline = time.monotonic() + SECONDS
    while sum(thread.name.startswith("nested_") for thread in threading.enumerate()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    pool.shutdown()


def test_so_many_wait_at_most() -> None:
    pool = Threads(1, "load")
    gate, begun = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        with waiting():
            begun.release()
            assert gate.wait(SECONDS)

    jobs = [pool.submit(job) for _ in range(POOL_WAITS)]
    for _ in jobs:
        assert begun.acquire(timeout=SECONDS)
    with pytest.raises(Unavailable, match=f"more than {POOL_WAITS} threads 'load' wait for others"):
        pool.submit(job).result(SECONDS)
    gate.set()
    wait(jobs, SECONDS)
    pool.submit(job).result(SECONDS)
    pool.shutdown()


def test_a_thread_of_nobody_waits_for_a_pool() -> None:
    pool = Threads(1, "load")
    gate, _ = held(pool, 1)
    with waiting():
        late = pool.submit(int)
        time.sleep(0.05)
        assert not late.done()
    with waiting(pool):
        assert late.result(SECONDS) == 0
    gate.set()
    pool.shutdown()


def test_what_hangs_holds_up_nobody_for_long() -> None:
    pool = Threads(2, "unload", None, 0.05, 4)
    gate, jobs = held(pool, 2)
    assert pool.submit(int).result(SECONDS) == 0
    more, others = held(pool, 2)  # four of them now
    late = pool.submit(int)
    time.sleep(0.2)
    assert not late.done()
    more.set()
    assert late.result(SECONDS) == 0
    gate.set()
    wait([*jobs, *others], SECONDS)
    pool.shutdown()


def test_short_jobs_run_one_after_the_other_and_another_begins_beside_a_long_one() -> None:
    pool = Threads(4, "apart", apart_s=SECONDS)
    running, most = 0, 0
    counting = threading.Lock()

    def job() -> None:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with counting:
            running -= 1

    wait([pool.submit(job) for _ in range(50)], SECONDS)
    assert most == 1
    pool.shutdown()

    pool = Threads(4, "apart", apart_s=0.01)
    gate, jobs = held(pool, 4)
    late = pool.submit(int)
    time.sleep(0.1)
    assert not late.done()  # there is no room
    gate.set()
    wait([*jobs, late], SECONDS)
    pool.shutdown()


def test_idle_threads_begin_beside_those_that_take_long() -> None:
    pool = Threads(4, "apart", apart_s=0.1)
    gate, jobs = held(pool, 4)
    gate.set()
    wait(jobs, SECONDS)
    time.sleep(0.05)  # all of them are idle
    first_gate, first = held(pool, 1)
    gate, others = held(pool, 3)  # which come while the first one is not yet long
    assert not first[0].done()
    first_gate.set()
    gate.set()
    wait([*first, *others], SECONDS)
    pool.shutdown()


def test_who_waits_does_not_keep_others_from_beginning() -> None:
    pool = Threads(1, "apart", apart_s=10 * SECONDS)

    def outer() -> int:
        with waiting():
            return pool.submit_first(int).result(SECONDS)

    assert [job.result(SECONDS) for job in [pool.submit(outer) for _ in range(3)]] == [0, 0, 0]
    pool.shutdown()


def test_no_thread_is_started_that_finds_nothing_to_do() -> None:
    pool = Threads(2, "few")
    started: set[str] = set()

    def job() -> None:
        started.add(threading.current_thread().name)

    for _ in range(300):
        wait([pool.submit(job) for _ in range(4)], SECONDS)
    pool.shutdown()
    assert started <= {"few_0", "few_1"}


def test_an_end_that_does_not_wait_and_jobs_that_are_dropped() -> None:
    pool = Threads(1, "some")
    gate, jobs = held(pool, 1)
    dropped = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        dropped.result(SECONDS)
    gate.set()
    wait(jobs, SECONDS)
    pool.shutdown()


def test_a_place_is_taken_on_each_thread() -> None:
    places: list[str] = []
    pool = Threads(3, "some", lambda: places.append(threading.current_thread().name))
    gate, jobs = held(pool, 3)
    gate.set()
    wait(jobs, SECONDS)
    pool.shutdown()
    assert sorted(places) == ["some_0", "some_1", "some_2"]


def test_many_short_jobs_of_many_threads() -> None:
    pool = Threads(4, "some", None, 0.001, 16)
    done: list[int] = []

    def send() -> None:
        for number in range(500):
            pool.submit(done.append, number)

    senders = [threading.Thread(target=send) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    pool.shutdown()
    assert len(done) == 4000


def test_threads_for_bodies_give_way_to_those_that_start_them() -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with for_bodies(1) as pool:
        both = threading.Barrier(2)

        def niceness() -> int:
            both.wait(SECONDS)
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        assert [job.result() for job in [pool.submit(niceness) for _ in range(2)]] == [nice + BODY_NICE] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice
