"""Metrics of models end in finalizers, which may come on a thread that is at metrics just then."""

from __future__ import annotations

import gc
import threading
from typing import Any

from triton_async.backends.python.metrics import CustomMetrics
from triton_async.backends.python.worker.channel import COUNTER


class Owner:
    """Has handles, and is in a cycle: its end is the garbage collector's."""

    def __init__(self, *handles: Any) -> None:
        self.handles = handles
        self.me = self

    def __del__(self) -> None:
        for handle in self.handles:
            handle.drop()


class Value(str):
    """A label's value. The collector comes wherever it is looked for."""

    def __hash__(self) -> int:
        gc.collect()
        return super().__hash__()

    __eq__ = str.__eq__


def test_the_collector_may_come_while_a_metric_is_looked_for() -> None:
    metrics = CustomMetrics()

    def use() -> None:
        gone = metrics.family("gone", "", COUNTER)
        Owner(gone.metric({}, None), gone)
        del gone
        family = metrics.family("kept", "", COUNTER)
        family.metric({"label": Value("value")}, None).increment(2.0)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"
    shown = [(name, samples) for name, _, _, samples in metrics.families()]
    assert shown == [("kept", [({"label": "value"}, 2)])]
