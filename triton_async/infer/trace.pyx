"""Traces of requests: timestamps and tensors, collected on the way and handed on at the end."""

import logging

from libc.stdint cimport int64_t

log = logging.getLogger("triton_async.core")


cdef class Trace:
    """One traced request. `done(record)` takes the tuple of `record` when nobody holds the trace any more: on any
    thread, and it must not block."""

    def __init__(self, int64_t id, str model_name, int64_t model_version, str request_id, int levels, done,
                 int64_t parent_id=0, group=None, span=None):
        self.id = id
        self.parent_id = parent_id
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.levels = levels
        self.group = group
        self.span = span
        self.events = []
        self.tensors = []
        self.done = done

    def __del__(self):
        if self.done is None:
            return
        try:
            self.done(self.record())
        except Exception:
            log.exception("a trace was lost")

    def record(self):
        """(id, parent_id, model_name, model_version, request_id, events, tensors, group, span)."""
        return (self.id, self.parent_id, self.model_name, self.model_version, self.request_id, self.events,
                self.tensors, self.group, self.span)

    cdef int note(self, str name, int64_t at_ns) except -1:
        if at_ns and self.levels & TRACE_TIMESTAMPS:
            self.events.append((name, at_ns))
        return 0

    cdef int note_tensors(self, str activity, list tensors) except -1:
        if self.levels & TRACE_TENSORS:
            self.tensors.extend([(activity, tensor) for tensor in tensors])
        return 0

    def context(self):
        """W3C's headers of it, as JSON; None where traces have none."""
        return None if self.span is None else self.span.context()

    def add(self, str name, int64_t at_ns):
        """`note`, for front-ends written in Python."""
        self.note(name, at_ns)
