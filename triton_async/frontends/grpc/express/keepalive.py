"""When to ping, when a client pings too often, when a connection is too old: C-core's rules. No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from triton_async.defines import GRPC_HANDSHAKE_TIMEOUT_S, GRPC_HEADERS_TIMEOUT_S, GRPC_STALL_TIMEOUT_S

_MS = 1_000_000
_S = 1_000_000_000

# What C-core takes for "never", in milliseconds.
_NEVER_MS = 2**31 - 1

# Pings that are further apart than this are never too many when there is no call (C-core: two hours).
_IDLE_PING_NS = 7200 * _S


@dataclass(frozen=True, slots=True)
class PingOptions:
    """The --grpc-keepalive-* options and their kin, in milliseconds and counts."""

    time_ms: int
    timeout_ms: int
    permit_without_calls: bool
    max_pings_without_data: int
    min_recv_interval_ms: int
    max_strikes: int
    max_age_ms: int
    age_grace_ms: int


class Action(Enum):
    """What a connection is to do now."""

    NOTHING = "nothing"
    PING = "ping"
    SHUT_DOWN = "shut down"  # too old: GOAWAY, calls finish
    CLOSE = "close"  # the client is dead, stuck or never was one


@dataclass(slots=True)
class Activity:
    """How a connection stands; times in nanoseconds of the same clock, 0 where it is not so."""

    last_read_ns: int
    handshake_ns: int = 0  # since when the preface is awaited
    header_block_ns: int = 0  # since when a header block is incomplete
    stalled_ns: int = 0  # since when answers wait and none of their bytes has left
    has_calls: bool = False


class KeepAlive:
    """One connection. `jitter`: factor on its age, so that clients of one moment do not come back in one moment."""

    def __init__(self, options: PingOptions, now_ns: int, jitter: float = 1.0) -> None:
        self._options = options
        self._sent_ns = 0  # of the ping that is not answered
        self._pings_without_data = 0
        self._last_ping_ns: int | None = None
        self._strikes = 0
        self._checked_ns = now_ns
        self._age_ns = now_ns + int(options.max_age_ms * _MS * jitter) if options.max_age_ms else 0
        self._grace_ns = 0

    def on_ping(self, now_ns: int, *, has_calls: bool) -> bool:
        """The client has sent a ping. False when it is one too many."""
        options = self._options
        interval_ns = options.min_recv_interval_ms * _MS
        if not has_calls and not options.permit_without_calls:
            interval_ns = _IDLE_PING_NS
        if self._last_ping_ns is not None and now_ns < self._last_ping_ns + interval_ns:
            self._strikes += 1
        self._last_ping_ns = now_ns
        return not options.max_strikes or self._strikes <= options.max_strikes

    def on_sent(self) -> None:
        """Something else than control frames was sent: pings are welcome again, both ways."""
        self._last_ping_ns = None
        self._strikes = 0
        self._pings_without_data = 0

    def on_pong(self) -> None:
        self._sent_ns = 0

    def next_ns(self, now: Activity) -> int:
        """When `due` is to be asked again; 0: not before something changes."""
        moments = [self._age_ns, self._grace_ns]
        if now.handshake_ns:
            moments.append(now.handshake_ns + int(GRPC_HANDSHAKE_TIMEOUT_S * _S))
        if now.header_block_ns:
            moments.append(now.header_block_ns + int(GRPC_HEADERS_TIMEOUT_S * _S))
        if now.stalled_ns:
            moments.append(now.stalled_ns + int(GRPC_STALL_TIMEOUT_S * _S))
        if self._sent_ns:
            moments.append(self._sent_ns + self._options.timeout_ms * _MS)
        elif self._options.time_ms < _NEVER_MS:
            moments.append(max(now.last_read_ns, self._checked_ns) + self._options.time_ms * _MS)
        return min((moment for moment in moments if moment), default=0)

    def due(self, now_ns: int, now: Activity) -> Action:
        """What is to be done; one thing at a time, so ask until NOTHING."""
        if self._is_dead(now_ns, now):
            return Action.CLOSE
        if self._age_ns and now_ns >= self._age_ns:
            self._age_ns = 0
            if self._options.age_grace_ms:
                self._grace_ns = now_ns + self._options.age_grace_ms * _MS
            return Action.SHUT_DOWN
        idle_since_ns = max(now.last_read_ns, self._checked_ns)
        if self._sent_ns or self._options.time_ms >= _NEVER_MS or now_ns < idle_since_ns + self._options.time_ms * _MS:
            return Action.NOTHING
        self._checked_ns = now_ns
        if not self._may_ping(now):
            return Action.NOTHING
        self._pings_without_data += 1
        self._sent_ns = now_ns
        return Action.PING

    def _is_dead(self, now_ns: int, now: Activity) -> bool:
        limits = (
            (now.handshake_ns, int(GRPC_HANDSHAKE_TIMEOUT_S * _S)),
            (now.header_block_ns, int(GRPC_HEADERS_TIMEOUT_S * _S)),
            (now.stalled_ns, int(GRPC_STALL_TIMEOUT_S * _S)),
            (self._sent_ns, self._options.timeout_ms * _MS),
        )
        if any(since and now_ns >= since + limit for since, limit in limits):
            return True
        return bool(self._grace_ns and now_ns >= self._grace_ns)

    def _may_ping(self, now: Activity) -> bool:
        options = self._options
        if not now.has_calls and not options.permit_without_calls:
            return False
        return not options.max_pings_without_data or self._pings_without_data < options.max_pings_without_data
