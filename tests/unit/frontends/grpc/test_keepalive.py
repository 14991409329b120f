"""Keep-alive, ping strikes and connection age by C-core's rules, on a clock of our own."""

from __future__ import annotations

import pytest
from pings import ping_options

from triton_async import defines
from triton_async.frontends.grpc.express.keepalive import Action, Activity, KeepAlive

MS = 1_000_000
S = 1_000_000_000
START = 5 * S


def alive(**options: int | bool) -> KeepAlive:
    return KeepAlive(ping_options(**options), START)


def test_a_quiet_connection_with_calls_is_pinged_and_closed_when_it_does_not_answer() -> None:
    keeper = alive(time_ms=1000, timeout_ms=200)
    quiet = Activity(START, has_calls=True)
    assert keeper.next_ns(quiet) == START + S
    assert keeper.due(START + S - 1, quiet) is Action.NOTHING
    assert keeper.due(START + S, quiet) is Action.PING
    assert keeper.due(START + S, quiet) is Action.NOTHING
    assert keeper.next_ns(quiet) == START + S + 200 * MS
    assert keeper.due(START + S + 199 * MS, quiet) is Action.NOTHING
    assert keeper.due(START + S + 200 * MS, quiet) is Action.CLOSE


def test_the_answer_to_the_ping_keeps_the_connection() -> None:
    keeper = alive(time_ms=1000, timeout_ms=200)
    quiet = Activity(START, has_calls=True)
    assert keeper.due(START + S, quiet) is Action.PING
    keeper.on_pong()
    after = Activity(START + S + 10 * MS, has_calls=True)
    assert keeper.next_ns(after) == START + 2 * S + 10 * MS
    assert keeper.due(START + S + 300 * MS, after) is Action.NOTHING


def test_reads_put_the_ping_off() -> None:
    keeper = alive(time_ms=1000)
    assert keeper.due(START + S, Activity(START + S // 2, has_calls=True)) is Action.NOTHING
    assert keeper.next_ns(Activity(START + S // 2)) == START + S + S // 2


@pytest.mark.parametrize(("permit", "action"), [(False, Action.NOTHING), (True, Action.PING)])
def test_pings_without_calls(permit: bool, action: Action) -> None:
    keeper = alive(time_ms=1000, permit_without_calls=permit)
    assert keeper.due(START + S, Activity(START)) is action
    assert keeper.next_ns(Activity(START)) > START + S


@pytest.mark.parametrize(("limit", "pings"), [(2, 2), (5, 5), (0, 20)])
def test_pings_without_data_are_bounded(limit: int, pings: int) -> None:
    keeper = alive(time_ms=1000, max_pings_without_data=limit)
    found = 0
    for i in range(1, 21):
        found += keeper.due(START + i * S, Activity(START, has_calls=True)) is Action.PING
        keeper.on_pong()
    assert found == pings
    keeper.on_sent()
    assert keeper.due(START + 30 * S, Activity(START, has_calls=True)) is Action.PING


def test_never_means_never() -> None:
    keeper = alive(time_ms=2**31 - 1)
    assert keeper.next_ns(Activity(START, has_calls=True)) == 0
    assert keeper.due(START + 2**60, Activity(START, has_calls=True)) is Action.NOTHING


def pings(keeper: KeepAlive, every_ns: int, count: int, has_calls: bool) -> int:
    """How many pings the client may send."""
    for i in range(count):
        if not keeper.on_ping(START + i * every_ns, has_calls=has_calls):
            return i
    return count


@pytest.mark.parametrize(
    ("options", "every_ns", "has_calls", "allowed"),
    [
        ({}, S, True, 3),
        ({}, 299 * S, True, 3),
        ({}, 300 * S, True, 10),
        ({}, 300 * S, False, 3),
        ({}, 7200 * S, False, 10),
        ({"permit_without_calls": True}, 300 * S, False, 10),
        ({"min_recv_interval_ms": 10}, 10 * MS, True, 10),
        ({"max_strikes": 5}, S, True, 6),
        ({"max_strikes": 0}, S, True, 10),
    ],
)
def test_strikes(options: dict[str, int], every_ns: int, has_calls: bool, allowed: int) -> None:
    assert pings(alive(**options), every_ns, 10, has_calls) == allowed


def test_data_forgives_strikes() -> None:
    keeper = alive()
    for i in range(20):
        assert keeper.on_ping(START + i, has_calls=True)
        keeper.on_sent()


def test_age_and_grace() -> None:
    keeper = alive(max_age_ms=1000, age_grace_ms=500)
    busy = Activity(START, has_calls=True)
    assert keeper.due(START + S - 1, busy) is Action.NOTHING
    assert keeper.due(START + S, busy) is Action.SHUT_DOWN
    assert keeper.due(START + S, busy) is Action.NOTHING
    assert keeper.next_ns(busy) == START + S + 500 * MS
    assert keeper.due(START + S + 500 * MS, busy) is Action.CLOSE


def test_age_without_grace_waits_for_the_calls() -> None:
    keeper = alive(max_age_ms=1000)
    assert keeper.due(START + S, Activity(START, has_calls=True)) is Action.SHUT_DOWN
    assert keeper.due(START + 1000 * S, Activity(START + 1000 * S, has_calls=True)) is Action.NOTHING


def test_the_age_is_spread() -> None:
    keeper = KeepAlive(ping_options(max_age_ms=1000), START, 1.1)
    assert keeper.due(START + S, Activity(START)) is Action.NOTHING
    assert keeper.due(START + S + 100 * MS, Activity(START)) is Action.SHUT_DOWN


@pytest.mark.parametrize(
    ("what", "limit_s"),
    [
        ("handshake_ns", defines.GRPC_HANDSHAKE_TIMEOUT_S),
        ("header_block_ns", defines.GRPC_HEADERS_TIMEOUT_S),
        ("stalled_ns", defines.GRPC_STALL_TIMEOUT_S),
    ],
)
def test_what_takes_too_long(what: str, limit_s: float) -> None:
    keeper = alive()
    stuck = Activity(START, **{what: START})  # type: ignore[arg-type]
    end = START + int(limit_s * S)
    assert keeper.next_ns(stuck) == end
    assert keeper.due(end - 1, stuck) is Action.NOTHING
    assert keeper.due(end, stuck) is Action.CLOSE
    assert keeper.due(end, Activity(START)) is Action.NOTHING
