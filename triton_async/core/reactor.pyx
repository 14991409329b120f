"""The reactor: brings the events of instances, deadlines and due turns to the models they are for. Loop thread."""

import heapq
import logging

from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t
from posix.unistd cimport close

from triton_async.core.turn cimport Turn
from triton_async.core.wakeup cimport (
    ta_events_close,
    ta_events_collect,
    ta_events_leave,
    ta_events_may_sleep,
    ta_events_open,
    ta_events_push,
    ta_events_push_all,
    ta_events_stay_awake,
    ta_events_take,
    ta_events_wake,
    ta_timer_arm,
    ta_timer_clear,
    ta_timer_open,
)
from triton_async.epoll cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
)
from triton_async.infer.batch cimport Batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.event cimport TA_ERRAND, TA_EXECUTED, TA_RESPONSE, ta_message
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

from triton_async.defines import INLINE_STALL_NS, RETRY_TURN_S

log = logging.getLogger("triton_async.core")

# How long the models of one turn of the loop may execute before the sockets are looked at again.
cdef int64_t TURN_NS = INLINE_STALL_NS
# Chains of messages for which the loop is not woken, and for how long.
cdef int MOST_LEFT = 64
cdef int64_t LEFT_NS = 5_000_000
# How often the ring is emptied before the sockets are looked at again, and descriptors of engines that have their turn.
cdef int ROUNDS = 4

cdef enum:
    WATCHED_AT_ONCE = 32


cdef class Clock:
    cdef int64_t now_ns(self) noexcept:
        return ta_now_ns()


cdef class Wakeable:
    cdef int executed(self, Batch batch, int64_t now_ns) except -1:
        return 0

    cdef int responded(self, InferResponse response, int64_t now_ns) except -1:
        return 0

    cdef int released(self, InferRequest request, int64_t now_ns) except -1:
        return 0

    cdef int64_t turn(self, int64_t now_ns, int64_t until_ns) except -1:
        return now_ns


cdef class Sleeper:
    cdef int wake(self) noexcept:
        return 0


cdef class Errand:
    def __cinit__(self, *_):
        self.message.owner = <void *>self
        self.message.event = TA_ERRAND

    cdef int arrive(self, int64_t now_ns) except -1:
        return 0


