"""Says in log and metrics which executions are stuck, and what they wait for. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from triton_async.core.families import Family
from triton_async.core.model import Model
from triton_async.core.servable import Servable
from triton_async.core.stuck import stuck_executions
from triton_async.defines import STUCK_LOOK_S

log = logging.getLogger("triton_async.core")

# Ids of requests in one line of the log.
_MOST_IDS = 5
# Model, version, instance, begin in ns.
_Execution = tuple[str, int, str, int]


class StuckWatch:
    """Looks every STUCK_LOOK_S."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stuck: set[_Execution] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, models: Callable[[], Iterable[Servable]]) -> None:
        """Looks from here on, at those that may have requests."""
        self._timer = self._loop.call_later(STUCK_LOOK_S, self._again, models)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, models: Callable[[], Iterable[Servable]]) -> None:
        self.start(models)
        self.look(models(), time.monotonic_ns())

    def look(self, models: Iterable[Servable], now_ns: int) -> None:
        """Logs what is stuck since the last look, and what is so no more."""
        found: set[_Execution] = set()
        for model in models:
            if not isinstance(model, Model):
                continue
            name, version = model.signature.model_name, model.signature.model_version
            for instance, begun_ns, ids, asked in stuck_executions(model, now_ns):
                execution = (name, version, instance, begun_ns)
                found.add(execution)
                if execution not in self._stuck:
                    _warn(execution, now_ns, ids, asked)
        for name, version, instance, begun_ns in sorted(self._stuck - found):
            log.info(
                "model '%s' version %d: the execution on instance '%s' that was stuck is over after %.1f s",
                name, version, instance, (now_ns - begun_ns) / 1e9,
            )  # fmt: skip
        self._stuck = found

    def families(self) -> list[Family]:
        """How many executions of each model were stuck at the last look."""
        counts = Counter((name, version) for name, version, _, _ in self._stuck)
        samples = [
            ({"model": name, "version": str(version)}, count) for (name, version), count in sorted(counts.items())
        ]
        text = "Executions that run for much longer than any of their model did"
        return [("triton_async_stuck_executions", "gauge", text, samples)]


def _warn(execution: _Execution, now_ns: int, ids: list[str], asked: list[str]) -> None:
    name, version, instance, begun_ns = execution
    waits = "its engine" if not asked else "model " + " and ".join(f"'{other}'" for other in asked)
    shown = "" if not ids else f", requests {', '.join(repr(given) for given in ids[:_MOST_IDS])}"
    more = "" if len(ids) <= _MOST_IDS else f" and {len(ids) - _MOST_IDS} more"
    log.warning(
        "model '%s' version %d: an execution on instance '%s' runs for %.1f s, much longer than any before%s%s: it "
        "waits for %s", name, version, instance, (now_ns - begun_ns) / 1e9, shown, more, waits,
    )  # fmt: skip
