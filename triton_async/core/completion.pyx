"""The bridge from instance threads to the loop, and the timer of batch deadlines. Loop thread."""

import logging
import os

from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport Py_DECREF

from triton_async.core.wakeup cimport (
    ta_batch,
    ta_completions_close,
    ta_completions_open,
    ta_completions_take,
    ta_timer_arm,
    ta_timer_clear,
    ta_timer_open,
)
from triton_async.infer.batch cimport Batch

log = logging.getLogger("triton_async.core")


cdef class BatchOwner:
    cdef int complete(self, Batch batch) except -1:
        return 0


cdef class CompletionRing:
    """Wakes the loop for finished batches and hands each back to its owner."""

    def __cinit__(self):
        if ta_completions_open(&self.completions) < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        ta_completions_close(&self.completions)

    def attach(self, loop):
        self.loop = loop
        loop.add_reader(self.completions.fd, self._on_readable)

    def detach(self):
        """Call when no instance is left."""
        if self.loop is not None:
            self.loop.remove_reader(self.completions.fd)
            self.loop = None

    def _on_readable(self):
        self.drain()

    cdef int drain(self) except -1:
        cdef ta_batch *c = ta_completions_take(&self.completions)
        cdef ta_batch *next
        cdef Batch batch
        while c != NULL:
            next = c.next
            batch = <Batch>c.owner
            Py_DECREF(batch)  # the reference that went down with it
            try:
                (<BatchOwner>batch.runner).complete(batch)
            except Exception:
                log.exception("a completed batch could not be handed back")
            c = next
        return 0


cdef class DeadlineTimer:
    """Calls `callback()` on the loop at a deadline of true microseconds."""

    def __cinit__(self, loop, callback):
        self.fd = ta_timer_open()
        if self.fd < 0:
            PyErr_SetFromErrno(OSError)
        self.loop = loop
        self.callback = callback
        loop.add_reader(self.fd, self._on_readable)

    cdef int arm(self, long long deadline_ns) except -1:
        if deadline_ns == self.armed_ns:
            return 0
        if ta_timer_arm(self.fd, deadline_ns) < 0:
            PyErr_SetFromErrno(OSError)
        self.armed_ns = deadline_ns
        return 0

    def _on_readable(self):
        ta_timer_clear(self.fd)
        self.armed_ns = 0
        self.callback()

    def close(self):
        if self.fd >= 0:
            self.loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1
            self.callback = None
