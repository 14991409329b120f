"""Which requests are traced: the settings, of the server and of single models, and the traces begun. Loop thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from triton_async.config.trace_config import OPENTELEMETRY, TENSORS, TRITON, TraceConfig, level_names
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.trace import Trace

Record = tuple[Any, ...]

# The settings that may be changed, by Triton's names, with what they are in a TraceConfig.
FIELDS = {
    "trace_level": "levels", "trace_rate": "rate", "trace_count": "count", "log_frequency": "log_frequency",
}  # fmt: skip


class Group:
    """The settings that are in force for the whole server, or for a model that has some of its own. Traces of one group
    share a count, a rate and, written to files, these.
    """

    __slots__ = ("count", "file", "left", "levels", "log_frequency", "rate", "seen")

    def __init__(self, levels: int, rate: int, count: int, log_frequency: int) -> None:
        self.levels = levels
        self.rate = rate
        self.log_frequency = log_frequency
        #: How many were to be traced, and still are; -1: without end.
        self.count = self.left = count
        #: A recorder's own: where it puts its traces.
        self.file: Any = None
        self.seen = 0

    def takes(self) -> bool:
        """Whether this request is one to trace; it is counted."""
        if not self.levels or not self.left or not self.rate:
            return False
        self.seen += 1
        if self.seen % self.rate:
            return False
        if self.left > 0:
            self.left -= 1
        return True


class TraceRecorder(Protocol):
    """Where traces go. `begin` on the loop, `put` on any thread; none of it blocks or raises."""

    #: Whether a request may come with a context of its own, which says whether it is traced.
    reads_context: bool

    def settings(self) -> Mapping[str, str]: ...

    def context(self, fields: Sequence[tuple[str, str]]) -> tuple[Any, bool] | None:
        """Of a request's headers, W3C's: what `begin` takes as parent, and whether it is sampled. None: there is none.
        """

    def begin(self, model: str, request_id: str, parent: Any, began_ns: int) -> Any:
        """The span of a new trace. `parent`: a span, a context, or None."""

    def put(self, record: Record) -> None:
        """See Trace.record."""

    def end_group(self, group: Group) -> None:
        """No trace of the group begins any more."""

    def close(self) -> None:
        """Writes what there is. Blocks."""


class Tracing:
    """`recorder`: None where the server does not know where to; then nothing can be traced. `on_change(active)` is told
    whether any model may be traced.
    """

    def __init__(
        self, config: TraceConfig, recorder: TraceRecorder | None, on_change: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._on_change = on_change
        # Settings that were changed, by their names in a TraceConfig.
        self._changes: dict[str, int] = {}
        self._changes_of: dict[str, dict[str, int]] = {}
        self._next_id = 1
        values = self._values({})
        self._global = Group(**(values if recorder is not None else {**values, "levels": 0}))
        self._groups: dict[str, Group] = {}

    def announce(self) -> None:
        """Tells `on_change` how things stand."""
        self._on_change(any(group.levels for group in (self._global, *self._groups.values())))

    @property
    def reads_context(self) -> bool:
        """Whether front-ends are to hand over the headers of requests."""
        return self._recorder is not None and self._recorder.reads_context

    # -- settings ----------------------------------------------------------------------------------

    def settings(self, model: str = "") -> dict[str, Any]:
        """Those in force, in Triton's form. `model`: a known one; "" for the server's."""
        group = self._groups.get(model, self._global)
        shown: dict[str, Any] = {
            "trace_level": level_names(group.levels), "trace_rate": str(group.rate), "trace_count": str(group.left),
        }  # fmt: skip
        if self._config.mode == TRITON:
            shown |= {"log_frequency": str(group.log_frequency), "trace_file": self._config.file}
        shown["trace_mode"] = self._config.mode
        return shown if self._recorder is None else {**shown, **self._recorder.settings()}

    def update(self, model: str, changes: Mapping[str, int | None]) -> None:
        """Changes settings of a model that is known, or of the server (""); None takes back a change. `changes`:
        checked values by the names of FIELDS. InvalidArg, and nothing is changed, when they can not be in force.
        """
        if changes.get("trace_rate") == 0:
            # As an option it is one, for those that are to trace nothing but what comes with a context.
            raise InvalidArg("Attempting to set invalid trace setting :sample rate must be non-zero")
        if self._config.mode == OPENTELEMETRY and "log_frequency" in changes:
            raise InvalidArg("log_frequency is a setting of trace mode triton")
        if self._config.mode == OPENTELEMETRY and (changes.get("trace_level") or 0) & TENSORS:
            raise InvalidArg("trace level TENSORS is one of trace mode triton")
        known = self._changes_of.get(model, {}) if model else self._changes
        changed = {**known, **{FIELDS[name]: value for name, value in changes.items()}}
        kept = {name: value for name, value in changed.items() if value is not None}
        if self._recorder is None and self._values(kept, model != "")["levels"]:
            raise InvalidArg("Attempting to set invalid trace setting :trace file name is not given")
        if not model:
            self._changes = kept
            self._regroup("")
        elif kept:
            self._changes_of[model] = kept
        else:
            self._changes_of.pop(model, None)
        for name in [model] if model else [*self._changes_of]:
            self._regroup(name)
        self.announce()

    def _values(self, changes: Mapping[str, int], of_model: bool = False) -> dict[str, int]:
        values: dict[str, int] = {field: getattr(self._config, field) for field in FIELDS.values()}
        if self._recorder is None:
            values["levels"] = 0
        if of_model:
            # What is left to be traced of the server's count, not what it began with.
            values.update(self._changes, count=self._global.left)
        values.update(changes)
        return values

    def _regroup(self, model: str) -> None:
        if not model:
            old, self._global = self._global, Group(**self._values(self._changes))
        else:
            old = self._groups.pop(model, self._global)
            if model in self._changes_of:
                self._groups[model] = Group(**self._values(self._changes_of[model], True))
        if old is not self._global and self._recorder is not None:
            self._recorder.end_group(old)

    # -- requests ----------------------------------------------------------------------------------

    def begin(self, request: InferRequest, model: str, version: int) -> Trace | None:
        """The trace of a request that is submitted now, or None. `request.trace_parent`: the trace for whose sake it is
        made, or the headers that it came with, or None.
        """
        recorder = self._recorder
        if recorder is None:
            return None
        parent = request.trace_parent
        parent_id, span = 0, None
        if isinstance(parent, Trace):
            # A part of that one, whatever is set for its own model.
            parent_id, span, group, levels = parent.id, parent.span, parent.group, parent.levels
        else:
            group = self._groups.get(model, self._global)
            levels = group.levels
            if not levels:
                return None
            found = recorder.context(parent) if parent is not None else None
            if found is not None:
                span, sampled = found
            if not (sampled if found is not None else group.takes()):
                return None
        number, self._next_id = self._next_id, self._next_id + 1
        span = recorder.begin(model, request.id, span, request.received_ns or time.monotonic_ns())
        return Trace(number, model, version, request.id, levels, recorder.put, parent_id, group, span)

    def close(self) -> None:
        """Writes what was traced. Blocks; behind the last request."""
        if self._recorder is not None:
            self._recorder.close()
