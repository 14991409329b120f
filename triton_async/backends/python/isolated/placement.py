"""Which model process the instances of a model go to: the one that its config names, or that with the fewest."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterable
from typing import Any, Protocol

from triton_async.backends.python.isolated import zygote
from triton_async.backends.python.isolated.host import ModelProcess
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.isolated.zygote import Zygote
from triton_async.backends.python.options import SPREAD

log = logging.getLogger("triton_async.python")


class Home(Protocol):
    """Where workers of the instances of one version come from."""

    def place(self) -> Zygote | ModelProcess:
        """For the next instance. Any thread."""

    def leave(self, place: Zygote | ModelProcess) -> None:
        """An instance that was to be there is not, or not any more. Any thread."""

    def close(self) -> None:
        """Behind the last instance."""


class Alone:
    """Each is a process of its own, forked from `zygote`."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote

    def place(self) -> Zygote:
        """See Home."""
        return self._zygote

    def leave(self, place: Zygote | ModelProcess) -> None:
        """See Home."""

    def close(self) -> None:
        """See Home."""


class ModelProcesses:
    """The `count` model processes of a server; each is there while it has instances. Any thread.

    What is placed counts from its load to its end, whether its process runs just now or not.
    """

    def __init__(self, count: int, reader: Reader) -> None:
        # Models that would be in the server's process have its environment, the variables for its interpreter included.
        self.zygote = Zygote(reader, sys.executable, command=(str(zygote.MAIN),))
        self._processes = [ModelProcess(number, reader, self.zygote) for number in range(count)]
        self._placed = [0] * count
        self._named: dict[str, tuple[int, int]] = {}  # name -> process, versions that are there by it
        self._lock = threading.Lock()

    def home(self, model: str, wanted: str, instances: int) -> Home:
        """Of a version with so many instances. `wanted`: MODEL_PROCESS, checked."""
        if wanted == SPREAD:
            log.info("the instances of model '%s' are spread over the model processes", model)
            return _Spread(self)
        instances = max(instances, 1)
        with self._lock:
            number, users = self._named.get(wanted, (-1, 0))
            if re.fullmatch("[0-9]+", wanted, re.ASCII):
                number = int(wanted)
            elif number < 0:
                number = self._emptiest()
            named = wanted if wanted and not wanted.isdigit() else ""
            if named:
                self._named[named] = (number, users + 1)
            self._placed[number] += instances
        log.info("model '%s' is placed in model process %d", model, number)
        return _Together(self, number, instances, named)

    # Under the lock.
    def _emptiest(self) -> int:
        return min(range(len(self._placed)), key=self._placed.__getitem__)

    def take(self, taken: list[int]) -> ModelProcess:
        """A place in the process that is the least often among `taken`, and then has the fewest instances."""
        with self._lock:
            number = min(range(len(self._placed)), key=lambda at: (taken.count(at), self._placed[at]))
            self._placed[number] += 1
            taken.append(number)
            return self._processes[number]

    def leave(self, taken: list[int], number: int) -> None:
        """Of those that `take` has noted, one goes."""
        with self._lock:
            self._placed[number] -= 1
            taken.remove(number)

    def count(self, number: int, more: int) -> None:
        """Of a version, so many instances more are there, or less, than `home` was told."""
        with self._lock:
            self._placed[number] += more

    def process(self, number: int) -> ModelProcess:
        """By its number."""
        return self._processes[number]

    def give_back(self, number: int, instances: int, named: str = "") -> None:
        """What `home` and `count` have counted. `named`: the name that was asked for, if any."""
        with self._lock:
            self._placed[number] -= instances
            if named:
                process, users = self._named.pop(named)
                if users > 1:
                    self._named[named] = (process, users - 1)

    def close(self) -> None:
        """Behind the last instance."""
        self.zygote.close(for_good=True)

    def families(self) -> Iterable[Any]:
        """What is known of those that models are placed in, for the metrics."""
        rows = [
            ({"process": str(process.number)}, process, placed)
            for process, placed in zip(self._processes, self._placed, strict=True)
            if placed or process.restarts
        ]
        return [
            ("triton_async_model_process_up", "gauge", "Whether a model process runs",
             [(labels, int(process.pid is not None)) for labels, process, placed in rows if placed]),
            ("triton_async_model_process_instances", "gauge", "Model instances in a model process",
             [(labels, process.tenants) for labels, process, placed in rows if placed]),
            ("triton_async_model_process_restarts_total", "counter", "Ends of a model process that had instances",
             [(labels, process.restarts) for labels, process, _ in rows]),
        ]  # fmt: skip


class _Together:
    """All in one process."""

    def __init__(self, processes: ModelProcesses, number: int, instances: int, named: str) -> None:
        self._processes = processes
        self._number = number
        self._counted = instances
        self._there = 0
        self._named = named
        self._lock = threading.Lock()

    def place(self) -> ModelProcess:
        with self._lock:
            self._there += 1
            # A version may get more of them while it serves.
            if self._there > self._counted:
                self._count(1)
        return self._processes.process(self._number)

    def leave(self, place: Zygote | ModelProcess) -> None:
        with self._lock:
            self._there -= 1
            self._count(-1)

    # Under the lock.
    def _count(self, more: int) -> None:
        self._counted += more
        self._processes.count(self._number, more)

    def close(self) -> None:
        self._processes.give_back(self._number, self._counted, self._named)


class _Spread:
    """Each in the process that has the fewest of them."""

    def __init__(self, processes: ModelProcesses) -> None:
        self._processes = processes
        self._taken: list[int] = []

    def place(self) -> ModelProcess:
        return self._processes.take(self._taken)

    def leave(self, place: Zygote | ModelProcess) -> None:
        assert isinstance(place, ModelProcess)
        self._processes.leave(self._taken, place.number)

    def close(self) -> None:
        for number in tuple(self._taken):
            self._processes.leave(self._taken, number)
