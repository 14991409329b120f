"""A model instance in a worker process: batches go there and come back, whatever becomes of the worker."""

import logging
import threading
import time

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.python.isolated.link cimport Link
from triton_async.infer.batch cimport Batch, ta_batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.factory cimport ResponseFactory

from triton_async.backends.python.defines import (
    WORKER_AHEAD,
    WORKER_AHEAD_NS,
    WORKER_LOOP_NBYTES,
    WORKER_RESTART_WAIT_S,
    WORKER_SILENCE_S,
)
from triton_async.errors import Unavailable

log = logging.getLogger("triton_async.python")

cdef int AHEAD = WORKER_AHEAD
cdef int64_t AHEAD_NS = WORKER_AHEAD_NS
# Share of the newest execution in the mean.
cdef int64_t MEAN_WEIGHT = 8
# The most that one counts for: a worker that lost the processor once is none whose executions are long.
cdef int64_t LONGEST_NS = 4 * AHEAD_NS
# Bytes of inputs that are copied on the loop thread at most.
cdef int64_t HERE_NBYTES = WORKER_LOOP_NBYTES
cdef int64_t SILENCE_NS = int(WORKER_SILENCE_S * 1e9)


cdef class WorkerInstance(RequestInstance):
    """`supervisor`: not yet started. `limit_ns`: nanoseconds that one call of `execute` may take; 0 for any."""

    def __init__(self, str name, supervisor, reader, int64_t limit_ns=0):
        RequestInstance.__init__(self, name)
        self.direct = True
        self.supervisor = supervisor
        self.reader = reader
        self.limit_ns = limit_ns
        self.mean_ns = LONGEST_NS
        self.changed = threading.Condition()

    def start(self):
        """Starts the worker and waits until its model is there. ServerError with the reason. Not on the reader's
        thread."""
        self.supervisor.start(self)
        self.asks_ready = self.supervisor.asks_ready()

    def is_ready(self):
        return self.supervisor.is_ready()

    # -- instance thread, or the loop's ---------------------------------------------------------------------------

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        batch.by_request = 1
        with gil:
            return self._submit(batch)

    cdef int _submit(self, ta_batch *c) noexcept:
        cdef Batch batch = <Batch>c.owner
        cdef list factories
        cdef bint taken = False
        c.compute_input_end_ns = ta_now_ns()
        factories = self._factories(c)
        if factories is None:
            return 1
        try:
            if not self._has_room():
                self._wait_for_room()
            if self.link is None:
                self._refuse(factories, Unavailable(self.supervisor.absence()))
            else:
                if not self.link.batches:
                    self.began_ns = ta_now_ns()
                    self._watch_limits()
                c.compute_input_end_ns = ta_now_ns()
                taken = self.link.submit(batch, factories)
        except BaseException:
            log.exception("a batch could not be given to the worker of instance '%s'", self.name)
            factories.clear()  # they answer with an error when they are gone
        if taken:
            return 0
        c.compute_output_start_ns = c.compute_end_ns = ta_now_ns()
        return 1

    cdef bint takes_here(self, Batch batch, int others) noexcept:
        cdef int64_t nbytes = 0
        cdef int i
        if not self._has_room() or len(self.link.batches) != others or not self.link.flows():
            return False
        for i in range(batch.c.n_inputs):
            nbytes += batch.c.inputs[i].nbytes
        return nbytes < HERE_NBYTES

    # The worker gets a batch ahead only where executions are so short that it would wait for it.
    cdef bint _has_room(self) noexcept:
        cdef int most = AHEAD if self.mean_ns < AHEAD_NS else 1
        return self.link is not None and len(self.link.batches) < most

    def _wait_for_room(self):
        until = None
        with self.changed:
            self.waited_for = True
            try:
                while not self._has_room():
                    if self.link is not None:
                        until = None
                        self.changed.wait()
                        continue
                    # It comes back in no time, as a rule, and then nobody hears that it was gone.
                    if until is None:
                        until = time.monotonic() + WORKER_RESTART_WAIT_S
                    left = until - time.monotonic()
                    if left <= 0 or not self.supervisor.is_restarting():
                        return
                    self.changed.wait(left)
            finally:
                self.waited_for = False

    cdef int _refuse(self, list factories, error) except -1:
        cdef ResponseFactory factory
        for factory in factories:
            factory.send([], None, error)
            factory.release()
        return 0

    cdef void drain(self) noexcept nogil:
        with gil:
            self._wait_until_idle()

    def _wait_until_idle(self):
        with self.changed:
            self.waited_for = True
            while self.link is not None and self.link.batches:
                self.changed.wait()
            self.waited_for = False

    def give_up(self, reason):
        self.supervisor.give_up(reason)

    def begin_to_close(self):
        self.supervisor.begin_to_close()

    def close(self):
        self.supervisor.close()

    # -- the reader's thread, or the loop's --------------------------------------------------------

    def batch_done(self, Batch batch):
        """The worker has executed a batch, or it was lost."""
        cdef int64_t now_ns = ta_now_ns()
        self.mean_ns += (min(now_ns - self.began_ns, LONGEST_NS) - self.mean_ns) // MEAN_WEIGHT
        self.began_ns = now_ns
        batch.c.compute_end_ns = now_ns
        # What the worker says of it: the model's part ends with its first answer.
        if not batch.c.compute_input_end_ns <= batch.c.compute_output_start_ns <= now_ns:
            batch.c.compute_output_start_ns = now_ns
        self.completed(&batch.c)
        if self.waited_for:
            self.notify()

    def connect(self, Link link):
        """The worker takes batches now; None: there is none that does."""
        self.link = link
        self.unavailable = link is None
        self.notify()

    def notify(self):
        """Wakes who waits for a change."""
        with self.changed:
            self.changed.notify_all()

    # -- the limits of an execution, and of waiting for one ----------------------------------------

    def _watch_limits(self):
        cdef int64_t at_ns = max(self.began_ns, self.looked_ns) + SILENCE_NS
        if self.timer is None:
            if self.limit_ns:
                at_ns = min(at_ns, self.began_ns + self.limit_ns)
            self.timer = self.reader.call_at(at_ns, self._check_limits)

    def _check_limits(self):
        cdef int64_t now_ns = ta_now_ns()
        cdef Link link = self.link
        self.timer = None
        if link is None or not link.batches:
            return
        self.looked_ns = now_ns
        if self.limit_ns and now_ns - self.began_ns >= self.limit_ns:
            self.supervisor.kill(f"was killed because an execution took longer than {self.limit_ns / 1e9:g} s")
        elif now_ns - self.began_ns >= SILENCE_NS and not link.has_begun():
            self.supervisor.kill(f"was killed because it took no request for {SILENCE_NS / 1e9:g} s")
        elif now_ns - self.began_ns >= SILENCE_NS and self.supervisor.is_stopped():
            self.supervisor.kill("was killed because it was stopped")
        else:
            self._watch_limits()
