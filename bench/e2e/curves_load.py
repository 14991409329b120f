"""Loads for the curves: clients that ask again when they are answered, and arrivals that ask whoever is answered.

One thread over select(2), whose time limits are true microseconds. Latencies of arrivals are from when they were due,
not from when they could be sent.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Connections of arrivals at a time, which are also requests; further ones wait.
_MOST = 400
# Seconds that nothing is answered, after which it is an error.
_SILENCE_S = 30.0


@dataclass(frozen=True)
class Measured:
    """Answers per second, and milliseconds from being due to the answer. `kept_up`: the arrivals were as many as asked
    for, and answered in time.
    """

    per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    kept_up: bool = True


def arrivals(per_s: float, seconds: float, burst: int = 1) -> np.ndarray:
    """When requests are due, in seconds from the beginning: at random, `burst` at a time; the same ones every time."""
    count = int(per_s * seconds / burst * 1.2) + 10
    at_s = np.repeat(np.cumsum(np.random.default_rng(3).exponential(burst / per_s, count)), burst)
    return at_s[at_s < seconds]


class _Connection:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_s = 0.0
        self._left = -1
        self._head = b""

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Whether the answer is complete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the server has closed a connection")
        if self._left < 0:
            self._head += data
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return False
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"answered: {self._head[:500].decode(errors='replace')}")
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
            self._left = int(fields[b"content-length"]) - len(rest)
            self._head = b""
        else:
            self._left -= len(data)
        if self._left > 0:
            return False
        self._left = -1
        return True


class Load:
    """What goes to one model, for some seconds. The first fifth is not counted."""

    def __init__(self, port: int, requests: Sequence[bytes], seconds: float, seed: int = 7) -> None:
        self._port, self._requests, self._seconds = port, requests, seconds
        self._random = np.random.default_rng(seed)
        self._order = self._random.integers(len(requests), size=1 << 16)
        self._sent = 0
        self._busy: dict[socket.socket, _Connection] = {}
        self._free: list[_Connection] = []
        self._took: list[tuple[float, float]] = []  # (when it was due, seconds)

    def _send(self, due_s: float) -> None:
        connection = self._free.pop() if self._free else _Connection(self._port)
        self._busy[connection.socket] = connection
        connection.send(self._requests[self._order[self._sent % len(self._order)]], due_s)
        self._sent += 1

    def _wait(self, until_s: float) -> int:
        """Takes what is answered; how many answers."""
        readable, _, _ = select.select(list(self._busy), [], [], max(until_s - time.monotonic(), 0.0))
        answers = 0
        for ready in readable:
            connection = self._busy[ready]
            if connection.receive():
                del self._busy[ready]
                self._free.append(connection)
                self._took.append((connection.due_s, time.monotonic() - connection.due_s))
                answers += 1
        return answers

    def closed(self, clients: int) -> Measured:
        """So many clients, each of which asks again as soon as it is answered."""
        begin_s = time.monotonic()
        for _ in range(clients):
            self._send(time.monotonic())
        while time.monotonic() < begin_s + self._seconds:
            for _ in range(self._wait(begin_s + self._seconds)):
                self._send(time.monotonic())
        return self._end(begin_s, time.monotonic())

    def open(self, per_s: float, burst: int = 1) -> Measured:
        """Arrivals at random, `burst` at a time, whether earlier ones are answered or not."""
        begin_s = time.monotonic()
        end_s = begin_s + self._seconds
        due = deque(begin_s + at for at in arrivals(per_s, self._seconds, burst).tolist())
        wanted = len(due)
        while due or self._busy:
            now_s = time.monotonic()
            if now_s > end_s + self._seconds:
                break
            while due and due[0] <= now_s and len(self._busy) < _MOST:
                self._send(due.popleft())
            self._wait(due[0] if due and len(self._busy) < _MOST else now_s + 1.0)
        return self._end(begin_s, end_s, wanted)

    def _end(self, begin_s: float, end_s: float, wanted: int = 0) -> Measured:
        silent_s = time.monotonic()
        while self._busy:
            if self._wait(time.monotonic() + 1.0):
                silent_s = time.monotonic()
            elif time.monotonic() > silent_s + _SILENCE_S:
                raise RuntimeError(f"{len(self._busy)} requests have no answer")
        for connection in self._free:
            connection.socket.close()
        from_s = begin_s + (end_s - begin_s) / 5
        took = np.array([seconds for due_s, seconds in self._took if from_s <= due_s]) * 1e3
        in_time = sum(from_s <= due_s and due_s + seconds <= end_s for due_s, seconds in self._took)
        late = sum(due_s + seconds > end_s + self._seconds / 4 for due_s, seconds in self._took)
        if not in_time:
            raise RuntimeError("nothing was answered in time")
        p50, p99 = np.percentile(took, [50, 99])
        kept_up = not wanted or (len(self._took) == wanted and late == 0)
        return Measured(in_time / (end_s - from_s), float(took.mean()), float(p50), float(p99), kept_up)