cdef class Reactor:
    """Wakes models for what happened to them. `clock`: the machine's, when None."""

    def __cinit__(self):
        self.timer_fd = self.watch_fd = -1
        if ta_events_open(&self.events) < 0:
            PyErr_SetFromErrno(OSError)
        self.timer_fd = ta_timer_open()
        if self.timer_fd < 0:
            PyErr_SetFromErrno(OSError)
        self.watch_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.watch_fd < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        cdef ta_message *message = ta_events_collect(&self.events)
        cdef ta_message *next
        while message != NULL:
            next = message.next
            Py_DECREF(<object>message.owner)  # the reference that came up with it
            message = next
        ta_events_close(&self.events)
        # Not by the module `os`, which may be gone: the last reactor may go with the interpreter.
        if self.timer_fd >= 0:
            close(self.timer_fd)
        if self.watch_fd >= 0:
            close(self.watch_fd)

    def __init__(self, Clock clock=None):
        self.clock = Clock() if clock is None else clock
        self.deadlines = []
        self.waiting = []
        self.handlers = {}
        self.late = []
        self.turn_method = self._turn

    def attach(self, loop):
        """Call on the loop's thread before anything else."""
        self.loop = loop
        self.turn = Turn(loop)
        loop.add_reader(self.events.fd, self._on_events)
        loop.add_reader(self.timer_fd, self._on_timer)
        loop.add_reader(self.watch_fd, self._on_watched)

    def detach(self):
        """Call when no instance is left."""
        if self.loop is not None:
            for fd in (self.events.fd, self.timer_fd, self.watch_fd):
                self.loop.remove_reader(fd)
            self.loop = None
            self.turn.close()
            self.turn_method = None

    # -- events ------------------------------------------------------------------------------------

    cdef void post(self, ta_message *message) noexcept nogil:
        ta_events_push(&self.events, message)

    cdef void post_all(self, ta_message *oldest) noexcept nogil:
        ta_events_push_all(&self.events, oldest)

    cdef int leave(self, ta_message *oldest, int64_t now_ns) except -1:
        if self.n_left == 0:
            self.left_ns = now_ns
        self.n_left += 1
        if self.n_left >= MOST_LEFT or now_ns - self.left_ns > LEFT_NS:
            self.post_all(oldest)
        else:
            ta_events_leave(&self.events, oldest)
        return 0

    cdef int wake(self, object who) except -1:
        self.late.append(who)
        return 0 if self.draining else self._wake_late()

    cdef int _wake_late(self) except -1:
        cdef list late = self.late
        if late:
            self.late = []
            for who in late:
                if isinstance(who, Sleeper):
                    (<Sleeper>who).wake()
                else:
                    try:
                        who()
                    except Exception:
                        log.exception("a thread that waits for the loop could not be woken")
        return 0

    cdef void note_here(self, int64_t execution_ns) noexcept:
        self.n_here += 1
        if execution_ns > self.longest_here_ns:
            self.longest_here_ns = execution_ns

    def _on_events(self):
        cdef bint own = self.turn.begin()
        try:
            self.drain()
        finally:
            if own:
                self.turn.end()

    cdef int drain(self, bint woken=True) except -1:
        cdef int rounds = 0
        if self.draining:
            return 0
        self.draining = True
        try:
            ta_events_stay_awake(&self.events)
            self._handle_all(ta_events_take(&self.events) if woken else ta_events_collect(&self.events))
            while ta_events_may_sleep(&self.events):
                rounds += 1
                if rounds == ROUNDS:
                    ta_events_wake(&self.events)
                    break
                ta_events_stay_awake(&self.events)
                self._handle_all(ta_events_collect(&self.events))
        finally:
            self.draining = False
            self._wake_late()
        return 0

    cdef int _handle_all(self, ta_message *message) except -1:
        cdef ta_message *next
        cdef int64_t now_ns
        self.n_left = 0
        if message == NULL:
            return 0
        now_ns = self.clock.now_ns()
        while message != NULL:
            next = message.next
            try:
                self._handle(message, now_ns)
            except Exception:
                log.exception("an event of a model instance could not be handled")
            message = next
        return 0

    cdef int _handle(self, ta_message *message, int64_t now_ns) except -1:
        cdef object owner = <object>message.owner
        cdef InferRequest request
        Py_DECREF(owner)  # the reference that came up with it
        if message.event == TA_EXECUTED:
            return (<Wakeable>(<Batch>owner).runner).executed(<Batch>owner, now_ns)
        if message.event == TA_ERRAND:
            return (<Errand>owner).arrive(now_ns)
        request = <InferRequest>((<InferResponse>owner).request if message.event == TA_RESPONSE else owner)
        if request.model is None:
            log.error("an engine answered or released a request of model '%s' that it no longer had",
                      request.model_name)
            return 0
        if message.event == TA_RESPONSE:
            return (<Wakeable>request.model).responded(<InferResponse>owner, now_ns)
        return (<Wakeable>request.model).released(request, now_ns)

    # -- descriptors of engines --------------------------------------------------------------------

    def watch(self, int fd, handler):
        """See backends.base.Watcher. Any thread."""
        cdef epoll_event event
        if self.loop is None:
            return False
        event.events = EPOLLIN
        event.data.fd = fd
        self.handlers[fd] = handler
        if epoll_ctl(self.watch_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            del self.handlers[fd]
            PyErr_SetFromErrno(OSError)
        return True

    def forget(self, int fd):
        """See backends.base.Watcher. Any thread."""
        cdef epoll_event event
        if self.handlers.pop(fd, None) is not None:
            epoll_ctl(self.watch_fd, EPOLL_CTL_DEL, fd, &event)

    # What they bring is handled at once: their threads, this one, need not be woken for it.
    def _on_watched(self):
        cdef epoll_event[WATCHED_AT_ONCE] ready
        cdef int count, i
        cdef list due
        ta_events_stay_awake(&self.events)
        if len(self.handlers) == 1:
            due = list(self.handlers.values())  # nobody need be asked which
        else:
            count = epoll_wait(self.watch_fd, ready, WATCHED_AT_ONCE, 0)
            due = [self.handlers.get(ready[i].data.fd) for i in range(count)]
        own = self.turn.begin()
        try:
            for handler in due:
                if handler is not None:
                    try:
                        handler()
                    except Exception:
                        log.exception("what an engine's process sent could not be dealt with")
            self.drain(False)
        finally:
            if own:
                self.turn.end()

    # -- deadlines ---------------------------------------------------------------------------------

    cdef int arm(self, Wakeable wakeable, int64_t deadline_ns) except -1:
        wakeable.wake_ns = deadline_ns
        # A later entry, or none, is made when the one there is comes up.
        if deadline_ns == 0 or (wakeable.entry_ns != 0 and wakeable.entry_ns <= deadline_ns):
            return 0
        self.n_entries += 1
        heapq.heappush(self.deadlines, (deadline_ns, self.n_entries, wakeable))
        wakeable.entry_ns = deadline_ns
        return self._set_timer()

    cdef int _set_timer(self) except -1:
        cdef int64_t first_ns = self.deadlines[0][0] if self.deadlines else 0
        if first_ns == self.timer_ns:
            return 0
        if ta_timer_arm(self.timer_fd, first_ns) < 0:
            PyErr_SetFromErrno(OSError)
        self.timer_ns = first_ns
        return 0

    def _on_timer(self):
        cdef bint own = self.turn.begin()
        ta_timer_clear(self.timer_fd)
        self.timer_ns = 0
        try:
            self._expire(self.clock.now_ns())
        finally:
            if own:
                self.turn.end()

    cdef int _expire(self, int64_t now_ns) except -1:
        cdef Wakeable wakeable
        cdef int64_t entry_ns
        try:
            while self.deadlines and <int64_t>self.deadlines[0][0] <= now_ns:
                entry_ns, _, wakeable = heapq.heappop(self.deadlines)
                if wakeable.entry_ns != entry_ns:
                    continue
                wakeable.entry_ns = 0
                if wakeable.wake_ns > now_ns:
                    self.arm(wakeable, wakeable.wake_ns)
                elif wakeable.wake_ns:
                    wakeable.wake_ns = 0
                    self.call_turn(wakeable)
        finally:
            self._set_timer()
        return 0

    # -- turns -------------------------------------------------------------------------------------

    cdef int call_turn(self, Wakeable wakeable) except -1:
        if not wakeable.due:
            self.waiting.append(wakeable)
            wakeable.due = True
        if not self.scheduled:
            self.turn.call_late(self.turn_method)
            self.scheduled = True
        return 0

    cdef int call_turn_later(self, Wakeable wakeable) except -1:
        self.loop.call_later(RETRY_TURN_S, self._call_turn, wakeable)
        return 0

    def _call_turn(self, Wakeable wakeable):
        if self.loop is not None:
            self.call_turn(wakeable)

    def _turn(self):
        cdef int64_t now_ns = self.clock.now_ns()
        cdef int64_t until_ns = now_ns + TURN_NS
        cdef list waiting = self.waiting
        cdef Wakeable wakeable
        cdef Py_ssize_t i
        self.waiting = []
        self.scheduled = False
        for i in range(len(waiting)):
            if now_ns > until_ns:
                # The time of this turn is used up: sockets first, then those that had none of it.
                self.waiting = waiting[i:] + self.waiting
                if not self.scheduled:
                    self.turn.call_next(self.turn_method)
                    self.scheduled = True
                return
            wakeable = <Wakeable>waiting[i]
            wakeable.due = False
            try:
                now_ns = wakeable.turn(now_ns, until_ns)
            except Exception:
                log.exception("a model failed in its turn")
